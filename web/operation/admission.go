package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Admissions are the operations of the domain on who is sealed by the first unlock.
type Admissions interface {
	Admission(ctx context.Context) (*appliance.Admission, error)
	// CheckAdmission gives the error of a first unlock that nobody has confirmed.
	CheckAdmission(ctx context.Context) error
	ConfirmAdmission(ctx context.Context, digest, by string) (appliance.Confirmation, error)
}

// AdmissionDetail is who can act and what decides, for a person to confirm.
type AdmissionDetail struct {
	appliance.Admission
	// Alone says why no two administrators can approve for each other; empty if they can.
	Alone string `json:"alone,omitempty" jsonschema:"Why no two administrators can approve for each other; absent if they can."`
}

// ConfirmedAdmission is the word of a person that those who are admitted are the right ones.
type ConfirmedAdmission struct {
	// Digest is that of the admission which the person saw.
	Digest string `json:"digest" jsonschema:"The digest of the admission that the person saw, as showAdmission gives it." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" longest:"128"`
}

// The operations on who is sealed by the first unlock.
var (
	ShowAdmission = define(Operation[Nothing, AdmissionDetail]{
		Route: Route{ID: "showAdmission", Method: http.MethodGet, Path: "/admission", Capability: identity.Administer,
			Words: "Show admission", Summary: "Who can act and what decides once the appliance is unlocked for the first time, and who has confirmed it"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (AdmissionDetail, error) {
			return showAdmission(ctx, c)
		},
	})
	ConfirmAdmission = define(Operation[ConfirmedAdmission, appliance.Confirmation]{
		Route: Route{ID: "confirmAdmission", Method: http.MethodPost, Path: "/admission/confirm", Capability: identity.Administer, Outside: true, Effects: Decides, Alone: "it confirms who the users are: before it nobody knows a second person", Urgency: Exclusive,
			Words: "Confirm admission", Summary: "Confirm that those whom the first unlock seals are the right ones; an unlock that waits for it goes on"},
		Subject: apart[ConfirmedAdmission],
		Check: func(ctx context.Context, c *Caller, in ConfirmedAdmission) error {
			return checkAdmissionDigest(in.Digest)
		},
		Run: func(ctx context.Context, c *Caller, in ConfirmedAdmission) (appliance.Confirmation, error) {
			if err := checkAdmissionDigest(in.Digest); err != nil {
				return appliance.Confirmation{}, err
			}
			return c.Domain.ConfirmAdmission(ctx, in.Digest, c.Who.Name)
		},
	})
)

func checkAdmissionDigest(digest string) error {
	if digest == "" {
		return fault.Errorf(fault.Invalid, "the digest is missing: look at those who are admitted, and give the digest that is shown with them")
	}
	return nil
}

func showAdmission(ctx context.Context, c *Caller) (AdmissionDetail, error) {
	a, err := c.Domain.Admission(ctx)
	if err != nil {
		return AdmissionDetail{}, err
	}
	d := AdmissionDetail{Admission: *a}
	if err := c.Identity.TwoCanApprove(ctx); fault.CodeOf(err) == fault.Conflict {
		d.Alone = fault.ReasonOf(err)
	} else if err != nil {
		return AdmissionDetail{}, err
	}
	return d, nil
}

// admit takes the caller's word for those whom the first unlock seals, if there is one. A
// first unlock without it is refused. fault.AdmissionUnconfirmed, fault.AdmissionChanged.
func admit(ctx context.Context, c *Caller, digest string) error {
	if digest == "" {
		return c.Domain.CheckAdmission(ctx)
	}
	_, err := c.Domain.ConfirmAdmission(ctx, digest, c.Who.Name)
	if fault.CodeOf(err) == fault.Locked {
		return nil // there is an installation, and the first unlock was before
	}
	return err
}
