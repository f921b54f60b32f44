package notice

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Sender is a way by which notices go out. Its methods may be called concurrently.
type Sender interface {
	// Way names it, in one word.
	Way() string
	// Addressed says whether each notice goes to addresses, one by one, and not to one place.
	Addressed() bool
	// Send sends a notice once; to is empty unless it is addressed. The error is a [*Refused] if
	// another try would come to the same.
	Send(ctx context.Context, n Notice, to string) error
}

// Refused is the error of a receiver that will not take a notice.
type Refused struct{ Err error }

func (r *Refused) Error() string { return r.Err.Error() }
func (r *Refused) Unwrap() error { return r.Err }

// Clock tells the time, and wakes.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config says how a Queue works. Log is needed.
type Config struct {
	Senders []Sender
	// To are e-mail addresses that hear of everything, beside those of users.
	To []string
	// Console gives the console's origin, "https://HOST:PORT"; nil or empty if it is not known.
	Console func() string
	// Observe, if given, is told of each notice: that it was sent by a way, or given up.
	Observe func(way string, sent bool)
	Log     *slog.Logger
	// Clock is the machine's if nil.
	Clock Clock
}

const (
	// MaxWaiting is how many notices wait for one way; one more is dropped.
	MaxWaiting = 1000
	// SendTime bounds one try.
	SendTime = 20 * time.Second
	// maxRecipients bounds to how many addresses one notice goes.
	maxRecipients = 100
)

// pauses are those after tries that fail: a notice is given up after about three hours.
var pauses = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour}

// Queue sends notices, each way for itself, so that a mail server that is slow holds up no
// webhook. Its methods may be called concurrently.
type Queue struct {
	Config
	lanes []*lane
}

// lane is what waits for one way.
type lane struct {
	q      *Queue
	sender Sender
	wake   chan struct{}

	mu   sync.Mutex
	list []delivery
}

// delivery is a notice on its way to one address.
type delivery struct {
	n Notice
	// to is where; addressed says that it is known.
	to        string
	addressed bool
	tries     int
	due       time.Time
}

// New makes a queue; [Queue.Run] sends.
func New(c Config) *Queue {
	if c.Clock == nil {
		c.Clock = wallClock{}
	}
	if c.Observe == nil {
		c.Observe = func(string, bool) {}
	}
	q := &Queue{Config: c}
	for _, s := range c.Senders {
		q.lanes = append(q.lanes, &lane{q: q, sender: s, wake: make(chan struct{}, 1)})
	}
	return q
}

// Add has a notice sent, and waits for nothing. If too many wait already, it is dropped, and the
// log says so.
func (q *Queue) Add(n Notice) {
	n = q.ready(n)
	for _, l := range q.lanes {
		l.add(delivery{n: n, addressed: !l.sender.Addressed(), due: q.Clock.Now()})
	}
}

// ready gives a notice as it is sent.
func (q *Queue) ready(n Notice) Notice {
	if n.ID == "" {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // never fails (crypto/rand)
		n.ID = "msg_" + hex.EncodeToString(id)
	}
	if n.At.IsZero() {
		n.At = q.Clock.Now()
	}
	n = n.cleaned()
	n.Request.Link, n.Recovery.Link = "", ""
	if q.Console != nil && n.Event != Test {
		if origin := q.Console(); origin != "" {
			if n.Event == RecoveryCode {
				n.Recovery.Link = origin + "/account"
			} else {
				n.Request.Link = origin + "/approvals/" + n.Request.ID
			}
		}
	}
	return n
}

// Waiting is how many deliveries wait.
func (q *Queue) Waiting() (n int) {
	for _, l := range q.lanes {
		l.mu.Lock()
		n += len(l.list)
		l.mu.Unlock()
	}
	return n
}

// Run sends until ctx ends. What waits then is lost.
func (q *Queue) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range q.lanes {
		all.Go(func() { l.run(ctx) })
	}
	all.Wait()
	if n := q.Waiting(); n > 0 {
		q.Log.Warn("the appliance stops, and notices are lost", "notices", n)
	}
}

// add puts a delivery into the lane, and wakes who sends.
func (l *lane) add(d delivery) {
	if !l.put(d) {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) put(d delivery) bool {
	l.mu.Lock()
	full := len(l.list) >= MaxWaiting
	if !full {
		l.list = append(l.list, d)
	}
	l.mu.Unlock()
	if full {
		l.gaveUp(d, fmt.Errorf("%d notices wait already", MaxWaiting))
	}
	return !full
}

func (l *lane) gaveUp(d delivery, err error) {
	l.q.Log.Error("a notice was not sent, and is given up: whom it was for looks into the console", "way", l.sender.Way(), "event", d.n.Event, "request", d.n.Request.ID, "tries", d.tries, "error", clean(err.Error(), 2*maxText))
	l.q.Observe(l.sender.Way(), false)
}

func (l *lane) run(ctx context.Context) {
	for {
		d, wait := l.next()
		if d == nil {
			var later <-chan time.Time
			if wait > 0 {
				later = l.q.Clock.After(wait)
			}
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			case <-later:
			}
			continue
		}
		l.try(ctx, *d)
		if ctx.Err() != nil {
			return
		}
	}
}

// next takes the first delivery that is due; else it gives how long none is, 0 for ever.
func (l *lane) next() (*delivery, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, wait := l.q.Clock.Now(), time.Duration(0)
	for i, d := range l.list {
		left := d.due.Sub(now)
		if left <= 0 {
			l.list = append(l.list[:i:i], l.list[i+1:]...)
			return &d, 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}

// try sends one delivery; one that fails waits for another try.
func (l *lane) try(ctx context.Context, d delivery) {
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, SendTime)
		defer cancel()
		if !d.addressed {
			return l.address(ctx, d)
		}
		return l.sender.Send(ctx, d.n, d.to)
	}()
	d.tries++
	var refused *Refused
	switch {
	case err == nil && d.addressed:
		l.q.Log.Info("a notice was sent", "way", l.sender.Way(), "event", d.n.Event, "request", d.n.Request.ID)
		l.q.Observe(l.sender.Way(), true)
	case err == nil:
	case errors.As(err, &refused) || d.tries > len(pauses) || d.n.Event == Asked && !l.q.Clock.Now().Before(d.n.Request.ExpiresAt):
		l.gaveUp(d, err)
	default:
		d.due = l.q.Clock.Now().Add(pauses[d.tries-1])
		l.q.Log.Warn("a notice was not sent yet", "way", l.sender.Way(), "request", d.n.Request.ID, "next_try", d.due.UTC().Format(time.RFC3339), "error", clean(err.Error(), 2*maxText))
		l.put(d)
	}
}

// address has a delivery go to each who is to hear of it.
func (l *lane) address(ctx context.Context, d delivery) error {
	all, more, err := l.q.recipients(ctx, d.n)
	if err != nil {
		return err
	}
	if more > 0 {
		l.q.Log.Warn("a notice of a request for approval does not go to all who may approve: have some of them approve, and the others look into the console", "request", d.n.Request.ID, "told", len(all), "not_told", more)
	}
	for _, to := range all {
		l.put(delivery{n: d.n, to: to, addressed: true, due: l.q.Clock.Now()})
	}
	return nil
}

// recipients are the addresses for a notice, each once, and how many more there are than are told.
func (q *Queue) recipients(ctx context.Context, n Notice) (all []string, more int, err error) {
	var users []string
	if n.To != nil {
		if users, err = n.To(ctx); err != nil {
			return nil, 0, err
		}
	}
	seen := map[string]bool{}
	for _, to := range slices.Concat(q.To, users) {
		if key := strings.ToLower(to); to != "" && !seen[key] {
			seen[key] = true
			all = append(all, to)
		}
	}
	told := min(len(all), maxRecipients)
	return all[:told], len(all) - told, nil
}

// Outcome is what came of a test notice.
type Outcome struct {
	// Way and To are where it went; To is empty for a webhook.
	Way, To string
	// Err is why it did not arrive as far as can be told here; nil if the receiver took it.
	Err error
}

// Try sends a test notice in the name of a caller by each way at once, once, and waits for what
// the receivers say, [SendTime] at most. It goes to the addresses of the configuration, and those
// given.
func (q *Queue) Try(ctx context.Context, by string, to []string) []Outcome {
	ctx, cancel := context.WithTimeout(ctx, SendTime)
	defer cancel()
	n := q.ready(Notice{Event: Test, Request: Request{AskedBy: by}, To: func(context.Context) ([]string, error) { return to, nil }})
	var all []Outcome
	var senders []Sender
	for _, l := range q.lanes {
		targets := []string{""}
		if l.sender.Addressed() {
			targets, _, _ = q.recipients(ctx, n) // of addresses that are given: it cannot fail
		}
		for _, to := range targets {
			all, senders = append(all, Outcome{Way: l.sender.Way(), To: to}), append(senders, l.sender)
		}
	}
	var sending sync.WaitGroup
	for i := range all {
		sending.Go(func() {
			all[i].Err = senders[i].Send(ctx, n, all[i].To)
			q.Observe(all[i].Way, all[i].Err == nil)
		})
	}
	sending.Wait()
	return all
}
