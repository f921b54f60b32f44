package appliance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// The audit folder in the tamper matrix: put back alone, and with database and log of
// writes, to each earlier moment.

// record writes what a change and some requests leave in the audit log, if there is one.
func (s *served) record(change int) error {
	if s.log == nil {
		return nil
	}
	for n := range 5 {
		if err := s.log.Append(ctx, &audit.Record{Kind: audit.KindXKS, Operation: "Encrypt", Result: audit.Allowed, Key: fmt.Sprint("key-", change, "-", n)}); err != nil {
			return err
		}
	}
	if _, err := s.log.Checkpoint(); err != nil {
		return err
	}
	return s.KeepAuditHead(ctx)
}

func copyAudit(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(filepath.Join(to, "audit"), os.DirFS(filepath.Join(from, "audit"))); err != nil {
		t.Fatal(err)
	}
}

// volumeParts are what a volume has, each of which can be put back by itself.
var volumeParts = []string{"holdfast.db", "holdfast.db-wal", "audit"}

// partsPutBack is a volume of which some parts are of an earlier moment.
type partsPutBack struct {
	moment int
	parts  []string
}

func (p partsPutBack) String() string { return fmt.Sprintf("%v of moment %d", p.parts, p.moment) }

// write makes the volume.
func (p partsPutBack) write(t testing.TB, g *target) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, part := range volumeParts {
		from := g.moments[len(g.moments)-1]
		if slices.Contains(p.parts, part) {
			from = g.moments[p.moment]
		}
		from = filepath.Join(from, part)
		info, err := os.Stat(from)
		switch {
		case errors.Is(err, os.ErrNotExist): // the log of writes was empty
		case err != nil:
			t.Fatal(err)
		case info.IsDir():
			copyAudit(t, filepath.Dir(from), dir)
		default:
			copyFile(t, from, filepath.Join(dir, part))
		}
	}
	return dir
}

// allPartsPutBack gives each set of parts of each earlier moment.
func (g *target) allPartsPutBack() (list []partsPutBack) {
	for m := range len(g.moments) - 1 {
		for set := 1; set < 1<<len(volumeParts); set++ {
			p := partsPutBack{moment: m}
			for i, part := range volumeParts {
				if set&(1<<i) != 0 {
					p.parts = append(p.parts, part)
				}
			}
			list = append(list, p)
		}
	}
	return list
}

// TestVolumePutBack puts database, log of writes and audit folder back to each earlier
// moment, singly and together. With an anchor nothing but the present state serves, with
// the present audit log. Each other case has the code of what was put back.
func TestVolumePutBack(t *testing.T) {
	g := newLoggedTarget(t, true)
	if n := len(g.moments) - 1; n < 10 {
		t.Fatalf("%d earlier moments", n)
	}
	each(t, append(g.allPartsPutBack(), partsPutBack{}), func(t *testing.T, p partsPutBack, n *counts) {
		s, err := g.start(t, p.write(t, g), g.anchor.copied())
		if s != nil {
			defer s.stop()
		}
		if err == nil {
			if slices.Contains(p.parts, "audit") {
				t.Errorf("%v: it serves with an earlier audit log", p)
			}
			for _, d := range differing(tampering{}, g.decides, g.decisions(t, s)) {
				t.Errorf("%v: %s", p, d)
			}
			n.add("the present state serves")
			return
		}
		code := fault.CodeOf(err)
		n.add("locked: " + string(code))
		if p.parts == nil {
			t.Errorf("all as it is: %v", err)
		}
		// Pages of two moments may be no database at all, which then is not opened.
		want := []fault.Code{fault.StateRolledBack, fault.StateChanged, fault.StateLoss, fault.StateDamaged, fault.StateForeign, fault.StateSchema, fault.Tampered}
		if len(p.parts) == 1 && p.parts[0] == "audit" {
			want = []fault.Code{fault.AuditRewritten}
		} else if slices.Contains(p.parts, "audit") {
			want = append(want, fault.AuditRewritten)
		}
		if !slices.Contains(want, code) {
			t.Errorf("%v: %v", p, err)
		}
	})
}

// TestVolumePutBackWithoutAnchor does that where there is no anchor: a volume that is put
// back whole, or a database with its log of writes, cannot be told from that of then; an
// audit folder that is older than the database can.
func TestVolumePutBackWithoutAnchor(t *testing.T) {
	g := newLoggedTarget(t, false)
	each(t, g.allPartsPutBack(), func(t *testing.T, p partsPutBack, n *counts) {
		s, err := g.start(t, p.write(t, g), nil)
		if s != nil {
			defer s.stop()
		}
		if err != nil {
			n.add("locked: " + string(fault.CodeOf(err)))
			if fault.CodeOf(err) != fault.AuditRewritten {
				ownCode(t, fmt.Sprint(p), s, err)
			}
			return
		}
		database := slices.Contains(p.parts, "holdfast.db") || slices.Contains(p.parts, "holdfast.db-wal")
		if slices.Contains(p.parts, "audit") && !database {
			t.Errorf("%v: it serves with an earlier audit log", p)
		}
		if !database {
			t.Errorf("%v: it serves", p)
		}
		if len(differing(tampering{}, g.decides, g.decisions(t, s))) > 0 {
			n.add("not noticed without an anchor: a whole state of before")
		} else {
			n.add("the present state serves")
		}
	})
}
