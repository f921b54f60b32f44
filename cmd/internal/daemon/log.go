package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"holdfast/appliance/config"
)

// NewLog makes the log that the configuration asks for. Its lines are written
// together, at most a tenth of a second late; a warning or an error, and all
// before it, at once. Call flush before the process ends.
func NewLog(c config.Log, w io.Writer) (log *slog.Logger, flush func()) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // the configuration has been checked
	}
	o := &slog.HandlerOptions{Level: level}
	b := &lines{w: w}
	var h slog.Handler = slog.NewTextHandler(b, o)
	if c.Format == "json" {
		h = slog.NewJSONHandler(b, o)
	}
	return slog.New(urgent{h, b}), b.flush
}

const (
	maxDelay = 100 * time.Millisecond
	maxHeld  = 64 << 10
)

// lines holds lines back for a while: one write for each request would cost as
// much as its encryption.
type lines struct {
	w io.Writer

	mu   sync.Mutex
	held []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		time.AfterFunc(maxDelay, l.flush)
	}
	if l.held = append(l.held, p...); len(l.held) > maxHeld {
		l.write()
	}
	return len(p), nil
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
}

func (l *lines) write() {
	if len(l.held) > 0 {
		_, _ = l.w.Write(l.held) // there is nowhere to tell of a log that cannot be written
		l.held = l.held[:0]
	}
}

// urgent is a handler that does not hold back warnings and errors.
type urgent struct {
	slog.Handler
	lines *lines
}

func (u urgent) Handle(ctx context.Context, r slog.Record) error {
	err := u.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		u.lines.flush()
	}
	return err
}

func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.lines}
}

func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.lines}
}
