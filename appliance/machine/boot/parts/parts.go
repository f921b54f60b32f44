// Package parts names what an appliance is made of, for its TPM to measure: of this
// machine, or of an image that some machine will boot.
package parts

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

// Part is something that the appliance is made of, to be measured.
type Part struct {
	// Name is in the evidence: binary, configuration, pkcs11-module.
	Name string
	// Digest gives the SHA-256 of its content. Errors: may be a [*fault.Fault].
	Digest func() ([]byte, error)
}

// Opener opens a file by its path: [OpenFile] on this machine; or that of another,
// such as an image.
type Opener func(path string) (io.ReadCloser, error)

// OpenFile opens a file of this machine.
func OpenFile(path string) (io.ReadCloser, error) { return os.Open(path) }

// File is a part that is a file.
func File(name, path string, open Opener) Part {
	return Part{name, func() ([]byte, error) {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return h.Sum(nil), nil
	}}
}

// Content is a part that is in memory.
func Content(name string, content []byte) Part {
	return Part{name, func() ([]byte, error) {
		d := sha256.Sum256(content)
		return d[:], nil
	}}
}
