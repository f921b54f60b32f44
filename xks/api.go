package xks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
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
	// Health gives the state of the HSMs.
	Health(ctx context.Context) ([]appliance.HSMHealth, error)
}

// Options are the settings of an [API]. KeyStores is needed.
type Options struct {
	KeyStores KeyStores
	Log       *slog.Logger
	// RequestLog takes the one line that there is for each request; Log if nil.
	RequestLog *slog.Logger
	// SigV4 are the rules for signatures.
	SigV4 sigv4.Verifier
	// Model is what GetHealthStatus reports as xksProxyModel.
	Model string
	// FleetSize is how many appliances serve the key stores; 1 if 0.
	FleetSize int
	// Timeout is how long a request may wait for the HSM or the database. KMS
	// gives up after 250 ms (spec, KMS considerations). Default 220 ms.
	Timeout time.Duration
	// Audit, if given, is called with what became of each authenticated request
	// before its answer leaves, to record it durably. If it fails, so does the
	// request.
	Audit func(ctx context.Context, o *Outcome) error
	// AuditReady says why Audit would fail; nil if it would not.
	AuditReady func() error
	// Observe, if given, is called with what became of each request, after its
	// answer.
	Observe func(*Outcome)
}

// API answers the XKS requests. It is an [http.Handler].
type API struct {
	stores    KeyStores
	log       *slog.Logger
	requests  *slog.Logger
	verifier  sigv4.Verifier
	model     string
	fleetSize int
	timeout   time.Duration
	audit     func(context.Context, *Outcome) error
	auditable func() error
	observe   func(*Outcome)
	bodies    sync.Pool
}

// The limits of a request. KMS may send 4300 bytes of plaintext and 8192 of
// additional authenticated data (spec, Encrypt), which makes less than 22 KiB
// with ARNs of 2048 characters.
const (
	maxPlaintext = 4300
	maxAAD       = 8192
	maxBody      = 64 << 10
	maxURI       = 256
)

// New makes the API.
func New(o Options) *API {
	a := &API{stores: o.KeyStores, log: o.Log, verifier: o.SigV4, model: o.Model,
		fleetSize: max(1, o.FleetSize), timeout: o.Timeout, audit: o.Audit, auditable: o.AuditReady, observe: o.Observe}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.requests = o.RequestLog; a.requests == nil {
		a.requests = a.log
	}
	if a.timeout <= 0 {
		a.timeout = 220 * time.Millisecond
	}
	a.bodies.New = func() any { return new(bytes.Buffer) }
	return a
}

// request is one XKS request on its way.
type request struct {
	operation operation
	endpoint  *appliance.Endpoint
	keyStore  string
	keyID     string
	metadata  *requestMetadata
	claim     *sigv4.Claim
	decision  appliance.Decision
	version   uint32
	begin     time.Time
	result    Outcome
}

// ServeHTTP answers one request. Load balancers may ask for /healthz (the
// process lives) and /readyz (XKS requests would be answered), on the same
// port and without a signature; they learn nothing more.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		probeAnswer(w, r, true)
		return
	case "/readyz":
		probeAnswer(w, r, a.Ready(r.Context()))
		return
	}
	req := &request{begin: time.Now()}
	out := &answer{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("a request made the appliance panic; please report this", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out.fail(failed(unfulfilled, fmt.Errorf("panic: %v", p)))
		}
		o := req.outcome(r, out.status, out.err)
		if a.observe != nil {
			a.observe(o)
		}
		a.logRequest(r.Context(), o)
	}()
	body, err := a.serve(w, r, req)
	if err != nil {
		out.fail(err)
		return
	}
	out.status = http.StatusOK
	writeJSON(w, http.StatusOK, body)
	clear(body) // it may hold a plaintext
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	status int
	err    *apiError
}

func (o *answer) fail(err *apiError) {
	if o.status != 0 {
		return // an answer is under way already
	}
	o.status, o.err = err.statusCode(), err
	err.write(o.ResponseWriter)
}

// serve authenticates the request and performs its operation.
func (a *API) serve(w http.ResponseWriter, r *http.Request, req *request) ([]byte, *apiError) {
	prefix, ok := req.route(r)
	if !ok {
		return nil, fail(invalidURIPathException, "the URI path is not one of the XKS API")
	}
	endpoint, err := a.stores.Endpoint(prefix)
	if fault.CodeOf(err) == fault.NotFound {
		return nil, fail(invalidURIPathException, "no key store has this URI path prefix")
	}
	if err != nil {
		return nil, fromDomain(err)
	}
	req.endpoint, req.keyStore = endpoint, endpoint.Name()
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, &apiError{name: unsupportedOperationException, status: http.StatusMethodNotAllowed, message: "the XKS API has only POST requests"}
	}
	body, apiErr := a.authenticate(w, r, req)
	if apiErr != nil {
		return nil, apiErr
	}
	defer a.release(body)
	p := &patience{Context: r.Context(), deadline: time.Now().Add(a.timeout)}
	defer p.end()
	answer, apiErr := req.operation.serve(a, p, req, body.Bytes())
	if a.audit == nil {
		return answer, apiErr
	}
	status := http.StatusOK
	if apiErr != nil {
		status = apiErr.statusCode()
	}
	if err := a.audit(p, req.outcome(r, status, apiErr)); err != nil {
		clear(answer) // it may hold a plaintext
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fromDomain(&fault.Fault{Code: fault.Timeout, Message: "the audit log", Err: err})
		}
		return nil, failed("the request could not be audited, and so is not answered", err)
	}
	return answer, apiErr
}

// route splits the path into prefix, key ID and operation.
func (req *request) route(r *http.Request) (prefix string, ok bool) {
	path := r.URL.Path
	if len(path) > maxURI || r.URL.RawPath != "" {
		return "", false // an encoded path: no XKS path needs that
	}
	if prefix, ok = strings.CutSuffix(path, appliance.XKSPath+"/health"); ok {
		req.operation = opGetHealthStatus
		return prefix, true
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", false
	}
	rest, word := path[:i], path[i+1:]
	i = strings.LastIndexByte(rest, '/')
	if i < 0 {
		return "", false
	}
	rest, req.keyID = rest[:i], rest[i+1:]
	if req.operation, ok = keyOperations[word]; !ok || !appliance.ValidExternalKeyID(req.keyID) {
		req.keyID = "" // it may be anything: keep it out of the log
		return "", false
	}
	return strings.CutSuffix(rest, appliance.XKSPath+"/keys")
}

// authenticate checks the signature. What can be refused by the headers is
// refused before the body is read. The body it gives is to be released.
func (a *API) authenticate(w http.ResponseWriter, r *http.Request, req *request) (*bytes.Buffer, *apiError) {
	claim, err := a.verifier.Parse(r)
	req.claim = claim
	if err == nil && !req.endpoint.HasCredential(claim.AccessKeyID) {
		err = errors.New("the key store has no such active credential")
	}
	if err != nil {
		if r.ContentLength < 0 || r.ContentLength > maxBody {
			w.Header().Set("Connection", "close") // rather than read all of it
		}
		return nil, authenticationFailed(err)
	}
	body, apiErr := a.readBody(w, r)
	if apiErr != nil {
		return nil, apiErr
	}
	if err := claim.Verify(r, body.Bytes(), req.endpoint.Sign); err != nil {
		a.release(body)
		return nil, authenticationFailed(err)
	}
	markAuthenticated(r.Context())
	if err := req.endpoint.Authenticated(claim.AccessKeyID); err != nil {
		a.release(body)
		return nil, fromDomain(err)
	}
	return body, nil
}

// readBody reads the whole body, within the limit of size; the server bounds
// the time ([ServerOptions]).
func (a *API) readBody(w http.ResponseWriter, r *http.Request) (*bytes.Buffer, *apiError) {
	if r.ContentLength > maxBody {
		w.Header().Set("Connection", "close")
		return nil, bodyTooLarge()
	}
	body := a.bodies.Get().(*bytes.Buffer)
	if r.ContentLength > 0 {
		// A buffer that grows leaves what it held behind. One more byte than the
		// length, for ReadFrom to see the end, and its own minimum.
		body.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(io.LimitReader(r.Body, maxBody+1)); err != nil {
		a.release(body)
		w.Header().Set("Connection", "close")
		return nil, &apiError{name: validationException, message: "the request body did not arrive whole and in time", cause: err}
	}
	if body.Len() > maxBody {
		a.release(body)
		w.Header().Set("Connection", "close")
		return nil, bodyTooLarge()
	}
	return body, nil
}

func bodyTooLarge() *apiError {
	return fail(unsupportedOperationException, fmt.Sprintf("the request body exceeds %d bytes", maxBody))
}

// release zeroizes a body, which may hold a plaintext, and keeps its memory
// for another.
func (a *API) release(body *bytes.Buffer) {
	clear(body.Bytes())
	body.Reset()
	a.bodies.Put(body)
}

// Ready says whether XKS requests would be answered.
func (a *API) Ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	hsms, err := a.stores.Health(ctx)
	if err != nil || (a.auditable != nil && a.auditable() != nil) {
		return false
	}
	for _, h := range hsms {
		if h.Status != appliance.HealthUnavailable {
			return true
		}
	}
	return false
}

func probeAnswer(w http.ResponseWriter, r *http.Request, ok bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "unavailable\n")
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// logRequest writes the one line there is for each request (spec, Logging).
func (a *API) logRequest(ctx context.Context, o *Outcome) {
	level := slog.LevelInfo
	if o.Status >= 500 && o.Status != http.StatusNotImplemented {
		level = slog.LevelError
	}
	if !a.requests.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 16)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	attrs = append(attrs, slog.Int("status", o.Status), slog.Duration("took", o.Took))
	add("key_store", o.KeyStore)
	add("key_id", o.KeyID)
	add("kms_request_id", o.RequestID)
	add("kms_operation", o.KMSOperation)
	add("principal", o.Principal)
	add("kms_key_arn", o.KMSKeyARN)
	add("kms_via_service", o.ViaService)
	add("source_vpc", o.SourceVPC)
	add("source_vpce", o.SourceVPCE)
	add("policies", strings.Join(o.Policies, ","))
	if o.KeyVersion != 0 {
		attrs = append(attrs, slog.Uint64("key_version", uint64(o.KeyVersion)))
	}
	if o.Signed {
		add("access_key_id", o.AccessKeyID)
		attrs = append(attrs, slog.Duration("clock_skew", o.Skew))
	}
	if o.ErrorName != "" {
		add("error_name", o.ErrorName)
		add("reference", o.Reference)
		add("error", o.Reason)
		add("remote", o.Remote)
	}
	name := o.Operation
	if name == "" {
		name = "unknown operation"
	}
	// Without the logger, which would look up the place in the source each time.
	record := slog.NewRecord(time.Now(), level, name, 0)
	record.AddAttrs(attrs...)
	_ = a.requests.Handler().Handle(ctx, record)
}
