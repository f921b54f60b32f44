package fleet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/attest"
	web "holdfast/web/fleet"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// TestActivitiesOfNodes: a node has what all have counted, but of one that does not answer.
func TestActivitiesOfNodes(t *testing.T) {
	nodes := newFleet(t, "a", "b", "c")
	var all []*web.Activities
	var own []*activity.Recorder
	for i, m := range nodes {
		r, a := activity.New(nil), web.NewActivities(m.calls)
		a.Give(r)
		for range i + 1 {
			r.Observe(&appliance.Outcome{Took: time.Millisecond})
		}
		own, all = append(own, r), append(all, a)
	}
	requests := func(n int) (sum uint64) {
		for _, m := range own[n].Last(activity.Minutes, all[n].Counts(t.Context(), activity.Minutes)...) {
			sum += m.Requests
		}
		return sum
	}
	for n := range nodes {
		if got := requests(n); got != 6 {
			t.Errorf("node %d has %d requests of all, and there were 6", n, got)
		}
	}
	nodes[2].server.Close()
	if got := requests(0); got != 3 {
		t.Errorf("without a node: %d requests, and there were 3", got)
	}
	if _, err := nodes[0].calls.Ask(t.Context(), "b", "requests counted", []byte("0")); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("no minutes: %v", err)
	}
	if _, err := nodes[0].calls.Ask(t.Context(), "b", "requests counted", []byte("1441")); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("more minutes than there are: %v", err)
	}
}

// verifier is a log that is verified as it says.
type verifier struct{ by string }

func (v *verifier) Verify(by string) operation.LogVerification {
	v.by = by
	return v.Verification()
}

func (v *verifier) Verification() operation.LogVerification {
	return operation.LogVerification{Running: v.by != "", By: v.by, Node: "what it calls itself"}
}

// TestVerificationsOfNodes: each node verifies its log for whom one of them asks, and what it
// found is had of all; that nothing is known of one is told.
func TestVerificationsOfNodes(t *testing.T) {
	nodes := newFleet(t, "a", "b", "c")
	var all []*web.Verifications
	var own []*verifier
	for _, m := range nodes {
		c, v := web.NewVerifications(m.logs), &verifier{}
		c.Give(v)
		all, own = append(all, c), append(own, v)
	}
	const long = 200
	if got := all[0].Verify(t.Context(), strings.Repeat("x", long)); len(got) != 2 || got[0].Node != "b" || got[1].Node != "c" || !got[0].Running || len(own[1].by) >= long || own[0].by != "" {
		t.Errorf("%+v", got)
	}
	if got := all[0].Verify(t.Context(), "alice"); got[1].By != "alice" {
		t.Errorf("%+v", got)
	}
	nodes[2].server.Close()
	got := all[1].Verifications(t.Context())
	if len(got) != 2 || got[0].Node != "a" || got[0].Running || got[0].Unknown != "" || got[1].Node != "c" || got[1].Unknown == "" {
		t.Errorf("%+v", got)
	}
}

// hanging is a transport by which nobody answers.
type hanging struct{ fleet.Transport }

func (hanging) Call(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, fault.Wrapf(fault.Unreachable, ctx.Err(), "nobody answers")
}

// TestSilentNodeIsWaitedForShortly: a page waits a second for what nodes have found, and a few
// for that they begin.
func TestSilentNodeIsWaitedForShortly(t *testing.T) {
	nodes := newFleet(t, "a", "b")
	asks := web.NewVerifications(nodes[0].logs)
	nodes[0].wire.Transport = hanging{nodes[0].wire.Transport}
	for what, c := range map[string]struct {
		ask  func() []operation.LogVerification
		most time.Duration
	}{
		"what they have found": {func() []operation.LogVerification { return asks.Verifications(t.Context()) }, 2 * time.Second},
		"that they begin":      {func() []operation.LogVerification { return asks.Verify(t.Context(), "alice") }, 5 * time.Second},
	} {
		ran := appliancetest.Running(t)
		if got := c.ask(); len(got) != 1 || got[0].Unknown == "" || ran() > c.most {
			t.Errorf("%s: %+v after %v", what, got, ran())
		}
	}
}

// TestActivitiesWhileLocked: a node without a seat has its own alone.
func TestActivitiesWhileLocked(t *testing.T) {
	if got := web.NewActivities(newMachine(t, "a").calls).Counts(t.Context(), 60); got != nil {
		t.Errorf("got %v", got)
	}
}

// TestAttestationsOfNodes: evidence can be had of a node through another one.
func TestAttestationsOfNodes(t *testing.T) {
	nodes := newFleet(t, "a", "b")
	other := &webtest.Boot{}
	asks := web.NewAttestations(nodes[0].calls)
	web.NewAttestations(nodes[1].calls).Give(other)
	nonce := bytes.Repeat([]byte{7}, 32)
	text, err := asks.Evidence(t.Context(), "b", hex.EncodeToString(nonce))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := attest.Parse(text); err != nil || !bytes.Equal(e.Nonce, nonce) {
		t.Errorf("%v: %s", err, text)
	}
	r, err := asks.Report(t.Context(), "b", hex.EncodeToString(nonce))
	if err != nil || r.Verdict.Result != "pass" {
		t.Fatalf("%v: %+v", err, r)
	}
	if e, err := attest.Parse(r.Evidence); err != nil || !bytes.Equal(e.Nonce, nonce) {
		t.Errorf("%v: %s", err, r.Evidence)
	}
	for what, wrong := range map[string]struct {
		node, nonce string
		want        fault.Code
	}{"a short nonce": {"b", "00", fault.Invalid}, "no such node": {"c", hex.EncodeToString(nonce), fault.NotFound}} {
		if _, err := asks.Evidence(t.Context(), wrong.node, wrong.nonce); fault.CodeOf(err) != wrong.want {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := asks.Report(t.Context(), wrong.node, wrong.nonce); fault.CodeOf(err) != wrong.want {
			t.Errorf("%s, a report: %v", what, err)
		}
	}
	nodes[0].wire.change = func(answer []byte) []byte {
		answer[len(answer)-2] ^= 1
		return answer
	}
	if r, err := asks.Report(t.Context(), "b", hex.EncodeToString(nonce)); fault.CodeOf(err) != fault.FleetMessage {
		t.Errorf("an answer that was changed on its way: %v %+v", err, r)
	}
}
