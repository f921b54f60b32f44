package operation

import (
	"context"
	"net/http"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// WholeState are the operations of the domain on all rows as a whole.
type WholeState interface {
	VerifyState(ctx context.Context) (*appliance.StateStatus, error)
	AcceptState(ctx context.Context, by, reason string) (why string, err error)
	CheckAcceptState(ctx context.Context) error
	// Held gives the reason for which the state is not served; nil if it is.
	Held() error
	// Look begins to look at what is about to be changed; nil where nobody else changes it.
	Look(ctx context.Context) *appliance.Look
}

// AcceptedState says why the state is the right one.
type AcceptedState struct {
	Reason string `json:"reason" jsonschema:"Why the state is accepted as it is: 1 to 256 printable characters. It is recorded." example:"restored from the backup of last night" shortest:"1" longest:"256"`
}

// StateAcceptance is what became of a person's word that the state is the right one.
type StateAcceptance struct {
	// Accepted says that the state is sealed as it is, and serves. Otherwise another
	// person must say the same until Until.
	Accepted bool      `json:"accepted" jsonschema:"Whether the state is sealed as it is, and serves. Otherwise a second person must accept it as well."`
	Until    time.Time `json:"until,omitzero" jsonschema:"Until when the second person can accept it."`
	// Why is the reason for which the state was not served.
	Why string `json:"why,omitempty" jsonschema:"Why the state was not served."`
	// FirstBy and FirstReason are those of the person who accepted it first, if it took
	// two.
	FirstBy     string `json:"first_by,omitempty" jsonschema:"The name of the person who accepted it first, if it took two."`
	FirstReason string `json:"first_reason,omitempty" jsonschema:"The reason that the first person gave."`
}

const (
	// maxReason bounds a reason, in bytes.
	maxReason = 1024
	// acceptWithin is how long the word of the first of two people counts.
	acceptWithin = time.Hour
)

// acceptance is the word of the first person. It is kept in memory: nothing can be stored
// while the state is held.
type acceptance struct {
	mu     sync.Mutex
	by     *identity.Principal // nil for nobody
	reason string
	at     time.Time
}

// FirstAcceptance gives the word of the first of two people while it counts, with until
// when another one must say the same; nil if there is none.
func (p *Performer) FirstAcceptance() *StateAcceptance {
	first := &p.acceptance
	first.mu.Lock()
	defer first.mu.Unlock()
	until := first.at.Add(acceptWithin).UTC()
	if first.by == nil || p.Now().After(until) {
		return nil
	}
	return &StateAcceptance{Until: until, FirstBy: first.by.Name, FirstReason: first.reason}
}

// The operations on the state as a whole.
var (
	VerifyState = define(Operation[Nothing, *appliance.StateStatus]{
		Route: Route{ID: "verifyState", Method: http.MethodGet, Path: "/state", Capability: identity.See,
			Words: "Verify state", Summary: "Verify all stored rows against their manifests, and the state's head against its anchors"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (*appliance.StateStatus, error) {
			return c.Domain.VerifyState(ctx)
		},
	})
	AcceptState = define(Operation[AcceptedState, *StateAcceptance]{
		Route: Route{ID: "acceptState", Method: http.MethodPost, Path: "/state/accept", Capability: identity.Administer, Outside: true, Effects: Decides, Alone: "it has a rule of its own for two people: another administrator must accept it as well", WhileHeld: true, Urgency: Exclusive,
			Words: "Accept state", Summary: "Serve a state as it is that does not match its manifest or its anchor"},
		Subject: apart[AcceptedState],
		Check:   checkAcceptState,
		Run:     acceptState,
	})
)

func checkAcceptState(ctx context.Context, c *Caller, in AcceptedState) error {
	if in.Reason == "" || len(in.Reason) > maxReason {
		return fault.Errorf(fault.Invalid, "a reason of %d bytes: say why this state is the right one, in 1 to %d bytes", len(in.Reason), maxReason)
	}
	if c.Who.Token != "" {
		return fault.Errorf(fault.Forbidden, "an API token cannot accept a state; a person must: sign in, or use the socket on the machine")
	}
	return c.Domain.CheckAcceptState(ctx)
}

// acceptState takes the word of two people where two can approve, and of one elsewhere. Root
// on the machine needs nobody, as for the choice of what needs two people.
func acceptState(ctx context.Context, c *Caller, in AcceptedState) (*StateAcceptance, error) {
	if err := checkAcceptState(ctx, c, in); err != nil {
		return nil, err
	}
	first := &c.Performer.acceptance
	first.mu.Lock()
	defer first.mu.Unlock()
	out := &StateAcceptance{}
	if c.Who.UserID != "" && c.Identity.TwoCanApprove(ctx) == nil {
		if first.by == nil || c.Now().Sub(first.at) > acceptWithin || c.Identity.MayApprove(ctx, c.Who.UserID, *first.by) != nil {
			who := c.Who
			first.by, first.reason, first.at = &who, in.Reason, c.Now()
			out.Until = first.at.Add(acceptWithin).UTC()
			return out, nil
		}
		out.FirstBy, out.FirstReason = first.by.Name, first.reason
	}
	why, err := c.Domain.AcceptState(ctx, c.Who.Name, in.Reason)
	if err != nil {
		return nil, err
	}
	out.Accepted, out.Why = true, why
	first.by = nil
	return out, nil
}
