package recorder_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
)

// node is one with an audit log of its own.
type node struct {
	*recorder.Recorder
	dir, id string
	key     crypto.Signer
	told    *strings.Builder
}

func newNode(t *testing.T, id string) *node {
	n := &node{dir: filepath.Join(t.TempDir(), "audit"), id: id, key: newKey(t), told: &strings.Builder{}}
	n.start(t)
	return n
}

// start opens its log, which may have records.
func (n *node) start(t *testing.T) {
	t.Helper()
	n.Recorder = recorder.New(recorder.Options{Dir: n.dir, LogID: func() (string, error) { return n.id, nil }, Log: slog.New(slog.NewTextHandler(n.told, nil))})
	t.Cleanup(n.Close)
	if err := n.Open(n.key); err != nil {
		t.Fatal(err)
	}
}

// acts has it record that many operations, under a checkpoint.
func (n *node) acts(t *testing.T, what string, times int) {
	t.Helper()
	for i := range times {
		if err := n.Record(t.Context(), &audit.Record{Kind: audit.KindAdmin, Operation: fmt.Sprintf("%s %d", what, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

// rewritten gives a log with the ID and the key of n, and other records.
func (n *node) rewritten(t *testing.T, records int) *node {
	other := &node{dir: filepath.Join(t.TempDir(), "audit"), id: n.id, key: n.key, told: &strings.Builder{}}
	other.start(t)
	other.acts(t, "other", records)
	return other
}

// lying is a peer that answers otherwise.
type lying struct {
	recorder.Peer
	head  func() (*audit.SignedHead, error)
	proof func(from, to int64) ([]tlog.Hash, error)
}

func (l lying) SignedHead(ctx context.Context) (*audit.SignedHead, error) {
	if l.head != nil {
		return l.head()
	}
	return l.Peer.SignedHead(ctx)
}

func (l lying) Consistency(ctx context.Context, from, to int64) ([]tlog.Hash, error) {
	if l.proof != nil {
		return l.proof(from, to)
	}
	return l.Peer.Consistency(ctx, from, to)
}

func verifierOf(t *testing.T, key crypto.Signer) note.Verifiers {
	t.Helper()
	s, err := audit.NewECDSASigner(recorder.KeyName, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.ParseVerifierKey(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return note.VerifierList(v)
}

// ofFleet gives the operations of the kind fleet in a log, the oldest first.
func (n *node) ofFleet(t *testing.T) (operations []string) {
	t.Helper()
	for _, r := range all(t, n.Recorder, audit.KindFleet) {
		operations = append(operations, strings.TrimSpace(r.Operation+" "+r.Error))
	}
	return operations
}

// TestCountersign: a node countersigns a peer's heads, each with its own key, over
// restarts of both; the same head once.
func TestCountersign(t *testing.T) {
	a, b := newNode(t, "node-a"), newNode(t, "node-b")
	for i := range 3 {
		b.acts(t, "block", 3)
		for range 2 {
			if err := a.Countersign(t.Context(), b.id, b); err != nil {
				t.Fatal(err)
			}
		}
		records := all(t, a.Recorder, audit.KindFleet)
		if len(records) != i+1 {
			t.Fatalf("%d countersignatures after %d heads", len(records), i+1)
		}
		c := audit.CountersignedOf(records[i])
		head, err := b.SignedHead(t.Context())
		if err != nil || c == nil || c.LogID != b.id || c.SignedHead != *head || (records[i].Before == nil) != (i == 0) {
			t.Fatalf("%v: it has %+v on record, before %s", err, c, records[i].Before)
		}
		id, signed, err := audit.OpenCountersignature([]byte(c.Countersignature), verifierOf(t, a.key))
		if err != nil || id != b.id || signed.Size != c.Size || signed.Root != c.Root || c.Size != int64(3*(i+1)) {
			t.Errorf("%v: it has countersigned %s %+v", err, id, signed)
		}
		if _, _, err := audit.OpenCountersignature([]byte(c.Countersignature), verifierOf(t, b.key)); fault.CodeOf(err) != fault.AuditCheckpointForged {
			t.Errorf("with another key: %v", err)
		}
		if s := a.Status().Peers; len(s) != 1 || s[0].LogID != b.id || s[0].Size != c.Size || !s[0].At.Equal(records[i].Time) || s[0].Refused != "" {
			t.Errorf("the status is %+v", s)
		}
		a.Close()
		b.Close()
		a.start(t)
		b.start(t)
	}
	if report, err := audit.Verify(a.dir, verifierOf(t, a.key), audit.VerifyOptions{}); err != nil {
		t.Errorf("%v: %+v", err, report)
	}
}

// TestKeyOfPeerChanges: a peer whose log goes on under another key, as without a TPM after a
// restart, is countersigned, and the record says so.
func TestKeyOfPeerChanges(t *testing.T) {
	a, b := newNode(t, "node-a"), newNode(t, "node-b")
	if a.LogID() != "node-a" {
		t.Errorf("its ID is %q", a.LogID())
	}
	for range 2 {
		b.acts(t, "block", 3)
		if err := a.Countersign(t.Context(), b.id, b); err != nil {
			t.Fatal(err)
		}
		b.Close()
		b.key = newKey(t)
		b.start(t)
	}
	records := all(t, a.Recorder, audit.KindFleet)
	if len(records) != 2 || records[0].Detail != "" || !strings.Contains(records[1].Detail, "another key than before") {
		t.Errorf("on record is %+v", records)
	}
}

// TestRefuseHead: what is not consistent with the head on record, or not of that log, is an
// event, once, and is not countersigned; the head on record stays. Also after a restart of
// the node that has it on record.
func TestRefuseHead(t *testing.T) {
	for name, tt := range map[string]struct {
		lie  func(t *testing.T, b *node) recorder.Peer
		code fault.Code
	}{
		"rewritten":         {func(t *testing.T, b *node) recorder.Peer { return b.rewritten(t, 12) }, fault.AuditInconsistent},
		"rewritten as long": {func(t *testing.T, b *node) recorder.Peer { return b.rewritten(t, 8) }, fault.AuditInconsistent},
		"cut":               {func(t *testing.T, b *node) recorder.Peer { return b.rewritten(t, 5) }, fault.AuditInconsistent},
		"emptied":           {func(t *testing.T, b *node) recorder.Peer { return b.rewritten(t, 0) }, fault.AuditInconsistent},
		"an older copy": {func(t *testing.T, b *node) recorder.Peer {
			old := &node{dir: filepath.Join(t.TempDir(), "audit"), id: b.id, key: b.key, told: &strings.Builder{}}
			if err := os.CopyFS(old.dir, os.DirFS(b.dir+"-old")); err != nil {
				t.Fatal(err)
			}
			old.start(t)
			return old
		}, fault.AuditInconsistent},
		"no proof": {func(t *testing.T, b *node) recorder.Peer {
			b.acts(t, "more", 1)
			return lying{Peer: b, proof: func(int64, int64) ([]tlog.Hash, error) { return nil, nil }}
		}, fault.AuditInconsistent},
		"a proof of something else": {func(t *testing.T, b *node) recorder.Peer {
			b.acts(t, "more", 2)
			return lying{Peer: b, proof: func(from, to int64) ([]tlog.Hash, error) { return b.Consistency(t.Context(), from-1, to) }}
		}, fault.AuditInconsistent},
		"another log": {func(t *testing.T, _ *node) recorder.Peer {
			c := newNode(t, "node-c")
			c.acts(t, "other", 20)
			return c
		}, fault.AuditLogID},
		"signed by another key than it says": {func(t *testing.T, b *node) recorder.Peer {
			head, err := b.SignedHead(t.Context())
			other, err2 := newNode(t, "x").SignedHead(t.Context())
			return lying{Peer: b, head: func() (*audit.SignedHead, error) {
				return &audit.SignedHead{Checkpoint: head.Checkpoint, Key: other.Key}, errors.Join(err, err2)
			}}
		}, fault.AuditCheckpointForged},
		"not a checkpoint": {func(_ *testing.T, b *node) recorder.Peer {
			return lying{Peer: b, head: func() (*audit.SignedHead, error) { return &audit.SignedHead{Checkpoint: "x", Key: "y"}, nil }}
		}, fault.AuditCheckpointForged},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t, "node-a"), newNode(t, "node-b")
			b.acts(t, "block", 4)
			if err := os.CopyFS(b.dir+"-old", os.DirFS(b.dir)); err != nil {
				t.Fatal(err)
			}
			b.acts(t, "block", 4)
			if err := a.Countersign(t.Context(), b.id, b); err != nil {
				t.Fatal(err)
			}
			a.Close()
			a.start(t)
			lie := tt.lie(t, b)
			for range 2 {
				if err := a.Countersign(t.Context(), b.id, lie); fault.CodeOf(err) != tt.code {
					t.Fatalf("it says %v", err)
				}
			}
			if got, want := strings.Join(a.ofFleet(t), ", "), "CountersignHead, RefuseHead "+string(tt.code); got != want {
				t.Errorf("on record is %s, want %s", got, want)
			}
			if r := all(t, a.Recorder, audit.KindFleet)[1]; r.Result != audit.Failed || audit.NamedLog(r) != b.id || !strings.Contains(string(r.Before), `"size":8`) {
				t.Errorf("the event is recorded as %+v, before %s", r, r.Before)
			}
			if !strings.Contains(a.told.String(), "code="+string(tt.code)) || !strings.Contains(a.told.String(), "node="+b.id) {
				t.Errorf("it logs %s", a.told)
			}
			a.Close()
			a.start(t)
			if err := a.Countersign(t.Context(), b.id, lie); fault.CodeOf(err) != tt.code {
				t.Errorf("after a restart: %v", err)
			}
			if s := a.Status().Peers; len(s) != 1 || s[0].Refused != tt.code || s[0].Size != 8 {
				t.Errorf("the status is %+v", s)
			}
			b.acts(t, "unblock", 1)
			if err := a.Countersign(t.Context(), b.id, b); err != nil {
				t.Errorf("the log that was there before: %v", err)
			}
			if s := a.Status().Peers; s[0].Refused != "" || s[0].Size < 9 {
				t.Errorf("the status is %+v", s)
			}
		})
	}
}

// TestPeerFails: a peer that does not answer is no event, and nothing is countersigned.
func TestPeerFails(t *testing.T) {
	a, b := newNode(t, "node-a"), newNode(t, "node-b")
	b.acts(t, "block", 4)
	if err := a.Countersign(t.Context(), b.id, b); err != nil {
		t.Fatal(err)
	}
	b.acts(t, "block", 4)
	away := errors.New("no route to it")
	for name, peer := range map[string]recorder.Peer{
		"no head":  lying{Peer: b, head: func() (*audit.SignedHead, error) { return nil, away }},
		"no proof": lying{Peer: b, proof: func(int64, int64) ([]tlog.Hash, error) { return nil, away }},
	} {
		if err := a.Countersign(t.Context(), b.id, peer); !errors.Is(err, away) {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothing := lying{Peer: b, head: func() (*audit.SignedHead, error) { return nil, nil }}
	if err := a.Countersign(t.Context(), b.id, nothing); fault.CodeOf(err) != fault.AuditPeer {
		t.Errorf("nothing: %v", err)
	}
	for _, id := range []string{a.id, "", "no log\n"} {
		if err := a.Countersign(t.Context(), id, b); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", id, err)
		}
	}
	if got := a.ofFleet(t); len(got) != 1 {
		t.Errorf("on record is %s", got)
	}
	closed := newRecorder(t)
	if err := closed.Countersign(t.Context(), b.id, b); fault.CodeOf(err) != fault.Locked {
		t.Errorf("before the log is open: %v", err)
	}
	if err := a.Countersign(t.Context(), "node-z", closed); fault.CodeOf(err) != fault.Locked {
		t.Errorf("a peer whose log is not open: %v", err)
	}
	forged := &audit.Record{Kind: audit.KindFleet, Operation: audit.CountersignHead, Result: audit.Allowed}
	if err := a.Record(t.Context(), forged); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a countersignature by hand: %v", err)
	}
	if err := a.RecordUrgent(t.Context(), forged); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("an urgent countersignature by hand: %v", err)
	}
}

// TestNodesAreRecorded: nodes that join, are drained and leave are on record, and one that
// has left is no longer in the status; until it comes back with its log.
func TestNodesAreRecorded(t *testing.T) {
	a, b := newNode(t, "node-a"), newNode(t, "node-b")
	b.acts(t, "block", 4)
	n := recorder.Node{ID: "b", Address: "192.0.2.7:8443", LogID: b.id}
	err := errors.Join(a.NodeJoined(t.Context(), n, ""), a.Countersign(t.Context(), b.id, b), a.NodeDrained(t.Context(), n, "user alice"), a.NodeLeft(t.Context(), n, "user alice"))
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, r := range all(t, a.Recorder, audit.KindFleet) {
		if audit.NamedLog(r) != b.id || r.Result != audit.Allowed {
			t.Errorf("%+v is about %s", r, r.After)
		}
		told = append(told, r.Operation+" by "+r.Actor)
	}
	if got, want := strings.Join(told, ", "), "NodeJoined by node b, CountersignHead by , NodeDrained by user alice, NodeLeft by user alice"; got != want {
		t.Errorf("on record is %s", got)
	}
	for range 2 { // before and after a restart
		if s := a.Status().Peers; len(s) != 0 {
			t.Errorf("the status has %+v", s)
		}
		a.Close()
		a.start(t)
	}
	if err := a.Countersign(t.Context(), b.id, b.rewritten(t, 9)); fault.CodeOf(err) != fault.AuditInconsistent {
		t.Errorf("it came back with another log: %v", err)
	}
	if err := a.Countersign(t.Context(), b.id, b); err != nil || len(a.Status().Peers) != 1 {
		t.Errorf("it came back: %v, %+v", err, a.Status().Peers)
	}
}

// TestMembers: who joins, is drained and leaves is on record once, over restarts too; what
// cannot be recorded is tried again.
func TestMembers(t *testing.T) {
	a := newNode(t, "node-a")
	nodes := func(states ...appliance.NodeState) (list []appliance.Node) {
		for i, s := range states {
			if s != "" {
				list = append(list, appliance.Node{ID: fmt.Sprintf("node-%c", 'a'+i), Address: "x:1", State: s})
			}
		}
		return list
	}
	const serving, drained, joining, leaving = appliance.NodeServing, appliance.NodeDrained, appliance.NodeJoining, appliance.NodeLeaving
	want := []string{}
	for _, step := range []struct {
		now []appliance.Node
		new string
	}{
		{nodes(joining), ""},
		{nodes(serving, drained), "NodeJoined,NodeJoined,NodeDrained"},
		{nodes(serving, leaving, joining), ""},
		{nodes(serving, "", serving), "NodeJoined,NodeLeft"},
		{nodes(drained, "", serving), "NodeDrained"},
		{nodes(serving, "", serving), "NodeResumed"},
		{nodes(serving, serving), "NodeJoined,NodeLeft"}, // it comes back
	} {
		if step.new != "" {
			want = append(want, strings.Split(step.new, ",")...)
		}
		for i := range 4 {
			if i == 2 {
				a.Close()
				if err := a.Members(t.Context(), nodes(serving, serving, serving, serving)); err == nil {
					t.Error("a log that is closed records")
				}
				a.start(t)
			}
			if err := a.Members(t.Context(), step.now); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(a.ofFleet(t), ","); got != strings.Join(want, ",") {
			t.Fatalf("after %v on record: %s\nwant %s", step.now, got, strings.Join(want, ","))
		}
	}
	if s := a.Status().Peers; len(s) != 1 || s[0].LogID != "node-b" {
		t.Errorf("it knows the logs %+v, and not node-b's alone", s)
	}
	if err := recorder.New(recorder.Options{}).Members(t.Context(), nil); fault.CodeOf(err) != fault.Locked {
		t.Errorf("before the log is open: %v", err)
	}
}
