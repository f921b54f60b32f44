package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// parse reads one structure, and refuses any encoding but the TPM's own: nothing
// may be missing or follow.
func parse[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](data []byte) (*T, error) {
	return guard(func() (*T, error) {
		v, err := tpm2.Unmarshal[T, P](data)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(tpm2.Marshal(*v), data) {
			return nil, errors.New("it has bytes that mean nothing, or is not encoded as a TPM does")
		}
		return v, nil
	})
}

// guard makes an error of a library's panic over bytes that somebody sent.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it cannot be read: %v", r)
		}
	}()
	return f()
}
