package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// Unit starts module processes as services of systemd: it connects to the socket of a unit, and systemd
// starts the unit's service.
type Unit struct {
	// Socket is the path of the socket unit's socket (ListenStream=).
	Socket string
	// Listener is the user that listens on it: 0, for systemd. Its owner has made it, so nobody else is told a PIN.
	Listener uint32
}

// Start makes so many connections, and another, by which it sees the end of the process.
func (u Unit) Start(ctx context.Context, name string, connections int) (Process, error) {
	if connections < 1 {
		return nil, errors.New("a process without a connection would not end")
	}
	all, err := connect(ctx, u.Socket, u.Listener, connections+1)
	if err != nil {
		return nil, fmt.Errorf("start the module process of %s: %w; is the unit of its socket active?", name, err)
	}
	s := &service{connections: all[:connections:connections], life: all[connections], done: make(chan struct{})}
	go s.watch()
	return s, nil
}

// service is a process that systemd started.
type service struct {
	connections []*net.UnixConn
	// life is a connection on which nobody says anything: it ends when the process does.
	life *net.UnixConn
	done chan struct{}
}

func (s *service) watch() {
	_, _ = io.Copy(io.Discard, s.life) // an error is an end as well
	_ = s.life.Close()
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

func (s *service) End() End {
	return End{Cause: Ended, Says: "its unit's journal and systemctl status say why"}
}
