package keyring

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/appliance/keyring/scrub"
)

// slotBytes is the size of a slot: a 256-bit key, or a part of a longer secret.
const slotBytes = 32

// slabSlots is how many slots are mapped at once: 64 KiB, so that locking it
// stays within what systemd and Debian allow an unprivileged process (8 MiB).
const slabSlots = 2048

// memory hands out small pieces of memory for secrets. The memory lies outside
// of Go's heap, so that the garbage collector never copies it; it is locked
// against swapping and left out of core dumps.
//
// A general library for protected memory gives each secret pages of its own
// with guard pages around, 12 KiB and more; here tens of thousands of 32-byte
// keys are unlocked at once.
type memory struct {
	mu   sync.Mutex
	free []*slot
}

// slot is memory for one secret, or a part of one. The garbage collector does not look at a
// pointer to it: it points out of the heap.
type slot = [slotBytes]byte

// alloc gives a zeroed slot.
func (m *memory) alloc() (*slot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.free) == 0 {
		slab, err := unix.Mmap(-1, 0, slabSlots*slotBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return nil, fmt.Errorf("map memory for keys: %w", err)
		}
		if err := unix.Mlock(slab); err != nil {
			_ = unix.Munmap(slab)
			return nil, fmt.Errorf("lock memory for keys: %w; raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= in the systemd unit)", err)
		}
		if err := unix.Madvise(slab, unix.MADV_DONTDUMP); err != nil {
			_ = unix.Munmap(slab)
			return nil, fmt.Errorf("keep keys out of core dumps: %w", err)
		}
		// A child process must not inherit the keys either.
		if err := unix.Madvise(slab, unix.MADV_DONTFORK); err != nil {
			_ = unix.Munmap(slab)
			return nil, fmt.Errorf("keep keys out of child processes: %w", err)
		}
		for i := 0; i < slabSlots; i++ {
			m.free = append(m.free, (*slot)(slab[i*slotBytes:]))
		}
	}
	s := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	return s, nil
}

// release zeroizes a slot and takes it back.
func (m *memory) release(s *slot) {
	clear(s[:])
	m.mu.Lock()
	m.free = append(m.free, s)
	m.mu.Unlock()
}

// guarded is a secret in locked memory that can be wiped while others use it.
type guarded struct {
	mem *memory

	mu    sync.RWMutex
	slots []*slot
	first [1]*slot // the memory of slots, if it has one alone, as keys have
	n     int      // bytes of the secret in slots
	wiped bool
	// also, unless it is nil, erases what was made of the secret. It takes no lock
	// under which the secret is used.
	also func()
}

// put copies the secret into locked memory and zeroizes the original.
func (m *memory) put(secret []byte) (*guarded, error) {
	g := &guarded{}
	if err := m.fill(g, secret); err != nil {
		return nil, err
	}
	return g, nil
}

// fill does that with a guarded that is a part of something.
func (m *memory) fill(g *guarded, secret []byte) error {
	g.mem, g.n, g.slots = m, len(secret), g.first[:0]
	for range (len(secret) + slotBytes - 1) / slotBytes {
		s, err := m.alloc()
		if err != nil {
			clear(secret)
			g.wipe()
			return err
		}
		g.slots = append(g.slots, s)
	}
	scrub.Do(func() {
		rest := secret
		for _, s := range g.slots {
			rest = rest[copy(s[:], rest):]
		}
		clear(secret)
	})
	return nil
}

// use calls f with the secret, inside of scrub.Do, and says whether it did: false once
// wiped. f must not keep the secret.
func (g *guarded) use(f func(secret []byte)) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.wiped {
		return false
	}
	scrub.Do(func() {
		if len(g.slots) == 1 {
			f(g.slots[0][:g.n])
			return
		}
		joined := make([]byte, 0, len(g.slots)*slotBytes)
		for _, s := range g.slots {
			joined = append(joined, s[:]...)
		}
		defer clear(joined)
		f(joined[:g.n])
	})
	return true
}

// wipe erases the secret, after the uses under way, and soon what they have left.
func (g *guarded) wipe() {
	g.erase()
	scrub.Soon()
}

// erase erases the secret, after the uses under way.
func (g *guarded) erase() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wiped {
		return
	}
	g.wiped = true
	for _, s := range g.slots {
		g.mem.release(s)
	}
	g.slots, g.first = nil, [1]*slot{}
	if g.also != nil {
		g.also()
	}
}
