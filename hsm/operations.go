package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Info is what the token says about itself (PKCS#11 v2.40, CK_TOKEN_INFO).
type Info struct {
	Label        string
	Manufacturer string
	Model        string
	Serial       string
	Firmware     string
	Hardware     string
	// FreeSessions is how many more sessions the token allows; -1 if it sets no
	// limit or does not say.
	FreeSessions int
}

// Info asks the token for its facts.
func (t *Token) Info(ctx context.Context) (Info, error) {
	return do(ctx, t, "Info", func(c *connection, _ pkcs11.SessionHandle) (Info, error) {
		i, err := c.module.GetTokenInfo(c.slot)
		if err != nil {
			return Info{}, wrap("C_GetTokenInfo", err)
		}
		return newInfo(i), nil
	})
}

func newInfo(i pkcs11.TokenInfo) Info {
	out := Info{Label: i.Label, Manufacturer: i.ManufacturerID, Model: i.Model, Serial: i.SerialNumber,
		Firmware: version(i.FirmwareVersion), Hardware: version(i.HardwareVersion), FreeSessions: -1}
	if i.MaxRwSessionCount != pkcs11.CK_EFFECTIVELY_INFINITE && i.MaxRwSessionCount != pkcs11.CK_UNAVAILABLE_INFORMATION &&
		i.RwSessionCount != pkcs11.CK_UNAVAILABLE_INFORMATION {
		out.FreeSessions = int(i.MaxRwSessionCount) - int(i.RwSessionCount)
	}
	return out
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Random gives n bytes of the token's random number generator.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	return do(ctx, t, "GenerateRandom", func(c *connection, s pkcs11.SessionHandle) ([]byte, error) {
		var out []byte
		err := erasing(n, func() (err error) {
			out, err = c.module.GenerateRandom(s, n)
			return err
		})
		if err == nil && len(out) != n {
			return nil, fmt.Errorf("C_GenerateRandom: %d bytes came back for %d", len(out), n)
		}
		return out, wrap("C_GenerateRandom", err)
	})
}

// wrapFormat is the first byte of what Wrap gives: IV of 12 bytes, ciphertext
// and tag of 16 follow. wrapFormat16 is the same with an IV of 16 bytes, as some
// tokens make it.
const (
	wrapFormat   = 1
	wrapFormat16 = 2
)

// Wrap encrypts a secret under the master key, by AES-GCM inside of the token,
// and binds it to aad.
func (t *Token) Wrap(ctx context.Context, secret, aad []byte) ([]byte, error) {
	iv, ciphertext, tag, err := t.Encrypt(ctx, t.cfg.MasterKeyLabel, secret, aad)
	if err != nil {
		return nil, err
	}
	format := byte(wrapFormat)
	if len(iv) == 16 {
		format = wrapFormat16
	}
	return bytes.Join([][]byte{{format}, iv, ciphertext, tag}, nil), nil
}

// Unwrap decrypts what Wrap gave. Errors: [ErrDecrypt] if the blob, the aad or
// the master key is another.
func (t *Token) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	if len(blob) == 0 {
		return nil, ErrDecrypt
	}
	n, ok := map[byte]int{wrapFormat: 12, wrapFormat16: 16}[blob[0]]
	if !ok || len(blob) < 1+n+tagBytes {
		return nil, ErrDecrypt
	}
	end := len(blob) - tagBytes
	return t.Decrypt(ctx, t.cfg.MasterKeyLabel, blob[1:1+n], blob[1+n:end], blob[end:], aad)
}

// GenerateKey makes an AES-256 key in the token that never leaves it. Errors:
// [ErrExists].
func (t *Token) GenerateKey(ctx context.Context, label string) error {
	return t.change(ctx, "GenerateKey", func(c *connection, s pkcs11.SessionHandle) error {
		if err := c.mustNotExist(s, label); err != nil {
			return err
		}
		return c.generate(label)
	})
}

// ImportKey puts a key of 32 bytes into the token, where it stays as one that
// was made there. Errors: [ErrExists].
func (t *Token) ImportKey(ctx context.Context, label string, key []byte) error {
	if len(key) != 32 {
		return fmt.Errorf("key %q: %d bytes; an AES-256 key has 32", label, len(key))
	}
	key = bytes.Clone(key) // the caller zeroizes its own
	return t.change(ctx, "CreateObject", func(c *connection, s pkcs11.SessionHandle) error {
		defer clear(key)
		if err := c.mustNotExist(s, label); err != nil {
			return err
		}
		template := []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, key),
		}
		return wrap("C_CreateObject", erasing(len(key), func() error {
			_, err := c.module.CreateObject(s, template)
			return err
		}))
	})
}

// change runs an operation that gives nothing back.
func (t *Token) change(ctx context.Context, name string, operation func(*connection, pkcs11.SessionHandle) error) error {
	_, err := do(ctx, t, name, func(c *connection, s pkcs11.SessionHandle) (struct{}, error) { return struct{}{}, operation(c, s) })
	return err
}

func (c *connection) mustNotExist(s pkcs11.SessionHandle, label string) error {
	found, err := c.objects(s, label)
	if err == nil && len(found) > 0 {
		return fmt.Errorf("key %q: %w", label, ErrExists)
	}
	return err
}

// DestroyKey destroys a key of the token, for ever. Errors: [ErrOwnKey] for the
// master key and the probe key, whatever their labels are; [ErrNotFound],
// [ErrAmbiguous].
func (t *Token) DestroyKey(ctx context.Context, label string) error {
	if t.cfg.ownKey(label) {
		return fmt.Errorf("%s: key %q: %w", t.cfg.name(), label, ErrOwnKey)
	}
	return t.change(ctx, "DestroyObject", func(c *connection, s pkcs11.SessionHandle) error {
		c.forgetKey(label) // the handle must be of now
		key, err := c.key(s, label)
		if err != nil {
			return err
		}
		c.forgetKey(label)
		return wrap("C_DestroyObject", c.module.DestroyObject(s, key))
	})
}

// Encrypt encrypts by AES-GCM with the key of that label, inside of the token.
// The IV is random, 12 bytes (or what the token makes), the ciphertext as long
// as the plaintext, the tag 16 bytes. Errors: [ErrNotFound], [ErrAmbiguous].
func (t *Token) Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	plaintext, aad = bytes.Clone(plaintext), bytes.Clone(aad)
	out, err := do(ctx, t, "Encrypt", func(c *connection, s pkcs11.SessionHandle) (sealed, error) {
		key, err := c.key(s, label)
		if err != nil {
			return sealed{}, err
		}
		return c.encrypt(s, key, plaintext, aad)
	})
	if err == nil {
		clear(plaintext) // else a call that was given up may still read it
	}
	return out.iv, out.ciphertext, out.tag, err
}

// Decrypt is the reverse of Encrypt. The IV has 12 or 16 bytes, the tag 16.
// Errors: [ErrDecrypt], [ErrNotFound], [ErrAmbiguous].
func (t *Token) Decrypt(ctx context.Context, label string, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	// Before they are joined: else a byte could move from one to another.
	if len(iv) != 12 && len(iv) != 16 {
		return nil, fmt.Errorf("%w: IV of %d bytes", ErrDecrypt, len(iv))
	}
	if len(tag) != tagBytes {
		return nil, fmt.Errorf("%w: tag of %d bytes", ErrDecrypt, len(tag))
	}
	in := sealed{bytes.Clone(iv), bytes.Clone(ciphertext), bytes.Clone(tag)}
	aad = bytes.Clone(aad)
	return do(ctx, t, "Decrypt", func(c *connection, s pkcs11.SessionHandle) ([]byte, error) {
		key, err := c.key(s, label)
		if err != nil {
			return nil, err
		}
		out, err := c.decrypt(s, key, in, aad)
		if !errors.Is(err, errUnclear) {
			return out, err
		}
		// The token decrypts what is good, and then says the same of the ciphertext again.
		if err := t.decryptsCheck(c, s); err != nil {
			return nil, err
		}
		if out, err = c.decrypt(s, key, in, aad); errors.Is(err, errUnclear) {
			err = ErrDecrypt
		}
		return out, err
	})
}

// decryptsCheck says why the token does not decrypt a ciphertext that is known to be good;
// nil if it does, or if there is none yet.
func (t *Token) decryptsCheck(c *connection, s pkcs11.SessionHandle) error {
	if t.check.tag == nil {
		return nil
	}
	key, err := c.key(s, t.cfg.MasterKeyLabel)
	if err != nil {
		return err
	}
	out, err := c.decrypt(s, key, t.check, nil)
	clear(out)
	if errors.Is(err, ErrDecrypt) {
		return errors.New("C_Decrypt: the token fails, also with a ciphertext that is known to be good")
	}
	return err
}

// Probe has the token do its work: it encrypts and decrypts fresh random bytes with a
// key that is for that alone, and decrypts with the master key what was encrypted
// with it when the token was opened. So a master key that was deleted or replaced is
// an error, though the token answers, and no encryption is taken from those that the
// master key may do.
func (t *Token) Probe(ctx context.Context) error {
	want := make([]byte, 32)
	_, _ = rand.Read(want) // never fails (crypto/rand)
	iv, ciphertext, tag, err := t.Encrypt(ctx, t.cfg.ProbeKeyLabel, want, nil)
	if err != nil {
		return err
	}
	got, err := t.Decrypt(ctx, t.cfg.ProbeKeyLabel, iv, ciphertext, tag, nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New(t.cfg.name() + ": the probe came back changed")
	}
	if _, err := t.Decrypt(ctx, t.cfg.MasterKeyLabel, t.check.iv, t.check.ciphertext, t.check.tag, nil); err != nil {
		return fmt.Errorf("%s: its master key %q is gone or is another one; what is wrapped under it opens again only with the right key, so restore that key in the HSM: %w", t.cfg.name(), t.cfg.MasterKeyLabel, err)
	}
	return nil
}
