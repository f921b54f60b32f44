package main

import (
	"fmt"
	"slices"
)

// Target is what is promised of a figure.
type Target struct {
	Name    string `json:"name"`
	Want    string `json:"want"`
	Got     string `json:"got"`
	Verdict string `json:"verdict"`
}

// The verdicts.
const (
	met    = "met"
	notMet = "NOT MET"
)

func verdict(ok bool) string {
	if ok {
		return met
	}
	return notMet
}

// What is promised.
const (
	bareShare      = 0.60 // of the bare handler's throughput with 32 and 128 connections
	bareShareTmpfs = 0.75 // with a disk that does not sync
	onePlusCPU     = 1.5  // how much of the CPU time per request one caller may wait
	timesBefore    = 2.5  // the throughput with 8 connections, of the program before
	openTimes      = 3.0  // the bare handler's p99 in the open loop
	openPlus       = 2.0  // ms
	openCPU        = 2.5  // the bare handler's CPU time per request in the open loop
	timesHSM       = 10
	readyAtMost    = 5000 // ms
	asFastAsFew    = 0.90
	randomShare    = 0.70 // of the throughput of ten keys, once warm
	coldAtMost     = 10.0 // ms
)

// judge holds figures against what is promised.
type judge struct {
	*Result
	targets []Target
}

func (j *judge) add(ok bool, name, want, got string) {
	j.targets = append(j.targets, Target{name, want, got, verdict(ok)})
}

// judged gives a verdict for each promise that was measured.
func (r *Result) judged() []Target {
	j := &judge{Result: r}
	for _, s := range r.Series {
		if s.Custody == "cached" {
			j.oneCaller(s)
			j.fewCallers(s)
			j.ofBare(s)
			j.openLoop(s)
			j.farToken(s)
		}
	}
	j.growth()
	return j.targets
}

// at gives the load with so many connections.
func (s Series) at(connections int) (Closed, bool) {
	i := slices.IndexFunc(s.Closed, func(c Closed) bool { return c.Connections == connections })
	if i < 0 {
		return Closed{}, false
	}
	return s.Closed[i], true
}

// find gives the series of a server that has the same requests.
func (r *Result) find(place, custody, operation string) (Series, bool) {
	i := slices.IndexFunc(r.Series, func(s Series) bool { return s.Place == place && s.Custody == custody && s.Operation == operation })
	if i < 0 {
		return Series{}, false
	}
	return r.Series[i], true
}

// oneCaller: what one caller waits for is the bare handler, the disk and our work.
func (j *judge) oneCaller(s Series) {
	one, ok := s.at(1)
	many, okMany := s.at(128)
	if s.Place != placeDurable || !ok || !okMany || j.Disk == nil {
		return
	}
	bare, _ := j.Series[0].at(1)
	want := bare.P50 + j.Disk.Fdatasync.P50 + onePlusCPU*many.CPU/1000
	j.add(one.P50 <= want, s.Operation+", 1 connection",
		fmt.Sprintf("p50 ≤ bare handler's %.3f ms + fdatasync's %.3f ms + 1.5 × CPU of %.0f µs = %.3f ms", bare.P50, j.Disk.Fdatasync.P50, many.CPU, want),
		fmt.Sprintf("%.3f ms", one.P50))
}

// fewCallers is held against the program before, if that is measured beside it.
func (j *judge) fewCallers(s Series) {
	few, ok := s.at(8)
	before, _ := j.find(placeBeside, s.Custody, s.Operation)
	earlier, okBefore := before.at(8)
	if s.Place != placeDurable || !ok || !okBefore {
		return
	}
	times := few.PerSecond / earlier.PerSecond
	j.add(times >= timesBefore, s.Operation+", 8 connections", "≥ 2.5 times the throughput of the other program", fmt.Sprintf("%.2f times", times))
}

func (j *judge) ofBare(s Series) {
	share := map[string]float64{placeDurable: bareShare, placeTmpfs: bareShareTmpfs}[s.Place]
	if share == 0 {
		return
	}
	for _, connections := range []int{32, 128} {
		if c, ok := s.at(connections); ok {
			j.add(c.OfBare >= share, fmt.Sprintf("%s, %d connections, %s", s.Operation, connections, s.Place),
				fmt.Sprintf("≥ %.0f %% of the bare handler's throughput", 100*share), fmt.Sprintf("%.0f %%", 100*c.OfBare))
		}
	}
}

func (j *judge) openLoop(s Series) {
	bare := j.Series[0].Open
	if s.Place != placeDurable || s.Open == nil || bare == nil {
		return
	}
	name := fmt.Sprintf("%s, %d/s", s.Operation, j.Settings.Rate)
	most := openTimes*bare.P99 + openPlus
	j.add(s.Open.P99 <= most, name, fmt.Sprintf("p99 ≤ 3 × bare handler's %.2f ms + 2 ms = %.2f ms", bare.P99, most), fmt.Sprintf("%.2f ms", s.Open.P99))
	j.add(s.Open.CPU <= openCPU*bare.CPU, name, fmt.Sprintf("CPU ≤ 2.5 × bare handler's %.0f µs = %.0f µs", bare.CPU, openCPU*bare.CPU), fmt.Sprintf("%.0f µs", s.Open.CPU))
}

// farToken: keys in memory do not wait for a token that is far.
func (j *judge) farToken(s Series) {
	inHSM, _ := j.find(placeFar, "hsm", s.Operation)
	cached, ok := s.at(j.Settings.Usual)
	far, okFar := inHSM.at(j.Settings.Usual)
	if s.Place != placeFar || !ok || !okFar {
		return
	}
	times := cached.PerSecond / far.PerSecond
	j.add(times >= timesHSM, s.Operation+", token 5 ms away", "cached ≥ 10 times the throughput of hsm custody", fmt.Sprintf("%.1f times", times))
}

func (j *judge) growth() {
	if r := j.Random; r != nil {
		name := fmt.Sprintf("Encrypt, %d keys at random", r.Keys)
		j.add(r.Ratio >= randomShare, name, "≥ 70 % of the throughput with ten keys, once warm", fmt.Sprintf("%.0f %%", 100*r.Ratio))
		j.add(r.Cold.P99 < coldAtMost, name, fmt.Sprintf("p99 of the first use of keys, %d/s, < 10 ms", j.Settings.Rate), fmt.Sprintf("%.2f ms", r.Cold.P99))
	}
	if len(j.Starts) == 0 {
		return
	}
	most := j.Starts[len(j.Starts)-1]
	j.add(most.Ready < readyAtMost, fmt.Sprintf("start with %d keys", most.Keys), "ready in less than 5 s", fmt.Sprintf("%.2f s", most.Ready/1000))
	for _, s := range j.Spreads {
		if s.Keys == most.Keys && s.Keys != s.Compared {
			j.add(s.Ratio >= asFastAsFew, fmt.Sprintf("Encrypt with %d of %d keys", s.Distinct, s.Keys),
				fmt.Sprintf("≥ 90 %% of the throughput with %d keys", s.Compared), fmt.Sprintf("%.0f %%", 100*s.Ratio))
		}
	}
}
