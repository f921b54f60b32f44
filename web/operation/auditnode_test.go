package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// memoryLog is the audit log of a node in memory.
type memoryLog struct {
	Audit
	node    string
	records []*audit.Record
	search  func(ctx context.Context) error // before each search, if given
}

func newMemoryLog(node string, seconds ...int) *memoryLog {
	m := &memoryLog{node: node}
	for i, s := range seconds {
		m.records = append(m.records, &audit.Record{Seq: int64(i), Time: time.Unix(1_800_000_000+int64(s), 0).UTC(), Kind: audit.KindAdmin, Operation: "of " + node})
	}
	return m
}

func (m *memoryLog) Node() string { return m.node }

func (m *memoryLog) Search(ctx context.Context, q audit.Query) (found []*audit.Record, next string, err error) {
	if m.search != nil {
		if err := m.search(ctx); err != nil {
			return nil, "", err
		}
	}
	n := len(m.records)
	if q.Cursor != "" {
		if n, err = strconv.Atoi(q.Cursor); err != nil {
			return nil, "", fault.Errorf(fault.Invalid, "%q is no cursor", q.Cursor)
		}
	}
	for _, r := range slices.Backward(m.records[:min(n, len(m.records))]) {
		if len(found) == q.Limit {
			return found, strconv.FormatInt(found[len(found)-1].Seq, 10), nil
		}
		found = append(found, r)
	}
	return found, "", nil
}

func (m *memoryLog) Proof(_ context.Context, seq int64) ([]byte, error) {
	return fmt.Appendf(nil, `{"of":%q,"seq":%d}`, m.node, seq), nil
}

func (m *memoryLog) Export(_ context.Context, _ audit.Query, w io.Writer, _ string) error {
	_, err := io.WriteString(w, "its own lines\n")
	return err
}

func (m *memoryLog) ReadyUrgent() error                                { return nil }
func (m *memoryLog) Ready() error                                      { return nil }
func (m *memoryLog) Record(context.Context, *audit.Record) error       { return nil }
func (m *memoryLog) RecordUrgent(context.Context, *audit.Record) error { return nil }

// memoryPeers are the logs of other nodes.
type memoryPeers struct {
	own   string
	peers []*memoryLog
}

func (p *memoryPeers) Node() string { return p.own }

func (p *memoryPeers) Peers() (list []AuditPeer) {
	for _, m := range p.peers {
		list = append(list, m)
	}
	return list
}

// fleetOf is the performer of the first, in a fleet with the others.
func fleetOf(own *memoryLog, others ...*memoryLog) *Caller {
	p, _ := quiet()
	p.Audit = own
	p.AuditPeers = &memoryPeers{own.node, others}
	return p.As(admin, "")
}

func namesOf(r *Records) string {
	var list []string
	for _, r := range r.Records {
		list = append(list, fmt.Sprintf("%s %d", r.Node, r.Seq))
	}
	return strings.Join(list, ", ")
}

// TestSearchOfFleet: a search asks all nodes, by time and page by page, whichever node is
// asked; and a record and its proof are had of any node.
func TestSearchOfFleet(t *testing.T) {
	a, b, c := newMemoryLog("a", 1, 5, 6), newMemoryLog("b", 2, 3), newMemoryLog("c", 4)
	callers := []*Caller{fleetOf(a, b, c), fleetOf(b, c, a), fleetOf(c, a, b)}
	var pages []string
	for in := (AuditSearch{Limit: 2}); ; {
		done, err := SearchAudit.Do(t.Context(), callers[len(pages)%3], in)
		if err != nil || len(done.Out.Nodes) != 3 || done.Out.Silent != nil {
			t.Fatalf("%v: %+v", err, done.Out)
		}
		pages = append(pages, namesOf(done.Out))
		if in.After = done.Out.Next; in.After == "" {
			break
		}
	}
	if got, want := strings.Join(pages, "; "), "a 2, a 1; c 0, b 1; b 0, a 0"; got != want {
		t.Errorf("the pages are %s", got)
	}
	done, err := SearchAudit.Do(t.Context(), callers[0], AuditSearch{AuditFilter: AuditFilter{Node: "b"}})
	if err != nil || namesOf(done.Out) != "b 1, b 0" {
		t.Errorf("of one node: %v, %+v", err, done.Out)
	}
	for _, node := range []string{"", "a", "b", "c"} {
		want := node
		if want == "" {
			want = "a"
		}
		n := RecordNumber{Seq: 0, Node: node}
		r, err := ShowAuditRecord.Do(t.Context(), callers[0], n)
		if err != nil || r.Out.Node != want || r.Out.Operation != "of "+want || r.Out.Seq != 0 {
			t.Errorf("record 0 of %q: %v, %+v", node, err, r.Out)
		}
		proof, err := ShowAuditProof.Do(t.Context(), callers[0], n)
		if err != nil || !strings.Contains(string(proof.Out), `"`+want+`"`) {
			t.Errorf("the proof of record 0 of %q: %v, %s", node, err, proof.Out)
		}
	}
	alone, _ := quiet()
	alone.Audit = a
	for what, caller := range map[string]*Caller{"in a fleet": callers[0], "alone": alone.As(admin, "")} {
		n := RecordNumber{Seq: 0, Node: "z"}
		_, e1 := ShowAuditRecord.Do(t.Context(), caller, n)
		_, e2 := ShowAuditProof.Do(t.Context(), caller, n)
		_, e3 := SearchAudit.Do(t.Context(), caller, AuditSearch{AuditFilter: AuditFilter{Node: "z"}})
		for _, err := range []error{e1, e2, e3} {
			if fault.CodeOf(err) != fault.NotFound || !strings.Contains(err.Error(), "no node") {
				t.Errorf("a node that is not there, %s: %v", what, err)
			}
		}
	}
	if _, err := ShowAuditRecord.Do(t.Context(), callers[0], RecordNumber{Seq: 7, Node: "b"}); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a record that is not there: %v", err)
	}
}

// TestWithoutFleet: an answer of an appliance alone names no node.
func TestWithoutFleet(t *testing.T) {
	p, _ := quiet()
	p.Audit = newMemoryLog("a", 1, 5)
	done, err := SearchAudit.Do(t.Context(), p.As(admin, ""), AuditSearch{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	next := done.Out.Next
	text, err := json.Marshal(done.Out)
	if want := `{"items":[{"seq":1,"time":"2027-01-15T08:00:05.000000Z","kind":"admin","operation":"of a"}],"next":"` + next + `"}`; err != nil || string(text) != want {
		t.Errorf("%v: %s\nwant %s", err, text, want)
	}
	if done, err = SearchAudit.Do(t.Context(), p.As(admin, ""), AuditSearch{Limit: 1, After: next}); err != nil || namesOf(done.Out) != " 0" {
		t.Errorf("%v: %+v", err, done.Out)
	}
	var out bytes.Buffer
	stream, err := ExportAudit.Do(t.Context(), p.As(admin, ""), AuditExport{})
	if err != nil || stream.Out.Write(&out) != nil || out.String() != "its own lines\n" {
		t.Errorf("%v: %s", err, &out)
	}
}

// TestSilentNodes: what a search has nothing of is named, within a bounded time, also this
// node; an export of which a node is missing fails.
func TestSilentNodes(t *testing.T) {
	for name, tt := range map[string]struct {
		search func(ctx context.Context) error
		lies   bool
		code   fault.Code
	}{
		"hangs":  {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, false, fault.AuditTimeout},
		"fails":  {func(context.Context) error { return fault.Errorf(fault.Locked, "it is locked") }, false, fault.Locked},
		"breaks": {func(context.Context) error { return io.ErrUnexpectedEOF }, false, fault.Internal},
		"lies":   {nil, true, fault.AuditPeer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, c := newMemoryLog("a", 1, 5), newMemoryLog("b", 2, 3), newMemoryLog("c", 4)
				if b.search = tt.search; tt.lies {
					b.records[0].Seq = 7
				}
				for what, caller := range map[string]*Caller{"another node": fleetOf(a, b, c), "this node": fleetOf(b, a, c)} {
					began := time.Now()
					done, err := SearchAudit.Do(t.Context(), caller, AuditSearch{})
					if err != nil || namesOf(done.Out) != "a 1, c 0, a 0" || len(done.Out.Nodes) != 3 {
						t.Fatalf("%s: %v, %+v", what, err, done.Out)
					}
					if s := done.Out.Silent; len(s) != 1 || s[0].Node != "b" || s[0].Code != tt.code || s[0].Reason == "" || strings.Contains(s[0].Reason, "EOF") {
						t.Errorf("%s: silent are %+v", what, s)
					}
					if took := time.Since(began); took > peerTime {
						t.Errorf("%s: it took %s", what, took)
					}
					stream, err := ExportAudit.Do(t.Context(), caller, AuditExport{})
					if err != nil {
						t.Fatal(err)
					}
					if err := stream.Out.Write(io.Discard); err == nil {
						t.Errorf("%s: an export without a node is whole", what)
					}
				}
			})
		})
	}
}

// TestExportOfFleet: an export has the records of all nodes, with their nodes, over many
// pages; or those of one.
func TestExportOfFleet(t *testing.T) {
	a, b := newMemoryLog("a"), newMemoryLog("b", 1)
	for i := range 2500 {
		a.records = append(a.records, newMemoryLog("a", i).records[0])
		a.records[i].Seq = int64(i)
	}
	for node, want := range map[string]int{"": 2501, "a": 2500, "b": 1} {
		stream, err := ExportAudit.Do(t.Context(), fleetOf(a, b), AuditExport{AuditFilter: AuditFilter{Node: node}})
		var out bytes.Buffer
		if err != nil || stream.Out.Write(&out) != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); got != want || !strings.HasPrefix(out.String(), `{"node":"`) {
			t.Errorf("of %q %d lines, the first %.60s", node, got, out.String())
		}
	}
}
