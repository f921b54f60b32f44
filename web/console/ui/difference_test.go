package ui

import (
	"strings"
	"testing"
)

// TestDifference: both texts can be read off the lines, and what is in both stands once.
func TestDifference(t *testing.T) {
	for _, c := range []struct{ now, typed, want string }{
		{"", "", ""},
		{"a", "a", " a"},
		{"", "a\nb", "+a +b"},
		{"a\nb", "", "-a -b"},
		{"a\nb\nc", "a\nx\nc", " a -b +x  c"},
		{"a\r\nb", "a\nb", " a  b"},
		{"a\nb\nc\nd", "b\nd\ne", "-a  b -c  d +e"},
		{"x\na", "a\nx", "-x  a +x"},
	} {
		var all, now, typed []string
		for _, l := range (Difference{Now: c.now, Typed: c.typed}).Lines() {
			all = append(all, string(l.In)+l.Text)
			if l.In != '+' {
				now = append(now, l.Text)
			}
			if l.In != '-' {
				typed = append(typed, l.Text)
			}
		}
		if got := strings.Join(all, " "); got != c.want {
			t.Errorf("%q, %q: %q, want %q", c.now, c.typed, got, c.want)
		}
		if strings.Join(now, "\n") != strings.ReplaceAll(c.now, "\r\n", "\n") || strings.Join(typed, "\n") != c.typed {
			t.Errorf("%q, %q: %q %q", c.now, c.typed, now, typed)
		}
	}
	long := strings.Repeat("a\n", 5000)
	if n := len((Difference{Now: "x\n" + long + "y", Typed: "z\n" + long + long + "w"}).Lines()); n < 15000 {
		t.Errorf("long texts have %d lines", n)
	}
}
