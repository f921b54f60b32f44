// Package activity counts KMS's requests by the minute, for the console's charts:
// a day of them, in memory, gone with the process. Metrics for Prometheus are
// elsewhere.
package activity

import (
	"math"
	"sync/atomic"
	"time"

	"holdfast/appliance"
)

// Minutes is how many minutes are kept.
const Minutes = 24 * 60

// Edges are the upper edges of the latency buckets. KMS gives up after 250 ms
// (spec, Response Timeouts).
var Edges = [...]time.Duration{500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second}

// Minute is what happened in one minute.
type Minute struct {
	// Start is its beginning, in UTC.
	Start time.Time `json:"start" jsonschema:"The beginning of the minute, in UTC."`
	// Requests were answered. Of them, Refused were not performed because of what the
	// caller asked, Failed because of the appliance ([appliance.Outcome.Result]).
	Requests uint64 `json:"requests" jsonschema:"How many requests of KMS were answered."`
	Refused  uint64 `json:"refused" jsonschema:"How many of the requests were refused because of what the caller asked."`
	Failed   uint64 `json:"failed" jsonschema:"How many of the requests failed because of the appliance."`
	// P50 and P99 are latencies in milliseconds, of which half and 99 of 100 requests
	// had no more: upper edges of buckets. 0 without requests.
	P50 float64 `json:"p50_ms" jsonschema:"The latency in milliseconds that half of the requests did not exceed; 0 without requests."`
	P99 float64 `json:"p99_ms" jsonschema:"The latency in milliseconds that 99 of 100 requests did not exceed; 0 without requests."`
	// Slow took longer than KMS waits, 250 ms.
	Slow uint64 `json:"slow" jsonschema:"How many requests took longer than KMS waits, 250 ms."`
}

// slot counts one minute. Counts that are made just when a slot is taken over by
// another minute may be lost: it is for charts.
type slot struct {
	minute          atomic.Int64 // since 1970
	refused, failed atomic.Uint64
	buckets         [len(Edges) + 1]atomic.Uint64
	_               [64]byte // of its own cache line
}

// Recorder counts. Its methods may be called concurrently; counting costs some
// nanoseconds.
type Recorder struct {
	now   func() time.Time
	slots [Minutes]slot
}

// New makes a Recorder with a clock; time.Now if nil.
func New(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now}
}

// Observe counts a request by its result and duration.
func (r *Recorder) Observe(o *appliance.Outcome) {
	minute := r.now().Unix() / 60
	s := &r.slots[minute%Minutes]
	if was := s.minute.Load(); was != minute && s.minute.CompareAndSwap(was, minute) {
		s.refused.Store(0)
		s.failed.Store(0)
		for i := range s.buckets {
			s.buckets[i].Store(0)
		}
	}
	switch o.Result() {
	case appliance.ResultFailed:
		s.failed.Add(1)
	case appliance.ResultRefused, appliance.ResultDenied:
		s.refused.Add(1)
	}
	i := 0
	for i < len(Edges) && o.Took > Edges[i] {
		i++
	}
	s.buckets[i].Add(1)
}

// Count is what was counted in a minute. Counts of several recorders can be added, which
// quantiles cannot.
type Count struct {
	// Minute is how many minutes after 1970 it began.
	Minute  int64  `json:"minute"`
	Refused uint64 `json:"refused"`
	Failed  uint64 `json:"failed"`
	// Buckets are the requests by latency: one bucket for each of [Edges], and one for what
	// took longer.
	Buckets [len(Edges) + 1]uint64 `json:"buckets"`
}

// Counts gives those of the last n minutes, at most [Minutes], that had requests.
func (r *Recorder) Counts(n int) (list []Count) {
	present := r.now().Unix() / 60
	for minute := present - int64(min(n, Minutes)) + 1; minute <= present; minute++ {
		s := &r.slots[minute%Minutes]
		if s.minute.Load() != minute {
			continue
		}
		c := Count{Minute: minute, Refused: s.refused.Load(), Failed: s.failed.Load()}
		for i := range c.Buckets {
			c.Buckets[i] = s.buckets[i].Load()
		}
		list = append(list, c)
	}
	return list
}

// Last gives the last n minutes, at most [Minutes], the present one at the end. Others are
// the counts of other recorders, of the same minutes, to be added.
func (r *Recorder) Last(n int, others ...[]Count) []Minute {
	n = min(n, Minutes)
	sums := map[int64]Count{}
	for _, counts := range append(others, r.Counts(n)) {
		for _, c := range counts {
			sum := sums[c.Minute]
			sum.Refused += c.Refused
			sum.Failed += c.Failed
			for i := range c.Buckets {
				sum.Buckets[i] += c.Buckets[i]
			}
			sums[c.Minute] = sum
		}
	}
	present := r.now().Unix() / 60
	list := make([]Minute, 0, max(n, 0))
	for minute := present - int64(n) + 1; minute <= present; minute++ {
		list = append(list, sums[minute].of(minute))
	}
	return list
}

// of gives the minute of which the count is.
func (c Count) of(minute int64) Minute {
	m := Minute{Start: time.Unix(minute*60, 0).UTC(), Refused: c.Refused, Failed: c.Failed}
	for i, n := range c.Buckets {
		m.Requests += n
		if i > 0 && Edges[i-1] >= 250*time.Millisecond {
			m.Slow += n
		}
	}
	m.P50, m.P99 = quantile(c.Buckets[:], m.Requests, .5), quantile(c.Buckets[:], m.Requests, .99)
	return m
}

// quantile gives the upper edge, in milliseconds, of the bucket with that
// request; twice the last edge stands for what is beyond.
func quantile(counts []uint64, total uint64, q float64) float64 {
	if total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(total)))
	for i, n := range counts {
		if n >= rank && i < len(Edges) {
			return float64(Edges[i]) / float64(time.Millisecond)
		}
		rank -= min(n, rank)
	}
	return 2 * float64(Edges[len(Edges)-1]) / float64(time.Millisecond)
}
