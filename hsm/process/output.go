package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
)

// keptLines of what a process wrote are kept of each output, as far as they have keptBytes together.
const (
	keptBytes = 2 << 10
	keptLines = 5
)

// output is what a process writes: all of it is read, and the last lines are kept.
type output struct {
	from  *os.File
	ended chan struct{}

	// What follows is the reader's, until ended.
	total int64
	line  []byte // that has not ended yet
	long  bool   // it has more than keptBytes, and is left out
	lines []string
	// fatal says that the last line is why Go's runtime gave up.
	fatal bool
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
		o.endLine()
	}()
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.total += int64(len(b))
	for rest := b; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		if o.long = o.long || len(o.line)+len(part) > keptBytes; !o.long {
			o.line = append(o.line, part...)
		}
		if rest = after; whole {
			o.endLine()
		}
	}
	return len(b), nil
}

// fatalLines begin the line in which Go's runtime says why it ends the process. Behind it are stacks,
// which say nothing to people and may have secrets.
var fatalLines = []string{"fatal error: ", "panic: "}

// endLine keeps a line. Only whole ones are kept: who knows a secret can take it out, and finds no half of it.
func (o *output) endLine() {
	line := o.line
	o.line = o.line[:0]
	if o.long {
		o.long = false
		return
	}
	if o.fatal || len(bytes.TrimSpace(line)) == 0 {
		return
	}
	text := string(line)
	o.fatal = slices.ContainsFunc(fatalLines, func(begin string) bool { return strings.HasPrefix(text, begin) })
	o.lines = append(o.lines, text)
	o.lines = o.lines[max(0, len(o.lines)-keptLines):]
}

// told gives the last lines in one line, if there are any.
func (o *output) told(name string) string {
	if o.total == 0 {
		return ""
	}
	var lines []string
	bytes := 0
	for _, line := range slices.Backward(o.lines) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if bytes += len(line); bytes > keptBytes {
			break
		}
		lines = append([]string{line}, lines...)
	}
	words := fmt.Sprintf("; %d bytes on %s", o.total, name)
	if len(lines) > 0 {
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
