package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"holdfast/appliance"
)

// Random is how keys serve that are drawn uniformly from among all: no few of
// them are used more than others.
type Random struct {
	Keys int `json:"keys"`
	// Unlocked is keys.max_unlocked, how many keys the server keeps in memory at most; 0 for its default.
	Unlocked int `json:"max_unlocked"`
	// Cold is at the rate of the settings. Each request is the first with its key since the start.
	Cold       Load   `json:"cold_open_loop"`
	ColdRounds []Load `json:"cold_open_loop_rounds"`
	// Touched is how many keys were used before Warm. First is how that went, as fast
	// as the server answered.
	Touched int  `json:"touched"`
	First   Load `json:"first_touches"`
	// Warm is in closed loops, after all keys that fit into memory were used, and Few with ten
	// keys on a server that has no more, in turns with it.
	Warm       Load    `json:"warm_closed_loop"`
	WarmRounds []Load  `json:"warm_closed_loop_rounds"`
	Few        Load    `json:"few_closed_loop"`
	FewRounds  []Load  `json:"few_closed_loop_rounds"`
	Ratio      float64 `json:"ratio"`
	// Start is in memory before the first request, After when the keys were touched, Peak at most, in MiB.
	// PerKey is what came with a key, in KiB: with garbage, and with what requests need besides.
	Start  float64 `json:"start_rss_mib"`
	After  float64 `json:"after_rss_mib"`
	Peak   float64 `json:"peak_rss_mib"`
	PerKey float64 `json:"rss_kib_per_key"`
}

// withUnlocked gives the installation with another keys.max_unlocked.
func (f *filled) withUnlocked(limit int) *filled {
	in := *f.installation
	in.unlocked = limit
	return &filled{installation: &in, keys: f.keys, ids: f.ids}
}

// measureRandom measures the larger of two installations, beside the smaller one.
func measureRandom(ctx context.Context, o options, few, many *filled, progress report) (r *Random, err error) {
	r = &Random{Keys: many.keys, Unlocked: many.unlocked}
	small, err := few.startReady(ctx)
	if err != nil {
		return r, err
	}
	defer small.stop()
	large, err := many.startReady(ctx)
	if err != nil {
		return r, err
	}
	defer large.stop()
	if r.Start, _, err = large.mebibytes(); err != nil {
		return r, err
	}
	untouched := slices.Clone(many.ids)
	rand.Shuffle(len(untouched), func(i, j int) { untouched[i], untouched[j] = untouched[j], untouched[i] })

	cold := &series{custody: string(appliance.CustodyCached), operation: appliance.OpEncrypt, server: large, once: true}
	each := inOpenLoop(o.rate, openLonger*o.duration)
	for round := range o.rounds {
		if len(untouched) < each {
			break // as in a quick run
		}
		cold.keys, cold.distinct, untouched = untouched[:each], each, untouched[each:]
		l, err := cold.measure(ctx, o.usual(), o.rate, openLonger*o.duration)
		if err != nil {
			return r, err
		}
		r.ColdRounds = append(r.ColdRounds, l)
		progress("round %d of %d: %d keys, each for the first time: p99 %.2f ms at %d requests/s", round+1, o.rounds, each, l.P99, o.rate)
	}
	if len(r.ColdRounds) == 0 {
		return r, fmt.Errorf("%d keys are too few to use each once: %d requests come in a round; give more with --keys", many.keys, each)
	}
	r.Cold = median(r.ColdRounds)
	used := len(many.ids) - len(untouched)
	untouched = untouched[:toTouch(used, len(untouched), many.unlocked)]
	r.Touched = used + len(untouched)
	if r.First, err = large.touch(ctx, o, untouched, progress); err != nil {
		return r, large.explain(err)
	}
	if r.After, _, err = large.mebibytes(); err != nil {
		return r, err
	}
	r.PerKey = (r.After - r.Start) * 1024 / float64(r.Touched)
	ten := &series{operation: appliance.OpEncrypt, custody: string(appliance.CustodyCached), server: small, keys: few.ids, distinct: o.distinct}
	drawn := &series{operation: appliance.OpEncrypt, custody: string(appliance.CustodyCached), server: large, keys: many.ids, once: true}
	if err := r.warm(ctx, o, ten, drawn, progress); err != nil {
		return r, err
	}
	_, r.Peak, err = large.mebibytes()
	return r, err
}

// toTouch is how many keys are to be used once before those that fit into memory are warm,
// when some were used already: all others, or twice what fits, because keys spread unevenly over
// what the server keeps them in.
func toTouch(used, others, unlocked int) int {
	if unlocked == 0 {
		return others
	}
	return min(others, max(0, 2*unlocked-used))
}

// touchedAtOnce is how many requests are signed at a time, and touchWithin how long the
// server may take for them: a signature is good for five minutes.
const (
	touchedAtOnce = 20_000
	touchWithin   = 4 * time.Minute
)

// touch has each key encrypt once, as fast as the server answers.
func (s *server) touch(ctx context.Context, o options, ids []string, progress report) (Load, error) {
	var all []time.Duration
	var took, cpu, own time.Duration
	done := 0
	for some := range slices.Chunk(ids, touchedAtOnce) {
		requests, err := s.encryptsAtOnce(some)
		if err != nil {
			return Load{}, err
		}
		g, err := connect(ctx, s.addr, s.trust, o.usual())
		if err != nil {
			return Load{}, err
		}
		before, err := s.cpu()
		if err != nil {
			return Load{}, err
		}
		owned, began := ownCPU(), time.Now()
		times, err := g.eachOnce(requests)
		took, own = took+time.Since(began), own+ownCPU()-owned
		g.close()
		if err != nil {
			return Load{}, err
		}
		after, err := s.cpu()
		if err != nil {
			return Load{}, err
		}
		cpu += after - before
		all = append(all, times...)
		if err := s.forgetLog(); err != nil {
			return Load{}, err
		}
		if done += len(some); done == len(ids) || done/touchedAtOnce%10 == 0 {
			progress("use each of the other keys once: %d of %d", done, len(ids))
		}
	}
	return newLoad(all, max(took, 1), cpu, own), nil
}

// encryptsAtOnce signs a request per key, on all processors.
func (s *server) encryptsAtOnce(ids []string) ([][]byte, error) {
	requests := make([][]byte, len(ids))
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		failed  error
	)
	const share = 1000
	for at := 0; at < len(ids); at += share {
		workers.Go(func() {
			some, err := s.encrypts(ids[at:min(at+share, len(ids))], min(share, len(ids)-at))
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = err
				return
			}
			copy(requests[at:], some)
		})
	}
	workers.Wait()
	return requests, failed
}

// eachOnce sends each request once, as fast as the server answers, and gives how long each took.
func (g *generator) eachOnce(requests [][]byte) ([]time.Duration, error) {
	times := make([]time.Duration, len(requests))
	err := g.each(touchWithin, func(c *connection, i int) error {
		for ; i < len(requests); i += len(g.connections) {
			sent := time.Now()
			if _, err := c.exchange(requests[i]); err != nil {
				return err
			}
			times[i] = time.Since(sent)
		}
		return nil
	})
	return times, err
}

// warm compares keys drawn at random from among those of a series with few keys, in turns.
func (r *Random) warm(ctx context.Context, o options, few, many *series, progress report) error {
	l, err := few.measure(ctx, o.usual(), 0, o.duration)
	if err != nil {
		return err
	}
	// As many different requests to both as are sent at most in a round, so that the
	// generator has the same work, and no key is warm because the round before had it.
	n := max(o.distinct, 2*l.Requests)
	few.distinct, many.distinct, few.once = n, n, true
	all := many.keys
	for round := range o.rounds {
		many.keys = make([]string, n)
		for i := range many.keys {
			many.keys[i] = all[rand.IntN(len(all))]
		}
		for _, s := range turn(round, []*series{few, many}) {
			l, err := s.measure(ctx, o.usual(), 0, o.duration)
			if err != nil {
				return err
			}
			if s == few {
				r.FewRounds = append(r.FewRounds, l)
			} else {
				r.WarmRounds = append(r.WarmRounds, l)
			}
			progress("round %d of %d: %s: %.0f requests/s", round+1, o.rounds, s, l.PerSecond)
		}
	}
	r.Warm, r.Few = median(r.WarmRounds), median(r.FewRounds)
	r.Ratio = r.Warm.PerSecond / r.Few.PerSecond
	return nil
}

// mebibytes is what the server has in memory now, and had at most.
func (s *server) mebibytes() (now, most float64, err error) {
	const kib = 1024
	a, b, err := s.memory()
	return float64(a) / kib, float64(b) / kib, err
}
