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
}

func newKeyCache(size int) *keyCache {
	c := &keyCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		lru, err := simplelru.NewLRU(max(1, size/cacheShards), func(_ keyName, k *liveKey) { k.wipe() })
		if err != nil {
			panic(err) // the size is positive
		}
		c.shards[i].lru = lru
	}
	return c
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
	s.lru.Add(n, k)
	return k, true
}

func (c *keyCache) drop(n keyName) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.lru.Remove(n)
}

func (c *keyCache) dropStore(keyStore string) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		for _, n := range s.lru.Keys() {
			if n.keyStore == keyStore {
				s.lru.Remove(n)
			}
		}
		s.mu.Unlock()
	}
}

func (c *keyCache) purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		s.lru.Purge()
		s.mu.Unlock()
	}
}
