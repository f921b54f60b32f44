//go:build image

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// go test -tags image ./packer/image/uefivars, with Debian's packages ovmf,
// qemu-system-x86, efitools, sbsigntool and openssl, and with the image's packages in
// build/tools (packer/image/tools). It needs no KVM.
const (
	firmware       = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	emptyStore     = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	storeWithKeys  = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
	efiApplication = "../../../build/tools/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// What firmware, and then the application, writes to the serial port.
const (
	refused = "failed to load Boot[^\r\n]*: Access Denied"
	started = "Reboot Into Firmware Interface" // the menu of systemd-boot
)

// TestBoot: firmware with the store starts what db's key signed, and nothing else.
// That it starts everything without the keys shows that they are why.
func TestBoot(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	command(t, "go", "build", "-o", in("holdfast"), "holdfast/cmd/holdfast")
	command(t, "../keys", in("keys"), in("holdfast"))
	command(t, "../keys", in("others"), in("holdfast"))
	key := func(keys, name string) []string {
		return []string{"--key", in(keys + "/" + name + ".key"), "--cert", in(keys + "/" + name + ".crt")}
	}
	sign := func(out string, key []string) string {
		command(t, "sbsign", append(key, "--output", in(out), efiApplication)...)
		return in(out)
	}
	if err := run([]string{"ovmf", in("keys"), emptyStore, in("store")}); err != nil {
		t.Fatal(err)
	}
	signed := sign("signed.efi", key("keys", "db"))
	for _, c := range []struct{ name, store, application, want string }{
		{"signed by db", in("store"), signed, started},
		{"unsigned", in("store"), efiApplication, refused},
		{"signed by KEK", in("store"), sign("kek.efi", key("keys", "KEK")), refused},
		{"signed by another's db", in("store"), sign("other.efi", key("others", "db")), refused},
		{"no keys", emptyStore, efiApplication, started},
	} {
		t.Run(c.name, func(t *testing.T) { boot(t, c.store, c.application, c.want) })
	}

	// db.crt's hash forbids what db allows: dbx goes first.
	command(t, "cert-to-efi-hash-list", in("keys/db.crt"), in("keys/dbx.esl"))
	if err := run([]string{"ovmf", in("keys"), emptyStore, in("store.dbx")}); err != nil {
		t.Fatal(err)
	}
	t.Run("forbidden by dbx", func(t *testing.T) { boot(t, in("store.dbx"), signed, refused) })
}

// TestDebianStores: the store without keys is taken, as it is; the one with
// Microsoft's is not.
func TestDebianStores(t *testing.T) {
	keys, out := writeKeys(t, keyFiles()), filepath.Join(t.TempDir(), "out")
	if err := run([]string{"ovmf", keys, emptyStore, out}); err != nil {
		t.Error(err)
	}
	if err := run([]string{"ovmf", keys, storeWithKeys, out}); err == nil || !strings.Contains(err.Error(), "variables already") {
		t.Error(err)
	}
	if err := run([]string{"ovmf", keys, firmware, out}); err == nil || !strings.Contains(err.Error(), "not its code") {
		t.Error(err)
	}
}

// boot starts a machine and waits until its serial port has one of the two, which
// must be the wanted one.
func boot(t *testing.T, store, application, want string) {
	t.Helper()
	dir := t.TempDir()
	vars, disk := filepath.Join(dir, "vars"), filepath.Join(dir, "disk")
	writeFile(t, vars, readFile(t, store)) // firmware writes there
	if err := os.MkdirAll(filepath.Join(disk, "EFI", "BOOT"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(disk, "EFI", "BOOT", "BOOTX64.EFI"), readFile(t, application))

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,smm=on", "-accel", "tcg", "-m", "256", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmware,
		"-drive", "if=pflash,format=raw,unit=1,file="+vars,
		"-drive", "if=none,id=disk,format=raw,readonly=on,file=fat:"+disk, "-device", "virtio-blk-pci,drive=disk")
	serial, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	qemu.Stderr = &complaints
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = qemu.Wait() // it was killed
	}()

	const atMost = 1 << 20
	either := regexp.MustCompile(refused + "|" + started)
	var seen []byte
	for buf := make([]byte, 4096); len(seen) < atMost; {
		n, err := serial.Read(buf)
		seen = append(seen, buf[:n]...)
		if found := either.Find(seen); found != nil {
			t.Logf("%s", found)
			if !regexp.MustCompile(want).Match(found) {
				t.Errorf("the firmware says %q; %q is wanted", found, want)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	t.Errorf("%q did not come (%v):\n%s\n%s", want, context.Cause(ctx), seen, complaints.Bytes())
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
