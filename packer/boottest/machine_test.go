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
	"testing"
	"time"

	"crypto/tls"
)

// firmware is Debian's OVMF, of the variant that enforces Secure Boot.
const firmware = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"

// machine is one that can be switched on and off: its firmware's variables, its
// TPM and its state volume stay.
type machine struct {
	t   *testing.T
	dir string
	// xks and admin are the ports of this host that lead to the machine's.
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
	m := &machine{t: t, dir: dir, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
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
	for _, name := range []string{"vars.fd", "state.raw"} {
		command(t, "cp", "--sparse=always", m.path(name), twin.path(name))
	}
	if err := os.RemoveAll(twin.path("tpm")); err != nil {
		t.Fatal(err)
	}
	command(t, "cp", "-a", m.path("tpm"), twin.path("tpm"))
	return twin
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
	ended       chan struct{}
}

// start boots the disk, which is not written to.
func (m *machine) start(disk string) *boot {
	m.t.Helper()
	m.xks, m.admin = freePort(m.t), freePort(m.t)
	b := &boot{machine: m, started: time.Now(), console: newConsole(), ended: make(chan struct{})}
	socket := m.path("tpm.sock")
	b.swtpm = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+m.path("tpm"), "--ctrl", "type=unixio,path="+socket, "--flags", "startup-clear", "--terminate")
	if err := b.swtpm.Start(); err != nil {
		m.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(end) {
			m.t.Fatal("swtpm does not listen")
		}
		time.Sleep(10 * time.Millisecond) // it tells nobody
	}
	b.qemu = exec.Command("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none",
		"-machine", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmware, "-drive", "if=pflash,format=raw,unit=1,file="+m.path("vars.fd"),
		"-chardev", "socket,id=tpm,path="+socket, "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm",
		"-drive", "if=none,id=root,format=raw,snapshot=on,file="+disk, "-device", "nvme,drive=root,serial=root,bootindex=1",
		"-drive", "if=none,id=state,format=raw,file="+m.path("state.raw"), "-device", "nvme,drive=state,serial=state",
		"-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:"+m.xks+"-:8443,hostfwd=tcp:127.0.0.1:"+m.admin+"-:9443",
		"-device", "virtio-net-pci,netdev=net,romfile=", "-serial", "stdio",
		// What a host may whisper to systemd, which no PCR shows. If the image listened,
		// SysRq would be on.
		"-smbios", "type=11,value=io.systemd.credential:sysctl.extra=kernel.sysrq=1",
		"-fw_cfg", "name=opt/io.systemd.credentials/sysctl.extra,string=kernel.sysrq=1")
	b.qemu.Stdout = b.console
	var complaint bytes.Buffer
	b.qemu.Stderr = &complaint
	if err := b.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = b.qemu.Wait() // it is killed, or ends by itself
		b.console.end()
	}()
	m.t.Cleanup(func() {
		b.off()
		if m.t.Failed() {
			m.t.Logf("%s: the console said:\n%s%s", filepath.Base(disk), b.console.text(), complaint.String())
		}
	})
	return b
}

// off cuts the power.
func (b *boot) off() {
	_ = b.qemu.Process.Kill()
	<-b.ended
	_ = b.swtpm.Process.Kill()
	_ = b.swtpm.Wait()
}

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

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
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
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}
