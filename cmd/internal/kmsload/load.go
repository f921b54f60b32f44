package kmsload

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what a load does.
type Options struct {
	// Client makes the client of one connection.
	Client func() *Client
	// Keys are used in turn.
	Keys []string
	// Connections is how many there are at once. Each sends one request after the other.
	Connections int
	// Pause is between two requests of a connection.
	Pause time.Duration
	// Name begins the IDs of the requests.
	Name string
	// Forget has a client not remember a connection after so many requests, so that the
	// next one goes to another node; 0 for never.
	Forget int
}

// Answered is a request that had an answer.
type Answered struct {
	ID     string
	Server *x509.Certificate
}

// Report is what a load has seen.
type Report struct {
	Answered []Answered
	// Failed is how many requests had no answer, or one that says that the proxy cannot
	// answer now (5xx); Errors counts the different ones.
	Failed int
	Errors map[string]int
	// Wrong are answers that must not be: another plaintext, or a refusal (4xx).
	Wrong []string
	// Gap is the longest time in which no connection had an answer, and Outage the longest
	// in which one connection had none but errors, from the sending of the first.
	Gap, Outage time.Duration
}

// String gives the figures for people.
func (r Report) String() string {
	return fmt.Sprintf("%d requests answered, %d failed; the longest time without an answer was %v, for one connection %v",
		len(r.Answered), r.Failed, r.Gap.Round(time.Millisecond), r.Outage.Round(time.Millisecond))
}

// Detail lists the errors, the most frequent first.
func (r Report) Detail() string {
	keys := slices.SortedFunc(maps.Keys(r.Errors), func(a, b string) int { return cmp.Or(r.Errors[b]-r.Errors[a], strings.Compare(a, b)) })
	var lines []string
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("%6d  %s", r.Errors[k], k))
	}
	return strings.Join(lines, "\n")
}

// Load is one that runs. [Start] starts one.
type Load struct {
	o    Options
	end  context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	report Report
	last   time.Time // when there was an answer
}

// Start begins a load.
func Start(o Options) *Load {
	ctx, end := context.WithCancel(context.Background())
	l := &Load{o: o, end: end, report: Report{Errors: map[string]int{}}, last: time.Now()}
	for n := range o.Connections {
		l.work.Go(func() { (&connection{load: l, client: o.Client(), name: fmt.Sprintf("%s-%d", o.Name, n)}).run(ctx) })
	}
	return l
}

// Count gives how many requests were answered until now.
func (l *Load) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.report.Answered)
}

// Stop ends the load, after the requests that are under way.
func (l *Load) Stop() Report {
	l.end()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Gap = max(l.report.Gap, time.Since(l.last))
	return l.report
}

// connection is one, and what it has seen.
type connection struct {
	load    *Load
	client  *Client
	name    string
	sent    int
	failing time.Time // when the first request was sent of those that failed; zero if the last did not
}

// run encrypts and decrypts by turns.
func (c *connection) run(ctx context.Context) {
	defer c.client.HTTP.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		key := c.load.o.Keys[n%len(c.load.o.Keys)]
		plaintext := fmt.Appendf(nil, "%s-%d", c.name, n)
		aad := []byte("of " + c.name)
		var sealed *Answer
		ok := c.request(ctx, "e", n, func(id string) (a *Answer, err error) {
			sealed, err = c.client.Encrypt(context.WithoutCancel(ctx), key, id, plaintext, aad)
			return sealed, err
		}, nil)
		if !ok {
			continue
		}
		c.request(ctx, "d", n, func(id string) (*Answer, error) {
			return c.client.Decrypt(context.WithoutCancel(ctx), key, id, sealed, aad)
		}, plaintext)
	}
}

// request sends one, and says whether it had a good answer. Want is the plaintext that a
// decryption must give.
func (c *connection) request(ctx context.Context, kind string, n int, send func(id string) (*Answer, error), want []byte) bool {
	id := fmt.Sprintf("%s-%d-%s", c.name, n, kind)
	begin := time.Now()
	a, err := send(id)
	switch {
	case err != nil:
		c.failed(id, begin, err)
	case want != nil && !bytes.Equal(a.Plaintext, want):
		c.load.wrong(fmt.Sprintf("%s: it decrypted to %q", id, a.Plaintext))
	default:
		c.answered(id, a)
	}
	if c.sent++; c.load.o.Forget > 0 && c.sent%c.load.o.Forget == 0 {
		c.client.HTTP.CloseIdleConnections()
	}
	select {
	case <-ctx.Done():
	case <-time.After(c.load.o.Pause):
	}
	return err == nil
}

func (c *connection) answered(id string, a *Answer) {
	now := time.Now()
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Answered = append(l.report.Answered, Answered{id, a.Server})
	l.report.Gap = max(l.report.Gap, now.Sub(l.last))
	l.last = now
	if !c.failing.IsZero() {
		l.report.Outage = max(l.report.Outage, now.Sub(c.failing))
		c.failing = time.Time{}
	}
}

func (c *connection) failed(id string, begin time.Time, err error) {
	var refused *Refusal
	if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
		c.load.wrong(fmt.Sprintf("%s: %v", id, err))
		return
	}
	// The next request goes by another connection, as KMS's would.
	c.client.HTTP.CloseIdleConnections()
	if c.failing.IsZero() {
		c.failing = begin
	}
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Failed++
	l.report.Errors[kind(err)]++
	l.report.Outage = max(l.report.Outage, time.Since(c.failing))
}

// kind is an error without what is of this request alone: addresses and times.
func kind(err error) string {
	var refused *Refusal
	if errors.As(err, &refused) {
		return refused.Error()
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}

func (l *Load) wrong(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Wrong = append(l.report.Wrong, what)
}
