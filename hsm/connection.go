package hsm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// connection is a token that is logged in, until it is lost.
type connection struct {
	cfg    *Config
	module *pkcs11.Ctx
	keys   *crypto11.Context // makes and finds keys
	slot   uint

	// slots bounds the calls in the module.
	slots chan struct{}

	mu       sync.Mutex
	free     []pkcs11.SessionHandle
	handles  map[string]pkcs11.ObjectHandle // key objects by label
	closing  bool
	underWay sync.WaitGroup
	// login keeps the session that is logged in, so that the others are.
	login pkcs11.SessionHandle
}

// connecting serializes the opening of tokens: the module is initialized for a
// look at the token, finalized, and initialized again by crypto11.
var connecting sync.Mutex

func connect(cfg *Config) (*connection, error) {
	connecting.Lock()
	defer connecting.Unlock()
	module, err := load(cfg.Module)
	if err != nil {
		return nil, err
	}
	c := &connection{cfg: cfg, module: module, slots: make(chan struct{}, cfg.MaxSessions), handles: map[string]pkcs11.ObjectHandle{}}
	if err := c.open(); err != nil {
		if c.keys != nil {
			_ = c.keys.Close()
		}
		module.Destroy()
		return nil, err
	}
	return c, nil
}

func load(path string) (*pkcs11.Ctx, error) {
	module := pkcs11.New(path)
	if module == nil {
		return nil, fmt.Errorf("hsm: %s cannot be loaded as a PKCS#11 module: %w; check the path, and that the vendor's software is installed", path, ErrNotFound)
	}
	return module, nil
}

// Look finds the token as [Open] does and gives what it says about itself, without a PIN, a login
// or a key. It takes as long as the module does, and while it does no token is opened. Errors:
// [ErrNotFound] for the module or token, [ErrAmbiguous], [ErrPINRefused] for a PIN that would not
// be tried, or an [*Error].
func Look(cfg Config) (Info, error) {
	if err := cfg.setDefaults(); err != nil {
		return Info{}, err
	}
	connecting.Lock()
	defer connecting.Unlock()
	module, err := load(cfg.Module)
	if err != nil {
		return Info{}, err
	}
	defer module.Destroy()
	info, err := (&connection{cfg: &cfg, module: module}).look()
	if err != nil {
		return Info{}, err
	}
	return newInfo(info), nil
}

func (c *connection) open() error {
	if _, err := c.look(); err != nil {
		return err
	}
	var err error
	c.keys, err = crypto11.Configure(&crypto11.Config{
		Path: c.cfg.Module, TokenLabel: c.cfg.TokenLabel, TokenSerial: c.cfg.TokenSerial,
		MaxSessions:       2, // one for itself, one for making and finding keys
		LoginNotSupported: true,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.name(), wrap("C_OpenSession", err))
	}
	if err := c.logIn(); err != nil {
		return err
	}
	if err := c.prepareKey(c.cfg.MasterKeyLabel, !c.cfg.MasterKeyExists); err != nil {
		return fmt.Errorf("%s: master %w", c.cfg.name(), err)
	}
	if err := c.prepareKey(c.cfg.ProbeKeyLabel, true); err != nil {
		return fmt.Errorf("%s: probe %w", c.cfg.name(), err)
	}
	return nil
}

// look finds the token, alone of its name, and sees whether its PIN may be
// tried. It gives what the token says about itself.
func (c *connection) look() (info pkcs11.TokenInfo, err error) {
	err = c.module.Initialize()
	if err == nil {
		defer func() { _ = c.module.Finalize() }()
	} else if !codeIn(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return info, fmt.Errorf("hsm: %s: %w", c.cfg.Module, wrap("C_Initialize", err))
	}
	slots, err := c.module.GetSlotList(true)
	if err != nil {
		return info, fmt.Errorf("hsm: %s: %w", c.cfg.Module, wrap("C_GetSlotList", err))
	}
	found := 0
	for _, slot := range slots {
		i, err := c.module.GetTokenInfo(slot)
		if err != nil {
			if codeIn(err, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED) {
				continue // another slot
			}
			return info, fmt.Errorf("hsm: %s: %w", c.cfg.Module, wrap("C_GetTokenInfo", err))
		}
		if (c.cfg.TokenLabel != "" && i.Label == c.cfg.TokenLabel) || (c.cfg.TokenSerial != "" && i.SerialNumber == c.cfg.TokenSerial) {
			found++
			c.slot, info = slot, i
		}
	}
	switch {
	case found == 0:
		return info, fmt.Errorf("%s: %w; check its name, and that the HSM is connected", c.cfg.name(), ErrNotFound)
	case found > 1:
		return info, fmt.Errorf("%s: %w: %d tokens have that name; select one with hsm.token_serial", c.cfg.name(), ErrAmbiguous, found)
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return info, fmt.Errorf("%s: %w: it is locked; the HSM's security officer can unlock it", c.cfg.name(), ErrPINRefused)
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return info, fmt.Errorf("%s: %w: the HSM would lock after one more wrong PIN, so it is not tried; log in with the vendor's tool once", c.cfg.name(), ErrPINRefused)
	}
	return info, nil
}

func (c *connection) logIn() error {
	s, err := c.newSession()
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.name(), err)
	}
	c.login = s
	err = erasing(len(c.cfg.PIN)+1, func() error { return c.module.Login(s, pkcs11.CKU_USER, string(c.cfg.PIN)) })
	if err == nil || codeIn(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	if pinRefused(err) {
		return fmt.Errorf("%s: %w: %w; it is not tried again", c.cfg.name(), ErrPINRefused, wrap("C_Login", err))
	}
	return fmt.Errorf("%s: %w", c.cfg.name(), wrap("C_Login", err))
}

// prepareKey finds the key of that label, or may make it.
func (c *connection) prepareKey(label string, make bool) error {
	found, err := c.find(label)
	switch {
	case err != nil:
		return err
	case len(found) > 1:
		return ambiguous(label, len(found))
	case len(found) == 1:
		return c.checkAttributes(label, found[0])
	case !make:
		return fmt.Errorf("%w; is this the right token, and is it restored completely?", notFound(label))
	}
	if label == c.cfg.MasterKeyLabel && c.cfg.MakingMasterKey != nil {
		if err := c.cfg.MakingMasterKey(); err != nil {
			return fmt.Errorf("key %q is not made: %w", label, err)
		}
	}
	return c.generate(label)
}

func ambiguous(label string, n int) error {
	return fmt.Errorf("key %q: %w: %d key objects have that label; rename or destroy all but the right one", label, ErrAmbiguous, n)
}

func notFound(label string) error { return fmt.Errorf("key %q: %w", label, ErrNotFound) }

func (c *connection) find(label string) ([]*crypto11.SecretKey, error) {
	set, err := crypto11.NewAttributeSetWithIDAndLabel([]byte(label), []byte(label))
	if err != nil {
		return nil, err
	}
	set.Unset(crypto11.CkaId)
	found, err := c.keys.FindKeysWithAttributes(set)
	return found, wrap("C_FindObjects", err)
}

// generate makes an AES-256 key that stays in the token.
func (c *connection) generate(label string) error {
	set, err := crypto11.NewAttributeSetWithIDAndLabel([]byte(label), []byte(label))
	if err != nil {
		return err
	}
	set.AddIfNotPresent([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
	})
	_, err = c.keys.GenerateSecretKeyWithAttributes(set, 256, crypto11.CipherAES)
	return wrap("C_GenerateKey", err)
}

// checkAttributes refuses a key that does not protect what depends on it.
func (c *connection) checkAttributes(label string, key *crypto11.SecretKey) error {
	need := []struct {
		attribute crypto11.AttributeType
		name      string
		want      any
	}{
		{crypto11.CkaKeyType, "CKA_KEY_TYPE CKK_AES", uint(pkcs11.CKK_AES)},
		{crypto11.CkaValueLen, "CKA_VALUE_LEN 32", uint(32)},
		{crypto11.CkaSensitive, "CKA_SENSITIVE true", true},
		{crypto11.CkaExtractable, "CKA_EXTRACTABLE false", false},
		{crypto11.CkaEncrypt, "CKA_ENCRYPT true", true},
		{crypto11.CkaDecrypt, "CKA_DECRYPT true", true},
	}
	for _, n := range need {
		got, err := c.keys.GetAttribute(key, n.attribute)
		if err != nil {
			return fmt.Errorf("key %q: %w", label, wrap("C_GetAttributeValue", err))
		}
		if want := pkcs11.NewAttribute(n.attribute, n.want); got == nil || !bytes.Equal(got.Value, want.Value) {
			return fmt.Errorf("key %q: it must have %s and does not; destroy it if nothing depends on it, or choose another label", label, n.name)
		}
	}
	return nil
}

// begin counts an operation; false when the connection is closing.
func (c *connection) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.underWay.Add(1)
	return true
}

func (c *connection) end() { c.underWay.Done() }

// close waits for the operations under way, which C_Finalize must not overtake,
// and ends everything.
func (c *connection) close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.underWay.Wait()
	connecting.Lock()
	defer connecting.Unlock()
	for _, s := range append(c.free, c.login) {
		_ = c.module.CloseSession(s) // a lost one cannot be closed
	}
	err := c.keys.Close() // finalizes the module if no other token uses it
	c.module.Destroy()
	return err
}

// with runs f in a session. A session in which anything but a decryption failed
// is not used again: an operation may still be active in it.
func (c *connection) with(f func(pkcs11.SessionHandle) error) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	err = f(s)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrExists) && !errors.Is(err, ErrAmbiguous) {
		_ = c.module.CloseSession(s)
		return err
	}
	c.mu.Lock()
	c.free = append(c.free, s)
	c.mu.Unlock()
	return err
}

func (c *connection) session() (pkcs11.SessionHandle, error) {
	c.mu.Lock()
	if n := len(c.free); n > 0 {
		s := c.free[n-1]
		c.free = c.free[:n-1]
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	return c.newSession()
}

func (c *connection) newSession() (pkcs11.SessionHandle, error) {
	s, err := c.module.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return s, wrap("C_OpenSession", err)
}

// forgetStale drops what may be as stale as what caused err: if a session is
// lost, so may be the others.
func (c *connection) forgetStale(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if handleStale(err) {
		clear(c.handles)
		return
	}
	for _, s := range c.free {
		_ = c.module.CloseSession(s)
	}
	c.free = nil
}

// dead says whether the token does not even answer for the session that is
// logged in, or has lost the login.
func (c *connection) dead() bool {
	info, err := c.module.GetSessionInfo(c.login)
	return err != nil || info.State != pkcs11.CKS_RW_USER_FUNCTIONS
}

// key gives the handle of the key object of that label.
func (c *connection) key(s pkcs11.SessionHandle, label string) (pkcs11.ObjectHandle, error) {
	c.mu.Lock()
	h, ok := c.handles[label]
	c.mu.Unlock()
	if ok {
		return h, nil
	}
	found, err := c.objects(s, label)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, notFound(label)
	case 1:
		c.mu.Lock()
		c.handles[label] = found[0]
		c.mu.Unlock()
		return found[0], nil
	}
	return 0, ambiguous(label, len(found))
}

// objects gives up to two key objects of that label.
func (c *connection) objects(s pkcs11.SessionHandle, label string) ([]pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := c.module.FindObjectsInit(s, template); err != nil {
		return nil, wrap("C_FindObjectsInit", err)
	}
	found, _, err := c.module.FindObjects(s, 2)
	if err != nil {
		return nil, wrap("C_FindObjects", err)
	}
	return found, wrap("C_FindObjectsFinal", c.module.FindObjectsFinal(s))
}

func (c *connection) forgetKey(label string) {
	c.mu.Lock()
	delete(c.handles, label)
	c.mu.Unlock()
}

// Sizes of AES-GCM in bytes (SP 800-38D section 5.2.1).
const (
	ivBytes  = 12
	tagBytes = 16
)

func (c *connection) encrypt(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, plaintext, aad []byte) (sealed, error) {
	iv := make([]byte, ivBytes)
	if !c.cfg.IVFromToken {
		_, _ = rand.Read(iv) // never fails (crypto/rand)
	}
	params := pkcs11.NewGCMParams(iv, aad, tagBytes*8)
	defer params.Free()
	if err := c.module.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return sealed{}, wrap("C_EncryptInit", err)
	}
	out, err := c.module.Encrypt(s, plaintext)
	if err != nil {
		return sealed{}, wrap("C_Encrypt", err)
	}
	if c.cfg.IVFromToken {
		if iv = params.IV(); bytes.Equal(iv, make([]byte, len(iv))) {
			return sealed{}, errors.New("C_Encrypt: the token was to make the IV and did not; set hsm.iv_from_token = false")
		}
	}
	if len(out) != len(plaintext)+tagBytes {
		return sealed{}, fmt.Errorf("C_Encrypt: %d bytes came back for %d and a tag of %d", len(out), len(plaintext), tagBytes)
	}
	n := len(plaintext)
	return sealed{iv, out[:n:n], out[n:]}, nil
}

func (c *connection) decrypt(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, in sealed, aad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(in.iv, aad, tagBytes*8)
	defer params.Free()
	if err := c.module.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, wrap("C_DecryptInit", err)
	}
	var plaintext []byte
	err := erasing(len(in.ciphertext), func() (err error) {
		plaintext, err = c.module.Decrypt(s, append(in.ciphertext, in.tag...))
		return err
	})
	switch {
	case codeIn(err, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_SIGNATURE_INVALID):
		return nil, ErrDecrypt
	case codeIn(err, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED) && !c.dead():
		// SoftHSM and others say no more than this when the tag is wrong. See [Token.Decrypt].
		return nil, errUnclear
	case err != nil:
		return nil, wrap("C_Decrypt", err)
	case len(plaintext) != len(in.ciphertext):
		clear(plaintext)
		return nil, fmt.Errorf("C_Decrypt: %d bytes came back for %d", len(plaintext), len(in.ciphertext))
	}
	return plaintext, nil
}
