package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"

	"holdfast/attest/device"
	"holdfast/attest/tpm/swtpm"
)

// TestSigner: the key signs, is the same after a reboot, and another by another
// name.
func TestSigner(t *testing.T) {
	dir := t.TempDir()
	var before *ecdsa.PublicKey
	for range 2 {
		p, err := swtpm.PowerOn(dir)
		if err != nil {
			t.Skip(err)
		}
		d, err := device.OpenTPM(p.Socket)
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.CreateSigner("audit")
		if err != nil {
			t.Fatal(err)
		}
		key := s.Public().(*ecdsa.PublicKey)
		if before != nil && !key.Equal(before) {
			t.Error("after a reboot it is another key")
		}
		before = key
		other, err := d.CreateSigner("other")
		if err != nil || key.Equal(other.Public()) {
			t.Errorf("the key of another name is the same: %v", err)
		}
		for range 5 { // nothing stays loaded
			digest := sha256.Sum256([]byte("a checkpoint"))
			signature, err := s.Sign(nil, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(key, digest[:], signature) {
				t.Fatalf("the signature does not verify: %v", err)
			}
		}
		if _, err := s.Sign(nil, make([]byte, 20), crypto.SHA1); err == nil {
			t.Error("it signs SHA-1")
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		p.Stop()
	}
}
