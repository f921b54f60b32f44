package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Installations are the operations of the domain on which copy of its installation the
// appliance is.
type Installations interface {
	Installation() appliance.InstallationState
	// Begin makes a new installation beside the traces of another.
	Begin(ctx context.Context) (appliance.InstallationState, error)
	// TakeOver makes this copy the owner.
	TakeOver(ctx context.Context) (appliance.InstallationState, error)
	CheckTakeOver(ctx context.Context) error
}

// Decision is what a person decides about a copy of an installation.
type Decision struct {
	Reason string `json:"reason" jsonschema:"Why it is decided so: 1 to 256 printable characters. It is recorded." example:"the old site is gone" shortest:"1" longest:"256"`
}

// Beginning is what a person decides about a new installation.
type Beginning struct {
	Reason string `json:"reason" jsonschema:"Why a new installation begins: 1 to 256 printable characters. It is recorded." shortest:"1" longest:"256" example:"the old HSM is gone"`
	// Admission is the digest of those whom the first unlock seals, as the caller saw them.
	// It may be empty if there is nobody to seal.
	Admission string `json:"admission,omitempty" jsonschema:"The digest of the rows that the first unlock would seal, as showAdmission gives it. It may be left out if there is nothing to seal." longest:"128"`
}

// Decided is which copy of the installation the appliance is now, and why.
type Decided struct {
	appliance.InstallationState
	Reason string `json:"reason" jsonschema:"Why it was decided so."`
}

// The operations on copies of installations.
var (
	ShowInstallation = define(Operation[Nothing, appliance.InstallationState]{
		Route: Route{ID: "installation", Method: http.MethodGet, Path: "/installation", Capability: identity.See,
			Words: "Show installation", Summary: "Which copy of its installation this appliance is, and whether it may destroy keys in the HSM"},
		Run: func(_ context.Context, c *Caller, _ Nothing) (appliance.InstallationState, error) {
			return c.Domain.Installation(), nil
		},
	})
	BeginInstallation = define(Operation[Beginning, Decided]{
		Route: Route{ID: "beginInstallation", Method: http.MethodPost, Path: "/installation/begin", Capability: identity.Administer, Outside: true, Effects: Decides, Alone: "it begins with the users that it confirms: before it nobody knows a second person", Urgency: Exclusive,
			Words: "Begin installation", Summary: "Begin a new installation beside the traces of another, in an appliance that is locked by E_STATE_MISSING"},
		Subject: apart[Beginning],
		Run: func(ctx context.Context, c *Caller, in Beginning) (Decided, error) {
			if err := appliance.CheckReason(in.Reason); err != nil {
				return Decided{}, err
			}
			if err := admit(ctx, c, in.Admission); err != nil {
				return Decided{}, err
			}
			state, err := c.Domain.Begin(ctx)
			return Decided{state, in.Reason}, err
		},
	})
	TakeOverInstallation = define(Operation[Decision, Decided]{
		Route: Route{ID: "takeOverInstallation", Method: http.MethodPost, Path: "/installation/takeover", Capability: identity.Administer, Outside: true, Effects: Decides, Urgency: Exclusive,
			Words: "Take over installation", Summary: "Make this copy of the installation the one that counts: the others destroy nothing in the HSM, and are locked when they start next"},
		Subject: apart[Decision],
		Check: func(ctx context.Context, c *Caller, in Decision) error {
			if err := appliance.CheckReason(in.Reason); err != nil {
				return err
			}
			return c.Domain.CheckTakeOver(ctx)
		},
		Run: func(ctx context.Context, c *Caller, in Decision) (Decided, error) {
			if err := appliance.CheckReason(in.Reason); err != nil {
				return Decided{}, err
			}
			state, err := c.Domain.TakeOver(ctx)
			return Decided{state, in.Reason}, err
		},
	})
)
