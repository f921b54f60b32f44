package keyring

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"reflect"
	"sync"
	"time"

	"holdfast/appliance/keyring/scrub"
)

// hmacSHA256 appends the HMAC of the message to out, which has the capacity. It is
// called inside of scrub.Do; what package hmac puts into the heap is erased at once.
func hmacSHA256(key, message, out []byte) []byte {
	if len(key) > sha256.BlockSize {
		// Package hmac would do that (RFC 2104), and leave the hash behind.
		h := sha256.New()
		defer scrub.Erase(h)
		h.Write(key)
		key = h.Sum(make([]byte, 0, sha256.Size))
		defer clear(key)
	}
	mac := hmac.New(sha256.New, key)
	defer scrub.Erase(mac)
	mac.Write(message)
	return mac.Sum(out)
}

// readyFor is how long HMACs lie ready in the heap.
const readyFor = 5 * time.Second

// mostReady is how many do.
const mostReady = 64

// readyHMACs are HMACs under one key. To make one costs seven times as much as to use
// it, so they are used again; but they lie in the heap, and so not for long: all are
// erased [readyFor] after the first was made, whether they are used or not.
type readyHMACs struct {
	mu   sync.Mutex
	macs []readyHMAC
	// generation counts the erasures: what was taken before one is not put back.
	generation uint64
	timed      bool
}

type readyHMAC struct {
	hash.Hash
	generation uint64
}

// take gives an HMAC under the key; it is the caller's until it is given back, reset. It
// is called inside of scrub.Do.
func (r *readyHMACs) take(key []byte) readyHMAC {
	r.mu.Lock()
	if n := len(r.macs); n > 0 {
		defer r.mu.Unlock()
		mac := r.macs[n-1]
		r.macs[n-1] = readyHMAC{}
		r.macs = r.macs[:n-1]
		return mac
	}
	generation := r.generation
	r.mu.Unlock()
	mac := hmac.New(sha256.New, key)
	padded := reflect.New(reflect.TypeOf(mac).Elem())
	padded.Elem().Set(reflect.ValueOf(mac).Elem())
	// The first Reset puts the states of the hashes in the place of the padded key and
	// drops that, which the copy still has. Erasing it takes the hashes along; the second
	// Reset makes them of the states.
	mac.Reset()
	scrub.Erase(padded.Interface())
	mac.Reset()
	return readyHMAC{mac, generation}
}

// giveBack keeps an HMAC, or erases it.
func (r *readyHMACs) giveBack(mac readyHMAC) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if mac.generation != r.generation || len(r.macs) == mostReady {
		scrub.Erase(mac.Hash)
		return
	}
	r.macs = append(r.macs, mac)
	if !r.timed {
		r.timed = true
		time.AfterFunc(readyFor, r.erase)
	}
}

// erase erases all, also those that are in use when they are given back.
func (r *readyHMACs) erase() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, mac := range r.macs {
		scrub.Erase(mac.Hash)
	}
	clear(r.macs)
	r.macs, r.timed = r.macs[:0], false
	r.generation++
}
