package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Unit is what work is counted in.
type Unit int

// The units.
const (
	Items Unit = iota
	Octets
)

// How often it is told, and after which time first: work that is short says nothing.
const (
	movingEvery = 200 * time.Millisecond
	plainEvery  = 5 * time.Second
	movingAfter = 500 * time.Millisecond
)

// Progress tells how far long work is: at a terminal on one line that changes, elsewhere on a
// line of its own every few seconds. Give it a program's standard error, and never its output.
// The zero value and nil tell nothing. Many goroutines may use it.
type Progress struct {
	w     io.Writer
	what  string
	unit  Unit
	moves bool // on one line
	now   func() time.Time
	stop  chan struct{}
	ended chan struct{}

	mu          sync.Mutex
	began, told time.Time
	done, total int64
	shown       int // characters on the line that moves
}

// NewProgress begins to tell of work, in words such as "making grants". End must follow.
func NewProgress(w io.Writer, what string, unit Unit) *Progress {
	p := newProgress(w, what, unit, time.Now)
	every := plainEvery
	if p.moves {
		every = movingEvery
	}
	p.stop, p.ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.tell()
			case <-p.stop:
				return
			}
		}
	}()
	return p
}

// newProgress is a progress that tells when tell is called.
func newProgress(w io.Writer, what string, unit Unit, now func() time.Time) *Progress {
	p := &Progress{w: w, what: Text(what), unit: unit, now: now, began: now()}
	if device, ok := w.(*lines); ok && os.Getenv("TERM") != "dumb" {
		p.w, p.moves = device.w, true // what moves the line is written by Progress alone
	}
	p.told = p.began
	return p
}

// At says how much is done, of how much; a total of 0 is not known.
func (p *Progress) At(done, total int64) {
	if p == nil || p.now == nil {
		return
	}
	p.mu.Lock()
	p.done, p.total = done, total
	p.mu.Unlock()
}

// Add says that more is done.
func (p *Progress) Add(n int64) {
	if p == nil || p.now == nil {
		return
	}
	p.mu.Lock()
	p.done += n
	p.mu.Unlock()
}

// tell writes how far it is, if it is time.
func (p *Progress) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	every, first := plainEvery, plainEvery
	if p.moves {
		every, first = movingEvery, movingAfter
	}
	if now.Sub(p.began) < first || now.Sub(p.told) < every {
		return
	}
	p.told = now
	line := p.line(now)
	if !p.moves {
		fmt.Fprintln(p.w, line)
		return
	}
	n := utf8.RuneCountInString(line)
	fmt.Fprint(p.w, "\r"+line+strings.Repeat(" ", max(0, p.shown-n)))
	p.shown = n
}

// line says it: "making grants: 1,000 of 5,000 (20 %), 8s left".
func (p *Progress) line(now time.Time) string {
	took := now.Sub(p.began)
	if p.done == 0 && p.total == 0 {
		return fmt.Sprintf("%s: %s so far", p.what, took.Round(time.Second))
	}
	if p.total == 0 {
		return fmt.Sprintf("%s: %s, %s so far", p.what, p.amount(p.done), took.Round(time.Second))
	}
	line := fmt.Sprintf("%s: %s of %s (%d %%)", p.what, p.amount(p.done), p.amount(p.total), p.done*100/p.total)
	if p.done > 0 && p.done < p.total {
		left := time.Duration(float64(took) / float64(p.done) * float64(p.total-p.done))
		line += ", " + left.Round(time.Second).String() + " left"
	}
	return line
}

func (p *Progress) amount(n int64) string {
	if p.unit == Items {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// End ends it: a line that moved is removed. Call it before something else is printed.
func (p *Progress) End() {
	if p == nil || p.now == nil {
		return
	}
	if p.stop != nil {
		close(p.stop)
		<-p.ended
		p.stop = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown > 0 {
		fmt.Fprint(p.w, "\r"+strings.Repeat(" ", p.shown)+"\r")
		p.shown = 0
	}
}

// Writer counts what is written through it.
func (p *Progress) Writer(w io.Writer) io.Writer { return counting{p, w, nil} }

// Reader counts what is read through it, of a size that may be 0 if it is not known.
func (p *Progress) Reader(r io.Reader, size int64) io.Reader {
	p.At(0, size)
	return counting{p, nil, r}
}

type counting struct {
	p *Progress
	w io.Writer
	r io.Reader
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.p.Add(int64(n))
	return n, err
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.Add(int64(n))
	return n, err
}
