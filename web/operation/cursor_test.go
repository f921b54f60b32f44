package operation

import "testing"

// FuzzCursor: of all texts, only those are read as positions that were written for the same list,
// filter and order; the empty one is the begin.
func FuzzCursor(f *testing.F) {
	in := AuditSearch{}
	f.Add("")
	f.Add("x")
	f.Add(cursorOf("listKeys", in, position{"key", "id"}))
	f.Add(cursorOf("listGrants", in, position{"", "id"}))
	f.Fuzz(func(t *testing.T, cursor string) {
		p, err := positionOf("listKeys", in, cursor)
		switch {
		case err != nil && p != position{}:
			t.Errorf("%q is refused, and gives %+v", cursor, p)
		case err == nil && cursor != "" && p.ID == "":
			t.Errorf("%q is taken, and names nothing", cursor)
		}
		if p.ID == "" {
			return
		}
		if again, err := positionOf("listKeys", in, cursorOf("listKeys", in, p)); err != nil || again != p {
			t.Errorf("%+v is written and read as %+v, %v", p, again, err)
		}
		if _, err := positionOf("listGrants", in, cursor); err == nil {
			t.Errorf("%q is taken for two lists", cursor)
		}
	})
}
