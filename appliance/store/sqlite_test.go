package store_test

import (
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/store"
)

func TestSQLite(t *testing.T) {
	testStore(t, func(t *testing.T) appliance.Store {
		return openSQLite(t, filepath.Join(t.TempDir(), "holdfast.db"))
	})
}

func openSQLite(t testing.TB, path string) *store.SQLite {
	t.Helper()
	s, err := store.Open(t.Context(), path, store.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}
