package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/appliance/identity"
)

func readCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no PEM certificate", file)
	}
	return pool, nil
}

func (d *Daemon) listen() error {
	cfg := d.o.Config
	var err error
	if d.xksL, err = ListenTCP("XKS", "--xks-addr", cfg.XKS.Address); err != nil {
		return err
	}
	d.onClose(func() { _ = d.xksL.Close() })
	if d.adminL, err = ListenTCP("admin", "--admin-addr", cfg.Admin.Address); err != nil {
		return err
	}
	d.onClose(func() { _ = d.adminL.Close() })
	if d.socketL, err = listenSocket(cfg.Admin.Socket); err != nil {
		return err
	}
	d.onClose(func() { _ = d.socketL.Close() })
	return nil
}

// ListenTCP listens at an address that the flag sets.
func ListenTCP(what, flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s address %s: another program listens there; stop it, or choose another address with %s", what, address, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s address %s: %w", what, address, err)
	}
	return l, nil
}

// listenSocket listens where only the owner may connect. A socket that a dead
// process left behind is replaced.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("admin socket %s: another appliance listens there", path)
	} else if info, stat := os.Lstat(path); stat == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("admin socket %s: there is a file that is no socket; choose another path", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
	}
	// The mode must be right from the first moment.
	before := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(before)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	return l, nil
}

// peer says who connected to the admin socket: the user and the process
// (unix(7), SO_PEERCRED). Who may open the socket may do everything.
func peer(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ctx
	}
	who := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	_ = raw.Control(func(fd uintptr) { // without it, it is not said who
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			who.Local = fmt.Sprintf("uid %d", cred.Uid)
			who.Name = fmt.Sprintf("local %s pid %d", who.Local, cred.Pid)
		}
	})
	return identity.WithPrincipal(ctx, who)
}
