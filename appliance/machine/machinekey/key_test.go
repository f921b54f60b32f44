package machinekey_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/machinekey"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

func code(t *testing.T, err error, want fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestKey(t *testing.T) {
	var k machinekey.Key
	row := appliance.Binding{Purpose: "user", Fields: []string{"alice"}}
	_, err := k.MAC(row)
	code(t, err, fault.MachineKey)
	if err := k.Set(make([]byte, 31)); err == nil {
		t.Error("a short key was taken")
	}
	secret := bytes.Repeat([]byte("k"), machinekey.Bytes)
	if err := k.Set(secret); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(secret, make([]byte, machinekey.Bytes)) {
		t.Error("what was given was not zeroized")
	}
	mac, err := k.MAC(row)
	if err != nil || len(mac) != 32 || k.ID() == "" {
		t.Fatalf("%x %v", mac, err)
	}
	if other, _ := k.MAC(appliance.Binding{Purpose: "user", Fields: []string{"eve"}}); bytes.Equal(other, mac) {
		t.Error("two rows have one MAC")
	}
	k.Wipe()
	k.Wipe()
	_, err = k.MAC(row)
	code(t, err, fault.MachineKey)
	if k.ID() != "" {
		t.Error("a key that was wiped has an ID")
	}
}

// made makes a key and lets it rest.
func made(t *testing.T, f *machinekey.File) []byte {
	t.Helper()
	if _, err := f.Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before it is made: %v", err)
	}
	secret, save, err := f.New()
	if err == nil {
		err = save()
	}
	if err != nil || len(secret) != machinekey.Bytes {
		t.Fatalf("%x %v", secret, err)
	}
	return secret
}

func TestPlainFile(t *testing.T) {
	f := &machinekey.File{Path: filepath.Join(t.TempDir(), "k"), Write: boot.WriteFile}
	secret := made(t, f)
	got, err := f.Read()
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%x %v", got, err)
	}
	content, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for what, wrong := range map[string][]byte{"empty": {}, "cut": content[:40], "longer": append(bytes.Clone(content), 0), "large": make([]byte, 1<<20), "a PIN": []byte("1234")} {
		if err := os.WriteFile(f.Path, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(); fault.CodeOf(err) != fault.SealFile {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(f.Path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = f.Read()
	code(t, err, fault.SealFile)
}

// TestSealedFile: the TPM gives the key boot after boot to what is authorized, and not
// after the cap, nor another sealed secret in its place, nor to another TPM.
func TestSealedFile(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	dev, off := on(t, dir)
	values, err := dev.ReadPCRs("sha256", []int{tpm.ApplicationPCR})
	if err != nil {
		t.Fatal(err)
	}
	a, err := seal.Authorize(key, seal.Authorization{Name: "release 1", Bank: "sha256", PCRs: map[int]tpm.Hex{tpm.ApplicationPCR: values[tpm.ApplicationPCR]}, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	f := &machinekey.File{Path: filepath.Join(t.TempDir(), "k"), Write: boot.WriteFile, TPM: dev,
		SealKey: func() (*ecdsa.PublicKey, error) { return &key.PublicKey, nil }, Authorizations: func() ([]seal.Authorization, error) { return []seal.Authorization{*a}, nil }}
	secret := made(t, f)
	content, err := os.ReadFile(f.Path)
	if err != nil || bytes.Contains(content, secret) {
		t.Fatal("the key rests in clear", err)
	}
	if _, err := dev.Cap(); err != nil {
		t.Fatal(err)
	}
	_, err = f.Read()
	code(t, err, fault.SealPCRs)

	off()
	dev, _ = on(t, dir)
	f.TPM = dev
	if got, err := f.Read(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("after a restart: %x %v", got, err)
	}
	pin, err := seal.Seal(dev, &key.PublicKey, seal.Credential, []byte("the PIN of the HSM"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := pin.Encode()
	if err == nil {
		err = os.WriteFile(f.Path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Read()
	code(t, err, fault.SealFile)
	if err := os.WriteFile(f.Path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f.TPM, _ = on(t, t.TempDir())
	_, err = f.Read()
	code(t, err, fault.SealTPM)
}

func on(t *testing.T, dir string) (*tpm.Device, func()) {
	t.Helper()
	p, err := swtpm.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	dev, err := device.OpenTPM(p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Extend(tpm.ApplicationPCR, []byte("holdfast 1")); err != nil {
		t.Fatal(err)
	}
	return dev, func() {
		_ = dev.Close()
		p.Stop()
	}
}
