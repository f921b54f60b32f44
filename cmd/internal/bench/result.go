package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what bench.json holds.
type Result struct {
	Date     time.Time `json:"date"`
	Machine  Machine   `json:"machine"`
	Settings Settings  `json:"settings"`
	// Series begins with the bare handler.
	Series   []Series  `json:"series"`
	Handlers []Handler `json:"handlers"`
	Starts   []Start   `json:"starts"`
	Spreads  []Spread  `json:"spreads"`
	Targets  []Target  `json:"targets"`
}

// Machine is where it was measured.
type Machine struct {
	Go     string `json:"go"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	// LoadBefore is the load average of the last minute before the run: what
	// others do on the machine spoils the figures.
	LoadBefore string `json:"load_before"`
}

// Settings are how it was measured.
type Settings struct {
	Connections int     `json:"connections"`
	Rate        int     `json:"rate"`
	Seconds     float64 `json:"seconds_per_round"`
	Rounds      int     `json:"rounds"`
	TokenAway   float64 `json:"token_away_ms"`
}

// Load is what one measurement gave, or the median of several.
type Load struct {
	Requests  int     `json:"requests"`
	PerSecond float64 `json:"requests_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	// CPU is what the server's process and its module processes used, whatever the load generator
	// took of the machine.
	CPU float64 `json:"server_cpu_us_per_request"`
}

// Series is one kind of request to one server.
type Series struct {
	Name      string `json:"name"`
	Token     string `json:"token,omitempty"`
	Custody   string `json:"custody,omitempty"`
	Operation string `json:"operation"`
	// Closed is as fast as the server answers, Open at the rate of the settings.
	// Latency in Open counts from when a request was due.
	Closed Load `json:"closed_loop"`
	// OfBare is the throughput as a share of the bare handler's.
	OfBare       float64 `json:"of_bare"`
	Open         *Load   `json:"open_loop,omitempty"`
	OpenMissing  string  `json:"open_loop_missing,omitempty"`
	ClosedRounds []Load  `json:"closed_loop_rounds"`
	OpenRounds   []Load  `json:"open_loop_rounds,omitempty"`
}

// Handler is what one request costs in the handler alone.
type Handler struct {
	Name   string  `json:"name"`
	Allocs int64   `json:"allocs_per_request"`
	Bytes  int64   `json:"bytes_per_request"`
	Micros float64 `json:"us_per_request"`
}

// Start is how a server with so many keys starts: times since its program was
// executed, with the database in the kernel's page cache.
type Start struct {
	Keys         int     `json:"keys"`
	Ready        float64 `json:"ready_ms"`
	FirstEncrypt float64 `json:"first_encrypt_ms"`
	RSS          float64 `json:"rss_mib"`
	PeakRSS      float64 `json:"peak_rss_mib"`
}

// Spread is the throughput of Encrypt over a number of different keys out of
// all there are.
type Spread struct {
	Keys     int    `json:"keys"`
	Distinct int    `json:"distinct_keys"`
	Load     Load   `json:"closed_loop"`
	Rounds   []Load `json:"closed_loop_rounds"`
	// Ratio is to the throughput with Compared keys in the key store.
	Compared int     `json:"compared_with_keys"`
	Ratio    float64 `json:"ratio"`
}

// Target is what is promised of a figure.
type Target struct {
	Name string `json:"name"`
	Want string `json:"want"`
	Got  string `json:"got"`
	Met  bool   `json:"met"`
}

// thisMachine says where this runs.
func thisMachine() Machine {
	m := Machine{Go: runtime.Version(), CPU: "unknown", CPUs: runtime.NumCPU(), Kernel: "unknown", LoadBefore: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m.CPU = strings.Trim(line, "\t :")
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadBefore, _, _ = strings.Cut(string(text), " ")
	}
	return m
}

// What is promised.
const (
	shareOfBare  = 0.60
	timesHSM     = 10
	readyAtMost  = 5000 // ms
	asFastAsFew  = 0.90
	wantShare    = "at least 60 % of the bare handler's throughput"
	wantTimesHSM = "at least 10 times the throughput of hsm custody"
)

// targets holds the figures against what is promised.
func (r *Result) targets() []Target {
	var out []Target
	add := func(met bool, name, want, got string, args ...any) {
		out = append(out, Target{Name: name, Want: want, Got: fmt.Sprintf(got, args...), Met: met})
	}
	for _, s := range r.Series {
		if s.Custody == "cached" && s.Token == tokenLocal {
			add(s.OfBare >= shareOfBare, "cached "+s.Operation, wantShare, "%.0f %%", 100*s.OfBare)
		}
	}
	for _, s := range r.Series {
		if s.Custody == "cached" && s.Token == tokenFar {
			times := s.Closed.PerSecond / r.inHSM(s).PerSecond
			add(times >= timesHSM, "cached "+s.Operation+", token "+s.Token, wantTimesHSM, "%.1f times", times)
		}
	}
	most := r.Starts[len(r.Starts)-1]
	add(most.Ready < readyAtMost, fmt.Sprintf("start with %d keys", most.Keys), "ready in less than 5 s", "%.2f s", most.Ready/1000)
	for _, s := range r.Spreads {
		if s.Keys == most.Keys && s.Keys != s.Compared {
			add(s.Ratio >= asFastAsFew, fmt.Sprintf("Encrypt with %d of %d keys", s.Distinct, s.Keys),
				fmt.Sprintf("at least 90 %% of the throughput with %d keys", s.Compared), "%.0f %%", 100*s.Ratio)
		}
	}
	return out
}

// inHSM gives the load of the same requests with keys in HSM custody.
func (r *Result) inHSM(cached Series) Load {
	for _, s := range r.Series {
		if s.Custody == "hsm" && s.Token == cached.Token && s.Operation == cached.Operation {
			return s.Closed
		}
	}
	return Load{}
}
