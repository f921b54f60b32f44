package auditlog_test

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// TestProveConsistency: every two heads of a log are shown to be consistent, also when
// retention has removed the records; and by no other proof, for no other root or size.
func TestProveConsistency(t *testing.T) {
	dir := t.TempDir()
	const records = 33
	o := small()
	l := open(t, dir, o)
	heads := []audit.Head{got(audit.ParseHead(got(l.Head())(t)))(t)}
	for i := range records {
		must(t, l.Append(t.Context(), record(i)))
		heads = append(heads, got(audit.ParseHead(got(l.Head())(t)))(t))
	}
	must(t, l.Close())
	o.RetainBytes = 1
	l = open(t, dir, o)
	got(l.Checkpoint())(t)
	for from := range heads {
		for to := from; to < len(heads); to++ {
			proof := got(l.ProveConsistency(int64(from), int64(to)))(t)
			if err := audit.CheckConsistency(proof, heads[from], heads[to]); err != nil {
				t.Fatalf("%d of %d: %v", from, to, err)
			}
			other := heads[from]
			other.Root[0] ^= 1
			longer := append(append([]tlog.Hash{}, proof...), tlog.Hash{})
			for what, err := range map[string]error{
				"another root before": audit.CheckConsistency(proof, other, heads[to]),
				"a longer proof":      audit.CheckConsistency(longer, heads[from], heads[to]),
			} {
				if fault.CodeOf(err) != fault.AuditInconsistent {
					t.Errorf("%d of %d, %s: %v", from, to, what, err)
				}
			}
			if from == to || from == 0 { // there is nothing to prove
				continue
			}
			if err := audit.CheckConsistency(proof, heads[to], heads[from]); fault.CodeOf(err) != fault.AuditInconsistent {
				t.Errorf("%d of %d, backwards: %v", from, to, err)
			}
			now := heads[to]
			now.Root[31] ^= 1
			if err := audit.CheckConsistency(proof, heads[from], now); fault.CodeOf(err) != fault.AuditInconsistent {
				t.Errorf("%d of %d, another root now: %v", from, to, err)
			}
			if len(proof) > 0 {
				if err := audit.CheckConsistency(proof[1:], heads[from], heads[to]); fault.CodeOf(err) != fault.AuditInconsistent {
					t.Errorf("%d of %d, a shorter proof: %v", from, to, err)
				}
			}
		}
	}
	for _, bad := range [][2]int64{{-1, 3}, {4, 3}} {
		if _, err := l.ProveConsistency(bad[0], bad[1]); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := l.ProveConsistency(1, 1<<40); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("more than it has: %v", err)
	}
}
