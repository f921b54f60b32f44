package predict_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"holdfast/attest/predict"
	"holdfast/attest/predict/predicttest"
	"holdfast/attest/tpm"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// build builds an image, and gives the folder with its parts.
func build(t testing.TB, i predicttest.Image) string {
	t.Helper()
	dir := t.TempDir()
	i.Root = filepath.Join(dir, "root")
	for name, content := range map[string]string{
		"usr/bin/holdfastd":          program(),
		"etc/holdfast/holdfast.toml": "[hsm]\n",
		"usr/lib/softhsm/module.so":  "module",
	} {
		path := filepath.Join(i.Root, name)
		check(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)))
	}
	for name, target := range map[string]string{
		"lib": "usr/lib", "usr/lib/a.so": "../../lib/softhsm/module.so", "usr/lib/b.so": "/usr/lib/a.so",
		"loop": "loop", "out": "../../../etc/passwd",
	} {
		check(t, os.Symlink(target, filepath.Join(i.Root, name)))
	}
	if _, err := i.Build(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// program is a program that does not compress, so that the hash tree has two
// levels.
func program() string {
	b := make([]byte, 800_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

func open(t testing.TB, dir string) *predict.Image {
	t.Helper()
	i := must[*predict.Image](t)(predict.Open(filepath.Join(dir, "image.raw")))
	t.Cleanup(func() { check(t, i.Close()) })
	return i
}

// banks are the hashes of the banks, apart from the package's own.
var banks = map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384}

func digest(h func() hash.Hash, data []byte) []byte {
	w := h()
	w.Write(data)
	return w.Sum(nil)
}

// extended is a PCR after the digests.
func extended(h func() hash.Hash, digests ...[]byte) string {
	value := make([]byte, h().Size())
	for _, d := range digests {
		value = digest(h, append(value, d...))
	}
	return fmt.Sprintf("%x", value)
}

// TestImage: what is in the image can be read, through its symbolic links.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := build(t, predicttest.Image{CommandLine: "panic=1"})
	i := open(t, dir)
	if want := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "uki.efi"))); !bytes.Equal(i.UKI(), want) {
		t.Error("the UKI is another")
	}
	if want := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "cmdline"))); i.CommandLine() != string(want) {
		t.Errorf("command line %q", i.CommandLine())
	}
	for _, name := range []string{"usr/bin/holdfastd", "etc/holdfast/holdfast.toml", "usr/lib/softhsm/module.so"} {
		want := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "root", name)))
		if got, err := fs.ReadFile(i.Root(), name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"lib/softhsm/module.so", "usr/lib/a.so", "lib/b.so"} {
		if got, err := fs.ReadFile(i.Root(), name); err != nil || string(got) != "module" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"loop", "out", "usr/bin", "none", "../x", "usr/bin/holdfastd/x"} {
		if _, err := i.Root().Open(name); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
}

// TestPCRs: the values are what the hashes of other tools extend.
func TestPCRs(t *testing.T) {
	t.Parallel()
	dir := build(t, predicttest.Image{})
	pcrs := must[tpm.PCRs](t)(open(t, dir).PCRs(nil))
	for name, h := range banks {
		got := func(n int) string { return pcrs[name][n].String() }
		zero := strings.Repeat("00", h().Size())
		if len(pcrs[name]) != 5 || got(12) != zero || got(13) != zero {
			t.Errorf("%s: %v", name, pcrs[name])
		}
		if want := systemdMeasure(t, dir, name, "osrel", "cmdline", "initrd"); got(11) != want {
			t.Errorf("%s: PCR 11 is %s, systemd-measure says %s", name, got(11), want)
		}
		action, separator := digest(h, []byte("Calling EFI Application from Boot Option")), digest(h, make([]byte, 4))
		uki := digest(h, flatten(t, filepath.Join(dir, "uki.efi")))
		kernel := digest(h, flatten(t, must[string](t)(predicttest.Stub())))
		if want := extended(h, action, separator, uki, kernel); got(4) != want {
			t.Errorf("%s: PCR 4 is %s, not %s", name, got(4), want)
		}
	}
	// As AWS documents, and any machine without keys shows.
	if v := pcrs["sha384"][7].String(); !strings.HasPrefix(v, "98441c7f") || !strings.HasSuffix(v, "af35") {
		t.Errorf("PCR 7 without Secure Boot is %s", v)
	}
}

// TestEverySection: each section that the stub may measure is, in its order, and the
// signature of PCRs is not.
func TestEverySection(t *testing.T) {
	t.Parallel()
	sections := map[string]string{".pcrsig": "{}"}
	measured := []string{"osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "uname", "pcrpkey"}
	for _, name := range measured[3:] {
		sections["."+name] = "content of " + name
	}
	dir := build(t, predicttest.Image{Sections: sections})
	pcrs := must[tpm.PCRs](t)(open(t, dir).PCRs(nil))
	for name := range banks {
		if got, want := pcrs[name][11].String(), systemdMeasure(t, dir, name, measured...); got != want {
			t.Errorf("%s: PCR 11 is %s, systemd-measure says %s", name, got, want)
		}
	}
}

// systemdMeasure asks systemd for PCR 11 of an image with these sections, whose files are
// in the folder, and with those of the stub.
func systemdMeasure(t *testing.T, dir, bank string, sections ...string) string {
	t.Helper()
	args := []string{"calculate", "--bank=" + bank, "--phase=:", "--json=short", "--linux=" + must[string](t)(predicttest.Stub())}
	for _, name := range sections {
		args = append(args, "--"+name+"="+filepath.Join(dir, name))
	}
	out := must[[]byte](t)(predicttest.Measure(append(args, "--sbat="+sectionOf(t, filepath.Join(dir, "uki.efi"), ".sbat"))...))
	var values map[string][]struct{ Hash string }
	check(t, json.Unmarshal(out, &values))
	return values[bank][0].Hash
}

// sectionOf gives a file with a section's content, which binutils find.
func sectionOf(t *testing.T, file, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "section")
	if out, err := exec.Command("objcopy", "-O", "binary", "--only-section="+name, file, to).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v: %s", err, out)
	}
	return to
}

// flatten gives what is hashed of an unsigned PE file, by its offsets.
func flatten(t *testing.T, path string) []byte {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(path))
	optional := int(binary.LittleEndian.Uint32(b[0x3c:])) + 24
	b = append(b[:optional+144:optional+144], b[optional+152:]...) // the certificate table's entry
	return append(b[:optional+64:optional+64], b[optional+68:]...) // the checksum
}

// TestSecureBoot: with Secure Boot the kernel is not measured, and db's entry is.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	key := func(name string, issuer *predicttest.Key) *predicttest.Key {
		return must[*predicttest.Key](t)(predicttest.NewKey(keys, name, issuer))
	}
	authority, other := key("CA", nil), key("other", nil)
	signer := key("signer", authority)
	dir := build(t, predicttest.Image{Signer: signer})
	image := open(t, dir)
	sha256List := []byte("\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28")
	dbx := predicttest.ESL(sha256List, make([]byte, 32))
	global := []byte("\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c")
	security := []byte("\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f")
	for name, entry := range map[string][]byte{"signer": signer.ESL(), "issuer": authority.ESL()} {
		s := write(t, map[string][]byte{"PK": other.ESL(), "KEK": other.ESL(), "db": append(other.ESL(), entry...), "dbx": dbx})
		pcrs := must[tpm.PCRs](t)(image.PCRs(must[*predict.SecureBoot](t)(predict.ReadSecureBoot(s))))
		for bank, h := range banks {
			variable := func(vendor []byte, name string, content []byte) []byte {
				var b []byte
				b = append(b, vendor...)
				b = binary.LittleEndian.AppendUint64(b, uint64(len(name)))
				b = binary.LittleEndian.AppendUint64(b, uint64(len(content)))
				for _, c := range utf16.Encode([]rune(name)) {
					b = binary.LittleEndian.AppendUint16(b, c)
				}
				return digest(h, append(b, content...))
			}
			want := extended(h, variable(global, "SecureBoot", []byte{1}), variable(global, "PK", other.ESL()), variable(global, "KEK", other.ESL()),
				variable(security, "db", append(other.ESL(), entry...)), variable(security, "dbx", dbx), digest(h, make([]byte, 4)),
				variable(security, "db", entry[28:]))
			if got := pcrs[bank][7].String(); got != want {
				t.Errorf("%s, %s: PCR 7 is %s, not %s", name, bank, got, want)
			}
		}
	}
	for _, c := range []struct {
		name, want string
		files      map[string][]byte
	}{
		{"no PK", "PK.esl is missing", map[string][]byte{"db": signer.ESL()}},
		{"no db", "db.esl is missing", map[string][]byte{"PK": signer.ESL()}},
		{"damaged", "db.esl: it is no sequence", map[string][]byte{"PK": signer.ESL(), "db": signer.ESL()[1:]}},
		{"too large", "more than 262144 bytes", map[string][]byte{"PK": make([]byte, predict.MaxVariable+1)}},
		{"another's", "db has no certificate that signed", map[string][]byte{"PK": other.ESL(), "db": other.ESL()}},
		{"forbidden signer", `dbx forbids the certificate of "CN=signer"`, map[string][]byte{"PK": other.ESL(), "db": signer.ESL(), "dbx": signer.ESL()}},
		{"forbidden image", "dbx forbids .* by its hash", map[string][]byte{"PK": other.ESL(), "db": signer.ESL(), "dbx": predicttest.ESL(sha256List, authenticode(t, filepath.Join(dir, "uki.efi")))}},
	} {
		s, err := predict.ReadSecureBoot(write(t, c.files))
		if err == nil {
			_, err = image.PCRs(s)
		}
		refused(t, c.name, c.want, err)
	}
	unsigned := open(t, build(t, predicttest.Image{}))
	s := must[*predict.SecureBoot](t)(predict.ReadSecureBoot(write(t, map[string][]byte{"PK": other.ESL(), "db": signer.ESL()})))
	_, err := unsigned.PCRs(s)
	refused(t, "unsigned", "is not signed", err)
}

// authenticode asks osslsigncode for a file's SHA-256.
func authenticode(t *testing.T, path string) []byte {
	t.Helper()
	out, _ := exec.Command("osslsigncode", "verify", "-in", path).CombinedOutput() // fails, as it does not know the certificate
	_, rest, _ := strings.Cut(string(out), "Calculated message digest : ")
	var d []byte
	if _, err := fmt.Sscanf(rest, "%X", &d); err != nil || len(d) != 32 {
		t.Fatalf("osslsigncode: %v\n%s", err, out)
	}
	return d
}

// write writes the variables of Secure Boot to a folder.
func write(t *testing.T, variables map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range variables {
		check(t, os.WriteFile(filepath.Join(dir, name+".esl"), content, 0o600))
	}
	return dir
}

// refused checks that the error is one line that matches.
func refused(t *testing.T, name, want string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted", name)
		return
	}
	if !match(want, err.Error()) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %q, not %q", name, err, want)
	}
}

// match is whether the text has the parts between ".*", in order.
func match(want, text string) bool {
	for part := range strings.SplitSeq(want, ".*") {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// TestRefused: an image that does not hang together is refused.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir := build(t, predicttest.Image{})
	good := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "image.raw")))
	find := func(pattern string) int {
		at := bytes.Index(good, []byte(pattern))
		if at < 0 {
			t.Fatalf("the image has no %q", pattern)
		}
		return at
	}
	root := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "root.img")))
	tree := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "tree.img")))
	rootAt, treeAt := find(string(root[:512])), find(string(tree[:512]))
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	replace := func(old, with string) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[find(old):], with); return b }
	}
	espAt := 1 << 20
	for _, c := range []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"empty", "no raw image with a GPT", func([]byte) []byte { return nil }},
		{"zeros", "no raw image with a GPT", func([]byte) []byte { return make([]byte, 1<<20) }},
		{"the table's header", "no raw image with a GPT", flip(512 + 60)},
		{"the number of partitions", "no raw image with a GPT.*and may have", flip(512 + 83)},
		{"a partition", "no raw image with a GPT", flip(1024 + 40)},
		{"cut off", "outside of the image", func(b []byte) []byte { return b[:treeAt] }},
		{"the first byte of the root", "the root partition has the root hash", flip(rootAt)},
		{"the last byte of the root", "the root partition has the root hash", flip(rootAt + len(root) - 1)},
		{"the first byte of the tree", "the hash partition is not", flip(treeAt)},
		{"the last hash of the tree", "the hash partition is not", flip(treeAt + len(tree) - 4096)},
		{"the number of blocks", "the root partition has", replace("holdfast.verity=", "holdfast.verity=9")},
		{"the salt", "the root partition has the root hash", replace(predicttest.Salt, "ff")},
		{"another salt", "not <data blocks>:<salt>:<root hash>", replace(predicttest.Salt, "x")},
		{"no hash tree", "must have holdfast.verity=", replace("holdfast.verity=", "holdfast.Verity=")},
		{"twice", "must have holdfast.verity=", replace("quiet holdfast", "holdfast.verity")},
		{"an older stub", "not systemd-stub 257", replace("#### LoaderInfo: systemd-stub 257", "#### LoaderInfo: systemd-stub 252")},
		{"a newer stub", "not systemd-stub 257", replace("#### LoaderInfo: systemd-stub 257", "#### LoaderInfo: systemd-stub 258")},
		{"no kernel", "no section .linux", replace(".linux\x00", ".Linux\x00")},
		{"two sections", "not certain", replace(".osrel\x00\x00", ".initrd\x00")},
		{"two sections, one with a longer name behind a zero byte", "not certain", replace(".osrel\x00\x00", ".linux\x00x")},
		{"a profile", "has a section .profile", replace(".osrel\x00\x00", ".profile")},
		{"a tree of devices that the machine chooses", "has a section .dtbauto", replace(".osrel\x00\x00", ".dtbauto")},
		{"a table of machines", "has a section .hwids", replace(".osrel\x00\x00", ".hwids\x00\x00")},
		{"no FAT", "no FAT32", flip(espAt + 510)},
		{"no folder", "only .* may be there", replace("EFI        \x10", "EFJ        \x10")},
		{"no file", "only .* may be there", replace("BOOTX64 EFI", "BOOTX65 EFI")},
	} {
		path := filepath.Join(t.TempDir(), "image")
		check(t, os.WriteFile(path, c.change(bytes.Clone(good)), 0o600))
		i, err := predict.Open(path)
		refused(t, c.name, c.want, err)
		if err == nil {
			_ = i.Close()
		}
	}
	_, err := predict.Open(t.TempDir())
	refused(t, "a folder", "no file", err)
}

// TestFromOutside: what the stub would take from beside the unified kernel image,
// and measure into PCRs 12 and 13, is refused.
func TestFromOutside(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"EFI/BOOT/BOOTX64.EFI.extra.d/x.cred", "loader/x.cred", "EFI/systemd/systemd-bootx64.efi"} {
		_, err := predict.Open(filepath.Join(build(t, predicttest.Image{ESP: map[string]string{path: "x"}}), "image.raw"))
		refused(t, path, "PCRs 12 and 13", err)
	}
}

// TestDamaged: whatever byte of the disk's structures is damaged, the image is
// refused in one line, or is as good as before.
func TestDamaged(t *testing.T) {
	t.Parallel()
	dir := build(t, predicttest.Image{})
	path := filepath.Join(dir, "image.raw")
	want := open(t, dir).CommandLine()
	f := must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
	defer f.Close()
	root := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "root.img")))
	rootAt := bytes.Index(must[[]byte](t)(os.ReadFile(path)), root[:512])
	random := rand.New(rand.NewPCG(1, 2))
	const esp, fats = 1 << 20, 600 << 10
	for n := range 300 {
		at := []int{random.IntN(4096), esp + random.IntN(512), esp + 32*512 + random.IntN(4096), esp + fats + random.IntN(8192), rootAt + random.IntN(len(root))}[n%5]
		old := make([]byte, 1)
		_, err := f.ReadAt(old, int64(at))
		_, err2 := f.WriteAt([]byte{old[0] ^ byte(1+random.IntN(255))}, int64(at))
		check(t, errors.Join(err, err2))
		i, err := predict.Open(path)
		switch {
		case err != nil:
			refused(t, fmt.Sprintf("byte %d", at), "image.raw: ", err)
		case i.CommandLine() != want:
			t.Errorf("byte %d: the command line is %q", at, i.CommandLine())
			fallthrough
		default:
			check(t, i.Close())
		}
		_, err = f.WriteAt(old, int64(at))
		check(t, err)
	}
}
