// Command bench measures what Holdfast costs: side by side with a bare HTTPS
// handler, which no server can be faster than, with keys in its memory and
// in the HSM, with the HSM near and far, and with few and many keys.
//
// It prints tables with what is promised and whether it is kept, and writes all
// figures to bench.json. All that it makes is in temporary folders, which it
// removes. docs/performance.md says how to read it. Only ratios of one run mean something: the load generator shares
// the machine with the servers.
package main

import (
	"bytes"
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

	"golang.org/x/sys/unix"
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
	program, beside, out, markdown, state string
	duration                              time.Duration
	rounds, rate                          int
	// connections are how many a server has in closed loops, ascending.
	connections []int
	// keys are the sizes of key stores, ascending.
	keys []int
	only only
	// unlocked is keys.max_unlocked of the server with keys at random; 0 for its default.
	unlocked int
	// peers are proxies that run already.
	peers []*peer
	// distinct is how many different requests a series has.
	distinct int
	// handled is how many requests the handlers alone are given.
	handled int
	// quick allows figures of no worth.
	quick bool
}

// usual is the number of connections of what is measured with one number alone: 128
// if that is among them.
func (o options) usual() int {
	const want = 128
	if slices.Contains(o.connections, want) {
		return want
	}
	return o.connections[len(o.connections)-1]
}

// away is how far the far token is.
const away = 5 * time.Millisecond

// parse reads the command line.
func parse(args []string) (options, error) {
	o := options{distinct: 256, handled: 20_000}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.program, "holdfastd", filepath.Join("bin", "holdfastd"), "the program to measure")
	f.StringVar(&o.beside, "beside", "", "another holdfastd, such as one of before a change, to measure in turns with it")
	against := f.String("against", "", "XKS proxies that run already, `NAME=URL,…`, to measure in turns; the URL's path is the key store's URI path prefix")
	credentials := f.String("credentials", "", "`FILE` in TOML, readable by its owner alone, with a table [NAME] for each proxy of --against: access_key_id, secret_access_key, keys; docs/performance.md has all of it")
	f.StringVar(&o.out, "out", "bench.json", "file for all figures")
	f.StringVar(&o.markdown, "markdown", "", "file for the tables in Markdown")
	f.StringVar(&o.state, "state", os.TempDir(), "folder on the disk to measure; all that is made is in a folder in it, which is removed")
	f.DurationVar(&o.duration, "duration", 500*time.Millisecond, "how long each round of a closed loop takes; one of the open loop takes four times that")
	f.IntVar(&o.rounds, "rounds", 10, "how often each measurement is made; medians are reported")
	f.IntVar(&o.rate, "rate", 1800, "requests per second of the open loop")
	connections := f.String("connections", "1,8,32,128,512", "connections to a server in closed loops, ascending")
	keys := f.String("keys", "10,10000,1000000", "numbers of keys to start with, ascending")
	f.IntVar(&o.unlocked, "unlocked", 0, "keys.max_unlocked of the server with keys at random; 0 for its default")
	chosen := f.String("only", "", "measure only what these words choose, separated by commas: "+words())
	f.BoolVar(&o.quick, "quick", false, "only see that all of it works: a few seconds, figures of no worth")
	f.SetOutput(io.Discard) // an error is told once, by the caller
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.SetOutput(os.Stdout)
		f.Usage()
		return o, err
	} else if err != nil {
		return o, fmt.Errorf("%w; see --help", err)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see --help", f.Arg(0))
	}
	if o.quick {
		o.duration, o.rounds, o.distinct, o.handled = 100*time.Millisecond, 1, 64, 500
		*keys = "10,2000"
	}
	var err error
	if o.keys, err = numbers("keys", *keys, fewDistinct); err != nil {
		return o, err
	}
	if o.connections, err = numbers("connections", *connections, 1); err != nil {
		return o, err
	}
	if o.unlocked < 0 {
		return o, errors.New("--unlocked must not be negative")
	}
	if o.duration <= 0 || o.rounds <= 0 || o.rate <= 0 {
		return o, errors.New("--duration, --rounds and --rate must be positive")
	}
	if o.only, err = parseOnly(*chosen); err != nil {
		return o, err
	}
	o.peers, err = parsePeers(*against, *credentials)
	return o, err
}

// numbers reads ascending numbers, separated by commas.
func numbers(name, text string, least int) (all []int, err error) {
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < least {
			return nil, fmt.Errorf("--%s %s: %q is not a number of at least %d", name, text, word, least)
		}
		if len(all) > 0 && n <= all[len(all)-1] {
			return nil, fmt.Errorf("--%s %s: put the numbers in ascending order", name, text)
		}
		all = append(all, n)
	}
	return all, nil
}

// run measures, prints the tables and writes the files.
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
	sheet := r.sheet()
	if err := sheet.text(table); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if o.markdown == "" {
		return nil
	}
	var b bytes.Buffer
	if err := sheet.markdown(&b); err != nil {
		return err
	}
	return os.WriteFile(o.markdown, b.Bytes(), 0o644)
}

// measure makes what is needed in temporary folders, measures and removes them.
func measure(ctx context.Context, o options, progress report) (r *Result, err error) {
	r = &Result{Date: time.Now(), Machine: thisMachine(), Settings: Settings{Only: o.only,
		Connections: o.connections, Usual: o.usual(), Rate: o.rate, Seconds: o.duration.Seconds(), Rounds: o.rounds, TokenAway: milliseconds(away)}}
	for _, program := range []*string{&o.program, &o.beside} {
		if *program == "" {
			continue
		}
		if _, err := os.Stat(*program); err != nil {
			return nil, fmt.Errorf("the program to measure: %w; build it with make build, or name it with --holdfastd and --beside", err)
		}
		if *program, err = filepath.Abs(*program); err != nil {
			return nil, err
		}
	}
	if fileSystem(o.state) == tmpfs && !o.quick {
		return nil, fmt.Errorf("the folder %s is in memory (tmpfs), where no log is durable; name one on the disk to measure with --state FOLDER", o.state)
	}
	dir, err := os.MkdirTemp(o.state, "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newSite(dir, away)
	if err != nil {
		return nil, err
	}
	if s.memory, err = memoryFolder(); err != nil {
		progress("no series with the state on a tmpfs: %v", err)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(s.memory)) }()
	}
	if o.only.has(partHandlers) {
		progress("count the allocations of the handlers")
		if r.Handlers, err = s.handlers(ctx, o); err != nil {
			return nil, err
		}
	}
	if err := s.compare(ctx, o, r, progress); err != nil {
		return nil, err
	}
	if o.only.has(partKeys) || o.only.has(partRandom) {
		if err := s.grow(ctx, o, r, progress); err != nil {
			return nil, err
		}
	}
	r.Targets = r.judged()
	return r, nil
}

// memoryNeeded is how much a tmpfs must have free: what the state and the audit log of a run take, with
// the reserve that the log leaves.
const memoryNeeded = 1 << 30

// memoryFolder makes a folder on a tmpfs.
func memoryFolder() (string, error) {
	const shared = "/dev/shm"
	var s unix.Statfs_t
	if err := unix.Statfs(shared, &s); err != nil {
		return "", fmt.Errorf("%s: %w", shared, err)
	}
	if free := s.Bavail * uint64(s.Bsize); fileSystem(shared) != tmpfs || free < memoryNeeded {
		return "", fmt.Errorf("%s is no tmpfs with %d MiB free", shared, memoryNeeded>>20)
	}
	return os.MkdirTemp(shared, "holdfast-bench-")
}
