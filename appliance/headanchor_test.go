package appliance_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// headKeeper is an anchor of heads in memory. It keeps what it is told when it is asked to, as
// the audit log does with its next checkpoint.
type headKeeper struct {
	mu         sync.Mutex
	seen, told appliance.SeenHead
	err        error
}

func (k *headKeeper) Name() string { return "test log" }

func (k *headKeeper) Seen(context.Context) (appliance.SeenHead, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil && k.seen.Head.Sequence == 0 {
		return k.seen, fault.Errorf(fault.NotFound, "it was told none")
	}
	return k.seen, k.err
}

func (k *headKeeper) Tell(h appliance.Head) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = appliance.SeenHead{Head: h, Since: time.Now()}
}

// keep keeps what it was told; forget forgets it, as a crash does.
func (k *headKeeper) keep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = k.told
}

func (k *headKeeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = k.seen
}

// watched is an appliance without a counter, whose heads are kept.
type watched struct {
	*anchored
	heads *headKeeper
}

func newWatched(t *testing.T) *watched {
	w := &watched{&anchored{T: t, dir: t.TempDir(), token: appliancetest.NewMemory()}, &headKeeper{}}
	w.start("")
	return w
}

func (w *watched) options() appliancetest.Options {
	return appliancetest.Options{Token: w.token, Dir: w.dir, MayHold: true, Appliance: appliance.Options{HeadAnchors: []appliance.HeadAnchor{w.heads}}}
}

func (w *watched) start(held fault.Code) {
	w.Helper()
	w.Bed = appliancetest.Start(w.T, w.options())
	if got := fault.CodeOf(w.Bed.Held); got != held {
		w.Fatalf("the state is held with %q, want %q: %v", got, held, w.Bed.Held)
	}
}

// says holds the reason against parts of it.
func (w *watched) says(parts ...string) {
	w.Helper()
	for _, part := range parts {
		if !strings.Contains(w.Held.Error(), part) {
			w.Errorf("it does not say %q: %v", part, w.Held)
		}
	}
}

// TestHeadOfThePast: without a counter, a database that was put back alone is held, with what
// is older than what. Once people accept it, it comes after what the anchor knew, and is never
// held again, also if the anchor is told nothing before a crash.
func TestHeadOfThePast(t *testing.T) {
	w := newWatched(t)
	w.add("first")
	before := w.copy()
	w.add("second")
	w.heads.keep()
	knew := w.heads.seen.Head
	w.putBack(before)
	w.start(fault.StateRolledBack)
	w.says("the test log has known the number ", knew.At.Format(time.RFC3339), "an earlier copy of the database was put back")
	if _, err := w.Appliance.AcceptState(t.Context(), "a test", "it is meant"); err != nil {
		t.Fatal(err)
	}
	if h := w.heads.told.Head; h.Sequence <= knew.Sequence {
		t.Errorf("%+v comes after %+v", h, knew)
	}
	w.Stop()
	w.heads.forget()
	w.start("")
	w.heads.keep()
	w.add("third")
	accepted := w.copy()
	w.add("fourth")
	w.heads.keep()
	w.putBack(accepted)
	w.start(fault.StateRolledBack)
}

// TestHeadOfABranch: a copy that was changed apart is held, whatever its number is: lower,
// equal or higher; and also if it has the links of the other one, or none.
func TestHeadOfABranch(t *testing.T) {
	for number, more := range map[string]int{"lower": 1, "equal": 2, "higher": 5} {
		for links, edit := range map[string]string{
			"its own links":       ``,
			"the other's links":   `DELETE FROM manifest_history; INSERT INTO manifest_history SELECT * FROM other.manifest_history`,
			"the links of both":   `INSERT OR IGNORE INTO manifest_history SELECT * FROM other.manifest_history`,
			"no links":            `DELETE FROM manifest_history`,
			"the other's in part": `INSERT OR REPLACE INTO manifest_history SELECT * FROM other.manifest_history`,
		} {
			t.Run(number+", "+links, func(t *testing.T) {
				w := newWatched(t)
				before := w.copy()
				for i := range more {
					w.add(string(rune('a' + i)))
				}
				branch := w.copy()
				w.putBack(before)
				w.heads.forget()
				w.start("")
				w.add("told")
				w.heads.keep()
				w.Stop()
				other := filepath.Join(copied(t, w.DB), "holdfast.db")
				w.putBack(branch)
				db := must(sql.Open("sqlite", w.DB))(t)
				defer db.Close()
				db.SetMaxOpenConns(1)
				must(db.ExecContext(t.Context(), `ATTACH ? AS other`, other))(t)
				must(db.ExecContext(t.Context(), edit))(t)
				must(db.ExecContext(t.Context(), `DETACH other`))(t)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				w.start(fault.StateRolledBack)
			})
		}
	}
}

// TestHeadsOfCrashes: what was committed and not told, and what was told and not kept, is no
// older state.
func TestHeadsOfCrashes(t *testing.T) {
	w := newWatched(t)
	for _, name := range []string{"a", "b", "c"} {
		w.add(name)
		w.Stop()
		w.heads.forget()
		w.start("")
		w.add(name + "2")
		w.heads.keep()
		w.Stop()
		w.start("")
	}
}

// TestHeadBesideNone: an empty database, and one of before there were manifests, are not
// begun with beside an anchor that was told a head.
func TestHeadBesideNone(t *testing.T) {
	w := newWatched(t)
	w.heads.keep()
	knew := w.heads.seen.Head
	w.Stop()
	if err := errors.Join(os.Remove(w.DB), os.RemoveAll(w.DB+"-wal"), os.RemoveAll(w.DB+"-shm")); err != nil {
		t.Fatal(err)
	}
	w.token = appliancetest.NewMemory() // which has no trace
	w.start(fault.StateRolledBack)
	w.says("the database has none")
	w.Stop()

	w.token = appliancetest.NewMemory()
	o := w.options()
	o.Dir, o.Beside = t.TempDir(), true
	o.Appliance.Traces = []func(context.Context) (string, error){func(context.Context) (string, error) { return "a trace", nil }}
	w.Bed = appliancetest.Start(t, o)
	if w.Bed.Held != nil || w.heads.told.Head.Sequence <= knew.Sequence {
		t.Errorf("held: %v; it was told %+v", w.Bed.Held, w.heads.told)
	}
	w.Stop()
	w.heads.forget() // no checkpoint was signed
	w.Bed = appliancetest.Start(t, o)
	if w.Bed.Held != nil {
		t.Error(w.Bed.Held)
	}
}

// TestHeadOfARestore: a restore comes after what the anchor knew.
func TestHeadOfARestore(t *testing.T) {
	w := newWatched(t)
	w.add("first")
	var backup bytes.Buffer
	if err := backupTo(w.Appliance, &backup, ""); err != nil {
		t.Fatal(err)
	}
	w.add("second")
	w.heads.keep()
	w.Stop()
	o := w.options()
	o.Dir, o.Locked = t.TempDir(), fault.StateMissing
	w.Bed = appliancetest.Start(t, o)
	if _, err := w.Appliance.Restore(t.Context(), &backup, appliance.Restoration{Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	w.heads.forget()
	o.Locked = ""
	w.Bed = appliancetest.Start(t, o)
	if w.Bed.Held != nil {
		t.Error(w.Bed.Held)
	}
}

// TestHeadThatIsNotRead: an anchor that fails keeps the state from being served.
func TestHeadThatIsNotRead(t *testing.T) {
	w := newWatched(t)
	w.heads.keep()
	w.Stop()
	w.heads.err = fault.Errorf(fault.AuditIO, "the disk is gone")
	o := w.options()
	o.Locked = fault.AuditIO
	appliancetest.Start(t, o).Stop()
	w.heads.err = nil
	w.start("")
}

// TestHeadWithoutACounter: a state that names a counter is not served where there is none,
// though another anchor agrees.
func TestHeadWithoutACounter(t *testing.T) {
	w := newWatched(t)
	w.Stop()
	w.counter = &counter{}
	o := w.options()
	o.Appliance.Anchor = func() appliance.Anchor { return w.counter }
	w.Bed = appliancetest.Start(t, o)
	w.heads.keep()
	w.Stop()
	w.start(fault.StateAnchor)
}

// TestHeadThatIsAway: an anchor that may be away holds up nothing, and the status tells.
func TestHeadThatIsAway(t *testing.T) {
	w := newWatched(t)
	w.heads.keep()
	w.Stop()
	w.heads.err = fault.Errorf(fault.AnchorAway, "nobody answers")
	w.start("")
	s := must(w.Appliance.VerifyState(t.Context()))(t)
	if len(s.Anchors) != 1 || s.Anchors[0].Agrees || !strings.Contains(s.Anchors[0].Why, "nobody answers") {
		t.Errorf("%+v", s.Anchors)
	}
}
