package keyring_test

import (
	"bytes"
	"crypto/rand"
	"runtime/debug"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/keyring/keyringtest"
	"holdfast/appliance/keyring/scrub"
)

// TestKeysAreInLockedMemoryAlone after they were used, and nowhere when the
// keyring is locked. The garbage collector has no part in it.
func TestKeysAreInLockedMemoryAlone(t *testing.T) {
	if !scrub.Enabled {
		keyringtest.Cannot(t, "built without GOEXPERIMENT=runtimesecret: copies stay in the heap")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	k, _ := newRing(t, openToken(t))
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	hidden := keyringtest.Hide(key)
	// Many times, because garbage may be overwritten before it is found.
	for n := range uint32(50) {
		mine := bytes.Clone(key)
		if err := k.Import(ctx, version(n, appliance.CustodyCached), "", mine); err != nil {
			t.Fatal(err)
		}
		clear(mine) // as who imports a key does
	}
	u := importKey(t, k, appliance.CustodyCached, key)
	clear(key)
	plaintext := bytes.Repeat([]byte{1}, 4300)
	for range 1000 {
		iv, ciphertext, tag, err := u.Encrypt(ctx, plaintext, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Decrypt(ctx, iv, ciphertext, tag, nil); err != nil {
			t.Fatal(err)
		}
	}
	if locked, elsewhere := hidden.Find(t); locked != 1 || elsewhere != 0 {
		t.Errorf("the key is %d times in locked memory and %d times elsewhere, want once and never", locked, elsewhere)
	}
	k.Lock()
	if locked, elsewhere := hidden.Find(t); locked+elsewhere != 0 {
		t.Errorf("after Lock the key is %d times in locked memory and %d times elsewhere", locked, elsewhere)
	}
}

// TestLockedMemoryStaysHere: it goes to no swap, no core dump and no child.
func TestLockedMemoryStaysHere(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	importKey(t, k, appliance.CustodyCached, make([]byte, 32))
	found := false
	for _, r := range keyringtest.Regions(t) {
		if strings.Contains(r.Flags, " lo ") {
			found = true
			for _, flag := range []string{" dd ", " dc "} { // not dumped, not copied on fork
				if !strings.Contains(r.Flags, flag) {
					t.Errorf("locked memory lacks the flag%s: it has%s", flag, r.Flags)
				}
			}
		}
	}
	if !found {
		t.Error("no memory is locked")
	}
}
