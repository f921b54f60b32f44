package postgres_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// records is a log that can be read while it is written.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.text.String(), part)
}

func (r *records) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestChanged: a node hears of another's change; also after the server was restarted.
func TestChanged(t *testing.T) {
	s := postgrestest.Start(t)
	db := s.NewDatabase(t)
	a, b := open(t, postgres.Options{URL: s.In(db)}), open(t, postgres.Options{URL: s.In(db)})
	listening := func() bool {
		return s.Exec("SELECT count(*) FROM pg_stat_activity WHERE datname = '"+db+"' AND query LIKE 'LISTEN%'") == "2"
	}
	await(t, listening)
	drain := func(l *postgres.Log) {
		for {
			select {
			case <-l.Changed():
				continue
			case <-time.After(200 * time.Millisecond): // no more comes of what was before
			}
			return
		}
	}
	hear := func(l *postgres.Log) {
		t.Helper()
		select {
		case <-l.Changed():
		case <-time.After(time.Minute):
			t.Error("no signal of a change")
		}
	}
	drain(b)
	storetest.Must(t, a.Append(t.Context(), 1, []byte("one")))
	hear(b)
	s.Kill()
	s.Restart()
	hear(b) // there may be changes that it did not hear of
	await(t, listening)
	drain(b)
	await(t, func() bool { return a.Append(t.Context(), 2, []byte("two")) == nil })
	hear(b)
}

// TestNoListenThroughPooler: no server behind a pooler ever listens, and the node says
// why it hears nothing.
func TestNoListenThroughPooler(t *testing.T) {
	s := postgrestest.Start(t, "log_statement=all")
	pooler := s.Pooler()
	db := s.NewDatabase(t)
	var said records
	l := open(t, postgres.Options{URL: pooler.In(db), Log: said.logger()})
	await(t, func() bool { return said.has("a pooler is between") })
	storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
	if strings.Contains(s.Output(), "LISTEN") {
		t.Error("a LISTEN went through the pooler")
	}
	for _, session := range []string{"PREPARE", "pg_advisory_lock", "SET SESSION"} {
		if strings.Contains(s.Output(), session) {
			t.Errorf("%s went through the pooler", session)
		}
	}
	if s.Output() == "" || !strings.Contains(s.Output(), "INSERT INTO changes") {
		t.Error("the server's log does not have the statements")
	}
}

// TestStandbysThatNobodyWaitsFor are told of.
func TestStandbysThatNobodyWaitsFor(t *testing.T) {
	s := postgrestest.Start(t)
	var before, waited, alone records
	db := s.NewDatabase(t)
	open(t, postgres.Options{URL: s.In(db), Log: before.logger()})
	s.Replica()
	open(t, postgres.Options{URL: s.In(db), Log: waited.logger()})
	s.Exec("ALTER SYSTEM RESET synchronous_standby_names")
	s.Exec("SELECT pg_reload_conf()")
	await(t, func() bool { return s.Exec("SHOW synchronous_standby_names") == "" })
	open(t, postgres.Options{URL: s.In(db), Log: alone.logger()})
	const warning = "does not wait for it"
	if before.has(warning) || waited.has(warning) || !alone.has(warning) {
		t.Errorf("told: %v %v %v", before.has(warning), waited.has(warning), alone.has(warning))
	}
}
