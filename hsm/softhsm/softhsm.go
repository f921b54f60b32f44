// Package softhsm makes SoftHSM2 tokens, for development and tests. Production
// never imports it.
package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"
)

// places are where distributions put the module.
var places = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/softhsm/libsofthsm2.so",
	"/usr/lib64/*/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// Find gives the path of the SoftHSM2 module.
func Find() (string, error) {
	for _, p := range places {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("SoftHSM2 is not installed: apt-get install softhsm2")
}

// configFile is the name of SoftHSM2's configuration in its folder.
const configFile = "softhsm2.conf"

// Prepare makes the folder ready to hold tokens, and keeps those it holds.
func Prepare(dir string) error {
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return fmt.Errorf("token folder: %w", err)
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens)
	if err := os.WriteFile(filepath.Join(dir, configFile), []byte(text), 0o600); err != nil {
		return fmt.Errorf("token folder: %w", err)
	}
	return nil
}

// Use has this process use the tokens of the folder. SoftHSM2 reads the setting
// when the module is initialized.
func Use(dir string) error { return os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, configFile)) }

// making serializes the use of the module while tokens are made.
var making sync.Mutex

// Create makes a token with its two PINs in the folder in use, unless there is
// one of that label. The PINs pass through PKCS#11 alone, not through the
// arguments of a process.
func Create(module, label string, soPIN, userPIN []byte) (err error) {
	making.Lock()
	defer making.Unlock()
	p := pkcs11.New(module)
	if p == nil {
		return fmt.Errorf("%s cannot be loaded", module)
	}
	defer p.Destroy()
	switch err := p.Initialize(); {
	case err == nil:
		defer func() { err = errors.Join(err, p.Finalize()) }()
	case !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)):
		return fmt.Errorf("SoftHSM2 does not start (%w): the token folder is broken, see %s", err, os.Getenv("SOFTHSM2_CONF"))
	}
	slots, err := p.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("SoftHSM2: list slots: %w", err)
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil {
			return fmt.Errorf("SoftHSM2: slot %d: %w", slot, err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			free, found = slot, true
		} else if info.Label == label {
			return nil
		}
	}
	if !found {
		return errors.New("SoftHSM2 has no free slot")
	}
	if err := p.InitToken(free, string(soPIN), label); err != nil {
		return fmt.Errorf("SoftHSM2: make token %q: %w", label, err)
	}
	s, err := p.OpenSession(free, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("SoftHSM2: token %q: %w", label, err)
	}
	defer func() { _ = p.CloseSession(s) }()
	if err := p.Login(s, pkcs11.CKU_SO, string(soPIN)); err != nil {
		return fmt.Errorf("SoftHSM2: token %q: %w", label, err)
	}
	defer func() { _ = p.Logout(s) }()
	if err := p.InitPIN(s, string(userPIN)); err != nil {
		return fmt.Errorf("SoftHSM2: set the PIN of token %q: %w", label, err)
	}
	return nil
}
