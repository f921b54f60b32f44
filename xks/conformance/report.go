package conformance

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found. Its JSON form is for machines.
type Report struct {
	Target   string        `json:"target"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"`
	Summary  Summary       `json:"summary"`
	Results  []Result      `json:"results"`
	Latency  []Latency     `json:"latency,omitempty"`
	Load     *Load         `json:"load,omitempty"`
}

// Summary counts the outcomes.
type Summary struct {
	Pass   int `json:"pass"`
	Fail   int `json:"fail"`
	Warn   int `json:"warn"`
	NotRun int `json:"not_run"`
}

func summarize(results []Result) Summary {
	count := map[Outcome]int{}
	for _, r := range results {
		count[r.Outcome]++
	}
	return Summary{count[Pass], count[Fail], count[Warn], count[NotRun]}
}

// Failed is how many rules the proxy broke.
func (r Report) Failed() int { return summarize(r.Results).Fail }

// marks are the outcomes as the table shows them.
var marks = map[Outcome]string{Pass: "pass", Fail: "FAIL", Warn: "warn", NotRun: "-"}

// WriteTable writes the report for people: a line for each check, the times,
// and at the end the rules that were broken.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "XKS conformance of %s, %s\n\n", r.Target, r.Started.Format(time.RFC3339))
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, result := range r.Results {
		fmt.Fprintf(table, "%s\t%s\t%s\n", marks[result.Outcome], result.ID, result.Detail)
	}
	if len(r.Latency) > 0 {
		fmt.Fprintf(table, "\nOPERATION\tREQUESTS\tP50 ms\tP99 ms\tMAX ms\tUNDER 250 ms\n")
		for _, l := range r.Latency {
			fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%.2f\t%s\n", l.Operation, l.Count, l.P50, l.P99, l.Max, yesNo(l.InTime))
		}
	}
	if l := r.Load; l != nil {
		fmt.Fprintf(table, "\nLOAD\tASKED/s\tREACHED/s\tERRORS\tTHROTTLED\tP50 ms\tP99 ms\n")
		fmt.Fprintf(table, "%d connections\t%d\t%.0f\t%d\t%d\t%.2f\t%.2f\n", l.Connections, l.Asked, l.Reached, l.Errors, l.Throttled, l.P50, l.P99)
	}
	_ = table.Flush() // a strings.Builder takes everything
	for _, part := range []struct {
		outcome Outcome
		title   string
	}{{Warn, "Permitted, but worth a look"}, {Fail, "Rules broken"}} {
		title := "\n" + part.title + ":\n"
		for _, result := range r.Results {
			if result.Outcome == part.outcome {
				fmt.Fprintf(&b, "%s  %s\n    rule    %s\n    source  %s\n    seen    %s\n", title, result.ID, result.Rule, result.Source, result.Detail)
				title = ""
			}
		}
	}
	fmt.Fprintf(&b, "\n%d passed, %d failed, %d warnings, %d not run, in %v\n",
		r.Summary.Pass, r.Summary.Fail, r.Summary.Warn, r.Summary.NotRun, r.Duration.Round(100*time.Millisecond))
	_, err := io.WriteString(w, b.String())
	return err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}
