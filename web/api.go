package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
)

// Domain is what the API needs of the appliance; [*appliance.Appliance] is it.
type Domain interface {
	Status(ctx context.Context) appliance.Status
	ProbeHSMs(ctx context.Context) ([]appliance.HSMHealth, error)
	CreateKeyStore(ctx context.Context, want appliance.KeyStore) (*appliance.KeyStore, error)
	KeyStores(ctx context.Context) ([]*appliance.KeyStore, error)
	ShowKeyStore(ctx context.Context, name string) (*appliance.KeyStoreDetail, error)
	SetQuota(ctx context.Context, name string, requestsPerSecond int) (*appliance.KeyStore, error)
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
	Backup(ctx context.Context, checkpoint string) (*appliance.Backup, error)
	VerifyBackup(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	Restore(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	TestGrants(ctx context.Context, keyStore, key string, r appliance.RequestContext) (appliance.Decision, error)
	Policy(ctx context.Context, keyStore string) (string, error)
	SetPolicy(ctx context.Context, keyStore, cedar string) error
	Block(ctx context.Context, t appliance.BlockTarget, reason string) (appliance.Block, error)
	Unblock(ctx context.Context, t appliance.BlockTarget) error
	Discard(ctx context.Context, t appliance.DiscardTarget) (*appliance.Discarded, error)

	// The checks give the error that the operation would, and change nothing.
	CheckDeleteKeyStore(ctx context.Context, name string) error
	CheckDeleteCredential(ctx context.Context, keyStore, accessKeyID string) error
	CheckKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) error
	CheckDeletion(ctx context.Context, keyStore, id string, days int) error
	CheckGrant(ctx context.Context, keyStore string, want appliance.Grant) error
	CheckRemoveGrant(ctx context.Context, keyStore, id string) error
	CheckPolicy(ctx context.Context, keyStore, cedar string) error
	CheckUnblock(ctx context.Context, t appliance.BlockTarget) error
	CheckDiscard(ctx context.Context, t appliance.DiscardTarget) error
}

// Boot is what the API needs of the boot; [*boot.Boot] is it.
type Boot interface {
	Status() progress.Status
	Evidence(ctx context.Context, nonce []byte) (*attest.Evidence, error)
	Appraise(ctx context.Context, nonce []byte) (*attest.Evidence, *appraisal.Verdict, error)
	Seal(ctx context.Context, credential []byte) error
	Revoke(ctx context.Context, below uint64) error
	// CheckRevoke gives the error that Revoke would, and revokes nothing.
	CheckRevoke(ctx context.Context, below uint64) error
}

// Audit is what the API needs of the audit log. Before the log is open, its
// methods fail with fault.Locked.
type Audit interface {
	// Ready says why nothing can be recorded; nil if something can.
	Ready() error
	// Record writes a record durably.
	Record(ctx context.Context, r *audit.Record) error
	// Checkpoint signs the log as it is now.
	Checkpoint() ([]byte, error)
	// Status gives the state of the log; nil before it is open.
	Status() *audit.Status
	Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error)
	Export(ctx context.Context, q audit.Query, w io.Writer, format string) error
	// Proof makes a proof, in JSON, that a record is in the log.
	Proof(ctx context.Context, seq int64) ([]byte, error)
	// Verify reads the whole log as it is on the disk; it may take minutes.
	Verify(ctx context.Context) (*audit.Report, error)
}

// Journal gives the steps of this boot and of earlier ones, the newest first.
type Journal interface {
	BootSteps(ctx context.Context, limit int) ([]progress.Step, error)
}

// Options are what the API works with. All are needed, but Now.
type Options struct {
	Domain    Domain
	Boot      Boot
	Audit     Audit
	Journal   Journal
	Identity  *identity.Directory
	Approvals ApprovalStore
	// Settings has which operations need a second person.
	Settings approval.Settings
	Activity *activity.Recorder
	Site     Site
	Log      *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// API is the admin API. Who calls it, the listener finds out
// ([identity.WithPrincipal]); whether that one may, the API does.
type API struct {
	Options
	router  chi.Router
	routes  []*Route
	changes sync.Mutex // held while something is changed, so that a stale change is seen
	checks  verification
	openAPI []byte
}

// NewAPI makes the admin API.
func NewAPI(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &API{Options: o, router: chi.NewRouter(), routes: Routes()}
	a.router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, fault.Errorf(fault.NotFound, "the admin API has no route %s %s", r.Method, r.URL.Path))
	})
	a.router.MethodNotAllowed(a.methodNotAllowed)
	for _, route := range a.routes {
		a.router.Method(route.Method, Prefix+route.Path, a.serve(route))
	}
	a.openAPI = document(a.routes)
	return a
}

// ServeHTTP implements [http.Handler]. The request may come from within another
// one: what a router has found out about that does not count here.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.router.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, (*chi.Context)(nil))))
}

// serve puts before an operation what holds for all: who may call it, and that
// changes are recorded.
func (a *API) serve(route *Route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, known := identity.PrincipalOf(r.Context())
		c := &call{Request: r, api: a, route: route, w: w, who: who}
		if !known {
			w.Header().Set("WWW-Authenticate", `Bearer realm="holdfast"`)
			a.fail(w, r, errUnauthenticated)
			return
		}
		if err := a.mayCall(c); err != nil {
			a.refused(c, err)
			a.fail(w, r, err)
			return
		}
		defer func() { clear(c.body) }() // it may hold key material
		if err := c.input(); err != nil {
			a.unusable(c, err)
			a.fail(w, r, err)
			return
		}
		if c.route.stream != nil {
			if err := c.route.stream(c); err != nil {
				a.fail(w, r, err)
			}
			return
		}
		status, result, err := a.perform(c)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		writeJSON(w, status, result)
	}
}

// perform does an operation that answers with JSON, or files it for approval.
func (a *API) perform(c *call) (int, any, error) {
	if !c.route.Mutates() {
		result, err := c.route.run(c)
		return http.StatusOK, result, err
	}
	if needs, err := a.needsApproval(c); err != nil || needs {
		approval, err := a.file(c, err)
		return http.StatusAccepted, approval, err
	}
	result, err := a.audited(c)
	return http.StatusOK, result, err
}

var errUnauthenticated = fault.Errorf(fault.Unauthenticated, "say who you are: send an API token as \"Authorization: Bearer hf_...\"")

// PresenceTime is how long a proof of presence is good for dangerous operations.
const PresenceTime = 5 * time.Minute

// mayCall says why the caller may not; nil if it may.
func (a *API) mayCall(c *call) error {
	if !c.who.Role.May(c.route.Capability) {
		return fault.Errorf(fault.Forbidden, "the role %s may not do this: it needs %s; ask an administrator for another role", c.who.Role, needs(c.route.Capability))
	}
	if c.who.Unverified && c.route.Mutates() && !c.route.WhileLocked {
		return fault.Errorf(fault.Locked, "the appliance is locked, and nobody can tell whether your user is valid: until it is unlocked you may look, give the PIN and block, and nothing else")
	}
	if c.route.Dangerous && c.who.Session != "" && a.Now().Sub(c.who.ProvenAt) > PresenceTime {
		return fault.Errorf(fault.Presence, "prove again that it is you: this needs a proof of the last %d minutes", int(PresenceTime.Minutes()))
	}
	return nil
}

// needs names the least roles that have a capability.
func needs(capability identity.Capability) string {
	for _, r := range identity.Roles {
		if r.May(capability) {
			return string(r)
		}
	}
	return "a role that there is not"
}

// methodNotAllowed answers with the methods that the route does have.
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if a.router.Match(chi.NewRouteContext(), m, r.URL.Path) {
			w.Header().Add("Allow", m)
		}
	}
	p := NewProblem(fault.Errorf(fault.Invalid, "the route %s of the admin API has no %s", r.URL.Path, r.Method))
	p.Status = http.StatusMethodNotAllowed
	writeBody(w, p.Status, problemType, p)
}

// Routes gives the table of all operations.
func Routes() []*Route {
	all := slices.Concat(stateRoutes(), keyStoreRoutes(), keyRoutes(), grantRoutes(), credentialRoutes(), discardRoutes(),
		attestationRoutes(), auditRoutes(), backupRoutes(), userRoutes(), accountRoutes(), approvalRoutes(), settingRoutes())
	routes := make([]*Route, len(all))
	for i := range all {
		routes[i] = &all[i]
	}
	return routes
}
