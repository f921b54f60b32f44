package machinekey

import (
	"context"
	"crypto/hmac"
	"fmt"

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
// if there is none yet. replaced is called between, with the key in force, for what this machine
// alone has sealed by the one before. It says whether the key is another than before.
func Join(ctx context.Context, k *Key, f *File, fleet FleetKey, replaced func(context.Context) error) (taken bool, err error) {
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
		return false, nil
	}
	save, err := f.Replace(secret)
	if err == nil {
		err = save()
	}
	if err == nil {
		err = k.Set(secret)
	}
	if err == nil {
		err = replaced(ctx)
	}
	return err == nil, err
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
