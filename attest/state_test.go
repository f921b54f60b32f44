package attest_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/appraisal"
)

// state is the head of an appliance's state.
func state() *attest.State {
	return &attest.State{Sequence: 7, Digest: bytes.Repeat([]byte{9}, 32), At: time.Now().UTC().Truncate(time.Millisecond), Anchored: true}
}

// TestStateIsBound: evidence names the head of the state, and nobody can change, add or take
// out anything of it. Evidence that asks for a credential names none.
func TestStateIsBound(t *testing.T) {
	p, c := machine(t)
	c.State = func(context.Context) *attest.State { return state() }
	asking, err := c.Collect(t.Context(), nonce, tlsKey, []byte("a release key"))
	if err != nil || asking.State != nil {
		t.Errorf("%v: %+v", err, asking.State)
	}
	good := collect(t, c)
	c.State = func(context.Context) *attest.State { return nil }
	without := collect(t, c)
	policy := knowing(p, good)
	verify := func(e *attest.Evidence) *appraisal.Verdict {
		return attest.Verify(e, &policy, whole(p))
	}
	v := verify(copyOf(t, good))
	facts, _ := v.Facts["evidence"].(map[string]any)["state"].(map[string]any)
	if v.Result != appraisal.Pass || facts["number"] != uint64(7) || facts["anchored"] != true {
		t.Errorf("%s: %v", v.Result, facts)
	}
	if v := verify(without); v.Result != appraisal.Pass {
		t.Error(v.Err())
	}
	for name, change := range map[string]func(e *attest.Evidence){
		"number":   func(e *attest.Evidence) { e.State.Sequence++ },
		"digest":   func(e *attest.Evidence) { e.State.Digest[31] ^= 1 },
		"time":     func(e *attest.Evidence) { e.State.At = e.State.At.Add(time.Millisecond) },
		"anchored": func(e *attest.Evidence) { e.State.Anchored = false },
		"gone":     func(e *attest.Evidence) { e.State = nil },
	} {
		e := copyOf(t, good)
		change(e)
		if v := verify(e); v.Result != appraisal.Fail || !slices.Contains(v.Failed(), "E_TPM_NONCE") {
			t.Errorf("%s: %s: %v", name, v.Result, v.Failed())
		}
	}
	added := copyOf(t, without)
	added.State = state()
	if v := verify(added); v.Result != appraisal.Fail {
		t.Error("a state was added")
	}
	for name, change := range map[string]func(s *attest.State){
		"no number":      func(s *attest.State) { s.Sequence = 0 },
		"a short digest": func(s *attest.State) { s.Digest = s.Digest[1:] },
		"no time":        func(s *attest.State) { s.At = time.Time{} },
		"microseconds":   func(s *attest.State) { s.At = s.At.Add(time.Microsecond) },
	} {
		e := copyOf(t, good)
		change(e.State)
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}
