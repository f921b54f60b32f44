package appliance

import (
	"hash/maphash"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

type keyName struct{ keyStore, id string }

const cacheShards = 16

// keyCache keeps the keys used lately. It has shards, so that requests for
// different keys do not wait for each other.
type keyCache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu sync.Mutex
	// generation counts what was dropped: a key read from the store before that
	// must not be added after it.
	generation uint64
	lru        *simplelru.LRU[keyName, *liveKey]
	size       int
	evicted    uint64
	parked     parkedReserves
}

// newKeyCache makes one for so many keys.
func newKeyCache(size int) *keyCache {
	c := &keyCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.size = max(1, size/cacheShards)
		lru, err := simplelru.NewLRU[keyName, *liveKey](s.size, nil)
		if err != nil {
			panic(err) // the size is positive
		}
		s.lru, s.parked = lru, newParkedReserves(max(parkedAtLeast/cacheShards, s.size))
	}
	return c
}

// KeysInMemory are the keys that are kept ready for use.
type KeysInMemory struct {
	Now, Most int
	// Evicted counts since the start those that had to leave for others to come. Each is read and
	// unlocked again when it is used next.
	Evicted uint64
}

// count counts the keys.
func (c *keyCache) count() (n KeysInMemory) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n.Now, n.Most, n.Evicted = n.Now+s.lru.Len(), n.Most+s.size, n.Evicted+s.evicted
		s.mu.Unlock()
	}
	return n
}

func (c *keyCache) shard(n keyName) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, n)%cacheShards]
}

// get gives the key, or nil and the generation to add it with.
func (c *keyCache) get(n keyName) (*liveKey, uint64) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, _ := s.lru.Get(n)
	return k, s.generation
}

// add gives the key that is in the cache afterwards: k, or one that was added
// meanwhile. It refuses if something was dropped since the generation.
func (c *keyCache) add(n keyName, generation uint64, k *liveKey) (*liveKey, bool) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != generation {
		return nil, false
	}
	if old, ok := s.lru.Get(n); ok {
		return old, true
	}
	if s.lru.Len() == s.size {
		of, oldest, _ := s.lru.RemoveOldest()
		s.parked.park(of, oldest)
		oldest.evict()
		s.evicted++
	}
	s.parked.unpark(n, k)
	s.lru.Add(n, k)
	return k, true
}

func (c *keyCache) drop(n keyName) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.parked.take(n)
	s.remove(n)
}

// remove takes a key out, and wipes it. The caller holds s.mu.
func (s *cacheShard) remove(n keyName) {
	if k, ok := s.lru.Peek(n); ok {
		s.lru.Remove(n)
		k.wipe()
	}
}

func (c *keyCache) dropStore(keyStore string) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		for _, n := range s.lru.Keys() {
			if n.keyStore == keyStore {
				s.remove(n)
			}
		}
		s.parked.clear()
		s.mu.Unlock()
	}
}

func (c *keyCache) purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		for _, n := range s.lru.Keys() {
			s.remove(n)
		}
		s.parked.clear()
		s.mu.Unlock()
	}
}
