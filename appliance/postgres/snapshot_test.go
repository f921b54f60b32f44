package postgres_test

import (
	"testing"

	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// TestUnfinishedSnapshot: of a writer that is gone nothing counts, and it is removed
// after an hour; one that still writes is left.
func TestUnfinishedSnapshot(t *testing.T) {
	s := postgrestest.Start(t)
	db := s.NewDatabase(t)
	l, other := open(t, postgres.Options{URL: s.In(db)}), open(t, postgres.Options{URL: s.In(db)})
	part := changelogtest.Parts(nil, []byte("part"))
	rows := func(want string) {
		t.Helper()
		if got := s.ExecIn(db, "SELECT count(*) FROM snapshots"); got != want {
			t.Errorf("there are %s snapshots, want %s", got, want)
		}
	}
	// The writer's process ends in the middle: what it wrote is as if written by this.
	s.ExecIn(db, "INSERT INTO snapshots (number) VALUES (9); INSERT INTO snapshot_parts SELECT id, 0, 'x' FROM snapshots")
	_, _, err := l.Snapshot(t.Context())
	storetest.Wants(t, err, fault.NotFound, "no snapshot")
	storetest.Must(t, l.KeepSnapshot(t.Context(), 3, part))
	rows("2")
	s.ExecIn(db, "UPDATE snapshots SET touched = touched - interval '61 minutes'")
	storetest.Must(t, l.KeepSnapshot(t.Context(), 4, part))
	rows("2") // those of 3 and 4
	storetest.Must(t, l.Forget(t.Context(), 4))
	rows("1")

	// One that takes long is not removed while it gets parts; if it is, its writer is told.
	err = l.KeepSnapshot(t.Context(), 5, func(yield func([]byte, error) bool) {
		for range 3 {
			s.ExecIn(db, "UPDATE snapshots SET touched = touched - interval '59 minutes'")
			storetest.Must(t, other.Forget(t.Context(), 0))
			if !yield([]byte("part"), nil) {
				return
			}
		}
	})
	storetest.Must(t, err)
	err = l.KeepSnapshot(t.Context(), 6, func(yield func([]byte, error) bool) {
		yield([]byte("part"), nil)
		s.ExecIn(db, "UPDATE snapshots SET touched = touched - interval '61 minutes'")
		storetest.Must(t, other.Forget(t.Context(), 0))
		yield([]byte("part"), nil)
	})
	storetest.Wants(t, err, fault.Changed, "removed while it was written")
	if number, _, err := l.Snapshot(t.Context()); err != nil || number != 5 {
		t.Errorf("got %d %v", number, err)
	}
	// A reader whose snapshot is removed is told to read the newest.
	_, parts, err := l.Snapshot(t.Context())
	storetest.Must(t, err)
	storetest.Must(t, other.KeepSnapshot(t.Context(), 7, part))
	storetest.Must(t, other.Forget(t.Context(), 7))
	for _, err := range parts {
		storetest.Wants(t, err, fault.Changed, "read the newest")
	}
}
