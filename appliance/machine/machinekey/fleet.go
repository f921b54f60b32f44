package machinekey

import (
	"bytes"
	"context"
	"crypto/hmac"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// FleetKey is where the key of a fleet rests, under the state key: all nodes verify by it the
// rows that they share, while they are locked. [*appliance.Appliance] is one.
type FleetKey interface {
	// FleetMachineKey gives it; the caller zeroizes it. fault.NotFound if no node has left one.
	FleetMachineKey(ctx context.Context) ([]byte, error)
	// LeaveMachineKey leaves one for the others; fault.Changed if there is one.
	LeaveMachineKey(ctx context.Context, secret []byte) error
}

// Join has this machine take over the fleet's key in the place of its own, or leaves its own
// if there is none yet. Seal seals what this machine alone has sealed, by each of the keys that it
// is given: by both before the fleet's key rests here, and by that alone afterwards, so that a
// crash between leaves what the next boot can verify, whichever key it finds. It says whether
// the key is another than before.
func Join(ctx context.Context, k *Key, f *File, fleet FleetKey, seal func(ctx context.Context, by ...*Key) error) (taken bool, err error) {
	secret, err := fleet.FleetMachineKey(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		err = k.use(func(own []byte) error { return fleet.LeaveMachineKey(ctx, own) })
		if fault.CodeOf(err) != fault.Changed {
			return false, err
		}
		secret, err = fleet.FleetMachineKey(ctx) // another node was faster
	}
	if err != nil {
		return false, err
	}
	defer clear(secret)
	if len(secret) != Bytes {
		return false, fmt.Errorf("the fleet's machine key has %d bytes, not %d", len(secret), Bytes)
	}
	same := false
	if err := k.use(func(own []byte) error { same = hmac.Equal(own, secret); return nil }); err == nil && same {
		return false, seal(ctx, k) // a crash may have left the seal of both
	}
	next := &Key{}
	if err := next.Set(bytes.Clone(secret)); err != nil {
		return false, err
	}
	defer next.Wipe()
	by := []*Key{next}
	if k.ID() != "" {
		by = append(by, k)
	}
	save, err := f.Replace(secret)
	if err == nil {
		err = seal(ctx, by...)
	}
	if err == nil {
		err = save()
	}
	if err == nil {
		err = k.Set(secret)
	}
	if err == nil {
		err = seal(ctx, k)
	}
	return err == nil, err
}

// SealBy gives the seal of each of the keys, one after the other.
func SealBy(b appliance.Binding, keys ...*Key) (seal []byte, err error) {
	for _, k := range keys {
		mac, err := k.MAC(b)
		if err != nil {
			return nil, err
		}
		seal = append(seal, mac...)
	}
	return seal, nil
}

// SealedBy says whether the key is one of those that made a seal.
func (k *Key) SealedBy(b appliance.Binding, seal []byte) (bool, error) {
	want, err := k.MAC(b)
	if err != nil {
		return false, err
	}
	is := false
	for len(seal) >= len(want) {
		is = hmac.Equal(want, seal[:len(want)]) || is
		seal = seal[len(want):]
	}
	return is && len(seal) == 0, nil
}

// use calls f with the key, which it must not keep. fault.MachineKey while it is not there.
func (k *Key) use(f func(secret []byte) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.secret == nil {
		return noKey()
	}
	return f(k.secret[:Bytes])
}
