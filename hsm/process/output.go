package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
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

// outputs are a process's standard output and standard error.
type outputs [2]output

// pipes gives the ends that the process is to write to. They are the caller's to close, once the process
// has a copy.
func (o *outputs) pipes() (writers []*os.File, err error) {
	for i := range o {
		r, w, err := os.Pipe()
		if err != nil {
			closeFiles(writers)
			o.close()
			return nil, err
		}
		o[i].from = r
		writers = append(writers, w)
	}
	return writers, nil
}

func (o *outputs) read() {
	for i := range o {
		o[i].read()
	}
}

func (o *outputs) close() {
	for i := range o {
		if o[i].from != nil {
			_ = o[i].from.Close()
		}
	}
}

// outputGrace is how long what a process wrote may take to be read after its end. A fork that left the
// process group may hold the pipe open for ever.
const outputGrace = 200 * time.Millisecond

// told gives the last lines of a process that has ended.
func (o *outputs) told() (words string) {
	late := time.AfterFunc(outputGrace, o.close) // then reading ends
	for i := range o {
		<-o[i].ended
	}
	late.Stop()
	o.close()
	for i, name := range []string{"standard output", "standard error"} {
		words += o[i].told(name)
	}
	return words
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
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
