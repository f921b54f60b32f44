package module

import (
	"os"
	"time"

	"holdfast/hsm/process"
	"holdfast/hsm/wire"
)

// Argument is the argument that makes a program a module process.
const Argument = "module"

// Is says whether the arguments are those of a module process.
func Is(args []string) bool { return len(args) == 2 && args[1] == Argument }

// endGrace is how long the library may take to log out and finalize.
const endGrace = 2 * time.Second

// Main is what a module process does once it is confined: it takes the connections of the
// process that has started it, which is of that user, and serves. It returns, or the process
// ends, when the first connection has ended. Confined says in words how it is confined.
func Main(user uint32, confined string) error {
	if err := crashPlainly(); err != nil {
		return err
	}
	l, err := process.Inherit(user)
	if err != nil {
		return err
	}
	first, err := l.First(endGrace, func() { os.Exit(0) })
	if err != nil {
		return err
	}
	_ = Serve(confined, first, func() (wire.Stream, error) { return l.Accept() }) // it ends when the other side has gone
	return nil
}
