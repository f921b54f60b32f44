package conformance

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// kmsTimeout: spec, KMS considerations of every operation.
	kmsTimeout    = 250 * time.Millisecond
	timeoutSource = "spec: KMS considerations"
)

// Latency is how long one operation took, one request after the other on an
// open connection.
type Latency struct {
	Operation string  `json:"operation"`
	Count     int     `json:"count"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Max       float64 `json:"max_ms"`
	// InTime says whether the 99th percentile is under KMS's 250 ms.
	InTime bool `json:"in_time"`
}

// Load is what came of a [LoadPlan].
type Load struct {
	Connections int     `json:"connections"`
	Asked       int     `json:"asked_per_second"`
	Reached     float64 `json:"reached_per_second"`
	Requests    int     `json:"requests"`
	Errors      int     `json:"errors"`
	Throttled   int     `json:"throttled"`
	// P50 and P99 count from when a request was due, not from when a connection
	// was free for it.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

// loadChecks come last, when nothing else disturbs them much.
func loadChecks() []check {
	var list []check
	for _, op := range operations {
		list = append(list, check{id: "latency/" + op.word, rule: op.name + " is answered within KMS's 250 ms (99th percentile).", source: timeoutSource,
			run: func(ctx context.Context, s *session) verdict { return s.measure(ctx, op) }})
	}
	return append(list, check{id: "load/rate", rule: "The rate asked for is served without errors and within 250 ms (99th percentile).",
		source: timeoutSource, run: applyLoad,
		needs: need{"a load to apply", func(t *Target) string {
			if t.Load.Rate <= 0 {
				return ""
			}
			return "given"
		}}})
}

// sample makes bodies for an operation that succeeds.
func (s *session) sample(ctx context.Context, op operation) (func() object, error) {
	plaintext := random(32) // a data key, which is what KMS mostly sends
	if op != decrypt {
		return func() object {
			if op == encrypt {
				return s.encryptBody(plaintext, theAAD)
			}
			return s.request(op)
		}, nil
	}
	c, err := s.encrypt(ctx, plaintext, theAAD)
	if err != nil {
		return nil, err
	}
	return func() object { return s.decryptBody(c, theAAD) }, nil
}

func (s *session) measure(ctx context.Context, op operation) verdict {
	body, err := s.sample(ctx, op)
	if err != nil {
		return notRun("%v", err)
	}
	var took []time.Duration
	for range s.limits.samples {
		a := s.ask(ctx, op, s.target.KeyID, body())
		if !a.ok() {
			return wantOK(a)
		}
		took = append(took, a.took)
	}
	l := Latency{Operation: op.name, Count: len(took)}
	l.P50, l.P99, l.Max = percentiles(took)
	l.InTime = l.P99 < milliseconds(kmsTimeout)
	s.latency = append(s.latency, l)
	detail := fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", l.P50, l.P99, l.Max)
	switch {
	case !l.InTime:
		return fail("%s", detail)
	case l.Max >= milliseconds(kmsTimeout):
		return warn("%s: KMS would have given up on some", detail)
	}
	return pass("%s", detail)
}

// applyLoad sends requests when they are due, whether or not earlier ones have
// been answered, as long as a connection is free.
func applyLoad(ctx context.Context, s *session) verdict {
	bodies := make([]func() object, 2)
	for i, op := range []operation{encrypt, decrypt} {
		var err error
		if bodies[i], err = s.sample(ctx, op); err != nil {
			return notRun("%v", err)
		}
	}
	plan := s.target.Load
	total := max(1, int(float64(plan.Rate)*plan.Duration.Seconds()))
	client := s.client(false)
	defer client.CloseIdleConnections()
	var (
		next, errors, throttled atomic.Int64
		took                    = make([]time.Duration, total)
		done                    atomic.Int64
		workers                 sync.WaitGroup
		begin                   = time.Now()
	)
	// A proxy that cannot keep up does not make the load last for ever.
	bounded, cancel := context.WithTimeout(ctx, 3*plan.Duration+s.target.Timeout)
	defer cancel()
	work := func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			i := int(next.Add(1)) - 1
			if i >= total {
				return
			}
			due := begin.Add(time.Duration(float64(i) / float64(plan.Rate) * float64(time.Second)))
			timer.Reset(time.Until(due))
			select {
			case <-bounded.Done():
				return
			case <-timer.C:
			}
			c := s.call([]operation{encrypt, decrypt}[i%2], s.target.KeyID, bodies[i%2]())
			c.client = client
			switch a := s.sendOnce(bounded, c); {
			case a.status == http.StatusTooManyRequests:
				throttled.Add(1)
			case !a.ok():
				errors.Add(1)
			default:
				took[done.Add(1)-1] = time.Since(due)
			}
		}
	}
	for range plan.Connections {
		workers.Go(work)
	}
	workers.Wait()
	good := int(done.Load())
	l := Load{Connections: plan.Connections, Asked: plan.Rate, Errors: int(errors.Load()), Throttled: int(throttled.Load()),
		Reached: float64(good) / max(time.Since(begin), plan.Duration).Seconds()}
	l.Requests = good + l.Errors + l.Throttled
	l.P50, l.P99, _ = percentiles(took[:good])
	s.load = &l
	detail := fmt.Sprintf("%.0f of %d requests/s, %d errors, %d throttled, p50 %.2f ms, p99 %.2f ms", l.Reached, l.Asked, l.Errors, l.Throttled, l.P50, l.P99)
	switch {
	case l.Errors > 0, l.P99 >= milliseconds(kmsTimeout):
		return fail("%s", detail)
	case l.Throttled > 0, l.Reached < 0.95*float64(l.Asked):
		return warn("%s", detail)
	}
	return pass("%s", detail)
}

// percentiles are the median, the 99th percentile and the maximum, in ms, by
// the nearest-rank method.
func percentiles(took []time.Duration) (p50, p99, longest float64) {
	if len(took) == 0 {
		return 0, 0, 0
	}
	slices.Sort(took)
	rank := func(p float64) float64 {
		return milliseconds(took[int(math.Ceil(p*float64(len(took))))-1])
	}
	return rank(0.50), rank(0.99), rank(1)
}

func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
