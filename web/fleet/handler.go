// Package fleet carries the messages of nodes over HTTPS: the endpoint on the
// administrators' listener, and the client that calls it. The messages authenticate
// themselves (package holdfast/appliance/fleet), so neither end asks for more.
package fleet

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// Path is where nodes call each other. A later form of the messages gets another one.
const Path = "/fleet/v1/call"

// mediaType is that of messages.
const mediaType = "application/vnd.holdfast.fleet.v1+json"

// Calls of one address: a node sends one a second, and one for each change.
const (
	callsPerSecond = 50
	callsBurst     = 200
	// maxCallers bounds the addresses that are counted apart. Above it all others share
	// one allowance.
	maxCallers = 256
	// callerKept is how long the count of an address is kept that does not call.
	callerKept = time.Minute
)

// Node answers messages; package fleet has one.
type Node interface {
	// Handle answers a message; fault.FleetMessage if it does not authenticate.
	Handle(message []byte) ([]byte, error)
}

// Handler answers the calls of other nodes.
type Handler struct {
	// Node gives this node; nil while the appliance is locked: then nothing is answered
	// that counts.
	Node func() Node
	Log  *slog.Logger

	mu      sync.Mutex
	callers map[string]*caller
}

// caller is an address that calls.
type caller struct {
	limit *rate.Limiter
	last  time.Time
}

// ServeHTTP implements [http.Handler]. The code of an answer that is not 200 says why.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		h.fail(w, r, http.StatusMethodNotAllowed, fault.Errorf(fault.Invalid, "nodes call %s by POST", Path))
		return
	}
	if !h.allowed(r.RemoteAddr, time.Now()) {
		w.Header().Set("Retry-After", "1")
		h.fail(w, r, 0, fault.Errorf(fault.Throttled, "more than %d calls a second came from one address", callsPerSecond))
		return
	}
	node := h.Node()
	if node == nil {
		h.fail(w, r, 0, fault.Errorf(fault.Locked, "this node is locked"))
		return
	}
	message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, fleet.MaxMessage))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			err = fault.Errorf(fault.TooLarge, "a message between nodes has at most %d bytes", fleet.MaxMessage)
		} else {
			err = fault.Wrapf(fault.Invalid, err, "the message could not be read")
		}
		h.fail(w, r, 0, err)
		return
	}
	answer, err := node.Handle(message)
	if err != nil {
		h.fail(w, r, 0, err)
		return
	}
	w.Header().Set("Content-Type", mediaType)
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

// allowed takes a call from the allowance of its address.
func (h *Handler) allowed(address string, now time.Time) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.callers == nil {
		h.callers = map[string]*caller{}
	}
	c := h.callers[host]
	if c == nil && len(h.callers) >= maxCallers {
		for other, c := range h.callers {
			if now.Sub(c.last) > callerKept {
				delete(h.callers, other)
			}
		}
		if len(h.callers) >= maxCallers {
			host = "" // all others
			c = h.callers[host]
		}
	}
	if c == nil {
		c = &caller{limit: rate.NewLimiter(callsPerSecond, callsBurst)}
		h.callers[host] = c
	}
	c.last = now
	return c.limit.AllowN(now, 1)
}
