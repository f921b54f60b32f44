package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// print writes the result for people to read.
func (r *Result) print(w io.Writer) error {
	var b strings.Builder
	m, s := r.Machine, r.Settings
	fmt.Fprintf(&b, "Holdfast benchmark, %s\n", r.Date.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(&b, "%s, %s, %d CPUs, Linux %s, load before %s\n", m.Go, m.CPU, m.CPUs, m.Kernel, m.LoadBefore)
	fmt.Fprintf(&b, "Load and servers share the machine. Medians of %d rounds of %g s, %d connections, TLS 1.3, HTTP/1.1.\n", s.Rounds, s.Seconds, s.Connections)
	fmt.Fprintf(&b, "CPU is of the server's process and of those that it has started, per request. At %d requests/s latency counts from when a request was due.\n", s.Rate)
	fmt.Fprintf(&b, "Rounds of the bare handler: %s. The closer they are, the quieter the machine was, and the more the figures are worth.\n", spreadOf(r.Series[0].ClosedRounds))

	table(&b, "Requests", fmt.Sprintf("token\tcustody\toperation\trequests/s\tof bare\tp50 ms\tp99 ms\tCPU us\tof bare\tat %d/s: p50 ms\tp99 ms", s.Rate), func(row func(string, ...any)) {
		bare := r.Series[0].Closed
		for _, s := range r.Series {
			open := "n/a\t" + s.OpenMissing
			if s.Open != nil {
				open = fmt.Sprintf("%.2f\t%.2f", s.Open.P50, s.Open.P99)
			}
			token, custody, operation := s.Token, s.Custody, s.Operation
			if s.Custody == "" {
				token, custody, operation = "-", "-", "bare handler"
			}
			l := s.Closed
			row("%s\t%s\t%s\t%.0f\t%.0f %%\t%.2f\t%.2f\t%.1f\t%.2f x\t%s", token, custody, operation, l.PerSecond, 100*s.OfBare,
				l.P50, l.P99, l.CPU, l.CPU/bare.CPU, open)
		}
	})
	table(&b, "The handler alone, without net/http and TLS", "handler\tallocations\tbytes\tus", func(row func(string, ...any)) {
		for _, h := range r.Handlers {
			row("%s\t%d\t%d\t%.1f", h.Name, h.Allocs, h.Bytes, h.Micros)
		}
	})
	table(&b, "Start, from the execution of the program", "keys\tready ms\tfirst Encrypt ms\tRSS MiB\tpeak RSS MiB", func(row func(string, ...any)) {
		for _, s := range r.Starts {
			row("%d\t%.0f\t%.0f\t%.0f\t%.0f", s.Keys, s.Ready, s.FirstEncrypt, s.RSS, s.PeakRSS)
		}
	})
	table(&b, "Encrypt, cached, by how many keys there are", "keys\tof them used\trequests/s\tratio\tp50 ms\tp99 ms\tCPU us", func(row func(string, ...any)) {
		for _, s := range r.Spreads {
			row("%d\t%d\t%.0f\t%.0f %% of %d keys\t%.2f\t%.2f\t%.1f", s.Keys, s.Distinct, s.Load.PerSecond, 100*s.Ratio, s.Compared, s.Load.P50, s.Load.P99, s.Load.CPU)
		}
	})
	table(&b, "Targets", "what\twant\tgot\t", func(row func(string, ...any)) {
		for _, t := range r.Targets {
			verdict := "met"
			if !t.Met {
				verdict = "NOT MET"
			}
			row("%s\t%s\t%s\t%s", t.Name, t.Want, t.Got, verdict)
		}
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// spreadOf says how far the rounds of one measurement are apart.
func spreadOf(rounds []Load) string {
	least, most := rounds[0].PerSecond, rounds[0].PerSecond
	for _, l := range rounds {
		least, most = min(least, l.PerSecond), max(most, l.PerSecond)
	}
	return fmt.Sprintf("%.0f to %.0f requests/s", least, most)
}

// table writes a title and aligned columns, which tabs separate.
func table(w io.Writer, title, header string, rows func(row func(format string, args ...any))) {
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, "  "+format+"\n", args...) }
	row("%s", header)
	rows(row)
	_ = t.Flush() // w is in memory
}
