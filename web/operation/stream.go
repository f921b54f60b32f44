package operation

import (
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"time"
)

// Stream is an answer that is written as it is made.
type Stream struct {
	// Media is its media type, Name the name of the file; empty for none.
	Media, Name string
	// Write writes it, once.
	Write func(w io.Writer) error
	// About says in the audit log what is in it; nil for nothing.
	About any
	// Header is the answer's, besides what the other fields say.
	Header http.Header
	// Close, if given, is called when the stream was written or is not needed.
	Close func()
}

func (s Stream) close() {
	if s.Close != nil {
		s.Close()
	}
}

// Serve writes the stream as the answer to a request. If Write fails before the
// first byte, Serve gives the error and has answered nothing. If it fails later,
// the connection is cut, so that nobody takes the answer for whole.
func (s Stream) Serve(w http.ResponseWriter, log *slog.Logger) error {
	defer s.close()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // a writer without one has none
	out := &lateHeader{w: w, stream: s}
	err := s.Write(out)
	if err == nil && !out.begun {
		_, err = out.Write(nil) // an empty file
	}
	if err == nil || !out.begun {
		return err
	}
	log.Error("a download was cut short", "media", s.Media, "name", s.Name, "error", err)
	panic(http.ErrAbortHandler)
}

// lateHeader says what follows once something does.
type lateHeader struct {
	w      http.ResponseWriter
	stream Stream
	begun  bool
}

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		h := l.w.Header()
		h.Set("Content-Type", l.stream.Media)
		if l.stream.Name != "" {
			h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": l.stream.Name}))
		}
		h.Set("Cache-Control", "no-store")
		maps.Copy(h, l.stream.Header)
	}
	return l.w.Write(p)
}
