package aws_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestScripts looks whether all scripts parse, and what shellcheck says where it is.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("*.sh")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if out, err := exec.Command("bash", "-n", f).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", f, err, out)
		}
		if shellcheck, err := exec.LookPath("shellcheck"); err == nil {
			if out, err := exec.Command(shellcheck, f).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", f, err, out)
			}
		}
	}
}

// A bench has an image and a folder with programs that take the place of the machine's.
type bench struct {
	t                  *testing.T
	dir, image, sha256 string
	content            []byte
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), content: make([]byte, 5<<20+512)}
	_, _ = rand.Read(b.content) // never fails (crypto/rand)
	b.image = b.file("holdfast.raw", b.content)
	sum := sha256.Sum256(b.content)
	b.sha256 = hex.EncodeToString(sum[:])
	if err := os.Mkdir(filepath.Join(b.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) file(name string, content []byte) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) program(name, script string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "bin", name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) run(args ...string) (string, error) {
	cmd := exec.Command("bash", append([]string{"write-disk.sh"}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(b.dir, "bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// refuses runs the script, which must fail and say why.
func (b *bench) refuses(why string, args ...string) {
	b.t.Helper()
	if out, err := b.run(args...); err == nil || !strings.Contains(out, why) {
		b.t.Errorf("%v: %v, %q, want %q", args, err, out, why)
	}
}

func TestWriteDisk(t *testing.T) {
	b := newBench(t)
	after := []byte("what lies after the image")
	device := b.file("device", append(make([]byte, len(b.content)), after...))
	if out, err := b.run(b.image, device, b.sha256); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(got, append(b.content, after...)) {
		t.Errorf("the device does not hold the image, and after it what it held: %v", err)
	}
}

func TestWriteDiskRefuses(t *testing.T) {
	b := newBench(t)
	empty := make([]byte, len(b.content))
	device := b.file("device", empty)
	small := b.file("small", empty[1:])
	other := strings.Repeat("0", 64)

	b.refuses("usage")
	b.refuses("not a file", b.dir, device, b.sha256)
	b.refuses("not a SHA-256", b.image, device, "0")
	b.refuses("does not have the hash", b.image, device, other)
	b.refuses("bytes, the image", b.image, small, b.sha256)
	b.refuses("neither a block device nor a file", b.image, "/dev/null", b.sha256)
	b.refuses("neither a block device nor a file", b.image, filepath.Join(b.dir, "missing"), b.sha256)
	for path, want := range map[string][]byte{device: empty, small: empty[1:]} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s was written to: %v", path, err)
		}
	}

	b.program("dd", "exit 0") // a disk that forgets
	b.refuses("does not read back", b.image, device, b.sha256)
}

// What is in use is refused. The hash is a wrong one: should the check be missing,
// nothing is written for all that.
func TestWriteDiskRefusesDisksInUse(t *testing.T) {
	b := newBench(t)
	out, err := exec.Command("findmnt", "-nro", "SOURCE", "/").Output()
	root := strings.TrimSpace(string(out))
	if info, statErr := os.Stat(root); err != nil || statErr != nil || info.Mode()&os.ModeDevice == 0 {
		t.Skipf("the root is no device here: %q", root)
	}
	wrong := strings.Repeat("0", 64)
	b.refuses("is in use", b.image, root, wrong)

	b.program("lsblk", `case "$*" in "-nro MOUNTPOINT "*) ;; *) exec /usr/bin/lsblk "$@" ;; esac`) // cannot tell what is mounted
	b.refuses("is the root device", b.image, root, wrong)
}

// "blank" takes the disk that is neither mounted nor partitioned nor formatted.
func TestWriteDiskFindsTheBlankDisk(t *testing.T) {
	b := newBench(t)
	device := b.file("device", make([]byte, len(b.content)))
	// lsblk is the table of a machine: a line for each disk of name, size, file system, parts.
	lsblk := func(rows ...string) {
		script := "case \"$*\" in\n'-dnrbpo NAME,TYPE,SIZE')\n echo '/dev/loop0 loop 4096'\n"
		details := ""
		for _, r := range rows {
			f := strings.Split(r, "|") // name|size|file system and mount point|partitions
			script += " echo '" + f[0] + " disk " + f[1] + "'\n"
			details += "'-nrpo NAME " + f[0] + "') printf '%s\\n' " + f[0] + " " + f[3] + " ;;\n"
			details += "'-dnro FSTYPE,MOUNTPOINT " + f[0] + "') echo '" + f[2] + "' ;;\n"
		}
		b.program("lsblk", script+" ;;\n"+details+"*) exit 1 ;;\nesac\n")
	}
	root, formatted, unused := "/dev/nvme0n1|8589934592| |/dev/nvme0n1p1", "/dev/nvme2n1|1073741824|ext4 |", "/dev/zram0|0| |"

	lsblk(root, formatted, unused, device+"|1073741824| |")
	if out, err := b.run(b.image, "blank", b.sha256); err != nil || !strings.Contains(out, device) {
		t.Errorf("%v: %s", err, out)
	}
	lsblk(root, formatted, unused)
	b.refuses("0 blank disks", b.image, "blank", b.sha256)
	lsblk(root, device+"|1073741824| |", "/dev/nvme3n1|1073741824| |")
	b.refuses("2 blank disks", b.image, "blank", b.sha256)
}

// A loop device is a block device like another. Few machines let one make it.
func TestWriteDiskToBlockDevice(t *testing.T) {
	b := newBench(t)
	backing := b.file("backing", make([]byte, 8<<20))
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	if err != nil { // making one takes root and a kernel that has them; the other tests write to a file
		t.Skipf("no loop device can be made here, so writing to a block device is not tested: %v: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", loop).Run() })

	b.refuses("in use by a loop device", b.image, backing, b.sha256)
	if out, err := b.run(b.image, loop, b.sha256); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(loop)
	if err != nil || !bytes.Equal(got[:len(b.content)], b.content) {
		t.Errorf("the device does not hold the image: %v", err)
	}
}
