// Package fleet carries what nodes tell and ask each other over HTTPS: the endpoints on the
// administrators' listener, and the clients that call them. Messages authenticate
// themselves (package holdfast/appliance/fleet), so neither end asks for more. It also has
// what nodes ask: for the audit logs of others ([Logs]), for requests of their quotas
// ([Quotas]), for what they
// have counted of KMS's requests ([Activities]), for evidence
// ([Attestations]), and to verify their logs ([Verifications]).
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// Where nodes call each other: with heartbeats, and with questions. A later form of either
// gets another path.
const (
	Path    = "/fleet/v1/call"
	AskPath = "/fleet/v1/ask"
)

// The media types of heartbeats, and of questions and their answers.
const (
	mediaType    = "application/vnd.holdfast.fleet.v1+json"
	askMediaType = "application/vnd.holdfast.fleet.ask.v1"
)

const (
	// A node sends one heartbeat a second, and one for each change.
	callsPerSecond = 50
	callsBurst     = 200
	// A node that is short of its quota asks five times a second, for each key store.
	asksPerSecond = 500
	asksBurst     = 1000
)

// Node answers messages; package fleet has one.
type Node interface {
	// Handle answers a message; fault.FleetMessage if it does not authenticate.
	Handle(message []byte) ([]byte, error)
}

// Answerer answers questions; [fleet.Calls] is one.
type Answerer interface {
	Handle(ctx context.Context, question []byte) ([]byte, error)
}

// Handler answers the calls of other nodes.
type Handler struct {
	// Node gives this node; nil while the appliance is locked: then nothing is answered
	// that counts.
	Node func() Node
	// Calls answers questions; if nil, there is nothing at [AskPath].
	Calls Answerer
	Log   *slog.Logger

	once        sync.Once
	calls, asks limits
}

// endpoint is one of the paths.
type endpoint struct {
	path, mediaType string
	limits          *limits
	most            int64 // bytes of a message
	handle          func(ctx context.Context, message []byte) ([]byte, error)
}

// endpointOf gives what is at a path.
func (h *Handler) endpointOf(path string) *endpoint {
	h.once.Do(func() {
		h.calls.perSecond, h.calls.burst = callsPerSecond, callsBurst
		h.asks.perSecond, h.asks.burst = asksPerSecond, asksBurst
	})
	switch {
	case path == AskPath && h.Calls != nil:
		return &endpoint{AskPath, askMediaType, &h.asks, fleet.MaxQuestion, h.Calls.Handle}
	case path == Path:
		e := &endpoint{Path, mediaType, &h.calls, fleet.MaxMessage, nil}
		if n := h.Node(); n != nil {
			e.handle = func(_ context.Context, message []byte) ([]byte, error) { return n.Handle(message) }
		}
		return e
	}
	return nil
}

// ServeHTTP implements [http.Handler]. The code of an answer that is not 200 says why.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := h.endpointOf(r.URL.Path)
	if e == nil {
		h.fail(w, r, 0, fault.Errorf(fault.NotFound, "nodes call each other at %s and %s", Path, AskPath))
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		h.fail(w, r, http.StatusMethodNotAllowed, fault.Errorf(fault.Invalid, "nodes call %s by POST", e.path))
		return
	}
	if !e.limits.allowed(r.RemoteAddr, time.Now()) {
		w.Header().Set("Retry-After", "1")
		h.fail(w, r, 0, fault.Errorf(fault.Throttled, "more than %d calls a second came from one address", e.limits.perSecond))
		return
	}
	if e.handle == nil {
		h.fail(w, r, 0, fault.Errorf(fault.Locked, "this node is locked"))
		return
	}
	message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, e.most))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			err = fault.Errorf(fault.TooLarge, "a message between nodes has at most %d bytes", e.most)
		} else {
			err = fault.Wrapf(fault.Invalid, err, "the message could not be read")
		}
		h.fail(w, r, 0, err)
		return
	}
	answer, err := e.handle(r.Context(), message)
	if err != nil {
		h.fail(w, r, 0, err)
		return
	}
	w.Header().Set("Content-Type", e.mediaType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(answer) // the caller is gone if this fails
}

// fail answers with why not; status is that of the code if 0.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	p := operation.NewProblem(fault.Answer(r.Context(), h.Log, "fleet", err, "address", r.RemoteAddr))
	if status != 0 {
		p.Status = status
	}
	w.Header().Set("Content-Type", operation.ProblemType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the caller is gone if this fails
}
