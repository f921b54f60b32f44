// Package machinekey keeps the key by which this machine authenticates rows while the
// appliance is locked ([appliance.MachineKey]). It rests sealed to the machine's TPM, for
// the use of the HSM's credential, so that a system that is not authorized does not get
// it, and nobody does after the boot has capped PCR 14. Where a broker releases the
// credential there is no key to seal to; it is a file on the encrypted state volume
// then, which only its owner may read.
package machinekey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Bytes is the length of the key.
const Bytes = 32

// Key is the key in the memory of this process. It is in locked memory outside of
// Go's heap, and Wipe zeroizes it. Its methods may be called concurrently. The zero
// value has no key.
type Key struct {
	mu     sync.RWMutex
	secret []byte // a page; nil while it is not there
	id     string
}

var _ appliance.MachineKey = (*Key)(nil)

// Set takes the key, of [Bytes] bytes, and zeroizes what it was given.
func (k *Key) Set(secret []byte) error {
	defer clear(secret)
	if len(secret) != Bytes {
		return fmt.Errorf("the machine's key has %d bytes, not %d", len(secret), Bytes)
	}
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("map memory for the machine's key: %w", err)
	}
	if err := unix.Mlock(page); err != nil {
		_ = unix.Munmap(page)
		return fmt.Errorf("lock memory for the machine's key: %w; raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= in the systemd unit)", err)
	}
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_DONTFORK} {
		if err := unix.Madvise(page, advice); err != nil {
			_ = unix.Munmap(page)
			return fmt.Errorf("keep the machine's key out of core dumps and child processes: %w", err)
		}
	}
	copy(page, secret)
	d := sha256.Sum256(append([]byte("holdfast/machine-key/id/v1"), secret...))
	k.Wipe()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.secret, k.id = page, hex.EncodeToString(d[:8])
	return nil
}

// Wipe zeroizes the key. There is none afterwards.
func (k *Key) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secret == nil {
		return
	}
	clear(k.secret)
	_ = unix.Munmap(k.secret) // it was mapped here
	k.secret, k.id = nil, ""
}

// ID implements [appliance.MachineKey].
func (k *Key) ID() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.id
}

// MAC implements [appliance.MachineKey]: HMAC-SHA256.
func (k *Key) MAC(b appliance.Binding) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.secret == nil {
		return nil, noKey()
	}
	mac := hmac.New(sha256.New, k.secret[:Bytes])
	mac.Write(b.AAD())
	return mac.Sum(nil), nil
}

func noKey() error {
	return fault.Errorf(fault.MachineKey, "the key by which this machine authenticates users is not there yet; holdfast status says how far the boot is")
}
