package auditlog_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// clock is one that tests turn. Timers go off when it passes them.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers []timer
	asked  chan struct{} // a signal when a timer was set
}

type timer struct {
	at time.Time
	c  chan time.Time
}

func newClock() *clock {
	return &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), asked: make(chan struct{}, 1)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.timers = append(c.timers, timer{c.now.Add(d), ch})
	select {
	case c.asked <- struct{}{}:
	default:
	}
	return ch
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for _, t := range c.timers {
		if !t.at.After(c.now) {
			select {
			case t.c <- c.now:
			default:
			}
		}
	}
}

func (c *clock) options() auditlog.Options {
	o := small()
	o.Now, o.After = c.Now, c.After
	return o
}

// mixed logs n records, a second apart, of which some are not usual.
func mixed(t testing.TB, l *auditlog.Log, c *clock, n int) {
	t.Helper()
	for i := range n {
		r := record(i)
		r.Key = fmt.Sprintf("key-%d", i%7)
		r.Principal = fmt.Sprintf("principal-%d", i%3)
		if i%5 == 0 {
			r.Result = audit.Denied
		}
		if i%11 == 0 {
			r.Kind, r.KeyStore = audit.KindAdmin, "other"
			r.After = []byte(`{"principal":"principal-1","result":"denied"}`) // is not the record's
		}
		must(t, l.Append(t.Context(), r))
		c.advance(time.Second)
	}
}

// everything gives all records of a query, page by page.
func everything(t testing.TB, r *audit.Reader, q audit.Query) (seqs []int64) {
	t.Helper()
	for {
		records, next, err := r.Search(t.Context(), q)
		must(t, err)
		for _, rec := range records {
			seqs = append(seqs, rec.Seq)
		}
		if q.Cursor = next; next == "" {
			return seqs
		}
	}
}

// TestSearch compares each query with a plain loop over all records, with the
// indexes and without.
func TestSearch(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	l := open(t, dir, c.options())
	mixed(t, l, c, 300)
	if len(segments(t, dir)) < 10 {
		t.Fatal("too few segments")
	}
	start := newClock().now
	all, _, err := l.Search(t.Context(), audit.Query{Limit: 1000})
	must(t, err)
	if len(all) != 300 || all[0].Seq != 299 {
		t.Fatalf("%d records", len(all))
	}
	queries := []audit.Query{
		{},
		{KeyStore: "demo"},
		{KeyStore: "demo", Key: "key-3"},
		{KeyStore: "other", Key: "key-3"},
		{Principal: "principal-1"},
		{Principal: "principal-1", KeyStore: "demo", Key: "key-2", Result: audit.Denied},
		{KMSRequestID: record(123).KMSRequestID},
		{KMSRequestID: "none"},
		{Kind: audit.KindXKS},
		{Kind: audit.KindAdmin},
		{Kind: audit.KindAdmin, Result: audit.Allowed},
		{Kind: audit.KindLease},
		{Result: audit.Denied, Principal: "principal-1"},
		{Result: audit.Failed},
		{From: start.Add(100 * time.Second), To: start.Add(110 * time.Second)},
		{From: start.Add(250 * time.Second), Principal: "principal-0"},
		{To: start.Add(50 * time.Second), Result: audit.Denied},
		{From: start.Add(500 * time.Second)},
		{To: start},
		{From: start.Add(20*time.Second + 1), To: start.Add(21*time.Second + 1)},
	}
	for pass, prepare := range []func(){
		func() {},
		func() { // indexes that are missing, and that do not fit
			for i, x := range got(filepath.Glob(filepath.Join(dir, "*.index")))(t) {
				if i%2 == 0 {
					must(t, os.Remove(x))
				} else {
					edit(t, x, func(b []byte) []byte { return b[:len(b)-8] })
				}
			}
		},
		func() { must(t, l.Close()) },
	} {
		prepare()
		for _, q := range queries {
			var want []int64
			for _, r := range all {
				if (q.KeyStore == "" || q.KeyStore == r.KeyStore) && (q.Key == "" || q.Key == r.Key) && (q.Principal == "" || q.Principal == r.Principal) &&
					(q.KMSRequestID == "" || q.KMSRequestID == r.KMSRequestID) && (q.Kind == "" || q.Kind == r.Kind) && (q.Result == "" || q.Result == r.Result) &&
					!r.Time.Before(q.From) && (q.To.IsZero() || r.Time.Before(q.To)) {
					want = append(want, r.Seq)
				}
			}
			for _, limit := range []int{0, 1, 7} {
				q.Limit = limit
				if found := everything(t, audit.NewReader(dir), q); !slices.Equal(found, want) {
					t.Errorf("pass %d: %+v found\n%v\nwant\n%v", pass, q, found, want)
				}
			}
		}
	}
	for _, q := range []audit.Query{{Limit: -1}, {Limit: 1001}, {Key: "k"}, {Cursor: "x"}, {Cursor: "-1"}, {From: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}} {
		if _, _, err := audit.NewReader(dir).Search(t.Context(), q); code(err) != fault.Invalid {
			t.Errorf("%+v: %v", q, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := audit.NewReader(dir).Search(ctx, audit.Query{}); code(err) != fault.AuditTimeout {
		t.Error(err)
	}
}

func TestExport(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, options())
	for _, principal := range []string{"=cmd()", "+1", "-1", "@x", "arn:aws", "a,\"b\"\nc"} {
		must(t, l.Append(t.Context(), &audit.Record{Kind: audit.KindXKS, Principal: principal, Policies: []string{"=a", "b"}}))
	}
	var out bytes.Buffer
	must(t, l.Export(t.Context(), audit.Query{}, &out, "jsonl"))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	slices.Reverse(lines)
	if strings.Join(lines, "\n")+"\n" != string(bytes.TrimRight(read(t, segments(t, dir)[0]), "\x00")) {
		t.Error(out.String())
	}
	out.Reset()
	must(t, l.Export(t.Context(), audit.Query{}, &out, "csv"))
	rows := got(csv.NewReader(&out).ReadAll())(t)
	var principals []string
	for _, row := range rows {
		if len(row) != reflect.TypeFor[audit.Record]().NumField() {
			t.Fatal(row)
		}
		principals = append(principals, row[9])
	}
	if want := []string{"principal", "a,\"b\"\nc", "arn:aws", "'@x", "'-1", "'+1", "'=cmd()"}; !slices.Equal(principals, want) || rows[1][16] != "'=a b" {
		t.Errorf("%q %q", principals, rows[1])
	}
	if err := l.Export(t.Context(), audit.Query{}, &out, "xml"); code(err) != fault.Invalid {
		t.Error(err)
	}
	if err := l.Export(t.Context(), audit.Query{}, failing{}, "jsonl"); code(err) != fault.AuditIO {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

var records = flag.Int("audit-records", 20_000, "how many records the benchmark of Search makes")

func BenchmarkSearch(b *testing.B) {
	dir := b.TempDir()
	o := options()
	o.NoSync = true
	began, cpu := time.Now(), cpuTime()
	l := open(b, dir, o)
	const piece = 1000
	for i := 0; i < *records; i += piece {
		appendAll(b, l, i, i+piece)
	}
	must(b, l.Close())
	b.Logf("%d records were logged in %v, with %v of CPU", *records, time.Since(began), cpuTime()-cpu)

	r := audit.NewReader(dir)
	for _, x := range got(filepath.Glob(filepath.Join(dir, "*.index")))(b) {
		must(b, os.Remove(x))
	}
	cpu = cpuTime()
	_, _, err := r.Search(b.Context(), audit.Query{KMSRequestID: "none"})
	must(b, err)
	b.Logf("all indexes were made in %v, %v for a record", cpuTime()-cpu, (cpuTime()-cpu)/time.Duration(*records))
	began = time.Now()
	rep, err := verify(dir, audit.VerifyOptions{})
	must(b, err)
	b.Logf("%d records in %d segments were verified in %v", rep.Records, rep.Segments, time.Since(began))
	began = time.Now()
	must(b, open(b, dir, o).Close())
	b.Logf("opened in %v", time.Since(began))

	for name, q := range map[string]audit.Query{
		"newest":              {},
		"request, the oldest": {KMSRequestID: record(1).KMSRequestID},
		"no such request":     {KMSRequestID: "none"},
		"key":                 {KeyStore: "demo", Key: "key-7"},
		"key and principal":   {KeyStore: "demo", Key: "key-7", Principal: "arn:aws:iam::123456789012:role/app-8"},
		"denied, none":        {Result: audit.Denied},
		"before all":          {To: time.Now().Add(-time.Hour)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := r.Search(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
