package boot

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"holdfast/attest"
)

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return b, err
}

// WriteFile writes a file whole or not at all, and durably: after a power cut it is
// there. Its owner alone can read it.
func WriteFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readPublicKey reads a public key (PEM, SubjectPublicKeyInfo).
func readPublicKey(file string) (crypto.PublicKey, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s is not a public key in PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// PolicyFile reads a signed policy each time it is called: [Options.Policy]. The
// other file is that of the public key (PEM, Ed25519).
func PolicyFile(policy, key string) func() (*attest.SignedPolicy, error) {
	return func() (*attest.SignedPolicy, error) {
		public, err := readPublicKey(key)
		if err != nil {
			return nil, err
		}
		ed, ok := public.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%s is a %T; policies are signed with Ed25519", key, public)
		}
		text, err := readFile(policy)
		if err != nil {
			return nil, err
		}
		signed, err := attest.OpenPolicy(text, ed)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", policy, err)
		}
		return signed, nil
	}
}
