package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"sync"

	"holdfast/appliance"
	"holdfast/appliance/keyring/scrub"
)

// manifestKey is the pair of keys that authenticates rows and manifests, in the form of
// HMACs that are ready. They lie in the heap, other than the state key that they are
// derived from: who has them can forge manifests, and reads nothing with them.
type manifestKey struct {
	mu             sync.Mutex
	rows, manifest hash.Hash // nil once wiped
	again          func() (appliance.ManifestKey, error)
}

// ManifestKey implements [appliance.Keyring]. The keys are HKDF-SHA256 of the state key
// (RFC 5869), bound to the installation.
func (k *Keyring) ManifestKey(installation string) (appliance.ManifestKey, error) {
	k.mu.RLock()
	key := k.stateKey
	k.mu.RUnlock()
	if key == nil {
		return nil, errLocked()
	}
	m := &manifestKey{again: func() (appliance.ManifestKey, error) { return k.ManifestKey(installation) }}
	var err error
	if !key.use(func(raw []byte) {
		scrub.Do(func() {
			for purpose, to := range map[string]*hash.Hash{"row": &m.rows, "manifest": &m.manifest} {
				var derived []byte
				derived, err = hkdf.Key(sha256.New, raw, nil, "holdfast/"+purpose+"/v1/"+installation, sha256.Size)
				if err != nil {
					return
				}
				*to = hmac.New(sha256.New, derived)
				clear(derived)
			}
		})
	}) {
		return nil, errLocked()
	}
	if err != nil {
		return nil, internal(err, "derive the key of the manifests")
	}
	return m, nil
}

// Tag implements [appliance.ManifestKey].
func (m *manifestKey) Tag(row []byte) (tag appliance.Tag) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		_, _ = rand.Read(tag[:]) // matches nothing
		return tag
	}
	m.rows.Reset()
	m.rows.Write(row)
	m.rows.Sum(tag[:0])
	return tag
}

// Seal implements [appliance.ManifestKey].
func (m *manifestKey) Seal(manifest *appliance.Manifest, sum *appliance.Sum) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.manifest == nil {
		seal := make([]byte, sha256.Size)
		_, _ = rand.Read(seal) // matches nothing
		return seal
	}
	m.manifest.Reset()
	m.manifest.Write(manifest.Body())
	m.manifest.Write(sum.Bytes())
	return m.manifest.Sum(nil)
}

// Again implements [appliance.ManifestKey].
func (m *manifestKey) Again() (appliance.ManifestKey, error) { return m.again() }

// Wipe implements [appliance.ManifestKey].
func (m *manifestKey) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	scrub.Erase(m.rows)
	scrub.Erase(m.manifest)
	m.rows, m.manifest = nil, nil
	scrub.Soon() // the padded keys, which the first Reset of an HMAC drops
}
