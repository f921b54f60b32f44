package console_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// fleet is this node and another.
type fleet struct{ other peerLog }

func (fleet) Node() string                   { return "node-a" }
func (f fleet) Peers() []operation.AuditPeer { return []operation.AuditPeer{f.other} }

// peerLog is the log of another node, with one record; or an error.
type peerLog struct{ err error }

func (peerLog) Node() string { return "node-b" }

func (p peerLog) Search(context.Context, audit.Query) ([]*audit.Record, string, error) {
	if p.err != nil {
		return nil, "", p.err
	}
	return []*audit.Record{{Seq: 4711, Time: time.Now(), Kind: audit.KindAdmin, Operation: "what b did", Result: audit.Allowed, KeyStore: "bank", Key: "k"}}, "", nil
}

func (p peerLog) Proof(context.Context, int64) ([]byte, error) {
	return []byte(`{"proof":"of b"}`), p.err
}

// ownLog is the log of this node, with one record.
type ownLog struct{ operation.Audit }

func (ownLog) Search(context.Context, audit.Query) ([]*audit.Record, string, error) {
	return []*audit.Record{{Seq: 12, Time: time.Now(), Kind: audit.KindAdmin, Operation: "what a did", Result: audit.Allowed}}, "", nil
}

// TestAuditPageOfFleet: the page has the records of all nodes with their nodes, its links
// lead to the same record whichever node is asked, and it says which node did not answer.
func TestAuditPageOfFleet(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	page := func(path string) string {
		t.Helper()
		w := admin.do("GET", path, nil, nil)
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	const node = `name="node"`
	if text := page("/audit"); strings.Contains(text, node) || strings.Contains(text, "node-a") {
		t.Error("without a fleet it speaks of nodes")
	}
	for _, p := range r.performers {
		p.AuditPeers, p.Audit = fleet{}, ownLog{r.audit}
	}
	text := page("/audit")
	for _, want := range []string{"what a did", "what b did", `href="/audit/4711?node=node-b"`, `href="/audit/12?node=node-a"`, node} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if text := page("/audit?node=node-b"); !strings.Contains(text, "what b did") || strings.Contains(text, "what a did") || !strings.Contains(text, "/download/audit.csv?node=node-b") {
		t.Error("the page of one node is not of it")
	}
	record := page("/audit/4711?" + url.Values{"node": {"node-b"}}.Encode())
	for _, want := range []string{"what b did", "of b", "/download/proof.json?seq=4711&amp;node=node-b", "<code>node-b</code>"} {
		if !strings.Contains(record, want) {
			t.Errorf("the page of a record does not have %s", want)
		}
	}
	if proof := page("/download/proof.json?seq=4711&node=node-b"); !strings.Contains(proof, "of b") {
		t.Errorf("the proof is %s", proof)
	}
	r.api.Performer.AuditPeers = fleet{peerLog{fault.Errorf(fault.Locked, "the audit log is not open")}}
	if text := page("/audit"); !strings.Contains(text, "No records of the node node-b") || !strings.Contains(text, "what a did") || !strings.Contains(text, "the audit log is not open") {
		t.Error("it does not say that node-b did not answer")
	}
}
