// Uefivars puts Secure Boot's keys into stores of UEFI variables, so that a
// machine is never without them: no program of it has to enroll them, and its
// first boot is as its policy says.
//
//	uefivars ovmf KEYS TEMPLATE OUT   the store of OVMF, QEMU's firmware
//	uefivars aws KEYS OUT             UefiData of EC2's RegisterImage
//
// KEYS is a folder with PK.esl, KEK.esl, db.esl and perhaps dbx.esl, the EFI
// signature lists that packer/image/keys makes and holdfast policy predict reads.
// TEMPLATE is a store without variables that came with the firmware: Debian's is
// OVMF_VARS_4M.fd of package ovmf. The same keys give the same bytes.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"holdfast/attest/predict"
)

// Attributes of UEFI 2.10, section 8.2.1, and those that section 32.3 wants of
// Secure Boot's variables.
const (
	nonVolatile            = 0x01
	bootServiceAccess      = 0x02
	runtimeAccess          = 0x04
	timeBasedAuthenticated = 0x20
	secureBootAttributes   = nonVolatile | bootServiceAccess | runtimeAccess | timeBasedAuthenticated
)

// guid is an EFI_GUID, in the order of bytes that UEFI has.
type guid [16]byte

// EFI_GLOBAL_VARIABLE (UEFI 2.10, section 3.3) and
// EFI_IMAGE_SECURITY_DATABASE_GUID (section 32.6.1).
var (
	globalVariable = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity  = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// variable is one of Secure Boot's. All have secureBootAttributes.
type variable struct {
	name   string // ASCII
	vendor guid
	data   []byte // EFI signature lists
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "uefivars: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "ovmf":
		template, err := read(args[2])
		if err != nil {
			return err
		}
		return write(args[1], args[3], func(vars []variable) ([]byte, error) {
			store, err := ovmf(vars, template)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", args[2], err)
			}
			return store, nil
		})
	case len(args) == 3 && args[0] == "aws":
		return write(args[1], args[2], aws)
	}
	return errors.New("usage: uefivars ovmf KEYS TEMPLATE OUT, or uefivars aws KEYS OUT")
}

// write makes a store of the keys in a folder.
func write(keys, out string, store func([]variable) ([]byte, error)) error {
	vars, err := readKeys(keys)
	if err != nil {
		return err
	}
	content, err := store(vars)
	if err != nil {
		return err
	}
	return os.WriteFile(out, content, 0o644)
}

// readKeys reads what the prediction of PCR 7 reads: what is enrolled is what
// was predicted.
func readKeys(dir string) ([]variable, error) {
	s, err := predict.ReadSecureBoot(dir)
	if err != nil {
		return nil, err
	}
	if len(s.KEK) == 0 {
		return nil, fmt.Errorf("%s has no KEK.esl: without a KEK no key could ever be revoked", dir)
	}
	vars := []variable{{"PK", globalVariable, s.PK}, {"KEK", globalVariable, s.KEK}, {"db", imageSecurity, s.DB}}
	if len(s.DBX) > 0 {
		vars = append(vars, variable{"dbx", imageSecurity, s.DBX})
	}
	return vars, nil
}

// read reads a template, which is half a megabyte: no more than maxTemplate.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	if err == nil && len(content) > maxTemplate {
		err = fmt.Errorf("%s has more than %d bytes: give OVMF's variable store, OVMF_VARS_4M.fd, not its code", path, maxTemplate)
	}
	return content, err
}
