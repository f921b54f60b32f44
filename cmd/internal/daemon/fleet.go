package daemon

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/cmd/internal/version"
	webfleet "holdfast/web/fleet"
)

// membership is the place of this node in its fleet. There is a node of package fleet while
// the appliance is unlocked.
type membership struct {
	*fleet.Seat
	d *Daemon

	mu    sync.Mutex
	stop  context.CancelFunc // of the node that sits there; nil for none
	ended bool               // nobody joins any more
	// calls are what nodes ask each other: about their audit logs, for requests of their
	// quotas, and for what they have counted, and for evidence.
	calls      *fleet.Calls
	logs       *webfleet.Logs
	quotas     *webfleet.Quotas
	activities *webfleet.Activities
	evidence   *webfleet.Attestations
	checks     *webfleet.Verifications
}

// newMembership gives the place of a node that has not joined yet.
func (d *Daemon) newMembership() *membership {
	asker := webfleet.NewAsker()
	d.onClose(asker.Close)
	m := &membership{Seat: &fleet.Seat{}, d: d}
	m.calls = fleet.NewCalls(m.Seat, asker, d.o.Log)
	m.logs, m.quotas = webfleet.NewLogs(m.calls, d.audit, d.o.Log), webfleet.NewQuotas(m.calls)
	m.checks = webfleet.NewVerifications(m.logs)
	m.activities, m.evidence = webfleet.NewActivities(m.calls), webfleet.NewAttestations(m.calls)
	m.quotas.Lend(func(keyStore string, want int) int { return d.appliance.LendQuota(keyStore, want) })
	return m
}

var _ appliance.Fleet = (*membership)(nil)

// Join implements [appliance.Fleet].
func (m *membership) Join(ring appliance.Keyring, installation string) error {
	m.Leave()
	d := m.d
	id := d.audit.LogID() // one name for a node and for its log
	if id == "" {
		return fault.Errorf(fault.AuditLog, "this node has no audit log yet, whose ID names it in the fleet")
	}
	address, err := d.fleetAddress()
	if err != nil {
		return err
	}
	origin, err := d.store.Origin(context.Background())
	if err != nil {
		return err
	}
	key, err := ring.PeerKey(installation, origin)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	rows, err := fleet.NewReplica(ctx, d.store, d.appliance.Nodes, d.o.Log)
	if err != nil {
		stop()
		key.Wipe()
		return err
	}
	calls := webfleet.NewClient()
	n := fleet.New(fleet.Options{ID: id, Address: address, Installation: installation, Key: key, Rows: rows, Transport: calls, Hints: d.changes,
		Grace: time.Duration(cmp.Or(d.o.Config.Fleet.Grace, config.DefaultFleetGrace)), Log: d.o.Log,
		Ground: fleet.NewTokenGround(fleet.TokenGroundOptions{Ring: ring, Changes: d.changes, Installation: installation, Origin: origin, Node: id, CheckOwner: d.appliance.CheckOwner, Log: d.o.Log}),
		Report: d.report, Hold: d.appliance.Unfit})
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		stop()
		n.Close()
		return fault.Errorf(fault.Locked, "the appliance is shutting down")
	}
	m.stop = stop
	m.Take(n, d.appliance.Nodes)
	d.background.Go(func() { rows.Run(ctx, n) })
	d.background.Go(func() { n.Run(ctx) })
	d.background.Go(func() {
		defer calls.Close()
		if err := n.Enter(ctx, d.appliance.Nodes); err != nil && ctx.Err() == nil && fault.CodeOf(err) != fault.FleetRemoved {
			d.o.Log.Error("this node does not serve in the fleet", "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
		}
		<-ctx.Done()
	})
	return nil
}

// Leave implements [appliance.Fleet].
func (m *membership) Leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	m.Seat.Leave()
}

const (
	// entersWithin is how long a boot waits until its node serves in the fleet. Nodes that
	// are there acknowledge it at once; for a silent one it takes up to fleet.grace, and the
	// boot says meanwhile that the node joins.
	entersWithin = 10 * time.Second
	entryEvery   = 10 * time.Millisecond
)

// awaitEntry waits until this node serves in its fleet, or says why it never will, for at most
// [entersWithin].
func (d *Daemon) awaitEntry(ctx context.Context) {
	if d.fleet == nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, entersWithin)
	defer stop()
	awaitEntry(ctx, d.fleet.Fresh, d.appliance.Held)
}

// awaitEntry waits until a node is fresh, is not about to be, or is held, or ctx ends.
func awaitEntry(ctx context.Context, fresh, held func() error) {
	tick := time.NewTicker(entryEvery)
	defer tick.Stop()
	for held() == nil { // a node that is held has left its seat
		if code := fault.CodeOf(fresh()); code != fault.FleetJoining && code != fault.FleetStale {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// end leaves for good: the work of a node ends by nothing else.
func (m *membership) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.Leave()
}

// report is what this node tells the others of itself.
func (d *Daemon) report() fleet.Report {
	return fleet.Report{Version: version.Version, Schema: d.store.Schema()}
}

// fleetAddress is where the others call this node.
func (d *Daemon) fleetAddress() (string, error) {
	if a := d.o.Config.Fleet.Address; a != "" {
		return a, nil
	}
	host, port, err := net.SplitHostPort(d.adminL.Addr().String())
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "the address of the administrators' listener")
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return net.JoinHostPort(host, port), nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "the addresses of this machine")
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return net.JoinHostPort(n.IP.String(), port), nil
		}
	}
	return "", fault.Errorf(fault.Invalid, "this machine has no address that other nodes can reach: set fleet.address in the configuration")
}

// answerNodes answers the calls of other nodes.
func (d *Daemon) answerNodes() http.Handler {
	return &webfleet.Handler{Log: d.o.Log, Calls: d.fleet.calls, Node: func() webfleet.Node {
		if n := d.fleet.Node(); n != nil {
			return n
		}
		return nil
	}}
}

// live is how many nodes there are that take requests.
func (d *Daemon) live() int {
	if d.fleet == nil {
		return d.o.Config.XKS.FleetSize
	}
	return d.fleet.Live()
}
