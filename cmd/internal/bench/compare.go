package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
)

// series is one of the measurements that are compared: a kind of request to a
// server.
type series struct {
	// place is the word of the server, such as durable.
	place     string
	custody   string
	operation appliance.Operation
	server    *server
	keys      []string
	// distinct is how many different requests there are.
	distinct int
	// once is whether no request is sent before the load, to warm the server's caches.
	once bool
	// ciphertexts are what its requests decrypt.
	ciphertexts []sealed

	// closed are the rounds of the closed loop by the number of connections.
	closed map[int][]Load
	open   []Load
	// openMissing is why open is empty.
	openMissing string
}

func (s *series) String() string {
	if s.server.bare {
		return s.server.name
	}
	return strings.Join(slices.DeleteFunc([]string{string(s.operation), s.custody, s.server.name}, func(w string) bool { return w == "" }), ", ")
}

// measure puts the server under load once: as fast as it answers, or at the
// rate if that is not 0.
func (s *series) measure(ctx context.Context, connections, rate int, duration time.Duration) (Load, error) {
	l, err := s.load(ctx, connections, rate, duration)
	if err != nil {
		return Load{}, s.server.explain(fmt.Errorf("%s: %w", s, err))
	}
	return l, s.server.forgetLog()
}

func (s *series) load(ctx context.Context, connections, rate int, duration time.Duration) (Load, error) {
	g, err := connect(ctx, s.server.addr, s.server.trust, connections)
	if err != nil {
		return Load{}, err
	}
	defer g.close()
	requests, err := s.requests(g)
	if err != nil {
		return Load{}, err
	}
	if !s.once {
		if err := g.once(requests, func(int, []byte) error { return nil }); err != nil {
			return Load{}, err
		}
	}
	return s.server.under(func() ([]time.Duration, error) {
		if rate == 0 {
			return g.closedLoop(requests, duration)
		}
		return g.openLoop(requests, rate, duration)
	})
}

// under sums up a load on the server, with the CPU time that it costs.
func (s *server) under(load func() ([]time.Duration, error)) (Load, error) {
	before, err := s.cpu()
	if err != nil {
		return Load{}, err
	}
	own, began := ownCPU(), time.Now()
	times, err := load()
	took, owned := time.Since(began), ownCPU()-own
	if err != nil {
		return Load{}, err
	}
	after, err := s.cpu()
	return newLoad(times, took, after-before, owned), err
}

// requests signs what the series sends.
func (s *series) requests(g *generator) ([][]byte, error) {
	if s.operation != appliance.OpDecrypt {
		return s.server.encrypts(s.keys, s.distinct)
	}
	if s.ciphertexts == nil {
		var err error
		if s.ciphertexts, err = s.server.ciphertexts(g, s.keys, s.distinct); err != nil {
			return nil, err
		}
	}
	return s.server.decrypts(s.keys, s.ciphertexts)
}

// turn gives the measurements in the order of the round: forth and back in
// turns, so that what drifts falls on all of them alike.
func turn[T any](round int, all []T) []T {
	if round%2 == 0 {
		return all
	}
	back := slices.Clone(all)
	slices.Reverse(back)
	return back
}

// report says how far a run is.
type report func(format string, args ...any)

// closedLoops measures the series that are to be measured with so many
// connections in turns, so that the noise of the machine falls on all of them
// alike.
func closedLoops(ctx context.Context, o options, connections int, all []*series, progress report) error {
	for round := range o.rounds {
		for _, s := range turn(round, all) {
			l, err := s.measure(ctx, connections, 0, o.duration)
			if err != nil {
				return err
			}
			if s.closed == nil {
				s.closed = map[int][]Load{}
			}
			s.closed[connections] = append(s.closed[connections], l)
			progress("round %d of %d, %d connections: %s: %.0f requests/s, p50 %.2f ms", round+1, o.rounds, connections, s, l.PerSecond, l.P50)
		}
	}
	return nil
}

// openLonger is how much longer a round of the open loop is: so that the p99.9
// at 1,800 requests/s is not that of a single request.
const openLonger = 4

// openLoops measures those that reach the rate at the rate, in turns.
func openLoops(ctx context.Context, o options, all []*series, progress report) error {
	var able []*series
	for _, s := range all {
		reached, err := s.reaches(ctx, o)
		if err != nil {
			return err
		}
		if reached < float64(o.rate) {
			s.openMissing = fmt.Sprintf("it serves %.0f requests/s at most", reached)
		} else {
			able = append(able, s)
		}
	}
	for round := range o.rounds {
		for _, s := range turn(round, able) {
			l, err := s.measure(ctx, o.usual(), o.rate, openLonger*o.duration)
			if err != nil {
				return err
			}
			s.open = append(s.open, l)
			progress("round %d of %d: %s: p99 %.2f ms at %d requests/s", round+1, o.rounds, s, l.P99, o.rate)
		}
	}
	return nil
}

// reaches is how many requests per second the server has answered at most, or enough
// for the rate: one round is not enough to say that it cannot.
func (s *series) reaches(ctx context.Context, o options) (most float64, err error) {
	for _, l := range s.closed[o.usual()] {
		most = max(most, l.PerSecond)
	}
	const tries = 5
	for i := 0; i < tries && most < float64(o.rate); i++ {
		l, err := s.measure(ctx, o.usual(), 0, o.duration)
		if err != nil {
			return 0, err
		}
		most = max(most, l.PerSecond)
	}
	return most, nil
}

// comparedKeys is how many keys the requests of a series are spread over.
const comparedKeys = 10

// servers are what is compared; the first series is of the bare handler.
type servers struct {
	all    []*server
	series []*series
}

func (s *servers) stop() {
	for _, h := range s.all {
		h.stop()
	}
}

func (s *servers) add(place string, h *server, custody string, op appliance.Operation, keys []string, o options) {
	s.series = append(s.series, &series{place: place, custody: custody, operation: op, server: h, keys: keys,
		distinct: max(o.distinct, slices.Max(o.connections))})
}

// startServers starts the bare handler and each Holdfast of which something is to be measured.
func (s *site) startServers(ctx context.Context, o options, progress report) (_ *servers, err error) {
	out := &servers{}
	defer func() {
		if err != nil {
			out.stop()
		}
	}()
	bare, err := s.startBare(ctx)
	if err != nil {
		return nil, err
	}
	out.all = append(out.all, bare)
	out.add("", bare, "", appliance.OpEncrypt, []string{"key"}, o)
	for _, in := range s.installations(o) {
		if !o.only.has(in.place) {
			continue
		}
		progress("start %s", in.name)
		h, err := in.startReady(ctx)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, h)
		if err := in.provision(ctx, h); err != nil {
			return nil, h.explain(err)
		}
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			if !o.only.has(string(custody)) || in.place == placeTmpfs && custody == appliance.CustodyHSM {
				continue // the disk is not what the token waits for
			}
			keys, err := in.createKeys(ctx, custody, comparedKeys)
			if err != nil {
				return nil, h.explain(err)
			}
			for _, op := range []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt} {
				if o.only.has(string(op)) {
					out.add(in.place, h, string(custody), op, keys, o)
				}
			}
		}
	}
	for _, p := range o.peers {
		if !o.only.has(placeAgainst) {
			break
		}
		progress("try %s", p.name)
		h, err := p.try(ctx)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, h)
		for _, op := range []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt} {
			if o.only.has(string(op)) {
				out.add(placeAgainst, h, "", op, p.Keys, o)
			}
		}
	}
	return out, nil
}

// installations are the Holdfasts that are compared.
func (s *site) installations(o options) []*installation {
	all := []*installation{
		{site: s, program: o.program, place: placeDurable, root: s.dir, name: "Holdfast", module: s.module},
		{site: s, program: o.program, place: placeFar, root: s.dir, name: "Holdfast, token 5 ms away", module: s.shim.Module},
	}
	if s.memory != "" {
		all = append(all, &installation{site: s, program: o.program, place: placeTmpfs, root: s.memory, name: "Holdfast, state on tmpfs", module: s.module})
	}
	if o.beside != "" {
		all = append(all, &installation{site: s, program: o.beside, place: placeBeside, root: s.dir, name: "the other program", module: s.module})
	}
	return all
}

// compare measures the bare handler and all others side by side.
func (s *site) compare(ctx context.Context, o options, r *Result, progress report) error {
	if o.only.has(partDisk) {
		d, err := newDisk(s.dir, o.rounds)
		if err != nil {
			return err
		}
		defer d.close()
		for range o.rounds {
			if err := d.round(); err != nil {
				return err
			}
		}
		r.Disk = d.result()
		progress("a write of %d bytes with fdatasync: p50 %.3f ms", recordBytes, r.Disk.Fdatasync.P50)
	}
	if !o.only.has(partClosed) && !o.only.has(partOpen) {
		return nil
	}
	servers, err := s.startServers(ctx, o, progress)
	if err != nil {
		return err
	}
	defer servers.stop()
	if o.only.has(partClosed) {
		for _, n := range o.connections {
			some := slices.Clone(servers.series)
			if n != o.usual() {
				// What the far token costs shows with one number of connections.
				some = slices.DeleteFunc(some, func(m *series) bool { return m.place == placeFar })
			}
			if err := closedLoops(ctx, o, n, some, progress); err != nil {
				return err
			}
		}
	}
	if o.only.has(partOpen) {
		if err := openLoops(ctx, o, servers.series, progress); err != nil {
			return err
		}
	}
	for _, m := range servers.series {
		r.Series = append(r.Series, m.result(servers.series[0], o))
	}
	r.Memory, err = memoryOf(servers.all)
	return err
}

func (s *series) result(bare *series, o options) Series {
	r := Series{Name: s.String(), Server: s.server.name, Place: s.place, Custody: s.custody, Operation: string(s.operation),
		OpenRounds: s.open, OpenMissing: s.openMissing}
	for _, n := range o.connections {
		if rounds := s.closed[n]; len(rounds) > 0 {
			l := median(rounds)
			r.Closed = append(r.Closed, Closed{Connections: n, Load: l, OfBare: l.PerSecond / median(bare.closed[n]).PerSecond, Rounds: rounds})
		}
	}
	if len(s.open) > 0 {
		l := median(s.open)
		r.Open = &l
	}
	return r
}

func memoryOf(all []*server) (out []Memory, err error) {
	for _, h := range all {
		if h.pid == 0 {
			continue // it is not known which process it is
		}
		now, most, err := h.mebibytes()
		if err != nil {
			return nil, err
		}
		out = append(out, Memory{Server: h.name, RSS: now, Peak: most})
	}
	return out, nil
}

// newLoad sums one measurement up.
func newLoad(times []time.Duration, took, cpu, own time.Duration) Load {
	slices.Sort(times)
	n := len(times)
	return Load{Requests: n, PerSecond: float64(n) / took.Seconds(),
		P50: milliseconds(percentile(times, 0.50)), P99: milliseconds(percentile(times, 0.99)), P999: milliseconds(percentile(times, 0.999)),
		CPU: float64(cpu.Microseconds()) / float64(max(1, n)), Generator: float64(own.Microseconds()) / float64(max(1, n))}
}

// median takes of each figure its median over the rounds.
func median(rounds []Load) Load {
	of := func(figure func(Load) float64) float64 {
		var all []float64
		for _, l := range rounds {
			all = append(all, figure(l))
		}
		return middle(all)
	}
	return Load{
		Requests:  int(of(func(l Load) float64 { return float64(l.Requests) })),
		PerSecond: of(func(l Load) float64 { return l.PerSecond }),
		P50:       of(func(l Load) float64 { return l.P50 }),
		P99:       of(func(l Load) float64 { return l.P99 }),
		P999:      of(func(l Load) float64 { return l.P999 }),
		CPU:       of(func(l Load) float64 { return l.CPU }),
		Generator: of(func(l Load) float64 { return l.Generator }),
	}
}

// middle is the median of the numbers; there is at least one.
func middle(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
