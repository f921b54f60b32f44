package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// sheet is a result for people to read: lines, then tables.
type sheet struct {
	title  string
	lines  []string
	tables []*grid
}

// grid is a table; each row is as long as the header.
type grid struct {
	title  string
	header []string
	rows   [][]string
}

// grid begins a table. Tabs separate columns.
func (s *sheet) grid(title, header string) *grid {
	g := &grid{title: title, header: strings.Split(header, "\t")}
	s.tables = append(s.tables, g)
	return g
}

func (g *grid) row(format string, args ...any) {
	g.rows = append(g.rows, strings.Split(fmt.Sprintf(format, args...), "\t"))
}

// text writes the sheet with aligned columns.
func (s *sheet) text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, s.title)
	for _, line := range s.lines {
		fmt.Fprintln(&b, line)
	}
	for _, g := range s.tables {
		if len(g.rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s\n", g.title)
		t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
		for _, row := range append([][]string{g.header}, g.rows...) {
			fmt.Fprintln(t, "  "+strings.Join(row, "\t"))
		}
		_ = t.Flush() // b is in memory
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes the sheet as Markdown, the tables under headings of the third level.
func (s *sheet) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", s.title)
	for _, line := range s.lines {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	for _, g := range s.tables {
		if len(g.rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n", g.title)
		rule := make([]string, len(g.header))
		for i := range rule {
			rule[i] = "---"
		}
		for _, row := range append([][]string{g.header, rule}, g.rows...) {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// sheet gives the result for people to read.
func (r *Result) sheet() *sheet {
	m, s := r.Machine, r.Settings
	out := &sheet{title: "Holdfast benchmark, " + r.Date.Format("2006-01-02 15:04 MST"), lines: []string{
		fmt.Sprintf("%s, %s, %d CPUs, Linux %s, load before %s.", m.Go, m.CPU, m.CPUs, m.Kernel, m.LoadBefore),
		fmt.Sprintf("Load generator and servers share the machine. Medians of %d rounds of %g s in turns, TLS 1.3, HTTP/1.1.", s.Rounds, s.Seconds),
		"CPU is of the server's process and of those that it has started, per request.",
	}}
	if len(s.Only) > 0 {
		out.lines = append(out.lines, "Only a part was measured: "+strings.Join(s.Only, ", ")+".")
	}
	r.closedTable(out)
	r.openTable(out)
	r.otherTables(out)
	r.randomTables(out)
	targets := out.grid("Targets", "what\twant\tgot\t")
	for _, t := range r.Targets {
		targets.row("%s\t%s\t%s\t%s", t.Name, t.Want, t.Got, t.Verdict)
	}
	return out
}

// what names the requests and the server of a series in two columns.
func (s Series) what() string {
	if s.Place == "" {
		return s.Server + "\t-"
	}
	return s.Server + "\t" + strings.TrimSuffix(s.Operation+", "+s.Custody, ", ")
}

func (r *Result) closedTable(out *sheet) {
	for _, n := range r.Settings.Connections {
		title := fmt.Sprintf("%d connections, each with one request after the other", n)
		if n == 1 {
			title = "1 connection, one request after the other"
		}
		g := out.grid(title, "server\trequests\tper second\tof bare\trounds\tp50 ms\tp99 ms\tp99.9 ms\tCPU µs\tgenerator's CPU µs")
		for _, s := range r.Series {
			if c, ok := s.at(n); ok {
				g.row("%s\t%.0f\t%.0f %%\t%s\t%.3f\t%.2f\t%.2f\t%s\t%.1f", s.what(), c.PerSecond, 100*c.OfBare, spreadOf(c.Rounds),
					c.P50, c.P99, c.P999, figure("%.1f", c.CPU), c.Generator)
			}
		}
	}
}

func (r *Result) openTable(out *sheet) {
	rate := r.Settings.Rate
	g := out.grid(fmt.Sprintf("%d requests/s, each sent when it is due, on %d connections; latency counts from when it was due", rate, r.Settings.Usual),
		fmt.Sprintf("server\trequests\tp50 ms\tp99 ms\tp99.9 ms\tCPU µs\tof bare\tvCPU at %d/s", rate))
	for _, s := range r.Series {
		switch bare := r.Series[0].Open; {
		case s.Open != nil && bare != nil:
			g.row("%s\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s", s.what(), s.Open.P50, s.Open.P99, s.Open.P999,
				figure("%.1f", s.Open.CPU), figure("%.2f x", s.Open.CPU/bare.CPU), figure("%.2f", s.Open.CPU*float64(rate)/1e6))
		case s.OpenMissing != "":
			g.row("%s\tn/a: %s\t\t\t\t\t", s.what(), s.OpenMissing)
		}
	}
}

func (r *Result) otherTables(out *sheet) {
	if d := r.Disk; d != nil {
		g := out.grid(fmt.Sprintf("The disk alone (%s): a write of %d bytes into reserved space", d.FileSystem, d.Bytes), "how\twrites\tp50 ms\tp99 ms\tp99.9 ms")
		g.row("write and fdatasync\t%d\t%.3f\t%.2f\t%.2f", d.Fdatasync.Writes, d.Fdatasync.P50, d.Fdatasync.P99, d.Fdatasync.P999)
		g.row("pwritev2 with RWF_DSYNC\t%d\t%.3f\t%.2f\t%.2f", d.Dsync.Writes, d.Dsync.P50, d.Dsync.P99, d.Dsync.P999)
	}
	memory := out.grid("Memory after all loads", "server\tRSS MiB\tpeak RSS MiB")
	for _, m := range r.Memory {
		memory.row("%s\t%.0f\t%.0f", m.Server, m.RSS, m.Peak)
	}
	handlers := out.grid("The handler alone, without net/http and TLS", "handler\tallocations\tbytes\tµs")
	for _, h := range r.Handlers {
		handlers.row("%s\t%d\t%d\t%.1f", h.Name, h.Allocs, h.Bytes, h.Micros)
	}
	starts := out.grid("Start, from the execution of the program", "keys\tready ms\tfirst Encrypt ms\tRSS MiB\tpeak RSS MiB")
	for _, s := range r.Starts {
		starts.row("%d\t%.0f\t%.0f\t%.0f\t%.0f", s.Keys, s.Ready, s.FirstEncrypt, s.RSS, s.PeakRSS)
	}
	spreads := out.grid("Encrypt, cached, by how many keys there are", "keys\tof them used\tper second\tratio\tp50 ms\tp99 ms\tCPU µs")
	for _, s := range r.Spreads {
		spreads.row("%d\t%d\t%.0f\t%.0f %% of %d keys\t%.2f\t%.2f\t%.1f", s.Keys, s.Distinct, s.Load.PerSecond, 100*s.Ratio, s.Compared, s.Load.P50, s.Load.P99, s.Load.CPU)
	}
}

func (r *Result) randomTables(out *sheet) {
	m := r.Random
	if m == nil {
		return
	}
	limit := "the default of keys.max_unlocked"
	if m.Unlocked > 0 {
		limit = fmt.Sprintf("keys.max_unlocked = %d", m.Unlocked)
	}
	g := out.grid(fmt.Sprintf("Encrypt, cached, with keys drawn at random from %d; %s", m.Keys, limit), "what\tper second\tp50 ms\tp99 ms\tp99.9 ms\tCPU µs")
	row := func(what string, l Load) {
		if l.Requests > 0 {
			g.row("%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.1f", what, l.PerSecond, l.P50, l.P99, l.P999, l.CPU)
		}
	}
	row(fmt.Sprintf("first use of a key since the start, at %d/s", r.Settings.Rate), m.Cold)
	row("first use of the others, as fast as it answers", m.First)
	row(fmt.Sprintf("warm, %d keys were used (%.0f %% of ten keys)", m.Touched, 100*m.Ratio), m.Warm)
	row("ten keys, on a server that has no more", m.Few)
	memory := out.grid("Memory with keys at random", "after the start MiB\tafter their first use MiB\tpeak MiB\tKiB for each key")
	memory.row("%.0f\t%.0f\t%.0f\t%.2f", m.Start, m.After, m.Peak, m.PerKey)
}

// figure writes a figure, or a dash if it was not measured.
func figure(format string, value float64) string {
	if value == 0 {
		return "-"
	}
	return fmt.Sprintf(format, value)
}

// spreadOf says how far the rounds of one measurement are apart: the closer, the
// quieter the machine was.
func spreadOf(rounds []Load) string {
	least, most := rounds[0].PerSecond, rounds[0].PerSecond
	for _, l := range rounds {
		least, most = min(least, l.PerSecond), max(most, l.PerSecond)
	}
	return fmt.Sprintf("%.0f to %.0f", least, most)
}
