package fleet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/appliance/quota"
	web "holdfast/web/fleet"
	"holdfast/web/operation"
)

var _ quota.Peers = (*web.Quotas)(nil)

// members are rows that change.
type members struct {
	mu     sync.Mutex
	number uint64
	nodes  []appliance.Node
}

func (m *members) Roll() (appliance.Position, []appliance.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return appliance.Position{Number: m.number, Digest: "d"}, m.nodes
}
func (*members) Passed(appliance.Position) (passed, known bool) { return true, true }
func (*members) CatchUp()                                       {}

// change changes the rows of all nodes.
func (m *members) change(f func([]appliance.Node) []appliance.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	m.nodes = f(slices.Clone(m.nodes))
}

// machine is a node with an audit log, on HTTPS.
type machine struct {
	id, address string
	rows        *members
	audit       *recorder.Recorder
	seat        *fleet.Seat
	calls       *fleet.Calls
	logs        *web.Logs
	quotas      *web.Quotas
	server      *httptest.Server
	wire        *wire
	suspended   atomic.Int64
	lent        atomic.Int64
}

// wire is a transport that tells what it carries, and that may change answers.
type wire struct {
	fleet.Transport
	mu     sync.Mutex
	sent   [][]byte
	change func(answer []byte) []byte
}

func (w *wire) Call(ctx context.Context, address string, message []byte) ([]byte, error) {
	answer, err := w.Transport.Call(ctx, address, message)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, bytes.Clone(message))
	if w.change != nil && err == nil {
		answer = w.change(answer)
	}
	return answer, err
}

// last is the last question that was sent.
func (w *wire) last() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[len(w.sent)-1]
}

// newMachine makes a node that is not in the fleet yet.
func newMachine(t *testing.T, id string) *machine {
	m := &machine{id: id, seat: &fleet.Seat{}}
	log := slog.New(slog.DiscardHandler)
	m.audit = recorder.New(recorder.Options{Dir: filepath.Join(t.TempDir(), "audit"), LogID: func() (string, error) { return id, nil }, Log: log})
	t.Cleanup(m.audit.Close)
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		err = m.audit.Open(signer)
	}
	if err != nil {
		t.Fatal(err)
	}
	asker := web.NewAsker()
	t.Cleanup(asker.Close)
	m.wire = &wire{Transport: asker}
	m.calls = fleet.NewCalls(m.seat, m.wire, log)
	m.logs, m.quotas = web.NewLogs(m.calls, m.audit, log), web.NewQuotas(m.calls)
	m.quotas.Lend(func(keyStore string, want int) int {
		if keyStore != "ks" {
			return 0
		}
		m.lent.Add(1)
		return want / 2
	})
	m.server = httptest.NewTLSServer(&web.Handler{Log: log, Calls: m.calls, Node: func() web.Node {
		if n := m.seat.Node(); n != nil {
			return n
		}
		return nil
	}})
	t.Cleanup(m.server.Close)
	m.address = strings.TrimPrefix(m.server.URL, "https://")
	return m
}

// sit has it take its seat, with a key.
func (m *machine) sit(t *testing.T, rows *members, k key) {
	t.Helper()
	client := web.NewClient()
	m.rows = rows
	n := fleet.New(fleet.Options{ID: m.id, Address: m.address, Installation: "i", Key: k, Rows: rows, Transport: client, Grace: time.Minute, Beat: 100 * time.Millisecond,
		BootTime: func() time.Duration { return fleet.BootTime() + time.Duration(m.suspended.Load()) }})
	m.seat.Take(n, nil)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done; client.Close() })
}

// newFleet makes a fleet in which all hear each other.
func newFleet(t *testing.T, ids ...string) (all []*machine) {
	t.Helper()
	rows := &members{number: 1}
	for _, id := range ids {
		m := newMachine(t, id)
		all = append(all, m)
		rows.nodes = append(rows.nodes, appliance.Node{ID: id, Address: m.address, State: appliance.NodeServing})
	}
	for _, m := range all {
		m.sit(t, rows, "one")
	}
	for _, m := range all {
		m.hears(t, len(ids)-1)
	}
	return all
}

// hears waits until it hears so many.
func (m *machine) hears(t *testing.T, others int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(m.seat.Node().Others(true)) != others; {
		if time.Now().After(deadline) {
			t.Fatalf("%s hears %v", m.id, m.seat.Node().Others(true))
		}
		<-time.After(5 * time.Millisecond)
	}
}

// acts has its log record that many operations.
func (m *machine) acts(t *testing.T, times int, detail string) {
	t.Helper()
	for i := range times {
		if err := m.audit.Record(t.Context(), &audit.Record{Kind: audit.KindAdmin, Operation: fmt.Sprintf("of %s %d", m.id, i), Detail: detail, After: []byte(`{"a": "<é>"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.audit.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

// operations gives those of a kind in its log, the oldest first.
func (m *machine) operations(t *testing.T, kind audit.Kind) (list []string) {
	t.Helper()
	records, _, err := m.audit.Search(t.Context(), audit.Query{Kind: kind, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range slices.Backward(records) {
		name := r.Operation
		if id := audit.NamedLog(r); id != "" {
			name += " " + id
		}
		list = append(list, name)
	}
	return list
}

// peer gives another's log as this one has it.
func (m *machine) peer(t *testing.T, id string) interface {
	operation.AuditPeer
	recorder.Peer
} {
	t.Helper()
	for _, p := range m.logs.Peers() {
		if p.Node() == id {
			return p.(interface {
				operation.AuditPeer
				recorder.Peer
			})
		}
	}
	t.Fatalf("%s does not know %s", m.id, id)
	return nil
}

// TestLogsOfOthers: a node searches the logs of the others, proves their records and
// countersigns their heads, as the log itself gives them.
func TestLogsOfOthers(t *testing.T) {
	all := newFleet(t, "node-a", "node-b", "node-c")
	a := all[0]
	for _, m := range all {
		m.acts(t, 3, "")
	}
	if len(a.logs.Peers()) != 2 || a.logs.Node() != a.id {
		t.Fatalf("%s has the peers %v", a.logs.Node(), a.logs.Peers())
	}
	for _, m := range all[1:] {
		p := a.peer(t, m.id)
		q := audit.Query{Kind: audit.KindAdmin, Limit: 2}
		got, next, err := p.Search(t.Context(), q)
		want, wantNext, _ := m.audit.Search(t.Context(), q)
		if err != nil || next != wantNext || len(got) != len(want) {
			t.Fatalf("%v: %d records and %q", err, len(got), next)
		}
		for i := range got {
			one, _ := got[i].AppendJSON(nil)
			other, _ := want[i].AppendJSON(nil)
			if string(one) != string(other) {
				t.Errorf("%s\nis not %s", one, other)
			}
		}
		proof, err := p.Proof(t.Context(), 1)
		if want, _ := m.audit.Proof(t.Context(), 1); err != nil || string(proof) != string(want) {
			t.Errorf("%v: %s", err, proof)
		}
		if _, err := p.Proof(t.Context(), 1000); fault.CodeOf(err) != fault.NotFound || !strings.Contains(err.Error(), m.id) {
			t.Errorf("no such record: %v", err)
		}
		if _, _, err := p.Search(t.Context(), audit.Query{Limit: 1001}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("a large page: %v", err)
		}
	}
	a.logs.Countersign(t.Context())
	for _, m := range all {
		m.acts(t, 2, "")
	}
	a.logs.Countersign(t.Context())
	a.logs.Countersign(t.Context()) // heads that are known
	got := a.operations(t, audit.KindFleet)
	slices.Sort(got)
	if want := "CountersignHead node-b, CountersignHead node-b, CountersignHead node-c, CountersignHead node-c"; strings.Join(got, ", ") != want {
		t.Errorf("on record: %v", got)
	}
}

// TestSilentLogs: a node that does not answer, and one that is locked, is named and not
// passed over; so are all others while this node is locked.
func TestSilentLogs(t *testing.T) {
	all := newFleet(t, "node-a", "node-b", "node-c")
	a := all[0]
	all[1].server.Close()
	all[2].seat.Leave()
	for id, want := range map[string]fault.Code{"node-b": fault.Unreachable, "node-c": fault.Locked} {
		if _, _, err := a.peer(t, id).Search(t.Context(), audit.Query{}); fault.CodeOf(err) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	a.seat.Leave()
	if len(a.logs.Peers()) != 2 {
		t.Errorf("locked, it knows %v", a.logs.Peers())
	}
	if _, _, err := a.peer(t, "node-b").Search(t.Context(), audit.Query{}); fault.CodeOf(err) != fault.FleetJoining {
		t.Errorf("locked: %v", err)
	}
	a.logs.Countersign(t.Context())
	a.logs.RecordMembers(t.Context())
	if got := a.operations(t, audit.KindFleet); got != nil {
		t.Errorf("on record: %v", got)
	}
}

// TestLargePage: records that do not fit into an answer come with the next pages.
func TestLargePage(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	const records = 90
	all[1].acts(t, records, strings.Repeat("x", 60<<10))
	q, seen, pages := audit.Query{Kind: audit.KindAdmin, Limit: 1000}, 0, 0
	for ; ; pages++ {
		list, next, err := all[0].peer(t, "node-b").Search(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(list)
		if q.Cursor = next; next == "" {
			break
		}
	}
	if seen != records || pages == 0 {
		t.Errorf("%d records on %d pages", seen, pages+1)
	}
}

// TestMembersAreRecorded: who joins, is drained, takes requests again and leaves is on
// record once, in the log of each.
func TestMembersAreRecorded(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	a := all[0]
	step := func(want string, f func([]appliance.Node) []appliance.Node) {
		t.Helper()
		before := len(a.operations(t, audit.KindFleet))
		a.rows.change(f)
		for range 3 {
			a.logs.RecordMembers(t.Context())
		}
		if got := strings.Join(a.operations(t, audit.KindFleet)[before:], ", "); got != want {
			t.Errorf("on record: %q, want %q", got, want)
		}
	}
	set := func(i int, s appliance.NodeState) func([]appliance.Node) []appliance.Node {
		return func(n []appliance.Node) []appliance.Node { n[i].State = s; return n }
	}
	step("NodeJoined node-a, NodeJoined node-b", set(1, appliance.NodeServing))
	step("NodeDrained node-b", set(1, appliance.NodeDrained))
	step("NodeResumed node-b", set(1, appliance.NodeServing))
	step("", func(n []appliance.Node) []appliance.Node {
		return append(n, appliance.Node{ID: "node-c", State: appliance.NodeJoining})
	})
	step("NodeJoined node-c", set(2, appliance.NodeServing))
	step("", set(2, appliance.NodeLeaving))
	step("NodeLeft node-c", func(n []appliance.Node) []appliance.Node { return n[:2] })
	step("", func(n []appliance.Node) []appliance.Node { return n[1:] }) // rows that do not have this node say nothing
	if s := a.audit.Status(); len(s.Peers) != 1 || s.Peers[0].LogID != "node-b" {
		t.Errorf("it knows the logs %+v", s.Peers)
	}
}

// TestQuotas: a node lends another, once for each question, and waits for none.
func TestQuotas(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	a, b := all[0], all[1]
	if got := a.quotas.Others(); !slices.Equal(got, []string{"node-b"}) {
		t.Errorf("the others are %v", got)
	}
	ask := func(peer, keyStore string, want int) int {
		answered := make(chan int, 2)
		a.quotas.Ask(peer, keyStore, want, func(lent int) { answered <- lent })
		select {
		case lent := <-answered:
			return lent
		case <-time.After(300 * time.Millisecond):
			return -1
		}
	}
	for lent := -1; lent != 5; { // a busy machine may be late
		if lent = ask("node-b", "ks", 10); lent != 5 && lent != -1 {
			t.Fatalf("it lends %d", lent)
		}
	}
	if lent := ask("node-b", "unknown", 10); lent > 0 {
		t.Errorf("of a key store that is unknown it lends %d", lent)
	}
	lent := b.lent.Load()
	for name, got := range map[string]int{"no node": ask("node-x", "ks", 1), "nothing": ask("node-b", "ks", 0), "less": ask("node-b", "ks", -5)} {
		if got > 0 {
			t.Errorf("%s: %d", name, got)
		}
	}
	if b.lent.Load() != lent {
		t.Error("what cannot be asked for was lent")
	}
	b.server.Close()
	ran, answered := appliancetest.Running(t), make(chan int, 10000)
	for range 10000 {
		a.quotas.Ask("node-b", "ks", 10, func(lent int) { answered <- lent })
	}
	if took := ran(); took > 5*time.Second || len(answered) > 0 {
		t.Errorf("10,000 questions took %s, %d answers came", took, len(answered))
	}
}

// post sends a message as it is.
func post(t *testing.T, to *machine, path, mediaType string, message []byte) (answer []byte, code fault.Code) {
	t.Helper()
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, to.server.URL+path, bytes.NewReader(message))
	r.Header.Set("Content-Type", mediaType)
	w, err := to.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if w.StatusCode == http.StatusOK {
		var b bytes.Buffer
		_, _ = b.ReadFrom(w.Body)
		return b.Bytes(), ""
	}
	why, err := operation.ReadProblem(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return nil, why.Code
}

// lend has a ask b for a loan, and gives the question as it travelled.
func lend(t *testing.T, a *machine) []byte {
	t.Helper()
	if _, err := a.calls.Ask(t.Context(), "node-b", "quota", []byte(`{"key_store":"ks","want":10}`)); err != nil {
		t.Fatal(err)
	}
	return a.wire.last()
}

// TestReplay: a question that is sent again does nothing, at once, later and after any time.
func TestReplay(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	a, b := all[0], all[1]
	question := lend(t, a)
	for _, later := range []time.Duration{0, 30 * time.Second, 50 * time.Second, time.Minute, time.Minute, time.Hour} {
		b.suspended.Add(int64(later))
		before := b.lent.Load()
		answer, code := post(t, b, web.AskPath, "x", question)
		if b.lent.Load() != before || code == "" && !bytes.Contains(answer, []byte(`"stale":true`)) || code != "" && code != fault.FleetMessage {
			t.Errorf("after %s: %s %s, %d loans", later, answer, code, b.lent.Load()-before)
		}
		lend(t, a) // and a new one is answered, whatever epoch it is
		if b.lent.Load() != before+1 {
			t.Errorf("after %s: %d loans for one question", later, b.lent.Load()-before)
		}
	}
}

// TestHostileQuestions: only a question of a member, for this node, as it was made, is
// answered.
func TestHostileQuestions(t *testing.T) {
	all := newFleet(t, "node-a", "node-b", "node-c")
	a, b, c := all[0], all[1], all[2]
	question := lend(t, a)
	foreign := newMachine(t, "node-a") // it has the rows, and another key
	foreign.sit(t, b.rows, "two")
	_, err := foreign.calls.Ask(t.Context(), "node-b", "quota", []byte(`{"key_store":"ks","want":10}`))
	if fault.CodeOf(err) != fault.FleetMessage {
		t.Errorf("of another installation: %v", err)
	}
	stranger := newMachine(t, "node-x") // it has the key, and is not in the rows of b
	stranger.sit(t, &members{number: 1, nodes: []appliance.Node{{ID: "node-b", Address: b.address, State: appliance.NodeServing}}}, "one")
	if _, err := stranger.calls.Ask(t.Context(), "node-b", "quota", []byte(`{"key_store":"ks","want":10}`)); fault.CodeOf(err) != fault.FleetMessage {
		t.Errorf("of a node that is not in the fleet: %v", err)
	}
	changed := func(from, to string) []byte {
		if !bytes.Contains(question, []byte(from)) {
			t.Fatalf("the question has no %s", from)
		}
		return bytes.Replace(question, []byte(from), []byte(to), 1)
	}
	before := b.lent.Load()
	for name, try := range map[string]struct {
		to      *machine
		path    string
		message []byte
		want    fault.Code
	}{
		"for another node":       {c, web.AskPath, question, fault.FleetMessage},
		"to its own node":        {a, web.AskPath, question, fault.FleetMessage},
		"another kind":           {b, web.AskPath, changed(`"kind":"quota"`, `"kind":"audit"`), fault.FleetMessage},
		"another sender":         {b, web.AskPath, changed(`"from":"node-a"`, `"from":"node-c"`), fault.FleetMessage},
		"another nonce":          {b, web.AskPath, changed(`"nonce":"`, `"nonce":"0`), fault.FleetMessage},
		"another body":           {b, web.AskPath, changed(`"want":10`, `"want":99`), fault.FleetMessage},
		"less of it":             {b, web.AskPath, question[:len(question)-1], fault.FleetMessage},
		"a MAC alone":            {b, web.AskPath, question[:32], fault.FleetMessage},
		"nothing":                {b, web.AskPath, nil, fault.FleetMessage},
		"huge":                   {b, web.AskPath, make([]byte, fleet.MaxQuestion+1), fault.TooLarge},
		"as a heartbeat":         {b, web.Path, question, fault.FleetMessage},
		"a heartbeat as another": {b, web.AskPath, []byte(`{"body":"e30=","mac":"AAAA"}`), fault.FleetMessage},
		"at another path":        {b, "/fleet/v1/other", question, fault.NotFound},
	} {
		if _, code := post(t, try.to, try.path, "x", try.message); code != try.want {
			t.Errorf("%s: %q", name, code)
		}
	}
	a.rows.change(func(n []appliance.Node) []appliance.Node { n[0].State = appliance.NodeLeaving; return n })
	if _, err := a.calls.Ask(t.Context(), "node-b", "quota", []byte(`{"key_store":"ks","want":10}`)); fault.CodeOf(err) != fault.FleetMessage {
		t.Errorf("of a node that was removed: %v", err)
	}
	if b.lent.Load() != before {
		t.Error("something was lent")
	}
	if _, err := c.calls.Ask(t.Context(), "node-b", "news", nil); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a kind that is unknown: %v", err)
	}
	if _, err := c.calls.Ask(t.Context(), "node-b", "audit search", []byte(`{"Colour":"red"}`)); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a term that is unknown: %v", err)
	}
	if _, err := c.calls.Ask(t.Context(), "node-b", "quota", make([]byte, fleet.MaxQuestion)); fault.CodeOf(err) != fault.TooLarge {
		t.Errorf("a huge question: %v", err)
	}
}

// TestHostileAnswers: an answer counts only as it was made, for this question.
func TestHostileAnswers(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	a := all[0]
	lend(t, a)
	var earlier []byte
	a.wire.change = func(answer []byte) []byte { earlier = bytes.Clone(answer); return answer }
	lend(t, a)
	for name, change := range map[string]func([]byte) []byte{
		"an earlier one":  func([]byte) []byte { return earlier },
		"the question":    func([]byte) []byte { return a.wire.sent[len(a.wire.sent)-1] },
		"another body":    func(b []byte) []byte { b[len(b)-1] = '9'; return b },
		"nothing":         func([]byte) []byte { return nil },
		"no MAC":          func(b []byte) []byte { return append(make([]byte, 32), b[32:]...) },
		"less of it":      func(b []byte) []byte { return b[:len(b)-1] },
		"more than it is": func(b []byte) []byte { return append(b, '0') },
	} {
		a.wire.mu.Lock()
		a.wire.change = change
		a.wire.mu.Unlock()
		if _, err := a.calls.Ask(t.Context(), "node-b", "quota", []byte(`{"key_store":"ks","want":10}`)); fault.CodeOf(err) != fault.FleetMessage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSlowNode: a node that does not answer is waited for as long as the context lasts, and
// heartbeats go on.
func TestSlowNode(t *testing.T) {
	all := newFleet(t, "node-a", "node-b")
	a, b := all[0], all[1]
	held := make(chan struct{})
	b.calls.On("slow", 1, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		held <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := a.calls.Ask(ctx, "node-b", "slow", nil); done <- err }()
	<-held
	if _, err := a.calls.Ask(t.Context(), "node-b", "slow", nil); fault.CodeOf(err) != fault.Throttled {
		t.Errorf("a second one: %v", err)
	}
	a.hears(t, 1)
	lend(t, a) // another kind does not wait
	cancel()
	if err := <-done; fault.CodeOf(err) != fault.Unreachable {
		t.Error(err)
	}
}

// TestLyingNode: what a member answers is not believed where it cannot be right.
func TestLyingNode(t *testing.T) {
	all := newFleet(t, "node-a", "node-b", "node-c")
	a, b := all[0], all[1]
	b.acts(t, 2, "")
	a.logs.Countersign(t.Context())
	all[2].acts(t, 5, "")
	record, _ := (&audit.Record{Seq: 1, Time: time.Now(), Kind: audit.KindAdmin}).AppendJSON(nil)
	other, err := all[2].audit.SignedHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := json.Marshal(other)
	p := a.peer(t, "node-b")
	search := func() error { _, _, err := p.Search(t.Context(), audit.Query{Limit: 1}); return err }
	proof := func() error { _, err := p.Proof(t.Context(), 1); return err }
	consistency := func() error { _, err := p.Consistency(t.Context(), 1, 2); return err }
	countersign := func() error { return a.audit.Countersign(t.Context(), "node-b", p) }
	for name, try := range map[string]struct {
		kind, answer string
		do           func() error
		want         fault.Code
	}{
		"no page":               {"audit search", "x", search, fault.AuditPeer},
		"no records":            {"audit search", "{}\nx\n", search, fault.AuditPeer},
		"too many records":      {"audit search", "{}\n" + string(record) + "\n" + string(record) + "\n", search, fault.AuditPeer},
		"a long cursor":         {"audit search", `{"next":"` + strings.Repeat("1", 100) + `"}`, search, fault.AuditPeer},
		"no proof":              {"audit proof", "x", proof, fault.AuditPeer},
		"no hashes":             {"audit consistency", "x", consistency, fault.AuditPeer},
		"too many hashes":       {"audit consistency", "[" + strings.TrimSuffix(strings.Repeat(`"`+strings.Repeat("A", 43)+`=",`, 129), ",") + "]", consistency, fault.AuditPeer},
		"no head":               {"audit head", "null", countersign, fault.AuditPeer},
		"what is no head":       {"audit head", "x", countersign, fault.AuditPeer},
		"a head that is long":   {"audit head", `{"checkpoint":"` + strings.Repeat("x", audit.MaxNote+1) + `"}`, countersign, fault.AuditPeer},
		"the head of another":   {"audit head", string(foreign), countersign, fault.AuditLogID},
		"more than there may":   {"audit proof", strings.Repeat(" ", fleet.MaxAnswerBody+1), proof, fault.TooLarge},
		"an error of its own":   {"audit proof", "", proof, fault.Internal},
		"one that is not known": {"audit proof", "", proof, "E_NEW"},
	} {
		b.calls.On(try.kind, 1, func(context.Context, string, []byte) ([]byte, error) {
			if try.answer == "" {
				return nil, fault.Errorf(try.want, "no %s", strings.Repeat("é", 5000))
			}
			return []byte(try.answer), nil
		})
		if err := try.do(); fault.CodeOf(err) != try.want || len(err.Error()) > 5000 {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	for _, lie := range []string{"11", "-1", `"x"`, "1e99"} {
		b.calls.On("quota", 1, func(context.Context, string, []byte) ([]byte, error) { return []byte(lie), nil })
		answered := make(chan int, 1)
		a.quotas.Ask("node-b", "ks", 10, func(lent int) { answered <- lent })
		select {
		case lent := <-answered:
			t.Errorf("%s: it takes %d", lie, lent)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Written implements [fleet.Rows].
func (m *members) Written() uint64 { at, _ := m.Roll(); return at.Number }
