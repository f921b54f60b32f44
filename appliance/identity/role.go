package identity

import (
	"context"
	"slices"
	"time"
)

// Role is what a user may do, as one of four.
type Role string

// The roles, each of which may all that the ones before it may, but for the
// auditor's, which [RoleKeyAdministrator] has too.
const (
	RoleViewer           Role = "viewer"            // sees state and configuration
	RoleAuditor          Role = "auditor"           // reads the audit log and verifies it
	RoleKeyAdministrator Role = "key-administrator" // manages key stores, keys, grants, credentials and blocks
	RoleAdministrator    Role = "administrator"     // manages users, settings, backups and the HSM's PIN
)

// Roles are all roles, the least first.
var Roles = []Role{RoleViewer, RoleAuditor, RoleKeyAdministrator, RoleAdministrator}

// Valid says whether r is one of [Roles].
func (r Role) Valid() bool { return slices.Contains(Roles, r) }

// May says whether the role has the capability.
func (r Role) May(c Capability) bool { return slices.Contains(capabilities[r], c) }

// Capabilities are what the role may do.
func (r Role) Capabilities() []Capability { return slices.Clone(capabilities[r]) }

// Covers says whether the role may all that the other one may.
func (r Role) Covers(other Role) bool {
	return !slices.ContainsFunc(capabilities[other], func(c Capability) bool { return !r.May(c) })
}

// Capability is what a route needs of its caller.
type Capability string

// The capabilities. Every route of the admin API names one of them.
const (
	Self       Capability = "self"        // one's own user: every user has it
	See        Capability = "see"         // see state and configuration, no secrets
	Audit      Capability = "audit"       // read, export and verify the audit log
	ManageKeys Capability = "manage-keys" // change key stores, keys, grants, credentials and blocks
	Administer Capability = "administer"  // change users, settings and the HSM's PIN; backup and restore
)

var capabilities = map[Role][]Capability{
	RoleViewer:           {Self, See},
	RoleAuditor:          {Self, See, Audit},
	RoleKeyAdministrator: {Self, See, Audit, ManageKeys},
	RoleAdministrator:    {Self, See, Audit, ManageKeys, Administer},
}

// Principal is who calls the admin API, once that is proven.
type Principal struct {
	// UserID is empty for root on the machine itself, who comes by the Unix socket.
	UserID string `json:"user_id,omitempty" jsonschema:"The ID of the user; absent for root on the machine."`
	// Name is for people and for the audit log: "alice", or "local uid 0 pid 71".
	Name string `json:"name" jsonschema:"The name, as the audit log has it."`
	Role Role   `json:"role" jsonschema:"The role of the caller."`
	// Local is the user of the operating system who came by the Unix socket, such as "uid 0",
	// whatever the process; empty for others, and if the system does not say.
	Local string `json:"-"`
	// Session and Token are the public IDs of what proved it; at most one is set.
	Session string `json:"session,omitempty" jsonschema:"The ID of the session by which the caller came."`
	Token   string `json:"token,omitempty" jsonschema:"The ID of the API token by which the caller came."`
	// ProvenAt is when the user last proved to be present, by signing in or again
	// for a dangerous action. The zero value with a token: nobody is present.
	ProvenAt time.Time `json:"proven_at,omitzero" jsonschema:"When the user last proved to be present; absent for a token."`
	// EndsAt is when the session ends if nobody uses it from now on; zero without a session.
	EndsAt time.Time `json:"-"`
	// Unverified says that nobody can tell whether the user's row is valid, as the
	// appliance is locked.
	Unverified bool `json:"-"`
	// Scope is what the API token may be used for; nil for a user, and for a token from before
	// there were scopes: no limit.
	Scope *Scope `json:"scope,omitempty" jsonschema:"What the API token may be used for; absent for a user and for a token that was made before there were scopes."`
	// MakerIDs are the users who asked for the token and had it in their hands;
	// empty for a user.
	MakerIDs []string `json:"-"`
	// ApproverID is the user who approved what is done now; empty if nobody was asked.
	ApproverID string `json:"-"`
}

// persons are the users who stand behind a principal: nobody for root on the
// machine.
func (p Principal) persons() []string {
	if p.UserID != "" {
		return []string{p.UserID}
	}
	return p.MakerIDs
}

type principalKey struct{}

// WithPrincipal puts who calls into the context of a request.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf gives who calls; false if nobody has proven anything.
func PrincipalOf(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
