package xks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/xks/sigv4"
)

// KeyStores is what the API needs of the domain; [*appliance.Appliance] is it.
type KeyStores interface {
	// Endpoint gives the key store of a URI path prefix.
	Endpoint(prefix string) (*appliance.Endpoint, error)
	// Ready says whether requests would be answered, and what is wrong, if anything is.
	Ready(ctx context.Context) (ready bool, note string)
	// TakesNew says whether connections may stay with this appliance: another node of its
	// fleet is to get their next requests otherwise.
	TakesNew() bool
}

// Options are the settings of an [API]. KeyStores is needed.
type Options struct {
	KeyStores KeyStores
	Log       *slog.Logger
	// RequestLog takes the one line that there is for each request that was refused or
	// failed; Log if nil. With LogAll there is one for each that was performed as well:
	// those are in the audit log anyway, with all that the line says.
	RequestLog *slog.Logger
	LogAll     bool
	// SigV4 are the rules for signatures.
	SigV4 sigv4.Verifier
	// Model is what GetHealthStatus reports as xksProxyModel.
	Model string
	// FleetSize gives how many appliances serve the key stores; 1 if nil, or if it gives
	// less.
	FleetSize func() int
	// Timeout is how long a request may wait for the HSM or the database. KMS
	// gives up after 250 ms (spec, KMS considerations). It ends up to a sixteenth earlier.
	// Default [DefaultTimeout].
	Timeout time.Duration
	// Observe, if given, is called with the outcome of each request, after its
	// answer. The outcome is valid until it returns.
	Observe func(*appliance.Outcome)
}

// API answers the XKS requests. It is an [http.Handler].
type API struct {
	stores    KeyStores
	log       *slog.Logger
	requests  *slog.Logger
	logAll    bool
	verifier  sigv4.Verifier
	model     string
	fleetSize func() int
	patience  patience
	observe   func(*appliance.Outcome)
	bodies    sync.Pool
}

// The limits of a request. KMS may send 4300 bytes of plaintext and 8192 of
// additional authenticated data (spec, Encrypt), which makes less than 22 KiB
// with ARNs of 2048 characters. More is not supported.
const (
	maxPlaintext = 4300
	maxAAD       = 8192
	maxBody      = 64 << 10
	maxURI       = 256
)

// The defaults of [Options].
const (
	DefaultTimeout   = 220 * time.Millisecond
	DefaultFleetSize = 1
)

// New makes the API.
func New(o Options) *API {
	a := &API{stores: o.KeyStores, log: o.Log, verifier: o.SigV4, model: o.Model, logAll: o.LogAll,
		fleetSize: o.FleetSize, patience: patience{timeout: o.Timeout}, observe: o.Observe}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.requests = o.RequestLog; a.requests == nil {
		a.requests = a.log
	}
	if a.fleetSize == nil {
		a.fleetSize = func() int { return DefaultFleetSize }
	}
	if a.patience.timeout <= 0 {
		a.patience.timeout = DefaultTimeout
	}
	a.bodies.New = func() any { return new(bytes.Buffer) }
	return a
}

// request is one XKS request on its way. What it takes is in one piece of memory.
type request struct {
	operation operation
	endpoint  *appliance.Endpoint
	session   *appliance.Session
	proof     appliance.Signature
	outcome   appliance.Outcome
	// integrity is the ciphertextDataIntegrityValue, if KMS asks for one.
	integrity []byte

	body    io.LimitedReader
	waiting waiting
	answer  answer
}

// ServeHTTP answers one request. Load balancers may ask for /healthz (the
// process lives) and /readyz (XKS requests would be answered), on the same
// port and without a signature; they learn nothing more.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case healthzPath:
		probeAnswer(w, r, true, "")
		return
	case readyzPath:
		ready, note := a.stores.Ready(r.Context())
		probeAnswer(w, r, ready, note)
		return
	}
	req := &request{outcome: appliance.Outcome{Protocol: protocol{}, Remote: r.RemoteAddr, Began: time.Now()}}
	out := &req.answer
	out.ResponseWriter = w
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("a request made the appliance panic; please report this", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out.fail(failed(unfulfilled, fmt.Errorf("panic: %v", p)))
		}
		o := &req.outcome
		if o.Took = time.Since(o.Began); out.told != nil {
			o.Err = out.told
		}
		if a.observe != nil {
			a.observe(o)
		}
		a.logRequest(r.Context(), o)
	}()
	body, err := a.serve(w, r, req)
	if !a.stores.TakesNew() {
		w.Header().Set("Connection", "close")
	}
	if err != nil {
		out.fail(err)
		return
	}
	out.begun = true
	out.write(http.StatusOK, body)
	clear(body) // it may hold a plaintext
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	begun  bool
	told   *apiError // nil if the request was performed
	length [1]string
}

func (o *answer) fail(err error) {
	if o.begun {
		return // an answer is under way already
	}
	o.begun, o.told = true, answerTo(err)
	o.write(o.told.statusCode(), o.told.body())
}

// write writes the answer. Its length is always said: net/http finds out that of short
// ones alone, and sends the others in chunks.
func (o *answer) write(status int, body []byte) {
	h := o.Header()
	h["Content-Type"] = jsonContentType
	o.length[0] = strconv.Itoa(len(body))
	h["Content-Length"] = o.length[:]
	o.WriteHeader(status)
	_, _ = o.Write(body) // the caller is gone if this fails
}

var jsonContentType = []string{"application/json"}

// serve opens a session for the request and performs its operation.
func (a *API) serve(w http.ResponseWriter, r *http.Request, req *request) ([]byte, error) {
	prefix, ok := req.route(r)
	if err := certified(r); err != nil { // first, so that a stranger does not learn which paths there are
		return nil, err
	}
	if !ok {
		return nil, fail(invalidURIPathException, "the URI path is not one of the XKS API")
	}
	endpoint, err := a.stores.Endpoint(prefix)
	if fault.CodeOf(err) == fault.NotFound {
		return nil, fail(invalidURIPathException, "no key store has this URI path prefix")
	}
	if err != nil {
		return nil, err
	}
	req.endpoint, req.outcome.Request.KeyStore = endpoint, endpoint.Name()
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, &apiError{name: unsupportedOperationException, status: http.StatusMethodNotAllowed, message: "the XKS API has only POST requests"}
	}
	session, body, err := a.authenticate(w, r, req)
	if err != nil {
		return nil, err
	}
	defer a.release(body)
	req.session = session
	ctx := &req.waiting
	ctx.Context, ctx.moment = r.Context(), a.patience.until(time.Now())
	defer ctx.end()
	answer, err := req.operation.serve(a, ctx, req, body.Bytes())
	if err != nil {
		return nil, session.Refuse(ctx, err)
	}
	return answer, nil
}
