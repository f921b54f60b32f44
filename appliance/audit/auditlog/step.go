package auditlog

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/appliance/audit"
)

// moment is when a record was made: by the wall clock, and by the time that passes.
type moment struct {
	wall    time.Time
	elapsed time.Duration
	timed   bool // elapsed is known: the record is of this process
}

// How far the wall clock may be from what the records say, before a record says so.
const (
	// back is what the records hide: the time of the record before stands for so much.
	back = time.Second
	// forward is more than what clocks are adjusted by between two records.
	forward = time.Minute
)

// moment gives the present moment, and the record that stands before that of it, if the
// clock was set since the newest record. The caller holds the lock.
func (l *Log) moment() (now moment, step *audit.Record) {
	now.wall = l.opts.Now().UTC().Truncate(time.Microsecond)
	due := l.last.wall
	if l.opts.Elapsed != nil {
		now.elapsed, now.timed = l.opts.Elapsed(), true
		if l.last.timed {
			due = due.Add(now.elapsed - l.last.elapsed)
		}
	}
	switch {
	case l.last.wall.IsZero():
	case now.wall.Before(l.last.wall.Add(-back)), now.timed && l.last.timed && now.wall.Sub(due) > forward:
		return now, stepped(due, now.wall)
	case now.wall.Before(l.last.wall):
		now.wall = l.last.wall
	}
	return now, nil
}

// since tells how long ago a moment was, now by the wall clock.
func (l *Log) since(m moment, now time.Time) time.Duration {
	if m.timed {
		return l.opts.Elapsed() - m.elapsed
	}
	return max(0, now.Sub(m.wall))
}

func stepped(due, now time.Time) *audit.Record {
	by, way := now.Sub(due), "forward"
	if by < 0 {
		by, way = -by, "back"
	}
	return &audit.Record{Kind: audit.KindAudit, Operation: audit.ClockStepped, Result: audit.Allowed, Before: timeField(due), After: timeField(now),
		Detail: fmt.Sprintf("the clock was set %s by %s; the order of the records is that of their numbers", way, by.Round(time.Second))}
}

func timeField(t time.Time) []byte {
	text, _ := json.Marshal(map[string]string{"time": t.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)}) // of strings: never fails
	return text
}
