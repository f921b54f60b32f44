package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// counter is an anchor in memory, which can be out of order.
type counter struct {
	mu    sync.Mutex
	count uint64 // 0: it was never made
	fails bool
}

func (c *counter) Name() string { return "test:1" }

func (c *counter) Count(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		return 0, fault.Errorf(fault.NotFound, "there is no counter")
	}
	return c.count, nil
}

func (c *counter) Raise(_ context.Context, to uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails || to < c.count {
		return errors.New("the counter does not count")
	}
	c.count = to
	return nil
}

func (c *counter) Make(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count = 7
	return c.count, nil
}

func (c *counter) fail(fails bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails = fails
}

// anchored is an appliance with an anchor, which is started and stopped again and again.
type anchored struct {
	*testing.T
	*appliancetest.Bed
	dir     string
	token   appliancetest.Device
	counter *counter
}

func newAnchored(t *testing.T) *anchored {
	a := &anchored{T: t, dir: t.TempDir(), token: appliancetest.NewMemory(), counter: &counter{}}
	a.start("")
	return a
}

// start starts it; its state must be held with this code.
func (a *anchored) start(held fault.Code) {
	a.Helper()
	a.Bed = appliancetest.Start(a.T, appliancetest.Options{Token: a.token, Dir: a.dir, MayHold: true,
		Appliance: appliance.Options{Anchor: func() appliance.Anchor { return a.counter }}})
	if got := fault.CodeOf(a.Bed.Held); got != held {
		a.Fatalf("the state is held with %q, want %q: %v", got, held, a.Bed.Held)
	}
}

// add makes a key store, a change that is anchored unless the counter fails.
func (a *anchored) add(name string) {
	a.Helper()
	if _, err := a.Appliance.CreateKeyStore(a.Context(), appliance.KeyStore{Name: name, URIPathPrefix: "/" + name}); err != nil {
		a.Fatal(err)
	}
}

// copy is the database's file and its write-ahead log.
type copy struct{ db, wal []byte }

// copy gives the database as it is. Nothing is changed meanwhile.
func (a *anchored) copy() (c copy) {
	a.Helper()
	var err error
	if c.db, err = os.ReadFile(a.DB); err != nil {
		a.Fatal(err)
	}
	if c.wal, err = os.ReadFile(a.DB + "-wal"); err != nil {
		a.Fatal(err)
	}
	return c
}

// putBack stops the appliance and puts a copy back.
func (a *anchored) putBack(c copy) {
	a.Helper()
	a.Stop()
	if err := errors.Join(os.WriteFile(a.DB, c.db, 0o600), os.WriteFile(a.DB+"-wal", c.wal, 0o600)); err != nil {
		a.Fatal(err)
	}
}

// TestAnEarlierBranch: a copy with a change that was not anchored does not come back after
// another change was, though both had the next count of the same anchor.
func TestAnEarlierBranch(t *testing.T) {
	a := newAnchored(t)
	before := a.copy()
	a.counter.fail(true)
	a.add("branch")
	branch := a.copy()
	a.putBack(before)
	a.counter.fail(false)
	a.start("") // nothing that was anchored is missing
	a.add("trunk")
	a.putBack(branch)
	a.start(fault.StateRolledBack)
}

// TestAnOpeningIsAnchored: while the anchor fails a start does not serve. Once it is back,
// a copy of before is told from what came after.
func TestAnOpeningIsAnchored(t *testing.T) {
	a := newAnchored(t)
	a.counter.fail(true)
	a.add("first")
	first := a.copy()
	a.Stop()
	a.start(fault.StateAnchor)
	a.Stop()
	a.counter.fail(false)
	a.start("")
	a.add("second")
	last := a.copy()
	a.putBack(first)
	a.start(fault.StateRolledBack)
	a.putBack(last)
	a.start("")
}

// TestTheAnchorComesBack: changes while the anchor fails share a count; once it is back,
// the next change is told from all of them.
func TestTheAnchorComesBack(t *testing.T) {
	a := newAnchored(t)
	a.counter.fail(true)
	a.add("first")
	shared := a.copy()
	a.counter.fail(false)
	a.add("second")
	if s, err := a.Appliance.VerifyState(t.Context()); err != nil || s.NotAnchored != "" {
		t.Errorf("%v, not anchored: %s", err, s.NotAnchored)
	}
	a.putBack(shared)
	a.start(fault.StateRolledBack)
	if _, err := a.Appliance.AcceptState(t.Context(), "a test", "it is meant"); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	a.start("")
}

// TestAcceptedOfBefore: a database of before manifests, on a machine whose anchor has
// counted, is held. Once people have accepted it, it is of now, and the next start serves.
func TestAcceptedOfBefore(t *testing.T) {
	for name, edits := range map[string]string{
		"state-key":    `UPDATE installation SET block_seal = NULL WHERE block_since IS NULL; DELETE FROM settings`,
		"state-key/v2": "",
	} {
		t.Run(name, func(t *testing.T) {
			a := newAnchored(t)
			a.add("one")
			in := must(a.Store.Installation(t.Context()))(t)
			raw := must(a.Token.Unwrap(t.Context(), in.WrappedStateKey, appliance.Binding{Purpose: "state-key/v3", Fields: []string{in.ID}}.AAD()))(t)
			before := must(a.Token.Wrap(t.Context(), raw, appliance.Binding{Purpose: name, Fields: []string{in.ID}}.AAD()))(t)
			a.Stop()
			edit(t, a.DB, fmt.Sprintf(`DELETE FROM manifests; UPDATE installation SET wrapped_state_key = x'%x'; %s`, before, edits))
			a.start(fault.StateRolledBack)
			if _, err := a.Appliance.AcceptState(t.Context(), "somebody", "it is an upgrade"); err != nil {
				t.Fatal(err)
			}
			a.add("two")
			a.Stop()
			a.start("")
			a.add("three")
		})
	}
}
