package storetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"sync"

	"holdfast/appliance"
)

// RowKey is a [Key] whose HMAC of rows is ready, as the keyring's is: for benchmarks.
type RowKey struct {
	Key
	mu   sync.Mutex
	rows hash.Hash
}

// NewRowKey gives one.
func NewRowKey() *RowKey {
	return &RowKey{Key: "a benchmark", rows: hmac.New(sha256.New, []byte("a benchmark"))}
}

// Tag implements [appliance.ManifestKey].
func (k *RowKey) Tag(row []byte) (tag appliance.Tag) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rows.Reset()
	k.rows.Write(row)
	k.rows.Sum(tag[:0])
	return tag
}

// Again implements [appliance.ManifestKey].
func (k *RowKey) Again() (appliance.ManifestKey, error) { return NewRowKey(), nil }
