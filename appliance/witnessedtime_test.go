package appliance_test

import (
	"database/sql"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/witness"
)

// timed is an appliance whose clocks are set by the test, over a folder that outlives
// restarts.
type timed struct {
	*testing.T
	*appliance.Appliance
	dir     string
	device  *appliancetest.Memory
	anchor  *counter
	wall    time.Time
	elapsed time.Duration
	witness *witness.Clock
	store   *sqlite.DB
	stop    func()
}

func newTimed(t *testing.T) *timed {
	s := &timed{T: t, dir: t.TempDir(), device: appliancetest.NewMemory(), anchor: &counter{}, wall: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
	s.start()
	t.Cleanup(func() { s.stop() })
	must(s.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo"}))(t)
	must(s.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "k", Custody: appliance.CustodyCached, Usage: appliance.Usage{Encrypt: true, Decrypt: true}}))(t)
	return s
}

// open starts a process, and gives the error of its unlock.
func (s *timed) open() error {
	s.Helper()
	store, err := sqlite.Open(ctx, filepath.Join(s.dir, "holdfast.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.Fatal(err)
	}
	s.elapsed = 0
	s.store = store
	s.witness = witness.New(s.now, witness.Source{Name: "running", Elapsed: func() (time.Duration, error) { return s.elapsed, nil }})
	s.Appliance = appliance.New(appliance.Options{Store: store, Now: s.now, Witness: s.witness, WitnessedTime: store.Machine(), Lease: 100000 * time.Hour, Anchor: func() appliance.Anchor { return s.anchor }})
	token := must(s.device.Open(ctx, appliancetest.Opening{Log: slog.New(slog.DiscardHandler), MakingMasterKey: func() error { return s.NoteMasterKey(ctx) }}))(s.T)
	s.stop = func() {
		s.Lock()
		_, _ = token.Close(), store.Close()
	}
	return s.Unlock(ctx, keyring.New(token), nil)
}

func (s *timed) start() {
	s.Helper()
	if err := s.open(); err != nil {
		s.Fatal(err)
	}
}

func (s *timed) restart() {
	s.Helper()
	s.stop()
	s.start()
}

func (s *timed) now() time.Time { return s.wall }

// pass has time pass while the appliance runs.
func (s *timed) pass(d time.Duration) {
	for ; d > 0; d -= time.Hour {
		s.wall, s.elapsed = s.wall.Add(time.Hour), s.elapsed+time.Hour
		s.witness.Look()
		s.DeleteDueKeys(ctx)
	}
	s.KeepWitnessedTime(ctx)
}

func (s *timed) there(what string) *appliance.StoredKey {
	s.Helper()
	k, err := s.ShowKey(ctx, "demo", "k")
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	return k
}

func (s *timed) gone(what string) {
	s.Helper()
	if _, err := s.ShowKey(ctx, "demo", "k"); fault.CodeOf(err) != fault.NotFound {
		s.Fatalf("%s: %v", what, err)
	}
}

// TestDeletionIsWitnessed: a wall clock that jumps, for a moment, for hours or for days,
// destroys no key, and the key says why it waits. One whose time has come by the time that
// has passed as well is destroyed then.
func TestDeletionIsWitnessed(t *testing.T) {
	s := newTimed(t)
	must(s.ScheduleDeletion(ctx, "demo", "k", 30))(t)
	const jump = 365 * day
	for _, lasts := range []time.Duration{0, time.Hour, 22 * time.Hour, 5 * day} {
		s.wall = s.wall.Add(jump)
		s.pass(lasts)
		s.DeleteDueKeys(ctx)
		k := s.there("while the clock is wrong for " + lasts.String())
		if list := must(s.Keys(ctx, "demo", appliance.Page{Limit: 10}, ""))(t); k.DeletionWaits == "" || !strings.Contains(k.DeletionWaits, "ahead of the time that has passed") || list[0].DeletionWaits != k.DeletionWaits {
			t.Errorf("it says %q; in the list %q", k.DeletionWaits, list[0].DeletionWaits)
		}
		if c := s.Status(ctx).Clock; !strings.Contains(c.Waits, "ahead") || c.BehindSeconds < int(300*day/time.Second) {
			t.Errorf("the status says %+v", c)
		}
		s.wall = s.wall.Add(-jump)
		s.pass(time.Hour)
		if k := s.there("when it is right again"); k.DeletionWaits != "" {
			t.Errorf("when it is right again: %q", k.DeletionWaits)
		}
	}
	s.pass(6 * day) // in which the two agree again
	if c := s.Status(ctx).Clock; c.Waits != "" {
		t.Errorf("the status says %+v", c)
	}
	s.pass(17*day + 20*time.Hour) // 29 days and 23 hours in all
	s.there("an hour before it is due")
	s.pass(time.Hour)
	s.gone("when it is due")
}

// TestJumpThatStays: a clock that is ahead for good destroys a key after half of its
// waiting period, and never before, also over restarts.
func TestJumpThatStays(t *testing.T) {
	s := newTimed(t)
	must(s.ScheduleDeletion(ctx, "demo", "k", 30))(t)
	s.wall = s.wall.Add(400 * day)
	for range 14 {
		s.pass(day)
		s.restart()
	}
	s.there("after 14 days")
	s.pass(day)
	s.gone("after 15 days")
}

// TestWitnessIsKept: a restart neither loses what was waited for, nor lets a jump pass
// that came while the machine was off. Time in which it was off is made up for.
func TestWitnessIsKept(t *testing.T) {
	s := newTimed(t)
	must(s.ScheduleDeletion(ctx, "demo", "k", 30))(t)
	s.pass(20 * day)
	before := must(s.anchor.Count(ctx))(t)
	s.pass(5 * day)
	if now := must(s.anchor.Count(ctx))(t); now != before {
		t.Errorf("keeping the time has raised the anchor by %d", now-before)
	}
	for range 20 { // restarts after less than a day
		s.restart()
		s.pass(5 * time.Hour)
	}
	s.there("after 29 days and 4 hours")
	s.stop()
	s.wall = s.wall.Add(31 * day)
	s.start()
	s.DeleteDueKeys(ctx)
	s.there("after a jump, or a month off")
	s.pass(8 * time.Hour)
	s.there("8 hours later")
	s.pass(2 * time.Hour)
	s.gone("10 hours later")
}

// TestWaitBeginsAtTheLaterTime: a key that is scheduled while the clock was set back, or
// right after it was ahead for long, waits as long as any.
func TestWaitBeginsAtTheLaterTime(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"set back": -365 * day, "ahead before": 365 * day} {
		t.Run(name, func(t *testing.T) {
			s := newTimed(t)
			s.wall = s.wall.Add(wrong)
			if wrong > 0 { // until it is followed
				s.pass(366 * day)
				s.wall = s.wall.Add(-wrong)
			}
			must(s.ScheduleDeletion(ctx, "demo", "k", 30))(t)
			if wrong < 0 {
				s.wall = s.wall.Add(-wrong)
			}
			for _, jump := range []time.Duration{0, 31 * day, 800 * day} {
				s.wall = s.wall.Add(jump)
				s.pass(2 * day)
				s.there("within 6 days")
				s.wall = s.wall.Add(-jump)
			}
		})
	}
}

// TestWitnessedRow: a row that was removed, edited or put back holds the state. An
// installation without one, of before there was one, waits for the longest period.
func TestWitnessedRow(t *testing.T) {
	s := newTimed(t)
	must(s.ScheduleDeletion(ctx, "demo", "k", 7))(t)
	s.pass(day)
	s.stop()
	exec := func(query string, args ...any) {
		t.Helper()
		db := must(sql.Open("sqlite", filepath.Join(s.dir, "holdfast.db")))(t)
		defer db.Close()
		must(db.Exec(query, args...))(t)
	}
	var at int64
	var seal []byte
	db := must(sql.Open("sqlite", filepath.Join(s.dir, "holdfast.db")))(t)
	if err := db.QueryRow(`SELECT at, seal FROM witnessed_time`).Scan(&at, &seal); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	for _, query := range []string{
		`DELETE FROM witnessed_time`,
		`UPDATE witnessed_time SET seal = (SELECT block_seal FROM installation)`,
		`UPDATE witnessed_time SET at = at + 31536000000`,
	} {
		exec(query)
		if err := s.open(); fault.CodeOf(err) != fault.StateChanged {
			t.Errorf("%s: %v", query, err)
		}
		if strings.Contains(query, "+") { // people accept it, and its seal is still not that of the time
			if _, err := s.AcceptState(ctx, "test", "a test"); err != nil {
				t.Error(err)
			}
			if w := s.witness.Now(); !w.Equal(s.wall.Add(-30 * day)) {
				t.Errorf("accepted: the witnessed time is %v", w)
			}
			s.wall = s.wall.Add(10 * day)
			s.DeleteDueKeys(ctx)
			s.there("accepted, and due by the wall clock")
			s.wall = s.wall.Add(-10 * day)
			s.stop()
			break
		}
		s.stop()
		exec(`DELETE FROM witnessed_time`)
		exec(`INSERT INTO witnessed_time VALUES (1, ?, ?)`, at, seal)
	}
	s.start()
}

// TestConfirmTime: a person says that a time has passed, and what is due by then goes;
// neither a time that has not come by the wall clock nor one that has passed already.
func TestConfirmTime(t *testing.T) {
	s := newTimed(t)
	must(s.ScheduleDeletion(ctx, "demo", "k", 30))(t)
	s.pass(day)
	s.stop()
	s.wall = s.wall.Add(60 * day) // off for two months
	s.start()
	s.DeleteDueKeys(ctx)
	if k := s.there("after two months off"); !strings.Contains(k.DeletionWaits, "holdfast clock confirm") {
		t.Errorf("it says %q", k.DeletionWaits)
	}
	for name, c := range map[string]struct {
		at   time.Time
		want fault.Code
	}{
		"a time that has not come": {s.wall.Add(time.Minute), fault.Invalid},
		"one that has passed":      {s.wall.Add(-61 * day), fault.Conflict},
		"none":                     {time.Time{}, fault.Conflict},
	} {
		_, err := s.ConfirmTime(ctx, c.at)
		if fault.CodeOf(err) != c.want || fault.CodeOf(s.CheckConfirmTime(ctx, c.at)) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(s.ConfirmTime(ctx, s.wall.Add(-40*day)))(t)
	s.DeleteDueKeys(ctx)
	s.there("with a time confirmed that is before it is due")
	if state := must(s.ConfirmTime(ctx, s.wall))(t); state.Waits != "" {
		t.Errorf("%+v", state)
	}
	s.restart() // it is kept
	s.DeleteDueKeys(ctx)
	s.gone("with the time confirmed")
	s.Lock()
	if _, err := s.ConfirmTime(ctx, s.wall); fault.CodeOf(err) != fault.Locked {
		t.Errorf("locked: %v", err)
	}
}
