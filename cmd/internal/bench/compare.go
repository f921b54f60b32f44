package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/appliance"
)

// series is one of the measurements that are compared: a kind of request to a
// server.
type series struct {
	// token is where it is: "", "local" or "5 ms away".
	token     string
	custody   string
	operation appliance.Operation
	server    *server
	keys      []string
	// distinct is how many different requests there are.
	distinct int

	closed, open []Load
	// openMissing is why open is empty.
	openMissing string
}

func (s *series) String() string {
	if s.custody == "" {
		return "bare handler"
	}
	return fmt.Sprintf("%s, %s custody, token %s", s.operation, s.custody, s.token)
}

// measure puts the server under load once: as fast as it answers, or at the
// rate if that is not 0.
func (s *series) measure(ctx context.Context, o options, rate int) (Load, error) {
	l, err := s.load(ctx, o, rate)
	if err != nil {
		return Load{}, s.server.explain(fmt.Errorf("%s: %w", s, err))
	}
	return l, s.server.forgetLog()
}

func (s *series) load(ctx context.Context, o options, rate int) (Load, error) {
	g, err := connect(ctx, s.server.addr, s.server.trust, o.connections)
	if err != nil {
		return Load{}, err
	}
	defer g.close()
	requests, err := s.requests(g)
	if err != nil {
		return Load{}, err
	}
	if err := g.once(requests, func(int, []byte) error { return nil }); err != nil {
		return Load{}, err
	}
	before, err := s.server.cpu()
	if err != nil {
		return Load{}, err
	}
	began := time.Now()
	var times []time.Duration
	if rate == 0 {
		times, err = g.closedLoop(requests, o.duration)
	} else {
		times, err = g.openLoop(requests, rate, o.duration)
	}
	took := time.Since(began)
	if err != nil {
		return Load{}, err
	}
	after, err := s.server.cpu()
	return newLoad(times, took, after-before), err
}

// requests signs what the series sends.
func (s *series) requests(g *generator) ([][]byte, error) {
	if s.operation == appliance.OpDecrypt {
		return s.server.decrypts(g, s.keys, s.distinct)
	}
	return s.server.encrypts(s.keys, s.distinct)
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

// alternate measures all series in turns, so that the noise of the machine
// falls on all of them alike: first in closed loops, then, those that reached
// the rate, in open loops.
func alternate(ctx context.Context, o options, all []*series, progress func(format string, args ...any)) error {
	for round := range o.rounds {
		for _, s := range turn(round, all) {
			l, err := s.measure(ctx, o, 0)
			if err != nil {
				return err
			}
			s.closed = append(s.closed, l)
			progress("round %d of %d: %s: %.0f requests/s", round+1, o.rounds, s, l.PerSecond)
		}
	}
	var able []*series
	for _, s := range all {
		if reached := median(s.closed).PerSecond; reached < float64(o.rate) {
			s.openMissing = fmt.Sprintf("it serves %.0f requests/s at most", reached)
		} else {
			able = append(able, s)
		}
	}
	for round := range o.rounds {
		for _, s := range turn(round, able) {
			l, err := s.measure(ctx, o, o.rate)
			if err != nil {
				return err
			}
			s.open = append(s.open, l)
			progress("round %d of %d: %s: p99 %.2f ms at %d requests/s", round+1, o.rounds, s, l.P99, o.rate)
		}
	}
	return nil
}

// comparedKeys is how many keys the requests of a series are spread over.
const comparedKeys = 10

// compare measures the bare handler and all custodies side by side.
func (s *site) compare(ctx context.Context, o options, progress func(string, ...any)) ([]Series, error) {
	bare, err := s.startBare(ctx)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	distinct := max(o.distinct, o.connections)
	all := []*series{{operation: appliance.OpEncrypt, server: bare, keys: []string{"key"}, distinct: distinct}}
	measured := []*installation{
		{site: s, program: o.program, name: tokenLocal, module: s.module},
		{site: s, program: o.program, name: tokenFar, module: s.shim.Module},
	}
	if o.against != "" {
		measured = append(measured, &installation{site: s, program: o.against, name: tokenLocal + ", the other program", module: s.module})
	}
	for _, in := range measured {
		progress("start Holdfast, token %s", in.name)
		h, err := in.startReady(ctx)
		if err != nil {
			return nil, err
		}
		defer h.stop()
		if err := in.provision(ctx, h); err != nil {
			return nil, h.explain(err)
		}
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			keys, err := in.createKeys(ctx, custody, comparedKeys)
			if err != nil {
				return nil, h.explain(err)
			}
			for _, op := range []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt} {
				all = append(all, &series{token: in.name, custody: string(custody), operation: op, server: h, keys: keys, distinct: distinct})
			}
		}
	}
	if err := alternate(ctx, o, all, progress); err != nil {
		return nil, err
	}
	var out []Series
	for _, m := range all {
		r := m.result()
		r.OfBare = r.Closed.PerSecond / median(all[0].closed).PerSecond
		out = append(out, r)
	}
	return out, nil
}

func (s *series) result() Series {
	r := Series{Name: s.String(), Token: s.token, Custody: s.custody, Operation: string(s.operation),
		Closed: median(s.closed), ClosedRounds: s.closed, OpenRounds: s.open, OpenMissing: s.openMissing}
	if len(s.open) > 0 {
		l := median(s.open)
		r.Open = &l
	}
	return r
}

// newLoad sums one measurement up.
func newLoad(times []time.Duration, took, cpu time.Duration) Load {
	slices.Sort(times)
	n := len(times)
	return Load{Requests: n, PerSecond: float64(n) / took.Seconds(),
		P50: milliseconds(percentile(times, 0.50)), P99: milliseconds(percentile(times, 0.99)),
		CPU: float64(cpu.Microseconds()) / float64(max(1, n))}
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
		CPU:       of(func(l Load) float64 { return l.CPU }),
	}
}

// middle is the median of the numbers; there is at least one.
func middle(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
