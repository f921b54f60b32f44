package volume_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/volume"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

// Opening for good needs a kernel that maps devices, and is tested with the image
// (packer/boottest). What is refused before is tested here, with disks that
// cryptsetup has made.

type bench struct {
	t    *testing.T
	dir  string // of the TPM's state
	p    *swtpm.Process
	dev  *tpm.Device
	key  *ecdsa.PrivateKey
	blob []byte
	// opened is what the last attempt to open gave.
	opened volume.Opened
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	t.Cleanup(b.off)
	b.boot("kernel 1")
	var err error
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	b.blob = b.sealed(seal.StateVolume)
	return b
}

func (b *bench) off() {
	if b.p != nil {
		_ = b.dev.Close()
		b.p.Stop()
	}
}

// boot starts the machine, also anew, and has it measure what it starts.
func (b *bench) boot(kernel string) {
	b.t.Helper()
	b.off()
	var err error
	if b.p, err = swtpm.Start(b.dir); err != nil {
		b.t.Fatal(err)
	}
	if b.dev, err = device.OpenTPM(b.p.Socket); err != nil {
		b.t.Fatal(err)
	}
	if err := b.dev.Extend(4, []byte(kernel)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) sealed(use seal.Use) []byte {
	b.t.Helper()
	return b.sealedBy(bytes.Repeat([]byte{7}, 64), use)
}

// sealedBy has the TPM seal that key of a volume.
func (b *bench) sealedBy(key []byte, use seal.Use) []byte {
	b.t.Helper()
	blob, err := seal.Seal(b.dev, &b.key.PublicKey, use, key)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := blob.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// disk makes one of 64 MiB.
func (b *bench) disk() string {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		b.t.Fatal(err)
	}
	return file
}

func (b *bench) cryptsetup(input []byte, args ...string) {
	b.t.Helper()
	cmd := exec.Command("cryptsetup", args...)
	cmd.Stdin = bytes.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("cryptsetup %s: %v: %s; make install-test-packages installs it", strings.Join(args, " "), err, out)
	}
}

// format makes a volume as the package does, but for what is given besides.
func (b *bench) format(disk string, besides ...string) {
	b.t.Helper()
	b.formatBy(bytes.Repeat([]byte{7}, 64), disk, besides...)
}

// formatBy is format with that key.
func (b *bench) formatBy(key []byte, disk string, besides ...string) {
	b.t.Helper()
	args := append([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--label", "holdfast-state", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"}, besides...)
	b.cryptsetup(key, append(args, disk)...)
}

func (b *bench) token(disk, kind string, sealed []byte) {
	b.t.Helper()
	b.tokenBy(disk, kind, sealed, b.leave())
}

// tokenBy is token, of a volume whose maker says that it was authorized so.
func (b *bench) tokenBy(disk, kind string, sealed []byte, by any) {
	b.t.Helper()
	text, err := json.Marshal(map[string]any{"type": kind, "keyslots": []string{"0"}, "sealed": json.RawMessage(sealed), "made_by": by})
	if err != nil {
		b.t.Fatal(err)
	}
	b.cryptsetup(text, "token", "import", "--json-file", "-", disk)
}

func (b *bench) open(disk string, authorizations ...seal.Authorization) error {
	b.t.Helper()
	before, err := os.ReadFile(disk)
	if err != nil {
		b.t.Fatal(err)
	}
	mount := filepath.Join(b.t.TempDir(), "state")
	b.opened, err = volume.Open(b.t.Context(), volume.Options{Disk: disk, Mount: mount, Owner: os.Getuid(), TPM: b.dev, Key: &b.key.PublicKey, Authorizations: authorizations})
	if err == nil {
		b.t.Fatal("it is open")
	}
	if after, err := os.ReadFile(disk); err != nil || !bytes.Equal(before, after) {
		b.t.Errorf("what was refused was changed: %v", err)
	}
	if _, err := os.Stat(mount); !errors.Is(err, os.ErrNotExist) {
		b.t.Errorf("something is mounted: %v", err)
	}
	return err
}

// TestHeader: a header that this package has not made is not opened, whatever its
// key may be: one without encryption would take any.
func TestHeader(t *testing.T) {
	b := newBench(t)
	for name, tt := range map[string]struct {
		make func(disk string)
		code fault.Code
		says string
	}{
		"data not encrypted": {func(disk string) {
			b.format(disk)
			b.token(disk, "holdfast-sealed", b.blob)
			rewrite(t, disk, func(text string) string {
				i := strings.LastIndex(text, "aes-xts-plain64") // of the segment
				return text[:i] + "cipher_null-ecb" + text[i+15:]
			})
		}, fault.VolumeHeader, "one segment, encrypted by aes-xts-plain64"},
		"key not encrypted": {func(disk string) {
			b.format(disk)
			b.token(disk, "holdfast-sealed", b.blob)
			rewrite(t, disk, func(text string) string { return strings.Replace(text, "aes-xts-plain64", "cipher_null-ecb", 1) })
		}, fault.VolumeHeader, "one keyslot, encrypted by aes-xts-plain64"},
		"another cipher": {func(disk string) {
			b.format(disk, "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")
			b.token(disk, "holdfast-sealed", b.blob)
		}, fault.VolumeHeader, "encrypted by aes-xts-plain64"},
		"two keyslots": {func(disk string) {
			b.format(disk)
			b.token(disk, "holdfast-sealed", b.blob)
			second := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(second, []byte("another key"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.cryptsetup(bytes.Repeat([]byte{7}, 64), "luksAddKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", disk, second)
		}, fault.VolumeHeader, "one keyslot"},
		"no token":                {func(disk string) { b.format(disk) }, fault.VolumeHeader, "0 tokens"},
		"another token":           {func(disk string) { b.format(disk); b.token(disk, "other", b.blob) }, fault.VolumeHeader, "holdfast-sealed"},
		"no blob":                 {func(disk string) { b.format(disk); b.token(disk, "holdfast-sealed", []byte(`{}`)) }, fault.VolumeHeader, "sealed blob"},
		"another use":             {func(disk string) { b.format(disk); b.token(disk, "holdfast-sealed", b.sealed(seal.Credential)) }, fault.VolumeHeader, "for the credential"},
		"something else":          {func(disk string) { writeAt(t, disk, "not LUKS", 4096) }, fault.VolumeHeader, "neither empty nor a state volume"},
		"nothing about its maker": {func(disk string) { b.format(disk); b.tokenBy(disk, "holdfast-sealed", b.blob, nil) }, fault.VolumeHeader, "by what the system that made it was authorized"},
		"as it should be, without leave": {func(disk string) { b.format(disk); b.token(disk, "holdfast-sealed", b.blob) },
			fault.SealPCRs, "no state of a machine is authorized to have the state-volume"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			disk := b.disk()
			tt.make(disk)
			if err := b.open(disk); fault.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v; want %s, %s", fault.CodeOf(err), err, tt.code, tt.says)
			}
		})
	}
}

// leave authorizes the machine to have the key of the state volume.
func (b *bench) leave() seal.Authorization {
	b.t.Helper()
	values, err := b.dev.ReadPCRs("sha384", []int{4, 14})
	if err != nil {
		b.t.Fatal(err)
	}
	a, err := seal.Authorize(b.key, seal.Authorization{Name: "release 1", Use: seal.StateVolume, Bank: "sha384", PCRs: map[int]tpm.Hex{4: values[4], 14: values[14]}, Version: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	return *a
}

// pcr8 is the value of the PCR that the volume is measured into.
func (b *bench) pcr8() tpm.Hex {
	b.t.Helper()
	values, err := b.dev.ReadPCRs("sha384", []int{8})
	if err != nil {
		b.t.Fatal(err)
	}
	return values[8]
}

// TestIdentity: the volume that opens is measured, before it is mapped or mounted, and
// only once in a start of the machine; what does not open is not measured.
func TestIdentity(t *testing.T) {
	b := newBench(t)
	locked := b.disk() // by another key than the one that is sealed in it
	b.formatBy(bytes.Repeat([]byte{6}, 64), locked)
	b.token(locked, "holdfast-sealed", b.blob)
	if err := b.open(locked, b.leave()); fault.CodeOf(err) != fault.VolumeOpen || b.opened.Identity != nil || !bytes.Equal(b.pcr8(), make([]byte, 48)) {
		t.Errorf("a volume that does not open: %v, measured %x, PCR 8 is %s", err, b.opened.Identity, b.pcr8())
	}

	disk := b.disk()
	b.format(disk)
	b.token(disk, "holdfast-sealed", b.blob)
	if err := b.open(disk, b.leave()); fault.CodeOf(err) != fault.VolumeOpen { // there is no device mapper here
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, bytes.Repeat([]byte{7}, 64))
	mac.Write([]byte("holdfast-volume/v1"))
	want := sha512.New384()
	want.Write(make([]byte, 48))
	event := sha512.Sum384(eventOf("state-volume", mac.Sum(nil)))
	want.Write(event[:])
	if id := mac.Sum(nil); !bytes.Equal(b.opened.Identity, id) || !bytes.Equal(b.pcr8(), want.Sum(nil)) {
		t.Errorf("the identity is %x, want %x; PCR 8 is %s, want %x", b.opened.Identity, id, b.pcr8(), want.Sum(nil))
	}
	before := b.pcr8()
	if err := b.open(disk, b.leave()); fault.CodeOf(err) != fault.VolumeMeasured || b.opened.Identity != nil || !bytes.Equal(b.pcr8(), before) {
		t.Errorf("a second one: %v, %x", err, b.opened.Identity)
	}
}

// TestPlanted: a volume that another system has made on this machine, whose key the TPM
// gives as it gives the right one's, is not opened and not measured.
func TestPlanted(t *testing.T) {
	b := newBench(t)
	good := b.leave()
	attacker, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.boot("the attacker's system")
	known := bytes.Repeat([]byte{6}, 64)
	planted := b.sealedBy(known, seal.StateVolume)
	authorizeBy := func(key *ecdsa.PrivateKey) seal.Authorization {
		right := b.key
		defer func() { b.key = right }()
		b.key = key
		return b.leave()
	}
	own := authorizeBy(attacker)
	for name, tt := range map[string]struct {
		blob func(text []byte) []byte
		by   seal.Authorization
		code fault.Code
		says string
	}{
		"by the right release, it says": {func(text []byte) []byte { return text }, good, fault.SealMade, "by a system that was not authorized"},
		"by one that it signed itself":  {func(text []byte) []byte { return text }, own, fault.SealSignature, "not signed"},
		"with the right volume's proof": {func(text []byte) []byte {
			mine, err1 := seal.ParseBlob(text)
			right, err2 := seal.ParseBlob(b.blob)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			mine.Made = right.Made
			text, err := mine.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return text
		}, good, fault.SealMade, "another object's creation was certified"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			disk := b.disk()
			b.formatBy(known, disk)
			b.tokenBy(disk, "holdfast-sealed", tt.blob(planted), tt.by)
			b.boot("kernel 1")
			if err := b.open(disk, good); fault.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) || !bytes.Equal(b.pcr8(), make([]byte, 48)) {
				t.Errorf("%v, PCR 8 is %s; want %s, %s", err, b.pcr8(), tt.code, tt.says)
			}
		})
	}
	b.t = t
	disk := b.disk() // for comparison, the right one
	b.format(disk)
	b.tokenBy(disk, "holdfast-sealed", b.blob, good)
	if err := b.open(disk, good); b.opened.Identity == nil {
		t.Errorf("the right one is not measured: %v", err)
	}
}

// eventOf is what is hashed for a measurement, as attest/tpm writes it down.
func eventOf(name string, digest []byte) (event []byte) {
	for _, part := range [][]byte{[]byte("holdfast-measurement/v1"), []byte(name), digest} {
		event = append(binary.BigEndian.AppendUint64(event, uint64(len(part))), part...)
	}
	return event
}

// rewrite changes the JSON of a header, to the same length, in both of its copies,
// with checksums that are right (LUKS2 on-disk format, section 2.1).
func rewrite(t *testing.T, disk string, change func(string) string) {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	const size, binary, sum, sumSize = 16 << 10, 4 << 10, 448, 64
	for _, at := range []int{0, size} {
		header := b[at : at+size]
		text := string(header[binary:])
		changed := change(text)
		if len(changed) != len(text) || changed == text {
			t.Fatalf("the JSON was not changed, or its length was: %s", text)
		}
		copy(header[binary:], changed)
		clear(header[sum : sum+sumSize])
		digest := sha256.Sum256(header)
		copy(header[sum:], digest[:])
	}
	if err := os.WriteFile(disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, file, text string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), offset); err != nil {
		t.Fatal(err)
	}
}

// TestFindDisk: the disk is the only one that could be meant; nothing is guessed.
func TestFindDisk(t *testing.T) {
	const gib = "2097152" // in sectors
	for name, tt := range map[string]struct {
		disks map[string]map[string]string // name: file: content
		want  string
		says  string
	}{
		"one beside the system's": {map[string]map[string]string{"nvme0n1": {"size": gib, "ro": "0", "nvme0n1p1/partition": "1"}, "nvme1n1": {"size": gib, "ro": "0"},
			"loop0": {"size": gib, "ro": "0"}, "dm-0": {"size": gib, "ro": "0"}}, "/dev/nvme1n1", ""},
		"none":      {map[string]map[string]string{"nvme0n1": {"size": gib, "ro": "0", "nvme0n1p1/partition": "1"}}, "", "there is no disk for the state"},
		"two":       {map[string]map[string]string{"nvme1n1": {"size": gib, "ro": "0"}, "nvme2n1": {"size": gib, "ro": "0"}}, "", "/dev/nvme1n1, /dev/nvme2n1 could each be"},
		"too small": {map[string]map[string]string{"nvme1n1": {"size": "2048", "ro": "0"}}, "", "at least 64 MiB"},
		"read-only": {map[string]map[string]string{"nvme1n1": {"size": gib, "ro": "1"}}, "", "there is no disk"},
	} {
		sys := t.TempDir()
		for disk, files := range tt.disks {
			for file, content := range files {
				path := filepath.Join(sys, disk, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content+"\n"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		}
		disk, err := volume.FindDisk(t.Context(), sys, time.Nanosecond)
		if disk != tt.want || (tt.says != "") != (err != nil) || (err != nil && (!strings.Contains(err.Error(), tt.says) || fault.CodeOf(err) != fault.VolumeDisk)) {
			t.Errorf("%s: %q, %v", name, disk, err)
		}
	}
}
