package operation

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/instance"
)

// Journal gives the steps of this boot and of earlier ones, the newest first.
type Journal interface {
	BootSteps(ctx context.Context, limit int) ([]progress.Step, error)
}

// Status is the state of the appliance and of its boot.
type Status struct {
	appliance.Status
	Boot  progress.Status `json:"boot" jsonschema:"How far the boot is, and what it has found."`
	Audit *audit.Status   `json:"audit,omitempty" jsonschema:"The state of the audit log; absent while it is not open."`
	// Version is the release that runs.
	Version string `json:"version" jsonschema:"The release of Holdfast that runs."`
	// Instance is the instance of EC2, as its metadata service tells it, not proven.
	Instance *instance.Identity `json:"instance,omitempty" jsonschema:"The EC2 instance, as its metadata service tells it, without proof; absent where there is none."`
	// Fleet is what this node knows of its fleet; missing for an appliance on its own.
	Fleet *appliance.FleetStatus `json:"fleet,omitempty" jsonschema:"What this node knows of its fleet; absent for an appliance on its own."`
}

// Minutes asks for the activity of the last minutes.
type Minutes struct {
	Paging
	Minutes int `query:"minutes" least:"1" most:"1440" about:"how many, 1 to 1440, the last one being the present; 60 if left out" json:"-"`
}

// BootStepPage asks for a page of the steps of boots.
type BootStepPage struct {
	Paging
	Boot   string `query:"boot" about:"only steps of this boot" json:"-"`
	State  string `query:"state" about:"only steps of this state" json:"-"`
	Result string `query:"result" enum:"failed,passed" about:"only steps that failed, or that did not" json:"-"`
}

// maxBootSteps bounds how many steps of boots are looked at.
const maxBootSteps = 10000

// HSMPage asks for a page of the HSMs.
type HSMPage struct{ Paging }

func hsmID(h appliance.HSMHealth) string { return h.Label + "/" + h.Serial }

// ActivityPeers are what the fleet's other nodes have counted of KMS's requests.
type ActivityPeers interface {
	// Counts asks each node that serves for the last so many minutes. One that does not
	// answer soon is left out: its requests are counted when it answers again, if it was
	// not restarted.
	Counts(ctx context.Context, minutes int) [][]activity.Count
}

// The operations that show the state of the appliance.
var (
	ShowStatus = define(Operation[Nothing, Status]{
		Route: Route{ID: "status", Method: http.MethodGet, Path: "/status", Capability: identity.See,
			Words: "Show status", Summary: "State of the appliance: boot, HSMs, lease, audit log"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Status, error) {
			s := Status{Status: c.Domain.Status(ctx), Boot: c.Boot.Status(), Audit: c.Audit.Status(), Version: c.Site.Version(), Instance: c.Site.Instance()}
			s.Standing = standingOf(s.Standing, s.Boot)
			if c.Fleet != nil {
				fleet := c.Fleet.FleetStatus()
				s.Fleet = &fleet
			}
			return s, nil
		},
	})
	ListActivity = defineList(Listing[Minutes, activity.Minute]{
		Route: Route{ID: "activity", Method: http.MethodGet, Path: "/activity", Capability: identity.See,
			Words: "Show activity", Summary: "Requests, errors and latency of KMS's requests by the minute, of all nodes that answer"},
		ID: func(m activity.Minute) string { return timeKey(m.Start) },
		All: func(ctx context.Context, c *Caller, in Minutes) ([]activity.Minute, error) {
			n := cmp.Or(in.Minutes, 60)
			if c.ActivityPeers == nil {
				return c.Activity.Last(n), nil
			}
			return c.Activity.Last(n, c.ActivityPeers.Counts(ctx, n)...), nil
		},
	})
	ListBootSteps = defineList(Listing[BootStepPage, progress.Step]{
		Route: Route{ID: "bootSteps", Method: http.MethodGet, Path: "/boot/steps", Capability: identity.See,
			Words: "List boot steps", Summary: "The steps of this boot and of earlier ones, the newest first"},
		ID: func(s progress.Step) string { return fmt.Sprintf("%s/%06d", s.Boot, s.Seq) },
		By: []Order[progress.Step]{
			{"began", func(s progress.Step) string { return timeKey(s.Began) }},
		},
		Default: "-began",
		All: func(ctx context.Context, c *Caller, in BootStepPage) ([]progress.Step, error) {
			all, err := c.Journal.BootSteps(ctx, maxBootSteps)
			return keep(all, err, func(s progress.Step) bool {
				return is(s.Boot, in.Boot) && is(s.State, in.State) && (in.Result == "" || (s.Code != "") == (in.Result == "failed"))
			})
		},
	})
	ProbeHSMs = defineList(Listing[HSMPage, appliance.HSMHealth]{
		Route: Route{ID: "probeHSMs", Method: http.MethodPost, Path: "/hsms/probe", Capability: identity.See, WhileLocked: true, ReadOnly: true, Urgency: Independent,
			Words: "Test HSMs", Summary: "Have each HSM do its test operation now"},
		Subject: apart[HSMPage],
		ID:      hsmID,
		All: func(ctx context.Context, c *Caller, _ HSMPage) ([]appliance.HSMHealth, error) {
			return c.Domain.ProbeHSMs(ctx)
		},
	})
	ShowOpenAPI = define(Operation[Nothing, Stream]{
		Route: Route{ID: "openAPI", Method: http.MethodGet, Path: "/openapi.json", Capability: identity.See, BinaryAnswer: "application/vnd.oai.openapi+json",
			Words: "Show API description", Summary: "This description of the API (OpenAPI 3.1)"},
		Run: func(context.Context, *Caller, Nothing) (Stream, error) {
			return Stream{Media: "application/vnd.oai.openapi+json", Write: func(w io.Writer) error {
				_, err := w.Write(document())
				return err
			}}, nil
		},
	})
)
