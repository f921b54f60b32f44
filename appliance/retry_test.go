package appliance_test

import (
	"context"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
)

// countingStore counts the reads and writes of rows that a block is in. The first
// races updates fail, as another operation was faster.
type countingStore struct {
	appliance.Store
	reads, writes, races int
}

func (s *countingStore) Key(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error) {
	s.reads++
	return s.Store.Key(ctx, keyStore, id)
}

func (s *countingStore) Installation(ctx context.Context) (*appliance.Installation, error) {
	s.reads++
	return s.Store.Installation(ctx)
}

func (s *countingStore) race() error {
	if s.writes++; s.writes <= s.races {
		return fault.Errorf(fault.Changed, "another operation was faster")
	}
	return nil
}

func (s *countingStore) UpdateKey(ctx context.Context, k *appliance.ExternalKey, was []byte) error {
	if err := s.race(); err != nil {
		return err
	}
	return s.Store.UpdateKey(ctx, k, was)
}

func (s *countingStore) UpdateKeyStore(ctx context.Context, ks *appliance.KeyStore, was []byte) error {
	if err := s.race(); err != nil {
		return err
	}
	return s.Store.UpdateKeyStore(ctx, ks, was)
}

func (s *countingStore) reset(races int) { s.reads, s.writes, s.races = 0, 0, races }

// TestWrongStateIsTriedOnce: what the state of a thing forbids is refused at once, for
// it would be refused again. What another operation was faster with is tried again.
func TestWrongStateIsTriedOnce(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", "")
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	s := &countingStore{Store: b.Store}
	a := appliance.New(appliance.Options{Store: s})
	if err := a.Unlock(ctx, keyring.New(b.Token), nil); err != nil {
		t.Fatal(err)
	}
	key, store, all := appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}, appliance.BlockTarget{KeyStore: "demo"}, appliance.BlockTarget{Everything: true}
	for name, tt := range map[string]struct {
		do    func() error
		reads int
	}{
		"unblock a key":           {func() error { return a.Unblock(ctx, key) }, 1},
		"unblock a key store":     {func() error { return a.Unblock(ctx, store) }, 0}, // it is in memory
		"unblock everything":      {func() error { return a.Unblock(ctx, all) }, 1},
		"cancel no deletion":      {func() error { _, err := a.CancelDeletion(ctx, "demo", "k"); return err }, 1},
		"delete a store with key": {func() error { return a.DeleteKeyStore(ctx, "demo") }, 0},
	} {
		s.reset(0)
		err := tt.do()
		wantCode(t, err, fault.Conflict)
		if fault.ClassOf(err) != fault.WrongState || s.reads != tt.reads || s.writes != 0 {
			t.Errorf("%s: class %q, %d reads, want %d, and %d writes", name, fault.ClassOf(err), s.reads, tt.reads, s.writes)
		}
	}
	for name, do := range map[string]func() error{
		"block a key":       func() error { _, err := a.Block(ctx, key, "a test", "alice"); return err },
		"block a key store": func() error { _, err := a.Block(ctx, store, "a test", "alice"); return err },
		"disable a key":     func() error { _, err := a.SetKeyEnabled(ctx, "demo", "k", false); return err },
		"set a quota":       func() error { _, err := a.SetQuota(ctx, "demo", 7); return err },
		"schedule deletion": func() error { _, err := a.ScheduleDeletion(ctx, "demo", "k", 7); return err },
	} {
		s.reset(3)
		if err := do(); err != nil || s.writes != 4 {
			t.Errorf("%s after three that were faster: %v, %d writes", name, err, s.writes)
		}
		if name == "schedule deletion" {
			if _, err := a.CancelDeletion(ctx, "demo", "k"); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.reset(1000) // not for ever
	_, err := a.SetQuota(ctx, "demo", 8)
	wantCode(t, err, fault.Changed)
	if fault.ClassOf(err) != fault.ClassStale || s.writes != 10 {
		t.Errorf("class %q after %d writes", fault.ClassOf(err), s.writes)
	}
}
