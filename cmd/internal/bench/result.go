package main

import (
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
	Disk     *Disk     `json:"disk,omitempty"`
	// Series begins with the bare handler.
	Series   []Series  `json:"series,omitempty"`
	Memory   []Memory  `json:"memory,omitempty"`
	Handlers []Handler `json:"handlers,omitempty"`
	Starts   []Start   `json:"starts,omitempty"`
	Spreads  []Spread  `json:"spreads,omitempty"`
	Random   *Random   `json:"random,omitempty"`
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
	Only        []string `json:"only,omitempty"`
	Connections []int    `json:"connections"`
	// Usual is the number of connections of what is measured with one number alone.
	Usual     int     `json:"usual_connections"`
	Rate      int     `json:"rate"`
	Seconds   float64 `json:"seconds_per_round"`
	Rounds    int     `json:"rounds"`
	TokenAway float64 `json:"token_away_ms"`
}

// Load is what one measurement gave, or the median of several.
type Load struct {
	Requests  int     `json:"requests"`
	PerSecond float64 `json:"requests_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	// CPU is what the server's process and its module processes used, whatever the load generator
	// took of the machine.
	CPU float64 `json:"server_cpu_us_per_request"`
	// Generator is what the load generator used.
	Generator float64 `json:"generator_cpu_us_per_request"`
}

// Series is one kind of request to one server.
type Series struct {
	Name   string `json:"name"`
	Server string `json:"server"`
	// Place is the word of the server, such as durable; "" for the bare handler.
	Place     string   `json:"place,omitempty"`
	Custody   string   `json:"custody,omitempty"`
	Operation string   `json:"operation"`
	Closed    []Closed `json:"closed_loops,omitempty"`
	// Open is at the rate of the settings. Its latency counts from when a request was due.
	Open        *Load  `json:"open_loop,omitempty"`
	OpenMissing string `json:"open_loop_missing,omitempty"`
	OpenRounds  []Load `json:"open_loop_rounds,omitempty"`
}

// Closed is how fast a server answers on so many connections, of which each has the next
// request as soon as the one before is answered.
type Closed struct {
	Connections int `json:"connections"`
	Load
	// OfBare is the throughput as a share of the bare handler's.
	OfBare float64 `json:"of_bare"`
	Rounds []Load  `json:"rounds"`
}

// Memory is what a server has in memory after all its loads, and had at most, in MiB.
type Memory struct {
	Server string  `json:"server"`
	RSS    float64 `json:"rss_mib"`
	Peak   float64 `json:"peak_rss_mib"`
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
