// Package softhsm makes SoftHSM2 tokens, for development and tests. Production
// never imports it.
package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// Is says why a module is none of SoftHSM2: not there, or another's, in which no token is made.
func Is(module string) error {
	if _, err := os.Stat(module); err != nil {
		return fmt.Errorf("the module %s cannot be used: %w", module, err)
	}
	return with(module, func(p *pkcs11.Ctx) error {
		info, err := p.GetInfo()
		if err == nil && !strings.HasPrefix(info.ManufacturerID, "SoftHSM") {
			err = fmt.Errorf("it is of %q, and tokens are made in SoftHSM2 alone", info.ManufacturerID)
		}
		if err != nil {
			return fmt.Errorf("the module %s cannot be used: %w", module, err)
		}
		return nil
	})
}

// with uses a module, alone.
func with(module string, f func(*pkcs11.Ctx) error) (err error) {
	making.Lock()
	defer making.Unlock()
	p := pkcs11.New(module)
	if p == nil {
		return fmt.Errorf("%s cannot be loaded", module)
	}
	defer p.Destroy()
	switch failed := p.Initialize(); {
	case failed == nil:
		defer func() { err = errors.Join(err, p.Finalize()) }()
	case !errors.Is(failed, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)):
		return fmt.Errorf("SoftHSM2 does not start (%w): the token folder is broken, see %s", failed, os.Getenv("SOFTHSM2_CONF"))
	}
	return f(p)
}

// Create makes a token with its two PINs in the folder in use, unless there is
// one of that label. The PINs pass through PKCS#11 alone, not through the
// arguments of a process.
func Create(module, label string, soPIN, userPIN []byte) error {
	_, err := Make(module, label, soPIN, userPIN)
	return err
}

// Make is Create, and says whether the token is new.
func Make(module, label string, soPIN, userPIN []byte) (made bool, err error) {
	err = with(module, func(p *pkcs11.Ctx) error {
		found, free, err := find(p, label)
		switch {
		case err != nil || found != nil:
			return err
		case free == nil:
			return errors.New("SoftHSM2 has no free slot")
		}
		made = true
		return create(p, *free, label, soPIN, userPIN)
	})
	return made, err
}

// find gives the slots of the token, and of one that is not made yet; nil if there is none.
func find(p *pkcs11.Ctx, label string) (found, free *uint, err error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return nil, nil, fmt.Errorf("SoftHSM2: list slots: %w", err)
	}
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil {
			return nil, nil, fmt.Errorf("SoftHSM2: slot %d: %w", slot, err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			free = &slot
		} else if info.Label == label {
			found = &slot
		}
	}
	return found, free, nil
}

func create(p *pkcs11.Ctx, free uint, label string, soPIN, userPIN []byte) error {
	if err := p.InitToken(free, string(soPIN), label); err != nil {
		return fmt.Errorf("SoftHSM2: make token %q: %w", label, err)
	}
	return logged(p, free, pkcs11.CKU_SO, label, soPIN, func(s pkcs11.SessionHandle) error {
		if err := p.InitPIN(s, string(userPIN)); err != nil {
			return fmt.Errorf("SoftHSM2: set the PIN of token %q: %w", label, err)
		}
		return nil
	})
}

// logged does something as a user of the token.
func logged(p *pkcs11.Ctx, slot, user uint, label string, pin []byte, f func(pkcs11.SessionHandle) error) error {
	s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("SoftHSM2: token %q: %w", label, err)
	}
	defer func() { _ = p.CloseSession(s) }()
	if err := p.Login(s, user, string(pin)); err != nil {
		return fmt.Errorf("SoftHSM2: token %q: %w", label, err)
	}
	defer func() { _ = p.Logout(s) }()
	return f(s)
}

// PutKey puts an AES key of 32 bytes into a token, which from then on does not give it out, unless it
// has a secret key of that label. It says whether it did.
func PutKey(module, token string, pin []byte, label string, key []byte) (put bool, err error) {
	err = with(module, func(p *pkcs11.Ctx) error {
		slot, _, err := find(p, token)
		if err == nil && slot == nil {
			err = fmt.Errorf("SoftHSM2 has no token %q", token)
		}
		if err != nil {
			return err
		}
		return logged(p, *slot, pkcs11.CKU_USER, token, pin, func(s pkcs11.SessionHandle) error {
			class, name := pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)
			err := p.FindObjectsInit(s, []*pkcs11.Attribute{class, name})
			if err != nil {
				return err
			}
			found, _, err := p.FindObjects(s, 1)
			if err = errors.Join(err, p.FindObjectsFinal(s)); err != nil || len(found) > 0 {
				return err
			}
			put = true
			_, err = p.CreateObject(s, []*pkcs11.Attribute{class, name,
				pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
				pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
				pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, key)})
			return err
		})
	})
	return put, err
}
