// Command bench measures what Holdfast costs: side by side with a bare HTTPS
// handler, which no server can be faster than, with keys in its memory and
// in the HSM, with the HSM near and far, and with few and many keys.
//
// It prints a table with what is promised and whether it is kept, and writes
// all figures to bench.json. All that it makes is in a temporary folder, which
// it removes. Only ratios of one run mean something: the load generator shares
// the machine with the servers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == bareCommand {
		exit(serveBare(os.Args[2], os.Args[3], os.Args[4]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o, os.Stdout, os.Stderr))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench: "+err.Error())
	os.Exit(1)
}

// options are how to measure.
type options struct {
	program, against, out     string
	duration                  time.Duration
	rounds, connections, rate int
	// keys are the sizes of key stores, ascending.
	keys []int
	// distinct is how many different requests a series has.
	distinct int
	// handled is how many requests the handlers alone are given.
	handled int
}

// away is how far the far token is.
const away = 5 * time.Millisecond

// What the tokens are called.
const (
	tokenLocal = "local"
	tokenFar   = "5 ms away"
)

// parse reads the command line.
func parse(args []string) (options, error) {
	o := options{distinct: 256, handled: 20_000}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.program, "holdfastd", filepath.Join("bin", "holdfastd"), "the program to measure")
	f.StringVar(&o.against, "against", "", "another holdfastd, such as one of before a change, to measure in turns with it")
	f.StringVar(&o.out, "out", "bench.json", "file for all figures")
	f.DurationVar(&o.duration, "duration", 500*time.Millisecond, "how long each round of each measurement takes")
	f.IntVar(&o.rounds, "rounds", 10, "how often each measurement is made; medians are reported")
	f.IntVar(&o.connections, "connections", 128, "connections to a server")
	f.IntVar(&o.rate, "rate", 1800, "requests per second of the open loop")
	keys := f.String("keys", "10,10000,1000000", "numbers of keys to start with, ascending")
	quick := f.Bool("quick", false, "only see that all of it works: a few seconds, figures of no worth")
	f.SetOutput(io.Discard) // an error is told once, by the caller
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.SetOutput(os.Stdout)
		f.Usage()
		return o, err
	} else if err != nil {
		return o, fmt.Errorf("%w; see --help", err)
	}
	if *quick {
		o.duration, o.rounds, o.distinct, o.handled = 100*time.Millisecond, 1, 64, 500
		*keys = "10,2000"
	}
	for word := range strings.SplitSeq(*keys, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < fewDistinct {
			return o, fmt.Errorf("--keys %s: %q is not a number of at least %d", *keys, word, fewDistinct)
		}
		o.keys = append(o.keys, n)
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; see --help", f.Arg(0))
	case !slices.IsSorted(o.keys):
		return o, fmt.Errorf("--keys %s: put the numbers in ascending order", *keys)
	case o.duration <= 0 || o.rounds <= 0 || o.connections <= 0 || o.rate <= 0:
		return o, errors.New("--duration, --rounds, --connections and --rate must be positive")
	}
	return o, nil
}

// run measures, prints the table and writes the file.
func run(ctx context.Context, o options, table, progress io.Writer) error {
	began := time.Now()
	r, err := measure(ctx, o, func(format string, args ...any) {
		fmt.Fprintf(progress, "%4.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	})
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if err := r.print(table); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(text, '\n'), 0o644)
}

// measure makes what is needed in a temporary folder, measures and removes it.
func measure(ctx context.Context, o options, progress func(string, ...any)) (r *Result, err error) {
	r = &Result{Date: time.Now(), Machine: thisMachine(), Settings: Settings{
		Connections: o.connections, Rate: o.rate, Seconds: o.duration.Seconds(), Rounds: o.rounds, TokenAway: milliseconds(away)}}
	if _, err := os.Stat(o.program); err != nil {
		return nil, fmt.Errorf("the program to measure: %w; build it with make build, or name it with --holdfastd", err)
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newSite(dir, away)
	if err != nil {
		return nil, err
	}
	progress("count the allocations of the handlers")
	if r.Handlers, err = s.handlers(ctx, o); err != nil {
		return nil, err
	}
	if r.Series, err = s.compare(ctx, o, progress); err != nil {
		return nil, err
	}
	if r.Starts, r.Spreads, err = s.grow(ctx, o, progress); err != nil {
		return nil, err
	}
	r.Targets = r.targets()
	return r, nil
}
