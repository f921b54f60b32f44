package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Unit starts module processes as services of systemd: it connects to the socket of a unit, and systemd
// starts the unit's service. A unit runs one process at a time, so a member has more than one: another
// process can begin before the one of before has ended.
type Unit struct {
	listener uint32

	mu    sync.Mutex
	units []unitSocket
}

type unitSocket struct {
	path string
	last *service
}

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
	s := &service{connections: all[:connections:connections], life: all[connections], done: make(chan struct{})}
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
	end     string // once it is done
}

func (s *service) watch() {
	_, _ = io.Copy(io.Discard, s.life) // an error is an end as well
	_ = s.life.Close()
	s.end = "it has ended; systemd says on the machine's console how" + s.outputs.told()
	close(s.done)
}

func (s *service) Connections() []*net.UnixConn { return s.connections }
func (s *service) Done() <-chan struct{}        { return s.done }
func (s *service) PID() int                     { return 0 }

// Kill closes the connections. The process ends at the end of the first; one that cannot is ended by its
// unit's watchdog.
func (s *service) Kill() {
	closeAll(s.connections)
	_ = s.life.CloseWrite() // it is the first of a process that found the others closed
}

func (s *service) End() string {
	select {
	case <-s.done:
		return s.end
	default:
		return ""
	}
}
