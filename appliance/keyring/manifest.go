package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"sync"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
)

// manifestKey is the keys that authenticate rows, manifests and changes, in the form of
// HMACs that are ready. They lie in the heap, other than the state key that they are
// derived from: who has them can forge manifests and read changes, in which all secrets
// are sealed once more.
type manifestKey struct {
	mu                      sync.Mutex
	rows, manifest, changes hash.Hash // nil once wiped
	again                   func() (appliance.ManifestKey, error)
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
			for purpose, to := range map[string]*hash.Hash{"row": &m.rows, "manifest": &m.manifest, "change": &m.changes} {
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

// changeSalt is how many random bytes select the key of one change. With them no key is
// used twice, however many changes there are (NIST SP 800-108r1, one step, HMAC-SHA256).
const changeSalt = 32

// changeCipher gives the AES-256-GCM of one change.
func (m *manifestKey) changeCipher(salt []byte) (cipher.AEAD, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == nil {
		return nil, errLocked()
	}
	m.changes.Reset()
	m.changes.Write(salt)
	key := m.changes.Sum(nil)
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, internal(err, "make the cipher of a change")
	}
	return cipher.NewGCM(block)
}

// SealChange implements [appliance.ManifestKey]: salt, ciphertext and tag. The key is of the
// salt, so the IV is zero.
func (m *manifestKey) SealChange(b appliance.Binding, body []byte) ([]byte, error) {
	salt := make([]byte, changeSalt, changeSalt+len(body)+16)
	_, _ = rand.Read(salt)
	aead, err := m.changeCipher(salt)
	if err != nil {
		return nil, err
	}
	defer scrub.Erase(aead)
	return aead.Seal(salt, make([]byte, aead.NonceSize()), body, b.AAD()), nil
}

// OpenChange implements [appliance.ManifestKey].
func (m *manifestKey) OpenChange(b appliance.Binding, sealed []byte) ([]byte, error) {
	if len(sealed) < changeSalt {
		return nil, fault.Errorf(fault.Tampered, "what the log of changes has is too short")
	}
	aead, err := m.changeCipher(sealed[:changeSalt])
	if err != nil {
		return nil, err
	}
	defer scrub.Erase(aead)
	body, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[changeSalt:], b.AAD())
	if err != nil {
		return nil, fault.Errorf(fault.Tampered, "what the log of changes has does not authenticate: no node of this installation has written it there")
	}
	return body, nil
}

// Again implements [appliance.ManifestKey].
func (m *manifestKey) Again() (appliance.ManifestKey, error) { return m.again() }

// Wipe implements [appliance.ManifestKey].
func (m *manifestKey) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	scrub.Erase(m.rows)
	scrub.Erase(m.manifest)
	scrub.Erase(m.changes)
	m.rows, m.manifest, m.changes = nil, nil, nil
	scrub.Soon() // the padded keys, which the first Reset of an HMAC drops
}
