package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// KeyStores are the operations of the domain on key stores.
type KeyStores interface {
	CreateKeyStore(ctx context.Context, want appliance.KeyStore) (*appliance.KeyStore, error)
	KeyStores(ctx context.Context) ([]*appliance.KeyStore, error)
	ShowKeyStore(ctx context.Context, name string) (*appliance.KeyStoreDetail, error)
	// KeyStoreHealth gives the HSMs as KMS is told of them; none while it is told nothing.
	KeyStoreHealth(ctx context.Context, name string) []appliance.HSMHealth
	SetQuota(ctx context.Context, name string, requestsPerSecond int) (*appliance.KeyStore, error)
	// CheckQuota gives the error that SetQuota would, and changes nothing.
	CheckQuota(ctx context.Context, name string, requestsPerSecond int) error
	DeleteKeyStore(ctx context.Context, name string) error
	// CheckDeleteKeyStore gives the error that DeleteKeyStore would, and changes
	// nothing.
	CheckDeleteKeyStore(ctx context.Context, name string) error
}

// KeyStoreName names a key store.
type KeyStoreName struct {
	KeyStore string `path:"keystore" json:"-" about:"The name of the key store." example:"payments"`
}

// subject is the key store, without what is in it.
func (n KeyStoreName) subject(ctx context.Context, c *Caller) any {
	list, _ := c.Domain.KeyStores(ctx)
	return one(list, func(k *appliance.KeyStore) bool { return k.Name == n.KeyStore })
}

// KeyStorePage asks for a page of the key stores.
type KeyStorePage struct {
	Paging
	Name     string                  `query:"name" about:"only key stores whose name has this text in it" json:"-"`
	Standing appliance.StandingState `query:"standing" enum:"serving,degraded,blocked,no_credential,out_of_service,locked,held,stale,unrecorded" about:"only key stores whose standing has this state" json:"-"`
}

// Quota is the most authenticated requests a second; 0 for no limit.
type Quota struct {
	KeyStoreName
	RequestsPerSecond int `json:"requests_per_second" jsonschema:"The most authenticated requests a second; 0 for no quota." example:"100" least:"0"`
}

// NewKeyStore asks for a key store.
type NewKeyStore struct {
	Name string `json:"name" jsonschema:"The name of the key store." example:"payments" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"`
	// URIPathPrefix comes before [appliance.XKSPath]; nothing does if it is left out.
	URIPathPrefix string `json:"uri_path_prefix,omitempty" jsonschema:"The prefix that AWS KMS asks for, before /kms/xks/v1: \"/\" and a path. Leave it out for none." example:"/payments" pattern:"^(/[A-Za-z0-9_-]+)*$"`
	// RequestsPerSecond is the quota; 0 is none, as if it is left out.
	RequestsPerSecond int `json:"requests_per_second,omitempty" jsonschema:"The most authenticated requests a second; 0, or left out, for no quota." example:"100" least:"0"`
}

// KeyStoreHealth is what KMS is told of a key store, and what it takes to connect.
type KeyStoreHealth struct {
	// Serves says whether requests of KMS are answered at all; Reason says why not.
	Serves bool   `json:"serves" jsonschema:"Whether requests of KMS to this key store are answered."`
	Reason string `json:"reason,omitempty" jsonschema:"Why requests are not answered; absent if they are."`
	// Standing is that of the key store.
	Standing appliance.Standing `json:"standing" jsonschema:"Whether the key store serves, and what decides that."`
	// URIEndpoint and URIPath are for the KMS console (XksProxyUriEndpoint,
	// XksProxyUriPath). The first is empty if the appliance does not know its name.
	URIEndpoint string `json:"uri_endpoint,omitempty" jsonschema:"The XksProxyUriEndpoint of the key store; absent if the appliance does not know its name."`
	// EndpointProblem says why KMS cannot use URIEndpoint, or why there is none.
	EndpointProblem string `json:"uri_endpoint_problem,omitempty" jsonschema:"Why AWS KMS cannot use the XksProxyUriEndpoint, or why there is none; absent if it can."`
	URIPath         string `json:"uri_path" jsonschema:"The XksProxyUriPath of the key store, with /kms/xks/v1 at its end."`
	// ActiveCredentials is how many SigV4 credentials KMS could use.
	ActiveCredentials int `json:"active_credentials" jsonschema:"How many SigV4 credentials KMS can use."`
	// HSMs are as GetHealthStatus lists them.
	HSMs []appliance.HSMHealth `json:"hsms" jsonschema:"The HSMs, as GetHealthStatus tells KMS of them."`
}

// The operations on key stores.
var (
	ListKeyStores = defineList(Listing[KeyStorePage, *appliance.KeyStore]{
		Route: Route{ID: "listKeyStores", Method: http.MethodGet, Path: "/keystores", Capability: identity.See, Narrows: true,
			Words: "List key stores", Summary: "The key stores, by name"},
		ID: func(k *appliance.KeyStore) string { return k.Name },
		By: []Order[*appliance.KeyStore]{
			{"created", func(k *appliance.KeyStore) string { return timeKey(k.CreatedAt) }},
		},
		All: func(ctx context.Context, c *Caller, in KeyStorePage) ([]*appliance.KeyStore, error) {
			all, err := c.Domain.KeyStores(ctx)
			return keep(all, err, func(k *appliance.KeyStore) bool {
				return c.shows(k.Name) && contains(k.Name, in.Name) && is(k.Standing.State, in.Standing)
			})
		},
	})
	CreateKeyStore = define(Operation[NewKeyStore, *appliance.KeyStore]{
		Route: Route{ID: "createKeyStore", Method: http.MethodPost, Path: "/keystores", Makes: "/keystores/{name}", Capability: identity.ManageKeys, Urgency: Ordinary,
			Words: "Create key store", Summary: "Make a key store"},
		Subject: makes[NewKeyStore],
		Named:   func(in NewKeyStore) (string, string) { return in.Name, "" },
		Run: func(ctx context.Context, c *Caller, in NewKeyStore) (*appliance.KeyStore, error) {
			return c.Domain.CreateKeyStore(ctx, appliance.KeyStore{Name: in.Name, URIPathPrefix: in.URIPathPrefix, RequestsPerSecond: in.RequestsPerSecond})
		},
	})
	ShowKeyStore = define(Operation[KeyStoreName, *appliance.KeyStoreDetail]{
		Route: Route{ID: "showKeyStore", Method: http.MethodGet, Path: "/keystores/{keystore}", Capability: identity.See,
			Words: "Show key store", Summary: "A key store with its credentials and grants"},
		Run: func(ctx context.Context, c *Caller, in KeyStoreName) (*appliance.KeyStoreDetail, error) {
			return c.Domain.ShowKeyStore(ctx, in.KeyStore)
		},
	})
	SetQuota = define(Operation[Quota, *appliance.KeyStore]{
		Route: Route{ID: "setQuota", Method: http.MethodPut, Path: "/keystores/{keystore}/quota", Capability: identity.ManageKeys, Effects: StopsService, ConfirmedIf: "if it lowers the quota", Urgency: Ordinary,
			Words: "Set quota", Summary: "Set a key store's quota of requests a second"},
		Subject: func(ctx context.Context, c *Caller, in Quota) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in Quota) error {
			return c.Domain.CheckQuota(ctx, in.KeyStore, in.RequestsPerSecond)
		},
		Confirmed: lowersQuota,
		Run: func(ctx context.Context, c *Caller, in Quota) (*appliance.KeyStore, error) {
			return c.Domain.SetQuota(ctx, in.KeyStore, in.RequestsPerSecond)
		},
	})
	ShowKeyStoreHealth = define(Operation[KeyStoreName, *KeyStoreHealth]{
		Route: Route{ID: "keyStoreHealth", Method: http.MethodGet, Path: "/keystores/{keystore}/health", Capability: identity.See,
			Words: "Show key store health", Summary: "What KMS would be told of a key store"},
		Run: keyStoreHealth,
	})
	DeleteKeyStore = define(Operation[KeyStoreName, Nothing]{
		Route: Route{ID: "deleteKeyStore", Method: http.MethodDelete, Path: "/keystores/{keystore}", Capability: identity.ManageKeys, Effects: StopsService | Destroys, Urgency: Ordinary,
			Words: "Delete key store", Summary: "Remove a key store that has no keys, with its credentials and grants"},
		Subject: func(ctx context.Context, c *Caller, in KeyStoreName) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in KeyStoreName) error {
			return c.Domain.CheckDeleteKeyStore(ctx, in.KeyStore)
		},
		Run: func(ctx context.Context, c *Caller, in KeyStoreName) (Nothing, error) {
			return Nothing{}, c.Domain.DeleteKeyStore(ctx, in.KeyStore)
		},
	})
)

// lowersQuota says whether fewer requests are answered with the quota than now; 0 is no quota.
func lowersQuota(now any, in Quota) bool {
	ks, known := now.(*appliance.KeyStore)
	return in.RequestsPerSecond != 0 && (!known || ks.RequestsPerSecond == 0 || in.RequestsPerSecond < ks.RequestsPerSecond)
}

func keyStoreHealth(ctx context.Context, c *Caller, in KeyStoreName) (*KeyStoreHealth, error) {
	hsms := c.Domain.KeyStoreHealth(ctx, in.KeyStore) // before the standing, which has what comes of it
	ks, err := c.Domain.ShowKeyStore(ctx, in.KeyStore)
	if err != nil {
		return nil, err
	}
	endpoint, problem := c.Site.XKSEndpoint()
	h := &KeyStoreHealth{Standing: ks.Standing, URIEndpoint: endpoint, EndpointProblem: problem, URIPath: ks.URIPathPrefix + appliance.XKSPath, HSMs: []appliance.HSMHealth{}}
	h.HSMs = append(h.HSMs, hsms...)
	for _, cr := range ks.Credentials {
		if cr.Active {
			h.ActiveCredentials++
		}
	}
	if h.Serves = ks.Standing.Serves; !h.Serves {
		h.Reason = ks.Standing.Says
	} else if audit := c.Audit.Ready(); audit != nil {
		h.Serves, h.Reason = false, "nothing can be recorded: "+c.message(ctx, audit)
	}
	return h, nil
}
