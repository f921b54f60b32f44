package hsm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"holdfast/hsm/process"
	"holdfast/hsm/wire"
)

// Ending is that a module process has ended, or was ended since it was of no use. It is an error, and
// [ErrUnavailable].
type Ending struct {
	Cause Cause
	// Why is the reason in one line, without the token's name, and without the PIN if the module wrote it.
	Why string
	At  time.Time
	// Opening says that the token was not open in the process yet.
	Opening bool

	err error // what the module said; nil if it is not that
}

// Cause is a kind of [Ending], for those who count.
type Cause = process.Cause

// The causes besides those of package process.
const (
	// Hung: a call did not come back in time.
	Hung Cause = "hung"
	// TokenLost: the module said that the token does not work.
	TokenLost Cause = "token_lost"
	// Garbled: the process or its connection gave no answer that can be used.
	Garbled Cause = "garbled"
)

// Causes are all of them.
var Causes = []Cause{process.Crashed, process.Exited, process.Killed, process.Stopped, process.Ended, Hung, TokenLost, Garbled}

const foreign = "if it comes again, update the vendor's software, or send its vendor this line"

var steps = map[Cause]string{
	process.Crashed: foreign,
	process.Exited:  "read what the library wrote, here and in its own log; if it lacks memory, raise hsm.process.memory_mib; " + foreign,
	process.Killed:  "if the kernel's log says that memory ran out, give the machine more; otherwise find out who sends the module's process signals",
	process.Stopped: "find out who sends the module's process signals; " + foreign,
	process.Ended:   "look at the machine's console for lines of holdfast-module; " + foreign,
	Hung:            "look at the HSM, and at the network to it; " + foreign,
	TokenLost:       "look at the HSM, and at the network to it",
	Garbled:         foreign,
}

// Do says what a person can do. Another process is started anyway.
func (e *Ending) Do() string { return "another process is started by itself; " + steps[e.Cause] }

// Error implements error.
func (e *Ending) Error() string { return e.Why }

// Unwrap gives [ErrUnavailable], and what the module said.
func (e *Ending) Unwrap() []error { return []error{ErrUnavailable, e.err} }

func ending(cause Cause, why string) *Ending { return &Ending{Cause: cause, Why: why, At: time.Now()} }

// lostToken is that the module says that the token does not work.
func lostToken(err error) *Ending {
	e := ending(TokenLost, strings.TrimPrefix(err.Error(), ErrUnavailable.Error()+": "))
	e.err = err
	return e
}

// gone says why a process has ended by itself.
func (p *running) gone() *Ending {
	end := p.End()
	wrote := []byte(end.Wrote)
	if len(p.cfg.PIN) > 0 {
		wrote = bytes.ReplaceAll(wrote, p.cfg.PIN, []byte("(the PIN)"))
	}
	return ending(end.Cause, "the module's process has ended: "+end.Says+string(wrote))
}

// broken says why a connection is of no use.
func (p *running) broken(err error) *Ending {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ending(Hung, "the module did not answer in time; its process is ended")
	}
	if errors.Is(err, wire.ErrFrame) {
		return ending(Garbled, fmt.Sprintf("the module's process is ended: %s", err))
	}
	select {
	case <-p.Done():
		return p.gone()
	case <-time.After(closeTimeout):
	}
	return ending(Garbled, fmt.Sprintf("the connection to the module's process is broken: %s", err))
}
