package appliance_test

import (
	"slices"
	"testing"

	"holdfast/appliance/appliancetest"
)

// TestStatusOfTheState: the status names the head, and the key stores and parts of them whose
// rows are known not to match, until people have discarded them; without reading all rows.
func TestStatusOfTheState(t *testing.T) {
	h := newHandEdited(t)
	damaged := func() []string {
		t.Helper()
		s := h.bed.Appliance.Status(ctx).State
		if s == nil || s.Head.Sequence == 0 || len(s.Head.Digest) != 64 || s.Rows != 0 {
			t.Fatalf("%+v", s)
		}
		return s.Damaged
	}
	if d := damaged(); d != nil {
		t.Errorf("damaged before: %v", d)
	}
	head := h.bed.Appliance.Status(ctx).State.Head
	if s := must(h.bed.Appliance.VerifyState(ctx))(t); s.Head.Digest != head.Digest {
		t.Errorf("the status has the head %+v, and the state %+v", head, s.Head)
	}
	for i, d := range h.damages(t)[:2] { // a version that is discarded leaves its key as damaged
		must(h.db.ExecContext(ctx, d.statement))(t)
		verified := must(h.bed.Appliance.VerifyState(ctx))(t)
		if len(verified.Damaged) != 1 || verified.Rows == 0 || !slices.Equal(damaged(), verified.Damaged) {
			t.Errorf("%s: the status names %v, want %v", d.name, damaged(), verified.Damaged)
		}
		must(h.bed.Appliance.Discard(ctx, d.target))(t)
		left := damaged()
		if verified := must(h.bed.Appliance.VerifyState(ctx))(t); !slices.Equal(left, verified.Damaged) || len(left) != i {
			t.Errorf("%s: after the discard the status names %v, and %v are damaged", d.name, left, verified.Damaged)
		}
	}
	must(h.db.ExecContext(ctx, `UPDATE external_keys SET can_decrypt = 0 WHERE id = 'bystander'`))(t)
	h.bed = restart(t, h.bed, h.client, h.options())
	if d := damaged(); len(d) != 2 { // as the start has found it
		t.Errorf("after a restart: %v", d)
	}
	h.bed.Appliance.Lock()
	if s := h.bed.Appliance.Status(ctx).State; s != nil {
		t.Errorf("locked: %+v", s)
	}
}

// TestDamageIsFoundWhileItServes: rows that were changed by something else while the appliance
// serves are out of service from when that is found, also those that were in memory, and so say
// their standings; and they serve again once they are put back.
func TestDamageIsFoundWhileItServes(t *testing.T) {
	h := newHandEdited(t)
	encrypts := func() error {
		_, err := h.client.Call(appliancetest.Encrypt("cached", "x"))
		return err
	}
	for _, row := range []struct{ name, damage, mend string }{
		{"the key store", `UPDATE key_stores SET requests_per_second = 77`, `UPDATE key_stores SET requests_per_second = 0`},
		{"the key", `UPDATE external_keys SET can_decrypt = 0 WHERE id = 'cached'`, `UPDATE external_keys SET can_decrypt = 1 WHERE id = 'cached'`},
	} {
		find := func(statement string, serves bool) {
			t.Helper()
			must(h.db.ExecContext(ctx, statement))(t)
			must(h.bed.Appliance.VerifyState(ctx))(t)
			h.bed.Appliance.Recover(ctx)
			k, shown := h.bed.Appliance.ShowKey(ctx, "demo", "cached") // damaged rows are not shown
			if err := encrypts(); (err == nil) != serves || serves != (shown == nil && k.Standing.Serves) {
				t.Errorf("%s, after %s: the endpoint says %v, and the administration %v", row.name, statement, err, shown)
			}
		}
		if err := encrypts(); err != nil {
			t.Fatal(err)
		}
		find(row.damage, false)
		find(row.mend, true)
	}
}
