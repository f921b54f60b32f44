package hsmtest

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/softhsm"
)

// ByHand logs in to a token in this process, beside the module process that others may have
// open, and behind no shim: for what Holdfast does not do. The session ends with the test.
func ByHand(t testing.TB, c hsm.Config) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	t.Helper()
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	p := pkcs11.New(module)
	if err := p.Initialize(); err == nil {
		t.Cleanup(func() { _ = p.Finalize() })
	} else if !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		t.Fatal(err)
	}
	slots, err := p.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := p.GetTokenInfo(slot); err != nil || info.Label != c.TokenLabel {
			continue
		}
		s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Login(s, pkcs11.CKU_USER, string(c.PIN)); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
			t.Fatal(err)
		}
		return p, s
	}
	t.Fatalf("there is no token %q", c.TokenLabel)
	return nil, 0
}
