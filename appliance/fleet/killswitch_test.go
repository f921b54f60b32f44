package fleet_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
)

// wires are the network between nodes, and to the database, with faults.
type wires struct {
	mu    sync.Mutex
	nodes map[string]*member
	cut   map[[2]string]bool // from, to; to "" is the database
	lying map[string]bool    // the database withholds from that node what is new
}

func (w *wires) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.lying)
}

func (w *wires) is(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[[2]string{from, to}]
}

func (w *wires) lies(to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lying[to]
}

var errCut = errors.New("the wire is cut")

// member is a node: an appliance over the log, and its place in the fleet. It is the
// transport of its own calls, and its own view of the log.
type member struct {
	fleet.Seat
	appliance.ChangeLog
	*appliancetest.Bed
	t     *testing.T
	id    string
	wires *wires
	grace time.Duration
	known atomic.Uint64 // the newest change that the database has shown
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// Call implements [fleet.Transport].
func (m *member) Call(_ context.Context, address string, message []byte) ([]byte, error) {
	m.wires.mu.Lock()
	to := m.wires.nodes[address]
	m.wires.mu.Unlock()
	if to == nil || m.wires.is(m.id, address) {
		return nil, errCut
	}
	n := to.Node()
	if n == nil {
		return nil, errCut
	}
	return n.Handle(message)
}

func (m *member) away() error {
	if m.wires.is(m.id, "") {
		return fault.Errorf(fault.DatabaseAway, "the database is cut off")
	}
	return nil
}

// Append implements [appliance.ChangeLog].
func (m *member) Append(ctx context.Context, number uint64, body []byte) error {
	if err := m.away(); err != nil {
		return err
	}
	return m.ChangeLog.Append(ctx, number, body)
}

// Changes implements [appliance.ChangeLog].
func (m *member) Changes(ctx context.Context, from uint64, most int) ([][]byte, error) {
	if err := m.away(); err != nil || m.wires.lies(m.id) && from > m.known.Load() {
		return nil, err
	}
	return m.ChangeLog.Changes(ctx, from, most)
}

// Newest implements [appliance.ChangeLog].
func (m *member) Newest(ctx context.Context) (uint64, error) {
	if err := m.away(); err != nil || m.wires.lies(m.id) {
		return m.known.Load(), err
	}
	n, err := m.ChangeLog.Newest(ctx)
	m.known.Store(n)
	return n, err
}

// Join implements [appliance.Fleet].
func (m *member) Join(ring appliance.Keyring, installation string) error {
	origin, err := m.Store.Origin(context.Background())
	if err != nil {
		return err
	}
	key, err := ring.PeerKey(installation, origin)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	rows, err := fleet.NewReplica(ctx, m.Store, m.Appliance.Nodes, log)
	if err != nil {
		stop()
		return err
	}
	n := fleet.New(fleet.Options{ID: m.id, Address: m.id, Installation: installation, Key: key, Rows: rows, Transport: m, Grace: m.grace, Beat: m.grace / 20, Log: log,
		Ground: fleet.NewTokenGround(fleet.TokenGroundOptions{Ring: ring, Changes: m, Installation: installation, Origin: origin, Node: m.id, CheckOwner: m.Appliance.CheckOwner, Log: log})})
	m.stop = stop
	m.Take(n, m.Appliance.Nodes)
	m.work.Go(func() { rows.Run(ctx, n) })
	m.work.Go(func() { n.Run(ctx) })
	m.work.Go(func() {
		if err := n.Enter(ctx, m.Appliance.Nodes); err != nil && ctx.Err() == nil {
			m.t.Errorf("%s: %v", m.id, err)
		}
	})
	m.work.Go(func() { // as Lifecycle.Run does
		tick := time.NewTicker(m.grace / 20)
		defer tick.Stop()
		for ctx.Err() == nil {
			_ = m.Store.CatchUp(ctx)
			select {
			case <-tick.C:
			case <-m.Changed():
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// Leave implements [appliance.Fleet].
func (m *member) Leave() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	m.Seat.Leave()
}

// until waits until something is so.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(what)
		}
	}
}

// TestKillSwitch: whatever is cut, and however the database lies to each node: when an
// administrator's block has returned, no node serves the key but those that the effect
// names, and those have stopped when it says. HOLDFAST_ROUNDS says how many rounds.
func TestKillSwitch(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("HOLDFAST_ROUNDS"))
	rounds = cmp.Or(rounds, 12)
	const grace = time.Second
	w := &wires{nodes: map[string]*member{}, cut: map[[2]string]bool{}, lying: map[string]bool{}}
	token, log := appliancetest.NewMemory(), changelogtest.NewMemory(nil)
	var all []*member
	var client *appliancetest.Client
	for i := range 3 {
		m := &member{ChangeLog: log.Peer(), t: t, id: fmt.Sprint("n", i+1), wires: w, grace: grace}
		w.mu.Lock()
		w.nodes[m.id] = m
		w.mu.Unlock()
		m.startBed(token)
		t.Cleanup(func() { m.Bed.Stop(); m.work.Wait() })
		all = append(all, m)
		until(t, m.id+" does not serve", func() bool { return m.Fresh() == nil })
		if i == 0 {
			client = m.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
			m.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
		}
	}
	serves := func(m *member) bool {
		c := *client
		c.Appliance = m.Appliance
		_, err := c.Call(appliancetest.Encrypt("k", "plain"))
		return err == nil
	}
	target := appliance.BlockTarget{KeyStore: "prod", KeyID: "k"}
	var late, refused, everywhere int
	for round := range rounds {
		for _, m := range all {
			until(t, fmt.Sprintf("round %d: %s does not serve again: %v", round, m.id, m.Fresh()), func() bool { return serves(m) })
		}
		w.spoil(rand.New(rand.NewPCG(uint64(round), 4)), all)
		at := all[rand.N(3)]
		ctx, cancel := context.WithTimeout(t.Context(), grace*time.Duration(rand.N(4))/2+10*time.Millisecond)
		_, err := at.Appliance.Block(ctx, target, "a test", "alice")
		if err != nil {
			refused++ // it may have been made: the database is away
			cancel()
			w.heal()
			until(t, "the block is not lifted", func() bool { return at.lift(target) })
			continue
		}
		settled := at.Settle(ctx)
		cancel()
		bound := map[string]time.Time{}
		for _, l := range settled.Late {
			bound[l.ID] = l.Until
		}
		for _, m := range all {
			if _, named := bound[m.id]; !named && serves(m) {
				t.Errorf("round %d: %s serves after a block at %s that said %+v; cut %v, lied to %v", round, m.id, at.id, settled, w.cut, w.lying)
			}
		}
		for _, m := range all {
			stops, named := bound[m.id]
			if !named || stops.IsZero() {
				continue
			}
			until(t, "time does not pass", func() bool { return time.Now().After(stops) })
			if serves(m) {
				t.Errorf("round %d: %s serves after %s, when the effect of a block at %s said that it would stop; cut %v, lied to %v", round, m.id, stops, at.id, w.cut, w.lying)
			}
		}
		if len(settled.Late) > 0 {
			late++
		} else {
			everywhere++
		}
		w.heal()
		until(t, "the block is not lifted", func() bool { return at.lift(target) })
	}
	t.Logf("%d rounds: %d blocks in effect everywhere at the return, %d with nodes named that stopped later, %d refused", rounds, everywhere, late, refused)
}

// startBed starts the appliance of a node.
func (m *member) startBed(token appliancetest.Device) {
	m.t.Helper()
	appliancetest.Start(m.t, appliancetest.Options{Token: token, Appliance: appliance.Options{ChangeLog: m, Fleet: m}, Made: func(b *appliancetest.Bed) { m.Bed = b }})
}

// lift takes the block back, and says whether the key serves at this node again.
func (m *member) lift(target appliance.BlockTarget) bool {
	err := m.Appliance.Unblock(context.Background(), target)
	return err == nil || fault.CodeOf(err) == fault.Conflict
}

// spoil puts one to three faults in.
func (w *wires) spoil(r *rand.Rand, all []*member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range 1 + r.IntN(3) {
		a, b := all[r.IntN(3)].id, all[r.IntN(3)].id
		switch r.IntN(5) {
		case 0: // one node from the database
			w.cut[[2]string{a, ""}] = true
		case 1: // two from each other
			w.cut[[2]string{a, b}], w.cut[[2]string{b, a}] = a != b, a != b
		case 2: // in one direction
			w.cut[[2]string{a, b}] = a != b
		case 3: // one from both others, as if it were gone
			for _, o := range all {
				if o.id != a {
					w.cut[[2]string{a, o.id}], w.cut[[2]string{o.id, a}] = true, true
				}
			}
		case 4:
			w.lying[a] = true
		}
	}
}
