// Package logging makes the log of a program that answers requests. Nobody who logs
// ever waits for whoever reads the log: lines stand in a bounded queue, and one that
// finds it full is dropped, counted, and told of once there is room.
package logging

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"time"

	"holdfast/appliance/config"
)

// Log is a log with its queues. Close it before the process ends.
type Log struct {
	// Logger takes what happens to the program.
	*slog.Logger
	// Requests takes the lines about requests.
	Requests *slog.Logger

	queues []*queue
}

// New makes the log that the configuration asks for. Lines about requests go to
// requests, all others to w; both may be the same. Lines are written together, at
// most a tenth of a second late; a warning or an error, and all before it, at once.
func New(c config.Log, w, requests io.Writer) *Log {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // the configuration has been checked
	}
	format := func(w io.Writer) slog.Handler {
		if c.Format == "json" {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
		}
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}
	l := &Log{}
	made := func(w io.Writer) *slog.Logger {
		q := newQueue(w, func(n uint64) []byte { return lost(format, n) })
		l.queues = append(l.queues, q)
		return slog.New(handler{format(q.writer(false)), format(q.writer(true))})
	}
	l.Logger = made(w)
	l.Requests = l.Logger
	if requests != w {
		l.Requests = made(requests)
	}
	return l
}

// Close writes what is in the queues, as far as it is taken within two seconds.
func (l *Log) Close() {
	for _, q := range l.queues {
		q.close()
	}
}

// Dropped is how many lines were lost since the start, as the queue was full.
func (l *Log) Dropped() (n uint64) {
	for _, q := range l.queues {
		n += q.lost.Load()
	}
	return n
}

// lost is the line that tells of dropped ones.
func lost(format func(io.Writer) slog.Handler, n uint64) []byte {
	var line bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were dropped: its reader is too slow", 0)
	r.AddAttrs(slog.Uint64("lines", n))
	_ = format(&line).Handle(context.Background(), r) // a buffer takes everything
	return line.Bytes()
}

// handler sends warnings and errors another way than the rest.
type handler struct{ rest, urgent slog.Handler }

func (h handler) of(level slog.Level) slog.Handler {
	if level >= slog.LevelWarn {
		return h.urgent
	}
	return h.rest
}

// Enabled implements [slog.Handler].
func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of(level).Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.rest.WithAttrs(attrs), h.urgent.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.rest.WithGroup(name), h.urgent.WithGroup(name)}
}
