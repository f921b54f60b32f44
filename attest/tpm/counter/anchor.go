package counter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
)

// Anchor is the count of changes of the appliance's state, kept in the TPM, where
// nobody can put it back with a disk. It implements appliance.Anchor. Its methods may
// be called concurrently.
//
// Errors are [*fault.Fault]: fault.Anchor if the TPM does not answer or refuses,
// fault.AnchorForeign if another index is at its handle, fault.AnchorCount if the TPM
// has another count than the caller needs.
type Anchor struct {
	dev  *tpm.Device
	name string
}

// NewAnchor gives the anchor that a TPM has or can have. It makes nothing.
func NewAnchor(dev *tpm.Device) (*Anchor, error) {
	ak, err := dev.CreateAK()
	if err != nil {
		return nil, fault.Wrapf(fault.Anchor, err, "the TPM does not say which it is")
	}
	d := sha256.Sum256(append(ak.Public, State.Name().Buffer...))
	return &Anchor{dev, "tpm:" + hex.EncodeToString(d[:16])}, nil
}

// Name names the TPM, by its attestation key, and the counter in it.
func (a *Anchor) Name() string { return a.name }

// Count gives the count; fault.NotFound if it was never made.
func (a *Anchor) Count(ctx context.Context) (count uint64, err error) {
	err = a.do(ctx, func(t transport.TPM) (err error) {
		count, err = State.Read(t)
		return err
	})
	return count, err
}

// Raise counts up to the count, which is the present one or one above it: the state is
// ahead of its anchor by no more than that (package appliance/freshness). It returns when
// the TPM has stored it.
func (a *Anchor) Raise(ctx context.Context, to uint64) error {
	return a.do(ctx, func(t transport.TPM) error {
		count, err := State.Read(t)
		if err != nil {
			return err
		}
		switch {
		case count == to:
			return nil
		case count > to:
			return fault.Errorf(fault.AnchorCount, "the TPM's count of changes is %d, above the %d that it was to be raised to", count, to)
		case to-count > 1:
			return fault.Errorf(fault.AnchorCount, "the TPM's count of changes is %d, and one change raises it by one, not to %d", count, to)
		}
		if err := State.Increment(t); err != nil {
			return err
		}
		// The answer to an increment is not authenticated; this one is.
		if count, err = State.Read(t); err != nil {
			return err
		}
		if count != to {
			return fault.Errorf(fault.AnchorCount, "the TPM's count of changes is %d after it was raised to %d: something else on this machine counts it", count, to)
		}
		return nil
	})
}

// Make makes the counter, and gives its first count, which is above all that it ever
// had. Where there is one it gives the present count.
//
// A new counter begins above all others of its TPM. So the counter of revocations is
// made first: made later, it would begin above this one, and would revoke all
// authorizations.
func (a *Anchor) Make(ctx context.Context) (count uint64, err error) {
	err = a.do(ctx, func(t transport.TPM) (err error) {
		if _, err := Revocation.Make(t); err != nil {
			return err
		}
		count, err = State.Make(t)
		return err
	})
	return count, err
}

// do gives f the TPM, and its errors their codes.
func (a *Anchor) do(ctx context.Context, f func(transport.TPM) error) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrapf(fault.Anchor, err, "the TPM's count of changes was not asked for")
	}
	err := a.dev.Do(f)
	if _, ok := errors.AsType[*fault.Fault](err); ok || err == nil {
		return err
	}
	switch {
	case errors.Is(err, ErrNone):
		return fault.Errorf(fault.NotFound, "this machine's TPM has no count of changes")
	case errors.Is(err, ErrForeign):
		return fault.Wrapf(fault.AnchorForeign, err, "this machine's TPM has something else where the count of changes is kept")
	}
	return fault.Wrapf(fault.Anchor, err, "this machine's TPM does not keep the count of changes")
}
