package keyring_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// TestKeyThatTheHSMDoesNotMake: the administrator reads what the HSM said, and what to do.
func TestKeyThatTheHSMDoesNotMake(t *testing.T) {
	const label = "holdfast-01234567-abcdefghijklm"
	for name, tt := range map[string]struct {
		set  func(*hsmtest.Shim)
		want string
	}{
		"its return value": {func(s *hsmtest.Shim) {
			s.Fail("C_GenerateKey", pkcs11.CKR_DEVICE_MEMORY, 1)
			s.Fail("C_CreateObject", pkcs11.CKR_DEVICE_MEMORY, 1)
		}, ": CKR_DEVICE_MEMORY"},
		"a limit of labels": {func(s *hsmtest.Shim) { s.LimitNames(16, 0, false) }, "CKR_ATTRIBUTE_VALUE_INVALID: its label has 31 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			token, err := hsm.Open(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer token.Close()
			k, _ := newRing(t, token)
			tt.set(shim)
			v := &appliance.KeyVersion{KeyStore: storeA, KeyID: "k", Version: 1, Custody: appliance.CustodyHSM}
			for what, err := range map[string]error{"generate": k.Generate(ctx, v, label), "import": k.Import(ctx, v, label, make([]byte, 32))} {
				var f *fault.Fault
				if !errors.As(err, &f) || f.Code != fault.HSMKey || !strings.Contains(f.Message, tt.want) {
					t.Errorf("%s: %s: %v", what, fault.CodeOf(err), err)
				}
			}
		})
	}
}

// TestTokenWithoutGCM: it serves custody cached by wrapping keys, and says that custody hsm cannot be had.
func TestTokenWithoutGCM(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	shim.WithoutGCM(hsmtest.KeyWrap{Mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD})
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	k, w := newRing(t, token)
	again := keyring.New(token)
	if err := again.OpenStateKey(ctx, installation, w.state); err != nil {
		t.Errorf("unlock: %v", err)
	}
	v := &appliance.KeyVersion{KeyStore: storeA, KeyID: "k", Version: 1, Custody: appliance.CustodyCached}
	if err := k.Generate(ctx, v, ""); err != nil {
		t.Errorf("custody cached: %v", err)
	}
	v.Custody = appliance.CustodyHSM
	var f *fault.Fault
	if err := k.Generate(ctx, v, "holdfast-x"); !errors.As(err, &f) || f.Code != fault.HSMKey || !strings.Contains(f.Message, "create it with custody cached") {
		t.Errorf("custody hsm: %v", err)
	}
}
