package operation

import "testing"

// FuzzCursor: a text that is read as a position of a list is read as the same one when that is
// written again, and is none of another list, filter or order. One that is refused gives no
// position; only the empty text is the begin.
func FuzzCursor(f *testing.F) {
	in := AuditSearch{}
	f.Add("")
	f.Add("x")
	f.Add(cursorOf("listKeys", in, position{"key", "id"}))
	f.Add(cursorOf("listKeys", in, position{"", "id"}))
	f.Add(cursorOf("listGrants", in, position{"", "id"}))
	f.Add(cursorOf("listKeys", AuditSearch{Limit: 5}, position{"key", "id"}))
	others := []struct {
		list string
		in   any
	}{
		{"listGrants", in},
		{"listKeys", AuditSearch{AuditFilter: AuditFilter{Actor: "alice"}}},
		{"listKeys", KeyPage{Paging: Paging{Sort: "-id"}}},
		{"", in},
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		p, err := positionOf("listKeys", in, cursor)
		switch {
		case err != nil && p != position{}:
			t.Errorf("%q is refused, and gives %+v", cursor, p)
		case err == nil && (cursor == "") != (p.ID == ""):
			t.Errorf("%q is taken as %+v", cursor, p)
		}
		// What was written is read, by whatever page size it is asked for, whatever it names.
		for _, written := range []position{p, {cursor, "id"}, {"key", cursor}} {
			if written.ID == "" {
				continue
			}
			again := cursorOf("listKeys", in, written)
			got, err := positionOf("listKeys", AuditSearch{Limit: 7}, again)
			if err != nil || got != valid(written) {
				t.Errorf("%+v is written and read as %+v, %v", written, got, err)
			}
			for _, other := range others {
				if _, err := positionOf(other.list, other.in, again); err == nil {
					t.Errorf("the cursor of %+v is taken for %q with %+v", written, other.list, other.in)
				}
			}
		}
	})
}

// valid is a position as JSON can write it: bytes that are no UTF-8 are U+FFFD.
func valid(p position) position {
	return position{string([]rune(p.Key)), string([]rune(p.ID))}
}
