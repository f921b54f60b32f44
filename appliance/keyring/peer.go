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

// peerKey authenticates messages between nodes, in the form of an HMAC that is ready. It
// lies in the heap, other than the state key that it is derived from: who has it can speak
// as a node of this fleet, and reads nothing with it.
type peerKey struct {
	mu  sync.Mutex
	mac hash.Hash // nil once wiped
}

// PeerKey implements [appliance.Keyring]. The key is HKDF-SHA256 of the state key
// (RFC 5869), bound to the installation and its log.
func (k *Keyring) PeerKey(installation, origin string) (appliance.PeerKey, error) {
	k.mu.RLock()
	key := k.stateKey
	k.mu.RUnlock()
	if key == nil {
		return nil, errLocked()
	}
	p := &peerKey{}
	var err error
	if !key.use(func(raw []byte) {
		scrub.Do(func() {
			var derived []byte
			if derived, err = hkdf.Key(sha256.New, raw, nil, "holdfast/peers/v2/"+installation+"/"+origin, sha256.Size); err == nil {
				p.mac = hmac.New(sha256.New, derived)
				clear(derived)
			}
		})
	}) {
		return nil, errLocked()
	}
	if err != nil {
		return nil, internal(err, "derive the key of the fleet's nodes")
	}
	return p, nil
}

// MAC implements [appliance.PeerKey].
func (p *peerKey) MAC(message []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mac == nil {
		random := make([]byte, sha256.Size)
		_, _ = rand.Read(random) // matches nothing
		return random
	}
	p.mac.Reset()
	p.mac.Write(message)
	return p.mac.Sum(nil)
}

// Wipe implements [appliance.PeerKey].
func (p *peerKey) Wipe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	scrub.Erase(p.mac)
	p.mac = nil
	scrub.Soon() // the padded keys, which the first Reset of an HMAC drops
}
