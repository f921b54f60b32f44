package approval

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Seals authenticates requests under the state key of the installation;
// [*appliance.Seals] is one.
type Seals interface {
	Writing() (written func())
	Installed(ctx context.Context) (bool, error)
	Seal(ctx context.Context, b appliance.Binding) ([]byte, error)
	Verify(ctx context.Context, b appliance.Binding, seal []byte) error
	Renew(ctx context.Context, b appliance.Binding, seal []byte) ([]byte, error)
	Admit(b appliance.Binding, seal []byte) error
}

// Sealed gives a store whose requests are authenticated: nobody can file one, or
// open one again that was decided, in the database.
func Sealed(s Store, seals Seals) Store { return &sealed{s, seals} }

type sealed struct {
	Store
	seals Seals
}

// Binding names the request with all that was asked and decided.
func (r *Request) Binding() appliance.Binding {
	b := appliance.Binding{Purpose: "approval", Fields: []string{r.ID, r.Operation, r.Method, r.Path, string(r.Body),
		r.UserID, r.Token, r.RequestedBy, appliance.BindTime(r.CreatedAt), appliance.BindTime(r.ExpiresAt),
		string(r.State), r.DecidedBy, r.DecidedByID, appliance.BindTime(r.DecidedAt), r.Outcome}}
	if r.Reason != "" || r.Address != "" || r.DecisionReason != "" || len(r.Secret) > 0 { // rows of before there were any are bound without
		b.Purpose = "approval/v2"
		b.Fields = append(b.Fields, r.Reason, r.Address, r.DecisionReason, string(r.Secret))
	}
	return b
}

func (s *sealed) seal(ctx context.Context, r *Request) (err error) {
	r.Seal, err = s.seals.Seal(ctx, r.Binding())
	return err
}

func (s *sealed) CreateApproval(ctx context.Context, r *Request) error {
	defer s.seals.Writing()()
	if err := s.seal(ctx, r); err != nil {
		return err
	}
	return s.Store.CreateApproval(ctx, r)
}

func (s *sealed) Approval(ctx context.Context, id string) (*Request, error) {
	r, err := s.Store.Approval(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.seals.Verify(ctx, r.Binding(), r.Seal); fault.CodeOf(err) == fault.Tampered {
		return nil, fault.Errorf(fault.Conflict, "the stored request does not match its seal: the database was changed by hand; nobody can decide it, ask again")
	} else if err != nil {
		return nil, err
	}
	return r, nil
}

// Approvals gives also those whose seal is not good, as [Invalid].
func (s *sealed) Approvals(ctx context.Context, limit int) ([]*Request, error) {
	all, err := s.Store.Approvals(ctx, limit)
	for _, r := range all {
		switch err := s.seals.Verify(ctx, r.Binding(), r.Seal); fault.CodeOf(err) {
		case "", fault.Locked:
		case fault.MachineKey:
			r.State, r.Outcome = Invalid, "while the appliance is locked, nobody can tell whether the stored request is valid"
		case fault.Tampered:
			r.State, r.Outcome = Invalid, "the stored request does not match its seal: the database was changed by hand"
		default:
			return nil, err
		}
	}
	return all, err
}

func (s *sealed) DecideApproval(ctx context.Context, r, was *Request) error {
	defer s.seals.Writing()()
	if err := s.seal(ctx, r); err != nil {
		return err
	}
	return s.Store.DecideApproval(ctx, r, was)
}

// waits says whether somebody can still do something with the request.
func (r *Request) waits() bool { return r.State == Pending || r.State == Approved }

// admitted describes a request for the first unlock.
func (r *Request) admitted(refused bool) appliance.Admitted {
	return appliance.Admit(appliance.AdmittedRequest, r.Operation, "asked by "+r.RequestedBy+", "+string(r.State), r.Binding(), refused)
}

// Admissions lists the requests that wait and the first unlock would seal, and those that it would
// refuse. Once there is an installation, it lists what is sealed.
func Admissions(ctx context.Context, s Store, seals Seals) (all []appliance.Admitted, err error) {
	installed, err := seals.Installed(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := s.Approvals(ctx, MaxListed)
	if err != nil {
		return nil, err
	}
	for _, r := range requests {
		err := seals.Admit(r.Binding(), r.Seal)
		if installed {
			err = seals.Verify(ctx, r.Binding(), r.Seal)
		}
		if code := fault.CodeOf(err); err != nil && code != fault.Tampered && code != fault.MachineKey {
			return nil, err
		}
		if r.waits() {
			all = append(all, r.admitted(err != nil))
		}
	}
	return all, nil
}

// MaxListed is more requests than a store keeps.
const MaxListed = 100_000

// SealAll seals all requests that are good; the first unlock calls it
// ([appliance.Identities]). It lists those that wait, and those that are refused.
func SealAll(ctx context.Context, s Store, seals Seals) (all []appliance.Admitted, err error) {
	seen := map[string]bool{} // a store may call twice for a row
	err = s.SealApprovals(ctx, func(r *Request) error {
		err := seals.Admit(r.Binding(), r.Seal)
		code := fault.CodeOf(err)
		if err != nil && code != fault.Tampered && code != fault.MachineKey {
			return err
		}
		if r.waits() && !seen[r.ID] {
			seen[r.ID] = true
			all = append(all, r.admitted(err != nil))
		}
		if err != nil {
			return nil // it stays as it is: refused
		}
		r.Seal, err = seals.Seal(ctx, r.Binding())
		return err
	})
	return all, err
}

// RenewSeals gives all requests that are good the seal of this machine too; each unlock
// calls it, if the machine's key is another than before.
func RenewSeals(ctx context.Context, s Store, seals Seals) error {
	defer seals.Writing()()
	return s.SealApprovals(ctx, func(r *Request) error {
		again, err := seals.Renew(ctx, r.Binding(), r.Seal)
		if fault.CodeOf(err) == fault.Tampered {
			return nil // it stays as it is: refused
		}
		if err == nil {
			r.Seal = again
		}
		return err
	})
}

// FourEyes says which operations need a second person.
type FourEyes struct {
	// Operations are the API's names of them.
	Operations []string `json:"operations"`
	// Every says that all operations need one: what was chosen is not known, as the
	// stored setting does not match its seal.
	Every bool `json:"-"`
	// Hours is how long a request waits, from [LeastHours] to [MostHours]; 0 if nobody has
	// chosen it.
	Hours int `json:"hours,omitempty"`
}

// Lifetime is how long a request that is made now waits.
func (f FourEyes) Lifetime() time.Duration {
	if f.Every || f.Hours < LeastHours || f.Hours > MostHours {
		return DefaultHours * time.Hour
	}
	return time.Duration(f.Hours) * time.Hour
}

// On says whether any operation needs a second person.
func (f FourEyes) On() bool { return f.Every || len(f.Operations) > 0 }

// Settings keeps what was chosen; [*appliance.Appliance] is one.
type Settings interface {
	Setting(ctx context.Context, name string) (string, error)
	SetSetting(ctx context.Context, name, value string) error
}

// Chosen gives what was chosen. While the appliance is locked, that is as it is
// stored, with fault.Locked: nobody can tell whether it is true.
func Chosen(ctx context.Context, s Settings) (FourEyes, error) {
	value, err := s.Setting(ctx, appliance.SettingFourEyes)
	var f FourEyes
	switch fault.CodeOf(err) {
	case "", fault.Locked:
		if bad := json.Unmarshal([]byte(value), &f); bad != nil {
			return FourEyes{Every: true}, err
		}
		return f, err
	case fault.NotFound:
		return f, nil
	case fault.Tampered:
		return FourEyes{Every: true}, nil
	}
	return FourEyes{Every: true}, err
}

// Choose changes which operations need a second person, from now on, and how many hours a
// request waits that is made from now on; 0 for [DefaultHours].
func Choose(ctx context.Context, s Settings, operations []string, hours int) error {
	text, err := json.Marshal(FourEyes{Operations: append([]string{}, operations...), Hours: hours})
	if err != nil {
		return err
	}
	return s.SetSetting(ctx, appliance.SettingFourEyes, string(text))
}

// EachSealed hands all requests of a store to f, with what their seals are of: for a store
// that is verified offline.
func EachSealed(ctx context.Context, s Store, f func(kind, id string, b appliance.Binding, seal []byte) error) error {
	all, err := s.Approvals(ctx, math.MaxInt32)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := f(appliance.DamagedApproval, r.ID, r.Binding(), r.Seal); err != nil {
			return err
		}
	}
	return nil
}
