// Package hsmtest gives tests and benchmarks real tokens: SoftHSM2's, and if
// wanted behind a shim that delays, fails, cuts or hangs on command.
package hsmtest

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"holdfast/hsm"
	"holdfast/hsm/softhsm"
)

// SoftHSM2 has one configuration per process, so all tokens of a test binary
// are in one folder, told apart by their labels.
var prepare = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "holdfast-hsmtest-"); err != nil {
		return "", err
	}
	if err := softhsm.Prepare(dir); err != nil {
		return "", err
	}
	return dir, softhsm.Use(dir)
})

var shim = sync.OnceValues(func() (*Shim, error) {
	dir, err := prepare()
	if err != nil {
		return nil, err
	}
	return BuildShim(dir)
})

// Main runs the tests of a package and removes what they made; call it from
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if dir, err := prepare(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// New makes a fresh token and gives the configuration to open it.
func New(t testing.TB) hsm.Config {
	t.Helper()
	module, err := softhsm.Find()
	if err != nil {
		t.Skip(err)
	}
	return newToken(t, module)
}

func newToken(t testing.TB, module string) hsm.Config {
	t.Helper()
	label, pin, soPIN := randomHex(8), randomHex(12), randomHex(12)
	create(t, module, label, []byte(soPIN), []byte(pin))
	return hsm.Config{Module: module, TokenLabel: label, PIN: []byte(pin), Launcher: Launcher()}
}

var creating sync.Mutex

// create makes a token, which is removed when the test ends: SoftHSM2 reads all that there are each
// time a process begins.
func create(t testing.TB, module, label string, soPIN, pin []byte) {
	t.Helper()
	dir, err := prepare()
	if err != nil {
		t.Fatal(err)
	}
	list := func() []string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	creating.Lock() // so that the new one is this test's
	defer creating.Unlock()
	before := list()
	if err := softhsm.Create(module, label, soPIN, pin); err != nil {
		t.Fatal(err)
	}
	for _, token := range list() {
		if !slices.Contains(before, token) {
			t.Cleanup(func() { _ = os.RemoveAll(token) })
		}
	}
}

// NewBehindShim makes a fresh token behind the shim, which is back to normal
// when the test ends. There is one shim in a process: tests that use it must
// not run in parallel.
func NewBehindShim(t testing.TB) (hsm.Config, *Shim) {
	t.Helper()
	if _, err := softhsm.Find(); err != nil {
		t.Skip(err)
	}
	s, err := shim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Reset)
	return newToken(t, s.Module), s
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}
