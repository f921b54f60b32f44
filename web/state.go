package web

import (
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/instance"
)

// Status is the state of the appliance and of its boot.
type Status struct {
	appliance.Status
	Boot  progress.Status `json:"boot"`
	Audit *audit.Status   `json:"audit,omitempty"`
	// Version is the release that runs.
	Version string `json:"version"`
	// Instance is the instance of EC2, as its metadata service tells it, not proven.
	Instance *instance.Identity `json:"instance,omitempty"`
}

// Block asks for a key, a key store or everything to be out of service.
type Block struct {
	appliance.BlockTarget
	Reason string `json:"reason"`
}

// Blocked is what is out of service.
type Blocked struct {
	appliance.BlockTarget
	appliance.Block
}

func stateRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/status", ID: "status", Capability: identity.See,
			Summary: "State of the appliance: boot, HSMs, lease, audit log",
			handler: gives(func(c *call) (Status, error) {
				return Status{c.api.Domain.Status(c.ctx()), c.api.Boot.Status(), c.api.Audit.Status(), c.api.Site.Version(), c.api.Site.Instance()}, nil
			})},
		{Method: http.MethodGet, Path: "/activity", ID: "activity", Capability: identity.See,
			Summary: "Requests, errors and latency of KMS's requests by the minute",
			Query:   []Parameter{{Name: "minutes", Type: "integer", Least: 1, Most: activity.Minutes, Description: "how many, 1 to 1440, the last one being the present; 60 if left out"}},
			handler: lists(func(c *call) ([]activity.Minute, error) {
				return c.api.Activity.Last(c.number("minutes", 60)), nil
			})},
		{Method: http.MethodGet, Path: "/boot/steps", ID: "bootSteps", Capability: identity.See,
			Summary: "The steps of this boot and of earlier ones, the newest first",
			handler: lists(func(c *call) ([]progress.Step, error) { return c.api.Journal.BootSteps(c.ctx(), 200) })},
		{Method: http.MethodPost, Path: "/hsms/probe", ID: "probeHSMs", Capability: identity.See, WhileLocked: true,
			Summary: "Have each HSM do its test operation now",
			handler: lists(func(c *call) ([]appliance.HSMHealth, error) { return c.api.Domain.ProbeHSMs(c.ctx()) })},
		{Method: http.MethodPost, Path: "/block", ID: "block", Capability: identity.ManageKeys, Dangerous: true, WhileLocked: true,
			Summary: "Take a key, a key store, or everything out of service at once",
			handler: does(func(c *call, in Block) (Blocked, error) {
				b, err := c.api.Domain.Block(c.ctx(), in.BlockTarget, in.Reason)
				return Blocked{in.BlockTarget, b}, err
			})},
		{Method: http.MethodPost, Path: "/unblock", ID: "unblock", Capability: identity.ManageKeys, Dangerous: true, Approvable: true,
			Summary: "Take a block back",
			handler: checked(does(func(c *call, in appliance.BlockTarget) (appliance.BlockTarget, error) {
				return in, c.api.Domain.Unblock(c.ctx(), in)
			}), func(c *call, in appliance.BlockTarget) error { return c.api.Domain.CheckUnblock(c.ctx(), in) })},
		{Method: http.MethodGet, Path: "/openapi.json", ID: "openAPI", Capability: identity.See,
			Summary: "This description of the API (OpenAPI 3.1)", BinaryAnswer: "application/vnd.oai.openapi+json",
			handler: streams(func(c *call) error {
				c.w.Header().Set("Content-Type", "application/vnd.oai.openapi+json")
				_, _ = c.w.Write(c.api.openAPI) // the caller is gone if this fails
				return nil
			})},
	}
}
