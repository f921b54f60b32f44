package operation

import (
	"context"
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Clocks are the operations of the domain on the time that keys are destroyed by.
type Clocks interface {
	ConfirmTime(ctx context.Context, at time.Time) (appliance.ClockState, error)
	CheckConfirmTime(ctx context.Context, at time.Time) error
}

// PassedTime is a time that a person says has passed.
type PassedTime struct {
	Time   time.Time `json:"time" jsonschema:"The present time, as the person has it from another source than this machine." example:"2026-11-27T12:00:00Z"`
	Reason string    `json:"reason" jsonschema:"Why the time is confirmed: 1 to 256 printable characters. It is recorded." example:"the machine was off for a month" shortest:"1" longest:"256"`
}

// ConfirmedTime is what is known of the time since, and why.
type ConfirmedTime struct {
	appliance.ClockState
	Reason string `json:"reason" jsonschema:"Why the time was confirmed."`
}

// The operation on the time that keys are destroyed by.
var (
	ConfirmTime = define(Operation[PassedTime, ConfirmedTime]{
		Route: Route{ID: "confirmTime", Method: http.MethodPost, Path: "/clock/confirm", Capability: identity.Administer, Outside: true, Effects: Destroys, Urgency: Exclusive,
			Words: "Confirm time", Summary: "Say that a time has passed, after the machine was off: keys and audit records that are due by then do not wait any more"},
		Subject: apart[PassedTime],
		Check:   checkConfirmTime,
		Run: func(ctx context.Context, c *Caller, in PassedTime) (ConfirmedTime, error) {
			if err := checkConfirmTime(ctx, c, in); err != nil {
				return ConfirmedTime{}, err
			}
			state, err := c.Domain.ConfirmTime(ctx, in.Time)
			return ConfirmedTime{state, in.Reason}, err
		},
	})
)

func checkConfirmTime(ctx context.Context, c *Caller, in PassedTime) error {
	if err := appliance.CheckReason(in.Reason); err != nil {
		return err
	}
	if c.Who.Token != "" {
		return fault.Errorf(fault.Forbidden, "an API token cannot say what time it is; a person must: sign in, or use the socket on the machine")
	}
	return c.Domain.CheckConfirmTime(ctx, in.Time)
}
