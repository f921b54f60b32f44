package storetest

import (
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
)

func testBoot(t *testing.T, s Machine) {
	ctx := t.Context()
	Equal(t, Got(s.BootSteps(ctx, 10))(t), []progress.Step(nil))
	step := func(of, seq, minute int) progress.Step {
		return progress.Step{Boot: ID(of), Seq: seq, State: "release", Began: At(minute), Took: 1500 * time.Microsecond, Code: string(fault.PolicyFile), Reason: "why"}
	}
	for _, b := range []progress.Step{step(1, 1, 1), step(1, 2, 1), step(2, 1, 2)} {
		Must(t, s.RecordBootStep(ctx, b))
	}
	Wants(t, s.RecordBootStep(ctx, step(1, 2, 3)), fault.Exists, "step 2")
	Equal(t, Got(s.BootSteps(ctx, 10))(t), []progress.Step{step(2, 1, 2), step(1, 2, 1), step(1, 1, 1)})
	Equal(t, Got(s.BootSteps(ctx, 1))(t), []progress.Step{step(2, 1, 2)})
}

// testPolicyVersion: the highest version is kept, and of two policies of one version the
// first; one that a former release noted without a digest is that of the next.
func testPolicyVersion(t *testing.T, s Machine) {
	ctx := t.Context()
	type policy struct {
		highest uint64
		sealed  attest.SignedID
		seal    []byte
	}
	stored := func() (p policy) {
		var err error
		p.highest, p.sealed, p.seal, err = s.PolicySeal(ctx)
		Must(t, err)
		return p
	}
	id := func(version uint64, digest string) attest.SignedID {
		if digest == "" {
			return attest.SignedID{Version: version}
		}
		return attest.SignedID{Version: version, Digest: []byte(digest)}
	}
	Equal(t, stored(), policy{})
	Wants(t, s.SealPolicyVersion(ctx, id(3, "c"), []byte("seal")), fault.NotFound, "policy version")
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "")))(t), id(3, ""))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "c")))(t), id(3, "c"))
	Equal(t, stored(), policy{highest: 3})
	Must(t, s.SealPolicyVersion(ctx, id(3, "c"), []byte("seal")))
	Equal(t, stored(), policy{3, id(3, "c"), []byte("seal")})
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(2, "b")))(t), id(3, "c"))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "another")))(t), id(3, "c"))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(1<<53-1, "z")))(t), id(1<<53-1, "z"))
	Equal(t, stored(), policy{1<<53 - 1, id(3, "c"), []byte("seal")})
}
