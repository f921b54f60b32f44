package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
	"holdfast/web/forget"
	"holdfast/web/operation"
)

// API is the admin API: it reads requests into the inputs of operations, has them
// performed, and writes what they give. Who calls it, the listener finds out
// ([identity.WithPrincipal]).
type API struct {
	*operation.Performer
	router chi.Router
}

// NewAPI makes the admin API.
func NewAPI(o operation.Options) *API {
	a := &API{Performer: operation.New(o), router: chi.NewRouter()}
	a.router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, operation.NoRoute(r.Method, r.URL.Path))
	})
	a.router.MethodNotAllowed(a.methodNotAllowed)
	for _, route := range operation.Table() {
		serve := a.serve(route)
		if route.TakesSecret() {
			plain := serve
			serve = func(w http.ResponseWriter, r *http.Request) {
				forget.Answer(w, r, func(w http.ResponseWriter) { plain(w, r) })
			}
		}
		a.router.Method(route.Method, operation.Prefix+route.Path, serve)
	}
	return a
}

// ServeHTTP implements [http.Handler]. The request may come through another router:
// what that one has found out does not count here.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = identify(w, r)
	if a.KeepsAnswers() {
		w.Header().Set(operation.KeptHeader, "kept")
	}
	defer a.recovered(w, r)
	a.router.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, (*chi.Context)(nil))))
}

// serve answers requests for an operation.
func (a *API) serve(route *operation.Route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, known := identity.PrincipalOf(r.Context())
		if !known {
			w.Header().Set("WWW-Authenticate", `Bearer realm="holdfast"`)
			a.fail(w, r, errUnauthenticated)
			return
		}
		c, path := a.As(who, remote(r)), parameters(r)
		deadlines := http.NewResponseController(w) // a writer without them has none
		done, err := route.Perform(r.Context(), c, operation.Request{Path: path, Read: func() (_ any, err error) {
			if route.Long() { // and the caller may perform it
				_, _ = deadlines.SetReadDeadline(time.Time{}), deadlines.SetWriteDeadline(time.Time{})
			}
			if err := readable(route, r); err != nil {
				return nil, err
			}
			if c.Revision, err = revision(r.Header); err != nil {
				return nil, err
			}
			if c.Reason, err = reason(r.Header); err != nil {
				return nil, err
			}
			if c.IdempotencyKey, err = idempotencyKey(route, r.Header); err != nil {
				return nil, err
			}
			return route.Decode(operation.Parts{Path: path, Query: r.URL.RawQuery, Body: body(route, w, r)})
		}})
		if waits, ok := errors.AsType[*operation.Pending](err); ok {
			w.Header().Set("Location", operation.LocationOf(waits))
			writeJSON(w, http.StatusAccepted, waits.Detail())
			return
		}
		if answered, ok := done.(*operation.Answered); ok && err == nil {
			a.answered(w, r, answered)
			return
		}
		if stream, ok := done.(operation.Done[operation.Stream]); ok && err == nil {
			err = stream.Out.Serve(w, a.Log)
			done = nil
		}
		switch {
		case err != nil:
			// Whoever still sends when the connection ends may lose the answer (RFC 9112 section 9.6).
			_ = deadlines.SetReadDeadline(time.Now().Add(lateTime))
			_, _ = io.CopyN(io.Discard, r.Body, lateBody)
			a.fail(w, r, err)
		case done != nil:
			a.answer(w, r, route, path, done)
		}
	}
}

// answer writes what an operation gave.
func (a *API) answer(w http.ResponseWriter, r *http.Request, route *operation.Route, path func(string) string, done any) {
	text, err := json.Marshal(done)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if at := route.Location(path, done); at != "" {
		w.Header().Set("Location", at)
	}
	if route.Tagged() {
		tag := operation.EntityTag(operation.Gave(done), text)
		w.Header().Set("ETag", tag)
		if unchanged(r.Header, tag) {
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	writeText(w, route.Success(), operation.MediaType, append(text, '\n'))
}

// answered writes what a request with an idempotency key was answered, now or before.
func (a *API) answered(w http.ResponseWriter, r *http.Request, answer *operation.Answered) {
	if answer.Replayed {
		w.Header().Set(operation.ReplayedHeader, "true")
	}
	if err := answer.Refusal(); err != nil {
		a.fail(w, r, err)
		return
	}
	if answer.Location != "" {
		w.Header().Set("Location", answer.Location)
	}
	writeText(w, answer.Status, "application/json", append(answer.Body, '\n'))
}

// unchanged says whether a caller has the answer with the tag (RFC 9110 section 13.1.2).
func unchanged(h http.Header, tag string) bool {
	for _, value := range h.Values("If-None-Match") {
		for have := range strings.SplitSeq(value, ",") {
			if have = strings.TrimPrefix(strings.TrimSpace(have), "W/"); have == tag || have == "*" {
				return true
			}
		}
	}
	return false
}

// identify gives a request an ID, once: its answer, and what is recorded of it, have it.
func identify(w http.ResponseWriter, r *http.Request) *http.Request {
	id := w.Header().Get(operation.RequestIDHeader)
	if id == "" {
		id = fault.NewReference() + fault.NewReference()
		w.Header().Set(operation.RequestIDHeader, id)
	}
	return r.WithContext(operation.WithRequest(r.Context(), id))
}

// recovered answers a request whose handler has panicked.
func (a *API) recovered(w http.ResponseWriter, r *http.Request) {
	switch v := recover(); v {
	case nil:
	case http.ErrAbortHandler:
		panic(v)
	default:
		a.fail(w, r, fmt.Errorf("panic: %v: %s", v, debug.Stack()))
	}
}

// remote is the address that a caller has; empty for one on the machine itself, whose end of the
// socket has no name, which Go writes as "@".
func remote(r *http.Request) string {
	if r.RemoteAddr == "@" {
		return ""
	}
	return r.RemoteAddr
}

// parameters gives those of a request's path by their names.
func parameters(r *http.Request) func(name string) string {
	return func(name string) string {
		value := chi.URLParam(r, name)
		if plain, err := url.PathUnescape(value); err == nil && r.URL.RawPath != "" { // the router has matched the raw path
			return plain
		}
		return value
	}
}

// lateBody and lateTime bound what is read, in bytes, of a body that is refused before its end, and
// how long that takes.
const (
	lateBody = 1 << 20
	lateTime = 5 * time.Second
)

// body gives a request's body, bounded.
func body(route *operation.Route, w http.ResponseWriter, r *http.Request) io.Reader {
	return http.MaxBytesReader(w, r.Body, maxBody(route))
}

// entityTags are those of If-Match: one or more, weak or strong (RFC 9110 section 8.8.3), or
// the asterisk.
var entityTags = regexp.MustCompile(`^(\*|(W/)?"[\x21\x23-\x7e]+"( *, *(W/)?"[\x21\x23-\x7e]+")*)$`)

// revision reads If-Match; empty if there is none. A header that says nothing was meant
// to say something.
func revision(h http.Header) (string, error) {
	values, there := h["If-Match"]
	all := strings.Join(values, ", ")
	switch {
	case !there:
		return "", nil
	case !entityTags.MatchString(all):
		return "", fault.Errorf(fault.Invalid, "If-Match: give an ETag in quotes, as the API shows it, or leave the header out")
	}
	return all, nil
}

// reason reads the header that says why; empty if there is none.
func reason(h http.Header) (string, error) {
	text, err := url.PathUnescape(h.Get(operation.ReasonHeader))
	if err != nil {
		return "", fault.Errorf(fault.Invalid, "%s: percent signs escape bytes, as in a URL, and this one cannot be read", operation.ReasonHeader)
	}
	return text, nil
}

// idempotencyKey reads the key of a request that changes something; empty if there is none.
func idempotencyKey(route *operation.Route, h http.Header) (string, error) {
	values, there := h[operation.IdempotencyKeyHeader]
	switch {
	case !there || !route.Changes():
		return "", nil
	case len(values) != 1:
		return "", fault.Errorf(fault.Invalid, "%s: there are %d of this header; send one", operation.IdempotencyKeyHeader, len(values))
	}
	return idempotency.ParseKey(values[0])
}

var errUnauthenticated = fault.Errorf(fault.Unauthenticated, "say who you are: send an API token as \"Authorization: Bearer hf_...\"")

// methodNotAllowed answers with the methods that the route does have.
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if a.router.Match(chi.NewRouteContext(), m, cmp.Or(r.URL.RawPath, r.URL.Path)) {
			allowed = append(allowed, m)
		}
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	a.fail(w, r, fault.Errorf(fault.NoMethod, "the route %s of the admin API has no %.20s; it has %s", r.URL.Path, r.Method, strings.Join(allowed, ", ")))
}
