package postgrestest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var databases atomic.Int64

// account is who the servers run as: they refuse to run as root.
type account struct{ credential *syscall.Credential }

// unprivileged gives this user, or if it is root another.
func unprivileged(t testing.TB) *account {
	if os.Getuid() != 0 {
		return &account{}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		}
	}
	t.Fatal("PostgreSQL refuses to run as root, and there is no user postgres and no user nobody")
	return nil
}

func (a *account) command(path string, args ...string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential, Setpgid: true}
	// What this environment says of databases is not for the servers' tools.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "LANG") {
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, "LC_ALL=C")
	return c
}

func (a *account) own(t testing.TB, path string) {
	if a.credential == nil {
		return
	}
	if err := os.Chown(path, int(a.credential.Uid), int(a.credential.Gid)); err != nil {
		t.Fatal(err)
	}
}

// process is a server that runs, with its children.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	guard io.Closer
	said  output
	ended chan struct{}
}

// output is what a server printed, for a test that fails.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() < 1<<20 {
		o.text.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start starts a server. If this process is killed, so is the server, and its folder is
// removed.
func start(t testing.TB, c *exec.Cmd, home string) *process {
	t.Helper()
	p := &process{t: t, cmd: c, ended: make(chan struct{})}
	c.Stdout, c.Stderr = &p.said, &p.said
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = c.Wait() // it is killed in the end
		close(p.ended)
	}()
	// The guard reads until this process, which has the other end, has ended it or itself.
	const script = `read word; [ "$word" = done ] && exit; kill -9 $(cat /proc/$1/task/*/children) $1; rm -rf "$2"`
	guard := exec.Command("sh", "-c", script, "guard", strconv.Itoa(c.Process.Pid), home)
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what ends this process's group does not end the guard
	in, err := guard.StdinPipe()
	if err == nil {
		err = guard.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = guard.Wait() }()
	p.guard = in
	return p
}

// await waits until the server answers.
func (p *process) await(what string, ready func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended:\n%s", what, p.said.String())
		default:
		}
		if ready() {
			return
		}
	}
	p.t.Fatalf("%s does not answer:\n%s", what, p.said.String())
}

// all gives the process and its children, the parent first.
func (p *process) all() []int {
	pids := []int{p.cmd.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && len(fields) > 1 && fields[1] == fmt.Sprint(pids[0]) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *process) signal(s syscall.Signal) {
	for _, pid := range p.all() {
		_ = syscall.Kill(pid, s) // it may have ended
	}
}

func (p *process) pause()  { p.signal(syscall.SIGSTOP) }
func (p *process) resume() { p.signal(syscall.SIGCONT) }

func (p *process) kill() {
	if p == nil {
		return
	}
	select {
	case <-p.ended:
		return
	default:
	}
	children := p.all()[1:]
	p.pause() // so that the parent makes no more, and notices nothing
	children = append(children, p.all()[1:]...)
	for _, pid := range append(children, p.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.ended
	for _, pid := range children {
		// They are init's children now, which takes a moment to bury them.
		for range 500 {
			if syscall.Kill(pid, 0) != nil || isZombie(pid) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	if w, ok := p.guard.(io.Writer); ok {
		_, _ = io.WriteString(w, "done\n")
	}
	_ = p.guard.Close()
}

func isZombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	return strings.HasPrefix(string(text[bytes.LastIndexByte(text, ')')+1:]), " Z")
}
