package postgres_test

import (
	"context"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// TestServerSettings: a server that commits without waiting is refused, unless the
// options accept it.
func TestServerSettings(t *testing.T) {
	for _, setting := range []string{"synchronous_commit=off", "synchronous_commit=local", "synchronous_commit=remote_write", "fsync=off", "full_page_writes=off"} {
		t.Run(setting, func(t *testing.T) {
			s := postgrestest.Start(t, setting)
			refused(t, postgres.Options{URL: s.URL}, fault.DatabaseRefused, "state.database_asynchronous")
			l := open(t, postgres.Options{URL: s.URL, Asynchronous: true})
			storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
		})
	}
}

// TestSettingsOfRoleAndDatabase: the same where a role or the database has the setting;
// also if it is set while connections are open, and behind a pooler.
func TestSettingsOfRoleAndDatabase(t *testing.T) {
	s := postgrestest.Start(t)
	pooler := s.Pooler()
	for name, place := range map[string]string{"role": "ROLE postgres", "database": "DATABASE "} {
		for _, pooled := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				db := s.NewDatabase(t)
				url := s.In(db)
				if pooled {
					url = pooler.In(db)
				}
				where := place
				if name == "database" {
					where += db
				}
				l := open(t, postgres.Options{URL: url})
				storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
				s.Exec("ALTER " + where + " SET synchronous_commit = off")
				refusedNow := postgres.Options{URL: url}
				s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + db + "'")
				await(t, func() bool { return fault.CodeOf(l.Append(t.Context(), 2, []byte("two"))) == fault.DatabaseRefused })
				refused(t, refusedNow, fault.DatabaseRefused, "synchronous_commit = off")
				s.Exec("ALTER " + where + " RESET synchronous_commit")
				s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + db + "'")
				await(t, func() bool { return l.Append(t.Context(), 2, []byte("two")) == nil })
			})
		}
	}
	// On an open connection: each append looks.
	l := open(t, postgres.Options{URL: s.Database(t)})
	storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
	s.Exec("ALTER SYSTEM SET full_page_writes = off")
	s.Exec("SELECT pg_reload_conf()")
	await(t, func() bool { return s.Exec("SHOW full_page_writes") == "off" })
	number := uint64(2)
	await(t, func() bool { // the process behind the connection reads the settings a moment later
		err := l.Append(t.Context(), number, []byte("more"))
		number++
		if err != nil {
			storetest.Wants(t, err, fault.DatabaseRefused, "state.database_asynchronous")
		}
		return err != nil
	})
}

// TestStandby: a standby is away until it is promoted; then it has what was acknowledged.
func TestFailover(t *testing.T) {
	primary := postgrestest.Start(t)
	db := primary.NewDatabase(t)
	l := open(t, postgres.Options{URL: primary.In(db)})
	replica := primary.Replica()
	refused(t, postgres.Options{URL: replica.In(db)}, fault.DatabaseAway, "standby")

	// The nodes of a fleet append while the primary is killed.
	type made struct {
		number uint64
		body   string
	}
	acknowledged := make(chan made, 1<<16)
	failed := make(chan error, 1)
	go func() {
		for n := uint64(1); ; n++ {
			body := time.Now().String()
			if err := l.Append(t.Context(), n, []byte(body)); err != nil {
				failed <- err
				close(acknowledged)
				return
			}
			acknowledged <- made{n, body}
		}
	}()
	await(t, func() bool { return len(acknowledged) > 50 })
	primary.Kill()
	storetest.Wants(t, <-failed, fault.DatabaseAway, "")
	replica.Promote()
	after := open(t, postgres.Options{URL: replica.In(db)})
	last := uint64(0)
	for m := range acknowledged {
		if got, err := after.Changes(t.Context(), m.number, 1); err != nil || len(got) != 1 || string(got[0]) != m.body {
			t.Fatalf("change %d was acknowledged, and is %q (%v)", m.number, got, err)
		}
		last = m.number
	}
	newest, err := after.Newest(t.Context())
	storetest.Must(t, err)
	if newest < last || newest > last+1 { // the one that failed may be there
		t.Errorf("the newest is %d, the last that was acknowledged %d", newest, last)
	}
	storetest.Must(t, after.Append(t.Context(), newest+1, []byte("after")))
}

// TestWaitIsNotCancelled: while the replica does not answer, a change is neither
// acknowledged nor shown, also after its appender has stopped waiting; and if somebody
// cancels the wait, it is not acknowledged.
func TestWaitIsNotCancelled(t *testing.T) {
	primary := postgrestest.Start(t)
	replica := primary.Replica()
	pooler := primary.Pooler()
	for name, pooled := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			db := primary.NewDatabase(t)
			url := primary.In(db)
			if pooled {
				url = pooler.In(db)
			}
			l, other := open(t, postgres.Options{URL: url}), open(t, postgres.Options{URL: url})
			storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
			newest := func(want uint64) bool { n, err := other.Newest(t.Context()); return err == nil && n == want }

			defer replica.Resume() // also if the test fails
			replica.Pause()
			short, end := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer end()
			storetest.Wants(t, l.Append(short, 2, []byte("two")), fault.DatabaseAway, "")
			for range 20 {
				if !newest(1) {
					t.Fatal("what the replica does not have is shown")
				}
			}
			replica.Resume()
			await(t, func() bool { return newest(2) })

			replica.Pause()
			result := make(chan error, 1)
			go func() { result <- l.Append(t.Context(), 3, []byte("three")) }()
			await(t, func() bool {
				return primary.Exec("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = '"+db+"'") == "1"
			})
			storetest.Wants(t, <-result, fault.DatabaseAway, "replica")
			replica.Resume()
		})
	}
}

// TestPause: while the server hangs, each call ends in time; then it goes on.
func TestPause(t *testing.T) {
	s := postgrestest.Start(t)
	l := open(t, postgres.Options{URL: s.Database(t)})
	storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
	s.Pause()
	results := make(chan error)
	const calls = 20 // more than there are connections
	for range calls {
		go func() {
			ctx, end := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer end()
			_, err := l.Newest(ctx)
			results <- err
		}()
	}
	for range calls {
		storetest.Wants(t, <-results, fault.DatabaseAway, "in time")
	}
	s.Resume()
	ran := appliancetest.Running(t)
	await(t, func() bool { n, err := l.Newest(t.Context()); return err == nil && n == 1 })
	if passed := ran(); passed > 5*time.Second {
		t.Errorf("it was used again after %v", passed)
	}
}

// TestAwayAtFirst: a log is made though its database is away, does not hold up its
// callers, and is used once the database is there.
func TestAwayAtFirst(t *testing.T) {
	s := postgrestest.Start(t)
	url := s.Database(t)
	s.Pause()
	l, err := postgres.New(postgres.Options{URL: url})
	storetest.Must(t, err)
	t.Cleanup(l.Close)
	results := make(chan time.Duration)
	const calls = 5
	for range calls {
		go func() {
			ran := appliancetest.Running(t)
			ctx, end := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer end()
			_, err := l.Newest(ctx)
			storetest.Wants(t, err, fault.DatabaseAway, "in time")
			results <- ran()
		}()
	}
	for range calls {
		if passed := <-results; passed > 3*time.Second {
			t.Errorf("a call took %v", passed)
		}
	}
	s.Resume()
	await(t, func() bool { return l.Append(t.Context(), 1, []byte("one")) == nil })
}

// TestCut: while connections are cut so that nothing comes back, not even an end, calls
// end in time; a network that works again is used at once.
func TestCut(t *testing.T) {
	s := postgrestest.Start(t)
	n := newNetwork(t, s.Address())
	db := s.NewDatabase(t)
	l := open(t, postgres.Options{URL: "postgres://" + postgrestest.User + "@" + n.address() + "/" + db, PasswordFile: s.TLS.PasswordFile, CA: s.TLS.CA})
	storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
	n.cut()
	results := make(chan error)
	const calls = 20 // more than there are connections
	for range calls {
		go func() {
			ctx, end := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer end()
			_, err := l.Newest(ctx)
			results <- err
		}()
	}
	for range calls {
		storetest.Wants(t, <-results, fault.DatabaseAway, "in time")
	}
	n.mend()
	ran := appliancetest.Running(t)
	await(t, func() bool {
		ctx, end := context.WithTimeout(t.Context(), time.Second) // of one attempt
		defer end()
		newest, err := l.Newest(ctx)
		return err == nil && newest == 1
	})
	if passed := ran(); passed > 6*time.Second {
		t.Errorf("it was used again after %v", passed)
	}
}
