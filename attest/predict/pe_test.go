package predict

import (
	"bytes"
	"crypto"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast/attest/predict/predicttest"
)

// TestAuthenticode: sbsign and osslsigncode put the same hash into their
// signatures, of a file whose size is no multiple of 8 and of one whose is.
func TestAuthenticode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := predicttest.NewKey(dir, "key", nil)
	if err != nil {
		t.Fatal(err)
	}
	path, err := predicttest.Stub()
	if err != nil {
		t.Fatal(err)
	}
	stub, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"stub": stub, "padded": append(bytes.Clone(stub), make([]byte, -len(stub)&7)...)} {
		unsigned, signed := filepath.Join(dir, name), filepath.Join(dir, name+".signed")
		if err := os.WriteFile(unsigned, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for digest, h := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384} {
			_ = os.Remove(signed)
			if out, err := exec.Command("osslsigncode", "sign", "-h", digest, "-certs", filepath.Join(dir, "key", "pem"), "-key", filepath.Join(dir, "key", "key"), "-in", unsigned, "-out", signed).CombinedOutput(); err != nil {
				t.Fatalf("osslsigncode: %v: %s", err, out)
			}
			p := read(t, signed)
			if !bytes.Contains(p.certificates, p.authenticode(h)) {
				t.Errorf("%s, %s: the signature of osslsigncode is over another hash", name, digest)
			}
			if plain := read(t, unsigned); name == "padded" && !bytes.Equal(plain.authenticode(h), p.authenticode(h)) {
				t.Errorf("%s, %s: signing changed the hash", name, digest)
			}
		}
		if err := key.Sign(unsigned); err != nil {
			t.Fatal(err)
		}
		p := read(t, unsigned)
		signatures, err := p.signatures()
		if err != nil || len(signatures) != 1 {
			t.Fatalf("%d signatures, %v", len(signatures), err)
		}
		chain, err := verifySignature(signatures[0], p.authenticode(crypto.SHA256))
		if err != nil || len(chain) != 1 || !chain[0].Equal(key.Certificate) {
			t.Errorf("%s: %d certificates, %v", name, len(chain), err)
		}
		if _, err := verifySignature(signatures[0], make([]byte, 32)); err == nil {
			t.Errorf("%s: a signature over another image was accepted", name)
		}
	}
}

func read(t *testing.T, path string) *peFile {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePE(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
