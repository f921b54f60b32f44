package operation

import (
	"context"
	"net/http"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Grants are the operations of the domain on grants and Cedar policies. The checks
// give the error that the operation would, and change nothing.
type Grants interface {
	AddGrant(ctx context.Context, keyStore string, want appliance.Grant) (*appliance.Grant, error)
	CheckGrant(ctx context.Context, keyStore string, want appliance.Grant) error
	AddGrants(ctx context.Context, keyStore string, want []appliance.Grant) ([]*appliance.Grant, error)
	CheckGrants(ctx context.Context, keyStore string, want []appliance.Grant) ([]error, error)
	Grants(ctx context.Context, keyStore string) ([]*appliance.Grant, error)
	VerifyGrants(ctx context.Context, keyStore string, grants []*appliance.Grant) error
	RemoveGrant(ctx context.Context, keyStore, id string) error
	CheckRemoveGrant(ctx context.Context, keyStore, id string) error
	TestGrants(ctx context.Context, keyStore, key string, r appliance.RequestContext) (appliance.Decision, error)
	Policy(ctx context.Context, keyStore string) (string, error)
	SetPolicy(ctx context.Context, keyStore string, want appliance.Policies) error
	CheckPolicy(ctx context.Context, keyStore string, want appliance.Policies) error
}

// Policy is a key store's Cedar policies that were written by hand.
type Policy struct {
	Cedar string `json:"cedar" jsonschema:"Cedar policies, as text; empty if there are none."`
}

// NewPolicy replaces the Cedar policies of a key store.
type NewPolicy struct {
	KeyStoreName
	Cedar string `json:"cedar" jsonschema:"The Cedar policies that replace those that are there; empty to have none." example:"forbid (principal, action, resource) when { context has sourceVpc && context.sourceVpc == \"vpc-0123456789abcdef0\" };" longest:"65536"`
	// Force takes principals of a form that IAM does not have.
	Force bool `json:"force,omitempty" jsonschema:"Set the policies although a principal in them has no form that IAM knows: its partition, account, service or resource is not one of AWS's as of this release. The same for a via service of a form that is not documented."`
}

func (p NewPolicy) insists() []string {
	if !p.Force {
		return nil
	}
	return doubts(p.policies().Doubt())
}

func doubts(err error) []string {
	if err == nil {
		return nil
	}
	return []string{err.Error()}
}

func (p NewPolicy) policies() appliance.Policies {
	return appliance.Policies{Cedar: p.Cedar, Force: p.Force}
}

// Grant is a grant with the Cedar policy that is evaluated for it.
type Grant struct {
	*appliance.Grant
	Cedar string `json:"cedar" jsonschema:"The Cedar policy that is evaluated for this grant."`
}

func (g Grant) revised() any { return g.Grant }

// GrantPage asks for a page of a key store's grants.
type GrantPage struct {
	KeyStoreName
	Paging
	Principal string              `query:"principal" longest:"2048" about:"only grants whose principal has this text in it, in upper or lower case" json:"-"`
	Key       string              `query:"key" about:"only grants on this external key; not those on all keys" json:"-"`
	Effect    appliance.Effect    `query:"effect" enum:"allow,forbid" about:"only grants with this effect" json:"-"`
	Operation appliance.Operation `query:"operation" enum:"Encrypt,Decrypt,GetAttributes" about:"only grants on this operation" json:"-"`
	State     string              `query:"state" enum:"in_effect,ended" about:"only grants that still have an effect, or that have ended" json:"-"`
}

func (p GrantPage) has(g *appliance.Grant, now time.Time) bool {
	return contains(g.Principal, p.Principal) && (p.Key == "" || g.KeyID == p.Key) && (p.Effect == "" || g.Effect == p.Effect) &&
		(p.Operation == "" || slices.Contains(g.Operations, p.Operation)) &&
		(p.State == "" || (p.State == "ended") == (!g.NotAfter.IsZero() && g.NotAfter.Before(now)))
}

// GrantName names a grant.
type GrantName struct {
	KeyStoreName
	Grant string `path:"grant" json:"-" about:"The ID of the grant."`
}

// NewGrant asks for a grant.
type NewGrant struct {
	KeyStoreName
	// KeyID is the external key; empty for all keys of the key store.
	KeyID     string           `json:"key_id,omitempty" jsonschema:"The external key that the grant is for; leave it out for all keys of the key store." longest:"128"`
	Effect    appliance.Effect `json:"effect,omitempty" jsonschema:"Whether the grant allows or forbids; allow if it is left out." example:"allow"`
	Principal string           `json:"principal" jsonschema:"The principal of the grant: an ARN, which may contain * and ?, a service such as dynamodb.amazonaws.com, an account of 12 digits, or * for all." example:"arn:aws:iam::123456789012:role/payments" longest:"2048"`
	// Force takes a principal of a form that IAM does not have.
	Force      bool                  `json:"force,omitempty" jsonschema:"Make the grant although the principal has no form that IAM knows: its partition, account, service or resource is not one of AWS's as of this release. The same for a via service of a form that is not documented."`
	Operations []appliance.Operation `json:"operations" jsonschema:"The operations of the XKS API that the grant is for." example:"[\"Encrypt\",\"Decrypt\"]" fewest:"1" items:"3"`
	Conditions appliance.Conditions  `json:"conditions,omitzero" jsonschema:"What a request must also have for the grant to apply; each condition that is given must hold."`
	NotAfter   time.Time             `json:"not_after,omitzero" jsonschema:"The last moment at which the grant has an effect; leave it out for no end."`
}

func (g NewGrant) grant() appliance.Grant {
	return appliance.Grant{KeyID: g.KeyID, Effect: g.Effect, Principal: g.Principal, Force: g.Force, Operations: g.Operations, Conditions: g.Conditions, NotAfter: g.NotAfter}
}

func (g NewGrant) insists() []string {
	if !g.Force {
		return nil
	}
	grant := g.grant()
	return doubts(grant.Rule().Doubt())
}

func (g NewGrant) forbids() bool { return g.Effect == appliance.EffectForbid }

// GrantTest is a request of KMS that is decided and not made.
type GrantTest struct {
	KeyName
	Principal    string              `json:"principal" jsonschema:"The principal's ARN, as KMS would send it (awsPrincipalArn)." example:"arn:aws:iam::123456789012:role/payments" longest:"2048"`
	Operation    appliance.Operation `json:"operation" jsonschema:"The operation of the XKS API that would be requested." example:"Encrypt"`
	KMSOperation string              `json:"kms_operation,omitempty" jsonschema:"The KMS API call behind the request (kmsOperation)." example:"GenerateDataKey" longest:"2048"`
	ViaService   string              `json:"via_service,omitempty" jsonschema:"The AWS service that would call KMS (kmsViaService)." example:"s3.eu-central-1.amazonaws.com" longest:"2048"`
	SourceVPC    string              `json:"source_vpc,omitempty" jsonschema:"The VPC from which KMS would be called (awsSourceVpc)." example:"vpc-0123456789abcdef0" longest:"2048"`
	SourceVPCE   string              `json:"source_vpce,omitempty" jsonschema:"The VPC endpoint through which KMS would be called (awsSourceVpce)." example:"vpce-0123456789abcdef0" longest:"2048"`
	KMSKeyARN    string              `json:"kms_key_arn,omitempty" jsonschema:"The ARN of the KMS key (kmsKeyArn)." example:"arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" longest:"2048"`
}

// The operations on grants and policies.
var (
	ListGrants = defineList(Listing[GrantPage, Grant]{
		Route: Route{ID: "listGrants", Method: http.MethodGet, Path: "/keystores/{keystore}/grants", Capability: identity.See,
			Words: "List grants", Summary: "The grants of a key store and of its keys"},
		ID: func(g Grant) string { return g.ID },
		By: []Order[Grant]{
			{"created", func(g Grant) string { return timeKey(g.CreatedAt) }},
			{"principal", func(g Grant) string { return textKey(g.Principal) }},
			{"key", func(g Grant) string { return g.KeyID }},
			{"not_after", func(g Grant) string { return timeKey(g.NotAfter) }},
		},
		All: func(ctx context.Context, c *Caller, in GrantPage) ([]Grant, error) {
			list, err := c.Domain.Grants(ctx, in.KeyStore)
			var all []Grant
			for _, g := range list {
				if in.has(g, c.Now()) {
					all = append(all, Grant{Grant: g})
				}
			}
			return all, err
		},
		Complete: func(_ *Caller, page []Grant) {
			for i, g := range page {
				page[i].Cedar = g.Grant.Cedar()
			}
		},
	})
	CreateGrant = define(Operation[NewGrant, Grant]{
		Route: Route{ID: "createGrant", Method: http.MethodPost, Path: "/keystores/{keystore}/grants", Makes: "/keystores/{keystore}/grants/{id}", Capability: identity.ManageKeys, Effects: StopsService | GivesAccess, ConfirmedIf: "if it forbids", Urgency: Ordinary,
			Words: "Create grant", Summary: "Allow or forbid a principal operations"},
		Subject: makes[NewGrant],
		Named:   func(in NewGrant) (string, string) { return in.KeyStore, in.KeyID },
		Check: func(ctx context.Context, c *Caller, in NewGrant) error {
			return c.Domain.CheckGrant(ctx, in.KeyStore, in.grant())
		},
		Confirmed: func(_ any, in NewGrant) bool { return in.forbids() },
		Restricts: NewGrant.forbids,
		Run: func(ctx context.Context, c *Caller, in NewGrant) (Grant, error) {
			g, err := c.Domain.AddGrant(ctx, in.KeyStore, in.grant())
			if err != nil {
				return Grant{}, err
			}
			return Grant{g, g.Cedar()}, nil
		},
	})
	RenderGrant = define(Operation[NewGrant, Policy]{
		Route: Route{ID: "renderGrant", Method: http.MethodPost, Path: "/keystores/{keystore}/grants/render", Capability: identity.See, ReadOnly: true, Urgency: Independent,
			Words: "Preview grant", Summary: "The Cedar policy that a grant would be, without making it"},
		Subject: apart[NewGrant],
		Named:   func(in NewGrant) (string, string) { return in.KeyStore, in.KeyID },
		Run: func(ctx context.Context, c *Caller, in NewGrant) (Policy, error) {
			if _, err := c.Domain.ShowKeyStore(ctx, in.KeyStore); err != nil {
				return Policy{}, err
			}
			g := in.grant()
			if err := g.Validate(); err != nil {
				return Policy{}, err
			}
			return Policy{g.Cedar()}, nil
		},
	})
	ShowGrant = define(Operation[GrantName, Grant]{
		Route: Route{ID: "showGrant", Method: http.MethodGet, Path: "/keystores/{keystore}/grants/{grant}", Capability: identity.See,
			Words: "Show grant", Summary: "A grant with its Cedar policy"},
		Run: func(ctx context.Context, c *Caller, in GrantName) (Grant, error) {
			list, err := c.Domain.Grants(ctx, in.KeyStore)
			g, err := named(list, err, func(g *appliance.Grant) bool { return g.ID == in.Grant }, "the key store has no grant of that ID")
			if err != nil {
				return Grant{}, err
			}
			return Grant{g, g.Cedar()}, nil
		},
	})
	RemoveGrant = define(Operation[GrantName, Nothing]{
		Route: Route{ID: "removeGrant", Method: http.MethodDelete, Path: "/keystores/{keystore}/grants/{grant}", Capability: identity.ManageKeys, Urgency: Urgent,
			Effects: StopsService | GivesAccess | TakesAccess, // without one that forbids, what others allow is allowed
			Words:   "Remove grant", Summary: "Remove a grant"},
		Subject: func(ctx context.Context, c *Caller, in GrantName) any {
			list, _ := c.Domain.Grants(ctx, in.KeyStore)
			return one(list, func(g *appliance.Grant) bool { return g.ID == in.Grant })
		},
		Check: func(ctx context.Context, c *Caller, in GrantName) error {
			return c.Domain.CheckRemoveGrant(ctx, in.KeyStore, in.Grant)
		},
		Run: func(ctx context.Context, c *Caller, in GrantName) (Nothing, error) {
			return Nothing{}, c.Domain.RemoveGrant(ctx, in.KeyStore, in.Grant)
		},
	})
	TestGrants = define(Operation[GrantTest, appliance.Decision]{
		Route: Route{ID: "testGrants", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/test-grants", Capability: identity.See, ReadOnly: true, Urgency: Independent,
			Words: "Test request", Summary: "Whether a request would be allowed, and which policies decide"},
		Subject: func(ctx context.Context, c *Caller, in GrantTest) any { return in.subject(ctx, c) },
		Run: func(ctx context.Context, c *Caller, in GrantTest) (appliance.Decision, error) {
			d, err := c.Domain.TestGrants(ctx, in.KeyStore, in.Key, appliance.RequestContext{Principal: in.Principal, Operation: in.Operation, KMSOperation: in.KMSOperation,
				ViaService: in.ViaService, SourceVPC: in.SourceVPC, SourceVPCE: in.SourceVPCE, KMSKeyARN: in.KMSKeyARN})
			d.Policies = append([]string{}, d.Policies...) // in JSON a list, though it be empty
			return d, err
		},
	})
	ShowPolicy = define(Operation[KeyStoreName, Policy]{
		Route: Route{ID: "showPolicy", Method: http.MethodGet, Path: "/keystores/{keystore}/policy", Capability: identity.See,
			Words: "Show Cedar policies", Summary: "A key store's Cedar policies written by hand"},
		Run: func(ctx context.Context, c *Caller, in KeyStoreName) (Policy, error) {
			cedar, err := c.Domain.Policy(ctx, in.KeyStore)
			return Policy{cedar}, err
		},
	})
	SetPolicy = define(Operation[NewPolicy, Nothing]{
		Route: Route{ID: "setPolicy", Method: http.MethodPost, Path: "/keystores/{keystore}/policy", Capability: identity.ManageKeys, Effects: StopsService | GivesAccess, ConfirmedIf: "if it permits less or forbids more", Urgency: Ordinary,
			Words: "Set Cedar policies", Summary: "Replace a key store's Cedar policies written by hand"},
		Subject: func(ctx context.Context, c *Caller, in NewPolicy) any {
			cedar, err := c.Domain.Policy(ctx, in.KeyStore)
			return found(&Policy{cedar}, err)
		},
		Check: func(ctx context.Context, c *Caller, in NewPolicy) error {
			return c.Domain.CheckPolicy(ctx, in.KeyStore, in.policies())
		},
		Confirmed: func(now any, in NewPolicy) bool {
			was, known := now.(*Policy)
			return !known || appliance.PolicyNarrows(was.Cedar, in.Cedar)
		},
		Run: func(ctx context.Context, c *Caller, in NewPolicy) (Nothing, error) {
			return Nothing{}, c.Domain.SetPolicy(ctx, in.KeyStore, in.policies())
		},
	})
)
