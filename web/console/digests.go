package console

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"holdfast/appliance/identity"
)

// Open pages ask every few seconds what they show. As long as the rows are the same, and all stands
// as it did, so is the answer.

const (
	// digestTime is how long a digest is kept at most: what ends by time, such as a grant or an
	// invitation, is in no change of the rows.
	digestTime = time.Minute
	// keptDigests is how many are kept.
	keptDigests = 1000
)

// digests are those of what pages show, of the rows as they are now.
type digests struct {
	mu      sync.Mutex
	changes uint64 // of which rows they are
	of      map[digestKey]keptDigest
}

// digestKey is who sees which page, while all stands in which way.
type digestKey struct {
	page, user string
	role       identity.Role
	standings  string
}

type keptDigest struct {
	digest [sha256.Size]byte
	at     time.Time
}

// find gives the digest of rows as they are after so many changes.
func (d *digests) find(k digestKey, changes uint64, now time.Time) ([sha256.Size]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changes != changes {
		return [sha256.Size]byte{}, false
	}
	kept, ok := d.of[k]
	return kept.digest, ok && now.Sub(kept.at) < digestTime && !now.Before(kept.at)
}

// keep keeps one of rows as they were after so many changes.
func (d *digests) keep(k digestKey, changes uint64, kept keptDigest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if changes < d.changes { // the rows are others by now
		return
	}
	if d.of == nil || d.changes != changes || len(d.of) >= keptDigests {
		d.of, d.changes = map[digestKey]keptDigest{}, changes
	}
	d.of[k] = kept
}

// stored is what rows alone say, besides how all stands: it is read once for each state of them.
func stored(what shows) shows {
	return func(p *page) (any, error) {
		if p.c.Changes == nil {
			return what(p)
		}
		k := digestKey{p.URL.String(), p.who.UserID, p.who.Role, p.c.Performer.Digest()}
		changes := p.c.Changes() // before the rows are read: they are as new as that, or newer
		if digest, ok := p.c.digests.find(k, changes, p.now); ok {
			return digest, nil
		}
		v, err := what(p)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(text)
		p.c.digests.keep(k, changes, keptDigest{digest, p.now})
		return digest, nil
	}
}
