// Package terminal keeps what programs print from doing something to a terminal. What
// comes from requests, files, logs and other computers may have any character.
//
// Use it for all that a program prints. A program's standard output and standard error
// go through [Writer]: a terminal shows escapes, a file or a pipe has the bytes as they
// are. What becomes a line of its own goes through [Text] before, also for a file. How far long
// work is, is told by [Progress].
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text gives a text as one line in which no character moves a terminal's cursor,
// changes its state or the order of what it shows: control characters, format
// characters such as those of directions, and separators of lines are written as
// escapes of JSON. A byte that is no UTF-8 becomes U+FFFD.
func Text(s string) string { return escaped(s, active) }

// Lines is Text for text of several lines: line feeds and tabs stay. JSON stays JSON of
// the same meaning.
func Lines(s string) string { return escaped(s, inLine) }

// active says whether a character may do something to a terminal.
func active(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}

func inLine(r rune) bool { return r != '\n' && r != '\t' && active(r) }

// Bytes is Lines for what is written: the same bytes where nothing is to be escaped.
func Bytes(line []byte) []byte {
	if clean(line, inLine) {
		return line
	}
	return []byte(Lines(string(line)))
}

// clean says whether nothing in a text is to be escaped. Each request writes a line of
// hundreds of characters, nearly all of ASCII, so those are looked at first.
func clean[T string | []byte](text T, does func(rune) bool) bool {
	for i := 0; i < len(text); {
		if c := text[i]; ' ' <= c && c <= '~' {
			i++
			continue
		}
		r, size := utf8.DecodeRune([]byte(text[i:min(i+utf8.UTFMax, len(text))]))
		if r == utf8.RuneError && size == 1 || does(r) {
			return false
		}
		i += size
	}
	return true
}

func escaped(s string, does func(rune) bool) string {
	if clean(s, does) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !does(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// Writer gives the writer for a program's standard output or standard error: the file
// itself, or, if it is a terminal or another device, one that writes [Lines]. Many
// goroutines may use it.
func Writer(f *os.File) io.Writer {
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		return f
	}
	return &lines{w: f}
}

// lines escapes what passes. A character may come in several writes.
type lines struct {
	w io.Writer

	mu   sync.Mutex
	rest []byte // the beginning of a character
}

// Write implements [io.Writer].
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := append(l.rest, p...)
	whole := len(text) - begun(text)
	l.rest = append([]byte(nil), text[whole:]...)
	if _, err := l.w.Write(Bytes(text[:whole])); err != nil {
		return 0, err
	}
	return len(p), nil
}

// begun counts the bytes at the end of a text that begin a character.
func begun(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		end := text[len(text)-n:]
		if utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}
