package storetest

import (
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
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

func testPolicyVersion(t *testing.T, s Machine) {
	ctx := t.Context()
	type policy struct {
		highest, sealed uint64
		seal            []byte
	}
	stored := func() (p policy) {
		var err error
		p.highest, p.sealed, p.seal, err = s.PolicySeal(ctx)
		Must(t, err)
		return p
	}
	Equal(t, stored(), policy{})
	Wants(t, s.SealPolicyVersion(ctx, 3, []byte("seal")), fault.NotFound, "policy version")
	Equal(t, Got(s.RaisePolicyVersion(ctx, 3))(t), uint64(3))
	Equal(t, stored(), policy{highest: 3})
	Must(t, s.SealPolicyVersion(ctx, 3, []byte("seal")))
	Equal(t, stored(), policy{3, 3, []byte("seal")})
	Equal(t, Got(s.RaisePolicyVersion(ctx, 2))(t), uint64(3))
	Equal(t, Got(s.RaisePolicyVersion(ctx, 1<<53-1))(t), uint64(1<<53-1))
	Equal(t, stored(), policy{1<<53 - 1, 3, []byte("seal")})
}
