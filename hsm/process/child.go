package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Child starts module processes as children of this one.
type Child struct {
	// Program is the path of the program, this one if empty; and Arguments those that make it a module process.
	Program   string
	Arguments []string
	// Environment names variables that are passed on besides those that [Environment] has.
	Environment []string
}

// Start starts a process and makes so many connections to it. The process finds its end of them behind
// descriptor 3 ([Inherit]). The name is for errors.
func (c Child) Start(ctx context.Context, name string, connections int) (Process, error) {
	p, err := c.start(ctx, connections)
	if err != nil {
		return nil, fmt.Errorf("start the module process of %s: %w", name, err)
	}
	go p.watch()
	return p, nil
}

func (c Child) start(ctx context.Context, connections int) (*child, error) {
	if connections < 1 {
		return nil, errors.New("a process without a connection would not end")
	}
	listener, path, remove, err := listen()
	if err != nil {
		return nil, err
	}
	defer remove()
	defer func() { _ = listener.Close() }() // the process has a copy
	file, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()

	// They wait in the socket until the process accepts them. If it never does, they end with it.
	p := &child{done: make(chan struct{})}
	if p.connections, err = connect(ctx, path, uint32(os.Getuid()), connections); err != nil {
		return nil, err
	}
	program, name := c.Program, c.Program
	if program == "" {
		program, name = "/proc/self/exe", os.Args[0] // also if its file has been replaced meanwhile
	}
	p.cmd = exec.Command(program, c.Arguments...)
	p.cmd.Args[0] = name
	p.cmd.Env = append(Environment(os.Environ(), c.Environment...), "LISTEN_FDS=1", "GOTRACEBACK=none")
	p.cmd.ExtraFiles = []*os.File{file}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.open(); err != nil {
		closeAll(p.connections)
		return nil, err
	}
	return p, nil
}

// child is a process that is a child of this one.
type child struct {
	cmd         *exec.Cmd
	connections []*net.UnixConn
	outputs     outputs
	done        chan struct{}

	mu     sync.Mutex
	reaped bool // the process ID may be another's from then on
	end    End
}

// open starts the process and has what it writes read.
func (p *child) open() error {
	writers, err := p.outputs.pipes()
	if err != nil {
		return err
	}
	defer closeFiles(writers)
	p.cmd.Stdout, p.cmd.Stderr = writers[0], writers[1]
	if err := p.cmd.Start(); err != nil {
		p.outputs.close()
		return err
	}
	p.outputs.read()
	return nil
}

// watch waits for the end of the process.
func (p *child) watch() {
	// Its process ID is kept until it is reaped, so until then the group is its own.
	stopped := p.wait(unix.WEXITED | unix.WSTOPPED)
	p.mu.Lock()
	if stopped {
		p.killGroup() // it would never answer
		p.mu.Unlock()
		p.wait(unix.WEXITED)
		p.mu.Lock()
	}
	p.killGroup()
	state, err := p.cmd.Process.Wait()
	p.reaped = true
	p.mu.Unlock()

	end := howEnded(state, err)
	if stopped {
		end = End{Cause: Stopped, Says: "a signal stopped it (SIGSTOP or one like it), and it was ended"}
	}
	end.Wrote = p.outputs.told()
	p.mu.Lock()
	p.end = end
	p.mu.Unlock()
	close(p.done)
}

// wait waits until the process has ended, or is stopped, as the options say; and says whether it is stopped.
func (p *child) wait(options int) (stopped bool) {
	const cldStopped = 5 // CLD_STOPPED (waitid(2))
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, options|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			return err == nil && info.Code == cldStopped
		}
	}
}

// crashes are the signals that the kernel sends a process for what it does itself.
var crashes = []syscall.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGXCPU, unix.SIGXFSZ}

// Crashes has the names of such signals.
func Crashes() (names []string) {
	for _, s := range crashes {
		names = append(names, unix.SignalName(s))
	}
	return names
}

// howEnded says it in words.
func howEnded(state *os.ProcessState, err error) End {
	var status syscall.WaitStatus
	if err == nil {
		status, _ = state.Sys().(syscall.WaitStatus) // as package os says
	}
	switch s := status.Signal(); {
	case err != nil:
		return End{Cause: Ended, Says: "it cannot be said why"}
	case !status.Signaled():
		return End{Cause: Exited, Says: fmt.Sprintf("it exited by itself, with status %d", status.ExitStatus())}
	case slices.Contains(crashes, s):
		return End{Cause: Crashed, Says: fmt.Sprintf("it crashed: signal %s (%s)", unix.SignalName(s), s)}
	default:
		return End{Cause: Killed, Says: fmt.Sprintf("signal %s (%s) ended it, which the kernel or another process sent", unix.SignalName(s), s)}
	}
}

func (p *child) killGroup() { _ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) } // it has ended, or is of this user

func (p *child) Connections() []*net.UnixConn { return p.connections }
func (p *child) Done() <-chan struct{}        { return p.done }
func (p *child) Said() <-chan struct{}        { return p.done }
func (p *child) PID() int                     { return p.cmd.Process.Pid }

func (p *child) Kill() {
	p.mu.Lock()
	if !p.reaped {
		p.killGroup()
	}
	p.mu.Unlock()
	closeAll(p.connections)
}

func (p *child) End() End {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// Environment are those of the variables that a vendor's library, or a program of any kind, needs, and
// those of the names given. All else stays with the parent: credentials, and what systemd gave it.
func Environment(all []string, names ...string) (passed []string) {
	for _, v := range all {
		name, _, _ := strings.Cut(v, "=")
		if wanted(name, names) {
			passed = append(passed, v)
		}
	}
	return passed
}

// Named gives the files and folders that the vendors' variables, and those of the names given, name.
func Named(all []string, names ...string) (paths []string) {
	for _, v := range all {
		name, value, _ := strings.Cut(v, "=")
		if !filepath.IsAbs(value) || !among(name, vendorsVariables) && !among(name, names) {
			continue
		}
		if _, err := os.Stat(value); err == nil {
			paths = append(paths, value)
		}
	}
	return paths
}

func wanted(name string, more []string) bool {
	return among(name, programsVariables) || among(name, vendorsVariables) || among(name, more)
}

func among(name string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		prefix, begins := strings.CutSuffix(n, "*")
		return n == name || begins && strings.HasPrefix(name, prefix)
	})
}

var programsVariables = []string{"PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "LANG", "LC_*", "LD_LIBRARY_PATH", "OPENSSL_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// vendorsVariables name the settings of vendors' libraries, from their documents. One with a * is a beginning.
var vendorsVariables = []string{
	"SOFTHSM2_CONF",
	"ChrystokiConfigurationPath", // Thales Luna
	"ET_PTKC_*", "ET_HSM_*",      // Thales ProtectServer
	"NFAST_*", "CKNFAST_*", // Entrust nShield
	"CS_PKCS11_R3_CFG", "CS_PKCS11_R2_CFG", // Utimaco
	"YUBIHSM_PKCS11_CONF",                // Yubico YubiHSM 2
	"P11NETHSM_CONFIG_FILE",              // Nitrokey NetHSM
	"KMS_PKCS11_CONFIG", "KRYOPTIC_CONF", // Google Cloud HSM, Kryoptic
	"PKCS11_PROXY_*", // pkcs11-proxy
}
