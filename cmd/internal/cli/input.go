package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"holdfast/attest"
	"holdfast/attest/privatefile"
	"holdfast/attest/tpm/seal"
)

// MaxInput bounds a file that is read, in bytes.
const MaxInput = attest.MaxEvidence

// ReadInput reads a file of 1 to [MaxInput] bytes; [ErrEmpty] if it has none.
func ReadInput(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxInput+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, fmt.Errorf("%s %w", path, ErrEmpty)
	case len(b) > MaxInput:
		return nil, fmt.Errorf("%s has more than %d bytes", path, MaxInput)
	}
	return b, nil
}

// What keys are for, and of which algorithm.
const (
	PolicyAlgorithm = "policies are signed with Ed25519; make a key with holdfast policy key"
	SealAlgorithm   = "authorizations are signed with ECDSA on P-256; make a key with holdfast policy key --seal"
)

// ReadPublicKey reads a key (PEM) of the type K. Otherwise it says what the keys are
// for.
func ReadPublicKey[K any](path, purpose string) (public K, err error) {
	text, err := ReadInput(path)
	if err != nil {
		return public, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return public, fmt.Errorf("%s is not a public key in PEM", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return public, fmt.Errorf("%s: %w", path, err)
	}
	public, ok := key.(K)
	if !ok {
		return public, fmt.Errorf("%s is %s; %s", path, KindOfKey(key), purpose)
	}
	return public, nil
}

// KindOfKey says what kind of key one is, public or private.
func KindOfKey(key any) string {
	switch k := key.(type) {
	case ed25519.PublicKey, ed25519.PrivateKey:
		return "an Ed25519 key"
	case *ecdsa.PublicKey:
		return "an ECDSA key on " + k.Curve.Params().Name
	case *ecdsa.PrivateKey:
		return "an ECDSA key on " + k.Curve.Params().Name
	case *rsa.PublicKey, *rsa.PrivateKey:
		return "an RSA key"
	}
	return "a key of another kind"
}

// ReadAuthorizations reads authorizations that are all signed by the key.
func ReadAuthorizations(path, keyFile string) ([]seal.Authorization, error) {
	text, err := ReadInput(path)
	if err != nil {
		return nil, err
	}
	key, err := ReadPublicKey[*ecdsa.PublicKey](keyFile, SealAlgorithm)
	if err != nil {
		return nil, err
	}
	all, err := seal.ParseAuthorizations(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, a := range all {
		if err := a.Verify(key); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return all, nil
}

// maxSecretFile bounds what is read of a file with a secret.
const maxSecretFile = 4096

// ReadSecretFile reads a secret from a file that only its owner may read (package
// privatefile), up to the end of the line. what is the flag that named the file.
func ReadSecretFile(what, path string) ([]byte, error) {
	f, err := OpenSecretFile(what, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadSecret(what+": "+path, f)
}

// OpenSecretFile opens a file with a secret, which only its owner may read.
func OpenSecretFile(what, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	err = privatefile.Check(f)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.As(err, new(*privatefile.Exposed)) {
		return nil, fmt.Errorf("%s: %s holds a secret and %w", what, path, err)
	}
	return nil, fmt.Errorf("%s: %s: %w", what, path, err)
}

// ReadSecret reads a secret up to the end of the line. what names its source in
// errors.
func ReadSecret(what string, r io.Reader) ([]byte, error) {
	secret, err := io.ReadAll(io.LimitReader(r, maxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(secret) > maxSecretFile {
		clear(secret)
		return nil, fmt.Errorf("%s has more than %d bytes", what, maxSecretFile)
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) == 0 {
		return nil, fmt.Errorf("%s is empty", what)
	}
	return secret, nil
}
