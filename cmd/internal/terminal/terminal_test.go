package terminal

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// evil is what a request, a file or another computer may send.
const evil = "\x1b[2J\x1b]0;title\a\r\n\t\x00\x7f\u009b31m\u202egnp\u2066\u200b\u2028\xff\U000e0041 ä"

// TestEveryCharacter: no character of Unicode that does something passes, and every
// other does.
func TestEveryCharacter(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		s, does := string(r), unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
		text, lines := Text(s), Lines(s)
		if does == (text == s) || (does && r != '\n' && r != '\t') == (lines == s) {
			t.Errorf("%U: %q, %q", r, text, lines)
		}
		var back string
		if does && (json.Unmarshal([]byte(`"`+text+`"`), &back) != nil || back != s) {
			t.Errorf("%U is written as %s", r, text)
		}
	}
}

// TestPieces: a text is escaped in the same way in however many writes it comes.
func TestPieces(t *testing.T) {
	want := Lines(evil)
	for size := 1; size <= len(evil); size++ {
		var out bytes.Buffer
		w := &lines{w: &out}
		for at := 0; at < len(evil); at += size {
			piece := []byte(evil[at:min(at+size, len(evil))])
			if n, err := w.Write(piece); n != len(piece) || err != nil {
				t.Fatal(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
}

// TestFilesStayAsTheyAre: a file and a pipe have the bytes, a device escapes.
func TestFilesStayAsTheyAre(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []*os.File{f, p} {
		if _, err := Writer(w).Write([]byte(evil)); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.Close()
	var piped bytes.Buffer
	_, err = piped.ReadFrom(r)
	text, readErr := os.ReadFile(path)
	if err != nil || readErr != nil || string(text) != evil || piped.String() != evil {
		t.Errorf("the file has %q, the pipe %q: %v, %v", text, piped.String(), err, readErr)
	}
	if Writer(null) == null {
		t.Error("a device gets the bytes as they are")
	}
	if strings.ContainsAny(Lines(evil), "\x1b\a\r\x00\x7f") {
		t.Errorf("%q", Lines(evil))
	}
}
