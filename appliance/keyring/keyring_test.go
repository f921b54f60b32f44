package keyring_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

var ctx = context.Background()

const (
	installation = "0123456789abcdef0123456789abcdef"
	storeA       = "store-a"
	storeB       = "store-b"
)

func openToken(t testing.TB) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(ctx, hsmtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return token
}

// wrapped are the keys of a keyring as they are stored.
type wrapped struct{ state, a, b []byte }

// newRing gives a keyring with a state key and two keyring keys.
func newRing(t testing.TB, token *hsm.Token) (*keyring.Keyring, wrapped) {
	t.Helper()
	k := keyring.New(token)
	var w wrapped
	for out, f := range map[*[]byte]func() ([]byte, error){
		&w.state: func() ([]byte, error) { return k.NewStateKey(ctx, installation) },
		&w.a:     func() ([]byte, error) { return k.NewKeyringKey(ctx, storeA) },
		&w.b:     func() ([]byte, error) { return k.NewKeyringKey(ctx, storeB) },
	} {
		var err error
		if *out, err = f(); err != nil {
			t.Fatal(err)
		}
	}
	return k, w
}

func wantCode(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v (%s), want %s", what, err, fault.CodeOf(err), code)
	}
}

func binding(keyStore string, fields ...string) appliance.Binding {
	return appliance.Binding{Purpose: "test", KeyStore: keyStore, Fields: fields}
}

// TestSeals hold for their binding alone, and for every one of their bits.
func TestSeals(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	for _, keyStore := range []string{"", storeA} {
		here := binding(keyStore, "one", "two")
		sealed, err := k.Seal(here, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Verify(here, sealed); err != nil {
			t.Errorf("in its place: %v", err)
		}
		if again, _ := k.Seal(here, nil); bytes.Equal(again, sealed) {
			t.Error("two seals are the same")
		}
		for name, there := range map[string]appliance.Binding{
			"another field":       binding(keyStore, "one", "three"),
			"a field less":        binding(keyStore, "one"),
			"a field more":        binding(keyStore, "one", "two", ""),
			"the fields shifted":  binding(keyStore, "on", "etwo"),
			"the fields joined":   binding(keyStore, "onetwo"),
			"another purpose":     {Purpose: "tess", KeyStore: keyStore, Fields: here.Fields},
			"another key store":   binding(storeB, "one", "two"),
			"purpose for a field": {Purpose: "", KeyStore: keyStore, Fields: []string{"test", "one", "two"}},
		} {
			wantCode(t, name, k.Verify(there, sealed), fault.Tampered)
		}
		for i := range sealed {
			for bit := range 8 {
				changed := bytes.Clone(sealed)
				changed[i] ^= 1 << bit
				wantCode(t, fmt.Sprintf("bit %d of byte %d", bit, i), k.Verify(here, changed), fault.Tampered)
			}
			wantCode(t, fmt.Sprintf("cut at %d", i), k.Verify(here, sealed[:i]), fault.Tampered)
		}
		wantCode(t, "a byte more", k.Verify(here, append(bytes.Clone(sealed), 0)), fault.Tampered)
		wantCode(t, "huge", k.Verify(here, make([]byte, 1<<20)), fault.Tampered)

		secret, err := k.Seal(here, []byte("secret"))
		if err != nil || bytes.Contains(secret, []byte("secret")) {
			t.Errorf("sealed secret: %v", err)
		}
		wantCode(t, "a secret where there should be none", k.Verify(here, secret), fault.Tampered)
		moved, err := k.Reseal(here, binding(keyStore, "elsewhere"), secret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Reseal(binding(keyStore, "elsewhere"), here, moved); err != nil {
			t.Errorf("moved: %v", err)
		}
		_, err = k.Reseal(here, here, moved)
		wantCode(t, "moved away", err, fault.Tampered)
	}
	_, err := k.Seal(binding("no-such-store"), nil)
	wantCode(t, "a key store that is not open", err, fault.Locked)
	k.DropKeyringKey(storeB)
	_, err = k.Seal(binding(storeB), nil)
	wantCode(t, "a key store that was dropped", err, fault.Locked)
}

// TestWrappedKeys open in their place and token alone.
func TestWrappedKeys(t *testing.T) {
	token := openToken(t)
	k, w := newRing(t, token)
	sealed, err := k.Seal(binding(storeA), nil)
	if err != nil {
		t.Fatal(err)
	}
	again := keyring.New(token)
	if err := again.OpenStateKey(ctx, installation, w.state); err != nil {
		t.Fatal(err)
	}
	if err := again.OpenKeyringKey(ctx, storeA, w.a); err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(binding(storeA), sealed); err != nil {
		t.Errorf("after opening again: %v", err)
	}
	other := keyring.New(openToken(t))
	for name, err := range map[string]error{
		"another installation":           again.OpenStateKey(ctx, "elsewhere", w.state),
		"another key store":              again.OpenKeyringKey(ctx, storeB, w.a),
		"a keyring key as the state key": again.OpenStateKey(ctx, installation, w.a),
		"another token":                  other.OpenStateKey(ctx, installation, w.state),
		"nothing":                        again.OpenStateKey(ctx, installation, nil),
		"cut":                            again.OpenKeyringKey(ctx, storeA, w.a[:len(w.a)-1]),
	} {
		wantCode(t, name, err, fault.Tampered)
	}
}

func version(n uint32, custody appliance.Custody) *appliance.KeyVersion {
	return &appliance.KeyVersion{KeyStore: storeA, KeyID: "k", Version: n, Custody: custody, Origin: appliance.OriginImported}
}

// importKey makes a version of the given key and unlocks it.
func importKey(t testing.TB, k *keyring.Keyring, custody appliance.Custody, key []byte) appliance.UnlockedKey {
	t.Helper()
	v := version(1, custody)
	object := ""
	if custody == appliance.CustodyHSM {
		object = k.NewTokenObject()
	}
	if err := k.Import(ctx, v, object, key); err != nil {
		t.Fatal(err)
	}
	u, err := k.Unlock(v)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPublishedVectors of AES-256-GCM: McGrew and Viega, "The Galois/Counter
// Mode of Operation (GCM)", test cases 14 and 16.
func TestPublishedVectors(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	for name, v := range map[string]struct{ key, iv, plaintext, aad, ciphertext, tag string }{
		"14": {strings.Repeat("0", 64), strings.Repeat("0", 24), strings.Repeat("0", 32), "",
			"cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
		"16": {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
			"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
			"feedfacedeadbeeffeedfacedeadbeefabaddad2",
			"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
			"76fc6ece0f4e1768cddf8853bb2d551b"},
	} {
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			u := importKey(t, k, custody, unhex(t, v.key))
			got, err := u.Decrypt(ctx, unhex(t, v.iv), unhex(t, v.ciphertext), unhex(t, v.tag), unhex(t, v.aad))
			if err != nil || !bytes.Equal(got, unhex(t, v.plaintext)) {
				t.Errorf("case %s, %s: %x, %v", name, custody, got, err)
			}
		}
	}
}

// TestKeys of both custodies encrypt what the other, and the standard library,
// decrypts.
func TestKeys(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	raw := bytes.Repeat([]byte{0x5a}, 32)
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	cached := importKey(t, k, appliance.CustodyCached, bytes.Clone(raw))
	inToken := importKey(t, k, appliance.CustodyHSM, bytes.Clone(raw))
	aad := []byte("aad")
	for _, size := range []int{1, 16, 4300} {
		plaintext := bytes.Repeat([]byte{7}, size)
		for name, u := range map[string]appliance.UnlockedKey{"cached": cached, "hsm": inToken} {
			iv, ciphertext, tag, err := u.Encrypt(ctx, plaintext, aad)
			if err != nil || len(iv) != 12 || len(ciphertext) != size || len(tag) != 16 {
				t.Fatalf("%s: %v, %d, %d, %d", name, err, len(iv), len(ciphertext), len(tag))
			}
			for other, o := range map[string]appliance.UnlockedKey{"cached": cached, "hsm": inToken} {
				if got, err := o.Decrypt(ctx, iv, ciphertext, tag, aad); err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("%s to %s: %v", name, other, err)
				}
				_, err := o.Decrypt(ctx, iv, ciphertext, tag, []byte("other"))
				wantCode(t, "other AAD", err, fault.Ciphertext)
				for _, n := range []int{0, 11, 13, 17} {
					_, err := o.Decrypt(ctx, make([]byte, n), ciphertext, tag, aad)
					wantCode(t, fmt.Sprintf("IV of %d", n), err, fault.Ciphertext)
				}
				for _, n := range []int{0, 12, 15} {
					_, err := o.Decrypt(ctx, iv, ciphertext, tag[:n], aad)
					wantCode(t, fmt.Sprintf("tag of %d", n), err, fault.Ciphertext)
				}
				_, err = o.Decrypt(ctx, iv, ciphertext[:size-1], append(ciphertext[size-1:size:size], tag...), aad)
				wantCode(t, "a byte moved from the ciphertext to the tag", err, fault.Ciphertext)
			}
		}
		// An IV of 16 bytes, as other proxies use it.
		gcm, err := cipher.NewGCMWithNonceSize(block, 16)
		if err != nil {
			t.Fatal(err)
		}
		iv := bytes.Repeat([]byte{9}, 16)
		sealed := gcm.Seal(nil, iv, plaintext, aad)
		for name, u := range map[string]appliance.UnlockedKey{"cached": cached, "hsm": inToken} {
			if got, err := u.Decrypt(ctx, iv, sealed[:size], sealed[size:], aad); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s, IV of 16 bytes: %v", name, err)
			}
		}
	}
	seen := map[string]bool{}
	for range 10000 {
		iv, _, _, err := cached.Encrypt(ctx, []byte("x"), nil)
		if err != nil || seen[string(iv)] {
			t.Fatalf("an IV came twice, or %v", err)
		}
		seen[string(iv)] = true
	}
}

// TestMaterial: what is imported must be an AES-256 key, and a version opens
// under its own number, custody and key store alone.
func TestMaterial(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	for _, n := range []int{0, 16, 31, 33} {
		wantCode(t, fmt.Sprint(n), k.Import(ctx, version(1, appliance.CustodyCached), "", make([]byte, n)), fault.Invalid)
	}
	v := version(1, appliance.CustodyCached)
	if err := k.Generate(ctx, v, ""); err != nil {
		t.Fatal(err)
	}
	if object, err := k.TokenObject(v); object != "" || err != nil {
		t.Errorf("a cached key has the object %q, %v", object, err)
	}
	for name, change := range map[string]func(*appliance.KeyVersion){
		"number":    func(v *appliance.KeyVersion) { v.Version = 2 },
		"key":       func(v *appliance.KeyVersion) { v.KeyID = "other" },
		"key store": func(v *appliance.KeyVersion) { v.KeyStore = storeB },
		"custody":   func(v *appliance.KeyVersion) { v.Custody = appliance.CustodyHSM },
		"origin":    func(v *appliance.KeyVersion) { v.Origin = appliance.OriginGenerated + "x" },
	} {
		w := *v
		change(&w)
		_, err := k.Unlock(&w)
		wantCode(t, name, err, fault.Tampered)
	}

	h := version(1, appliance.CustodyHSM)
	object := k.NewTokenObject()
	if err := k.Generate(ctx, h, object); err != nil {
		t.Fatal(err)
	}
	if got, err := k.TokenObject(h); got != object || err != nil {
		t.Errorf("the object is %q, %v; it was made as %q", got, err, object)
	}
	if bytes.Contains(h.Material, []byte(object)) {
		t.Error("the row shows the label of the object")
	}
	for range 2 { // the second time there is none, which is no error
		if err := k.DestroyTokenObject(ctx, object); err != nil {
			t.Error(err)
		}
	}
	u, err := k.Unlock(h)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = u.Encrypt(ctx, []byte("x"), nil)
	wantCode(t, "a key that was destroyed", err, fault.Gone)
}

// TestSign reproduces the signature of the example in AWS's documentation,
// "Create a signed AWS API request".
func TestSign(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	c := &appliance.Credential{AccessKeyID: "AKIDEXAMPLE", KeyStore: storeA, Active: true}
	var err error
	if c.Secret, err = k.Seal(c.Binding(), []byte("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")); err != nil {
		t.Fatal(err)
	}
	u, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	const toSign = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\nf536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
	for _, date := range []string{"20150830", "20150831", "20150901", "20150902", "20150903", "20150830"} { // more than are kept
		sum, err := u.Sign(date, "us-east-1", "iam", []byte(toSign))
		if err != nil {
			t.Fatal(err)
		}
		const want = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
		if got := hex.EncodeToString(sum[:]); (got == want) != (date == "20150830") {
			t.Errorf("%s: %s", date, got)
		}
	}
	u.Wipe()
	_, err = u.Sign("20150830", "us-east-1", "iam", []byte(toSign))
	wantCode(t, "after Wipe", err, fault.Locked)
}

// TestLock takes back all that was handed out, while it is used.
func TestLock(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	u := importKey(t, k, appliance.CustodyCached, bytes.Repeat([]byte{1}, 32))
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	var err error
	if c.Secret, err = k.Seal(c.Binding(), []byte("secret")); err != nil {
		t.Fatal(err)
	}
	credential, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				iv, ciphertext, tag, err := u.Encrypt(ctx, []byte("x"), nil)
				if err == nil {
					_, err = u.Decrypt(ctx, iv, ciphertext, tag, nil)
				}
				if err == nil {
					_, err = credential.Sign("20150830", "us-east-1", "iam", []byte("x"))
				}
				if err != nil {
					wantCode(t, "while locking", err, fault.Locked)
					return
				}
			}
		})
	}
	k.Lock()
	wg.Wait()
	_, err = k.Seal(binding(storeA), nil)
	wantCode(t, "locked", err, fault.Locked)
	_, err = k.Unlock(version(1, appliance.CustodyCached))
	wantCode(t, "locked", err, fault.Locked)
	_, err = credential.Sign("20150830", "us-east-1", "iam", []byte("x"))
	wantCode(t, "locked", err, fault.Locked)
	u.Wipe() // again is no harm
}
