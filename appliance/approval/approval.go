// Package approval is the four-eyes principle: operations of administrators that
// one person asks for and another one allows. Which operations need it, an
// administrator chooses.
package approval

import (
	"context"
	"time"
)

// State is what became of a request for approval.
type State string

// The states.
const (
	Pending  State = "pending"
	Done     State = "done"     // approved, and the operation succeeded
	Failed   State = "failed"   // approved, and the operation was refused
	Rejected State = "rejected" // by another person, or taken back by the one who asked
	Expired  State = "expired"  // nobody decided in time
	// Approved waits for the one who asked: the operation shows a secret, and they
	// have it done.
	Approved State = "approved"
	// Invalid is a request whose seal is not good; nobody can decide it.
	Invalid State = "invalid"
)

// States are all but [Invalid], which no store has.
var States = []State{Pending, Approved, Done, Failed, Rejected, Expired}

// How long a request waits for a decision, and after it for the one who asked, in hours: what
// administrators may choose ([FourEyes.Hours]), and what holds unless they have.
const (
	LeastHours   = 1
	MostHours    = 30 * 24
	DefaultHours = 72
)

// Request is an operation that waits for another person, or did.
type Request struct {
	// ID is 32 hexadecimal digits.
	ID string `json:"id" jsonschema:"The ID of the request for approval, 32 hexadecimal digits."`
	// Operation is the API's name of it; Method, Path and Body are the request.
	// Body is JSON without secrets; null if there is none.
	Operation string `json:"operation" jsonschema:"The ID of the operation that waits, as in this document." example:"deleteKeyStore"`
	Method    string `json:"method" jsonschema:"The HTTP method of the request that waits."`
	Path      string `json:"path" jsonschema:"The path of the request that waits."`
	Body      []byte `json:"-"`
	// UserID and Token say who asked: a user, or the bearer of a token; RequestedBy
	// is the name.
	UserID      string `json:"user_id,omitempty" jsonschema:"The ID of the user who asked."`
	Token       string `json:"token,omitempty" jsonschema:"The ID of the API token by which it was asked."`
	RequestedBy string `json:"requested_by" jsonschema:"The name of who asked."`
	// Reason says why, for the person who approves; empty in requests of before releases
	// asked for it. Address is where they asked from; empty on the machine itself.
	Reason  string `json:"reason,omitempty" jsonschema:"Why it was asked for, in the words of the one who asked." example:"the team of the key has asked for it"`
	Address string `json:"address,omitempty" jsonschema:"The address that it was asked from." example:"192.0.2.7"`
	// Secret is a [Commitment] to the secret that the operation takes: it is stored nowhere,
	// and the one who asked gives it again once the operation is approved. Empty for none.
	Secret    Commitment `json:"-"`
	CreatedAt time.Time  `json:"created_at" jsonschema:"When it was asked."`
	ExpiresAt time.Time  `json:"expires_at" jsonschema:"Until when it can be approved."`

	State     State  `json:"state" jsonschema:"What has become of the request."`
	DecidedBy string `json:"decided_by,omitempty" jsonschema:"The name of who approved or rejected it."`
	// DecidedByID is the ID of the user who decided.
	DecidedByID string    `json:"-"`
	DecidedAt   time.Time `json:"decided_at,omitzero" jsonschema:"When it was approved or rejected."`
	// DecisionReason says why it was decided so; empty before, and in requests of earlier
	// releases.
	DecisionReason string `json:"decision_reason,omitempty" jsonschema:"Why it was approved or rejected, in the words of the one who decided."`
	// Outcome says in a line why it failed; empty otherwise.
	Outcome string `json:"outcome,omitempty" jsonschema:"Why the operation failed after it was approved; absent if it did not."`

	Seal []byte `json:"-"`
}

// StateAt is the state at a time: what waits expires.
func (r *Request) StateAt(now time.Time) State {
	if (r.State == Pending || r.State == Approved) && !now.Before(r.ExpiresAt) {
		return Expired
	}
	return r.State
}

// Store keeps requests. Errors are
// [*fault.Fault] with the codes named, fault.Timeout or fault.Internal.
type Store interface {
	// CreateApproval adds a request. Old ones that are decided are dropped when
	// there are many. fault.Conflict if too many are pending, fault.Exists if its ID is
	// taken.
	CreateApproval(ctx context.Context, r *Request) error
	// Approval gives one; fault.NotFound.
	Approval(ctx context.Context, id string) (*Request, error)
	// Approvals gives up to limit requests, pending ones first, then the newest
	// first.
	Approvals(ctx context.Context, limit int) ([]*Request, error)
	// CountApprovals gives how many requests there are in each state at a time, whatever their
	// seals say.
	CountApprovals(ctx context.Context, now time.Time) (map[State]int, error)
	// DecideApproval writes state, decider, time, reason and outcome of a request whose stored
	// state and seal are those of was; fault.Changed if they are not any more,
	// fault.NotFound if there is none.
	DecideApproval(ctx context.Context, r, was *Request) error
	// SealApprovals has all requests sealed in one step: f gives one its seal.
	SealApprovals(ctx context.Context, f func(*Request) error) error
}
