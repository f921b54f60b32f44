package operation

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Settings are what can be changed while it runs. All else is in the
// configuration, which is measured: to change it changes what the machine proves.
type Settings struct {
	// FourEyes are the operations that need a second person.
	FourEyes []string `json:"four_eyes" jsonschema:"The IDs of the operations that need the approval of a second person." example:"[\"deleteKeyStore\"]" items:"200" each:"128"`
	// ApprovalHours is how long a request for approval waits that is made from then on.
	ApprovalHours int `json:"approval_hours,omitempty" jsonschema:"How many hours a request for approval waits that is made from then on, before it expires: 1 to 720. Left out, or 0, it stays as it is." example:"72" least:"0" most:"720"`
}

// SettingsDetail are the settings, and what is in the configuration.
type SettingsDetail struct {
	Settings
	// Approvable are the operations that FourEyes may have.
	Approvable []Named `json:"approvable" jsonschema:"The operations that four_eyes may have."`
	// Configuration is the one in force, as TOML.
	Configuration string `json:"configuration" jsonschema:"The configuration in force, as TOML without secrets. It is measured, and cannot be changed here."`
	// Options are the same, with the defaults of what is not set, and where each is from.
	Options []Option `json:"options" jsonschema:"Each option of the configuration with the value in force and where it is from."`
}

func (d *SettingsDetail) revised() any { return d.Settings }

// Option is an option of the configuration.
type Option struct {
	Name   string `json:"name" jsonschema:"The option with its table, as in the configuration file." example:"hsm.lease"`
	Value  string `json:"value" jsonschema:"The value in force; in words where an option that is not set has a meaning. Secrets are left out." example:"15m"`
	Source string `json:"source" jsonschema:"Where the value is from: the configuration file, the default of this release, or the command line." enum:"file,default,command line" example:"default"`
}

// Named is an operation by its ID, with its words.
type Named struct {
	ID    string `json:"id" jsonschema:"The ID of the operation, as in this document." example:"deleteKeyStore"`
	Words string `json:"words" jsonschema:"What a button of the console says for the operation."`
	// With is the operation of which it does many at once ([Route.Many]).
	With string `json:"with,omitempty" jsonschema:"The ID of the operation of which it does many at once, as of a file: it needs a second person where that one does. Absent for others." example:"createGrant"`
}

// The operations on settings.
var (
	ShowSettings = define(Operation[Nothing, *SettingsDetail]{
		Route: Route{ID: "settings", Method: http.MethodGet, Path: "/settings", Capability: identity.See,
			Words: "Show settings", Summary: "Settings, and the configuration in force"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (*SettingsDetail, error) {
			s, err := c.settings(ctx)
			if err != nil {
				return nil, err
			}
			d := &SettingsDetail{Settings: *s, Approvable: []Named{}, Configuration: c.Site.Configuration(), Options: c.Site.Options()}
			for _, r := range approvable() {
				named := Named{ID: r.ID, Words: r.Words}
				if r.Many != nil {
					named.With = r.Many.ID
				}
				d.Approvable = append(d.Approvable, named)
			}
			return d, nil
		},
	})
	SetSettings = define(Operation[Settings, *Settings]{
		Route: Route{ID: "setSettings", Method: http.MethodPut, Path: "/settings", Capability: identity.Administer, Effects: Decides | SetsGuards, Urgency: Exclusive,
			Words: "Change settings", Summary: "Change the settings"},
		Subject: func(ctx context.Context, c *Caller, _ Settings) any { return found(c.settings(ctx)) },
		Check:   checkSettings,
		Run:     setSettings,
	})
)

// approvable gives the operations that may need a second person.
func approvable() (all []*Route) {
	for _, r := range table {
		if r.Guards().FourEyes {
			all = append(all, r)
		}
	}
	return all
}

// settings gives the settings; while the appliance is locked, as they are stored.
func (p *Performer) settings(ctx context.Context) (*Settings, error) {
	chosen, err := approval.Chosen(ctx, p.Settings)
	if err != nil && fault.CodeOf(err) != fault.Locked {
		return nil, err
	}
	s := &Settings{FourEyes: append([]string{}, chosen.Operations...), ApprovalHours: int(chosen.Lifetime().Hours())}
	if chosen.Every {
		s.FourEyes = []string{}
		for _, r := range approvable() {
			s.FourEyes = append(s.FourEyes, r.ID)
		}
	}
	return s, nil
}

func setSettings(ctx context.Context, c *Caller, in Settings) (*Settings, error) {
	if err := checkSettings(ctx, c, in); err != nil {
		return nil, err
	}
	before, err := approval.Chosen(ctx, c.Performer.Settings)
	if err != nil {
		return nil, err
	}
	if !before.On() && len(in.FourEyes) > 0 {
		if err := c.Identity.AllArePersons(ctx); err != nil {
			return nil, err
		}
	}
	if err := approval.Choose(ctx, c.Performer.Settings, in.FourEyes, cmp.Or(in.ApprovalHours, before.Hours)); err != nil {
		return nil, err
	}
	return c.settings(ctx)
}

// checkSettings says which operation cannot be made to need approval, or that requests cannot
// wait so long: fault.Invalid.
func checkSettings(ctx context.Context, c *Caller, s Settings) error {
	all := approvable()
	for _, id := range s.FourEyes {
		if !slices.ContainsFunc(all, func(r *Route) bool { return r.ID == id }) {
			return fault.Errorf(fault.Invalid, "operation %.60q: it cannot be made to need approval", id)
		}
	}
	if s.ApprovalHours != 0 && (s.ApprovalHours < approval.LeastHours || s.ApprovalHours > approval.MostHours) {
		return fault.Errorf(fault.Invalid, "approval hours %d: a request for approval waits %d to %d hours (30 days)", s.ApprovalHours, approval.LeastHours, approval.MostHours)
	}
	if len(s.FourEyes) > 0 {
		return c.Identity.TwoCanApprove(ctx)
	}
	return nil
}
