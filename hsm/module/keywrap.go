package module

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// wrapping is how a token without AES-GCM protects secrets: each is encrypted here, by
// AES-256-GCM with a key of its own, which the token wraps under the master key. So the
// secret is bound to its AAD, which key wrapping alone has not.
type wrapping struct {
	mechanism uint
	name      string
	// encrypts says that the mechanism is for C_Encrypt and C_Decrypt, which PKCS#11 v3.0
	// allows as well, and not for C_WrapKey and C_UnwrapKey.
	encrypts bool
}

func (w *wrapping) String() string { return fmt.Sprintf("%s (0x%X)", w.name, w.mechanism) }

// wrappings are the mechanisms of AES key wrapping with padding (RFC 5649), in the order in
// which they are taken.
var wrappings = []wrapping{
	{mechanism: 0x210B, name: "CKM_AES_KEY_WRAP_KWP"}, // PKCS#11 v3.0
	{mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD, name: "CKM_AES_KEY_WRAP_PAD"},
}

// oneWay says what to do where a secret was protected in the other way.
const oneWay = "all tokens with one master key must have AES-GCM, or all must wrap keys: set hsm.dialect to \"key-wrap\" for all of them if all can do that"

// learn finds out which mechanism protects secrets. It is an error if there is none.
func (t *token) learn() error {
	const both = pkcs11.CKF_ENCRYPT | pkcs11.CKF_DECRYPT
	lacks := fmt.Sprintf("it has neither CKM_AES_GCM (0x%X), nor for wrapping keys", pkcs11.CKM_AES_GCM)
	if t.dialect.Wraps {
		lacks = fmt.Sprintf("hsm.dialect is %q, and it does not wrap keys by", t.dialect.Name)
	} else if flags, err := t.flags(pkcs11.CKM_AES_GCM); err != nil || flags&both == both {
		return err
	}
	for _, w := range wrappings {
		flags, err := t.flags(w.mechanism)
		switch {
		case err != nil:
			return err
		case flags&(pkcs11.CKF_WRAP|pkcs11.CKF_UNWRAP) == pkcs11.CKF_WRAP|pkcs11.CKF_UNWRAP:
		case flags&both == both:
			w.encrypts = true
		default:
			continue
		}
		t.wrapping = &w
		t.dialect, _ = dialect.Of(dialect.KeyWrap)
		return nil
	}
	return fmt.Errorf("%w: %s %s or %s; if the HSM can do one of them, allow it there", wire.NoMechanism, lacks, &wrappings[0], &wrappings[1])
}

// flags are what the token can do with a mechanism; 0 if it has it not. A token that does
// not tell is believed to have AES-GCM, and nothing else.
func (t *token) flags(mechanism uint) (uint, error) {
	i, err := t.module.GetMechanismInfo(t.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)})
	switch {
	case err == nil:
		return i.Flags, nil
	case codeIn(err, pkcs11.CKR_MECHANISM_INVALID):
		return 0, nil
	case codeIn(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) && mechanism == pkcs11.CKM_AES_GCM:
		return pkcs11.CKF_ENCRYPT | pkcs11.CKF_DECRYPT, nil
	case codeIn(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED):
		return 0, nil
	}
	return 0, wrap("C_GetMechanismInfo", err)
}

// keysInToken says whether the token can work with other keys than the master key: that
// takes AES-GCM.
func (t *token) keysInToken() error {
	if t.wrapping == nil {
		return nil
	}
	lacks := "it lacks CKM_AES_GCM"
	if t.settings.Dialect == dialect.KeyWrap {
		lacks = "hsm.dialect is \"key-wrap\", without CKM_AES_GCM"
	}
	return fmt.Errorf("%w: %s, so a key cannot be of custody hsm; create it with custody cached, for which %s is enough", wire.NoMechanism, lacks, t.wrapping)
}

// protect encrypts a secret under a key of the token, whichever way it has.
func (t *token) protect(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, secret, aad []byte) (sealed, error) {
	if t.wrapping != nil {
		return t.envelop(h, key, secret, aad)
	}
	return t.encrypt(h, key, secret, aad)
}

// envelop encrypts a secret with a fresh key, which the token wraps.
func (t *token) envelop(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, secret, aad []byte) (sealed, error) {
	fresh := make([]byte, keyBytes)
	defer clear(fresh)
	iv := make([]byte, ivBytes)
	_, _ = rand.Read(fresh) // never fails (crypto/rand)
	_, _ = rand.Read(iv)
	wrapped, err := t.wrapKey(h, key, fresh)
	if err != nil {
		return sealed{}, err
	}
	g, err := newGCM(fresh)
	if err != nil {
		return sealed{}, err
	}
	out := g.Seal(nil, iv, secret, aad)
	n := len(secret)
	return sealed{wrapped: wrapped, iv: iv, ciphertext: out[:n:n], tag: out[n:]}, nil
}

// unenvelop is the reverse.
func (t *token) unenvelop(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, in sealed, aad []byte) ([]byte, error) {
	if t.wrapping == nil {
		return nil, fmt.Errorf("it was encrypted with a key that a token wrapped, and this one has AES-GCM; %s", oneWay)
	}
	fresh, err := t.unwrapKey(h, key, in.wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(fresh)
	g, err := newGCM(fresh)
	if err != nil {
		return nil, err
	}
	out, err := g.Open(nil, in.iv, append(clone(in.ciphertext), in.tag...), aad)
	if err != nil {
		return nil, wire.NotAuthentic // the token has unwrapped the key: it works
	}
	return out, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// readable is what a key has that is in the token for the time of an operation, and can be
// read.
var readable = []*pkcs11.Attribute{
	pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
	pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
	pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
	pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
	pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
}

func (t *token) wrapKey(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, fresh []byte) (wrapped []byte, err error) {
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(t.wrapping.mechanism, nil)}
	if t.wrapping.encrypts {
		if err := t.module.EncryptInit(h, m, key); err != nil {
			return nil, wrap("C_EncryptInit", err)
		}
		wrapped, err := t.module.Encrypt(h, fresh)
		return wrapped, wrap("C_Encrypt", err)
	}
	var object pkcs11.ObjectHandle
	err = erasing(len(fresh), func() (err error) {
		object, err = t.module.CreateObject(h, append(readable[:len(readable):len(readable)], pkcs11.NewAttribute(pkcs11.CKA_VALUE, fresh)))
		return err
	})
	if err != nil {
		return nil, wrap("C_CreateObject", err)
	}
	wrapped, err = t.module.WrapKey(h, m, key, object)
	return wrapped, either(wrap("C_WrapKey", err), wrap("C_DestroyObject", t.module.DestroyObject(h, object)))
}

// either gives the first error.
func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (t *token) unwrapKey(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, wrapped []byte) (fresh []byte, err error) {
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(t.wrapping.mechanism, nil)}
	err = erasing(keyBytes, func() (err error) {
		if t.wrapping.encrypts {
			if err := t.module.DecryptInit(h, m, key); err != nil {
				return wrap("C_DecryptInit", err)
			}
			fresh, err = t.module.Decrypt(h, wrapped)
			return wrap("C_Decrypt", err)
		}
		object, err := t.module.UnwrapKey(h, m, key, wrapped, readable)
		if templateRefused(err) { // PKCS#11 forbids the length, and Luna and others want it
			object, err = t.module.UnwrapKey(h, m, key, wrapped, append(readable[:len(readable):len(readable)], pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, keyBytes)))
		}
		if err != nil {
			return wrap("C_UnwrapKey", err)
		}
		fresh, err = t.attribute(h, object, pkcs11.CKA_VALUE)
		return either(err, wrap("C_DestroyObject", t.module.DestroyObject(h, object)))
	})
	if err == nil && len(fresh) != keyBytes {
		err = fmt.Errorf("%d bytes came back for a wrapped key of %d", len(fresh), keyBytes)
	}
	if err != nil {
		clear(fresh)
		return nil, err
	}
	return fresh, nil
}
