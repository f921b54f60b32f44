package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Unit starts module processes as services of systemd: it connects to the socket of a unit, and systemd
// starts the unit's service. A unit runs one process at a time, so a member has more than one: another
// process can begin before the one of before has ended. How a process ended, its unit writes to the file
// beside its socket with [EndSuffix].
type Unit struct {
	listener uint32

	mu    sync.Mutex
	units []unitSocket
}

type unitSocket struct {
	path string
	last *service
}

// EndSuffix ends the name of the file that says how the last process of a unit ended: the cause, a space, and
// in words, in one line.
const EndSuffix = ".end"

// NewUnit has processes started by the units with those sockets (ListenStream=). Listener is the user that
// listens on them: 0, for systemd. Their owner has made them, so nobody else is told a PIN.
func NewUnit(listener uint32, sockets ...string) *Unit {
	u := &Unit{listener: listener}
	for _, path := range sockets {
		u.units = append(u.units, unitSocket{path: path})
	}
	return u
}

// Start makes so many connections, and another, by which it sees the end of the process.
func (u *Unit) Start(ctx context.Context, name string, connections int) (Process, error) {
	if connections < 1 {
		return nil, errors.New("a process without a connection would not end")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	free := u.free()
	if free == nil {
		return nil, fmt.Errorf("start the module process of %s: each of its %d units has one that has not ended; a unit's watchdog ends one that hangs", name, len(u.units))
	}
	s, err := u.start(ctx, free.path, connections)
	if err != nil {
		return nil, fmt.Errorf("start the module process of %s: %w; is the unit of its socket active?", name, err)
	}
	free.last = s
	go s.watch()
	return s, nil
}

// free gives a unit whose process has ended, or that had none.
func (u *Unit) free() *unitSocket {
	for i := range u.units {
		if u.units[i].last == nil {
			return &u.units[i]
		}
		select {
		case <-u.units[i].last.done:
			return &u.units[i]
		default:
		}
	}
	return nil
}

func (u *Unit) start(ctx context.Context, socket string, connections int) (*service, error) {
	all, err := connect(ctx, socket, u.listener, connections+1)
	if err != nil {
		return nil, err
	}
	s := &service{connections: all[:connections:connections], life: all[connections], done: make(chan struct{}), said: make(chan struct{}),
		endFile: socket + EndSuffix, started: time.Now().Add(-fileClock)}
	writers, err := s.outputs.pipes()
	if err != nil {
		closeAll(all)
		return nil, err
	}
	defer closeFiles(writers)
	rights := unix.UnixRights(int(writers[0].Fd()), int(writers[1].Fd()))
	if _, _, err := all[0].WriteMsgUnix([]byte{outputsFollow}, rights, nil); err != nil {
		closeAll(all)
		s.outputs.close()
		return nil, fmt.Errorf("hand over where it writes: %w", err)
	}
	s.outputs.read()
	return s, nil
}

// outputsFollow is the byte that goes with the descriptors for standard output and error.
const outputsFollow = 'o'

// takeOutputs has this process write where the other side of its first connection reads: what a library
// writes may have a secret in it, and is nobody else's.
func takeOutputs(c *net.UnixConn) error {
	b, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(2*4))
	n, m, _, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		return err
	}
	if n != 1 || b[0] != outputsFollow {
		return io.ErrUnexpectedEOF
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		return errors.Join(errors.New("there is nowhere to write"), err)
	}
	descriptors, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(descriptors) != 2 {
		return errors.Join(errors.New("there is nowhere to write"), err)
	}
	for i, to := range []*os.File{os.Stdout, os.Stderr} {
		err = errors.Join(err, unix.Dup3(descriptors[i], int(to.Fd()), 0), unix.Close(descriptors[i]))
	}
	return err
}

// service is a process that systemd started.
type service struct {
	connections []*net.UnixConn
	// life is a connection on which nobody says anything: it ends when the process does.
	life    *net.UnixConn
	outputs outputs
	done    chan struct{}

	endFile string
	started time.Time
	said    chan struct{} // closed once end is there
	end     End
}

func (s *service) watch() {
	_, _ = io.Copy(io.Discard, s.life) // an error is an end as well
	_ = s.life.Close()
	close(s.done)
	s.end = s.how()
	s.end.Wrote = s.outputs.told()
	close(s.said)
}

// fileClock is how coarse the times of files are at most (CONFIG_HZ=100).
const fileClock = 10 * time.Millisecond

// endWait is how long the unit may take to say how its process ended, maxEnd how many bytes count of that.
const (
	endWait = 5 * time.Second
	maxEnd  = 256
)

// how is what the unit says of the end.
func (s *service) how() End {
	late := time.After(endWait)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		if end, whole := readEnd(s.endFile, s.started); whole {
			return end
		}
		select {
		case <-again.C:
		case <-late:
			return End{Cause: Ended, Says: "its unit does not say how"}
		}
	}
}

// readEnd reads the file if it was written since. It is whole once it has a line's end.
func readEnd(file string, since time.Time) (end End, whole bool) {
	f, err := os.Open(file)
	if err != nil {
		return End{}, false
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.ModTime().After(since) {
		return End{}, false
	}
	text, _ := io.ReadAll(io.LimitReader(f, maxEnd))
	line, _, whole := strings.Cut(string(text), "\n")
	cause, says, _ := strings.Cut(line, " ")
	return End{Cause: Cause(cause), Says: strings.Map(printable, says)}, whole && slices.Contains(causes, Cause(cause))
}

func (s *service) Connections() []*net.UnixConn { return s.connections }
func (s *service) Done() <-chan struct{}        { return s.done }
func (s *service) Said() <-chan struct{}        { return s.said }
func (s *service) PID() int                     { return 0 }

// Kill closes the connections. The process ends at the end of the first; one that cannot is ended by its
// unit's watchdog.
func (s *service) Kill() {
	closeAll(s.connections)
	_ = s.life.CloseWrite() // it is the first of a process that found the others closed
}

func (s *service) End() End {
	select {
	case <-s.said:
		return s.end
	default:
		return End{Cause: Ended, Says: "its unit has not said how yet"}
	}
}
