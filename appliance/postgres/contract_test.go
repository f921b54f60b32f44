package postgres_test

import (
	"fmt"
	"testing"

	"holdfast/appliance/changelogtest"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
)

func open(t *testing.T, o postgres.Options) *postgres.Log {
	t.Helper()
	l, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestContract: each version of PostgreSQL that is installed keeps the contract, also
// through PgBouncer in transaction mode.
func TestContract(t *testing.T) {
	for _, version := range postgrestest.Versions() {
		s := postgrestest.StartVersion(t, version)
		pooler := s.Pooler()
		for name, database := range map[string]func(t *testing.T) string{
			"direct":    func(t *testing.T) string { return s.Database(t) },
			"pgbouncer": func(t *testing.T) string { return pooler.Database(t, s) },
		} {
			t.Run(fmt.Sprint(version, " ", name), func(t *testing.T) {
				changelogtest.Run(t, func(t *testing.T) func(t *testing.T) changelogtest.Log {
					url := database(t)
					return func(t *testing.T) changelogtest.Log { return open(t, postgres.Options{URL: url}) }
				})
			})
		}
	}
}
