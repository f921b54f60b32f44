package fleet

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
)

// This is a model of a fleet: nodes, which are the product's own [Node], and around them a
// network, a database and a token that a schedule drawn at random has misbehave. One
// goroutine runs a schedule, in an order that the seed decides.
//
// What is drawn: messages are lost, late, twice and out of order; links are cut; nodes
// pause, are suspended, crash and start again; wall clocks jump; clocks differ in their
// rate; the database withholds changes from each node as it likes, shows some nodes another
// log than the others, and is away; the token is away; nodes join and are removed.

var schedules = flag.Int("schedules", 500, "how many random schedules the model tries")

const (
	modelGrace = 6 * time.Second
	modelSpan  = 30 * time.Second
	modelNodes = 4 // the last one joins later
)

// rules are those of the product, or a mutant of them.
type rules struct {
	// sentWhenReceived counts freshness from when an answer came.
	sentWhenReceived bool
	// acknowledgeFirst tells a position before its changes are in effect.
	acknowledgeFirst bool
	// hearsay takes the answer of any one member for proof of all.
	hearsay bool
	// groundUnmarked relies on the ground without a word in the token.
	groundUnmarked bool
	// joinAtOnce serves before another member has acknowledged the joining.
	joinAtOnce bool
	// postsGo removes positions from the token when their changes are in effect.
	postsGo bool
	// freshMember counts a member that is new from when its row was seen.
	freshMember bool
}

// entry is a change of the model's log.
type entry struct {
	digest string
	node   int // whose row it changes; -1 for none
	state  appliance.NodeState
}

const gone appliance.NodeState = ""

// event is something that happens at a time.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// claim says that no node serves without an entry, but those that are excepted.
type claim struct {
	number uint64
	digest string
	by     int
}

// world is one schedule.
type world struct {
	r        *rand.Rand
	rules    rules
	now      time.Duration
	queue    events
	seq      int
	machines [modelNodes]*machine
	branches [2][]entry
	cut      [modelNodes][modelNodes]bool
	made     int
	// The token.
	posts []appliance.Position
	rely  [modelNodes]bool
	// What was promised of each node: that it does not serve without these.
	claims  [modelNodes][]claim
	settled int
	stopped int
	served  int
	wrong   string
}

// machine is a node with what is around it.
type machine struct {
	w      *world
	index  int
	name   string
	node   *Node // nil while it is down
	life   int   // counts its starts
	log    []entry
	claims int // of log, that it tells of; more than it has with acknowledgeFirst
	branch int
	// shown bounds the changes that the database shows; away says that it does not answer.
	shown, fetching    int
	away, tokenAway    bool
	paused             time.Duration // until then
	rate, offset, wall float64
	grounding          bool
	told               appliance.Position // the furthest that it has told another
	members            []appliance.Node
	membersOf          int
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, do})
}

// on has a machine do something: later while it is paused, and not at all if it has
// crashed meanwhile.
func (m *machine) on(d time.Duration, do func()) {
	life := m.life
	var run func()
	run = func() {
		switch {
		case m.node == nil || m.life != life:
		case m.paused > m.w.now:
			m.w.after(m.paused-m.w.now, run)
		default:
			do()
			m.check()
		}
	}
	m.w.after(d, run)
}

func (m *machine) clock() time.Duration {
	return time.Duration(m.offset) + time.Duration(float64(m.w.now)*m.rate)
}

func (m *machine) position() appliance.Position {
	if m.claims == 0 {
		return appliance.Position{}
	}
	e := m.log
	if m.claims > len(m.log) {
		e = m.w.branches[m.branch]
	}
	return appliance.Position{Number: uint64(m.claims), Digest: e[m.claims-1].digest}
}

// Written implements [Rows].
func (m *machine) Written() uint64 { at, _ := m.Roll(); return at.Number }

// Roll implements [Rows].
func (m *machine) Roll() (appliance.Position, []appliance.Node) {
	if m.membersOf != len(m.log) {
		m.members, m.membersOf = nil, len(m.log)
		var states [modelNodes]appliance.NodeState
		for _, e := range m.log {
			if e.node >= 0 {
				states[e.node] = e.state
			}
		}
		for i, s := range states {
			if s != gone {
				m.members = append(m.members, appliance.Node{ID: m.w.machines[i].name, Address: m.w.machines[i].name, State: s})
			}
		}
	}
	return m.position(), m.members
}

// Passed implements [Rows].
func (m *machine) Passed(p appliance.Position) (passed, known bool) {
	if p.Number > uint64(len(m.log)) {
		return m.w.branches[m.branch][p.Number-1].digest == p.Digest, true
	}
	return m.log[p.Number-1].digest == p.Digest, true
}

// CatchUp implements [Rows].
func (m *machine) CatchUp() { m.on(m.w.delay(), m.poll) }

func (w *world) delay() time.Duration {
	switch w.r.IntN(30) {
	case 0:
		return time.Duration(w.r.Int64N(int64(9 * time.Second)))
	case 1, 2:
		return time.Duration(w.r.Int64N(int64(time.Second)))
	}
	return time.Millisecond + time.Duration(w.r.Int64N(int64(20*time.Millisecond)))
}

func (m *machine) start() {
	m.life++
	m.claims = len(m.log)
	m.grounding, m.fetching = false, 0
	m.node = New(Options{ID: m.name, Address: m.name, Rows: m, Grace: modelGrace, BootTime: m.clock, Ground: noGround{}, Key: noKey{},
		Now: func() time.Time { return time.Unix(1_800_000_000, 0).Add(time.Duration(float64(m.w.now) + m.wall)) }})
	if back := m.told; uint64(len(m.log)) < back.Number || back.Number > 0 && m.log[back.Number-1].digest != back.Digest {
		m.w.fail("%s is behind change %d, which it has acknowledged", m.name, back.Number)
	}
	m.on(0, m.beat)
	m.on(0, m.ticks)
}

type noGround struct{ Ground }
type noKey struct{ appliance.PeerKey }

func (noKey) Wipe() {}

// beat calls all, each second.
func (m *machine) beat() {
	m.callAll()
	m.on(time.Second, m.beat)
}

func (m *machine) callAll() {
	for _, to := range m.node.callees() {
		call, sent := m.node.call(to.id)
		m.tell(call)
		other := m.w.machine(to.id)
		ended := false
		end := func() {
			if !ended {
				ended = true
				m.node.ended(call)
				m.pushed()
			}
		}
		m.on(2*time.Second, end)
		m.w.send(m, other, func() {
			answer, err := other.node.answer(call)
			other.pushed()
			if err != nil {
				return
			}
			other.tell(answer)
			m.w.send(other, m, func() {
				at := sent
				if m.w.rules.sentWhenReceived {
					at = m.clock()
				}
				_ = m.node.answered(call, at, answer)
				if m.w.rules.hearsay {
					m.node.lock()
					for _, p := range m.node.peers {
						p.counted = max(p.counted, m.node.peers[other.name].counted)
					}
					m.node.judge()
					m.node.unlock()
				}
				end()
			})
		})
	}
}

func (m *machine) tell(message *Message) {
	if p := message.Report.Position; p.Number > m.told.Number {
		m.told = p
	}
}

// pushed calls at once if the node asks for it.
func (m *machine) pushed() {
	select {
	case <-m.node.pushed:
		m.on(0, m.callAll)
	default:
	}
}

func (w *world) machine(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	return nil
}

// send carries a message: perhaps not, perhaps twice.
func (w *world) send(from, to *machine, take func()) {
	if w.cut[from.index][to.index] || to.node == nil || w.r.IntN(20) == 0 {
		return
	}
	to.on(w.delay(), take)
	if w.r.IntN(20) == 0 {
		to.on(w.delay(), take)
	}
}

// ticks does what each node does now and then.
func (m *machine) ticks() {
	m.poll()
	m.stand()
	m.on(400*time.Millisecond, m.ticks)
}

// visible gives the changes that the database shows.
func (m *machine) visible() []entry {
	all := m.w.branches[m.branch]
	return all[:min(len(all), m.shown)]
}

// poll takes over what the database shows.
func (m *machine) poll() {
	if m.away {
		return
	}
	all := m.visible()
	if len(all) <= len(m.log) {
		return
	}
	if n := len(m.log); n > 0 && all[n-1].digest != m.log[n-1].digest {
		return // not the change after this node's
	}
	if m.w.rules.acknowledgeFirst {
		m.claims = len(all)
		m.node.Advanced()
		m.on(500*time.Millisecond, func() { m.takeOver(all) })
		m.pushed()
		return
	}
	m.takeOver(all)
}

func (m *machine) takeOver(all []entry) {
	if len(all) <= len(m.log) {
		return
	}
	m.log = slices.Clone(all)
	m.claims = max(len(m.log), m.claims)
	known := len(m.node.peers)
	m.node.Advanced()
	if m.w.rules.freshMember && len(m.node.peers) > known {
		m.node.lock()
		for _, p := range m.node.peers {
			if p.member && p.heard == never {
				p.counted = m.clock()
			}
		}
		m.node.judge()
		m.node.unlock()
	}
	m.pushed()
}

// stand does what is to be done at the ground, step by step.
func (m *machine) stand() {
	if m.grounding {
		return
	}
	busy := func(f func()) { m.on(m.w.quick(), f) }
	switch m.node.groundWork() {
	case groundRead:
		if m.tokenAway {
			return
		}
		m.grounding = true
		began := m.clock()
		busy(func() {
			if !m.w.rules.groundUnmarked {
				m.w.rely[m.index] = true
			}
			busy(func() {
				all := m.w.positions()
				ok := !m.away && !m.tokenAway
				all = append(all, appliance.Position{Number: uint64(len(m.visible()))})
				busy(func() {
					m.grounding = false
					if ok {
						m.node.readGround(reading{began, all})
					}
				})
			})
		})
	case groundRelease:
		if m.tokenAway {
			return
		}
		m.w.rely[m.index] = false
		m.node.ground.released = true
	}
}

func (w *world) quick() time.Duration {
	return time.Millisecond + time.Duration(w.r.Int64N(int64(100*time.Millisecond)))
}

func (w *world) positions() []appliance.Position { return slices.Clone(w.posts) }

// append makes a change on a machine. The database decides who is first.
func (m *machine) append(node int, state appliance.NodeState) bool {
	w := m.w
	if m.away || len(m.log) != len(w.branches[m.branch]) || m.claims != len(m.log) {
		return false
	}
	if n := len(m.log); n > 0 && w.branches[m.branch][n-1].digest != m.log[n-1].digest {
		return false
	}
	w.made++
	w.branches[m.branch] = append(w.branches[m.branch], entry{fmt.Sprint(m.branch, "-", w.made), node, state})
	m.takeOver(w.branches[m.branch])
	return true
}

// administer makes a change and waits for it, as an administrator's command does.
func (m *machine) administer() {
	if m.node.Fresh() == nil && m.append(-1, gone) {
		m.wait(time.Second+time.Duration(m.w.r.Int64N(int64(12*time.Second))), nil)
	}
}

// wait waits for a settlement, for so long at most, and then does something.
func (m *machine) wait(most time.Duration, then func(*settlement)) {
	at, _ := m.Roll() // a simulated change is in effect when it is written
	s, posting := m.node.settle(), false
	if m.w.rules.joinAtOnce {
		s.joining = false
	}
	ends := m.clock() + most
	var look func()
	look = func() {
		result, done, _ := m.node.outcome(s)
		if done || m.clock() >= ends {
			m.w.promise(m, at, s.of, result)
			if done && then != nil {
				then(s)
			}
			return
		}
		if !posting && !m.grounding && !m.tokenAway && s.posted == never && len(result.Late) > 0 && m.clock() >= s.began+modelGrace/pushShare {
			posting, m.grounding = true, true
			m.on(m.w.quick(), func() {
				at := m.node.posting()
				m.w.posts = append(m.w.posts, at)
				m.on(m.w.quick(), func() {
					all := m.w.positions()
					var relying []string
					for i, r := range m.w.rely {
						if r {
							relying = append(relying, m.w.machines[i].name)
						}
					}
					m.on(m.w.quick(), func() {
						m.grounding = false
						m.node.posts(s, all, relying)
						covered := m.node.covered(at)
						m.w.posts = slices.DeleteFunc(m.w.posts, func(p appliance.Position) bool {
							return covered(p) && (p != at || m.w.rules.postsGo)
						})
					})
				})
			})
		}
		m.on(50*time.Millisecond, look)
	}
	look()
}

// promise notes what the answer of a command says: of each node that it does not name as
// late, that it does not serve without the change; of the others, from when on.
func (w *world) promise(m *machine, at appliance.Position, of []string, result appliance.Settled) {
	c := claim{at.Number, at.Digest, m.index}
	if len(result.Late) == 0 {
		w.settled++
		if result.Nodes < result.Of {
			w.stopped++
		}
	}
	wall := m.node.o.Now()
	for i, other := range w.machines {
		late := slices.IndexFunc(result.Late, func(l appliance.LateNode) bool { return l.ID == other.name })
		if late < 0 {
			if len(result.Late) > 0 && i != m.index && !slices.Contains(of, other.name) {
				continue // the answer says nothing of it
			}
			w.claims[i] = append(w.claims[i], c)
			other.check()
			continue
		}
		if until := result.Late[late].Until; !until.IsZero() {
			w.after(time.Duration(float64(until.Sub(wall))/m.rate)+time.Microsecond, func() {
				w.claims[i] = append(w.claims[i], c)
				other.check()
			})
		}
	}
}

// check holds what a machine serves against what was promised of it.
func (m *machine) check() {
	if m.node == nil || int64(m.clock()) >= m.node.until.Load() {
		return
	}
	m.w.served++
	has := func(c claim) bool {
		return uint64(len(m.log)) >= c.number && m.log[c.number-1].digest == c.digest
	}
	m.w.claims[m.index] = slices.DeleteFunc(m.w.claims[m.index], has)
	if left := m.w.claims[m.index]; len(left) > 0 {
		c := left[0]
		m.w.fail("%s serves without change %d (%s), of which %s has said that it is in effect", m.name, c.number, c.digest, m.w.machines[c.by].name)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf("at %s: ", w.now) + fmt.Sprintf(format, args...)
	}
}

// enter has the last machine join.
func (m *machine) enter() {
	if m.life > 0 {
		return
	}
	m.branch = 0
	m.log = slices.Clone(m.visible())
	m.start()
	var try, waiting func()
	waiting = func() {
		m.wait(modelSpan, func(s *settlement) {
			var serve func()
			serve = func() {
				if self, _ := m.node.row(m.name); self.State == appliance.NodeJoining && !m.append(m.index, appliance.NodeServing) {
					m.on(200*time.Millisecond, serve)
				}
			}
			serve()
		})
	}
	try = func() {
		if _, there := m.node.row(m.name); there {
			return
		}
		if !m.append(m.index, appliance.NodeJoining) {
			m.on(200*time.Millisecond, try)
			return
		}
		waiting()
	}
	m.on(0, try)
}

// remove removes another machine.
func (m *machine) remove(other *machine) {
	row, there := m.node.row(other.name)
	if !there || row.State == appliance.NodeLeaving || other == m || m.node.Fresh() != nil || !m.append(other.index, appliance.NodeLeaving) {
		return
	}
	m.wait(modelSpan, func(*settlement) {
		var clean func()
		clean = func() {
			if m.grounding || m.tokenAway {
				m.on(100*time.Millisecond, clean)
				return
			}
			m.w.rely[other.index] = false
			if !m.append(other.index, appliance.NodeRemoved) {
				m.on(200*time.Millisecond, clean)
			}
		}
		clean()
	})
}

// disturb does one thing that a fleet must stand.
func (w *world) disturb() {
	m := w.machines[w.r.IntN(modelNodes)]
	a, b := w.r.IntN(modelNodes), w.r.IntN(modelNodes)
	span := time.Duration(w.r.Int64N(int64(2 * modelGrace)))
	switch w.r.IntN(14) {
	case 0:
		w.cut[a][b] = true
		w.after(span, func() { w.cut[a][b] = false })
	case 1: // one is cut off from all
		for i := range w.machines {
			w.cut[a][i], w.cut[i][a] = true, true
		}
		w.after(span, func() {
			for i := range w.machines {
				w.cut[a][i], w.cut[i][a] = false, false
			}
		})
	case 2:
		m.paused = w.now + span
	case 3, 4: // the database withholds
		m.shown = len(m.log)
		w.after(2*span, func() { m.shown = 1 << 30 })
	case 5:
		m.away = true
		w.after(span, func() { m.away = false })
	case 6:
		m.tokenAway = true
		w.after(span, func() { m.tokenAway = false })
	case 7:
		if m.node != nil {
			m.node = nil
			w.after(span/2, func() {
				if m.node == nil {
					m.start()
				}
			})
		}
	case 8:
		m.wall = float64(w.r.Int64N(int64(1000*time.Hour))) - float64(500*time.Hour)
	case 9: // the database shows it another log from now on
		if len(w.branches[1]) == 0 && w.r.IntN(4) == 0 {
			w.branches[1] = slices.Clone(w.branches[0])
		}
		if len(w.branches[1]) > 0 && m.node != nil {
			m.branch = 1
		}
	case 10:
		if m.node != nil && w.r.IntN(3) == 0 {
			m.on(0, func() { m.remove(w.machines[a]) })
		}
	case 11:
		w.machines[modelNodes-1].enter()
	default:
		if m.node != nil {
			m.on(0, m.administer)
		}
	}
}

// try runs one schedule, and gives what was wrong.
func try(seed uint64, r rules) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 15)), rules: r}
	for i := range modelNodes {
		w.machines[i] = &machine{w: w, index: i, name: string(rune('a' + i)), shown: 1 << 30, membersOf: -1,
			rate: 1 + (w.r.Float64()-0.5)/100, offset: float64(w.r.Int64N(int64(time.Hour)))}
	}
	for i := range modelNodes - 1 {
		w.branches[0] = append(w.branches[0], entry{fmt.Sprint("f", i), i, appliance.NodeServing})
	}
	for _, m := range w.machines[:modelNodes-1] {
		m.log = slices.Clone(w.branches[0])
		m.start()
	}
	var disturb func()
	disturb = func() {
		w.disturb()
		w.after(time.Duration(w.r.Int64N(int64(time.Second))), disturb)
	}
	w.after(2*time.Second, disturb)
	for len(w.queue) > 0 && w.wrong == "" {
		e := heap.Pop(&w.queue).(event)
		if w.now = e.at; w.now > modelSpan {
			break
		}
		e.do()
	}
	return w
}

// explore tries schedules until one is wrong.
func explore(r rules, most int) (total world, wrong string) {
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				mu.Lock()
				stop := wrong != "" || seed > int64(most)
				mu.Unlock()
				if stop {
					return
				}
				w := try(uint64(seed), r)
				mu.Lock()
				total.settled += w.settled
				total.stopped += w.stopped
				total.served += w.served
				if w.wrong != "" && wrong == "" {
					wrong = fmt.Sprintf("schedule %d, %s", seed, w.wrong)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total, wrong
}

// TestModel: in no schedule a node serves without a change of which a command has said
// that it is in effect, and none goes back behind what it has acknowledged.
func TestModel(t *testing.T) {
	total, wrong := explore(rules{}, *schedules)
	if wrong != "" {
		t.Fatal(wrong)
	}
	t.Logf("%d schedules: %d changes came to be in effect everywhere, %d of them with a node that had stopped; %d moments of service were looked at", *schedules, total.settled, total.stopped, total.served)
	if total.settled < *schedules || total.stopped < *schedules/20 {
		t.Errorf("only %d changes came to be in effect, %d with a node that had stopped: the model does not try what it is for", total.settled, total.stopped)
	}
}

// TestMutants: the model finds what each rule is there for.
func TestMutants(t *testing.T) {
	for name, r := range map[string]rules{
		"proof counted from the receiving time": {sentWhenReceived: true},
		"acknowledging before taking over":      {acknowledgeFirst: true},
		"one member speaks for all":             {hearsay: true},
		"relying on the ground without a mark":  {groundUnmarked: true},
		"joining without an acknowledgement":    {joinAtOnce: true},
		"a new member counts from being seen":   {freshMember: true},
		"positions in the token are removed":    {postsGo: true},
	} {
		if _, wrong := explore(r, 200_000); wrong == "" {
			t.Errorf("%s: not found", name)
		} else {
			t.Logf("%s: %s", name, wrong)
		}
	}
}
