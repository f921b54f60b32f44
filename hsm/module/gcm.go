package module

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/dialect"
)

// Sizes of AES-GCM in bytes (SP 800-38D section 5.2.1). Some tokens make an IV of 16.
const (
	ivBytes     = 12
	longIVBytes = 16
	tagBytes    = 16
)

func gcm(params *pkcs11.GCMParams) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}
}

// encrypt encrypts by AES-GCM in the token.
func (t *token) encrypt(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, plaintext, aad []byte) (sealed, error) {
	given := make([]byte, t.dialect.Given)
	if t.dialect.Random {
		_, _ = rand.Read(given) // never fails (crypto/rand)
	}
	params := pkcs11.NewGCMParams(given, aad, tagBytes*8)
	defer params.Free()
	if err := t.module.EncryptInit(h, gcm(params), key); err != nil {
		return sealed{}, t.dialectRefused(wrap("C_EncryptInit", err))
	}
	out, err := t.module.Encrypt(h, plaintext)
	if err != nil {
		return sealed{}, t.dialectRefused(wrap("C_Encrypt", err))
	}
	return t.part(out, len(plaintext), given, params.IV())
}

// part takes the output for n bytes apart. The IV was given, and became back in its place.
func (t *token) part(out []byte, n int, given, back []byte) (sealed, error) {
	behind := len(out) - n - tagBytes
	isIV := behind == ivBytes || behind == longIVBytes
	switch d := t.dialect; {
	case isIV && !d.Behind:
		return sealed{}, t.otherDialect("the token makes the IV itself and puts it behind the tag", func(d dialect.Dialect) bool { return d.Behind })
	case behind == 0 && d.Behind:
		return sealed{}, t.otherDialect("the token was to put its IV behind the tag and did not", func(d dialect.Dialect) bool { return !d.Behind })
	case behind != 0 && !isIV:
		return sealed{}, fmt.Errorf("C_Encrypt: %d bytes came back for %d and a tag of %d", len(out), n, tagBytes)
	case d.Makes && !d.Behind && bytes.Equal(back, given):
		return sealed{}, t.otherDialect("the token was to make the IV and did not", func(d dialect.Dialect) bool { return !d.Makes })
	case !d.Makes && !bytes.Equal(back, given):
		return sealed{}, t.otherDialect("the token makes the IV itself and puts it in the place of the one it was given", func(d dialect.Dialect) bool { return d.Makes && !d.Behind })
	}
	iv := back
	if t.dialect.Behind {
		iv = out[n+tagBytes:]
	}
	return sealed{iv: iv, ciphertext: out[:n:n], tag: out[n : n+tagBytes : n+tagBytes]}, nil
}

// otherDialect says what the token did, and which dialects would fit that.
func (t *token) otherDialect(did string, fits func(dialect.Dialect) bool) error {
	var names []string
	for _, d := range dialect.All {
		if fits(d) && !d.Wraps {
			names = append(names, d.Name)
		}
	}
	return fmt.Errorf("C_Encrypt: with hsm.dialect %q, %s: set hsm.dialect to %s", t.dialect.Name, did, oneOf(names))
}

// dialectRefused has an error of the IV or other parameters say which settings to try.
func (t *token) dialectRefused(err error) error {
	if !codeIn(err, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_ARGUMENTS_BAD) {
		return err
	}
	return fmt.Errorf("%w: the token does not take the parameters of AES-GCM in the dialect %q; it may have to make the IV itself, as in FIPS mode: try hsm.dialect %s", err, t.dialect.Name, oneOf(dialect.Names(t.dialect.Name, dialect.KeyWrap)))
}

func oneOf(names []string) string {
	for i, n := range names {
		names[i] = fmt.Sprintf("%q", n)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
	return strings.Join(names, "")
}

// decrypt decrypts what encrypt gave, or what [token.envelop] did.
func (t *token) decrypt(h pkcs11.SessionHandle, key pkcs11.ObjectHandle, in sealed, aad []byte) ([]byte, error) {
	if in.wrapped != nil {
		return t.unenvelop(h, key, in, aad)
	}
	if t.wrapping != nil {
		return nil, fmt.Errorf("it was encrypted by AES-GCM in a token, and this one has %s; %s", t.wrapping, oneWay)
	}
	params := pkcs11.NewGCMParams(in.iv, aad, tagBytes*8)
	defer params.Free()
	if err := t.module.DecryptInit(h, gcm(params), key); err != nil {
		return nil, wrap("C_DecryptInit", err)
	}
	var plaintext []byte
	err := erasing(len(in.ciphertext), func() (err error) {
		plaintext, err = t.module.Decrypt(h, slices.Concat(in.ciphertext, in.tag))
		return err
	})
	if err != nil {
		return nil, wrap("C_Decrypt", err)
	}
	if len(plaintext) != len(in.ciphertext) {
		clear(plaintext)
		return nil, fmt.Errorf("C_Decrypt: %d bytes came back for %d", len(plaintext), len(in.ciphertext))
	}
	return plaintext, nil
}
