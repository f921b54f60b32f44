package keyring_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/wire"
)

var custodies = []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM}

func wantLocked(t *testing.T, what string, u appliance.UnlockedKey) {
	t.Helper()
	_, _, _, err := u.Encrypt(ctx, []byte("x"), nil)
	wantCode(t, what+", encrypt", err, fault.Locked)
	_, err = u.Decrypt(ctx, make([]byte, 12), []byte("x"), make([]byte, 16), nil)
	wantCode(t, what+", decrypt", err, fault.Locked)
}

// TestWipe ends the use of what it is called on, and of nothing else: not of
// the same key unlocked once more, and not of a key that gets its place.
func TestWipe(t *testing.T) {
	for _, custody := range custodies {
		k, _ := newRing(t, openToken(t))
		v := version(1, custody)
		object := ""
		if custody == appliance.CustodyHSM {
			object = k.NewTokenObject()
		}
		if err := k.Generate(ctx, v, object); err != nil {
			t.Fatal(err)
		}
		unlock := func() appliance.UnlockedKey {
			t.Helper()
			u, err := k.Unlock(v)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		wiped, other := unlock(), unlock()
		iv, ciphertext, tag, err := wiped.Encrypt(ctx, []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		wiped.Wipe()
		again := unlock()
		wantLocked(t, string(custody)+", wiped", wiped)
		wiped.Wipe()
		for name, u := range map[string]appliance.UnlockedKey{"unlocked before": other, "unlocked after": again} {
			if got, err := u.Decrypt(ctx, iv, ciphertext, tag, nil); err != nil || string(got) != "x" {
				t.Errorf("%s, %s: %q, %v", custody, name, got, err)
			}
		}
		k.Lock()
		wantLocked(t, string(custody)+", locked", other)
		wantLocked(t, string(custody)+", locked", again)
		_, err = k.Unlock(v)
		wantCode(t, string(custody)+", unlock when locked", err, fault.Locked)
		for name, err := range map[string]error{
			"generate": k.Generate(ctx, version(2, appliance.CustodyCached), ""),
			"import":   k.Import(ctx, version(2, appliance.CustodyCached), "", make([]byte, 32)),
			"verify":   k.Verify(binding(""), nil),
		} {
			wantCode(t, name+" when locked", err, fault.Locked)
		}
	}
}

// TestUseWhileWiping: keys come and go and take each other's places in memory
// while they are used, at the end the keyring is locked; whatever is encrypted
// is encrypted under the right key.
func TestUseWhileWiping(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	const keys, users = 8, 8
	var versions [keys]*appliance.KeyVersion
	var reference [keys]cipher.AEAD
	for i := range keys {
		raw := bytes.Repeat([]byte{byte(i + 1)}, 32)
		block, err := aes.NewCipher(raw)
		if err != nil {
			t.Fatal(err)
		}
		if reference[i], err = cipher.NewGCM(block); err != nil {
			t.Fatal(err)
		}
		versions[i] = version(uint32(i+1), appliance.CustodyCached)
		if err := k.Import(ctx, versions[i], "", raw); err != nil {
			t.Fatal(err)
		}
	}
	var wg, warm sync.WaitGroup
	warm.Add(users)
	for user := range users {
		wg.Go(func() {
			for n := 0; ; n++ {
				if n == 100 {
					warm.Done()
				}
				i := (user + n) % keys
				u, err := k.Unlock(versions[i])
				if err != nil {
					wantCode(t, "unlock", err, fault.Locked)
					break
				}
				// One wipes while another still uses.
				other := make(chan struct{})
				go func() {
					defer close(other)
					u.Wipe()
				}()
				iv, ciphertext, tag, err := u.Encrypt(ctx, []byte("plaintext"), nil)
				<-other
				if err != nil {
					wantCode(t, "encrypt", err, fault.Locked)
					continue
				}
				if got, err := reference[i].Open(nil, iv, append(ciphertext[:len(ciphertext):len(ciphertext)], tag...), nil); err != nil || string(got) != "plaintext" {
					t.Errorf("key %d: %q, %v", i, got, err)
				}
			}
		})
	}
	warm.Wait()
	k.Lock()
	wg.Wait()
}

// TestAnotherToken says what to look for.
func TestAnotherToken(t *testing.T) {
	_, w := newRing(t, openToken(t))
	other := keyring.New(openToken(t))
	for what, err := range map[string]error{
		"state key":   other.OpenStateKey(ctx, installation, w.state),
		"keyring key": other.OpenKeyringKey(ctx, storeA, w.a),
	} {
		wantCode(t, what, err, fault.Tampered)
		var e *fault.Fault
		if want := "the " + what + " does not unwrap under the HSM's master key"; !errors.As(err, &e) || !strings.HasPrefix(e.Message, want) || !strings.Contains(e.Message, "another HSM") {
			t.Errorf("%s: the message is %v", what, err)
		}
	}
}

// TestPublishedVectorsOf16ByteIVs are of Project Wycheproof, aes_gcm_test.json,
// whose numbers they have.
func TestPublishedVectorsOf16ByteIVs(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	for n, v := range map[int]struct{ key, iv, aad, plaintext, ciphertext, tag string }{
		252: {"00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f", "00000000000000000000000000000000", "",
			"8d74f1c97243d362577ff376c393d2dc", "265c42e2b96ea1de9c24f7182e337390", "00000000000000000000000000000000"},
		255: {"b7797eb0c1a6089ad5452d81fdb14828c040ddc4589c32b565aad8cb4de3e4a0", "0ad570d8863918fe89124e09d125a271", "",
			"ed", "3f", "fd8f593b83314e33c5a72efbeb7095e8"},
		258: {"4f84782bfbb64a973c3de3dcfa3430367fd68bc0b4c3b31e5d7c8141ba3e6a67", "5d1bde6fa0994b33efd8f23f531248a7", "",
			"78cb6650a1908a842101ea85804fed00cc56fbdafafba0ef4d1ca607dcae57b6", "cb960201fa5ad41d41d1c2c8037c71d52b72e76b16b589d71b976627c9734c9d", "8dfce16467c3a6ebb3e7242c9a551962"},
	} {
		for _, custody := range custodies {
			u := importKey(t, k, custody, unhex(t, v.key))
			got, err := u.Decrypt(ctx, unhex(t, v.iv), unhex(t, v.ciphertext), unhex(t, v.tag), unhex(t, v.aad))
			if err != nil || hex.EncodeToString(got) != v.plaintext {
				t.Errorf("vector %d, %s: %x, %v", n, custody, got, err)
			}
		}
	}
}

// TestTokenObjects: keys in the token's custody are one object each, under
// their label, which no one gets out of it.
func TestTokenObjects(t *testing.T) {
	cfg := hsmtest.New(t)
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	k, _ := newRing(t, token)
	generated, imported := k.NewTokenObject(), k.NewTokenObject()
	if generated == imported {
		t.Fatal("two objects have one label")
	}
	for _, n := range []int{0, 16, 31, 33} {
		wantCode(t, fmt.Sprint(n), k.Import(ctx, version(1, appliance.CustodyHSM), imported, make([]byte, n)), fault.Invalid)
	}
	if err := k.Generate(ctx, version(1, appliance.CustodyHSM), generated); err != nil {
		t.Fatal(err)
	}
	if err := k.Import(ctx, version(2, appliance.CustodyHSM), imported, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{generated, imported} {
		p, s, objects := objectsOf(t, cfg, label)
		if len(objects) != 1 {
			t.Fatalf("%d objects have the label", len(objects))
		}
		for _, a := range []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		} {
			got, err := p.GetAttributeValue(s, objects[0], []*pkcs11.Attribute{pkcs11.NewAttribute(a.Type, nil)})
			if err != nil || !bytes.Equal(got[0].Value, a.Value) {
				t.Errorf("attribute %#x is %v, %v", a.Type, got, err)
			}
		}
		if value, err := p.GetAttributeValue(s, objects[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); err == nil {
			t.Errorf("the token gives the key: %v", value)
		}
		if err := k.DestroyTokenObject(ctx, label); err != nil {
			t.Fatal(err)
		}
		if _, _, left := objectsOf(t, cfg, label); len(left) != 0 {
			t.Error("the object is still there")
		}
	}
}

// objectsOf finds the token's objects of the label by hand, beside the module's process.
func objectsOf(t *testing.T, cfg hsm.Config, label string) (*pkcs11.Ctx, pkcs11.SessionHandle, []pkcs11.ObjectHandle) {
	t.Helper()
	p, s := hsmtest.ByHand(t, cfg)
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := p.FindObjects(s, 10)
	if err := errors.Join(err, p.FindObjectsFinal(s)); err != nil {
		t.Fatal(err)
	}
	return p, s, found
}

// TestDestroyTokenObjectForm: only objects of the form that the keyring itself
// gives are destroyed.
func TestDestroyTokenObjectForm(t *testing.T) {
	token, err := hsm.Open(ctx, hsmtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	k, _ := newRing(t, token)
	good := k.NewTokenObject()
	long := "holdfast-key-" + installation + "-" + strings.Repeat("5f", 16) // as labels were
	for _, label := range []string{"holdfast-master", "holdfast-probe", "payroll", "holdfast-key-", "holdfast-key-1", good + "a", good[:len(good)-1], "x" + good, good + "\n", strings.ToUpper(good),
		good[:len(good)-1] + "1", appliance.NewTokenLabel("holdfast-" + strings.Repeat("f", 8) + "-"), strings.Replace(long, installation, strings.Repeat("f", 32), 1), long + "0", strings.ToUpper(long),
		appliance.NewTokenLabel("holdfast-position-"), appliance.NewTokenLabel("holdfast-installation-")} {
		if len(label) > 16 {
			if err := token.GenerateKey(ctx, label); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, label, k.DestroyTokenObject(ctx, label), fault.Invalid)
	}
	wantCode(t, "nothing", k.DestroyTokenObject(ctx, ""), fault.Invalid)
	if err := k.DestroyTokenObject(ctx, good); err != nil {
		t.Errorf("there is none: %v", err)
	}
	before, err := k.KeyObjects(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{good, long, "holdfast-key-" + strings.Repeat("5f", 16)} {
		if err := token.GenerateKey(ctx, label); err != nil {
			t.Fatal(err)
		}
		if got, err := k.KeyObjects(ctx); err != nil || len(got) != len(before)+1 || !slices.Contains(got, label) {
			t.Errorf("with %s there are %q, %v", label, got, err)
		}
		if err := k.DestroyTokenObject(ctx, label); err != nil {
			t.Errorf("%s: %v", label, err)
		}
		if got, err := k.KeyObjects(ctx); err != nil || !slices.Equal(got, before) {
			t.Errorf("there are %q, %v", got, err)
		}
	}
}

// TestLongTokenLabels: keys that an earlier release made keep their labels, and serve.
func TestLongTokenLabels(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	for n, label := range []string{"holdfast-key-" + installation + "-" + strings.Repeat("5f", 16), "holdfast-key-" + strings.Repeat("5f", 16)} {
		v := version(uint32(n+1), appliance.CustodyHSM)
		if err := k.Generate(ctx, v, label); err != nil {
			t.Fatal(err)
		}
		if got, err := k.TokenObject(v); err != nil || got != label {
			t.Errorf("the version names %q, %v", got, err)
		}
		u, err := k.Unlock(v)
		if err != nil {
			t.Fatal(err)
		}
		iv, ciphertext, tag, err := u.Encrypt(ctx, []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.Decrypt(ctx, iv, ciphertext, tag, nil); err != nil || string(got) != "x" {
			t.Errorf("%q: %q, %v", label, got, err)
		}
	}
}

// TestTokenLabels: no label is longer than what an HSM has been tried with, nor changed by a library
// that knows no case, and each is another.
func TestTokenLabels(t *testing.T) {
	if appliance.MaxTokenLabel != wire.LongLabel {
		t.Errorf("labels of %d bytes are tried, and those of %d made", wire.LongLabel, appliance.MaxTokenLabel)
	}
	k, _ := newRing(t, openToken(t))
	seen := map[string]bool{}
	for range 100 {
		for _, label := range []string{k.NewTokenObject(), appliance.NewTokenLabel("holdfast-installation-"), appliance.NewTokenLabel("holdfast-position-")} {
			if len(label) != wire.LongLabel || label != strings.ToLower(label) || seen[label] {
				t.Fatalf("label %q of %d bytes; seen: %t", label, len(label), seen[label])
			}
			seen[label] = true
		}
	}
	if label := k.NewTokenObject(); !strings.HasPrefix(label, "holdfast-"+installation[:8]+"-") {
		t.Errorf("%s does not name installation %s", label, installation)
	}
}

// TestCachedMaterial: the sealed material tells by its length whether the key is in
// the token (appliance.CachedMaterial).
func TestCachedMaterial(t *testing.T) {
	token, err := hsm.Open(ctx, hsmtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	k, _ := newRing(t, token)
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		for n, produce := range map[string]func(*appliance.KeyVersion, string) error{
			"generated": func(v *appliance.KeyVersion, object string) error { return k.Generate(ctx, v, object) },
			"imported": func(v *appliance.KeyVersion, object string) error {
				return k.Import(ctx, v, object, bytes.Repeat([]byte{1}, 32))
			},
		} {
			v := version(1, custody)
			if err := produce(v, k.NewTokenObject()); err != nil {
				t.Fatal(err)
			}
			if cached := len(v.Material) == appliance.CachedMaterial; cached != (custody == appliance.CustodyCached) {
				t.Errorf("%s, %s: %d bytes", custody, n, len(v.Material))
			}
		}
	}
}

// TestGone: a key whose object is not in the token any more is told from an HSM that
// fails or is away, and from a master key that is missing.
func TestGone(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	cfg.Pause = func(int) time.Duration { return time.Millisecond }
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	k, _ := newRing(t, token)
	v, object := version(1, appliance.CustodyHSM), k.NewTokenObject()
	if err := k.Generate(ctx, v, object); err != nil {
		t.Fatal(err)
	}
	u, err := k.Unlock(v)
	if err != nil {
		t.Fatal(err)
	}
	iv, ciphertext, tag, err := u.Encrypt(ctx, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, want fault.Code) {
		t.Helper()
		_, _, _, err := u.Encrypt(ctx, []byte("x"), nil)
		wantCode(t, when, err, want)
		_, err = u.Decrypt(ctx, iv, ciphertext, tag, nil)
		wantCode(t, when, err, want)
	}
	if err := k.DestroyTokenObject(ctx, object); err != nil {
		t.Fatal(err)
	}
	check("destroyed", fault.Gone)
	shim.Cut()
	check("away", fault.Internal)
	if err := k.DestroyTokenObject(ctx, object); fault.CodeOf(err) != fault.Internal {
		t.Errorf("destroy while it is away: %v", err)
	}
}
