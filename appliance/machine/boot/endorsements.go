package boot

import (
	"context"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/policies"
	"holdfast/attest"
)

// EndorsementFiles reads what an appliance has of its own each time it is called:
// [Options.Endorsements]. crl is the file of AMD's list of revocations (DER); tcb that of
// the TCB recovery file, which the key of policies (PEM, Ed25519) must have signed. Empty
// names stand for none; nil roots trust the makers of processors. Neither is measured: the first is signed by AMD and the second by
// the policy's signer, and both are exchanged more often than a release.
func EndorsementFiles(crl, tcb, key string, roots *attest.Roots) func() (attest.Endorsements, error) {
	return func() (own attest.Endorsements, err error) {
		if crl != "" {
			list, err := policies.ReadFile(crl)
			if err == nil {
				_, err = attest.ReadRevocations(list, roots)
			}
			if err != nil {
				return own, fault.Wrapf(fault.RevocationsFile, err, "%s cannot be used", crl)
			}
			own.Revocations = [][]byte{list}
		}
		if tcb != "" {
			if own.Recovery, err = readRecovery(tcb, key); err != nil {
				return own, fault.Wrapf(fault.RecoveryFile, err, "%s cannot be used", tcb)
			}
		}
		return own, nil
	}
}

func readRecovery(file, key string) (*attest.SignedRecovery, error) {
	public, err := policies.ReadPolicyKey(key)
	if err != nil {
		return nil, err
	}
	text, err := policies.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return attest.OpenRecovery(text, public)
}

// endorse reads what there is now. A TCB recovery file that was in force, also before this
// start, gives way to none, and to another by the rule for policies alone.
func (b *Boot) endorse(ctx context.Context) error {
	var own attest.Endorsements
	if b.o.Endorsements != nil {
		var err error
		if own, err = b.o.Endorsements(); err != nil {
			return err
		}
	}
	var next attest.SignedID
	if own.Recovery != nil {
		next = own.Recovery.ID()
	}
	highest, err := b.o.Journal.RaiseRecovery(ctx, next)
	switch {
	case err != nil:
		return fault.Wrapf(fault.RecoveryFile, err, "the database does not tell which TCB recovery file there was before")
	case own.Recovery == nil && highest.Version > 0:
		return fault.Errorf(fault.RecoveryFile, "the TCB recovery file of version %d, with the SHA-256 %x, was in force, and there is none now; put it back, and name it in attestation.tcb", highest.Version, highest.Digest)
	}
	if err := highest.CheckNext(next); err != nil {
		return fault.Wrapf(fault.RecoveryFile, err, "the TCB recovery file cannot be used")
	}
	b.mu.Lock()
	b.own = own
	b.mu.Unlock()
	return nil
}
