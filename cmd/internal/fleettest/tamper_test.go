//go:build fleet

package fleettest_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/fleettest"
	"holdfast/cmd/internal/kmsload"
)

// matrix is a fleet whose database is tampered with, case after case.
type matrix struct {
	*superuser
	decisions []decision
	blocked   bool // whether the key that is changed is blocked
	results   []result
}

// result is what came of a tampering.
type result struct {
	*tampering
	is       outcome
	after    time.Duration
	codes    []string
	recovery time.Duration
}

// foundWithin is how soon it must be told what has an effect.
const foundWithin = 5 * time.Second

// coded are lines of a node's log that tell a fault of the database, and telling the codes.
var (
	coded   = regexp.MustCompile(`(?m)level=(?:ERROR|WARN) .*\b(E_(?:FLEET|DATABASE|STATE)_[A-Z_]+)`)
	telling = regexp.MustCompile(`^E_(?:FLEET|DATABASE|STATE)_`)
)

// complaint is a line that tells people something.
var complaint = regexp.MustCompile(`(?m)^.*level=(?:ERROR|WARN) msg="?[a-z].*$`)

// TestTampered: whatever a superuser does to the tables of the log with psql while three
// nodes serve, no request has another outcome than what was decided; and what he did is told
// by a node within five seconds, or a change is made and in effect as if nothing had been.
// With the database put back, the nodes go on by themselves.
func TestTampered(t *testing.T) {
	f := start(t, fleettest.Options{})
	m := &matrix{decisions: decide(t, f)}
	m.superuser = newSuperuser(t, f)
	for _, table := range m.tables {
		if places[table] == "" {
			t.Errorf("the table %s is new: say in places what it is to nodes that run", table)
		}
	}
	load := f.LightLoad("tampered", cached, inHSM)
	// What is put back later is old by then.
	for range 4 {
		if err := m.toggle(f.Nodes[0]); err != nil {
			t.Fatal(err)
		}
	}
	for i, x := range tamperings(m.columns(), m.rows) {
		m.try(t, x, f.Nodes[i%len(f.Nodes)])
	}
	m.print(t)
	if r := load.Done("a database that is tampered with"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// print shows which kinds had which outcome.
func (m *matrix) print(t *testing.T) {
	var text strings.Builder
	of := map[outcome]int{}
	for _, r := range m.results {
		of[r.is]++
		fmt.Fprintf(&text, "%-50s %-15s %8v, recovered in %8v %v\n", r.name(), r.is, r.after.Round(time.Millisecond), r.recovery.Round(time.Millisecond), r.codes)
	}
	t.Logf("%d cases: %v\n%s", len(m.results), of, text.String())
}

// toggle has a node block the key, or take that back.
func (m *matrix) toggle(n *fleettest.Node) error {
	do := n.TryBlock
	if m.blocked {
		do = n.TryUnblock
	}
	err := do(other)
	if err == nil {
		m.blocked = !m.blocked
	}
	return err
}

// inEffect says whether all nodes have the same state, and act by it.
func (m *matrix) inEffect() error {
	if err := samePosition(m.f); err != nil {
		return err
	}
	now := decision{name: "the key that is changed", ask: func(n *fleettest.Node) (*kmsload.Answer, error) { return n.Ask(other) }}
	if m.blocked {
		now.refusal = blocked
	}
	for _, n := range m.f.Nodes {
		if err := now.check(n); err != nil {
			return err
		}
	}
	return nil
}

// whole says that too, and that all nodes show the same rows, and decide as before.
func (m *matrix) whole() error {
	if err := m.inEffect(); err != nil {
		return err
	}
	if err := sameRows(m.f); err != nil {
		return err
	}
	return m.asDecided(true)
}

// asDecided looks that no node decides otherwise. With all, each one must decide.
func (m *matrix) asDecided(all bool) error {
	for _, n := range m.f.Nodes {
		for _, d := range m.decisions {
			if err := d.check(n); err != nil && (all || !errors.Is(err, errUnanswered)) {
				return err
			}
		}
	}
	return nil
}

// logs is how long the log of each node is.
func (m *matrix) logs() (all []int) {
	for _, n := range m.f.Nodes {
		all = append(all, n.Server.Log.Len())
	}
	return all
}

// told gives the codes that nodes have told since, with that of an error that a command got.
func (m *matrix) told(since []int, refused fault.Code) (codes []string) {
	if code := string(refused); telling.MatchString(code) {
		codes = append(codes, code)
	}
	for i, n := range m.f.Nodes {
		for _, found := range coded.FindAllStringSubmatch(n.Server.Log.From(since[i]), -1) {
			if !slices.Contains(codes, found[1]) {
				codes = append(codes, found[1])
			}
		}
	}
	slices.Sort(codes)
	return codes
}

// quietFor is longer than a node takes to tell what a statement met that was under way when the
// database was put back.
const quietFor = 500 * time.Millisecond

// quiet waits until no node tells anything more of the case before.
func (m *matrix) quiet(t *testing.T) {
	t.Helper()
	for began := time.Now(); time.Since(began) < fleettest.Patience; {
		since := m.logs()
		time.Sleep(quietFor)
		if len(m.told(since, "")) == 0 {
			return
		}
	}
	t.Fatalf("with the database put back, the nodes do not become quiet within %v", fleettest.Patience)
}

// try does one thing, and looks what comes of it.
func (m *matrix) try(t *testing.T, x *tampering, at *fleettest.Node) {
	t.Helper()
	if x.expect == told {
		m.quiet(t)
	}
	m.keep()
	since, began := m.logs(), time.Now()
	m.psql(x.statements())
	made := make(chan error, 1)
	go func() { made <- m.toggle(at) }()
	r := m.observe(t, x, since, began, made)
	if r.is != harmless {
		if err := m.asDecided(false); err != nil {
			t.Errorf("%s: %v", x.name(), err)
		}
	}
	m.putBack()
	r.recovery = m.recover(t, x, at, made, since)
	m.results = append(m.results, r)
	switch {
	case r.is == "": // an error already
	case r.is != x.expect:
		t.Errorf("%s: it is %s (%v), and must be %s", x.name(), r.is, r.codes, x.expect)
	case r.is == told && !x.toldBy(r.codes):
		t.Errorf("%s: it is told by %v, and must be by one of %v", x.name(), r.codes, x.codes)
	}
}

// observe waits until what was done is told, or is without effect. Made gives what came of
// a change after it, and is closed with that.
func (m *matrix) observe(t *testing.T, x *tampering, since []int, began time.Time, made chan error) result {
	t.Helper()
	r := result{tampering: x}
	answered, refused := false, fault.Code("")
	why := errors.New("a change is not answered")
	for end := began.Add(foundWithin); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !answered {
			select {
			case why = <-made:
				answered = true
				close(made)
				refused = fault.CodeOf(why)
			default:
			}
		}
		r.after = time.Since(began)
		if answered && why == nil && x.expect == harmless && m.whole() == nil {
			r.is, r.codes = harmless, m.told(since, refused)
			return r
		}
		if r.codes = m.told(since, refused); x.expect == told && x.toldBy(r.codes) {
			r.is = told
			return r
		}
	}
	// It is not as it must be. Which is it?
	if answered && why == nil {
		why = m.whole()
	}
	switch {
	case len(r.codes) > 0:
		r.is = told
	case answered && why == nil:
		r.is = harmless
	default:
		t.Errorf("%s: not told within %v, and with an effect: %v", x.name(), foundWithin, why)
	}
	return r
}

// recover waits until a change is made and in effect again, with the database put back.
func (m *matrix) recover(t *testing.T, x *tampering, at *fleettest.Node, made chan error, since []int) time.Duration {
	t.Helper()
	began := time.Now()
	<-made // or it is closed
	var err error
	for time.Since(began) < fleettest.Patience/2 {
		if err = m.toggle(at); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for err == nil || time.Since(began) < fleettest.Patience/2 {
		if err = m.inEffect(); err == nil {
			return time.Since(began)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for i, n := range m.f.Nodes {
		t.Logf("%s has told:\n%s", n.Name, strings.Join(complaint.FindAllString(n.Server.Log.From(since[i]), 20), "\n"))
	}
	t.Fatalf("%s: with the database put back, the nodes do not go on: %v", x.name(), err)
	return 0
}
