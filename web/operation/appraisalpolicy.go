package operation

import (
	"context"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Policies are the appraisal policies of this machine: the image's, and those that came in.
type Policies interface {
	// AppraisalPolicy is the newest one that verifies. Errors: [*fault.Fault] with
	// fault.PolicyFile or fault.PolicyUnproven if there is none.
	AppraisalPolicy(ctx context.Context) (AppraisalPolicy, error)
	// CheckPolicy says what the policy that is given lets in, and gives the error that
	// InstallPolicy would. It changes nothing. Errors: those that a boot would end with.
	CheckPolicy(ctx context.Context, given PolicyFiles) (admits []string, err error)
	// InstallPolicy keeps what is given. A machine that serves appraises itself by it at
	// once; one that is locked, at its next start.
	InstallPolicy(ctx context.Context, given PolicyFiles) error
}

// PolicyFiles are a signed policy and what comes with it, as their signers wrote the files.
type PolicyFiles struct {
	Policy         string `json:"policy" longest:"98304" jsonschema:"The signed appraisal policy: what is in the file that holdfast policy sign wrote. At most 98304 characters." example:"{\"payloadType\":\"application/vnd.holdfast.policy.v1+json\",\"payload\":\"e30=\",\"signatures\":[]}"`
	Authorizations string `json:"authorizations,omitempty" longest:"98304" jsonschema:"The publisher's file of authorizations, which goes with the policy where the machine's TPM releases the PIN. Those that there are stay if it is left out."`
	Approvals      string `json:"approvals,omitempty" longest:"98304" jsonschema:"The owner's file of approvals, on a machine that has an owner. Those that there are stay if it is left out."`
	// Admits says in a request for approval what the policy lets in.
	Admits []string `json:"admits,omitempty" items:"100" each:"1000" jsonschema:"What the policy lets in, in sentences, in a request for approval. The appliance writes it; what is given here is ignored."`
}

// AppraisalPolicy is the policy by which the machine is judged, and what came in with it.
type AppraisalPolicy struct {
	Name     string `json:"name" jsonschema:"The name of the policy." example:"release 1.2.0"`
	Version  uint64 `json:"version" jsonschema:"The version of the policy: a higher one takes its place." example:"3"`
	SHA256   string `json:"sha256" jsonschema:"The SHA-256 of the policy's text, in hexadecimal."`
	Signer   string `json:"signer" jsonschema:"The ID of the key that it is signed by."`
	Unproven string `json:"unproven,omitempty" jsonschema:"The words by which a policy is used that does not prove the code; absent if it does."`
	// Installed says that it came in over the network; otherwise it is the image's.
	Installed bool `json:"installed" jsonschema:"Whether the policy came in over the network. Otherwise it is the image's."`
	// InForce says that the machine was appraised by it.
	InForce        bool     `json:"in_force" jsonschema:"Whether the machine was appraised by it. Otherwise it is in force at the next start, or when evidence is renewed."`
	Admits         []string `json:"admits" jsonschema:"What the policy lets in, in sentences."`
	Authorizations int      `json:"authorizations" jsonschema:"How many authorizations came in over the network and count, besides the image's."`
	Approvals      int      `json:"approvals" jsonschema:"How many of the owner's approvals came in over the network and count."`
	// Ignored says which file does not count, with its code; empty if each does.
	Ignored string `json:"ignored,omitempty" jsonschema:"Which file is there and does not count, with its code; absent if each counts."`
}

// noPolicies is the error of an appliance without a machine, as in tests.
func (p *Performer) noPolicies() error {
	if p.Policies == nil {
		return fault.Errorf(fault.Conflict, "this appliance has no appraisal policy")
	}
	return nil
}

func appraisalPolicy(ctx context.Context, c *Caller) (AppraisalPolicy, error) {
	if err := c.noPolicies(); err != nil {
		return AppraisalPolicy{}, err
	}
	return c.Policies.AppraisalPolicy(ctx)
}

func checkPolicy(ctx context.Context, c *Caller, in PolicyFiles) ([]string, error) {
	if err := c.noPolicies(); err != nil {
		return nil, err
	}
	return c.Policies.CheckPolicy(ctx, in)
}

// The operations on the appraisal policy of this machine.
var (
	ShowAppraisalPolicy = define(Operation[Nothing, AppraisalPolicy]{
		Route: Route{ID: "appraisalPolicy", Method: http.MethodGet, Path: "/policy", Conflicts: true, Capability: identity.See,
			Words: "Show appraisal policy", Summary: "The policy by which this machine is judged, and what it lets in"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (AppraisalPolicy, error) {
			return appraisalPolicy(ctx, c)
		},
	})
	InstallPolicy = define(Operation[PolicyFiles, AppraisalPolicy]{
		Route: Route{ID: "installPolicy", Method: http.MethodPut, Path: "/policy", Capability: identity.Administer, Outside: true, Effects: Decides | StopsService, WhileLocked: true, Urgency: Ordinary,
			Words: "Install appraisal policy", Summary: "Have this machine judged by another signed policy, with its authorizations and approvals"},
		Subject: func(ctx context.Context, c *Caller, _ PolicyFiles) any {
			now, err := appraisalPolicy(ctx, c)
			return found(&now, err)
		},
		Check: func(ctx context.Context, c *Caller, in PolicyFiles) error {
			_, err := checkPolicy(ctx, c, in)
			return err
		},
		Filed: func(ctx context.Context, c *Caller, in, stored PolicyFiles) (_ PolicyFiles, err error) {
			stored.Admits, err = checkPolicy(ctx, c, in)
			return stored, err
		},
		Run: func(ctx context.Context, c *Caller, in PolicyFiles) (AppraisalPolicy, error) {
			if err := c.noPolicies(); err != nil {
				return AppraisalPolicy{}, err
			}
			if err := c.Policies.InstallPolicy(ctx, in); err != nil {
				return AppraisalPolicy{}, err
			}
			return c.Policies.AppraisalPolicy(ctx)
		},
	})
)
