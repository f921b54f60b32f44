package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance"
)

// fewDistinct and manyDistinct are over how many keys requests are spread when
// key stores of different sizes are compared.
const (
	fewDistinct  = 10
	manyDistinct = 1000
)

// filled is an installation with so many keys.
type filled struct {
	*installation
	keys int
	// ids are a sample of them, evenly from among all.
	ids []string
}

// grow makes an installation per number of keys, and measures how each starts
// and serves.
func (s *site) grow(ctx context.Context, o options, r *Result, progress report) error {
	sizes := o.keys
	if !o.only.has(partKeys) {
		sizes = slices.Compact([]int{sizes[0], sizes[len(sizes)-1]}) // what is drawn from needs no others
	}
	var all []*filled
	for i, n := range sizes {
		in := &installation{site: s, program: o.program, place: fmt.Sprintf("with-%d-keys", n), root: s.dir,
			name: fmt.Sprintf("Holdfast with %d keys", n), module: s.module}
		f := &filled{installation: in, keys: n}
		sample := manyDistinct
		if i == len(sizes)-1 && o.only.has(partRandom) {
			sample = n
		}
		if err := f.make(ctx, sample, progress); err != nil {
			return err
		}
		all = append(all, f)
	}
	unix.Sync() // else the kernel writes the databases back while others are measured
	var err error
	if o.only.has(partKeys) {
		if r.Starts, err = measureStarts(ctx, o, all, progress); err != nil {
			return err
		}
		if r.Spreads, err = measureSpreads(ctx, o, all, progress); err != nil {
			return err
		}
	}
	if o.only.has(partRandom) {
		r.Random, err = measureRandom(ctx, o, all[0], all[len(all)-1].withUnlocked(o.unlocked), progress)
	}
	return err
}

// make makes the key store with a running server and the keys without it, and keeps the IDs of a sample.
func (f *filled) make(ctx context.Context, sample int, progress report) error {
	h, err := f.startReady(ctx)
	if err != nil {
		return err
	}
	err = f.provision(ctx, h)
	h.stop()
	if err != nil {
		return h.explain(err)
	}
	began := time.Now()
	f.ids, err = f.fill(ctx, f.keys, sample, func(done int) {
		if done%100_000 == 0 || done == f.keys {
			progress("load keys: %d of %d, %.0f keys/s", done, f.keys, float64(done)/time.Since(began).Seconds())
		}
	})
	if err != nil {
		return fmt.Errorf("load %d keys: %w", f.keys, err)
	}
	return nil
}

// maxStarts bounds how often a server is started for the median.
const maxStarts = 3

func measureStarts(ctx context.Context, o options, all []*filled, progress report) ([]Start, error) {
	rounds := make([][]startRound, len(all))
	for range min(o.rounds, maxStarts) {
		for i, f := range all {
			r, err := f.measureStart(ctx)
			if err != nil {
				return nil, err
			}
			progress("start with %d keys: ready after %.0f ms", f.keys, r.ready)
			rounds[i] = append(rounds[i], r)
		}
	}
	var out []Start
	for i, f := range all {
		of := func(figure func(startRound) float64) float64 {
			var values []float64
			for _, r := range rounds[i] {
				values = append(values, figure(r))
			}
			return middle(values)
		}
		out = append(out, Start{Keys: f.keys,
			Ready:        of(func(r startRound) float64 { return r.ready }),
			FirstEncrypt: of(func(r startRound) float64 { return r.firstEncrypt }),
			RSS:          of(func(r startRound) float64 { return r.rss }),
			PeakRSS:      of(func(r startRound) float64 { return r.peak }),
		})
	}
	return out, nil
}

// startRound is one start: times in ms since the program was executed, memory
// in MiB.
type startRound struct{ ready, firstEncrypt, rss, peak float64 }

func (f *filled) measureStart(ctx context.Context) (startRound, error) {
	h, err := f.start()
	if err != nil {
		return startRound{}, err
	}
	defer h.stop()
	first, err := h.encrypts(f.ids, 1)
	if err != nil {
		return startRound{}, err
	}
	ready, err := h.waitReady(ctx)
	if err != nil {
		return startRound{}, err
	}
	// The request brings TLS connection and key with it, as the first of KMS.
	g, err := connect(ctx, h.addr, h.trust, 1)
	if err != nil {
		return startRound{}, h.explain(err)
	}
	defer g.close()
	var encrypted time.Duration
	err = g.once(first, func(int, []byte) error {
		encrypted = time.Since(h.began)
		return nil
	})
	if err != nil {
		return startRound{}, h.explain(err)
	}
	rss, peak, err := h.memory()
	const mib = 1024 // in KiB
	return startRound{milliseconds(ready), milliseconds(encrypted), float64(rss) / mib, float64(peak) / mib}, err
}

// measureSpreads runs all the servers at once and measures them in turns. The
// same number of different keys is used in each, so that the number of keys
// there are is all that differs.
func measureSpreads(ctx context.Context, o options, all []*filled, progress report) ([]Spread, error) {
	type spread struct {
		*series
		of       *filled
		distinct int
		rounds   []Load
	}
	var spreads []*spread
	for _, f := range all {
		h, err := f.startReady(ctx)
		if err != nil {
			return nil, err
		}
		defer h.stop()
		for _, distinct := range []int{fewDistinct, manyDistinct} {
			if ids := evenly(f.ids, distinct); len(ids) == distinct {
				s := &series{custody: string(appliance.CustodyCached), operation: appliance.OpEncrypt,
					server: h, keys: ids, distinct: max(o.distinct, distinct)}
				spreads = append(spreads, &spread{series: s, of: f, distinct: distinct})
			}
		}
	}
	// Those that are compared stand side by side in time.
	slices.SortStableFunc(spreads, func(a, b *spread) int { return a.distinct - b.distinct })
	for round := range o.rounds {
		for _, s := range turn(round, spreads) {
			l, err := s.measure(ctx, o.usual(), 0, o.duration)
			if err != nil {
				return nil, err
			}
			s.rounds = append(s.rounds, l)
			progress("round %d of %d: Encrypt with %d of %d keys: %.0f requests/s", round+1, o.rounds, s.distinct, s.of.keys, l.PerSecond)
		}
	}
	var out []Spread
	for _, s := range spreads {
		out = append(out, Spread{Keys: s.of.keys, Distinct: s.distinct, Load: median(s.rounds), Rounds: s.rounds})
	}
	for i := range out {
		// The first with the same number of different keys has the fewest keys.
		first := slices.IndexFunc(out, func(s Spread) bool { return s.Distinct == out[i].Distinct })
		out[i].Compared = out[first].Keys
		out[i].Ratio = out[i].Load.PerSecond / out[first].Load.PerSecond
	}
	return out, nil
}

// evenly gives n of the items, or all if there are fewer.
func evenly(items []string, n int) []string {
	if len(items) <= n {
		return items
	}
	out := make([]string, n)
	for i := range out {
		out[i] = items[i*len(items)/n]
	}
	return out
}
