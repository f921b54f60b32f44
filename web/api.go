package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/boot"
	"holdfast/attest"
)

// Domain is what the API needs of the appliance; [*appliance.Appliance] is it.
type Domain interface {
	Status(ctx context.Context) appliance.Status
	CreateKeyStore(ctx context.Context, want appliance.KeyStore) (*appliance.KeyStore, error)
	KeyStores(ctx context.Context) ([]*appliance.KeyStore, error)
	ShowKeyStore(ctx context.Context, name string) (*appliance.KeyStoreDetail, error)
	DeleteKeyStore(ctx context.Context, name string) error
	CreateCredential(ctx context.Context, keyStore string, want appliance.NewCredential) (*appliance.Credential, string, error)
	Credentials(ctx context.Context, keyStore string) ([]*appliance.Credential, error)
	SetCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) (*appliance.Credential, error)
	DeleteCredential(ctx context.Context, keyStore, accessKeyID string) error
	CreateKey(ctx context.Context, keyStore string, want appliance.NewExternalKey) (*appliance.StoredKey, error)
	Keys(ctx context.Context, keyStore string, page appliance.Page) ([]*appliance.ExternalKey, error)
	ShowKey(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error)
	SetKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) (*appliance.ExternalKey, error)
	RotateKey(ctx context.Context, keyStore, id string, material []byte) (*appliance.ExternalKey, error)
	ScheduleDeletion(ctx context.Context, keyStore, id string, days int) (*appliance.ExternalKey, error)
	CancelDeletion(ctx context.Context, keyStore, id string) (*appliance.ExternalKey, error)
	AddGrant(ctx context.Context, keyStore string, want appliance.Grant) (*appliance.Grant, error)
	Grants(ctx context.Context, keyStore string) ([]*appliance.Grant, error)
	RemoveGrant(ctx context.Context, keyStore, id string) error
	Backup(ctx context.Context, w io.Writer, checkpoint string) error
	VerifyBackup(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	Restore(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	TestGrants(ctx context.Context, keyStore, key string, r appliance.RequestContext) (appliance.Decision, error)
	Policy(ctx context.Context, keyStore string) (string, error)
	SetPolicy(ctx context.Context, keyStore, cedar string) error
	Block(ctx context.Context, t appliance.BlockTarget, reason string) (appliance.Block, error)
	Unblock(ctx context.Context, t appliance.BlockTarget) error
}

// Boot is what the API needs of the boot; [*boot.Boot] is it.
type Boot interface {
	Status() boot.Status
	Evidence(ctx context.Context, nonce []byte) (*attest.Evidence, error)
	Seal(ctx context.Context, credential []byte) error
	Revoke(ctx context.Context, below uint64) error
}

// Audit is what the API needs of the audit log.
type Audit interface {
	// Ready says why nothing can be recorded; nil if something can.
	Ready() error
	// Record writes a record durably.
	Record(ctx context.Context, r *audit.Record) error
	// Checkpoint signs the log as it is now.
	Checkpoint() ([]byte, error)
	// Status gives the state of the log; nil before it is open.
	Status() *audit.Status
}

// The bodies of requests and answers that are not types of the domain.
type (
	// Status is the state of the appliance and of its boot.
	Status struct {
		appliance.Status
		Boot  boot.Status   `json:"boot"`
		Audit *audit.Status `json:"audit,omitempty"`
	}
	// SealRequest has the HSM's PIN sealed to the machine's TPM.
	SealRequest struct {
		PIN []byte `json:"pin"`
	}
	// Revocation has the machine's TPM refuse policies of a version below.
	Revocation struct {
		Below uint64 `json:"below"`
	}
	// NewCredential asks for a credential: to be made if both are empty, else
	// imported.
	NewCredential struct {
		AccessKeyID     string `json:"access_key_id,omitempty"`
		SecretAccessKey string `json:"secret_access_key,omitempty"`
	}
	// CreatedCredential shows the secret for the only time.
	CreatedCredential struct {
		appliance.Credential
		SecretAccessKey string `json:"secret_access_key"`
		URIPathPrefix   string `json:"uri_path_prefix"`
	}
	// NewKey asks for an external key. Material, if there is any, is imported.
	NewKey struct {
		ID       string            `json:"id"`
		Usage    appliance.Usage   `json:"usage"`
		Custody  appliance.Custody `json:"custody"`
		Material []byte            `json:"material,omitempty"`
		// Framing is for an imported key that another proxy has used.
		Framing appliance.Framing `json:"aad_framing,omitempty"`
	}
	// Rotation asks for a new version of a key; with Material, for that one.
	Rotation struct {
		Material []byte `json:"material,omitempty"`
	}
	// Deletion asks for a key to be destroyed after Days.
	Deletion struct {
		Days int `json:"days"`
	}
	// Policy is a key store's Cedar policies that were written by hand.
	Policy struct {
		Cedar string `json:"cedar"`
	}
	// Block asks for a key, a key store or everything to be out of service.
	Block struct {
		appliance.BlockTarget
		Reason string `json:"reason"`
	}
	// Blocked is what is out of service.
	Blocked struct {
		appliance.BlockTarget
		appliance.Block
	}
	// Failure is the body of every answer that is not 2xx.
	Failure struct {
		Code    appliance.Code `json:"code"`
		Message string         `json:"message"`
	}
)

// maxBody bounds the bodies of requests. The longest are Cedar policies
// ([authz.MaxCedar]), which JSON makes longer.
const maxBody = 256 << 10

// api serves the routes.
type api struct {
	domain Domain
	boot   Boot
	audit  Audit
	log    *slog.Logger
}

// NewAPI gives the handler of the admin API. Who may call it, the listener
// decides, and who it is ([WithActor]).
func NewAPI(domain Domain, boot Boot, audit Audit, log *slog.Logger) http.Handler {
	a := &api{domain, boot, audit, log}
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, appliance.Errorf(appliance.CodeNotFound, "the admin API has no route %s %s", r.Method, r.URL.Path))
	})
	r.MethodNotAllowed(a.methodNotAllowed)
	const stores, store = "/api/v1/keystores", "/api/v1/keystores/{keystore}"
	r.Get("/api/v1/status", a.handle(a.status))
	r.Get("/api/v1/attestation", a.handle(a.evidence))
	r.Post("/api/v1/seal", a.handle(a.seal))
	r.Post("/api/v1/seal/revoke", a.handle(a.revoke))
	r.Get("/api/v1/audit/checkpoint", a.handle(a.checkpoint))
	r.Get("/api/v1/backup", a.backup)
	r.Post("/api/v1/restore", a.restore)
	r.Post("/api/v1/block", a.handle(a.block))
	r.Post("/api/v1/unblock", a.handle(a.unblock))
	r.Get(stores, a.handle(a.listKeyStores))
	r.Post(stores, a.handle(a.createKeyStore))
	r.Get(store, a.handle(a.showKeyStore))
	r.Delete(store, a.handle(a.deleteKeyStore))
	r.Get(store+"/credentials", a.handle(a.listCredentials))
	r.Post(store+"/credentials", a.handle(a.createCredential))
	r.Post(store+"/credentials/{credential}/activate", a.handle(a.setCredentialActive(true)))
	r.Post(store+"/credentials/{credential}/deactivate", a.handle(a.setCredentialActive(false)))
	r.Delete(store+"/credentials/{credential}", a.handle(a.deleteCredential))
	r.Get(store+"/keys", a.handle(a.listKeys))
	r.Post(store+"/keys", a.handle(a.createKey))
	r.Get(store+"/keys/{key}", a.handle(a.showKey))
	r.Post(store+"/keys/{key}/enable", a.handle(a.setKeyEnabled(true)))
	r.Post(store+"/keys/{key}/disable", a.handle(a.setKeyEnabled(false)))
	r.Post(store+"/keys/{key}/rotate", a.handle(a.rotateKey))
	r.Post(store+"/keys/{key}/delete", a.handle(a.scheduleDeletion))
	r.Post(store+"/keys/{key}/cancel-deletion", a.handle(a.cancelDeletion))
	r.Get(store+"/policy", a.handle(a.showPolicy))
	r.Post(store+"/policy", a.handle(a.setPolicy))
	r.Post(store+"/keys/{key}/test-grants", a.handle(a.testGrants))
	r.Get(store+"/grants", a.handle(a.listGrants))
	r.Post(store+"/grants", a.handle(a.addGrant))
	r.Delete(store+"/grants/{grant}", a.handle(a.removeGrant))
	return r
}

// handle runs an operation and writes what it gives as JSON.
func (a *api) handle(operation func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		do := operation
		if r.Method != http.MethodGet {
			do = a.audited(operation)
		}
		result, err := do(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, result)
	}
}

// statusOf is the one place that puts codes of the domain into HTTP.
var statusOf = map[appliance.Code]int{
	appliance.CodeInvalid:  http.StatusBadRequest,
	appliance.CodeTooLarge: http.StatusBadRequest,
	appliance.CodeNotFound: http.StatusNotFound,
	appliance.CodeExists:   http.StatusConflict,
	appliance.CodeConflict: http.StatusConflict,
	appliance.CodeLocked:   http.StatusServiceUnavailable,
	appliance.CodeTimeout:  http.StatusServiceUnavailable,
}

// methodNotAllowed answers with the methods that the route does have.
func (a *api) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		if chi.RouteContext(r.Context()).Routes.Match(chi.NewRouteContext(), m, r.URL.Path) {
			w.Header().Add("Allow", m)
		}
	}
	writeJSON(w, http.StatusMethodNotAllowed, Failure{Code: appliance.CodeInvalid,
		Message: fmt.Sprintf("the route %s of the admin API has no %s", r.URL.Path, r.Method)})
}

func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := Failure{Code: appliance.CodeOf(err), Message: "internal error; the appliance's log says more"}
	var e *appliance.Error
	if errors.As(err, &e) {
		f.Message = e.Message
	}
	status, ok := statusOf[f.Code]
	if !ok {
		status = http.StatusInternalServerError
		a.log.Error("admin", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	writeJSON(w, status, f)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}

// decode reads the body of a request: one JSON object without unknown fields, or
// nothing.
func decode[T any](r *http.Request) (T, error) {
	var v T
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&v)
	if err == nil {
		_, err = d.Token() // the end, if there is nothing more
	}
	if !errors.Is(err, io.EOF) {
		return v, appliance.Errorf(appliance.CodeInvalid, "the request body cannot be read as JSON of this route")
	}
	return v, nil
}

func (a *api) status(r *http.Request) (any, error) {
	return Status{a.domain.Status(r.Context()), a.boot.Status(), a.audit.Status()}, nil
}

func (a *api) evidence(r *http.Request) (any, error) {
	text, err := evidence(r, a.boot)
	return json.RawMessage(text), err
}

func (a *api) seal(r *http.Request) (any, error) {
	want, err := decode[SealRequest](r)
	if err != nil {
		return nil, err
	}
	defer clear(want.PIN)
	return struct{}{}, a.boot.Seal(r.Context(), want.PIN)
}

func (a *api) revoke(r *http.Request) (any, error) {
	want, err := decode[Revocation](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.boot.Revoke(r.Context(), want.Below)
}

// backup streams a backup. If it fails when the first bytes are gone, the
// connection is cut, so that nobody takes it for whole.
func (a *api) backup(w http.ResponseWriter, r *http.Request) {
	checkpoint, err := a.audit.Checkpoint()
	if err == nil {
		err = a.record(r, nil, nil, nil)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := &lateHeader{w: w}
	if err := a.domain.Backup(r.Context(), out, string(checkpoint)); err != nil {
		if !out.begun {
			a.fail(w, r, err)
			return
		}
		a.log.Error("a backup was cut short", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// lateHeader says what follows once something does.
type lateHeader struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/octet-stream")
		l.w.Header().Set("Cache-Control", "no-store")
	}
	return l.w.Write(p)
}

// restore takes a backup over, or with ?verify=true only verifies it. The body may
// be as large as the disk allows.
func (a *api) restore(w http.ResponseWriter, r *http.Request) {
	take := a.domain.Restore
	if r.URL.Query().Get("verify") == "true" {
		take = a.domain.VerifyBackup
	}
	report, err := a.audited(func(r *http.Request) (any, error) { return take(r.Context(), r.Body) })(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, report)
}

func keyStore(r *http.Request) string { return chi.URLParam(r, "keystore") }

func (a *api) listKeyStores(r *http.Request) (any, error) {
	return list(a.domain.KeyStores(r.Context()))
}

func (a *api) createKeyStore(r *http.Request) (any, error) {
	want, err := decode[appliance.KeyStore](r)
	if err != nil {
		return nil, err
	}
	return a.domain.CreateKeyStore(r.Context(), want)
}

func (a *api) showKeyStore(r *http.Request) (any, error) {
	return a.domain.ShowKeyStore(r.Context(), keyStore(r))
}

func (a *api) deleteKeyStore(r *http.Request) (any, error) {
	return struct{}{}, a.domain.DeleteKeyStore(r.Context(), keyStore(r))
}

func (a *api) listCredentials(r *http.Request) (any, error) {
	return list(a.domain.Credentials(r.Context(), keyStore(r)))
}

func (a *api) createCredential(r *http.Request) (any, error) {
	want, err := decode[NewCredential](r)
	if err != nil {
		return nil, err
	}
	c, secret, err := a.domain.CreateCredential(r.Context(), keyStore(r), appliance.NewCredential(want))
	if err != nil {
		return nil, err
	}
	ks, err := a.domain.ShowKeyStore(r.Context(), keyStore(r))
	if err != nil {
		return nil, err
	}
	return CreatedCredential{*c, secret, ks.URIPathPrefix}, nil
}

func (a *api) setCredentialActive(active bool) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		return a.domain.SetCredentialActive(r.Context(), keyStore(r), chi.URLParam(r, "credential"), active)
	}
}

func (a *api) deleteCredential(r *http.Request) (any, error) {
	return struct{}{}, a.domain.DeleteCredential(r.Context(), keyStore(r), chi.URLParam(r, "credential"))
}

func (a *api) listKeys(r *http.Request) (any, error) {
	page := appliance.Page{After: r.URL.Query().Get("after"), Limit: 100}
	if limit := r.URL.Query().Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil {
			return nil, appliance.Errorf(appliance.CodeInvalid, "limit %q is not a number", limit)
		}
		page.Limit = n
	}
	return list(a.domain.Keys(r.Context(), keyStore(r), page))
}

func (a *api) createKey(r *http.Request) (any, error) {
	want, err := decode[NewKey](r)
	if err != nil {
		return nil, err
	}
	return a.domain.CreateKey(r.Context(), keyStore(r), appliance.NewExternalKey(want))
}

func key(r *http.Request) string { return chi.URLParam(r, "key") }

func (a *api) showKey(r *http.Request) (any, error) {
	return a.domain.ShowKey(r.Context(), keyStore(r), key(r))
}

func (a *api) setKeyEnabled(enabled bool) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		return a.domain.SetKeyEnabled(r.Context(), keyStore(r), key(r), enabled)
	}
}

func (a *api) rotateKey(r *http.Request) (any, error) {
	want, err := decode[Rotation](r)
	if err != nil {
		return nil, err
	}
	return a.domain.RotateKey(r.Context(), keyStore(r), key(r), want.Material)
}

func (a *api) scheduleDeletion(r *http.Request) (any, error) {
	want, err := decode[Deletion](r)
	if err != nil {
		return nil, err
	}
	return a.domain.ScheduleDeletion(r.Context(), keyStore(r), key(r), want.Days)
}

func (a *api) cancelDeletion(r *http.Request) (any, error) {
	return a.domain.CancelDeletion(r.Context(), keyStore(r), key(r))
}

func (a *api) listGrants(r *http.Request) (any, error) {
	return list(a.domain.Grants(r.Context(), keyStore(r)))
}

func (a *api) addGrant(r *http.Request) (any, error) {
	want, err := decode[appliance.Grant](r)
	if err != nil {
		return nil, err
	}
	return a.domain.AddGrant(r.Context(), keyStore(r), want)
}

func (a *api) removeGrant(r *http.Request) (any, error) {
	return struct{}{}, a.domain.RemoveGrant(r.Context(), keyStore(r), chi.URLParam(r, "grant"))
}

func (a *api) testGrants(r *http.Request) (any, error) {
	want, err := decode[appliance.RequestContext](r)
	if err != nil {
		return nil, err
	}
	d, err := a.domain.TestGrants(r.Context(), keyStore(r), key(r), want)
	d.Policies = append([]string{}, d.Policies...) // in JSON a list, though it be empty
	return d, err
}

func (a *api) showPolicy(r *http.Request) (any, error) {
	cedar, err := a.domain.Policy(r.Context(), keyStore(r))
	return Policy{cedar}, err
}

func (a *api) setPolicy(r *http.Request) (any, error) {
	want, err := decode[Policy](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.domain.SetPolicy(r.Context(), keyStore(r), want.Cedar)
}

func (a *api) block(r *http.Request) (any, error) {
	want, err := decode[Block](r)
	if err != nil {
		return nil, err
	}
	b, err := a.domain.Block(r.Context(), want.BlockTarget, want.Reason)
	return Blocked{want.BlockTarget, b}, err
}

func (a *api) unblock(r *http.Request) (any, error) {
	want, err := decode[appliance.BlockTarget](r)
	if err != nil {
		return nil, err
	}
	return want, a.domain.Unblock(r.Context(), want)
}

// list makes an empty list "[]" in JSON rather than "null".
func list[T any](items []T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if items == nil {
		items = []T{}
	}
	return items, nil
}
