package freshness

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"
)

// This is a model of a machine whose one anchor knows heads, as the audit log does, and
// which an attacker cannot put back. The chain of digests is a real one.

// chained is a database: its number, the digest before, and the links of its manifests.
type chained struct {
	has      set
	sequence uint8
	before   uint64
	joined   uint64    // the digest of a head that the chain begins with; 0 for none
	links    [14]uint8 // by sequence; 0 for one that is not kept
}

func chain(before uint64, link uint8) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, before, link)
	return h.Sum64()
}

func (c chained) head() Head {
	if c.sequence == 0 {
		return Head{}
	}
	return Head{uint64(c.sequence), fmt.Sprint(chain(c.before, c.links[c.sequence]))}
}

// past is how the product proves that a head is in the past.
func (c chained) past(h Head) bool {
	if h.Sequence >= uint64(c.sequence) {
		return h == c.head()
	}
	var digest uint64
	_, _ = fmt.Sscan(h.Digest, &digest)
	fold := func(digest uint64, after uint8) bool {
		for _, link := range c.links[after+1 : c.sequence] {
			if link > 0 {
				digest = chain(digest, link)
			}
		}
		return digest == c.before
	}
	return fold(digest, uint8(h.Sequence)) || digest == c.joined && digest > 0 && fold(join(digest), 0)
}

// join begins a chain with the digest of a head.
func join(digest uint64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, "join", digest)
	return h.Sum64()
}

// next writes the manifest after a head: its own, or one that it joins.
func (c *chained) next(after Head, joins bool, link uint8) {
	c.before = 0
	_, _ = fmt.Sscan(after.Digest, &c.before)
	if joins {
		c.links, c.joined, c.before = [14]uint8{}, c.before, join(c.before)
	}
	c.sequence = uint8(max(uint64(c.sequence), after.Sequence) + 1)
	c.links[c.sequence] = link
}

type headMoment struct {
	db     chained
	copies [3]chained
	kept   uint8

	told, pending Head // that a checkpoint names; that the next one will
	toldHas       set  // what is in the state that is pending
	must          set  // what is in the state that was told
	phase         phase
	accepted      bool // nobody has put anything back since people have accepted
	link          uint8

	changes, crashes, putBacks uint8
}

// headWorld is what may happen, and how often.
type headWorld struct {
	decide                             func(own, told Head, past bool) Verdict
	joins                              func(own, told Head, past bool) bool
	toldFirst                          bool
	changes, crashes, copies, putBacks uint8
}

func headProduct() headWorld {
	return headWorld{decide: DecideHead, joins: Joins, changes: 3, crashes: 2, copies: 2, putBacks: 2}
}

func (w headWorld) verdict(m *headMoment) (Verdict, bool) {
	past := m.db.past(m.told)
	return w.decide(m.db.head(), m.told, past), past
}

// commit writes a manifest with a change, and tells it.
func (w headWorld) commit(m *headMoment, after Head, joins bool, change set) {
	m.link++
	m.db.has |= change
	m.db.next(after, joins, m.link)
	m.pending, m.toldHas, m.phase = m.db.head(), m.db.has, serving
}

func (w headWorld) steps(m headMoment, visit func(what string, then headMoment)) {
	add := func(what string, change func(*headMoment)) {
		then := m
		change(&then)
		visit(what, then)
	}
	change := set(1) << m.changes
	switch m.phase {
	case stopped:
		add("start", func(n *headMoment) {
			if v, _ := w.verdict(n); v == Current || v == First {
				w.commit(n, n.db.head(), false, 0)
			} else {
				n.phase = held
			}
		})
	case serving:
		if m.changes < w.changes {
			add("change", func(n *headMoment) {
				n.changes++
				if w.toldFirst { // it is lost between the two
					lost := n.db
					lost.next(lost.head(), false, n.link+1)
					n.told, n.must = lost.head(), n.db.has
					add("told, not committed", func(o *headMoment) { *o = *n; o.phase = stopped })
				}
				w.commit(n, n.db.head(), false, change)
			})
		}
	case held:
		if m.changes < w.changes {
			add("people accept", func(n *headMoment) {
				_, past := w.verdict(n)
				n.changes++
				n.must &= n.db.has // people do without the rest
				n.accepted = true
				if w.joins(n.db.head(), n.told, past) {
					w.commit(n, n.told, true, change)
				} else {
					w.commit(n, n.db.head(), false, change)
				}
			})
		}
	}
	if m.phase == serving && m.pending != m.told {
		add("a checkpoint is signed", func(n *headMoment) { n.told, n.must = n.pending, n.toldHas })
	}
	if m.phase != stopped && m.crashes < w.crashes {
		add("crash", func(n *headMoment) { n.crashes++; n.phase, n.pending = stopped, Head{} })
	}
	if m.kept < w.copies && !slices.Contains(m.copies[:m.kept], m.db) {
		add("copy", func(n *headMoment) { n.copies[n.kept] = n.db; n.kept++ })
	}
	for _, c := range m.copies[:m.kept] {
		if c != m.db && m.putBacks < w.putBacks {
			add(fmt.Sprintf("put back the copy with the changes %b and the number %d", c.has, c.sequence), func(n *headMoment) {
				n.db, n.phase, n.pending, n.accepted = c, stopped, Head{}, false
				n.putBacks++
			})
		}
	}
}

// search gives the shortest way to a moment that is wrong.
func (w headWorld) search(wrong func(headMoment) string) (way []string, visited int) {
	first := headMoment{copies: [3]chained{{}}, kept: 1} // the attacker has an empty database
	w.copies++
	type link struct {
		m    headMoment
		from int
		what string
	}
	list, seen := []link{{m: first, from: -1}}, map[headMoment]struct{}{first: {}}
	for i := 0; i < len(list); i++ {
		if why := wrong(list[i].m); why != "" {
			for at := i; list[at].from >= 0; at = list[at].from {
				way = append(way, list[at].what)
			}
			slices.Reverse(way)
			return append(way, why), len(list)
		}
		w.steps(list[i].m, func(what string, then headMoment) {
			if _, ok := seen[then]; !ok {
				seen[then] = struct{}{}
				list = append(list, link{then, i, what})
			}
		})
	}
	return nil, len(list)
}

// wrongHead says what is wrong with a moment: an older state serves than the anchor was
// told, or a state is held that nobody has put back since people have accepted it.
func wrongHead(m headMoment) string {
	if m.phase == serving && m.db.has&m.must != m.must {
		return fmt.Sprintf("the state with the changes %b serves, and %b was told", m.db.has, m.must)
	}
	if m.phase == held && (m.accepted || m.putBacks == 0) {
		return "a false alarm"
	}
	return ""
}

// TestNoOlderHeadServes: with an attacker who keeps copies of the database, an empty one too,
// and puts them back, no older state serves than the newest that the anchor was told, and
// nothing is held again after people have accepted it, whenever it crashes.
func TestNoOlderHeadServes(t *testing.T) {
	way, visited := headProduct().search(wrongHead)
	if way != nil {
		t.Fatalf("it goes wrong:\n%s", strings.Join(way, "\n"))
	}
	t.Logf("%d states", visited)
}

// TestTheHeadModelCanFail: each rule of heads is needed.
func TestTheHeadModelCanFail(t *testing.T) {
	for what, mutant := range map[string]func(*headWorld){
		"a smaller number is in the past": func(w *headWorld) {
			w.decide = func(own, told Head, _ bool) Verdict { return DecideHead(own, told, true) }
		},
		"the same number is the same state": func(w *headWorld) {
			w.decide = func(own, told Head, past bool) Verdict {
				return DecideHead(own, told, past || own.Sequence == told.Sequence)
			}
		},
		"an earlier number is current": func(w *headWorld) {
			w.decide = func(own, told Head, past bool) Verdict {
				if v := DecideHead(own, told, past); v != Older {
					return v
				}
				return Current
			}
		},
		"a database that has none is the first": func(w *headWorld) {
			w.decide = func(own, told Head, past bool) Verdict {
				if v := DecideHead(own, told, past); v != Unnamed {
					return v
				}
				return First
			}
		},
		"what people accept comes after itself alone": func(w *headWorld) {
			w.joins = func(Head, Head, bool) bool { return false }
		},
		"the anchor is told first": func(w *headWorld) { w.toldFirst, w.copies, w.putBacks = true, 0, 0 },
	} {
		t.Run(what, func(t *testing.T) {
			w := headProduct()
			mutant(&w)
			way, visited := w.search(wrongHead)
			if way == nil {
				t.Fatalf("the search finds nothing in %d states", visited)
			}
			t.Logf("after %d states:\n%s", visited, strings.Join(way, "\n"))
		})
	}
}
