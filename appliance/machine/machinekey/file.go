package machinekey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"holdfast/appliance/fault"
	"holdfast/attest/privatefile"
	"holdfast/attest/tpm/seal"
)

// File is where the key rests.
type File struct {
	Path string
	// Write writes a file whole or not at all, and durably, for its owner alone.
	Write func(path string, content []byte) error
	// TPM gives the key to what the Authorizations allow. It is sealed to SealKey. A nil
	// TPM has the key rest as it is.
	TPM            seal.TPM
	SealKey        func() (*ecdsa.PublicKey, error)
	Authorizations func() ([]seal.Authorization, error)
}

// prefix begins what rests, so that a PIN that was sealed in the same way is not taken
// for a key.
var prefix = []byte("holdfast/machine")

// maxFile bounds the file, in bytes.
const maxFile = seal.MaxBlobFile

// Read gives the key, which the caller zeroizes. Errors: [fs.ErrNotExist] if there is
// none; a [*fault.Fault].
func (f *File) Read() ([]byte, error) {
	content, err := f.content()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fault.Wrapf(fault.SealFile, err, "the machine's key cannot be read")
	}
	defer clear(content)
	if f.TPM != nil {
		if content, err = f.unseal(content); err != nil {
			return nil, err
		}
		defer clear(content)
	}
	if secret, ok := bytes.CutPrefix(content, prefix); ok && len(secret) == Bytes {
		return bytes.Clone(secret), nil
	}
	return nil, fault.Errorf(fault.SealFile, "%s has something else than the machine's key", f.Path)
}

func (f *File) content() ([]byte, error) {
	file, err := privatefile.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", f.Path, maxFile)
	}
	return content, err
}

func (f *File) unseal(text []byte) ([]byte, error) {
	blob, err := seal.ParseBlob(text)
	if err != nil {
		return nil, fault.Wrapf(fault.SealFile, err, "%s cannot be used", f.Path)
	}
	authorizations, err := f.Authorizations()
	if err != nil {
		return nil, fault.Wrapf(fault.SealFile, err, "the machine's key cannot be unsealed")
	}
	secret, _, err := seal.Unseal(f.TPM, blob, authorizations)
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, refused
	}
	if err != nil {
		return nil, fault.Wrapf(fault.TPMFailed, err, "the TPM does not give the machine's key")
	}
	return secret, nil
}

// New makes a key, in place of one that there may be, and gives it; the caller
// zeroizes it. save has it rest; call it when what depends on the key is there.
func (f *File) New() (secret []byte, save func() error, err error) {
	secret = make([]byte, Bytes)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	if save, err = f.Replace(secret); err != nil {
		clear(secret)
		return nil, nil, err
	}
	return secret, save, nil
}

// Replace prepares that key to rest in place of one that there may be. save has it rest.
func (f *File) Replace(secret []byte) (save func() error, err error) {
	whole := append(bytes.Clone(prefix), secret...)
	if f.TPM == nil {
		return f.saved(whole), nil
	}
	defer clear(whole)
	key, err := f.SealKey()
	if err != nil {
		return nil, fault.Wrapf(fault.SealFile, err, "the machine's key cannot be sealed")
	}
	blob, err := seal.Seal(f.TPM, key, seal.Credential, whole)
	if err != nil {
		return nil, fault.Wrapf(fault.TPMFailed, err, "the machine's key cannot be sealed")
	}
	rests, err := blob.Encode()
	if err != nil {
		return nil, fault.Wrapf(fault.TPMFailed, err, "the machine's key cannot be sealed")
	}
	return f.saved(rests), nil
}

func (f *File) saved(rests []byte) func() error {
	return func() error {
		defer clear(rests)
		return f.Write(f.Path, rests)
	}
}
