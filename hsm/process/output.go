package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// keptBytes of what a process wrote are kept of each output, keptLines are told.
const (
	keptBytes = 2 << 10
	keptLines = 5
)

// output is what a process writes: all of it is read, and the end is kept.
type output struct {
	from  *os.File
	ended chan struct{}
	// What follows is the reader's, until ended.
	total int64
	last  []byte
}

func (o *output) read() {
	o.ended = make(chan struct{})
	go func() {
		defer close(o.ended)
		_, _ = io.Copy(o, o.from) // the end, or closed
	}()
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.total += int64(len(b))
	o.last = append(o.last, b[max(0, len(b)-keptBytes):]...)
	if over := len(o.last) - keptBytes; over > 0 {
		o.last = append(o.last[:0], o.last[over:]...)
	}
	return len(b), nil
}

// told gives the last lines in one line, if there are any. Only whole lines are told: who knows a secret
// can take it out, and finds no half of it.
func (o *output) told(name string) string {
	if o.total == 0 {
		return ""
	}
	text := o.last
	if o.total > int64(len(text)) {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(strings.Map(printable, line)); line != "" {
			lines = append(lines, line)
		}
	}
	words := fmt.Sprintf("; %d bytes on %s", o.total, name)
	if lines = lines[max(0, len(lines)-keptLines):]; len(lines) > 0 {
		words += ": " + strings.Join(lines, " | ")
	}
	return words
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}
