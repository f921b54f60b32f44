package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/attest"
	"holdfast/attest/tpm/counter"
)

var _ appliance.Anchor = (*counter.Anchor)(nil)

// findAnchor gives the anchor of the state that the machine's TPM has or can have;
// nil if it has no TPM. It makes nothing.
func findAnchor(c *attest.Collector) (*counter.Anchor, error) {
	if c == nil || c.TPM == nil {
		return nil, nil
	}
	return counter.NewAnchor(c.TPM)
}

// stateAnchor gives the anchor of the state; nil without a TPM. The boot has found it
// before it unlocks, and unlocking is the first to ask.
func (d *Daemon) stateAnchor() appliance.Anchor {
	if d.anchor == nil {
		return nil
	}
	return d.anchor
}

// headAnchors are the anchors of the state that know heads: the audit log, and the broker if
// one releases the PIN.
func (d *Daemon) headAnchors() []appliance.HeadAnchor {
	anchors := []appliance.HeadAnchor{d.audit}
	b, ok := releaser(d.o.Config).(*boot.BrokerRelease)
	if !ok {
		return anchors
	}
	d.broker = boot.NewBrokerAnchor(b, func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
		c := d.measured.Load()
		if c == nil {
			return nil, errors.New("there is no evidence before the machine was measured")
		}
		return c.Collect(ctx, nonce, tlsKey, releaseKey)
	}, d.o.Log)
	return append(anchors, d.broker)
}

// anchorTrace says whether the TPM has counted changes of a state.
func (d *Daemon) anchorTrace(ctx context.Context) (string, error) {
	if d.anchor == nil {
		return "", nil
	}
	count, err := d.anchor.Count(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the TPM has counted changes of a state (%s stands at %d)", d.anchor.Name(), count), nil
}

// attestedState gives the head that evidence names; nil while no state is served.
func (d *Daemon) attestedState(ctx context.Context) *attest.State {
	s := d.appliance.State(ctx)
	if s == nil || s.Held != "" {
		return nil
	}
	digest, err := hex.DecodeString(s.Head.Digest)
	if err != nil {
		return nil // it is one that Holdfast has made
	}
	return &attest.State{Sequence: s.Head.Sequence, Digest: digest, At: s.Head.At.UTC(), Anchored: s.Anchor != "" && s.NotAnchored == ""}
}
