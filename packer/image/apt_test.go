package image_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// installer is the one script that calls apt-get where it takes a lock.
const installer = ".ci/install-packages"

// probe is the package that private roots offer.
const probe = "holdfast-apt-probe"

// root is an apt and dpkg of its own, which does not touch the machine's.
type root struct {
	t       *testing.T
	dir     string
	address string // of the mirror
}

// newRoot offers the package at a mirror, which is a folder if the handler is nil.
func newRoot(t *testing.T, mirror func(http.Handler) http.Handler) *root {
	t.Helper()
	r := &root{t: t, dir: t.TempDir()}
	for _, d := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial",
		"var/log/apt", "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d", "mirror", "bin"} {
		if err := os.MkdirAll(r.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.write("var/lib/dpkg/status", "")
	r.write("var/lib/dpkg/available", "")
	r.write("package/DEBIAN/control", "Package: "+probe+"\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: for a test\n")
	deb := r.path("mirror/probe.deb")
	r.command("dpkg-deb", "--root-owner-group", "--build", r.path("package"), deb)
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	r.write("mirror/Packages", fmt.Sprintf("%sFilename: ./probe.deb\nSize: %d\nSHA256: %x\n\n", r.command("dpkg-deb", "-f", deb), len(content), sha256.Sum256(content)))
	r.address = "file:" + r.path("mirror")
	if mirror != nil {
		s := httptest.NewServer(mirror(http.FileServer(http.Dir(r.path("mirror")))))
		t.Cleanup(s.Close)
		r.address = s.URL
	}
	r.write("etc/apt/sources.list", "deb [trusted=yes] "+r.address+" ./\n")
	r.write("apt.conf", fmt.Sprintf(`Dir "%[1]s/";
Dir::State::status "%[1]s/var/lib/dpkg/status";
Dir::Log "%[1]s/var/log/apt";
DPkg::Options { "--root=%[1]s"; "--force-not-root"; "--force-bad-path"; };
APT::Sandbox::User "";
Acquire::Retries::Delay "false";
Acquire::http::Proxy "DIRECT";
Acquire::AllowInsecureRepositories "true";
APT::Get::AllowUnauthenticated "true";
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`, r.dir))
	// A private root needs no rights.
	r.write("bin/sudo", "#!/bin/sh\nexec \"$@\"\n")
	if err := os.Chmod(r.path("bin/sudo"), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

func (r *root) write(name, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) command(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// script prepares a script of this repository, with this root for its apt.
func (r *root) script(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.t.Context(), "../../"+name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+r.path("apt.conf"), "PATH="+r.path("bin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// installed is whether dpkg has the package.
func (r *root) installed() bool {
	r.t.Helper()
	status, err := os.ReadFile(r.path("var/lib/dpkg/status"))
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes.Contains(status, []byte("Package: "+probe+"\nStatus: install ok installed\n"))
}

// hold takes a lock as apt and dpkg do (F_SETLK), or one of which the kernel does not
// tell the holder (F_OFD_SETLK). Closing the file releases it.
func (r *root) hold(lock string, command int) *os.File {
	r.t.Helper()
	f, err := os.OpenFile(r.path(lock), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	if err := unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}); err != nil {
		r.t.Fatal(err)
	}
	return f
}

// locks are those of apt-get update, of the download, and of the installation.
var locks = []string{"var/lib/apt/lists/lock", "var/cache/apt/archives/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock"}

// holder is a process that has a lock.
type holder struct {
	lock    string
	command int // of fcntl
	name    string
}

// holders has this test's process hold each lock.
func holders(t *testing.T) (all []holder) {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, lock := range locks {
		all = append(all, holder{lock, unix.F_SETLK, fmt.Sprintf("process %d (%s)", os.Getpid(), bytes.TrimSpace(name))})
	}
	return all
}

// TestInstallWaitsForLock: the installer says once which lock another process has and
// how long it waits, and installs when the lock is free.
func TestInstallWaitsForLock(t *testing.T) {
	for _, tt := range append(holders(t), holder{"var/lib/dpkg/lock-frontend", unix.F_OFD_SETLK, "another process"}) {
		t.Run(tt.lock+" "+tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t, nil)
			held := r.hold(tt.lock, tt.command)
			cmd := r.script(installer, probe)
			var complaint bytes.Buffer
			cmd.Stderr = &complaint
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said []string
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				said = append(said, lines.Text())
				if strings.Contains(lines.Text(), "waiting") {
					_ = held.Close() // which releases it
				}
			}
			if err := cmd.Wait(); err != nil || complaint.Len() > 0 {
				t.Fatalf("%v: %s %s", err, said, complaint.String())
			}
			want := []string{
				"installing Debian packages: " + probe,
				"apt's lock " + r.path(tt.lock) + " is held by " + tt.name + "; waiting for it, at most 600 s",
			}
			if !slices.Equal(said, want) {
				t.Errorf("it says %q, want %q", said, want)
			}
			if !r.installed() {
				t.Error("nothing is installed")
			}
		})
	}
}

// TestInstallGivesUp: a lock that is never released stops the installer, after the
// time that it was given, with one line that says what to do.
func TestInstallGivesUp(t *testing.T) {
	for _, tt := range holders(t) {
		t.Run(tt.lock, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t, nil)
			r.hold(tt.lock, tt.command)
			cmd := r.script(installer, probe)
			cmd.Env = append(cmd.Env, "APT_LOCK_TIMEOUT=1")
			var complaint bytes.Buffer
			cmd.Stderr = &complaint
			err := cmd.Run()
			want := ".ci/install-packages: apt's lock " + r.path(tt.lock) + " is held by " + tt.name + ", still after 1 s; run this again when that process has ended; APT_LOCK_TIMEOUT=SECONDS waits longer\n"
			if _, failed := errors.AsType[*exec.ExitError](err); !failed || complaint.String() != want {
				t.Errorf("%v, %q, want %q", err, complaint.String(), want)
			}
			if r.installed() {
				t.Error("the package is installed")
			}
		})
	}
}

// TestInstallRefused: what is not a lock is not waited for, and apt's own words tell it.
func TestInstallRefused(t *testing.T) {
	t.Parallel()
	r := newRoot(t, nil)
	for _, tt := range []struct{ name, env, want string }{
		{"holdfast-no-such-package", "", "E: Unable to locate package holdfast-no-such-package\n"},
		{probe, "APT_LOCK_TIMEOUT=10m", ".ci/install-packages: APT_LOCK_TIMEOUT=10m is not a number of seconds\n"},
	} {
		cmd := r.script(installer, tt.name)
		cmd.Env = append(cmd.Env, tt.env)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if err := cmd.Run(); err == nil || complaint.String() != tt.want {
			t.Errorf("%s %s: %v, %q, want %q", tt.name, tt.env, err, complaint.String(), tt.want)
		}
	}
}

// TestMirrorHiccup: a mirror that fails five times in a row is asked a sixth time,
// for the lists and for a package.
func TestMirrorHiccup(t *testing.T) {
	for _, tt := range []struct {
		file string
		run  func(r *root) *exec.Cmd
	}{
		{"Packages", func(r *root) *exec.Cmd { return r.script(installer, probe) }},
		{"probe.deb", func(r *root) *exec.Cmd { return r.script(installer, probe) }},
		{"binary-amd64/Packages of packer/image/debs", (*root).debs},
		{"probe.deb of packer/image/debs", (*root).debs},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			file, _, _ := strings.Cut(tt.file, " ")
			var asked atomic.Int32
			r := newRoot(t, func(mirror http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					if strings.HasSuffix(q.URL.Path, "/"+file) && asked.Add(1) <= 5 {
						http.Error(w, "try again", http.StatusServiceUnavailable)
						return
					}
					mirror.ServeHTTP(w, q)
				})
			})
			if out, err := tt.run(r).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if n := asked.Load(); n != 6 {
				t.Errorf("the mirror is asked %d times", n)
			}
		})
	}
}

// ofImage has the mirror offer two Debian releases, this machine's own, without a
// package, and the image's, and this root's apt know of the former alone.
func (r *root) ofImage() {
	r.t.Helper()
	own, err := exec.Command("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").Output()
	packages, err2 := os.ReadFile(r.path("mirror/Packages"))
	if err := errors.Join(err, err2); err != nil {
		r.t.Fatal(err)
	}
	name, _, _ := base(r.t)
	release := strings.TrimSpace(string(own))
	r.write("mirror/dists/"+release+"/main/binary-amd64/Packages", "")
	r.write("mirror/dists/"+name+"/main/binary-amd64/Packages", string(packages))
	r.write("etc/apt/sources.list", "deb "+r.address+" "+release+" main\n")
}

// copied prepares a copy of one of this folder's scripts, beside which the test puts
// the files that it works with. The mirror has the image's release.
func (r *root) copied(script string, args ...string) *exec.Cmd {
	r.t.Helper()
	r.ofImage()
	for _, name := range []string{script, "apt", "base"} {
		text, err := os.ReadFile(name)
		if err != nil {
			r.t.Fatal(err)
		}
		r.write("image/"+name, string(text))
	}
	if err := os.Chmod(r.path("image/apt"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	cmd := r.script(installer)
	cmd.Path, cmd.Args = "/bin/bash", append([]string{"bash", r.path("image/" + script)}, args...)
	return cmd
}

// debs prepares packer/image/debs, whose lock has the private root's package.
func (r *root) debs() *exec.Cmd {
	r.t.Helper()
	deb, err := os.ReadFile(r.path("mirror/probe.deb"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("image/packages.lock", fmt.Sprintf("%s 1 %x\nholdfast-no-such-package 1 %064x\n", probe, sha256.Sum256(deb), 0))
	return r.copied("debs", r.path("debs"), probe)
}

// TestDebsOfAnotherHash: a package that is not the locked one is not used.
func TestDebsOfAnotherHash(t *testing.T) {
	t.Parallel()
	r := newRoot(t, nil)
	cmd := r.debs()
	r.write("image/packages.lock", fmt.Sprintf("%s 1 %064x\n", probe, 1))
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("%s 1 is not the file of packages.lock (SHA-256 %064x): it is not used\n", probe, 1); err == nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestDebsNeedNoLock: what this machine's apt has, and who has its locks, is nothing to
// the packages of the image.
func TestDebsNeedNoLock(t *testing.T) {
	t.Parallel()
	r := newRoot(t, nil)
	for _, lock := range locks {
		r.hold(lock, unix.F_SETLK)
	}
	if out, err := r.debs().CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	debs, err := filepath.Glob(r.path("debs/*"))
	if err != nil || len(debs) != 1 || !regexp.MustCompile(`/`+probe+`_[0-9a-f]{64}\.deb$`).MatchString(debs[0]) {
		t.Errorf("it has downloaded %q, %v", debs, err)
	}
	lists, err := filepath.Glob(r.path("var/lib/apt/lists/*_Packages"))
	if err != nil || len(lists) != 0 {
		t.Errorf("this machine's lists are %q, %v", lists, err)
	}
}

// packagesLock is the root's.
func (r *root) packagesLock() string {
	r.t.Helper()
	text, err := os.ReadFile(r.path("image/packages.lock"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// TestLockIsWhole: what the image's release does not have, and what nobody signed, does
// not change packages.lock.
func TestLockIsWhole(t *testing.T) {
	t.Parallel()
	r := newRoot(t, nil)
	r.write("boottest/extra", "package "+probe+"\n")
	r.write("image/packages", "holdfast-no-such-package # a comment\n")
	r.write("image/packages.lock", "as it was\n")
	if out, err := r.copied("lock").CombinedOutput(); err == nil || !strings.Contains(string(out), "has no package holdfast-no-such-package; give its name there in packer/image/packages") {
		t.Errorf("%v: %s", err, out)
	}
	if got := r.packagesLock(); got != "as it was\n" {
		t.Errorf("packages.lock is %q", got)
	}
	r.write("image/packages", "# nothing\n")
	conf, err := os.ReadFile(r.path("apt.conf"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("apt.conf", string(conf)+"Acquire::AllowInsecureRepositories \"false\";\n")
	if out, err := r.copied("lock").CombinedOutput(); err == nil || !strings.Contains(string(out), "apt cannot have the lists of Debian") {
		t.Errorf("nobody signed the lists: %v: %s", err, out)
	}
	if got := r.packagesLock(); got != "as it was\n" {
		t.Errorf("packages.lock is %q", got)
	}
	r.write("apt.conf", string(conf))
	if out, err := r.copied("lock").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got := r.packagesLock(); !regexp.MustCompile(`^` + probe + ` 1 [0-9a-f]{64}\n$`).MatchString(got) {
		t.Errorf("packages.lock is %q", got)
	}
}

// TestNoMirror: a machine whose apt has no Debian of its own says what is needed.
func TestNoMirror(t *testing.T) {
	t.Parallel()
	r := newRoot(t, nil)
	cmd := r.debs()
	r.write("etc/apt/sources.list", "deb "+r.address+" another main\n")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "apt has no mirror of Debian for its own release") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOneInstaller: no other script, recipe or program calls apt or dpkg where they
// take a lock of this machine's. What is for the image has lists of its own.
func TestOneInstaller(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`\b(?:apt|apt-get|aptitude)\b[^#\n"]*\s(?:update|upgrade|dist-upgrade|full-upgrade|install|reinstall|remove|purge|autoremove|build-dep)\b|\bdpkg\s[^#\n]*(?:-i|--install|--configure|--unpack)\b`)
	scripts := 0
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			continue // deleted, and not committed yet
		}
		script := regexp.MustCompile(`^#!.*\b(?:ba|da)?sh\b`).Match(text) || filepath.Base(name) == "Makefile" || strings.HasSuffix(name, ".hcl")
		if !script || name == installer || name == "packer/image/apt" {
			continue
		}
		scripts++
		for i, line := range strings.Split(string(text), "\n") {
			code, _, _ := strings.Cut(line, "#")
			if call.MatchString(code) && !strings.Contains(code, "echo ") {
				t.Errorf("%s:%d calls apt or dpkg itself, which fails while another process holds their locks; use %s: %s", name, i+1, installer, line)
			}
		}
	}
	if scripts < 10 {
		t.Errorf("only %d scripts were found", scripts)
	}
}
