// Package swtpm runs the TPM emulator swtpm (libtpms, which is the firmware of
// AWS's NitroTPM as well) and boots simulated machines on it. It is for tests
// and for the simulated platform: whoever can read its directory has all of the
// TPM's secrets.
package swtpm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// maxSocket is the length of the longest path of a Unix socket, in bytes
// (unix(7): sun_path has 108 with its NUL).
const maxSocket = 107

// SocketName is the name of the socket in the state's directory.
const SocketName = "tpm.sock"

// The other files there that are not swtpm's own.
const (
	controlName = "ctrl.sock"
	readyName   = "ready"
)

// stopTime is how long swtpm may take to end when it is asked to.
const stopTime = 5 * time.Second

// Process is a TPM that runs, from its power-on to its power-off. Starting
// another in the same directory afterwards is a reboot of the same machine: PCRs
// begin anew, keys and NV memory are kept.
type Process struct {
	// Socket takes TPM commands. It is in the state's directory.
	Socket string

	process *os.Process
	ended   chan struct{}
	said    bytes.Buffer // what it printed; complete when ended is closed
}

// Start runs swtpm with its state in the directory, which must exist. When it
// returns, the TPM answers. swtpm is killed when this program ends, however it
// ends.
func Start(dir string) (*Process, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, errors.New("swtpm is not installed; on Debian: apt-get install swtpm")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	p := &Process{Socket: filepath.Join(dir, SocketName), ended: make(chan struct{})}
	if n := len(p.Socket); n > maxSocket {
		return nil, fmt.Errorf("swtpm: the socket's path %s has %d bytes, of which Unix allows %d; use a directory with a shorter name", p.Socket, n, maxSocket)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	for _, left := range []string{SocketName, controlName, readyName} {
		if err := os.Remove(filepath.Join(dir, left)); err != nil && !errors.Is(err, os.ErrNotExist) {
			lock.Close()
			return nil, fmt.Errorf("swtpm: %w", err)
		}
	}
	// swtpm writes its process ID when it listens, here into a FIFO.
	ready, announce, err := openFIFO(filepath.Join(dir, readyName))
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	defer ready.Close()
	// Its options are split at commas, so they must not have the directory's name.
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir=.",
		"--server", "type=unixio,path="+SocketName, "--ctrl", "type=unixio,path="+controlName,
		"--flags", "not-need-init,startup-clear", "--pid", "file="+readyName)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &p.said, &p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.run(cmd, announce, lock); err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	if n, _ := ready.Read(make([]byte, 16)); n == 0 || p.ping() != nil {
		p.Stop()
		return nil, fmt.Errorf("swtpm: it does not start with its state in %s; if that is damaged, begin with an empty directory. It says: %s", dir, strings.Join(strings.Fields(p.said.String()), " "))
	}
	return p, nil
}

// ping asks the TPM for something. It listens before it reads its state.
func (p *Process) ping() error {
	t, err := linuxudstpm.Open(p.Socket)
	if err != nil {
		return err
	}
	defer t.Close()
	_, err = tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
	return err
}

// dirLock is the lock of a directory.
type dirLock struct{ dir *os.File }

// Close gives the lock up at once. To close the file is not enough: a child that is being
// made meanwhile has it open, too, until it executes its program.
func (l dirLock) Close() error {
	return errors.Join(syscall.Flock(int(l.dir.Fd()), syscall.LOCK_UN), l.dir.Close())
}

// lockDir locks the directory.
func lockDir(dir string) (io.Closer, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("the directory for its state: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is the state of a TPM that runs: stop that one first", dir)
	}
	return dirLock{f}, nil
}

// openFIFO makes a FIFO, which can be read until its other end is closed.
func openFIFO(path string) (read, write *os.File, err error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", path, err)
	}
	if read, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		return nil, nil, err
	}
	if write, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
		read.Close()
		return nil, nil, err
	}
	return read, write, nil
}

// run starts the command and waits for its end, when it closes the files. One
// thread does both: the kernel kills the process when the thread that started it
// ends.
func (p *Process) run(cmd *exec.Cmd, whenEnded ...io.Closer) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		defer func() {
			for _, c := range whenEnded {
				c.Close()
			}
		}()
		err := cmd.Start()
		p.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended does not matter
		}
	}()
	return <-started
}

// Stop powers the TPM off. It may be called more than once.
func (p *Process) Stop() {
	_ = p.process.Signal(syscall.SIGTERM)
	defer time.AfterFunc(stopTime, func() { _ = p.process.Kill() }).Stop()
	<-p.ended
}
