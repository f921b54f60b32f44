package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// firstInherited is the first descriptor that a service manager passes (sd_listen_fds(3)).
const firstInherited = 3

// Listener is the socket that a module process was started with.
type Listener struct {
	listener *net.UnixListener
	// user is whose connections are taken, process which one's; 0: each process of the user.
	user    uint32
	process int32
}

// Inherit gives the socket that this process was started with: by [Child], or by systemd, for connections
// of the user with that ID.
func Inherit(user uint32) (*Listener, error) {
	l := &Listener{user: user}
	defer func() {
		for _, v := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
			_ = os.Unsetenv(v) // so that no process started here takes them for its own
		}
	}()
	// A parent that is not systemd cannot know the process ID in advance, and takes its own connections alone.
	pid := os.Getenv("LISTEN_PID")
	if pid == "" {
		l.process = int32(os.Getppid())
	}
	if os.Getenv("LISTEN_FDS") != "1" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("this process was not started with one socket; only a daemon that opens a token starts it, or its unit")
	}
	file := os.NewFile(firstInherited, "the module process's socket")
	defer func() { _ = file.Close() }() // what follows has a copy
	general, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("the socket that this process was started with: %w", err)
	}
	var ok bool
	if l.listener, ok = general.(*net.UnixListener); !ok {
		return nil, errors.Join(errors.New("this process was not started with a Unix socket"), general.Close())
	}
	return l, nil
}

// Accept gives the next connection. In the socket of a unit one that has ended while it waited is passed
// over: it was for the process before this one. A connection of somebody else is an error.
func (l *Listener) Accept() (*net.UnixConn, error) {
	for {
		c, err := l.listener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := credentials(c)
		if err == nil && (peer.Uid != l.user || l.process != 0 && peer.Pid != l.process) {
			err = fmt.Errorf("process %d of user %d connects, where user %d should", peer.Pid, peer.Uid, l.user)
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if l.process != 0 {
			return c, nil // the socket was made for this process
		}
		if gone, err := ended(c, 0); err == nil && !gone {
			return c, nil
		}
		_ = c.Close() // nobody is there
	}
}

// First gives the first connection, with which the process is to end: once the other side has closed it,
// no more connections are taken, and when grace has passed as well, end is called, such as os.Exit. A thread of its own
// waits for that, so neither a hanging call into a library nor who reads the connection keeps it
// from that. From here on a process that systemd started writes where the other side reads.
func (l *Listener) First(grace time.Duration, end func()) (*net.UnixConn, error) {
	c, err := l.first()
	if err != nil {
		return nil, err
	}
	go func() {
		const forever = -1
		_, _ = ended(c, forever) // after an error the process must not stay either
		_ = l.listener.Close()   // who connects now waits for the next process
		time.Sleep(grace)
		end()
	}()
	return c, nil
}

func (l *Listener) first() (*net.UnixConn, error) {
	for {
		c, err := l.Accept()
		if err != nil || l.process != 0 {
			return c, err
		}
		err = takeOutputs(c)
		if err == nil {
			return c, nil
		}
		_ = c.Close()
		if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) { // then it has ended meanwhile
			return nil, fmt.Errorf("the first connection: %w", err)
		}
	}
}

// ended says whether the other side has closed a connection. It waits for that for so many milliseconds.
func ended(c *net.UnixConn, milliseconds int) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	copied := -1
	err = raw.Control(func(fd uintptr) { copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if copied < 0 {
		return false, err
	}
	defer func() { _ = unix.Close(copied) }()
	for {
		poll := []unix.PollFd{{Fd: int32(copied), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, milliseconds)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
