package appliance_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// pausing is a store whose database pauses: it hangs, or is away.
type pausing struct {
	appliance.Store

	mu     sync.Mutex
	hangs  bool
	away   bool
	blocks []uint64
	asked  int // while it paused
}

func (s *pausing) ReserveEncryptions(ctx context.Context, keyStore, id string, version uint32, n uint64) (uint64, error) {
	s.mu.Lock()
	hangs, away := s.hangs, s.away
	if hangs || away {
		s.asked++
	}
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
	}
	if hangs || away {
		return 0, fault.Errorf(fault.DatabaseAway, "the database does not answer")
	}
	total, err := s.Store.ReserveEncryptions(ctx, keyStore, id, version, n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks = append(s.blocks, n)
	return total, err
}

func (s *pausing) pause(hangs, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs, s.away = hangs, away
}

func (s *pausing) reserved() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.blocks)
}

// awaits waits until so many blocks are reserved.
func (s *pausing) awaits(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(s.reserved()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v blocks are reserved, not %d", s.reserved(), n)
		}
	}
}

// askedOnce gives how often it was asked while it paused, once it was; that is done in the
// background.
func (s *pausing) askedOnce(t *testing.T) (asked int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); asked == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		asked = s.asked
		s.mu.Unlock()
	}
	return asked
}

func pausingBed(t *testing.T, o appliance.Options) (*pausing, *appliancetest.Client) {
	t.Helper()
	s := &pausing{}
	b := appliancetest.Start(t, appliancetest.Options{Appliance: o, Store: func(rows appliance.Store) appliance.Store {
		s.Store = rows
		return s
	}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	return s, k
}

// TestEncryptionsAreReservedAhead: while the database hangs or is away, what is reserved is
// served and no request waits; once there is none left, they are refused, and served again as soon
// as it answers.
func TestEncryptionsAreReservedAhead(t *testing.T) {
	for _, hangs := range []bool{true, false} {
		s, k := pausingBed(t, appliance.Options{})
		for range 33 {
			k.OK(appliancetest.Encrypt("k", "x"))
		}
		s.awaits(t, 2)
		s.pause(hangs, !hangs)
		ran := appliancetest.Running(t)
		for range 64 + 512 - 33 {
			k.OK(appliancetest.Encrypt("k", "x"))
		}
		if d := ran(); d > 5*time.Second {
			t.Errorf("requests took %s", d)
		}
		if hangs {
			if asked := s.askedOnce(t); asked != 1 {
				t.Errorf("a database that hangs was asked %d times", asked)
			}
		} else if _, err := k.Call(appliancetest.Encrypt("k", "x")); fault.CodeOf(err) != fault.DatabaseAway {
			t.Errorf("with none left: %v", err)
		}
		s.pause(false, false)
		if !hangs {
			k.OK(appliancetest.Encrypt("k", "x"))
		}
	}
}

// TestBlocksGrowWithDemand: each block is larger than the one before; that of a busy key lasts
// for minutes at its rate, and no block is above the bound.
func TestBlocksGrowWithDemand(t *testing.T) {
	s, k := pausingBed(t, appliance.Options{})
	for len(s.reserved()) < 6 {
		k.OK(appliancetest.Encrypt("k", "x"))
	}
	blocks := s.reserved()
	if !slices.Equal(blocks[:5], []uint64{64, 512, 4096, 32768, 65536}) || blocks[5] <= 65536 || blocks[5] > 1<<19 {
		t.Errorf("%v", blocks)
	}
}

// TestRotationComesByTheTotal: no block is reserved ahead beyond the count at which the key
// rotates, which is that of all nodes.
func TestRotationComesByTheTotal(t *testing.T) {
	s, k := pausingBed(t, appliance.Options{RotateAfter: 100})
	for range 33 {
		k.OK(appliancetest.Encrypt("k", "x"))
	}
	s.awaits(t, 2)
	for range 67 {
		if c := k.OK(appliancetest.Encrypt("k", "x")).Ciphertext; c.Metadata[len(c.Metadata)-1] != 1 {
			t.Fatalf("rotated early: %x", c.Metadata)
		}
	}
	if blocks := s.reserved(); !slices.Equal(blocks, []uint64{64, 36}) {
		t.Errorf("%v", blocks)
	}
	if c := k.OK(appliancetest.Encrypt("k", "x")).Ciphertext; c.Metadata[len(c.Metadata)-1] != 2 {
		t.Errorf("not rotated: %x", c.Metadata)
	}
}

// TestEvictedKeysGoOnWithWhatTheyReserved: where more keys are in use than are kept in memory, a
// key that comes back reserves nothing while it has encryptions left, and never does more of them
// than are in the stored count. After a change of the key nothing of before is used.
func TestEvictedKeysGoOnWithWhatTheyReserved(t *testing.T) {
	s := &pausing{}
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{MaxUnlockedKeys: 16}, Store: func(rows appliance.Store) appliance.Store {
		s.Store = rows
		return s
	}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	const keys, rounds = 60, 40
	name := func(i int) string { return fmt.Sprintf("k%d", i) }
	for i := range keys {
		b.NewKey(t, "demo", name(i), "encrypt,decrypt", appliance.CustodyCached)
	}
	use := func(rounds int) {
		for range rounds {
			for i := range keys {
				k.OK(appliancetest.Encrypt(name(i), "x"))
			}
		}
	}
	use(rounds)
	in := b.Appliance.KeysInMemory()
	if in.Now > 16 || in.Most != 16 || in.Evicted < keys*rounds/2 {
		t.Errorf("%d keys in turns, %d times, with room for 16: %+v", keys, rounds, in)
	}
	if n := len(s.reserved()); n > 2*keys { // the first block, and the second one ahead
		t.Errorf("%d keys were used %d times each, of 64 encryptions of a block, and %d blocks were reserved", keys, rounds, n)
	}
	// A change in between: the key starts with a block of its own.
	before := len(s.reserved())
	for _, enabled := range []bool{false, true} {
		if _, err := b.Appliance.SetKeyEnabled(t.Context(), "demo", name(0), enabled); err != nil {
			t.Fatal(err)
		}
	}
	k.OK(appliancetest.Encrypt(name(0), "x"))
	if n := len(s.reserved()); n != before+1 {
		t.Errorf("%d blocks were reserved for a key that was changed, not 1", n-before)
	}
	use(100)
	for i := range keys {
		key, err := b.Appliance.ShowKey(t.Context(), "demo", name(i))
		if err != nil {
			t.Fatal(err)
		}
		if n := key.Versions[0].Encryptions; n < rounds+100 || n > 64+512+64+4096 {
			t.Errorf("%s: %d encryptions are in the count of a key that did %d", name(i), n, rounds+100)
		}
	}
}
