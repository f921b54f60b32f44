package appliancetest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/hsm"
)

// Labels of the keys that every token has, as those of [hsm.Config] by default.
const (
	masterKeyLabel = "holdfast-master"
	probeKeyLabel  = "holdfast-probe"
)

// Memory is a token in the memory of the test: AES-256 keys by their labels, and the
// errors of [hsm.Token]. It keeps its keys over a restart of the bed. It protects
// nothing.
type Memory struct {
	info hsm.Info

	mu    sync.Mutex
	keys  map[string][]byte
	data  map[string][]byte // data objects, by label
	away  bool
	delay time.Duration
	calls map[string]int
}

// NewMemory makes a token without a key. As [hsm.Open] does, Open makes the master key.
func NewMemory() *Memory {
	m := &Memory{keys: map[string][]byte{}, data: map[string][]byte{}, calls: map[string]int{}}
	m.info = hsm.Info{Label: hex.EncodeToString(randomBytes(8)), Manufacturer: "Holdfast", Model: "in memory", Serial: hex.EncodeToString(randomBytes(8)),
		Firmware: "1.0", Hardware: "1.0", FreeSessions: -1, Dialect: "standard", MaxSessions: 16}
	return m
}

// dump is what a Memory keeps.
type dump struct {
	Info       hsm.Info
	Keys, Data map[string][]byte
}

// Dump gives all that the token keeps, for another process or a copy.
func (m *Memory) Dump() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return json.Marshal(dump{m.info, m.keys, m.data})
}

// NewMemoryOf makes a token that keeps what another one did.
func NewMemoryOf(dumped []byte) (*Memory, error) {
	var d dump
	if err := json.Unmarshal(dumped, &d); err != nil {
		return nil, err
	}
	m := NewMemory()
	m.info = d.Info
	maps.Copy(m.keys, d.Keys)
	maps.Copy(m.data, d.Data)
	return m, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}

// Cut takes the token away: operations fail with [hsm.ErrUnavailable].
func (m *Memory) Cut() { m.setAway(true) }

// Restore brings the token back.
func (m *Memory) Restore() { m.setAway(false) }

func (m *Memory) setAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// SetDelay has each operation take so much longer.
func (m *Memory) SetDelay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// Calls counts the calls of an operation so far. The names are those of
// [hsm.Config], Observe.
func (m *Memory) Calls(operation string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[operation]
}

// Labels are those of all keys, sorted.
func (m *Memory) Labels() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.keys))
}

// Open implements [Device]. The token has nothing to log.
func (m *Memory) Open(ctx context.Context, o Opening) (Token, error) {
	t := &memoryToken{memory: m}
	err := t.do(ctx, "GenerateKey", func(keys map[string][]byte) error {
		for _, label := range []string{masterKeyLabel, probeKeyLabel} {
			if keys[label] != nil {
				continue
			}
			if label == masterKeyLabel && o.MakingMasterKey != nil {
				if err := o.MakingMasterKey(); err != nil {
					return err
				}
			}
			keys[label] = randomBytes(32)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := t.Probe(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// memoryToken is a [Memory] that was opened.
type memoryToken struct {
	memory *Memory

	mu     sync.Mutex
	closed bool
}

// do runs an operation with the keys by label, if the token is open and there.
func (t *memoryToken) do(ctx context.Context, name string, operation func(keys map[string][]byte) error) error {
	m := t.memory
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return hsm.ErrClosed
	}
	m.mu.Lock()
	m.calls[name]++
	delay := m.delay
	m.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return fmt.Errorf("token %q: the token did not answer: %w", m.info.Label, ctx.Err())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return fmt.Errorf("token %q: %w", m.info.Label, hsm.ErrUnavailable)
	}
	if err := operation(m.keys); err != nil {
		return fmt.Errorf("token %q: %w", m.info.Label, err)
	}
	return nil
}

// Close ends the use of the token. The keys stay in the [Memory].
func (t *memoryToken) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

func (t *memoryToken) Info(ctx context.Context) (info hsm.Info, err error) {
	err = t.do(ctx, "Info", func(map[string][]byte) error {
		info = t.memory.info
		return nil
	})
	return info, err
}

// LastEnding is that of no module process: there is none.
func (t *memoryToken) LastEnding() *hsm.Ending { return nil }

func (t *memoryToken) Probe(ctx context.Context) error {
	want := randomBytes(32)
	iv, ciphertext, tag, err := t.Encrypt(ctx, probeKeyLabel, want, nil)
	if err != nil {
		return err
	}
	got, err := t.Decrypt(ctx, probeKeyLabel, iv, ciphertext, tag, nil)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("the probe came back changed")
	}
	return err
}

func (t *memoryToken) Random(ctx context.Context, n int) (out []byte, err error) {
	err = t.do(ctx, "GenerateRandom", func(map[string][]byte) error {
		out = randomBytes(n)
		return nil
	})
	return out, err
}

// Sizes of AES-GCM in bytes.
const (
	ivBytes  = 12
	tagBytes = 16
)

// Wrap gives what [hsm.Token] gives: format 1, IV, ciphertext and tag.
func (t *memoryToken) Wrap(ctx context.Context, secret, aad []byte) ([]byte, error) {
	iv, ciphertext, tag, err := t.Encrypt(ctx, masterKeyLabel, secret, aad)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{{1}, iv, ciphertext, tag}, nil), nil
}

func (t *memoryToken) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	if len(blob) < 1+ivBytes+tagBytes || blob[0] != 1 {
		return nil, hsm.ErrDecrypt
	}
	end := len(blob) - tagBytes
	return t.Decrypt(ctx, masterKeyLabel, blob[1:1+ivBytes], blob[1+ivBytes:end], blob[end:], aad)
}

func (t *memoryToken) GenerateKey(ctx context.Context, label string) error {
	return t.do(ctx, "GenerateKey", func(keys map[string][]byte) error { return put(keys, label, randomBytes(32)) })
}

func (t *memoryToken) ImportKey(ctx context.Context, label string, key []byte) error {
	if len(key) != 32 {
		return fmt.Errorf("key %q: %d bytes; an AES-256 key has 32", label, len(key))
	}
	return t.do(ctx, "CreateObject", func(keys map[string][]byte) error { return put(keys, label, bytes.Clone(key)) })
}

func put(keys map[string][]byte, label string, key []byte) error {
	if keys[label] != nil {
		return fmt.Errorf("key %q: %w", label, hsm.ErrExists)
	}
	keys[label] = key
	return nil
}

func (t *memoryToken) DestroyKey(ctx context.Context, label string) error {
	if label == masterKeyLabel || label == probeKeyLabel {
		return fmt.Errorf("key %q: %w", label, hsm.ErrOwnKey)
	}
	return t.do(ctx, "DestroyObject", func(keys map[string][]byte) error {
		if keys[label] == nil {
			return notFound(label)
		}
		delete(keys, label)
		return nil
	})
}

// DataObjects implements [Token].
func (t *memoryToken) DataObjects(ctx context.Context, _ hsm.Reach) (list []hsm.DataObject, err error) {
	err = t.do(ctx, "FindObjects", func(map[string][]byte) error {
		if len(t.memory.data) > hsm.MaxDataObjects {
			return fmt.Errorf("the token has more than %d data objects", hsm.MaxDataObjects)
		}
		for _, label := range slices.Sorted(maps.Keys(t.memory.data)) {
			list = append(list, hsm.DataObject{Label: label, Value: bytes.Clone(t.memory.data[label])})
		}
		return nil
	})
	return list, err
}

// CreateDataObject implements [Token].
func (t *memoryToken) CreateDataObject(ctx context.Context, o hsm.DataObject, _ hsm.Reach) error {
	if len(o.Value) > hsm.MaxDataValue {
		return fmt.Errorf("data object %q: %d bytes; at most %d are kept", o.Label, len(o.Value), hsm.MaxDataValue)
	}
	return t.do(ctx, "CreateObject", func(map[string][]byte) error { return put(t.memory.data, o.Label, bytes.Clone(o.Value)) })
}

// DestroyDataObject implements [Token].
func (t *memoryToken) DestroyDataObject(ctx context.Context, o hsm.DataObject) error {
	return t.do(ctx, "DestroyObject", func(map[string][]byte) error {
		if had, ok := t.memory.data[o.Label]; !ok || !bytes.Equal(had, o.Value) {
			return notFound(o.Label)
		}
		delete(t.memory.data, o.Label)
		return nil
	})
}

// KeyLabels implements [Token].
func (t *memoryToken) KeyLabels(ctx context.Context) (labels []string, err error) {
	err = t.do(ctx, "FindObjects", func(keys map[string][]byte) error {
		for _, label := range slices.Sorted(maps.Keys(keys)) {
			if label != masterKeyLabel && label != probeKeyLabel {
				labels = append(labels, label)
			}
		}
		return nil
	})
	return labels, err
}

func notFound(label string) error { return fmt.Errorf("key %q: %w", label, hsm.ErrNotFound) }

func (t *memoryToken) Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	err = t.do(ctx, "Encrypt", func(keys map[string][]byte) error {
		gcm, err := aead(keys, label, ivBytes)
		if err != nil {
			return err
		}
		nonce := randomBytes(ivBytes)
		out, n := gcm.Seal(nil, nonce, plaintext, aad), len(plaintext)
		iv, ciphertext, tag = nonce, out[:n:n], out[n:]
		return nil
	})
	return iv, ciphertext, tag, err
}

func (t *memoryToken) Decrypt(ctx context.Context, label string, iv, ciphertext, tag, aad []byte) (plaintext []byte, err error) {
	if len(iv) != 12 && len(iv) != 16 {
		return nil, fmt.Errorf("%w: IV of %d bytes", hsm.ErrDecrypt, len(iv))
	}
	if len(tag) != tagBytes {
		return nil, fmt.Errorf("%w: tag of %d bytes", hsm.ErrDecrypt, len(tag))
	}
	err = t.do(ctx, "Decrypt", func(keys map[string][]byte) error {
		gcm, err := aead(keys, label, len(iv))
		if err != nil {
			return err
		}
		if plaintext, err = gcm.Open([]byte{}, iv, slices.Concat(ciphertext, tag), aad); err != nil {
			return hsm.ErrDecrypt
		}
		return nil
	})
	return plaintext, err
}

// aead gives AES-GCM with the key of that label.
func aead(keys map[string][]byte, label string, iv int) (cipher.AEAD, error) {
	key := keys[label]
	if key == nil {
		return nil, notFound(label)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithNonceSize(block, iv)
}
