package storetest

import (
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
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
		highest, sealed boot.Noted
		seal            []byte
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
	of := func(p attest.SignedID) boot.Noted { return boot.Noted{Policy: p} }
	Equal(t, stored(), policy{})
	Wants(t, s.SealPolicyVersion(ctx, of(id(3, "c")), []byte("seal")), fault.NotFound, "policy version")
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "")))(t), id(3, ""))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "c")))(t), id(3, "c"))
	Equal(t, stored(), policy{highest: of(id(3, "c"))})
	Must(t, s.SealPolicyVersion(ctx, of(id(3, "c")), []byte("seal")))
	Equal(t, stored(), policy{of(id(3, "c")), of(id(3, "c")), []byte("seal")})
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(2, "b")))(t), id(3, "c"))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(3, "another")))(t), id(3, "c"))
	Equal(t, Got(s.RaisePolicyVersion(ctx, id(1<<53-1, "z")))(t), id(1<<53-1, "z"))
	Equal(t, stored(), policy{of(id(1<<53-1, "z")), of(id(3, "c")), []byte("seal")})

	// The TCB recovery file is noted beside the policy, and neither changes the other.
	Equal(t, Got(s.RaiseRecovery(ctx, id(0, "")))(t), id(0, ""))
	Equal(t, Got(s.RaiseRecovery(ctx, id(2, "r")))(t), id(2, "r"))
	for _, kept := range []attest.SignedID{id(0, ""), id(1, "q"), id(2, "another")} {
		Equal(t, Got(s.RaiseRecovery(ctx, kept))(t), id(2, "r"))
	}
	both := boot.Noted{Policy: id(1<<53-1, "z"), Recovery: id(2, "r")}
	Equal(t, stored(), policy{both, of(id(3, "c")), []byte("seal")})
	Must(t, s.SealPolicyVersion(ctx, both, []byte("other")))
	Equal(t, Got(s.RaiseRecovery(ctx, id(9, "t")))(t), id(9, "t"))
	Equal(t, stored(), policy{boot.Noted{Policy: both.Policy, Recovery: id(9, "t")}, both, []byte("other")})
}
