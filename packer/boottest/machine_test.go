//go:build image

package boottest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"crypto/tls"
)

// firmware is Debian's OVMF, of the variant that enforces Secure Boot.
const firmware = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"

// machine is one that can be switched on and off: its firmware's variables, its
// TPM and its state volume stay.
type machine struct {
	t    *testing.T
	dir  string
	qemu string   // the program
	more []string // arguments of it, beside those that each machine has
	// xks and admin are the ports of this host that lead to the machine's, while it
	// runs.
	xks, admin string
	http       *http.Client
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	// Unix sockets have short names.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, qemu: "qemu-system-x86_64", http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} //nolint:gosec // the machine made its certificate itself; evidence binds it
	m.newTPM()
	copyFile(t, filepath.Join(*images, "keys", "OVMF_VARS.fd"), m.path("vars.fd"))
	if err := os.WriteFile(m.path("state.raw"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.path("state.raw"), 256<<20); err != nil {
		t.Fatal(err)
	}
	return m
}

// twin gives another machine with a copy of all that this one, which is off, has.
func (m *machine) twin(t *testing.T) *machine {
	t.Helper()
	twin := newMachine(t)
	m.copyTo(twin.dir)
	return twin
}

// memory is what a machine keeps while it is off.
var memory = []string{"vars.fd", "state.raw", "tpm"}

// copyTo copies what the machine, which is off, keeps to a folder.
func (m *machine) copyTo(dir string) {
	m.t.Helper()
	for _, name := range memory {
		to := filepath.Join(dir, name)
		if err := os.RemoveAll(to); err != nil {
			m.t.Fatal(err)
		}
		command(m.t, "cp", "-a", "--sparse=always", m.path(name), to)
	}
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// newTPM gives the machine a TPM that has never been used.
func (m *machine) newTPM() {
	m.t.Helper()
	if err := os.RemoveAll(m.path("tpm")); err != nil {
		m.t.Fatal(err)
	}
	command(m.t, "swtpm_setup", "--tpm2", "--tpmstate", mkdir(m.t, m.path("tpm")), "--pcr-banks", "sha256,sha384", "--overwrite")
}

// boot is a machine that runs.
type boot struct {
	*machine
	qemu, swtpm *exec.Cmd
	started     time.Time
	console     *console
	complaint   bytes.Buffer // of QEMU; complete when ended is closed
	ended       chan struct{}
	// before is what the console said in an attempt that died early; empty if this is
	// the first attempt.
	before string
}

// start boots the disk, which is not written to, and waits until the initrd speaks,
// the firmware refuses the image, or the machine is off. A boot that dies early is
// tried once more, on the machine as it was before.
func (m *machine) start(disk string) *boot {
	m.t.Helper()
	asItWas := mkdir(m.t, m.path("before"))
	m.copyTo(asItWas)
	b := m.attempt(disk, "")
	if !b.diesEarly() {
		return b
	}
	b.off()
	before := b.console.text()
	m.t.Logf("%s: the kernel died before the initrd spoke, %.1f s after the machine was switched on; it is tried once more. The console said:\n%s", filepath.Base(disk), time.Since(b.started).Seconds(), before)
	(&machine{t: m.t, dir: asItWas}).copyTo(m.dir)
	b = m.attempt(disk, before)
	if b.diesEarly() {
		m.t.Errorf("%s: the kernel died before the initrd spoke, twice", filepath.Base(disk))
	}
	return b
}

// diesEarly waits until it is known.
func (b *boot) diesEarly() bool {
	b.t.Helper()
	_, _ = b.console.wait(settled, patience-time.Since(b.started)) // if it does not come, what the test wants does not either
	off := false
	select {
	case <-b.ended:
		off = true
	default:
	}
	return diedEarly(b.console.text(), off)
}

// attempt switches the machine on.
func (m *machine) attempt(disk, before string) *boot {
	m.t.Helper()
	b := &boot{machine: m, started: time.Now(), console: newConsole(), ended: make(chan struct{}), before: before}
	// The TPM and the monitor are reached by pairs of sockets: nothing has to be waited
	// for, and no name or port can be another process's.
	tpmOfQEMU, tpm := socketPair(m.t)
	b.swtpm = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+m.path("tpm"), "--ctrl", "type=unixio,clientfd=3", "--flags", "startup-clear", "--terminate")
	b.swtpm.ExtraFiles = []*os.File{tpm}
	if err := b.swtpm.Start(); err != nil {
		m.t.Fatal(err)
	}
	_ = tpm.Close()
	monitorOfQEMU, monitor := socketPair(m.t)
	defer monitor.Close()
	arguments := []string{"-nodefaults", "-no-reboot", "-display", "none",
		"-machine", "q35,smm=on", "-cpu", "max", "-m", "1024",
		// One processor: the kernel rewrites its own code as it runs (static keys), and under
		// QEMU's emulation of several, a processor now and then still runs what stood there
		// before. The kernel then dies of an int3 in sched_clock_cpu. packer/local.pkr.hcl
		// has the same.
		"-accel", "tcg,thread=single", "-smp", "1",
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmware, "-drive", "if=pflash,format=raw,unit=1,file=" + m.path("vars.fd"),
		"-chardev", "socket,id=tpm,fd=3", "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm",
		"-drive", "if=none,id=root,format=raw,snapshot=on,file=" + disk, "-device", "nvme,drive=root,serial=root,bootindex=1",
		"-drive", "if=none,id=state,format=raw,file=" + m.path("state.raw"), "-device", "nvme,drive=state,serial=state",
		// The kernel of this host chooses the ports, which the monitor tells.
		"-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:8443,hostfwd=tcp:127.0.0.1:0-:9443",
		"-chardev", "socket,id=monitor,fd=4", "-mon", "chardev=monitor,mode=control",
		"-device", "virtio-net-pci,netdev=net,romfile=", "-serial", "stdio",
		// What a host may whisper to systemd, which no PCR shows. If the image listened,
		// SysRq would be on.
		"-smbios", "type=11,value=io.systemd.credential:sysctl.extra=kernel.sysrq=1",
		"-fw_cfg", "name=opt/io.systemd.credentials/sysctl.extra,string=kernel.sysrq=1"}
	b.qemu = exec.Command(m.qemu, append(arguments, m.more...)...)
	b.qemu.ExtraFiles = []*os.File{tpmOfQEMU, monitorOfQEMU}
	b.qemu.Stdout, b.qemu.Stderr = b.console, &b.complaint
	if err := b.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	_ = tpmOfQEMU.Close()
	_ = monitorOfQEMU.Close()
	go func() {
		defer close(b.ended)
		_ = b.qemu.Wait() // it is killed, or ends by itself
		b.console.end()
	}()
	m.t.Cleanup(func() {
		b.off()
		if m.t.Failed() {
			m.t.Logf("%s: the console said:\n%s%s", filepath.Base(disk), b.console.text(), b.complaint.String())
		}
	})
	var err error
	if m.xks, m.admin, err = ports(monitor); err != nil {
		m.t.Fatalf("QEMU does not tell the ports: %v", err)
	}
	return b
}

// ports asks QEMU's monitor which ports of this host lead to the machine's.
func ports(socket *os.File) (xks, admin string, err error) {
	monitor, err := net.FileConn(socket)
	if err != nil {
		return "", "", err
	}
	defer monitor.Close()
	if err := monitor.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	type answer struct{ QMP, Return, Error, Event json.RawMessage }
	answers := json.NewDecoder(io.LimitReader(monitor, 1<<20))
	var network string
	for _, command := range []string{
		"", // it greets
		`{"execute": "qmp_capabilities"}` + "\n",
		`{"execute": "human-monitor-command", "arguments": {"command-line": "info usernet"}}` + "\n",
	} {
		if _, err := io.WriteString(monitor, command); err != nil {
			return "", "", err
		}
		a := answer{Event: json.RawMessage("first")}
		for a.Event != nil { // which comes between
			a = answer{}
			if err := answers.Decode(&a); err != nil {
				return "", "", err
			}
		}
		if a.Error != nil {
			return "", "", fmt.Errorf("%s: %s", command, a.Error)
		}
		_ = json.Unmarshal(a.Return, &network) // the last answer is a text
	}
	for _, found := range regexp.MustCompile(`TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)`).FindAllStringSubmatch(network, -1) {
		switch found[2] {
		case "8443":
			xks = found[1]
		case "9443":
			admin = found[1]
		}
	}
	if xks == "" || admin == "" {
		return "", "", fmt.Errorf("no port for 8443 or for 9443 in %q", network)
	}
	return xks, admin, nil
}

// socketPair gives two ends of a connection.
func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
}

// off cuts the power.
func (b *boot) off() {
	_ = b.qemu.Process.Kill()
	<-b.ended
	_ = b.swtpm.Process.Kill()
	_ = b.swtpm.Wait()
	// Who may read the console must not see who uses which key.
	if said := requestLine.FindString(b.console.text()); said != "" {
		b.t.Errorf("the console tells of a request: %s", said)
	}
}

// requestLine is a line about a request of KMS.
var requestLine = regexp.MustCompile(`.*kms_request_id=.*`)

// state is what /boot tells everybody.
type state struct{ State, Code, Reason string }

// patience is how long a boot may take in all. Under emulation on a busy machine
// it takes several times what it takes otherwise.
const patience = 4 * time.Minute

// until asks for the state until it is good, and gives it.
func (b *boot) until(what string, good func(state) bool) state {
	b.t.Helper()
	var last state
	for time.Since(b.started) < patience {
		select {
		case <-b.ended:
			b.t.Fatalf("the machine is off, and was to come to %s; it was last %+v", what, last)
		default:
		}
		if text, err := b.get("https://127.0.0.1:" + b.admin + "/boot"); err == nil && json.Unmarshal(text, &last) == nil && good(last) {
			return last
		}
		time.Sleep(100 * time.Millisecond) // between two questions to a machine that boots
	}
	b.t.Fatalf("the machine does not come to %s; it is %+v", what, last)
	return last
}

func (b *boot) serves() {
	b.t.Helper()
	s := b.until("serving, or locked", func(s state) bool { return s.State == "serving" || s.State == "locked" })
	if s.State != "serving" {
		b.t.Fatalf("it is locked: %+v", s)
	}
}

// locked wants the machine locked with the code, and a reason that says this.
func (b *boot) locked(code, says string) {
	b.t.Helper()
	s := b.until("locked, or serving", func(s state) bool { return s.State == "serving" || s.State == "locked" })
	if s.State != "locked" || !strings.Contains(s.Code, code) || !strings.Contains(s.Reason, says) {
		b.t.Errorf("it is %+v; want locked, %s, %q", s, code, says)
	}
	b.t.Logf("locked: %s: %s", s.Code, s.Reason)
}

// refused wants the firmware not to start the image.
func (b *boot) refused() {
	b.t.Helper()
	b.stops(firmwareRefuses)
	if b.before != "" || strings.Contains(b.console.text(), firmwareStarts) {
		b.t.Error("the firmware started it")
	}
}

// stops wants the machine to stop before it serves anything, saying why.
func (b *boot) stops(why *regexp.Regexp) {
	b.t.Helper()
	b.says(why)
	if _, err := b.get("https://127.0.0.1:" + b.admin + "/boot"); err == nil {
		b.t.Error("it answers")
	}
}

// says waits until the console has said that, and gives it.
func (b *boot) says(what *regexp.Regexp) []string {
	b.t.Helper()
	found, ok := b.console.wait(what, patience-time.Since(b.started))
	if !ok {
		b.t.Fatalf("the console never says %s", what)
	}
	b.t.Logf("console: %s", found[0])
	return found
}

func (b *boot) get(url string) ([]byte, error) {
	res, err := b.http.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, text)
	}
	return text, err
}

// console is what the serial line says.
type console struct {
	mu   sync.Mutex
	more *sync.Cond
	all  bytes.Buffer
	done bool
}

func newConsole() *console {
	c := &console{}
	c.more = sync.NewCond(&c.mu)
	return c
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.more.Broadcast()
	return c.all.Write(p)
}

func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	c.more.Broadcast()
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.String()
}

// wait waits for what is said, at most so long or until the machine is off.
func (c *console) wait(what *regexp.Regexp, most time.Duration) ([]string, bool) {
	late := false
	defer time.AfterFunc(most, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.more.Broadcast()
	}).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if found := what.FindStringSubmatch(c.all.String()); found != nil {
			return found, true
		}
		if late || c.done {
			return nil, false
		}
		c.more.Wait()
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// command runs a program, and gives what it printed.
func command(t *testing.T, program string, args ...string) string {
	t.Helper()
	return ends(t, 0, program, args...)
}

// ends runs a command that ends with the exit code, and gives what it prints.
func ends(t *testing.T, code int, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != code {
		t.Fatalf("%s %s: %v, want exit code %d\n%s", program, strings.Join(args, " "), err, code, out)
	}
	return string(out)
}
