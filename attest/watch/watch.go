// Package watch looks at machines again and again, and says what has changed. Use it where
// evidence is to be more than a moment's: a machine that passed yesterday is another today if
// its key, its release or its instance is another.
//
// What a machine showed at the first look that passed is known from then on; a person accepts
// a later change ([Store.Accept]). It guarantees that nothing is taken from evidence that
// fails, that the number of the stored state is held against the highest that was seen, and
// that an alarm is told until its receiver has taken it.
package watch

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/attest/appraisal"
	"holdfast/attest/ask"
)

// Unreachable is the name of the change of a machine that gives no evidence for too long.
const Unreachable = "unreachable"

// Look is what came of one look at a machine.
type Look struct {
	Machine string    `json:"machine"`
	Address string    `json:"address"`
	At      time.Time `json:"at"`
	// Verdict is that of the evidence; empty if none came, and Error says why.
	Verdict appraisal.Result `json:"verdict,omitempty"`
	Error   string           `json:"error,omitempty"`
	// First says that nothing was known of the machine before.
	First   bool     `json:"first,omitempty"`
	Changes []Change `json:"changes,omitempty"`
	// Checks are the codes of those that did not pass and had to.
	Checks []string `json:"checks,omitempty"`
	// Digest names what was seen (Seen), for who accepts it.
	Digest string `json:"seen_digest,omitempty"`
	Seen   *Seen  `json:"seen,omitempty"`
	// NotTold says why the alarm was not told: it is told again at the next look.
	NotTold string `json:"not_told,omitempty"`
}

// Outcome is what looks come to. A greater one is worse.
type Outcome int

// The outcomes.
const (
	// Unchanged: the evidence passes, and nothing has changed.
	Unchanged Outcome = iota
	// Incomplete: nothing is wrong that was seen, and not all could be looked at.
	Incomplete
	// Alarming: evidence fails, something has changed, or a machine is unreachable for too
	// long.
	Alarming
)

// Outcome is that of one look.
func (l *Look) Outcome() Outcome {
	switch {
	case l.Verdict == appraisal.Fail || len(l.Changes) > 0:
		return Alarming
	case l.Verdict == appraisal.Pass:
		return Unchanged
	}
	return Incomplete
}

// about names what an alarm is about; empty if there is none. The same names stand for the
// same alarm, which is told once.
func (l *Look) about() string {
	var parts []string
	for _, c := range l.Changes {
		parts = append(parts, c.What+"="+c.Is)
	}
	if l.Verdict != "" && l.Verdict != appraisal.Pass {
		parts = append(parts, string(l.Verdict)+":"+strings.Join(l.Checks, ","))
	}
	if parts == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

// Alarm is what is told of a look.
type Alarm struct {
	// ID is the same each time that it is told.
	ID    string    `json:"-"`
	Since time.Time `json:"since"`
	// Over says that an alarm is over: the evidence passes, and all is as it is known.
	Over bool `json:"over"`
	Look
}

// Machine is one that is watched.
type Machine struct {
	// Name is the caller's own, by which it is known from look to look.
	Name    string
	Address string
}

// Watcher watches machines. Its fields must be set, but for those that may be nil.
type Watcher struct {
	Machines []Machine
	Store    *Store
	// Every is the time between two looks, and Patience how long a machine may give no
	// evidence before that is an alarm.
	Every, Patience time.Duration
	// Ask asks the machine for evidence and appraises it. An error says in one line why there
	// is none.
	Ask func(ctx context.Context, m Machine) (*Seen, error)
	// Looked is given each look, in the order of Machines; not concurrently.
	Looked func(Look) error
	// Tell tells an alarm; nil for nobody.
	Tell func(ctx context.Context, a Alarm) error
	// Clock is the machine's if nil.
	Clock ask.Clock
}

func (w *Watcher) clock() ask.Clock {
	if w.Clock == nil {
		return ask.WallClock{}
	}
	return w.Clock
}

// Run looks until the context ends, which is no error.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		if _, err := w.Once(ctx); err != nil {
			return err
		}
		select {
		case <-w.clock().After(w.Every):
		case <-ctx.Done():
			return nil
		}
	}
}

// most is at how many machines is looked at once.
const most = 16

// Once looks at each machine once, and gives the worst outcome. Errors are of the store and of
// Looked; what machines do is none.
func (w *Watcher) Once(ctx context.Context) (worst Outcome, err error) {
	looks := make([]answer, len(w.Machines))
	var asking sync.WaitGroup
	turn := make(chan struct{}, most)
	for i, m := range w.Machines {
		asking.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			looks[i].seen, looks[i].err = w.Ask(ctx, m)
			looks[i].at = w.clock().Now().UTC()
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return Incomplete, nil // what was cut short says nothing of the machines
	}
	// What was accepted while the machines were asked counts.
	machines, _, err := w.Store.load()
	if err != nil {
		return Alarming, err
	}
	all := make([]Look, len(w.Machines))
	for i, m := range w.Machines {
		r := machines[m.Name]
		if r == nil {
			r = &record{}
			machines[m.Name] = r
		}
		all[i] = w.look(m, r, looks[i])
		worst = max(worst, all[i].Outcome())
	}
	// First what is known, then who is told: an alarm that is told twice is better than one
	// that is not.
	if err := w.Store.save(machines); err != nil {
		return Alarming, err
	}
	told := false
	for i := range all {
		told = w.tell(ctx, machines[all[i].Machine], &all[i]) || told
		if err := w.Looked(all[i]); err != nil {
			return Alarming, err
		}
	}
	if told {
		err = w.Store.save(machines)
	}
	return worst, err
}

// answer is what came of asking.
type answer struct {
	seen *Seen
	err  error
	at   time.Time
}

// look holds an answer against what is known, and keeps in the record what is to be known.
func (w *Watcher) look(m Machine, r *record, a answer) Look {
	l := Look{Machine: m.Name, Address: m.Address, At: a.at, First: r.Known == nil}
	if a.err != nil {
		l.Error = a.err.Error()
		if r.Unanswered.IsZero() {
			r.Unanswered = a.at
		}
		if since := a.at.Sub(r.Unanswered); since >= w.Patience {
			l.Changes = []Change{{What: Unreachable, Is: r.Unanswered.Format(time.RFC3339), Text: fmt.Sprintf("it gives no evidence since %s: %s", r.Unanswered.Format(time.RFC3339), l.Error)}}
			r.alarm(&l)
		}
		return l // an alarm that stands stays, as nobody knows better
	}
	r.Unanswered = time.Time{}
	r.Newest, r.NewestAt = a.seen, a.at
	l.Verdict, l.Checks, l.Seen, l.Digest = a.seen.Verdict, a.seen.Checks, a.seen, a.seen.Digest()
	switch {
	case r.Known != nil:
		if l.Changes = changes(r.Known, a.seen); l.Changes == nil && a.seen.State != nil {
			r.Known.State = a.seen.State // the highest
		}
	case a.seen.Verdict == appraisal.Pass:
		known := *a.seen
		r.Known = &known
	}
	r.alarm(&l)
	return l
}

// alarm has the record's alarm be that of the look.
func (r *record) alarm(l *Look) {
	about := l.about()
	switch {
	case r.Alarm == nil && about == "", r.Alarm != nil && r.Alarm.About == about:
		return // as before
	case about == "" && !r.Alarm.Told:
		r.Alarm = nil // nobody has heard of it
		return
	}
	r.Alarm = &standing{ID: rand.Text(), Since: l.At, About: about, Ending: about == ""}
}

// tell tells what stands in the record and was not told, and says whether the record changed.
func (w *Watcher) tell(ctx context.Context, r *record, l *Look) bool {
	a := r.Alarm
	if a == nil || a.Told || l.about() == "" && l.Error != "" { // such a look says nothing about the alarm
		return false
	}
	if w.Tell != nil {
		if err := w.Tell(ctx, Alarm{ID: a.ID, Since: a.Since, Over: a.Ending, Look: *l}); err != nil {
			l.NotTold = err.Error()
			return false
		}
	}
	a.Told = true
	if a.Ending {
		r.Alarm = nil
	}
	return true
}
