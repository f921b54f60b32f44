// Package process starts module processes, and is what a module process begins with. Use [Child] where
// Holdfast is one program among others, [Unit] where systemd runs the module processes, and [Inherit] in the
// process itself. Linux only.
//
// # Guarantees
//
//   - A process ends when its first connection ends, whatever the library does meanwhile; and of a [Child]
//     its parent can always end it, and what it started in its process group.
//   - Nothing that a process does keeps its parent waiting: not a flood on standard output, not a
//     descriptor that a fork keeps open, not a blocked signal.
//   - Each side takes connections of the other alone.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Process is a module process.
type Process interface {
	// Connections are those that were made. The process ends when the first is closed.
	Connections() []*net.UnixConn
	// Kill ends the process, also one that hangs, and what it has started.
	Kill()
	// Done is closed when it has ended.
	Done() <-chan struct{}
	// End says then how it ended. What a unit has not said yet is missing until Said is closed, a few
	// seconds after Done at most.
	End() End
	Said() <-chan struct{}
	// PID is its process ID; 0 if that is not known.
	PID() int
}

// End is how a process ended.
type End struct {
	Cause Cause
	// Says has it in words. Wrote has the last whole lines that the process wrote, in one line, and how
	// much that was in all; empty if it wrote nothing.
	Says, Wrote string
}

// Cause is a kind of end.
type Cause string

// The causes.
const (
	// Crashed: by a signal for what its own code did.
	Crashed Cause = "crashed"
	// Exited: by itself, with an exit status.
	Exited Cause = "exited"
	// Killed: by a signal that somebody sent.
	Killed Cause = "killed"
	// Stopped: a signal stopped it, so it was ended.
	Stopped Cause = "stopped"
	// Ended: the service manager has not said how.
	Ended Cause = "ended"
)

var causes = []Cause{Crashed, Exited, Killed, Stopped, Ended}

// connect connects so many times to the socket at path, on which a process of user uid must listen.
func connect(ctx context.Context, path string, uid uint32, connections int) (all []*net.UnixConn, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	var dialer net.Dialer
	for range connections {
		c, err := dialer.DialContext(ctx, "unix", path)
		if err != nil {
			return all, err
		}
		u, ok := c.(*net.UnixConn)
		if !ok {
			return all, errors.Join(fmt.Errorf("%s is no Unix socket", path), c.Close())
		}
		all = append(all, u)
		peer, err := credentials(u)
		if err != nil {
			return all, err
		}
		if peer.Uid != uid {
			return all, fmt.Errorf("user %d listens on %s, where user %d should; end that process", peer.Uid, path, uid)
		}
	}
	return all, nil
}

func closeAll(connections []*net.UnixConn) {
	for _, c := range connections {
		_ = c.Close() // a closed one is as well
	}
}

// credentials are those of the process at the other end: of a connection that was made, whoever began to
// listen; of one that was accepted, whoever made it.
func credentials(c *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err == nil {
		inner := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		err = errors.Join(err, inner)
	}
	if err != nil {
		return nil, fmt.Errorf("see who is at the other end of a socket: %w", err)
	}
	return peer, nil
}

// listen makes a socket in a folder of its own, which remove removes. Its path goes by the folder's
// descriptor: a socket's path has at most 107 bytes, and TMPDIR may be longer.
func listen() (listener *net.UnixListener, path string, remove func(), err error) {
	folder, err := os.MkdirTemp("", "holdfast-module-") // 0700
	if err != nil {
		return nil, "", nil, fmt.Errorf("folder for the module process's socket: %w", err)
	}
	opened, err := os.Open(folder)
	if err != nil {
		_ = os.Remove(folder) // it is empty
		return nil, "", nil, fmt.Errorf("folder for the module process's socket: %w", err)
	}
	remove = func() {
		_ = opened.Close()
		_ = os.RemoveAll(folder) // empty, or with a socket that nobody listens on
	}
	path = fmt.Sprintf("/proc/self/fd/%d/socket", opened.Fd())
	listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		remove()
		return nil, "", nil, fmt.Errorf("socket of the module process: %w", err)
	}
	return listener, path, remove, nil
}
