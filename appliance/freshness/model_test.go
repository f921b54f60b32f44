package freshness

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// This is a model of the appliance, its database and the TPM's counter, with an attacker.
// All orders of events are tried, breadth first, up to the bounds of a world.

// set is changes, by bit.
type set uint8

// row is a database: which changes it has, and what its manifest says of the anchor.
type row struct {
	has     set
	early   bool // of before there were manifests
	foreign bool // it names another TPM
	count   uint8
}

func (r row) says() Stated { return Stated{Anchor: names[r.foreign], Count: uint64(r.count)} }

type phase uint8

const (
	stopped   phase = iota
	beginning       // the anchor was made for the first manifest, and nothing is written yet
	committed       // a change is durable, and the anchor is to be raised
	serving
	held
)

// memory is a [Ledger] in three bytes.
type memory struct {
	known, durable uint8
}

func (m memory) ledger() Ledger {
	return Ledger{known: uint64(m.known), durable: uint64(m.durable)}
}

func (m *memory) keep(l Ledger) { *m = memory{uint8(l.known), uint8(l.durable)} }

func (m *memory) know(count uint8) {
	l := m.ledger()
	l.Know(uint64(count))
	m.keep(l)
}

// moment is a state of the model. It is comparable, so that it is visited once.
type moment struct {
	db     row
	copies [3]row // that the attacker has
	kept   uint8

	made        bool
	foreign     bool  // it is another TPM's
	count, ever uint8 // of the counter; the highest that it ever had
	phase       phase
	memory      memory
	change      set  // the one at hand
	opening     bool // the manifest of an opening is at hand: no change of anybody
	again       bool // people have accepted: an opening follows
	must        set  // the newest state that was answered as anchored

	changes, tpm, crashes uint8 // used up so far
}

// rules are those of the product, or a mutant of them.
type rules struct {
	decide      func(Stated, Reading) Verdict
	begin       func(Reading, bool) Verdict
	next        func(*Ledger) uint64
	committed   func(*Ledger, uint64) bool
	anchorFirst bool
	quiet       bool // an opening writes no manifest
}

func product() rules {
	return rules{decide: Decide, begin: Begin, next: (*Ledger).Next, committed: (*Ledger).Committed}
}

// world is what may happen, and how often.
type world struct {
	rules
	changes, copies, tpm, crashes uint8
	remove                        bool // the attacker may remove the counter
	alone                         bool // nobody accepts
	reset                         bool // and, as the last thing, put in a TPM of the same name that has counted nothing
	foreign                       bool // and put in a TPM of another name
	early                         bool // the attacker has a copy of before the first manifest
}

var names = map[bool]string{false: "tpm:1", true: "tpm:2"}

func (w world) reading(m moment) Reading {
	return Reading{Name: names[m.foreign], Count: uint64(m.count), Made: m.made}
}

// step is one event, and what is after it.
type step struct {
	what string
	then moment
}

// first is an installation that was just made, and is anchored.
func (w world) first() moment {
	db := row{count: 3}
	m := moment{db: db, made: true, count: 3, ever: 3}
	if w.early {
		m.copies[0], m.kept = row{early: true}, 1
	}
	return m
}

func (w world) steps(m moment) (list []step) {
	add := func(what string, change func(*moment)) {
		next := m
		change(&next)
		list = append(list, step{what, next})
	}
	w.appliance(m, add)
	w.attacker(m, add)
	return list
}

func (w world) appliance(m moment, add func(string, func(*moment))) {
	if m.phase != stopped && m.crashes < w.crashes {
		add("crash", func(n *moment) { n.stop(); n.crashes++ })
	}
	switch m.phase {
	case stopped:
		add("start", func(n *moment) { w.start(n) })
	case beginning:
		add("first manifest", func(n *moment) { w.commit(n, 0, n.again) })
	case committed:
		if w.anchorFirst {
			add("commit", func(n *moment) { n.db.has |= n.change; n.db.count = n.count; w.answer(n) })
			return
		}
		add("raise", func(n *moment) { w.raise(n) })
		if m.tpm < w.tpm {
			add("raise fails", func(n *moment) { n.tpm++; n.settle() })
		}
	case serving:
		if m.changes < w.changes {
			add("change", func(n *moment) { w.change(n) })
		}
	case held:
		if m.changes < w.changes && !w.alone {
			add("people accept", func(n *moment) { w.accept(n) })
		}
	}
}

func (w world) attacker(m moment, add func(string, func(*moment))) {
	if m.kept < w.copies && !slices.Contains(m.copies[:m.kept], m.db) {
		add("copy", func(n *moment) {
			n.copies[n.kept] = n.db
			n.kept++
			slices.SortFunc(n.copies[:n.kept], func(a, b row) int {
				return cmp.Or(cmp.Compare(a.count, b.count), cmp.Compare(a.has, b.has))
			})
		})
	}
	for _, c := range m.copies[:m.kept] {
		if c == m.db {
			continue
		}
		add(fmt.Sprintf("put back the copy with the changes %b and the count %d", c.has, c.count), func(n *moment) {
			n.db = c
			if n.phase != stopped { // other rows than in memory are found by memory
				n.stop()
				n.phase = held
			}
		})
	}
	if m.tpm == w.tpm {
		return
	}
	if m.made {
		add("count up", func(n *moment) { n.tpm++; n.count++; n.ever = max(n.ever, n.count) })
		if w.remove {
			add("remove the counter", func(n *moment) { n.tpm++; n.made = false })
		}
		if w.reset {
			add("reset the TPM", func(n *moment) { n.tpm, n.count = w.tpm, 0 })
		}
		if w.foreign && !m.foreign && m.phase == stopped {
			add("exchange the TPM", func(n *moment) { n.tpm, n.count, n.foreign = n.tpm+1, 0, true })
		}
		return
	}
	add("define the counter", func(n *moment) { n.tpm++; n.define() })
}

func (m *moment) define() {
	m.made, m.count = true, m.ever+1
	m.ever = m.count
}

// stop forgets what is in memory.
func (m *moment) stop() {
	m.phase, m.memory, m.change, m.opening, m.again = stopped, memory{}, 0, false, false
}

func (w world) start(m *moment) {
	r := w.reading(*m)
	verdict := w.decide(m.db.says(), r)
	if m.db.early {
		verdict = w.begin(r, false)
	}
	m.memory.know(m.count)
	switch {
	case verdict == First:
		m.define()
		m.memory.know(m.count)
		m.phase = beginning
	case verdict == Current && w.quiet:
		m.memory, m.phase = memory{m.count, m.db.count}, serving
		if m.db.count > m.count {
			m.opening, m.phase = true, committed
		}
	case verdict == Current:
		w.commit(m, 0, false)
	default:
		m.phase = held
	}
}

// accept has people accept the state as it is.
func (w world) accept(m *moment) {
	m.memory = memory{}
	if w.begin(w.reading(*m), true) == First {
		m.define()
	}
	m.memory.know(m.count)
	change := set(1) << m.changes
	m.changes++
	m.must &= m.db.has // people do without the rest
	w.commit(m, change, true)
}

func (w world) change(m *moment) {
	change := set(1) << m.changes
	m.changes++
	if w.anchorFirst {
		m.count++
		m.ever = max(m.ever, m.count)
		m.change, m.phase = change, committed
		return
	}
	l := m.memory.ledger()
	if to, behind := l.Missing(); behind && m.made && uint64(m.count) <= to && uint64(m.count)+1 >= to { // the TPM answers again
		m.count, m.ever = uint8(to), max(m.ever, uint8(to))
		m.memory.know(m.count)
	}
	w.commit(m, change, false)
}

// commit writes a manifest: of a change, or of an opening.
func (w world) commit(m *moment, change set, again bool) {
	l := m.memory.ledger()
	count := w.next(&l)
	m.db = row{has: m.db.has | change, foreign: m.foreign, count: uint8(count)}
	shared := w.committed(&l, count)
	m.memory.keep(l)
	m.change, m.opening, m.again, m.phase = change, change == 0, again, committed
	if shared {
		m.settle()
	}
}

// raise counts up once.
func (w world) raise(m *moment) {
	to := m.db.count
	if !m.made || m.count > to || m.count+1 < to {
		m.settle()
		return
	}
	if m.count < to {
		m.count++
		m.ever = max(m.ever, m.count)
	}
	if m.count == to {
		m.memory.know(to)
		w.answer(m)
	}
}

// answer tells that the change is anchored.
func (w world) answer(m *moment) {
	if m.again { // people have accepted; it is told after one more opening
		m.again, m.memory = false, memory{}
		m.memory.know(m.count)
		change := m.change
		w.commit(m, 0, false)
		m.change, m.opening = change, change == 0
		return
	}
	if !m.opening {
		m.must = m.db.has
	}
	m.settle()
}

// settle has it serve; an opening that is not anchored is held.
func (m *moment) settle() {
	if (m.opening || m.again) && m.memory.known < m.db.count {
		m.stop()
		m.phase = held
		return
	}
	m.phase, m.change, m.opening, m.again = serving, 0, false, false
}

// bad says what is wrong with a moment: an older state serves.
func bad(m moment) string {
	if m.phase == serving && m.db.has&m.must != m.must {
		return fmt.Sprintf("the state with the changes %b serves, and %b was answered as anchored", m.db.has, m.must)
	}
	return ""
}

// search visits all moments, and gives the shortest way to one that is wrong.
func (w world) search(wrong func(moment) string) (way []string, visited int) {
	type link struct {
		m    moment
		from int32
	}
	begin := w.first()
	list, seen := []link{{begin, -1}}, map[moment]struct{}{begin: {}}
	for i := 0; i < len(list); i++ {
		m := list[i].m
		if why := wrong(m); why != "" {
			for at := list[i]; at.from >= 0; at = list[at.from] {
				way = append(way, w.between(list[at.from].m, at.m))
			}
			slices.Reverse(way)
			return append(way, why), len(list)
		}
		for _, s := range w.steps(m) {
			if _, ok := seen[s.then]; !ok {
				seen[s.then] = struct{}{}
				list = append(list, link{s.then, int32(i)})
			}
		}
	}
	return nil, len(list)
}

// between names the step from one moment to another.
func (w world) between(m, then moment) string {
	for _, s := range w.steps(m) {
		if s.then == then {
			return s.what
		}
	}
	return "?"
}

func attacked(r rules) world {
	return world{rules: r, changes: 3, copies: 2, tpm: 2, crashes: 2, remove: true}
}

// TestNoOlderStateServes: in no reachable state of the model, with an attacker who keeps
// copies of the database, puts them back, counts the TPM's counter up, removes it, defines
// it again and has it fail, an older state serves than the newest that was answered as
// anchored.
func TestNoOlderStateServes(t *testing.T) {
	way, visited := attacked(product()).search(bad)
	if way != nil {
		t.Fatalf("an older state serves:\n%s", strings.Join(way, "\n"))
	}
	t.Logf("%d states", visited)
}

// TestNoFalseAlarm: without an attacker every start serves, whenever it was stopped.
func TestNoFalseAlarm(t *testing.T) {
	w := world{rules: product(), changes: 4, crashes: 5}
	way, visited := w.search(func(m moment) string {
		if m.phase == held {
			return "it is held"
		}
		return bad(m)
	})
	if way != nil {
		t.Fatalf("a false alarm:\n%s", strings.Join(way, "\n"))
	}
	t.Logf("%d states", visited)
}

// TestTheModelCanFail: each of the rules is needed. Without it the search finds a way to an
// older state that serves, or to a false alarm.
func TestTheModelCanFail(t *testing.T) {
	for what, mutant := range map[string]func(*world){
		"the anchor first, then the commit": func(w *world) { w.anchorFirst, w.tpm, w.copies, w.remove = true, 0, 0, false },
		"one behind is current": func(w *world) {
			w.decide = func(s Stated, r Reading) Verdict {
				if s.Count+1 == r.Count {
					return Current
				}
				return Decide(s, r)
			}
		},
		"equal is older": func(w *world) {
			w.tpm, w.copies = 0, 0
			w.decide = func(s Stated, r Reading) Verdict {
				if s.Count <= r.Count {
					return Older
				}
				return Decide(s, r)
			}
		},
		"ahead by any number is current": func(w *world) {
			w.reset, w.alone = true, true
			w.decide = func(s Stated, r Reading) Verdict {
				if v := Decide(s, r); v != Beyond {
					return v
				}
				return Current
			}
		},
		"a missing anchor is made again": func(w *world) {
			w.decide = func(s Stated, r Reading) Verdict {
				if v := Decide(s, r); v != Gone {
					return v
				}
				return First
			}
		},
		"no name is compared": func(w *world) {
			w.foreign, w.tpm = true, 3
			w.decide = func(s Stated, r Reading) Verdict { r.Name = s.Anchor; return Decide(s, r) }
		},
		"an opening writes no manifest": func(w *world) { w.quiet, w.tpm, w.remove = true, 0, false },
		"changes that share a count are anchored": func(w *world) {
			w.committed = func(l *Ledger, count uint64) bool { l.Committed(count); return false }
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := attacked(product())
			mutant(&w)
			way, visited := w.search(func(m moment) string {
				if why := bad(m); why != "" || w.copies > 0 {
					return why
				}
				if m.phase == held {
					return "a false alarm"
				}
				return ""
			})
			if way == nil {
				t.Fatalf("the search finds nothing in %d states", visited)
			}
			t.Logf("after %d states:\n%s", visited, strings.Join(way, "\n"))
		})
	}
}

// TestForeignAnchors: the product's rules hold where the mutants fail.
func TestForeignAnchors(t *testing.T) {
	for what, change := range map[string]func(*world){
		"reset":   func(w *world) { w.reset, w.alone = true, true },
		"foreign": func(w *world) { w.foreign = true },
	} {
		w := attacked(product())
		change(&w)
		if way, visited := w.search(bad); way != nil {
			t.Errorf("%s: an older state serves:\n%s", what, strings.Join(way, "\n"))
		} else {
			t.Logf("%s: %d states", what, visited)
		}
	}
}

// TestCopyOfBefore: what the anchor alone does not stop. A copy of before the first
// manifest has no seal that says so, and with the counter removed it looks as an upgrade
// does. With the counter in its place it is held.
func TestCopyOfBefore(t *testing.T) {
	w := attacked(product())
	w.early = true
	way, _ := w.search(bad)
	if !slices.Contains(way, "remove the counter") {
		t.Errorf("the search finds %q", way)
	}
	w.remove = false
	if way, visited := w.search(bad); way != nil {
		t.Errorf("an older state serves:\n%s", strings.Join(way, "\n"))
	} else {
		t.Logf("%d states", visited)
	}
}
