// Package predicttest builds images of Holdfast's form for tests, with the tools
// of Debian's packages squashfs-tools, cryptsetup-bin, mtools, dosfstools, fdisk,
// sbsigntool and binutils, and with the image's own stub. They do not boot: the kernel
// is the stub once more.
package predicttest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// tools is the folder with the programs of the image's packages, of which this machine
// may have others. It is filled at the first call (packer/image/tools).
var tools = sync.OnceValues(func() (string, error) {
	module, err := os.Getwd() // the folder of the test's package
	if err != nil {
		return "", err
	}
	for !exists(filepath.Join(module, "go.mod")) {
		if module == filepath.Dir(module) {
			return "", errors.New("no folder above the test's has go.mod")
		}
		module = filepath.Dir(module)
	}
	dir := filepath.Join(module, "build", "tools")
	return dir, run(filepath.Join(module, "packer", "image", "tools"), dir)
})

// Stub gives the path of the image's systemd-stub.
func Stub() (string, error) {
	dir, err := tools()
	return filepath.Join(dir, "usr/lib/systemd/boot/efi/linuxx64.efi.stub"), err
}

// Measure calls the image's systemd-measure, and gives what it prints.
func Measure(args ...string) ([]byte, error) {
	dir, err := tools()
	if err != nil {
		return nil, err
	}
	return output(filepath.Join(dir, "../../packer/image/tools"), append([]string{dir, "usr/lib/systemd/systemd-measure"}, args...)...)
}

// Salt is the hash tree's, in hexadecimal.
const Salt = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// Sections are the contents of the unified kernel image's sections but for the
// command line.
var Sections = map[string]string{".osrel": "ID=holdfast\n", ".initrd": "no archive\n"}

// Image is what to build.
type Image struct {
	// Root is a folder that becomes the root file system.
	Root string
	// Signer signs the unified kernel image, if there is one.
	Signer *Key
	// CommandLine is what it has besides the hash tree.
	CommandLine string
	// Sections are more of the unified kernel image, by name.
	Sections map[string]string
	// ESP are more files of the EFI system partition, by path.
	ESP map[string]string
}

// Build builds the image as dir/image.raw. Its parts stay in dir: uki.efi,
// root.img, tree.img, cmdline.
func (i Image) Build(dir string) (path string, err error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := run("mksquashfs", i.Root, in("root.img"), "-comp", "zstd", "-noappend", "-all-root", "-quiet", "-no-progress"); err != nil {
		return "", err
	}
	cmdline, err := i.verity(in("root.img"), in("tree.img"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(in("cmdline"), []byte(cmdline), 0o600); err != nil {
		return "", err
	}
	stub, err := Stub()
	if err != nil {
		return "", err
	}
	files := map[string]string{".linux": stub, ".cmdline": in("cmdline")}
	sections := maps.Clone(Sections)
	maps.Copy(sections, i.Sections)
	for name, content := range sections {
		files[name] = in(strings.TrimPrefix(name, "."))
		if err := os.WriteFile(files[name], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	if err := BuildUKI(in("uki.efi"), files); err != nil {
		return "", err
	}
	if i.Signer != nil {
		if err := i.Signer.Sign(in("uki.efi")); err != nil {
			return "", err
		}
	}
	if err := i.esp(dir); err != nil {
		return "", err
	}
	return in("image.raw"), assemble(in("image.raw"), in("esp.img"), in("root.img"), in("tree.img"))
}

// verity makes the hash tree, and gives the command line that names it.
func (i Image) verity(root, tree string) (string, error) {
	info, err := os.Stat(root)
	if err != nil {
		return "", err
	}
	blocks := max(2, (info.Size()+4095)/4096) // of one there is no tree
	if err := os.Truncate(root, blocks*4096); err != nil {
		return "", err
	}
	out, err := output("veritysetup", "format", root, tree, "--no-superblock", "--salt="+Salt)
	if err != nil {
		return "", err
	}
	hash := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`).FindSubmatch(out)
	if hash == nil {
		return "", errors.New("veritysetup gave no root hash")
	}
	return fmt.Sprintf("quiet holdfast.verity=%d:%s:%s %s", blocks, Salt, hash[1], i.CommandLine), nil
}

// BuildUKI makes a unified kernel image from files, by the name of the section.
func BuildUKI(path string, files map[string]string) error {
	stub, err := Stub()
	if err != nil {
		return err
	}
	address, err := end(stub)
	if err != nil {
		return err
	}
	args := []string{"-p"}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		info, err := os.Stat(files[name])
		if err != nil {
			return err
		}
		args = append(args, "--add-section", name+"="+files[name], "--change-section-vma", fmt.Sprintf("%s=%#x", name, address))
		address = page(address + uint64(info.Size()))
	}
	return run("objcopy", append(args, stub, path)...)
}

// end gives the first address behind a PE file's sections.
func end(path string) (address uint64, err error) {
	f, err := pe.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for _, s := range f.Sections {
		address = max(address, page(uint64(s.VirtualAddress)+uint64(s.VirtualSize)))
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return 0, fmt.Errorf("%s is no PE32+ file", path)
	}
	return header.ImageBase + address, nil
}

// page rounds up to where a section may begin.
func page(address uint64) uint64 { return (address + 0xfff) &^ 0xfff }

func (i Image) esp(dir string) error {
	esp, empty := filepath.Join(dir, "esp.img"), filepath.Join(dir, "policy.signed")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.RemoveAll(esp),
		run("mkfs.vfat", "-F", "32", "-s", "1", "-C", esp, "36864"),
		run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/holdfast"),
		run("mcopy", "-i", esp, filepath.Join(dir, "uki.efi"), "::/EFI/BOOT/BOOTX64.EFI"),
		run("mcopy", "-i", esp, empty, "::/holdfast/policy.signed")); err != nil {
		return err
	}
	for path, content := range i.ESP {
		file := filepath.Join(dir, "extra")
		if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), run("mmd", "-D", "s", "-i", esp, "::/"+filepath.Dir(path)), run("mcopy", "-i", esp, file, "::/"+path)); err != nil {
			return err
		}
	}
	return nil
}

// assemble writes the parts into a disk.
func assemble(disk string, parts ...string) error {
	const align = 1 << 20
	names := []string{"holdfast-esp", "holdfast-root", "holdfast-verity"}
	types := []string{"uefi", "linux", "linux"}
	table, at := "label: gpt\n", int64(align)
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	for n, part := range parts {
		content, err := os.Open(part)
		if err != nil {
			return err
		}
		_, err = f.Seek(at, io.SeekStart)
		size, err2 := io.Copy(f, content)
		if err := errors.Join(err, err2, content.Close()); err != nil {
			return err
		}
		size = (size + align - 1) &^ (align - 1)
		table += fmt.Sprintf("start=%d, size=%d, type=%s, name=%s\n", at/512, size/512, types[n], names[n])
		at += size
	}
	if err := f.Truncate(at + align); err != nil {
		return err
	}
	c := command("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk)
	c.Stdin = strings.NewReader(table)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sfdisk: %w: %s", err, out)
	}
	return nil
}

// Key is a key of Secure Boot.
type Key struct {
	Certificate *x509.Certificate
	private     *rsa.PrivateKey
	dir         string
}

// NewKey makes a key, whose certificate is issued by another one or, if that is
// nil, by itself. Its files are in dir.
func NewKey(dir, name string, issuer *Key) (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(3e9, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	parent, key := template, private
	if issuer != nil {
		parent, key = issuer.Certificate, issuer.private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	k := &Key{certificate, private, filepath.Join(dir, name)}
	return k, errors.Join(os.MkdirAll(k.dir, 0o700),
		os.WriteFile(k.file("pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(k.file("key"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}), 0o600))
}

func (k *Key) file(name string) string { return filepath.Join(k.dir, name) }

// Sign signs a PE file with sbsign, and checks the signature with sbverify.
func (k *Key) Sign(path string) error {
	return errors.Join(run("sbsign", "--key", k.file("key"), "--cert", k.file("pem"), "--output", path, path),
		run("sbverify", "--cert", k.file("pem"), path))
}

// ESL gives an EFI signature list with the certificate.
func (k *Key) ESL() []byte {
	x509List := []byte("\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72")
	return ESL(x509List, k.Certificate.Raw)
}

// ESL gives an EFI signature list of that type with one signature, whose owner is
// 16 times "o".
func ESL(kind, data []byte) []byte {
	b := bytes.Clone(kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(28+16+len(data)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(16+len(data)))
	b = append(b, "oooooooooooooooo"...)
	return append(b, data...)
}

// command is one of a tool, which may be an administrator's.
func command(name string, args ...string) *exec.Cmd {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); exists(path) {
			name = path
		}
	}
	return exec.Command(name, args...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func output(name string, args ...string) ([]byte, error) {
	out, err := command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w; make install-test-packages installs it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return out, nil
}

func run(name string, args ...string) error {
	_, err := output(name, args...)
	return err
}
