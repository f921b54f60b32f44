package hsmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/hsm"
	"holdfast/hsm/module"
	"holdfast/hsm/wire"
)

// moduleName is the name of a test binary that is a module process.
const moduleName = "holdfast-module"

func init() {
	if os.Args[0] != moduleName {
		return
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	var streams []wire.Stream
	for i := range n {
		f := os.NewFile(uintptr(3+i), "connection")
		c, err := net.FileConn(f)
		if err != nil {
			panic(err)
		}
		_ = f.Close() // it was duplicated
		streams = append(streams, c)
	}
	_ = module.Serve(streams[0], streams[1:]...) // the other side knows why
	os.Exit(0)
}

// launcher starts module processes of the test binary.
type launcher struct{}

type child struct {
	connections []*net.UnixConn
	cmd         *exec.Cmd
	done        chan struct{}
	end         string
}

func (launcher) Start(_ context.Context, _ string, n int) (hsm.Process, error) {
	c := &child{done: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Args = []string{moduleName, strconv.Itoa(n)}
	c.cmd.Stderr = os.Stderr
	for range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(pair[0]), "connection")
		conn, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		c.connections = append(c.connections, conn.(*net.UnixConn))
		c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, os.NewFile(uintptr(pair[1]), "connection"))
	}
	err := c.cmd.Start()
	for _, f := range c.cmd.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		return nil, err
	}
	go func() {
		c.end = fmt.Sprint(c.cmd.Wait())
		close(c.done)
	}()
	return c, nil
}

func (c *child) Connections() []*net.UnixConn { return c.connections }
func (c *child) Kill()                        { _ = c.cmd.Process.Signal(syscall.SIGKILL) }
func (c *child) Done() <-chan struct{}        { return c.done }
func (c *child) End() string                  { return c.end }
func (c *child) PID() int                     { return c.cmd.Process.Pid }
