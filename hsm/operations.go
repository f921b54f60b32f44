package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/hsm/wire"
)

// Info is what the token says about itself (PKCS#11 v2.40, CK_TOKEN_INFO), and what is known of its
// module process.
type Info = wire.Facts

func infoOf(fields [][]byte) (Info, error) {
	if len(fields) != 1 {
		return Info{}, errAnswer
	}
	return wire.Read[Info](fields[0])
}

// Info asks the token for its facts.
func (t *Token) Info(ctx context.Context) (i Info, err error) {
	err = t.do(ctx, wire.Info, func(fields [][]byte) (err error) {
		i, err = infoOf(fields)
		return err
	})
	t.mu.Lock()
	i.Process.Starts = t.starts
	t.mu.Unlock()
	return i, err
}

// anyLength is of an answer that may have any.
const anyLength = -1

// one has the module's process do an operation that gives one field. The caller owns it.
// It has n bytes, or any number if that is negative.
func (t *Token) one(ctx context.Context, op wire.Op, n int, fields ...[]byte) (out []byte, err error) {
	err = t.do(ctx, op, func(answer [][]byte) error {
		if len(answer) != 1 || n >= 0 && len(answer[0]) != n {
			return errAnswer
		}
		out = append([]byte{}, answer[0]...)
		return nil
	}, fields...)
	return out, err
}

// change has it do one that gives nothing back.
func (t *Token) change(ctx context.Context, op wire.Op, fields ...[]byte) error {
	return t.do(ctx, op, func([][]byte) error { return nil }, fields...)
}

// Random gives n bytes of the token's random number generator.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	return t.one(ctx, wire.Random, n, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// Wrap encrypts a secret under the master key inside of the token, and binds it to aad.
func (t *Token) Wrap(ctx context.Context, secret, aad []byte) ([]byte, error) {
	return t.one(ctx, wire.Wrap, anyLength, secret, aad)
}

// Unwrap decrypts what Wrap gave. Errors: [ErrDecrypt] if the blob, the aad or
// the master key is another.
func (t *Token) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	if len(blob) == 0 || blob[0] < 1 || blob[0] > wire.BlobFormats { // no token is needed to see it
		return nil, fmt.Errorf("%w: it is no wrapped secret", ErrDecrypt)
	}
	return t.one(ctx, wire.Unwrap, anyLength, blob, aad)
}

// GenerateKey makes an AES-256 key in the token that never leaves it. Errors:
// [ErrExists].
func (t *Token) GenerateKey(ctx context.Context, label string) error {
	return t.change(ctx, wire.Generate, []byte(label))
}

// ImportKey puts a key of 32 bytes into the token, where it stays as one that
// was made there. Errors: [ErrExists].
func (t *Token) ImportKey(ctx context.Context, label string, key []byte) error {
	return t.change(ctx, wire.Import, []byte(label), key)
}

// DestroyKey destroys a key of the token, for ever. Errors: [ErrOwnKey] for the
// master key and the probe key, whatever their labels are; [ErrNotFound],
// [ErrAmbiguous].
func (t *Token) DestroyKey(ctx context.Context, label string) error {
	if t.cfg.ownKey(label) {
		return fmt.Errorf("%s: key %q: %w", t.cfg.name(), label, ErrOwnKey)
	}
	return t.change(ctx, wire.Destroy, []byte(label))
}

// Encrypt encrypts by AES-GCM with the key of that label, inside of the token.
// The IV is random, 12 bytes (or what the token makes), the ciphertext as long
// as the plaintext, the tag 16 bytes. Errors: [ErrNotFound], [ErrAmbiguous].
func (t *Token) Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	err = t.do(ctx, wire.Encrypt, func(fields [][]byte) error {
		if len(fields) != 3 || len(fields[1]) != len(plaintext) || len(fields[2]) != tagBytes {
			return errAnswer
		}
		out := clones(fields)
		iv, ciphertext, tag = out[0], out[1], out[2]
		return nil
	}, []byte(label), plaintext, aad)
	return iv, ciphertext, tag, err
}

// tagBytes is the length of AES-GCM's tag (SP 800-38D section 5.2.1).
const tagBytes = 16

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
	return t.one(ctx, wire.Decrypt, len(ciphertext), []byte(label), iv, ciphertext, tag, aad)
}

// roundTrip encrypts and decrypts. A token without AES-GCM wraps keys, which takes no
// encryption from any key.
func (t *Token) roundTrip(ctx context.Context, plaintext []byte) ([]byte, error) {
	if !t.otherKeys {
		blob, err := t.Wrap(ctx, plaintext, nil)
		if err != nil {
			return nil, err
		}
		return t.Unwrap(ctx, blob, nil)
	}
	iv, ciphertext, tag, err := t.Encrypt(ctx, t.cfg.ProbeKeyLabel, plaintext, nil)
	if err != nil {
		return nil, err
	}
	return t.Decrypt(ctx, t.cfg.ProbeKeyLabel, iv, ciphertext, tag, nil)
}

// Probe has the token do its work: it encrypts and decrypts fresh random bytes with a
// key that is for that alone, and decrypts with the master key what was encrypted
// with it when the token was opened. So a master key that was deleted or replaced is
// an error, though the token answers, and no encryption is taken from those that the
// master key may do.
func (t *Token) Probe(ctx context.Context) error {
	want := make([]byte, 32)
	_, _ = rand.Read(want) // never fails (crypto/rand)
	got, err := t.roundTrip(ctx, want)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New(t.cfg.name() + ": the probe came back changed")
	}
	if _, err := t.Unwrap(ctx, t.known, nil); err != nil {
		return fmt.Errorf("%s: its master key %q is gone or is another one; what is wrapped under it opens again only with the right key, so restore that key in the HSM: %w", t.cfg.name(), t.cfg.MasterKeyLabel, err)
	}
	return nil
}
