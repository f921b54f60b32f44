package hsmtest

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/softhsm"
)

// NewCluster makes two tokens with the same master key: the first behind the
// shim, the second behind a copy of SoftHSM2 of its own, which the shim does not
// reach.
func NewCluster(t testing.TB) ([]hsm.Config, *Shim) {
	t.Helper()
	first, shim := NewBehindShim(t)
	return []hsm.Config{first, addMember(t, first, ownModule(t))}, shim
}

// NewPair makes two tokens with the same master key, each behind a shim of its own.
func NewPair(t testing.TB) ([]hsm.Config, []*Shim) {
	t.Helper()
	first, shim := NewBehindShim(t)
	other, err := secondShim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Reset)
	return []hsm.Config{first, addMember(t, first, other.Module)}, []*Shim{shim, other}
}

var secondShim = sync.OnceValues(func() (*Shim, error) {
	dir, err := prepare()
	if err != nil {
		return nil, err
	}
	module, err := copyModule(dir)
	if err != nil {
		return nil, err
	}
	return buildShim(dir, "shim2", module)
})

// addMember makes a second token of that module. Both have the same new master key.
func addMember(t testing.TB, first hsm.Config, module string) hsm.Config {
	t.Helper()
	second := hsm.Config{Module: module, TokenLabel: randomHex(8), PIN: bytes.Clone(first.PIN), Launcher: first.Launcher}
	create(t, second.Module, second.TokenLabel, second.PIN, second.PIN)
	key := []byte(randomHex(16))
	PutMasterKey(t, first, key)
	PutMasterKey(t, second, key)
	return second
}

// ownModule copies SoftHSM2, so that the process has another one.
func ownModule(t testing.TB) string {
	t.Helper()
	if _, err := softhsm.Find(); err != nil {
		t.Skip(err)
	}
	dir, err := prepare()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := copyModule(dir)
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func copyModule(dir string) (string, error) {
	module, err := softhsm.Find()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(module)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, "softhsm-"+randomHex(4)+".so")
	return copied, os.WriteFile(copied, text, 0o700)
}

// PutMasterKey puts the master key, of 32 bytes, into a token that is not open.
func PutMasterKey(t testing.TB, c hsm.Config, key []byte) {
	t.Helper()
	m := pkcs11.New(c.Module)
	if m == nil {
		t.Fatalf("%s cannot be loaded", c.Module)
	}
	defer m.Destroy()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.Initialize())
	defer func() { must(m.Finalize()) }()
	slots, err := m.GetSlotList(true)
	must(err)
	for _, slot := range slots {
		info, err := m.GetTokenInfo(slot)
		must(err)
		if info.Label != c.TokenLabel {
			continue
		}
		s, err := m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		must(err)
		must(m.Login(s, pkcs11.CKU_USER, string(c.PIN)))
		const label = "holdfast-master"
		_, err = m.CreateObject(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_WRAP, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
			pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, key),
		})
		must(err)
		return
	}
	t.Fatalf("there is no token %q", c.TokenLabel)
}
