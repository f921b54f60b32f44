package keyring_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/keyring/keyringtest"
	"holdfast/appliance/keyring/scrub"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func needsScrub(t *testing.T) {
	t.Helper()
	if !scrub.Enabled {
		keyringtest.Cannot(t, "built without GOEXPERIMENT=runtimesecret: copies stay in the heap")
	}
}

var never, once = keyringtest.Found{}, keyringtest.Found{Locked: 1}

// alone runs the test in a process of its own in which Go's runtime does not
// preempt goroutines wherever they are, and says whether this is that process.
// When it does that it saves all registers, also those in which memcpy has left
// what it copied, and keeps them until the next time.
func alone(t *testing.T) bool {
	t.Helper()
	const setting = "asyncpreemptoff=1"
	if os.Getenv("GODEBUG") == setting {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG="+setting)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// witness is a token that notes, hidden, which key material left it.
type witness struct {
	*hsm.Token
	random, unwrapped []keyringtest.Secret
}

// The first half of freed memory is used by malloc itself.
func half(key []byte) keyringtest.Secret { return keyringtest.Hide(key[len(key)/2:]) }

func (w *witness) Random(ctx context.Context, n int) ([]byte, error) {
	b, err := w.Token.Random(ctx, n)
	w.random = append(w.random, half(b))
	return b, err
}

func (w *witness) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	b, err := w.Token.Unwrap(ctx, blob, aad)
	w.unwrapped = append(w.unwrapped, half(b))
	return b, err
}

// TestKeysOfTheTokenAreInLockedMemoryAlone: neither those that it made nor
// those that it unwrapped leave a copy on the way, in Go's heap or in C's.
func TestKeysOfTheTokenAreInLockedMemoryAlone(t *testing.T) {
	needsScrub(t)
	if !alone(t) {
		return
	}
	token := openToken(t)
	first, wrapped := newRing(t, token)
	first.Lock()
	w := &witness{Token: token}
	k := keyring.New(w)
	// Many times, because garbage may be overwritten before it is found.
	for range 25 {
		if err := k.OpenStateKey(ctx, installation, wrapped.state); err != nil {
			t.Fatal(err)
		}
		if err := k.OpenKeyringKey(ctx, storeA, wrapped.a); err != nil {
			t.Fatal(err)
		}
	}
	opened := w.unwrapped[:2]
	generated := version(1, appliance.CustodyCached)
	for range 25 {
		if _, err := k.NewKeyringKey(ctx, storeB); err != nil {
			t.Fatal(err)
		}
		if err := k.Generate(ctx, generated, ""); err != nil {
			t.Fatal(err)
		}
	}
	u, err := k.Unlock(generated)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := u.Encrypt(ctx, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	inUse := len(w.random) - 2 // of those made, the last two are
	for i, got := range keyringtest.Find(t, w.random...) {
		want := never
		if i >= inUse {
			want = once
		}
		if got != want {
			t.Errorf("key %d made by the token: %+v, want %+v", i, got, want)
		}
	}
	for i, got := range keyringtest.Find(t, opened...) {
		if got != once {
			t.Errorf("key %d unwrapped by the token: %+v, want %+v", i, got, once)
		}
	}
	k.Lock()
	for i, got := range keyringtest.Find(t, append(opened, w.random...)...) {
		if got != never {
			t.Errorf("after Lock key %d: %+v, want none", i, got)
		}
	}
	inModule(t, token, "after use", append(opened, w.random...))
	if err := token.Renew(ctx); err != nil {
		t.Fatal(err)
	}
	if n := inModule(t, token, "in the process that was begun after use", append(opened, w.random...)); n != 0 {
		t.Errorf("%d keys are in a process that never had them", n)
	}
}

// inModule counts the keys of which the module's process has copies. The library's own
// memory is its own matter, so they are told and not judged.
func inModule(t *testing.T, token *hsm.Token, when string, keys []keyringtest.Secret) (keysFound int) {
	t.Helper()
	info, err := token.Info(ctx)
	if err != nil || info.Process.PID == 0 {
		t.Fatal(info, err)
	}
	copies := 0
	for _, got := range keyringtest.Other(info.Process.PID).Find(t, keys...) {
		if copies += got.Locked + got.Elsewhere; got != never {
			keysFound++
		}
	}
	t.Logf("%s, the module's process has %d copies of %d of %d keys", when, copies, keysFound, len(keys))
	return keysFound
}

// TestImportedTokenKeys leave no copy here.
func TestImportedTokenKeys(t *testing.T) {
	needsScrub(t)
	if !alone(t) {
		return
	}
	k, _ := newRing(t, openToken(t))
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	hidden := half(key)
	importKey(t, k, appliance.CustodyHSM, key)
	clear(key) // as who imports a key does
	if got := keyringtest.Find(t, hidden)[0]; got != never {
		t.Errorf("the key: %+v, want none", got)
	}
}

const date, awsRegion, service = "20150830", "us-east-1", "kms-xks-proxy"

// newSigner makes a secret in a buffer, which it gives, to be erased.
func newSigner(t *testing.T) (secret []byte, derived map[string]keyringtest.Secret) {
	t.Helper()
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	secret = base64.StdEncoding.AppendEncode(nil, raw)
	return secret, keyringtest.SigningKey(t, secret, date, awsRegion, service)
}

func found(t *testing.T, hidden map[string]keyringtest.Secret) (in []string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(hidden))
	var all []keyringtest.Secret
	for _, name := range names {
		all = append(all, hidden[name])
	}
	for i, got := range keyringtest.Find(t, all...) {
		if got != never {
			in = append(in, names[i])
		}
	}
	return in
}

// TestSecretAccessKeys and what is derived from them are in locked memory, and an HMAC
// that is ready is elsewhere for seconds. Nothing is left of them when they are wiped. The
// garbage collector has no part in it.
func TestSecretAccessKeys(t *testing.T) {
	needsScrub(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	k, _ := newRing(t, openToken(t))
	secret, derived := newSigner(t)
	hidden := keyringtest.Hide(secret[:32]) // as much as is in one piece
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	var err error
	if c.Secret, err = k.Seal(c.Binding(), secret); err != nil {
		t.Fatal(err)
	}
	clear(secret)
	u, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err := u.Sign(date, awsRegion, service, []byte("a string to sign")); err != nil {
			t.Fatal(err)
		}
	}
	if got := keyringtest.Find(t, derived["the signing key"])[0]; got != once {
		t.Errorf("the signing key: %+v, want %+v", got, once)
	}
	for _, padded := range []string{"the padded key of the inner hash", "the padded key of the outer hash"} {
		if got := keyringtest.Find(t, derived[padded])[0]; got != never {
			t.Errorf("%s: %+v, want none", padded, got)
		}
	}
	if len(found(t, derived)) == 1 {
		t.Error("the ready HMAC is not found: this test looks for the wrong thing")
	}
	appliancetest.Eventually(t, "that the ready HMAC is erased while the credential serves", func() bool {
		return slices.Equal(found(t, derived), []string{"the signing key"})
	})
	if _, err := u.Sign(date, awsRegion, service, []byte("a string to sign")); err != nil {
		t.Fatal(err)
	}
	if got := keyringtest.Find(t, hidden)[0]; got != once {
		t.Errorf("the secret: %+v, want %+v", got, once)
	}
	u.Wipe()
	if in := found(t, derived); len(in) != 0 {
		t.Errorf("after Wipe there is still %q", in)
	}
	if got := keyringtest.Find(t, hidden)[0]; got != never {
		t.Errorf("after Wipe the secret: %+v, want none", got)
	}
}

// TestLongSecretAccessKeys are longer, with what SigV4 puts before them, than a block of
// the hash; then an HMAC's key is a hash of its own.
func TestLongSecretAccessKeys(t *testing.T) {
	needsScrub(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	k, _ := newRing(t, openToken(t))
	raw := make([]byte, 48)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	secret := base64.StdEncoding.AppendEncode(nil, raw)
	derived := keyringtest.SigningKey(t, secret, date, awsRegion, service)
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	var err error
	if c.Secret, err = k.Seal(c.Binding(), secret); err != nil {
		t.Fatal(err)
	}
	clear(secret)
	u, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Sign(date, awsRegion, service, []byte("a string to sign"))
	if err != nil {
		t.Fatal(err)
	}
	u.Wipe()
	if in := found(t, derived); len(in) != 0 {
		t.Errorf("after Wipe there is still %q", in)
	}
	if want := appliancetest.Signature(base64.StdEncoding.EncodeToString(raw), date, awsRegion, service, "a string to sign"); got != want {
		t.Errorf("the signature is %x, want %x", got, want)
	}
}

// TestScopes: signing keys of many scopes, used at the same time, take each other's
// places; each signature is that of its scope.
func TestScopes(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	var err error
	if c.Secret, err = k.Seal(c.Binding(), []byte("a secret")); err != nil {
		t.Fatal(err)
	}
	u, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for user := range 8 {
		wg.Go(func() {
			for n := range 200 {
				region := fmt.Sprintf("region-%d", (user+n)%6)
				got, err := u.Sign(date, region, service, []byte("a string to sign"))
				if want := appliancetest.Signature("a secret", date, region, service, "a string to sign"); err != nil || got != want {
					t.Errorf("%s: %x, %v, want %x", region, got, err, want)
				}
			}
		})
	}
	wg.Wait()
	u.Wipe()
	_, err = u.Sign(date, awsRegion, service, nil)
	wantCode(t, "sign when wiped", err, fault.Locked)
}

// TestLockErasesSigningKeys at once, without the garbage collector.
func TestLockErasesSigningKeys(t *testing.T) {
	needsScrub(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(hsmtest.New(t))})
	secret, derived := newSigner(t)
	func() {
		if _, err := b.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo"}); err != nil {
			t.Fatal(err)
		}
		want := appliance.NewCredential{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: string(secret)}
		if _, _, err := b.Appliance.CreateCredential(ctx, "demo", want); err != nil {
			t.Fatal(err)
		}
		e, err := b.Appliance.Endpoint("/demo")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 { // the signatures that these are compared with
			proof := &appliance.Signature{AccessKeyID: want.AccessKeyID, Date: date, Region: awsRegion, Service: service, StringToSign: fmt.Append(nil, i)}
			if _, err := e.Open(proof, &appliance.Outcome{}); fault.CodeOf(err) != fault.Unauthenticated || !strings.Contains(err.Error(), "does not match") {
				t.Fatal(err)
			}
		}
	}()
	b.Appliance.Lock()
	if in := found(t, derived); len(in) != 0 {
		t.Errorf("after Lock there is still %q", in)
	}
}
