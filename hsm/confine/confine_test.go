package confine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/hsm/confine"
)

// A task is what a child of these tests does once it is confined.
type task struct {
	Rules    confine.Rules
	Attempts []attempt
}

type attempt struct {
	Do string // a name of acts
	On string // what it is done to
}

type report struct {
	Told  confine.Told
	Words string
	Errno []syscall.Errno // of each attempt; 0: it was done
	Lines []string        // what each attempt found
}

// taskVariable makes the test's binary a child, which does that task.
const taskVariable = "HOLDFAST_CONFINE_TASK"

func TestMain(m *testing.M) {
	if t := os.Getenv(taskVariable); t != "" {
		child(t)
	}
	os.Exit(m.Run())
}

func child(text string) {
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		panic(err)
	}
	told, err := confine.Self(t.Rules)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r := report{Told: told, Words: told.String()}
	for _, a := range t.Attempts {
		errno, line := everywhere(a)
		r.Errno, r.Lines = append(r.Errno, errno), append(r.Lines, line)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// everywhere makes an attempt on eight threads, and gives the best of their results: 0 if one succeeded.
func everywhere(a attempt) (syscall.Errno, string) {
	const threads = 8
	errs, lines := make([]error, threads), make([]string, threads)
	var all sync.WaitGroup
	var together sync.WaitGroup
	together.Add(threads)
	for i := range threads {
		all.Go(func() {
			runtime.LockOSThread()
			together.Done()
			together.Wait() // so each has a thread of its own
			lines[i], errs[i] = acts[a.Do](a.On)
		})
	}
	all.Wait()
	for i, err := range errs {
		var errno syscall.Errno
		switch {
		case err == nil:
			return 0, lines[i]
		case !errors.As(err, &errno):
			return syscall.EIO, err.Error() // a failure of the test
		case i == threads-1:
			return errno, lines[i]
		}
	}
	return 0, ""
}

func parent() string { return strconv.Itoa(os.Getppid()) }

func system(_ uintptr, _ uintptr, errno syscall.Errno) (string, error) {
	if errno == 0 {
		return "", nil
	}
	return "", errno
}

func socket(family, kind, protocol int) (string, error) {
	s, err := unix.Socket(family, kind, protocol)
	if err == nil {
		err = unix.Close(s)
	}
	return "", err
}

func open(path string, flags int) (string, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err == nil {
		err = f.Close()
	}
	return "", err
}

var acts = map[string]func(on string) (string, error){
	"read":   func(on string) (string, error) { return open(on, os.O_RDONLY) },
	"write":  func(on string) (string, error) { return open(on, os.O_WRONLY) },
	"create": func(on string) (string, error) { return open(on, os.O_CREATE|os.O_WRONLY) },
	"run": func(on string) (string, error) {
		out, err := exec.Command(on).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	},
	"C": func(on string) (string, error) {
		program, command, _ := strings.Cut(on, " ")
		out, err := exec.Command(program, command).Output()
		line := strings.TrimSpace(string(out))
		if n, isNumber := strconv.Atoi(line); err == nil && isNumber == nil && command != "leak" {
			return line, syscall.Errno(n)
		}
		return line, err
	},
	"connect": func(on string) (string, error) {
		network, address, _ := strings.Cut(on, " ")
		c, err := net.Dial(network, address)
		if err == nil {
			err = c.Close()
		}
		return "", err
	},
	"listen": func(on string) (string, error) {
		l, err := net.Listen("tcp4", on)
		if err == nil {
			err = l.Close()
		}
		return "", err
	},
	"parent's memory":      func(string) (string, error) { return open("/proc/"+parent()+"/mem", os.O_RDONLY) },
	"parent's environment": func(string) (string, error) { return open("/proc/"+parent()+"/environ", os.O_RDONLY) },
	"trace parent":         func(string) (string, error) { return "", unix.PtraceSeize(os.Getppid()) },
	"read parent's memory by a call": func(string) (string, error) {
		b := make([]byte, 1)
		_, err := unix.ProcessVMReadv(os.Getppid(), []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 4096, Len: 1}}, 0)
		return "", err
	},
	"signal parent": func(string) (string, error) { return "", unix.Kill(os.Getppid(), 0) },
	"signal itself": func(string) (string, error) { return "", unix.Kill(os.Getpid(), 0) },
	"namespace": func(string) (string, error) {
		return system(syscall.RawSyscall(syscall.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0))
	},
	"namespace of a child": func(string) (string, error) {
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return "", cmd.Run()
	},
	"session": func(string) (string, error) { return system(syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)) },
	"group":   func(string) (string, error) { return "", unix.Setpgid(0, 0) },
	"mptcp":   func(string) (string, error) { return socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP) },
	"vsock":   func(string) (string, error) { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"udp":     func(string) (string, error) { return socket(unix.AF_INET, unix.SOCK_DGRAM, 0) },
	"uring":   func(string) (string, error) { return system(syscall.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)) },
	"own":     func(string) (string, error) { return "", os.Chown("/dev/null", 1, 1) },
	"dumpable": func(string) (string, error) {
		n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		return strconv.Itoa(n), err
	},
	"limits": func(string) (string, error) {
		var core, files unix.Rlimit
		err := errors.Join(unix.Getrlimit(unix.RLIMIT_CORE, &core), unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
		return fmt.Sprint(core, files), err
	},
	"ends first": func(string) (string, error) {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		return strings.TrimSpace(string(text)), err
	},
	"environment": func(string) (string, error) { return os.Getenv("HOLDFAST_CONFINED"), nil },
	"crash": func(string) (string, error) {
		err := exec.Command("/bin/sh", "-c", "kill -SEGV $$").Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return "", err
		}
		return fmt.Sprint(exit.Sys().(syscall.WaitStatus).CoreDump()), nil
	},
	"allocate": func(on string) (string, error) {
		n, err := strconv.Atoi(on)
		if err != nil {
			return "", err
		}
		b := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			b[i] = 1
		}
		runtime.KeepAlive(b)
		return "", nil
	},
}

// confined runs a child with a task.
func confined(t *testing.T, work task, environment ...string) report {
	t.Helper()
	out, stderr, err := try(t, work, environment...)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

func try(t *testing.T, work task, environment ...string) (stdout, stderr []byte, err error) {
	t.Helper()
	text, err := json.Marshal(work)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), taskVariable+"="+string(text)), environment...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.Bytes(), e.Bytes(), err
}

// site is a folder of a machine: the state, another member's folder, the module's, a log's.
type site struct{ state, other, module, logs, program string }

func newSite(t *testing.T) (s site) {
	t.Helper()
	dir := t.TempDir()
	for path, at := range map[string]*string{"state": &s.state, "members/other": &s.other, "members/one": &s.module, "logs": &s.logs} {
		*at = filepath.Join(dir, path)
		if err := os.MkdirAll(*at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*at, "file"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.program = filepath.Join(s.module, "attempts")
	if out, err := exec.Command("cc", "-O1", "-o", s.program, "testdata/attempts.c", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func listen(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr()
}

func port(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		t.Fatal(a)
	}
	return uint16(tcp.Port)
}

// always is for what needs nothing of landlock.
func always(confine.Told) bool { return true }

func files(t confine.Told) bool   { return t.Files }
func tcp(t confine.Told) bool     { return t.TCP }
func signals(t confine.Told) bool { return t.Signals }
func sockets(t confine.Told) bool { return t.Sockets }

// TestSelf tries each restriction, and what must go on working, on several threads. What this kernel does
// not confine is done, and told as free.
func TestSelf(t *testing.T) {
	s := newSite(t)
	hsmsPort, otherPort := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp4", "127.0.0.1:0")
	daemon, foreign := filepath.Join(s.logs, "daemon"), filepath.Join(s.state, "socket")
	listen(t, "unix", daemon)
	listen(t, "unix", foreign)
	abstract := fmt.Sprintf("@holdfast-confine-%d", os.Getpid())
	listen(t, "unix", abstract)
	rows := []struct {
		do, on  string
		refused syscall.Errno                // 0: it must work
		by      func(told confine.Told) bool // whether this kernel refuses it
	}{
		{"read", s.module + "/file", 0, nil}, {"read", s.module, 0, nil}, {"read", s.logs + "/file", 0, nil},
		{"write", s.logs + "/file", 0, nil}, {"create", s.logs + "/new", 0, nil}, {"write", "/dev/null", 0, nil},
		{"read", "/etc/passwd", 0, nil}, {"read", "/dev/urandom", 0, nil}, {"read", "/proc/self/smaps", 0, nil},
		{"run", "/bin/true", 0, nil}, {"C", s.program + " thread", 0, nil},
		{"connect", "tcp4 " + hsmsPort.String(), 0, nil}, {"connect", "unix " + daemon, 0, nil}, {"udp", "", 0, nil},
		{"signal itself", "", 0, nil},

		{"read", s.state + "/file", syscall.EACCES, files}, {"read", s.state, syscall.EACCES, files},
		{"write", s.state + "/file", syscall.EACCES, files}, {"create", s.state + "/new", syscall.EACCES, files},
		{"read", s.other + "/file", syscall.EACCES, files}, {"read", filepath.Dir(s.other), syscall.EACCES, files},
		{"read", "/root", syscall.EACCES, files}, {"read", "/home", syscall.EACCES, files}, {"read", "/tmp", syscall.EACCES, files},
		{"write", s.module + "/file", syscall.EACCES, files}, {"create", s.module + "/new", syscall.EACCES, files},
		{"create", "/etc/holdfast-confine-test", syscall.EACCES, files}, {"create", "/tmp/holdfast-confine-test", syscall.EACCES, files},

		{"connect", "tcp4 " + otherPort.String(), syscall.EACCES, tcp}, {"listen", "127.0.0.1:0", syscall.EACCES, tcp},
		{"mptcp", "", syscall.EPROTONOSUPPORT, always}, {"vsock", "", syscall.EAFNOSUPPORT, always},
		{"connect", "unix " + abstract, syscall.EPERM, signals}, {"connect", "unix " + foreign, syscall.EACCES, sockets},

		{"signal parent", "", syscall.EPERM, signals}, {"trace parent", "", syscall.EPERM, always},
		{"read parent's memory by a call", "", syscall.EPERM, always},
		{"parent's memory", "", syscall.EACCES, files}, {"parent's environment", "", syscall.EACCES, files},

		{"namespace", "", syscall.EPERM, always}, {"namespace of a child", "", syscall.EPERM, always},
		{"C", s.program + " unshare32", syscall.ENOSYS, always}, {"uring", "", syscall.EPERM, always},
		{"session", "", syscall.EPERM, always}, {"group", "", syscall.EPERM, always}, {"own", "", syscall.EPERM, always},
	}
	work := task{Rules: confine.Rules{Read: []string{s.module}, Write: []string{s.logs}, ConnectPorts: []uint16{port(t, hsmsPort)}}}
	for _, row := range rows {
		work.Attempts = append(work.Attempts, attempt{row.do, row.on})
	}
	r := confined(t, work)
	t.Log(r.Words)
	for i, row := range rows {
		want := syscall.Errno(0)
		if row.refused != 0 && row.by(r.Told) {
			want = row.refused
		}
		got := r.Errno[i]
		if row.refused != 0 && want == 0 {
			t.Logf("%s %s: this kernel does not confine it (%v)", row.do, row.on, got)
			continue
		}
		if got != want {
			t.Errorf("%s %s: %v (%s), not %v", row.do, row.on, got, r.Lines[i], want)
		}
	}
}

// TestNoDump: no memory of the process, and of one that it starts, is written or read; and the kernel ends it first.
func TestNoDump(t *testing.T) {
	r := confined(t, task{Attempts: []attempt{{Do: "dumpable"}, {Do: "limits"}, {Do: "crash"}, {Do: "environment"}, {Do: "ends first"}}})
	for i, want := range []string{"0", "{0 0} {1024 1024}", "false", "", "1000"} {
		if r.Errno[i] != 0 || r.Lines[i] != want {
			t.Errorf("%d: %v %q, not %q", i, r.Errno[i], r.Lines[i], want)
		}
	}
}

// TestHidden: what is hidden stays closed in a folder that is open, and what is named in it is open.
func TestHidden(t *testing.T) {
	s := newSite(t)
	members := filepath.Dir(s.other)
	link := filepath.Join(members, "link")
	if err := os.Symlink(s.other, link); err != nil {
		t.Fatal(err)
	}
	rules := confine.Rules{Read: []string{members}, Write: []string{s.logs}, Hidden: []string{link, filepath.Dir(s.logs), s.logs + "/file"}}
	r := confined(t, task{rules, []attempt{
		{"read", s.module + "/file"}, {"create", s.logs + "/new"},
		{"read", s.other + "/file"}, {"read", link + "/file"}, {"read", s.state + "/file"}, {"read", s.logs + "/file"},
	}})
	if !r.Told.Files {
		t.Skip(r.Words)
	}
	// The last: where something in it is hidden, a folder is open by what it has, so nothing is made in it.
	want := []syscall.Errno{0, syscall.EACCES, syscall.EACCES, syscall.EACCES, syscall.EACCES, syscall.EACCES}
	if fmt.Sprint(r.Errno) != fmt.Sprint(want) {
		t.Errorf("%v, not %v", r.Errno, want)
	}
}

// TestPorts: without a word on ports TCP is closed; AnyPort opens it, and that is told.
func TestPorts(t *testing.T) {
	address := listen(t, "tcp4", "127.0.0.1:0")
	connect := []attempt{{"connect", "tcp4 " + address.String()}}
	if r := confined(t, task{confine.Rules{}, connect}); r.Told.TCP && r.Errno[0] != syscall.EACCES {
		t.Errorf("%v", r.Errno)
	}
	r := confined(t, task{confine.Rules{AnyPort: true}, connect})
	if r.Errno[0] != 0 || r.Told.TCP || !strings.Contains(r.Words, "not confined: TCP") {
		t.Errorf("%v %s", r.Errno, r.Words)
	}
}

// TestRefused: what cannot be done as it was asked is no process that is less confined.
func TestRefused(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for name, c := range map[string]struct {
		rules       confine.Rules
		environment string
		want        string
	}{
		"a path that is not there":            {confine.Rules{Read: []string{gone}}, "", gone + ": no such file or directory: a module may use it"},
		"a variable that somebody has set":    {confine.Rules{}, "HOLDFAST_CONFINED=1", "the variable HOLDFAST_CONFINED is for this program alone; unset it"},
		"so little memory that Go cannot run": {confine.Rules{MemoryBytes: 1 << 20}, "", "give it at least 134217728"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, err := try(t, task{Rules: c.rules}, c.environment)
			if err == nil || !strings.Contains(string(stderr), c.want) {
				t.Errorf("%v: %s", err, stderr)
			}
		})
	}
}

// TestFiltered: a process whose unit should filter addresses does not run where none does; that one filters
// is seen in the booted image.
func TestFiltered(t *testing.T) {
	for _, allowed := range [][]netip.Prefix{nil, {netip.MustParsePrefix("10.0.0.0/8")}, {netip.MustParsePrefix("127.0.0.1/32")}} {
		_, stderr, err := try(t, task{confine.Rules{Filtered: true, Addresses: allowed}, nil})
		if err == nil || !strings.Contains(string(stderr), "the unit does not keep the process from") {
			t.Errorf("%v: %v: %s", allowed, err, stderr)
		}
	}
	r := confined(t, task{confine.Rules{Filtered: true, Addresses: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, nil})
	if !r.Told.Addresses {
		t.Errorf("%+v", r)
	}
}
