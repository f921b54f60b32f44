package boot

import (
	"context"
	"fmt"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/tpm/seal"
)

// PINChallenge gives a challenge for the machine's owner to give the PIN by, as JSON
// ([release.Challenge]), for a nonce ([attest.MinNonce] to [attest.MaxNonce] bytes).
// Errors: those of [Boot.GivePIN] about the machine, and of [Boot.Evidence].
func (b *Boot) PINChallenge(ctx context.Context, nonce []byte) ([]byte, error) {
	if _, err := b.awaits(); err != nil {
		return nil, err
	}
	c, err := b.taker.Challenge(ctx, b.o.Now(), nonce, func(ctx context.Context, nonce, releaseKey []byte) (*attest.Evidence, error) {
		e, _, err := b.fresh(ctx, nonce, releaseKey)
		return e, err
	})
	if err != nil {
		return nil, err
	}
	return c.Encode()
}

// GivePIN takes the PIN from the machine's owner, and what else came with it
// ([release.Give]), seals it, and has the boot go on. Errors: [*fault.Fault].
//   - about the machine: fault.PINOwner if it has no owner, fault.PINServes, fault.PINCapped,
//     fault.PINEarly; fault.Conflict where its TPM does not keep the PIN;
//   - those of [release.Taker.Take];
//   - those of the TPM's signers, if the PIN would not open now: nothing is sealed then.
func (b *Boot) GivePIN(_ context.Context, envelope []byte) error {
	s, err := b.awaits()
	if err != nil {
		return err
	}
	b.giving.Lock() // one at a time
	defer b.giving.Unlock()
	credential, approvals, err := b.taker.Take(b.o.Now(), envelope, s.Owned.PolicyKey)
	if err != nil {
		return err
	}
	defer clear(credential)
	if err := b.approved(s, approvals); err != nil {
		return err
	}
	if approvals != nil {
		if err := WriteFile(s.Owned.Approvals, approvals); err != nil {
			return fmt.Errorf("the approvals cannot be kept: %w", err)
		}
	}
	b.givenBy(fmt.Sprintf("the owner %s gave the PIN at %s", attest.KeyID(s.Owned.PolicyKey), b.o.Now().UTC().Format("15:04:05")))
	if err := b.sealTo(credential); err != nil {
		b.givenBy("")
		return err
	}
	return nil
}

// givenBy notes who gave the PIN, for the boot's record.
func (b *Boot) givenBy(says string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.given = says
}

// awaits gives the release of a machine that waits for its owner's PIN.
func (b *Boot) awaits() (*SealedRelease, error) {
	s, ok := b.o.Release.(*SealedRelease)
	if b.o.Launch == nil || ok && s.Owned == nil {
		return nil, fault.Errorf(fault.PINOwner, "this machine has no owner: it runs without a launch file that counts")
	}
	if !ok {
		return nil, fault.Errorf(fault.Conflict, "the PIN of this machine is not kept by its TPM: a broker releases it, or nothing does; holdfast status says more")
	}
	switch status := b.Status(); {
	case status.Serves() || status.State == progress.Unlock:
		return nil, fault.Errorf(fault.PINServes, "the machine has its PIN already")
	case status.State == progress.Locked:
		return nil, fault.Errorf(fault.PINCapped, "the boot of this machine has ended (%s), and its TPM is capped: it releases nothing until the machine is restarted", status.Code)
	case status.State != progress.Release || status.Code == "":
		return nil, fault.Errorf(fault.PINEarly, "the boot of this machine has not come to the release yet")
	}
	return s, nil
}

// approved says why the PIN would not open with the approvals, or without any with those
// that the machine has.
func (b *Boot) approved(s *SealedRelease, approvals []byte) error {
	by, err := s.signed()
	if approvals != nil {
		var all []seal.Authorization
		if all, err = seal.ParseAuthorizations(approvals); err != nil {
			return fault.Errorf(fault.Invalid, "the approvals that came along cannot be used: %s", err)
		}
		by.Authorizations, err = s.ReadAuthorizations()
		by.Approvals = all
	}
	if err != nil {
		return err
	}
	key, err := s.ReadKey()
	if err != nil {
		return fault.Wrapf(fault.SealFile, err, "the publisher's key cannot be read")
	}
	b.mu.Lock()
	c := b.collector
	b.mu.Unlock()
	return seal.Signers{Publisher: key, Owner: s.Owned.Key}.Check(c.TPM, seal.Credential, by)
}
