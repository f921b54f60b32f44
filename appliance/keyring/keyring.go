// Package keyring holds the unlocked keys of the appliance and does all
// cryptography with them. Use it behind [appliance.Keyring].
//
// # Guarantees
//
//   - Key material rests in memory that is locked against swapping, left out of
//     core dumps and of child processes, and zeroized when a key is wiped or the
//     keyring locked. Built with GOEXPERIMENT=runtimesecret, no copy stays in
//     the heap either (package scrub).
//   - Every blob that leaves is sealed by AES-256-GCM with a random 96-bit IV
//     (SP 800-38D section 8.2.2) and binds the place it belongs to.
//   - All key material comes from the HSM's random number generator.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
	"holdfast/hsm"
)

// Token is what the keyring needs of an HSM token; [*hsm.Token] is one.
type Token interface {
	Random(ctx context.Context, n int) ([]byte, error)
	Wrap(ctx context.Context, secret, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error)
	GenerateKey(ctx context.Context, label string) error
	ImportKey(ctx context.Context, label string, key []byte) error
	DestroyKey(ctx context.Context, label string) error
	Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error)
	Decrypt(ctx context.Context, label string, iv, ciphertext, tag, aad []byte) ([]byte, error)
	DataObjects(ctx context.Context, reach hsm.Reach) ([]hsm.DataObject, error)
	CreateDataObject(ctx context.Context, o hsm.DataObject, reach hsm.Reach) error
	DestroyDataObject(ctx context.Context, o hsm.DataObject) error
	KeyLabels(ctx context.Context) ([]string, error)
}

// Keyring implements [appliance.Keyring]. The zero value is not usable: see
// [New].
type Keyring struct {
	token Token
	mem   memory

	mu       sync.RWMutex
	stateKey *guarded
	// installation is the ID of the one whose state key that is.
	installation string
	keys         map[string]*guarded // keyring keys by key store ID
	handed       map[*guarded]struct{}
}

var _ appliance.Keyring = (*Keyring)(nil)

// New gives an empty keyring over the token.
func New(token Token) *Keyring {
	return &Keyring{token: token, keys: map[string]*guarded{}, handed: map[*guarded]struct{}{}}
}

// stateKeyBinding says besides that all rows of the installation have seals, and are in
// manifests.
func stateKeyBinding(installation string) appliance.Binding {
	return appliance.Binding{Purpose: "state-key/v3", Fields: []string{installation}}
}

// earlyStateKeyBindings are those of before: all rows have seals, or not even that.
func earlyStateKeyBindings(installation string) (sealed, first appliance.Binding) {
	return appliance.Binding{Purpose: "state-key/v2", Fields: []string{installation}}, appliance.Binding{Purpose: "state-key", Fields: []string{installation}}
}

func keyringKeyBinding(keyStore string) appliance.Binding {
	return appliance.Binding{Purpose: "keyring-key", Fields: []string{keyStore}}
}

// NewStateKey implements [appliance.Keyring].
func (k *Keyring) NewStateKey(ctx context.Context, installation string) ([]byte, error) {
	key, wrapped, err := k.newWrapped(ctx, stateKeyBinding(installation), "state key")
	if err != nil {
		return nil, err
	}
	k.setStateKey(installation, key)
	return wrapped, nil
}

// OpenStateKey implements [appliance.Keyring].
func (k *Keyring) OpenStateKey(ctx context.Context, installation string, wrapped []byte) error {
	key, err := k.unwrap(ctx, stateKeyBinding(installation), wrapped, "state key")
	if err != nil {
		return err
	}
	k.setStateKey(installation, key)
	return nil
}

// OpenEarlyStateKey implements [appliance.Keyring].
func (k *Keyring) OpenEarlyStateKey(ctx context.Context, installation string, wrapped []byte) (again []byte, sealed bool, err error) {
	second, first := earlyStateKeyBindings(installation)
	raw, err := k.unwrapRaw(ctx, second, wrapped, "state key")
	if sealed = err == nil; fault.CodeOf(err) == fault.Tampered {
		raw, err = k.unwrapRaw(ctx, first, wrapped, "state key")
	}
	if err != nil {
		return nil, false, err
	}
	defer clear(raw)
	if again, err = k.token.Wrap(ctx, raw, stateKeyBinding(installation).AAD()); err != nil {
		return nil, false, tokenError(err, "wrap the state key")
	}
	key, err := k.mem.put(raw)
	if err != nil {
		return nil, false, internal(err, "keep the state key")
	}
	k.setStateKey(installation, key)
	return again, sealed, nil
}

func (k *Keyring) setStateKey(installation string, key *guarded) {
	k.mu.Lock()
	old := k.stateKey
	k.stateKey, k.installation = key, installation
	k.mu.Unlock()
	if old != nil {
		old.wipe()
	}
}

// NewKeyringKey implements [appliance.Keyring].
func (k *Keyring) NewKeyringKey(ctx context.Context, keyStore string) ([]byte, error) {
	key, wrapped, err := k.newWrapped(ctx, keyringKeyBinding(keyStore), "keyring key")
	if err != nil {
		return nil, err
	}
	k.setKeyringKey(keyStore, key)
	return wrapped, nil
}

// OpenKeyringKey implements [appliance.Keyring].
func (k *Keyring) OpenKeyringKey(ctx context.Context, keyStore string, wrapped []byte) error {
	key, err := k.unwrap(ctx, keyringKeyBinding(keyStore), wrapped, "keyring key")
	if err != nil {
		return err
	}
	k.setKeyringKey(keyStore, key)
	return nil
}

// HasKeyringKey implements [appliance.Keyring].
func (k *Keyring) HasKeyringKey(keyStore string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[keyStore] != nil
}

// DropKeyringKey implements [appliance.Keyring].
func (k *Keyring) DropKeyringKey(keyStore string) { k.setKeyringKey(keyStore, nil) }

func (k *Keyring) setKeyringKey(keyStore string, key *guarded) {
	k.mu.Lock()
	old := k.keys[keyStore]
	if key == nil {
		delete(k.keys, keyStore)
	} else {
		k.keys[keyStore] = key
	}
	k.mu.Unlock()
	if old != nil {
		old.wipe()
	}
}

// newWrapped makes a random 256-bit key and wraps it under the master key.
func (k *Keyring) newWrapped(ctx context.Context, b appliance.Binding, what string) (*guarded, []byte, error) {
	raw, err := k.random(ctx)
	if err != nil {
		return nil, nil, tokenError(err, "make a "+what)
	}
	defer clear(raw)
	wrapped, err := k.token.Wrap(ctx, raw, b.AAD())
	if err != nil {
		return nil, nil, tokenError(err, "wrap a "+what)
	}
	key, err := k.mem.put(raw)
	if err != nil {
		return nil, nil, internal(err, "keep a "+what)
	}
	return key, wrapped, nil
}

// random gives the bytes of a key from the token. A generator that gives nothing but
// zeros is broken.
func (k *Keyring) random(ctx context.Context) ([]byte, error) {
	raw, err := k.token.Random(ctx, appliance.KeyBytes)
	if err != nil {
		return nil, err
	}
	if len(raw) != appliance.KeyBytes || appliance.Unset(raw) {
		clear(raw)
		return nil, errors.New("the HSM's random number generator does not give random bytes")
	}
	return raw, nil
}

func (k *Keyring) unwrap(ctx context.Context, b appliance.Binding, wrapped []byte, what string) (*guarded, error) {
	raw, err := k.unwrapRaw(ctx, b, wrapped, what)
	if err != nil {
		return nil, err
	}
	key, err := k.mem.put(raw)
	if err != nil {
		return nil, internal(err, "keep the "+what)
	}
	return key, nil
}

// unwrapRaw gives the bytes of a wrapped key; the caller zeroizes them.
func (k *Keyring) unwrapRaw(ctx context.Context, b appliance.Binding, wrapped []byte, what string) ([]byte, error) {
	raw, err := k.tokenUnwrap(ctx, wrapped, b.AAD())
	if errors.Is(err, hsm.ErrDecrypt) {
		return nil, &fault.Fault{Code: fault.Tampered, Err: err,
			Message: fmt.Sprintf("the %s does not unwrap under the HSM's master key: the database was changed by hand, or this is another HSM's", what)}
	}
	if err != nil {
		return nil, tokenError(err, "unwrap the "+what)
	}
	if len(raw) != appliance.KeyBytes {
		clear(raw)
		return nil, fault.Errorf(fault.Tampered, "the %s has %d bytes instead of %d", what, len(raw), appliance.KeyBytes)
	}
	return raw, nil
}

// tokenUnwrap has the token unwrap a secret. Some HSMs say of anything that it does not
// authenticate while they are in trouble. So [hsm.ErrDecrypt] is given only if the token
// unwraps then what it has just wrapped, and after that says the same of the blob again;
// otherwise the HSM has failed, and nothing is known of the blob.
func (k *Keyring) tokenUnwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	secret, err := k.token.Unwrap(ctx, blob, aad)
	if !errors.Is(err, hsm.ErrDecrypt) {
		return secret, err
	}
	known := make([]byte, appliance.KeyBytes)
	_, _ = rand.Read(known) // never fails (crypto/rand)
	wrapped, failed := k.token.Wrap(ctx, known, aad)
	if failed != nil {
		return nil, failed
	}
	again, failed := k.token.Unwrap(ctx, wrapped, aad)
	if failed == nil && subtle.ConstantTimeCompare(again, known) != 1 {
		failed = errors.New("it gives another secret")
	}
	if failed != nil {
		return nil, fmt.Errorf("the HSM does not unwrap what it has just wrapped: %v", failed) // not that error: it says nothing of the blob
	}
	return k.token.Unwrap(ctx, blob, aad)
}

// Empty implements [appliance.Keyring].
func (k *Keyring) Empty() appliance.Keyring { return New(k.token) }

// Wrap implements [appliance.Keyring].
func (k *Keyring) Wrap(ctx context.Context, b appliance.Binding, secret []byte) ([]byte, error) {
	if len(secret) > maxSealed {
		return nil, fault.Errorf(fault.TooLarge, "a secret of %d bytes; at most %d are wrapped", len(secret), maxSealed)
	}
	wrapped, err := k.token.Wrap(ctx, secret, b.AAD())
	if err != nil {
		return nil, tokenError(err, "wrap a "+b.Purpose)
	}
	return wrapped, nil
}

// Unwrap implements [appliance.Keyring].
func (k *Keyring) Unwrap(ctx context.Context, b appliance.Binding, wrapped []byte) ([]byte, error) {
	secret, err := k.tokenUnwrap(ctx, wrapped, b.AAD())
	if errors.Is(err, hsm.ErrDecrypt) {
		return nil, &fault.Fault{Code: fault.Tampered, Err: err,
			Message: fmt.Sprintf("the %s does not unwrap under this HSM's master key: it is of another HSM, or was changed", b.Purpose)}
	}
	if err != nil {
		return nil, tokenError(err, "unwrap a "+b.Purpose)
	}
	return secret, nil
}

// Lock implements [appliance.Keyring].
func (k *Keyring) Lock() {
	k.mu.Lock()
	all := k.handed
	if k.stateKey != nil {
		all[k.stateKey] = struct{}{}
	}
	for _, key := range k.keys {
		all[key] = struct{}{}
	}
	k.stateKey, k.installation, k.keys, k.handed = nil, "", map[string]*guarded{}, map[*guarded]struct{}{}
	k.mu.Unlock()
	for key := range all {
		key.wipe()
	}
}

// sealFormat is the first byte of every sealed blob; IV, ciphertext and tag
// follow.
const sealFormat = 1

// sealOverhead is what a sealed blob has besides the secret's bytes.
const sealOverhead = 1 + 12 + 16

// maxSealed bounds the secrets that rest in rows.
const maxSealed = 4096

// Seal implements [appliance.Keyring].
func (k *Keyring) Seal(b appliance.Binding, secret []byte) ([]byte, error) {
	key, err := k.sealingKey(b)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1, sealOverhead+len(secret))
	out[0] = sealFormat
	if !key.use(func(raw []byte) {
		withGCM(raw, cipher.NewGCMWithRandomNonce, func(aead cipher.AEAD) { out = aead.Seal(out, nil, secret, b.AAD()) })
	}) {
		return nil, errLocked()
	}
	return out, nil
}

// Reseal implements [appliance.Keyring].
func (k *Keyring) Reseal(from, to appliance.Binding, sealed []byte) ([]byte, error) {
	secret, err := k.open(from, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return k.Seal(to, secret)
}

// Verify implements [appliance.Keyring].
func (k *Keyring) Verify(b appliance.Binding, sealed []byte) error {
	secret, err := k.open(b, sealed)
	clear(secret)
	if err == nil && len(secret) != 0 {
		return tampered(b)
	}
	return err
}

// open gives the secret of a sealed blob; the caller zeroizes it.
func (k *Keyring) open(b appliance.Binding, sealed []byte) (secret []byte, err error) {
	key, err := k.sealingKey(b)
	if err != nil {
		return nil, err
	}
	if len(sealed) < sealOverhead || len(sealed) > maxSealed || sealed[0] != sealFormat {
		return nil, tampered(b)
	}
	if !key.use(func(raw []byte) {
		withGCM(raw, cipher.NewGCMWithRandomNonce, func(aead cipher.AEAD) { secret, err = aead.Open(nil, nil, sealed[1:], b.AAD()) })
	}) {
		return nil, errLocked()
	}
	if err != nil {
		return nil, tampered(b)
	}
	return secret, nil
}

func (k *Keyring) sealingKey(b appliance.Binding) (*guarded, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	key := k.stateKey
	if b.KeyStore != "" {
		key = k.keys[b.KeyStore]
	}
	if key == nil {
		return nil, errLocked()
	}
	return key, nil
}

// TokenObject implements [appliance.Keyring].
func (k *Keyring) TokenObject(v *appliance.KeyVersion) (string, error) {
	if v.Custody != appliance.CustodyHSM {
		return "", nil
	}
	label, err := k.open(v.Binding(), v.Material)
	return string(label), err
}

// Generate implements [appliance.Keyring].
func (k *Keyring) Generate(ctx context.Context, v *appliance.KeyVersion, tokenObject string) error {
	if v.Custody == appliance.CustodyHSM {
		if err := k.token.GenerateKey(ctx, tokenObject); err != nil {
			return keyError(err, "make the key")
		}
		return k.sealMaterial(v, []byte(tokenObject))
	}
	raw, err := k.random(ctx)
	if err != nil {
		return tokenError(err, "make an external key")
	}
	defer clear(raw)
	return k.sealMaterial(v, raw)
}

// Import implements [appliance.Keyring].
func (k *Keyring) Import(ctx context.Context, v *appliance.KeyVersion, tokenObject string, key []byte) error {
	if len(key) != appliance.KeyBytes {
		return fault.Errorf(fault.Invalid, "key material has %d bytes; an AES-256 key has %d", len(key), appliance.KeyBytes)
	}
	if v.Custody == appliance.CustodyHSM {
		if err := k.token.ImportKey(ctx, tokenObject, key); err != nil {
			return keyError(err, "take the key")
		}
		return k.sealMaterial(v, []byte(tokenObject))
	}
	return k.sealMaterial(v, key)
}

func (k *Keyring) sealMaterial(v *appliance.KeyVersion, secret []byte) (err error) {
	v.Material, err = k.Seal(v.Binding(), secret)
	return err
}

// Unlock implements [appliance.Keyring].
func (k *Keyring) Unlock(v *appliance.KeyVersion) (appliance.UnlockedKey, error) {
	secret, err := k.open(v.Binding(), v.Material)
	if err != nil {
		return nil, err
	}
	if v.Custody == appliance.CustodyHSM {
		leave, err := k.hand(v.KeyStore, nil, nil)
		if err != nil {
			return nil, err
		}
		return &tokenKey{ring: k, label: string(secret), leave: leave}, nil
	}
	if len(secret) != appliance.KeyBytes {
		clear(secret)
		return nil, tampered(v.Binding())
	}
	c := &cachedKey{ring: k}
	if err := k.handAs(&c.key, v.KeyStore, secret); err != nil {
		return nil, err
	}
	return c, nil
}

// UnlockCredential implements [appliance.Keyring].
func (k *Keyring) UnlockCredential(c *appliance.Credential) (appliance.UnlockedCredential, error) {
	secret, err := k.open(c.Binding(), c.Secret)
	if err != nil {
		return nil, err
	}
	g, err := k.hand("", secret, nil)
	if err != nil {
		return nil, err
	}
	return &signingKeys{ring: k, secret: g}, nil
}

// hand puts a secret into locked memory and remembers it, so that Lock wipes
// it, and also what was made of it. It refuses if the keyring was locked since the
// secret was opened.
func (k *Keyring) hand(keyStore string, secret []byte, also func()) (*guarded, error) {
	g := &guarded{also: also}
	if err := k.handAs(g, keyStore, secret); err != nil {
		return nil, err
	}
	return g, nil
}

// handAs does that with a guarded that is a part of something, and new.
func (k *Keyring) handAs(g *guarded, keyStore string, secret []byte) error {
	if err := k.mem.fill(g, secret); err != nil {
		return internal(err, "keep an unlocked key")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stateKey == nil || (keyStore != "" && k.keys[keyStore] == nil) {
		g.wipe()
		return errLocked()
	}
	k.handed[g] = struct{}{}
	return nil
}

// takeBack wipes what was handed out.
func (k *Keyring) takeBack(g *guarded) {
	k.evict(g)
	scrub.Soon()
}

// evict does that without having the garbage collector run: where more keys are in use than are
// kept, hundreds come and go each second, and with a million keys in memory a run takes more than a
// second of a processor.
func (k *Keyring) evict(g *guarded) {
	k.mu.Lock()
	delete(k.handed, g)
	k.mu.Unlock()
	g.erase()
}

// withGCM calls f with AES-GCM under the key, of the mode that newMode makes. It is
// called inside of scrub.Do; the key schedule, which package aes puts into the heap, is
// erased at once. Modes are [cipher.NewGCMWithRandomNonce], which puts its IV before the
// ciphertext, and those of other lengths of the IV; their errors depend on lengths alone,
// which have been checked.
func withGCM(key []byte, newMode func(cipher.Block) (cipher.AEAD, error), f func(cipher.AEAD)) {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	defer scrub.Erase(block)
	aead, err := newMode(block)
	if err != nil {
		panic(err)
	}
	defer scrub.Erase(aead)
	f(aead)
}

func errLocked() error {
	return fault.Errorf(fault.Locked, "the keyring is locked")
}

// tampered names the row by its first field. The others may be secret, as a user's
// password hash; a user has no other.
func tampered(b appliance.Binding) error {
	var name string
	if len(b.Fields) > 0 && b.Purpose != "user" {
		name = b.Fields[0]
	}
	return fault.Errorf(fault.Tampered, "the stored %s %q does not match its seal: the database was changed by hand or is damaged", b.Purpose, name)
}

func internal(err error, doing string) error {
	return &fault.Fault{Code: fault.Internal, Message: "cannot " + doing, Err: err}
}

// keyError is that of a key object that the HSM did not make: administrators see what it said.
func keyError(err error, doing string) error {
	if f := tokenError(err, doing); fault.CodeOf(f) == fault.Timeout {
		return f
	}
	return fault.Wrapf(fault.HSMKey, err, "the HSM did not %s: %v", doing, err)
}

// tokenError puts an error of the HSM into the domain's terms.
func tokenError(err error, doing string) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &fault.Fault{Code: fault.Timeout, Message: "the HSM did not answer in time: cannot " + doing, Err: err}
	case errors.Is(err, hsm.ErrDecrypt):
		return &fault.Fault{Code: fault.Ciphertext, Message: "the ciphertext does not authenticate", Err: err}
	}
	return &fault.Fault{Code: fault.Internal, Message: "the HSM failed: cannot " + doing, Err: err}
}
