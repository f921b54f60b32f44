package postgrestest_test

import (
	"testing"

	"holdfast/appliance/postgres/postgrestest"
)

// TestReplica: what was committed is on the replica when the primary is killed.
func TestReplica(t *testing.T) {
	primary := postgrestest.Start(t)
	replica := primary.Replica()
	if got := replica.Exec("SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("the replica is no standby: %s", got)
	}
	primary.Exec("CREATE TABLE x (n int); INSERT INTO x VALUES (7)")
	primary.Kill()
	replica.Promote()
	if got := replica.Exec("INSERT INTO x VALUES (8) RETURNING (SELECT n FROM x)"); got != "7" {
		t.Errorf("got %q", got)
	}
	primary.Restart() // alone, and it has what it had
	if got := primary.Exec("SELECT n FROM x"); got != "7" {
		t.Errorf("got %q", got)
	}
}
