package appliancetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// device is a token of either kind, with what a test may do to it.
type device struct {
	appliancetest.Device
	cut, restore func()
	setDelay     func(time.Duration)
}

var devices = map[string]func(t *testing.T) device{
	"in memory": func(*testing.T) device {
		m := appliancetest.NewMemory()
		return device{m, m.Cut, m.Restore, m.SetDelay}
	},
	"SoftHSM2": func(t *testing.T) device {
		c, shim := hsmtest.NewBehindShim(t)
		c.Pause = func(int) time.Duration { return time.Millisecond }
		return device{appliancetest.PKCS11(c), shim.Cut, shim.Restore, shim.SetDelay}
	},
}

func open(t *testing.T, d device) appliancetest.Token {
	t.Helper()
	token, err := d.Open(t.Context(), appliancetest.Opening{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// attempts are all that a token does, with a key "k" that is there and a blob that was
// wrapped.
func attempts(token appliancetest.Token, blob []byte) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Probe":       token.Probe,
		"Info":        func(ctx context.Context) error { return second(token.Info(ctx)) },
		"Random":      func(ctx context.Context) error { return second(token.Random(ctx, 8)) },
		"Wrap":        func(ctx context.Context) error { return second(token.Wrap(ctx, []byte("x"), nil)) },
		"Unwrap":      func(ctx context.Context) error { return second(token.Unwrap(ctx, blob, []byte("aad"))) },
		"GenerateKey": func(ctx context.Context) error { return token.GenerateKey(ctx, "generated") },
		"ImportKey":   func(ctx context.Context) error { return token.ImportKey(ctx, "imported", make([]byte, 32)) },
		"DestroyKey":  func(ctx context.Context) error { return token.DestroyKey(ctx, "absent") },
		"Encrypt":     func(ctx context.Context) error { return fourth(token.Encrypt(ctx, "k", []byte("x"), nil)) },
		"Decrypt": func(ctx context.Context) error {
			return second(token.Decrypt(ctx, "k", make([]byte, 12), nil, make([]byte, 16), nil))
		},
	}
}

func second[T any](_ T, err error) error { return err }

func fourth[T any](_, _, _ T, err error) error { return err }

var all = []error{hsm.ErrUnavailable, hsm.ErrPINRefused, hsm.ErrNotFound, hsm.ErrOwnKey, hsm.ErrExists, hsm.ErrAmbiguous, hsm.ErrDecrypt, hsm.ErrClosed}

// wantError wants this one of the errors of package hsm and no other; none if it is nil.
func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if (err == nil) != (want == nil) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	for _, e := range all {
		if is := errors.Is(err, e); is != (e == want) {
			t.Errorf("%s: got %v, of which %q is %t; want %v", what, err, e, is, want)
		}
	}
}

// TestTokensAgree: the token in memory and a real one give the same for the same.
func TestTokensAgree(t *testing.T) {
	for name, make := range devices {
		t.Run(name, func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, device){
				"wrapping": wrapping, "keys": keys, "encryption": encryption, "the token's own keys": ownKeys,
				"facts": facts, "away": away, "slow": slow, "closed": closed, "opened twice": openedTwice, "data objects": dataObjects,
			} {
				t.Run(name, func(t *testing.T) { test(t, make(t)) })
			}
		})
	}
}

func wrapping(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	for _, secret := range [][]byte{[]byte("s"), bytes.Repeat([]byte("s"), 32), bytes.Repeat([]byte("s"), 4096)} {
		blob, err := token.Wrap(ctx, secret, []byte("aad"))
		if err != nil || len(blob) != 1+12+len(secret)+16 || blob[0] != 1 {
			t.Fatalf("wrapped to %d bytes: %v", len(blob), err)
		}
		if again, err := token.Wrap(ctx, secret, []byte("aad")); err != nil || bytes.Equal(again, blob) {
			t.Errorf("the same again: %v", err)
		}
		got, err := token.Unwrap(ctx, blob, []byte("aad"))
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("unwrapped %q: %v", got, err)
		}
		flipped := func(at int) []byte {
			b := bytes.Clone(blob)
			b[at] ^= 1
			return b
		}
		for what, broken := range map[string][]byte{
			"nothing": nil, "a byte": {1}, "too short": blob[:28], "cut": blob[:len(blob)-1], "longer": append(bytes.Clone(blob), 0),
			"another format": flipped(0), "another IV": flipped(1), "another ciphertext": flipped(13), "another tag": flipped(len(blob) - 1),
			"a format that is none": append([]byte{9}, blob[1:]...),
		} {
			_, err := token.Unwrap(ctx, broken, []byte("aad"))
			wantError(t, what, err, hsm.ErrDecrypt)
		}
		_, err = token.Unwrap(ctx, blob, []byte("other"))
		wantError(t, "another AAD", err, hsm.ErrDecrypt)
		_, err = token.Unwrap(ctx, blob, nil)
		wantError(t, "no AAD", err, hsm.ErrDecrypt)
	}
}

func keys(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	key := bytes.Repeat([]byte{7}, 32)
	wantError(t, "generate", token.GenerateKey(ctx, "generated"), nil)
	wantError(t, "import", token.ImportKey(ctx, "imported", key), nil)
	wantError(t, "generate again", token.GenerateKey(ctx, "generated"), hsm.ErrExists)
	wantError(t, "generate over an import", token.GenerateKey(ctx, "imported"), hsm.ErrExists)
	wantError(t, "import over a generated one", token.ImportKey(ctx, "generated", key), hsm.ErrExists)
	for _, n := range []int{0, 16, 31, 33} {
		if err := token.ImportKey(ctx, "short", make([]byte, n)); err == nil || !strings.Contains(err.Error(), "an AES-256 key has 32") {
			t.Errorf("importing %d bytes: %v", n, err)
		}
	}
	if !bytes.Equal(key, bytes.Repeat([]byte{7}, 32)) {
		t.Error("the import changed the caller's bytes")
	}
	iv, ciphertext, tag, err := token.Encrypt(ctx, "imported", []byte("x"), nil)
	wantError(t, "encrypt", err, nil)
	clear(key) // which is the caller's
	got, err := token.Decrypt(ctx, "imported", iv, ciphertext, tag, nil)
	if err != nil || string(got) != "x" {
		t.Errorf("decrypted %q: %v", got, err)
	}
	_, err = token.Decrypt(ctx, "generated", iv, ciphertext, tag, nil)
	wantError(t, "with another key", err, hsm.ErrDecrypt)
	wantError(t, "destroy", token.DestroyKey(ctx, "imported"), nil)
	wantError(t, "destroy again", token.DestroyKey(ctx, "imported"), hsm.ErrNotFound)
	_, err = token.Decrypt(ctx, "imported", iv, ciphertext, tag, nil)
	wantError(t, "decrypt with a destroyed key", err, hsm.ErrNotFound)
	wantError(t, "encrypt with a destroyed key", fourth(token.Encrypt(ctx, "imported", nil, nil)), hsm.ErrNotFound)
	// The same label is another key then.
	wantError(t, "generate under the label", token.GenerateKey(ctx, "imported"), nil)
	_, err = token.Decrypt(ctx, "imported", iv, ciphertext, tag, nil)
	wantError(t, "decrypt with the new key", err, hsm.ErrDecrypt)
}

func encryption(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	wantError(t, "generate", token.GenerateKey(ctx, "k"), nil)
	for _, plaintext := range [][]byte{[]byte("x"), bytes.Repeat([]byte("x"), 64<<10)} {
		for _, aad := range [][]byte{nil, []byte("aad")} {
			given := bytes.Clone(plaintext)
			iv, ciphertext, tag, err := token.Encrypt(ctx, "k", given, aad)
			if err != nil || len(iv) != 12 || len(ciphertext) != len(plaintext) || len(tag) != 16 || !bytes.Equal(given, plaintext) {
				t.Fatalf("IV of %d, ciphertext of %d, tag of %d bytes: %v", len(iv), len(ciphertext), len(tag), err)
			}
			got, err := token.Decrypt(ctx, "k", iv, ciphertext, tag, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("decrypted %d bytes: %v", len(got), err)
			}
			decrypt := func(what string, iv, ciphertext, tag, aad []byte) {
				t.Helper()
				_, err := token.Decrypt(ctx, "k", iv, ciphertext, tag, aad)
				wantError(t, what, err, hsm.ErrDecrypt)
			}
			decrypt("another AAD", iv, ciphertext, tag, []byte("other"))
			decrypt("another tag", iv, ciphertext, make([]byte, 16), aad)
			decrypt("another IV", make([]byte, 12), ciphertext, tag, aad)
			decrypt("another ciphertext", iv, make([]byte, len(ciphertext)), tag, aad)
			decrypt("a longer ciphertext", iv, append(bytes.Clone(ciphertext), 0), tag, aad)
			decrypt("no ciphertext", iv, nil, tag, aad)
			decrypt("an IV of 16 bytes", make([]byte, 16), ciphertext, tag, aad)
			decrypt("a byte moved from the ciphertext to the IV", append(bytes.Clone(iv), ciphertext[0]), ciphertext[1:], tag, aad)
			decrypt("a byte moved from the tag to the ciphertext", iv, append(bytes.Clone(ciphertext), tag[0]), tag[1:], aad)
			decrypt("no IV", nil, ciphertext, tag, aad)
			decrypt("no tag", iv, ciphertext, nil, aad)
		}
	}
	_, err := token.Decrypt(ctx, "absent", make([]byte, 12), nil, make([]byte, 16), nil)
	wantError(t, "an absent key", err, hsm.ErrNotFound)
	if a, err := token.Random(ctx, 32); err != nil || len(a) != 32 || bytes.Equal(a, make([]byte, 32)) {
		t.Errorf("random: %x, %v", a, err)
	}
}

func ownKeys(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	for _, label := range []string{"holdfast-master", "holdfast-probe"} {
		wantError(t, "destroy "+label, token.DestroyKey(ctx, label), hsm.ErrOwnKey)
		wantError(t, "generate "+label, token.GenerateKey(ctx, label), hsm.ErrExists)
		wantError(t, "import "+label, token.ImportKey(ctx, label, make([]byte, 32)), hsm.ErrExists)
		wantError(t, "encrypt with "+label, fourth(token.Encrypt(ctx, label, []byte("x"), nil)), nil)
	}
	wantError(t, "probe", token.Probe(ctx), nil)
}

func facts(t *testing.T, d device) {
	info, err := open(t, d).Info(t.Context())
	if err != nil || info.Label == "" || info.Serial == "" || info.Manufacturer == "" || info.Model == "" || info.Firmware == "" || info.Hardware == "" || info.FreeSessions != -1 || info.Dialect != "standard" || info.MaxSessions != hsm.DefaultMaxSessions {
		t.Errorf("%+v: %v", info, err)
	}
}

// dataObjects: the limits are those of package hsm.
func dataObjects(t *testing.T, d device) {
	token, other, ctx := open(t, d), open(t, d), t.Context()
	reads := func(token appliancetest.Token, want ...string) {
		t.Helper()
		all, err := token.DataObjects(ctx, hsm.ReachMost)
		var got []string
		for _, o := range all {
			got = append(got, o.Label+"="+string(o.Value))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %.200q %v, want %.200q", got, err, want)
		}
	}
	reads(token)
	for _, o := range []hsm.DataObject{{Label: "b", Value: []byte("2")}, {Label: "a", Value: []byte("1")}} {
		wantError(t, "create "+o.Label, token.CreateDataObject(ctx, o, hsm.ReachMost), nil)
		wantError(t, "create it again", other.CreateDataObject(ctx, o, hsm.ReachAny), hsm.ErrExists)
	}
	wantError(t, "create with another value", other.CreateDataObject(ctx, hsm.DataObject{Label: "a", Value: []byte("3")}, hsm.ReachMost), hsm.ErrExists)
	reads(token, "a=1", "b=2")
	reads(other, "a=1", "b=2")
	wantError(t, "destroy one that is not there", token.DestroyDataObject(ctx, hsm.DataObject{Label: "c"}), hsm.ErrNotFound)
	wantError(t, "destroy one of another value", token.DestroyDataObject(ctx, hsm.DataObject{Label: "a", Value: []byte("2")}), hsm.ErrNotFound)
	wantError(t, "destroy", other.DestroyDataObject(ctx, hsm.DataObject{Label: "a", Value: []byte("1")}), nil)
	wantError(t, "destroy again", token.DestroyDataObject(ctx, hsm.DataObject{Label: "a", Value: []byte("1")}), hsm.ErrNotFound)
	reads(token, "b=2")
	if err := token.CreateDataObject(ctx, hsm.DataObject{Label: "long", Value: make([]byte, hsm.MaxDataValue+1)}, hsm.ReachAny); err == nil || !strings.Contains(err.Error(), "at most 4096 are kept") {
		t.Errorf("a value that is too long: %v", err)
	}
	for i := range hsm.MaxDataObjects {
		wantError(t, "fill", token.CreateDataObject(ctx, hsm.DataObject{Label: fmt.Sprint("filler", i)}, hsm.ReachAny), nil)
	}
	if all, err := token.DataObjects(ctx, hsm.ReachAny); err == nil || !strings.Contains(err.Error(), "more than 256 data objects") {
		t.Errorf("%d objects, %v", len(all), err)
	}
	d.cut()
	wantError(t, "create, away", token.CreateDataObject(ctx, hsm.DataObject{Label: "d"}, hsm.ReachAny), hsm.ErrUnavailable)
	wantError(t, "destroy, away", token.DestroyDataObject(ctx, hsm.DataObject{Label: "b", Value: []byte("2")}), hsm.ErrUnavailable)
	_, err := token.DataObjects(ctx, hsm.ReachAny)
	wantError(t, "read, away", err, hsm.ErrUnavailable)
	d.restore()
}

func away(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	wantError(t, "generate", token.GenerateKey(ctx, "k"), nil)
	blob, err := token.Wrap(ctx, []byte("secret"), []byte("aad"))
	wantError(t, "wrap", err, nil)
	d.cut()
	for name, attempt := range attempts(token, blob) {
		wantError(t, name+", away", attempt(ctx), hsm.ErrUnavailable)
	}
	// What is refused without the token is refused all the same.
	wantError(t, "destroy its own key", token.DestroyKey(ctx, "holdfast-master"), hsm.ErrOwnKey)
	_, err = token.Unwrap(ctx, []byte("no blob"), nil)
	wantError(t, "unwrap what is no blob", err, hsm.ErrDecrypt)
	if _, err := d.Open(ctx, appliancetest.Opening{}); err == nil {
		t.Error("a token that is away was opened")
	}
	d.restore()
	appliancetest.Eventually(t, "back", func() bool { return token.Probe(ctx) == nil })
	for name, attempt := range attempts(token, blob) {
		want := map[string]error{"DestroyKey": hsm.ErrNotFound, "Decrypt": hsm.ErrDecrypt}[name]
		wantError(t, name+", back", attempt(ctx), want)
	}
}

func slow(t *testing.T, d device) {
	token := open(t, d)
	wantError(t, "generate", token.GenerateKey(t.Context(), "k"), nil)
	blob, err := token.Wrap(t.Context(), []byte("secret"), []byte("aad"))
	wantError(t, "wrap", err, nil)
	d.setDelay(200 * time.Millisecond)
	defer d.setDelay(0)
	for name, attempt := range attempts(token, blob) {
		if name == "Info" || name == "GenerateKey" || name == "ImportKey" || name == "DestroyKey" {
			continue // which take effect all the same, or are not delayed by the shim
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		err := attempt(ctx)
		cancel()
		wantOther(t, name, err, context.DeadlineExceeded)
	}
	wantError(t, "with more patience", token.Probe(t.Context()), nil)
}

// wantOther wants an error that is none of package hsm.
func wantOther(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || slices.ContainsFunc(all, func(e error) bool { return errors.Is(err, e) }) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func closed(t *testing.T, d device) {
	token, ctx := open(t, d), t.Context()
	wantError(t, "generate", token.GenerateKey(ctx, "k"), nil)
	blob, err := token.Wrap(ctx, []byte("secret"), []byte("aad"))
	wantError(t, "wrap", err, nil)
	wantError(t, "close", token.Close(), nil)
	wantError(t, "close again", token.Close(), nil)
	for name, attempt := range attempts(token, blob) {
		wantError(t, name, attempt(ctx), hsm.ErrClosed)
	}
	// All is there when it is opened again.
	again := open(t, d)
	got, err := again.Unwrap(ctx, blob, []byte("aad"))
	if err != nil || string(got) != "secret" {
		t.Errorf("opened again, unwrapped %q: %v", got, err)
	}
	wantError(t, "generate again", again.GenerateKey(ctx, "k"), hsm.ErrExists)
}

func openedTwice(t *testing.T, d device) {
	one, two, ctx := open(t, d), open(t, d), t.Context()
	wantError(t, "generate", one.GenerateKey(ctx, "k"), nil)
	iv, ciphertext, tag, err := two.Encrypt(ctx, "k", []byte("x"), nil)
	wantError(t, "encrypt by the other", err, nil)
	if got, err := one.Decrypt(ctx, "k", iv, ciphertext, tag, nil); err != nil || string(got) != "x" {
		t.Errorf("decrypted %q: %v", got, err)
	}
	wantError(t, "destroy by the other", two.DestroyKey(ctx, "k"), nil)
	wantError(t, "encrypt", fourth(one.Encrypt(ctx, "k", []byte("x"), nil)), hsm.ErrNotFound)
}

// TestMemoryCounts: calls are counted by operation, also those that fail.
func TestMemoryCounts(t *testing.T) {
	m := appliancetest.NewMemory()
	token := open(t, device{Device: m})
	before := m.Calls("Encrypt")
	wantError(t, "wrap", second(token.Wrap(t.Context(), []byte("x"), nil)), nil)
	m.Cut()
	wantError(t, "wrap", second(token.Wrap(t.Context(), []byte("x"), nil)), hsm.ErrUnavailable)
	if got := m.Calls("Encrypt") - before; got != 2 {
		t.Errorf("%d calls of Encrypt, want 2", got)
	}
	m.Restore()
	wantError(t, "generate", token.GenerateKey(t.Context(), "k"), nil)
	if labels := m.Labels(); !slices.Equal(labels, []string{"holdfast-master", "holdfast-probe", "k"}) {
		t.Errorf("labels %q", labels)
	}
}
