package appliance

import (
	"crypto/sha256"
	"math"
)

// parkedAtLeast is of how many keys reserved encryptions are kept at least, and twice that at
// most: a million, at about 50 bytes.
const parkedAtLeast = 1 << 19

// parkedReserves keep what keys had reserved that left the cache for others to come. When such a
// key comes back it goes on with that. So where more keys are in use than are kept, a key's use
// does not cost a write of the store each time, nor the encryptions that were reserved.
//
// What is parked is in the stored count already, so that losing it is safe; to use it twice, or
// for other material, is not. It is taken from the key when it is parked, and from here when it is
// given back, to the same material alone. It goes with each change of the key, and with all that
// has the cache forget keys, such as a restore.
type parkedReserves struct {
	// young takes up to so many; then it becomes old, and what was old is forgotten. Neither has
	// a pointer in it, so that the garbage collector does not look at a million entries.
	young, old map[parkedName]parkedReserve
	most       int
}

// parkedName is the beginning of the SHA-256 of a key's name.
type parkedName [16]byte

type parkedReserve struct {
	material [8]byte // the beginning of the SHA-256 of the sealed material, which has a random IV
	left     uint32
}

func newParkedReserves(most int) parkedReserves {
	return parkedReserves{young: map[parkedName]parkedReserve{}, most: most}
}

func (n keyName) parked() parkedName {
	sum := sha256.Sum256([]byte(n.keyStore + "/" + n.id)) // there is no '/' in either
	return parkedName(sum[:])
}

func (k *liveKey) materialDigest() [8]byte {
	sum := sha256.Sum256(k.version(k.CurrentVersion).Material)
	return [8]byte(sum[:])
}

// park takes what the key has not used.
func (p *parkedReserves) park(n keyName, k *liveKey) {
	left := min(k.reserve.left.Swap(0), math.MaxUint32)
	if left <= 0 {
		return
	}
	if len(p.young) >= p.most {
		p.young, p.old = map[parkedName]parkedReserve{}, p.young
	}
	p.young[n.parked()] = parkedReserve{k.materialDigest(), uint32(left)}
}

// unpark gives a key back what was parked of it. Nobody uses the key yet.
func (p *parkedReserves) unpark(n keyName, k *liveKey) {
	if r, ok := p.take(n); ok && r.material == k.materialDigest() {
		k.reserve.left.Store(int64(r.left))
		k.reserve.low.Store(int64(r.left / 2))
	}
}

// take gives what was parked of a key, and forgets it.
func (p *parkedReserves) take(n keyName) (r parkedReserve, ok bool) {
	if len(p.young)+len(p.old) == 0 {
		return r, false
	}
	name := n.parked()
	for _, m := range []map[parkedName]parkedReserve{p.young, p.old} {
		if r, ok = m[name]; ok {
			break
		}
	}
	delete(p.young, name)
	delete(p.old, name)
	return r, ok
}

func (p *parkedReserves) clear() {
	p.young, p.old = map[parkedName]parkedReserve{}, nil
}
