package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/hsm/process"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "module" {
		if err := module(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// module is a module process: for connections of that user, it answers each byte with its process ID on a line.
func module(what, user string) error {
	uid, err := strconv.ParseUint(user, 10, 32)
	if err != nil {
		return err
	}
	l, err := process.Inherit(uint32(uid))
	if err != nil {
		return err
	}
	c, err := l.First(0, func() { os.Exit(7) })
	for ; err == nil; c, err = l.Accept() {
		go answer(c, what)
	}
	if errors.Is(err, net.ErrClosed) { // the first has ended, and the process with it
		select {}
	}
	return err
}

func answer(c *net.UnixConn, what string) {
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if what == "write" {
			fmt.Println("to be read")
			os.Exit(7)
		}
		if what == "hang" { // as a library does
			runtime.LockOSThread()
			_ = unix.Pause()
		}
		if _, err := fmt.Fprintln(c, os.Getpid(), os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_PID")); err != nil {
			return
		}
	}
}

// atOnce is less than the half minute that a fork stays which left the process group: nothing waits for it.
const atOnce = 20 * time.Second

// within waits for what must come at once.
func within(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(atOnce):
		t.Fatalf("%s: not within %s", what, atOnce)
	}
}

// comes waits for a state of the system that nothing tells of.
func comes(t *testing.T, what string, there func() bool) {
	t.Helper()
	late := time.After(atOnce)
	for tick := time.NewTicker(time.Millisecond); !there(); {
		select {
		case <-late:
			t.Fatalf("%s: not within %s", what, atOnce)
		case <-tick.C:
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func child(t *testing.T, what string) process.Child {
	t.Helper()
	return process.Child{Arguments: []string{"module", what, strconv.Itoa(os.Getuid())}}
}

func start(t *testing.T, c process.Child, connections int) process.Process {
	t.Helper()
	p, err := c.Start(t.Context(), "hsm-a", connections)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// ask gives what the process answers on a connection.
func ask(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; line = append(line, b[0]) {
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return strings.TrimSpace(string(line))
}

// TestLongFolder: a folder for temporary files whose path is longer than a socket's may be.
func TestLongFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	p := start(t, child(t, "answer"), 2)
	if got := ask(t, p.Connections()[1]); got != strconv.Itoa(p.PID()) {
		t.Errorf("%q, not of process %d", got, p.PID())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestChild: each connection is to the process, which ends with the first of them, and with no other.
func TestChild(t *testing.T) {
	for _, what := range []string{"answer", "hang"} {
		t.Run(what, func(t *testing.T) {
			p := start(t, child(t, what), 3)
			all := p.Connections()
			if len(all) != 3 {
				t.Fatal(len(all))
			}
			if what == "answer" {
				for _, c := range all {
					if got := ask(t, c); got != strconv.Itoa(p.PID()) {
						t.Errorf("%q, not of process %d", got, p.PID())
					}
				}
			} else if _, err := all[1].Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
			_ = all[2].Close()
			if what == "answer" {
				ask(t, all[1])
			}
			_ = all[0].Close()
			select {
			case <-p.Done():
			case <-time.After(10 * time.Second): // it may not have begun yet
				t.Fatal("it does not end")
			}
			if want := (process.End{Cause: process.Exited, Says: "it exited by itself, with status 7"}); p.End() != want {
				t.Error(p.End())
			}
		})
	}
}

// TestAwkward: whatever a process does, it can be ended, is seen to end, and leaves nothing.
func TestAwkward(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder) // other tests start processes as well
	const ignoreAll = "trap '' HUP INT QUIT ILL TRAP ABRT BUS FPE USR1 SEGV USR2 PIPE ALRM TERM CHLD CONT TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS; "
	for name, c := range map[string]struct {
		script string
		by     bool // it ends by itself
		cause  process.Cause
		end    []string
	}{
		"exits":                               {"exit 3", true, process.Exited, []string{"exited by itself, with status 3"}},
		"exits well":                          {"exit 0", true, process.Exited, []string{"exited by itself, with status 0"}},
		"says why it exits":                   {"echo first >&2; echo 'no licence\x07' >&2; exit 1", true, process.Exited, []string{"status 1", "standard error: first | no licence"}},
		"crashes":                             {"kill -SEGV $$", true, process.Crashed, []string{"it crashed: signal SIGSEGV (segmentation fault)"}},
		"forks and keeps descriptors":         {"sleep 1000 & exec 0<&-; exit 4", true, process.Exited, []string{"status 4"}},
		"forks, and leaves the process group": {"setsid sleep 30 & exit 5", true, process.Exited, []string{"status 5"}},
		"forks and hangs":                     {"sleep 1000 & sleep 1000", false, process.Killed, []string{"signal SIGKILL"}},
		"blocks all signals":                  {ignoreAll + "sleep 1000; sleep 1000", false, process.Killed, []string{"signal SIGKILL"}},
		"is stopped":                          {"kill -STOP $$", true, process.Stopped, []string{"a signal stopped it (SIGSTOP or one like it), and it was ended"}},
		"closes its descriptors":              {"exec 0<&- 1>&- 2>&- 3<&-; sleep 1000", false, process.Killed, []string{"signal SIGKILL"}},
		"floods standard output":              {"head -c 100000000 /dev/zero; echo; echo that was it; exit 6", true, process.Exited, []string{"status 6", "100000013 bytes on standard output: that was it"}},
		"floods standard error for ever":      {"exec yes >&2", false, process.Killed, []string{"signal SIGKILL", "on standard error: y | y"}},
		"is terminated":                       {"kill -TERM $$", true, process.Killed, []string{"signal SIGTERM (terminated) ended it, which the kernel or another process sent"}},
		"says that Go's runtime gave up":      {"echo first >&2; echo 'fatal error: out of memory' >&2; echo goroutine 1 >&2; exit 2", true, process.Exited, []string{"standard error: first | fatal error: out of memory"}},
		"writes a line without an end":        {"printf 'first\nlast' >&2; exit 1", true, process.Exited, []string{"10 bytes on standard error: first | last"}},
		"never accepts":                       {"sleep 1000", false, process.Killed, []string{"signal SIGKILL"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			p := start(t, process.Child{Program: "/bin/sh", Arguments: []string{"-c", c.script}}, 4)
			if c.by {
				select {
				case <-p.Done():
				case <-time.After(20 * time.Second):
					t.Fatal("its end is not seen")
				}
			} else if strings.Contains(name, "flood") {
				comes(t, "the flood", func() bool { return busy(p.PID()) })
			}
			began := time.Now()
			p.Kill()
			if d := time.Since(began); d > atOnce {
				t.Errorf("Kill took %s", d)
			}
			within(t, p.Done(), "the end")
			for _, part := range c.end {
				if end := p.End(); !strings.Contains(end.Says+end.Wrote, part) || end.Cause != c.cause {
					t.Errorf("%+v has no %q, or is not %s", end, part, c.cause)
				}
			}
			p.Kill() // and again
			comes(t, "no process of the group", func() bool { return len(group(t, p.PID())) == 0 })
			comes(t, "no descriptor more", func() bool { return descriptors(t) <= before })
			left, err := os.ReadDir(folder)
			if err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}

// group gives the processes of a process group, but for those that ended and wait for another parent to see it.
func group(t *testing.T, id int) (all []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatal(stats, err)
	}
	for _, s := range stats {
		text, err := os.ReadFile(s)
		_, after, ok := strings.Cut(string(text), ") ") // state, parent, group (proc_pid_stat(5))
		if err != nil || !ok {
			continue // it has ended
		}
		f := strings.Fields(after)
		if f[2] == strconv.Itoa(id) && (f[0] != "Z" || f[1] == strconv.Itoa(os.Getpid())) {
			all = append(all, s)
		}
	}
	return all
}

// busy says whether a process has run for a while.
func busy(pid int) bool {
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	return err == nil && !strings.Contains(string(io), "wchar: 0\n")
}

// TestConnectionsEnd: a process that never accepts leaves no connection that waits for ever.
func TestConnectionsEnd(t *testing.T) {
	p := start(t, process.Child{Program: "/bin/sh", Arguments: []string{"-c", "exit 0"}}, 2)
	for _, c := range p.Connections() {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	}
}

// TestStart: what does not start leaves nothing.
func TestStart(t *testing.T) {
	before := descriptors(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	gone := filepath.Join(t.TempDir(), "gone")
	for want, try := range map[string]func() (process.Process, error){
		"no such file":                      func() (process.Process, error) { return process.Child{Program: gone}.Start(t.Context(), "hsm-a", 2) },
		"canceled":                          func() (process.Process, error) { return child(t, "answer").Start(ended, "hsm-a", 2) },
		"would not end":                     func() (process.Process, error) { return child(t, "answer").Start(t.Context(), "hsm-a", 0) },
		"is the unit of its socket active?": func() (process.Process, error) { return process.NewUnit(0, gone).Start(t.Context(), "hsm-a", 2) },
	} {
		if _, err := try(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hsm-a") && want != "would not end" {
			t.Errorf("%v, not %q", err, want)
		}
	}
	comes(t, "no descriptor more", func() bool { return descriptors(t) <= before })
}

// TestPeers: each side refuses connections of other users and processes, and what it was not started with.
func TestPeers(t *testing.T) {
	p := start(t, process.Child{Program: self(t), Arguments: []string{"module", "answer", "12345"}}, 1)
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if want := fmt.Sprintf("process %d of user %d connects, where user 12345 should", os.Getpid(), os.Getuid()); !strings.Contains(p.End().Wrote, want) {
		t.Errorf("%q, not %q", p.End().Wrote, want)
	}

	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if _, err := process.NewUnit(12345, socket).Start(t.Context(), "hsm-a", 1); err == nil || !strings.Contains(err.Error(), "where user 12345 should") {
		t.Error(err)
	}

	out, err := exec.Command(self(t), "module", "answer", "0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "was not started with one socket") {
		t.Errorf("%v: %s", err, out)
	}
}

// activated has systemd's own tool listen on a socket, and start a module process when somebody connects.
func activated(t *testing.T, what string) (socket string) {
	t.Helper()
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		if os.Getenv("HOLDFAST_TEST_PACKAGES") != "" {
			t.Fatalf("%v: install systemd", err)
		}
		t.Skip(err)
	}
	socket = filepath.Join(t.TempDir(), "socket")
	cmd := exec.Command(tool, "-l", socket, self(t), "module", what, strconv.Itoa(os.Getuid()))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	comes(t, "the socket", func() bool {
		c, err := net.Dial("unix", socket)
		return err == nil && c.Close() == nil
	})
	return socket
}

// TestUnit: a process that is started as systemd does is seen to end, and ends with its first connection. What
// the process before it left in the socket does not end it.
func TestUnit(t *testing.T) {
	before := descriptors(t)
	for _, what := range []string{"answer", "hang"} {
		t.Run(what, func(t *testing.T) { unitEnds(t, what) })
	}
	comes(t, "no descriptor more", func() bool { return descriptors(t) <= before+1 }) // the poller's own
}

func unitEnds(t *testing.T, what string) {
	t.Helper()
	socket := activated(t, what)
	for range 3 { // as one that was ended before the process accepted: with what it has sent
		stale, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = stale.Write([]byte("?"))
		_ = stale.Close()
	}
	second := activated(t, "write")
	unit := process.NewUnit(uint32(os.Getuid()), socket, second)
	p, err := unit.Start(t.Context(), "hsm-a", 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	other, err := unit.Start(t.Context(), "hsm-a", 1) // before the first has ended
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Kill)
	if _, err := unit.Start(t.Context(), "hsm-a", 1); err == nil || !strings.Contains(err.Error(), "each of its 2 units has one") {
		t.Errorf("a third beside them: %v", err)
	}
	if _, err := other.Connections()[0].Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(second+process.EndSuffix, []byte("exited it exited by itself, with status 7\n"), 0o600); err != nil { // as its unit does
		t.Fatal(err)
	}
	within(t, other.Done(), "the other ends")
	within(t, other.Said(), "its unit says how")
	if want := (process.End{Cause: process.Exited, Says: "it exited by itself, with status 7", Wrote: "; 11 bytes on standard output: to be read"}); other.End() != want {
		t.Errorf("%+v, not %+v", other.End(), want)
	}
	all := p.Connections()
	if what == "answer" {
		pids := []string{ask(t, all[0]), ask(t, all[1]), ask(t, all[2])}
		if len(slices.Compact(pids)) != 1 {
			t.Errorf("%q", pids)
		}
	} else if _, err := all[1].Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if what == "answer" {
		_ = all[2].Close()
		ask(t, all[1])
	}
	select {
	case <-p.Done():
		t.Error("it ended with its last connection")
	default:
	}
	p.Kill()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: it does not end", what)
	}
	if p.PID() != 0 || p.End().Cause != process.Ended || p.End().Says == "" {
		t.Error(p.PID(), p.End())
	}
}

// TestEnvironment: what vendors' libraries need is passed on, and nothing of systemd's or of Holdfast's.
func TestEnvironment(t *testing.T) {
	all := []string{
		"SOFTHSM2_CONF=/a", "ChrystokiConfigurationPath=/b", "CS_PKCS11_R3_CFG=/c", "NFAST_HOME=/d", "CKNFAST_LOADSHARING=1", "PATH=/bin", "LC_ALL=C", "MINE=1", "OURS_A=2",
		"NOTIFY_SOCKET=/run/x", "CREDENTIALS_DIRECTORY=/y", "WATCHDOG_USEC=1", "LISTEN_FDS=2", "LISTEN_PID=1", "INVOCATION_ID=z", "AWS_SECRET_ACCESS_KEY=s",
		"HOLDFAST_TOKEN=t", "GODEBUG=x=1", "LD_PRELOAD=/evil", "PGPASSWORD=p", "MINEFIELD=1",
	}
	if got := process.Environment(all, "MINE", "OURS_*"); !slices.Equal(got, all[:9]) {
		t.Errorf("%q", got)
	}
	if got := process.Named([]string{"SOFTHSM2_CONF=/etc/passwd", "CS_PKCS11_R3_CFG=/gone", "NFAST_X=etc", "HOME=/root", "MINE=/etc"}, "MINE"); !slices.Equal(got, []string{"/etc/passwd", "/etc"}) {
		t.Errorf("%q", got)
	}
	p := start(t, process.Child{Program: "/bin/sh", Arguments: []string{"-c", "env | cut -d= -f1 | sort | tr '\\n' ' ' >&2; echo >&2"}}, 1)
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	for _, name := range []string{"LISTEN_FDS", "GOTRACEBACK", "PATH"} {
		if !strings.Contains(p.End().Wrote, name) {
			t.Errorf("%s is not passed on: %+v", name, p.End())
		}
	}
}
