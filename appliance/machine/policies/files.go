package policies

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/attest"
	"holdfast/attest/tpm/seal"
)

// The names of the files in the folder; the owner's approvals are in
// [ownership.ApprovalsFile].
const (
	PolicyFile         = "policy.json"
	AuthorizationsFile = "authorizations.json"
)

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// ReadFile reads a file of up to a megabyte.
func ReadFile(path string) ([]byte, error) {
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

// readKey reads a public key (PEM, SubjectPublicKeyInfo); what says what is signed with
// such keys, and by which algorithm.
func readKey[K any](path, what string) (public K, err error) {
	text, err := ReadFile(path)
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
		return public, fmt.Errorf("%s is a %T; %s", path, key, what)
	}
	return public, nil
}

// ReadPolicyKey reads the public key that policies and TCB recovery files are signed by.
func ReadPolicyKey(path string) (ed25519.PublicKey, error) {
	return readKey[ed25519.PublicKey](path, "policies and TCB recovery files are signed with Ed25519")
}

// ReadSealKey reads the public key that authorizations are signed by.
func ReadSealKey(path string) (*ecdsa.PublicKey, error) {
	return readKey[*ecdsa.PublicKey](path, "PCR policies are signed with ECDSA on P-256")
}

func readPolicy(path string, key ed25519.PublicKey) (*attest.SignedPolicy, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	signed, err := attest.OpenPolicy(text, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signed, nil
}

// readAuthorizations reads a file of authorizations, all of that signer and signed by the
// key.
func readAuthorizations(path string, by seal.Signer, key *ecdsa.PublicKey) ([]seal.Authorization, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parseAuthorizations(text, by, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

func parseAuthorizations(text []byte, by seal.Signer, key *ecdsa.PublicKey) ([]seal.Authorization, error) {
	all, err := seal.ParseAuthorizations(text)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].By != by {
			return nil, fmt.Errorf("%q is an authorization by the %s, and these are of the %s", all[i].Name, all[i].By, by)
		}
		if err := all[i].Verify(key); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Authorizations gives those of the image's file and those that came in to the folder, if
// there is one. What came in and does not verify under the key counts for nothing:
// [Store.Ignored] tells of it. Errors are of the image's file, where nothing came in.
func Authorizations(image, folder string, key *ecdsa.PublicKey) ([]seal.Authorization, error) {
	var came []seal.Authorization
	if folder != "" {
		came, _ = readAuthorizations(filepath.Join(folder, AuthorizationsFile), seal.Publisher, key)
	}
	text, err := ReadFile(image)
	var all []seal.Authorization
	if err == nil {
		all, err = seal.ParseAuthorizations(text)
	}
	if err != nil && len(came) == 0 {
		return nil, err
	}
	return slices.Concat(all, came), nil
}

// present gives no error of a file that is not there.
func present(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
