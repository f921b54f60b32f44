package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// memory is the log of a node in memory.
type memory struct {
	name    string
	records []*audit.Record
	away    bool
}

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// add adds a record of that many seconds after noon.
func (m *memory) add(second int) {
	m.records = append(m.records, &audit.Record{Seq: int64(len(m.records)), Time: noon.Add(time.Duration(second) * time.Second), Kind: audit.KindAdmin, Operation: m.name})
}

var errAway = errors.New("no route to it")

func (m *memory) search(_ context.Context, q audit.Query) (found []*audit.Record, next string, err error) {
	if m.away {
		return nil, "", errAway
	}
	before := int64(len(m.records))
	if q.Cursor != "" {
		if before, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return nil, "", err
		}
	}
	for _, r := range slices.Backward(m.records[:min(before, int64(len(m.records)))]) {
		if len(found) == q.Limit {
			return found, strconv.FormatInt(found[len(found)-1].Seq, 10), nil
		}
		if q.From.IsZero() || !r.Time.Before(q.From) {
			found = append(found, r)
		}
	}
	return found, "", nil
}

func (m *memory) node() audit.Node { return audit.Node{Name: m.name, Search: m.search} }

func nodesOf(logs []*memory) (nodes []audit.Node) {
	for _, m := range logs {
		nodes = append(nodes, m.node())
	}
	return nodes
}

// told gives records as "node seq".
func told(records []audit.NodeRecord) (list []string) {
	for _, r := range records {
		list = append(list, fmt.Sprintf("%s %d", r.Node, r.Seq))
	}
	return list
}

// TestSearchNodes: records come by time among nodes, and by number in each.
func TestSearchNodes(t *testing.T) {
	a, b := &memory{name: "a"}, &memory{name: "b"}
	for _, s := range []int{1, 4, 4, 9} {
		a.add(s)
	}
	for _, s := range []int{2, 8, 3, 4} { // its clock was set back
		b.add(s)
	}
	page, err := audit.SearchNodes(t.Context(), nodesOf([]*memory{b, a}), audit.Query{}, 0)
	if err != nil || page.Next != "" || page.Failed != nil {
		t.Fatalf("%v: %+v", err, page)
	}
	if got, want := strings.Join(told(page.Records), ", "), "a 3, a 2, a 1, b 3, b 2, b 1, b 0, a 0"; got != want {
		t.Errorf("it gives %s\nwant     %s", got, want)
	}
	for what, q := range map[string]audit.Query{"a cursor of one log": {Cursor: "3"}, "no cursor": {Cursor: "a:x"}, "a long one": {Cursor: strings.Repeat("a:1,", 9999) + "a:1"},
		"no place": {Cursor: "a"}, "a key alone": {Key: "k"}, "a large page": {Limit: 1001}, "a negative page": {Limit: -1}} {
		if _, err := audit.SearchNodes(t.Context(), nodesOf([]*memory{b, a}), q, 0); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, nodes := range map[string][]audit.Node{"two of one name": nodesOf([]*memory{a, a}), "no name": {{Search: a.search}}} {
		if _, err := audit.SearchNodes(t.Context(), nodes, audit.Query{}, 0); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPagesOfNodes: page by page, each record that was there at the beginning comes once, in
// order, while logs grow, nodes fail and come back, and each page is asked of another node;
// as long as no node fails, the pages together are in order.
func TestPagesOfNodes(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 15))
		var logs []*memory
		want := map[string]bool{}
		for i := range 1 + random.IntN(4) {
			m := &memory{name: fmt.Sprintf("node-%d", i)}
			second := 0
			for range random.IntN(40) {
				m.add(second)
				want[fmt.Sprintf("%s %d", m.name, len(m.records)-1)] = true
				second += random.IntN(3)
			}
			logs = append(logs, m)
		}
		fails := seed%2 == 1
		var came []audit.NodeRecord
		seen := map[string]bool{}
		q := audit.Query{Limit: 1 + random.IntN(12)}
		for {
			random.Shuffle(len(logs), func(i, j int) { logs[i], logs[j] = logs[j], logs[i] })
			logs[0].away = fails && len(logs) > 1 && random.IntN(4) == 0
			page, err := audit.SearchNodes(t.Context(), nodesOf(logs), q, 0)
			if err != nil {
				t.Fatal(err)
			}
			if logs[0].away && len(page.Failed) > 0 && (len(page.Failed) != 1 || page.Failed[0].Node != logs[0].name || !errors.Is(page.Failed[0].Err, errAway)) {
				t.Fatalf("seed %d: failed are %+v", seed, page.Failed)
			}
			ended := page.Next == "" && len(page.Failed) > 0 // the rest of that node is told to be missing
			if ended {
				for r := range want {
					if strings.HasPrefix(r, logs[0].name+" ") {
						delete(want, r)
					}
				}
			}
			logs[0].away = false
			for _, r := range page.Records {
				if key := fmt.Sprintf("%s %d", r.Node, r.Seq); seen[key] {
					t.Fatalf("seed %d: %s comes twice", seed, key)
				} else {
					seen[key] = true
				}
			}
			if !slices.IsSortedFunc(page.Records, func(a, b audit.NodeRecord) int { return b.Time.Compare(a.Time) }) {
				t.Fatalf("seed %d: a page is not in order", seed)
			}
			if came = append(came, page.Records...); page.Next == "" {
				break
			}
			if len(page.Records) > q.Limit {
				t.Fatalf("seed %d: %d records on a page of %d", seed, len(page.Records), q.Limit)
			}
			q.Cursor = page.Next
			logs[random.IntN(len(logs))].add(1000)
		}
		for r := range want {
			if !seen[r] {
				t.Fatalf("seed %d: %s did not come", seed, r)
			}
		}
		if !fails && (len(came) != len(want) || !slices.IsSortedFunc(came, func(a, b audit.NodeRecord) int { return b.Time.Compare(a.Time) })) {
			t.Fatalf("seed %d: %d records came of %d, or in another order", seed, len(came), len(want))
		}
	}
}

// TestNodeFails: a node that hangs, fails or answers what cannot be right is named, and the
// page is that of the others, within its time.
func TestNodeFails(t *testing.T) {
	long := &audit.Record{Seq: 1, Time: noon, Kind: audit.KindAdmin, Detail: strings.Repeat("x", audit.MaxLine)}
	record := func(seq int64, second int) *audit.Record {
		return &audit.Record{Seq: seq, Time: noon.Add(time.Duration(second) * time.Second), Kind: audit.KindAdmin}
	}
	many := make([]*audit.Record, 100_000)
	for i := range many {
		many[i] = record(int64(len(many)-i), 5)
	}
	answers := func(next string, records ...*audit.Record) func(context.Context, audit.Query) ([]*audit.Record, string, error) {
		return func(context.Context, audit.Query) ([]*audit.Record, string, error) { return records, next, nil }
	}
	for name, tt := range map[string]struct {
		search func(ctx context.Context, q audit.Query) ([]*audit.Record, string, error)
		code   fault.Code
	}{
		"hangs": {func(ctx context.Context, _ audit.Query) ([]*audit.Record, string, error) {
			<-ctx.Done()
			return nil, "", ctx.Err()
		}, fault.AuditTimeout},
		"hangs, whatever its context says": {func(context.Context, audit.Query) ([]*audit.Record, string, error) {
			time.Sleep(time.Hour)
			return nil, "", nil
		}, fault.AuditTimeout},
		"fails": {func(context.Context, audit.Query) ([]*audit.Record, string, error) {
			return nil, "", fault.Errorf(fault.Locked, "it is locked")
		}, fault.Locked},
		"huge":                  {answers("", many...), fault.AuditPeer},
		"a huge record":         {answers("", long), fault.AuditPeer},
		"rising numbers":        {answers("", record(1, 1), record(2, 2)), fault.AuditPeer},
		"a number twice":        {answers("", record(2, 1), record(2, 1)), fault.AuditPeer},
		"of another time":       {answers("", record(2, -1)), fault.AuditPeer},
		"of another kind":       {answers("", &audit.Record{Seq: 2, Time: noon, Kind: audit.KindXKS}), fault.AuditPeer},
		"of no kind":            {answers("", &audit.Record{Seq: 2, Time: noon}), fault.AuditPeer},
		"no number":             {answers("", record(-1, 1)), fault.AuditPeer},
		"nothing for a record":  {answers("", nil), fault.AuditPeer},
		"nothing, and there is": {answers("7"), fault.AuditPeer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(2 * time.Hour) // what hangs ends before the bubble does
				a, c := &memory{name: "a"}, &memory{name: "c"}
				a.add(1)
				c.add(2)
				nodes := []audit.Node{a.node(), {Name: "b", Search: tt.search}, c.node()}
				began := time.Now()
				page, err := audit.SearchNodes(t.Context(), nodes, audit.Query{Kind: audit.KindAdmin, From: noon}, 3*time.Second)
				if err != nil || len(page.Failed) != 1 || page.Failed[0].Node != "b" || fault.CodeOf(page.Failed[0].Err) != tt.code || page.Next != "" {
					t.Fatalf("%v: %+v", err, page)
				}
				if got := strings.Join(told(page.Records), ", "); got != "c 0, a 0" {
					t.Errorf("it gives %s", got)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it took %s", took)
				}
				// Alone, it is not a search that finds nothing.
				if _, err := audit.SearchNodes(t.Context(), nodes[1:2], audit.Query{Kind: audit.KindAdmin, From: noon}, 3*time.Second); fault.CodeOf(err) != tt.code {
					t.Errorf("alone: %v", err)
				}
			})
		})
	}
}

// TestPastItsPlace: a node that gives again what came already is not believed.
func TestPastItsPlace(t *testing.T) {
	m := &memory{name: "a"}
	for i := range 9 {
		m.add(i)
	}
	page, err := audit.SearchNodes(t.Context(), nodesOf([]*memory{m}), audit.Query{Limit: 4}, 0)
	if err != nil {
		t.Fatal(err)
	}
	again := audit.Node{Name: "a", Search: func(ctx context.Context, q audit.Query) ([]*audit.Record, string, error) {
		q.Cursor = ""
		return m.search(ctx, q)
	}}
	if _, err := audit.SearchNodes(t.Context(), []audit.Node{again}, audit.Query{Limit: 4, Cursor: page.Next}, 0); fault.CodeOf(err) != fault.AuditPeer {
		t.Errorf("it says %v", err)
	}
}

// TestNodeRecord: in JSON a record has its node, if there is one, and is otherwise as it is.
func TestNodeRecord(t *testing.T) {
	r := &audit.Record{Seq: 7, Time: noon, Kind: audit.KindAdmin, Before: json.RawMessage(`{"a":1}`), Policies: []string{"p"}}
	for _, node := range []string{"", "node-a"} {
		text, err := json.Marshal([]audit.NodeRecord{{Node: node, Record: r}})
		if err != nil {
			t.Fatal(err)
		}
		line, err := r.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "[" + string(line) + "]"
		if node != "" {
			want = `[{"node":"node-a",` + string(line[1:]) + "]"
		}
		if string(text) != want {
			t.Errorf("it is %s", text)
		}
		var back []audit.NodeRecord
		if err := json.Unmarshal(text, &back); err != nil || back[0].Node != node || back[0].Seq != 7 || string(back[0].Before) != `{"a":1}` || !back[0].Time.Equal(noon) {
			t.Errorf("%v: it is read as %+v", err, back)
		}
	}
}

// TestExportNodes: lines of several logs, by time, each with its node; an error of one ends
// the export.
func TestExportNodes(t *testing.T) {
	lines := func(m *memory, end error) audit.NodeLines {
		return audit.NodeLines{Name: m.name, Lines: iter.Seq2[[]byte, error](func(yield func([]byte, error) bool) {
			var line []byte
			for _, r := range slices.Backward(m.records) {
				line = r.AppendLine(line[:0], r.Seq, r.Time)
				if !yield(line, nil) {
					return
				}
			}
			if end != nil {
				yield(nil, end)
			}
		})}
	}
	a, b := &memory{name: "a"}, &memory{name: "b"}
	for _, s := range []int{1, 4, 9} {
		a.add(s)
	}
	for _, s := range []int{2, 8} {
		b.add(s)
	}
	var out bytes.Buffer
	if err := audit.ExportNodes([]audit.NodeLines{lines(b, nil), lines(a, nil)}, &out, "jsonl"); err != nil {
		t.Fatal(err)
	}
	var records []audit.NodeRecord
	for line := range bytes.Lines(out.Bytes()) {
		var r audit.NodeRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	if got := strings.Join(told(records), ", "); got != "a 2, b 1, a 1, b 0, a 0" {
		t.Errorf("it gives %s", got)
	}
	out.Reset()
	if err := audit.ExportNodes([]audit.NodeLines{lines(b, nil), lines(a, nil)}, &out, "csv"); err != nil || !strings.HasPrefix(out.String(), "node,seq,time,") || !strings.Contains(out.String(), "\nb,1,2026-11-27T12:00:08.000000Z,admin,") {
		t.Errorf("%v: %s", err, &out)
	}
	for _, nodes := range [][]audit.NodeLines{{lines(b, errAway), lines(a, nil)}, {lines(b, nil), lines(a, errAway)}, {lines(&memory{name: "c"}, errAway)}} {
		if err := audit.ExportNodes(nodes, &out, "jsonl"); !errors.Is(err, errAway) {
			t.Errorf("it says %v", err)
		}
	}
	if err := audit.ExportNodes(nil, &out, "xml"); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("another format: %v", err)
	}
}

// TestShortPage: a node may give fewer records than were asked for and say that there are
// more. Then the page ends there: what it has next may be newer than what others have.
func TestShortPage(t *testing.T) {
	a, b := &memory{name: "a"}, &memory{name: "b"}
	for _, s := range []int{4, 5, 6} {
		a.add(s)
	}
	for _, s := range []int{1, 2, 3} {
		b.add(s)
	}
	nodes := nodesOf([]*memory{a, b})
	whole := nodes[0].Search
	nodes[0].Search = func(ctx context.Context, q audit.Query) ([]*audit.Record, string, error) {
		q.Limit = 1
		return whole(ctx, q)
	}
	var all []string
	for q := (audit.Query{}); ; {
		page, err := audit.SearchNodes(t.Context(), nodes, q, 0)
		if err != nil || page.Failed != nil || len(page.Records) == 0 {
			t.Fatalf("%v: %+v", err, page)
		}
		all = append(all, told(page.Records)...)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if got, want := strings.Join(all, ", "), "a 2, a 1, a 0, b 2, b 1, b 0"; got != want {
		t.Errorf("it gives %s\nwant     %s", got, want)
	}
}
