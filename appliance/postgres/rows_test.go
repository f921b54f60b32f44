package postgres_test

import (
	"context"
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// node has the rows of a node of a fleet, whose log is in PostgreSQL.
type node struct {
	*sqlite.DB
	log *postgres.Log
}

// empty makes an empty database of SQLite.
var empty = storetest.Template(func(path string) error {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		return err
	}
	return s.Close()
})

func newNode(t *testing.T, url string) *node {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.db")
	storetest.Must(t, empty(path))
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l, err := postgres.New(postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &node{s, l}
}

// OpenState opens the state with the log.
func (n *node) OpenState(ctx context.Context, o appliance.StateOptions) (*appliance.StateReport, error) {
	o.Log = n.log
	return n.DB.OpenState(ctx, o)
}

// TestRows: the tests of every store, with PostgreSQL. What each method changes comes out
// the same at a node that begins afterwards.
func TestRows(t *testing.T) {
	server := postgrestest.Start(t)
	storetest.RunOpen(t, func(t *testing.T) storetest.Engine {
		url := server.Database(t)
		n := newNode(t, url)
		t.Cleanup(func() {
			head := n.Position()
			if _, err := n.CheckState(context.Background()); err != nil {
				return // the test has closed it
			}
			other := newNode(t, url)
			if _, err := other.OpenState(context.Background(), storetest.StateOptions()); err != nil {
				t.Error(err)
			} else if other.Position() != head {
				t.Errorf("%+v, want %+v", other.Position(), head)
			}
		})
		return n
	})
}
