package web

import (
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Quota is the most authenticated requests a second; 0 for no limit.
type Quota struct {
	RequestsPerSecond int `json:"requests_per_second"`
}

// NewKeyStore asks for a key store.
type NewKeyStore struct {
	Name string `json:"name"`
	// URIPathPrefix comes before [appliance.XKSPath]; nothing does if it is left out.
	URIPathPrefix string `json:"uri_path_prefix,omitempty"`
	// RequestsPerSecond is the quota; 0 is none, as if it is left out.
	RequestsPerSecond int `json:"requests_per_second,omitempty"`
}

// KeyStoreHealth is what KMS is told of a key store, and what it takes to connect.
type KeyStoreHealth struct {
	// Serves says whether requests of KMS are answered at all; Reason says why not.
	Serves bool   `json:"serves"`
	Reason string `json:"reason,omitempty"`
	// URIEndpoint and URIPath are for the KMS console (XksProxyUriEndpoint,
	// XksProxyUriPath). The first is empty if the appliance does not know its name.
	URIEndpoint string `json:"uri_endpoint,omitempty"`
	URIPath     string `json:"uri_path"`
	// ActiveCredentials is how many SigV4 credentials KMS could use.
	ActiveCredentials int `json:"active_credentials"`
	// HSMs are as GetHealthStatus lists them.
	HSMs []appliance.HSMHealth `json:"hsms"`
}

func keyStoreRoutes() []Route {
	const stores, store = "/keystores", "/keystores/{keystore}"
	return []Route{
		{Method: http.MethodGet, Path: stores, ID: "listKeyStores", Capability: identity.See, Summary: "All key stores, by name",
			handler: lists(func(c *call) ([]*appliance.KeyStore, error) { return c.api.Domain.KeyStores(c.ctx()) })},
		{Method: http.MethodPost, Path: stores, ID: "createKeyStore", Capability: identity.ManageKeys, Summary: "Make a key store",
			handler: does(func(c *call, in NewKeyStore) (*appliance.KeyStore, error) {
				return c.api.Domain.CreateKeyStore(c.ctx(), appliance.KeyStore{Name: in.Name, URIPathPrefix: in.URIPathPrefix, RequestsPerSecond: in.RequestsPerSecond})
			})},
		{Method: http.MethodGet, Path: store, ID: "showKeyStore", Capability: identity.See, Summary: "A key store with its credentials and grants",
			handler: gives(func(c *call) (*appliance.KeyStoreDetail, error) {
				return c.api.Domain.ShowKeyStore(c.ctx(), c.keyStore())
			})},
		{Method: http.MethodPut, Path: store + "/quota", ID: "setQuota", Capability: identity.ManageKeys, Summary: "Set a key store's quota of requests a second",
			handler: does(func(c *call, in Quota) (*appliance.KeyStore, error) {
				return c.api.Domain.SetQuota(c.ctx(), c.keyStore(), in.RequestsPerSecond)
			})},
		{Method: http.MethodGet, Path: store + "/health", ID: "keyStoreHealth", Capability: identity.See, Summary: "What KMS would be told of a key store",
			handler: gives(keyStoreHealth)},
		{Method: http.MethodDelete, Path: store, ID: "deleteKeyStore", Capability: identity.ManageKeys, Dangerous: true, Approvable: true,
			Summary: "Remove a key store that has no keys, with its credentials and grants",
			handler: checked(gives(func(c *call) (nothing, error) { return nothing{}, c.api.Domain.DeleteKeyStore(c.ctx(), c.keyStore()) }),
				func(c *call, _ nothing) error { return c.api.Domain.CheckDeleteKeyStore(c.ctx(), c.keyStore()) })},
	}
}

func keyStoreHealth(c *call) (*KeyStoreHealth, error) {
	ks, err := c.api.Domain.ShowKeyStore(c.ctx(), c.keyStore())
	if err != nil {
		return nil, err
	}
	status := c.api.Domain.Status(c.ctx())
	h := &KeyStoreHealth{Serves: true, URIEndpoint: c.api.Site.XKSEndpoint(), URIPath: ks.URIPathPrefix + appliance.XKSPath, HSMs: []appliance.HSMHealth{}}
	h.HSMs = append(h.HSMs, status.HSMs...)
	for _, cr := range ks.Credentials {
		if cr.Active {
			h.ActiveCredentials++
		}
	}
	switch audit := c.api.Audit.Ready(); {
	case status.Locked:
		h.Reason = "locked: " + status.Reason
	case !status.Blocked.IsZero():
		h.Reason = "everything is blocked: " + status.Blocked.Reason
	case !ks.Blocked.IsZero():
		h.Reason = "the key store is blocked: " + ks.Blocked.Reason
	case audit != nil:
		h.Reason = "nothing can be recorded: " + c.api.message(c.ctx(), audit)
	case h.ActiveCredentials == 0:
		h.Reason = "no SigV4 credential is active"
	}
	h.Serves = h.Reason == ""
	return h, nil
}

// NewKey asks for an external key. Material, if there is any, is imported.
type NewKey struct {
	ID       string            `json:"id"`
	Usage    appliance.Usage   `json:"usage"`
	Custody  appliance.Custody `json:"custody"`
	Material []byte            `json:"material,omitempty"`
	// Framing is for an imported key that another proxy has used.
	Framing appliance.Framing `json:"aad_framing,omitempty"`
}

// Rotation asks for a new version of a key; with Material, for that one.
type Rotation struct {
	Material []byte `json:"material,omitempty"`
}

// Deletion asks for a key to be destroyed after Days, 7 to 30.
type Deletion struct {
	Days int `json:"days"`
}

func keyRoutes() []Route {
	const keys, key = "/keystores/{keystore}/keys", "/keystores/{keystore}/keys/{key}"
	change := func(do func(c *call) (*appliance.ExternalKey, error)) handler { return gives(do) }
	return []Route{
		{Method: http.MethodGet, Path: keys, ID: "listKeys", Capability: identity.See, Summary: "A page of a key store's keys, by ID",
			Query: []Parameter{
				{Name: "after", Type: "string", Description: "the last ID of the page before"},
				{Name: "limit", Type: "integer", Least: 1, Most: 1000, Description: "how many, 1 to 1000; 100 if left out"},
				{Name: "prefix", Type: "string", Description: "only IDs that begin so"},
				{Name: "state", Type: "string", Description: "only keys in that state", Enum: []string{"enabled", "disabled", "pending_deletion", "deletion_suspended", "blocked"}},
			},
			handler: lists(func(c *call) ([]*appliance.ExternalKey, error) {
				q := c.URL.Query()
				limit := c.number("limit", 100)
				return c.api.Domain.Keys(c.ctx(), c.keyStore(), appliance.Page{After: q.Get("after"), Limit: limit, Prefix: q.Get("prefix"), State: appliance.KeyState(q.Get("state"))})
			})},
		{Method: http.MethodPost, Path: keys, ID: "createKey", Capability: identity.ManageKeys, Summary: "Make or import an external key",
			handler: does(func(c *call, in NewKey) (*appliance.StoredKey, error) {
				return c.api.Domain.CreateKey(c.ctx(), c.keyStore(), appliance.NewExternalKey(in))
			})},
		{Method: http.MethodGet, Path: key, ID: "showKey", Capability: identity.See, Summary: "A key with its versions and grants",
			handler: gives(func(c *call) (*appliance.StoredKey, error) {
				return c.api.Domain.ShowKey(c.ctx(), c.keyStore(), c.key())
			})},
		{Method: http.MethodPost, Path: key + "/enable", ID: "enableKey", Capability: identity.ManageKeys, Approvable: true, Summary: "Let a key serve",
			handler: checked(change(func(c *call) (*appliance.ExternalKey, error) {
				return c.api.Domain.SetKeyEnabled(c.ctx(), c.keyStore(), c.key(), true)
			}), func(c *call, _ nothing) error {
				return c.api.Domain.CheckKeyEnabled(c.ctx(), c.keyStore(), c.key(), true)
			})},
		{Method: http.MethodPost, Path: key + "/disable", ID: "disableKey", Capability: identity.ManageKeys, Summary: "Take a key out of service",
			handler: change(func(c *call) (*appliance.ExternalKey, error) {
				return c.api.Domain.SetKeyEnabled(c.ctx(), c.keyStore(), c.key(), false)
			})},
		{Method: http.MethodPost, Path: key + "/rotate", ID: "rotateKey", Capability: identity.ManageKeys, Summary: "Encrypt with a new version of a key from now on",
			handler: does(func(c *call, in Rotation) (*appliance.ExternalKey, error) {
				return c.api.Domain.RotateKey(c.ctx(), c.keyStore(), c.key(), in.Material)
			})},
		{Method: http.MethodPost, Path: key + "/delete", ID: "scheduleKeyDeletion", Capability: identity.ManageKeys, Dangerous: true, Approvable: true,
			Summary: "Have a key destroyed after a waiting period; it is out of service from now on",
			handler: checked(does(func(c *call, in Deletion) (*appliance.ExternalKey, error) {
				return c.api.Domain.ScheduleDeletion(c.ctx(), c.keyStore(), c.key(), in.Days)
			}), func(c *call, in Deletion) error {
				return c.api.Domain.CheckDeletion(c.ctx(), c.keyStore(), c.key(), in.Days)
			})},
		{Method: http.MethodPost, Path: key + "/cancel-deletion", ID: "cancelKeyDeletion", Capability: identity.ManageKeys, Summary: "Take back a scheduled or suspended deletion; the key is disabled then",
			handler: change(func(c *call) (*appliance.ExternalKey, error) {
				return c.api.Domain.CancelDeletion(c.ctx(), c.keyStore(), c.key())
			})},
	}
}

// Policy is a key store's Cedar policies that were written by hand.
type Policy struct {
	Cedar string `json:"cedar"`
}

// Grant is a grant with the Cedar policy that is evaluated for it.
type Grant struct {
	*appliance.Grant
	Cedar string `json:"cedar"`
}

// NewGrant asks for a grant.
type NewGrant struct {
	// KeyID is the external key; empty for all keys of the key store.
	KeyID      string                `json:"key_id,omitempty"`
	Effect     appliance.Effect      `json:"effect,omitempty"`
	Principal  string                `json:"principal"`
	Operations []appliance.Operation `json:"operations"`
	Conditions appliance.Conditions  `json:"conditions,omitzero"`
	NotAfter   time.Time             `json:"not_after,omitzero"`
}

func (g NewGrant) grant() appliance.Grant {
	return appliance.Grant{KeyID: g.KeyID, Effect: g.Effect, Principal: g.Principal, Operations: g.Operations, Conditions: g.Conditions, NotAfter: g.NotAfter}
}

func grantRoutes() []Route {
	const store = "/keystores/{keystore}"
	return []Route{
		{Method: http.MethodGet, Path: store + "/grants", ID: "listGrants", Capability: identity.See, Summary: "All grants of a key store and of its keys",
			handler: lists(func(c *call) ([]Grant, error) {
				list, err := c.api.Domain.Grants(c.ctx(), c.keyStore())
				shown := make([]Grant, len(list))
				for i, g := range list {
					shown[i] = Grant{g, g.Cedar()}
				}
				return shown, err
			})},
		{Method: http.MethodPost, Path: store + "/grants", ID: "createGrant", Capability: identity.ManageKeys, Approvable: true, Summary: "Allow or forbid a principal operations",
			handler: checked(does(func(c *call, in NewGrant) (Grant, error) {
				g, err := c.api.Domain.AddGrant(c.ctx(), c.keyStore(), in.grant())
				if err != nil {
					return Grant{}, err
				}
				return Grant{g, g.Cedar()}, nil
			}), func(c *call, in NewGrant) error {
				return c.api.Domain.CheckGrant(c.ctx(), c.keyStore(), in.grant())
			})},
		{Method: http.MethodPost, Path: store + "/grants/render", ID: "renderGrant", Capability: identity.See, Summary: "The Cedar policy that a grant would be, without making it",
			handler: does(func(c *call, in NewGrant) (Policy, error) {
				g := in.grant()
				if err := g.Validate(); err != nil {
					return Policy{}, err
				}
				return Policy{g.Cedar()}, nil
			})},
		{Method: http.MethodDelete, Path: store + "/grants/{grant}", ID: "removeGrant", Capability: identity.ManageKeys, Approvable: true, Summary: "Remove a grant",
			handler: checked(gives(func(c *call) (nothing, error) {
				return nothing{}, c.api.Domain.RemoveGrant(c.ctx(), c.keyStore(), c.param("grant"))
			}), func(c *call, _ nothing) error {
				return c.api.Domain.CheckRemoveGrant(c.ctx(), c.keyStore(), c.param("grant"))
			})},
		{Method: http.MethodPost, Path: store + "/keys/{key}/test-grants", ID: "testGrants", Capability: identity.See, Summary: "Whether a request would be allowed, and which policies decide",
			handler: does(func(c *call, in appliance.RequestContext) (appliance.Decision, error) {
				d, err := c.api.Domain.TestGrants(c.ctx(), c.keyStore(), c.key(), in)
				d.Policies = append([]string{}, d.Policies...) // in JSON a list, though it be empty
				return d, err
			})},
		{Method: http.MethodGet, Path: store + "/policy", ID: "showPolicy", Capability: identity.See, Summary: "A key store's Cedar policies written by hand",
			handler: gives(func(c *call) (Policy, error) {
				cedar, err := c.api.Domain.Policy(c.ctx(), c.keyStore())
				return Policy{cedar}, err
			})},
		{Method: http.MethodPost, Path: store + "/policy", ID: "setPolicy", Capability: identity.ManageKeys, Dangerous: true, Approvable: true, Summary: "Replace a key store's Cedar policies written by hand",
			handler: checked(does(func(c *call, in Policy) (nothing, error) {
				return nothing{}, c.api.Domain.SetPolicy(c.ctx(), c.keyStore(), in.Cedar)
			}), func(c *call, in Policy) error {
				return c.api.Domain.CheckPolicy(c.ctx(), c.keyStore(), in.Cedar)
			})},
	}
}

// NewCredential asks for a credential: to be made if both are empty, else
// imported.
type NewCredential struct {
	AccessKeyID     string `json:"access_key_id,omitempty"`
	SecretAccessKey string `json:"secret_access_key,omitempty"`
}

// CreatedCredential shows the secret for the only time.
type CreatedCredential struct {
	appliance.Credential
	SecretAccessKey string `json:"secret_access_key"`
	URIPathPrefix   string `json:"uri_path_prefix"`
}

func (c CreatedCredential) withoutSecret() any { return c.Credential }

func credentialRoutes() []Route {
	const credentials, credential = "/keystores/{keystore}/credentials", "/keystores/{keystore}/credentials/{credential}"
	set := func(active bool) handler {
		return gives(func(c *call) (*appliance.Credential, error) {
			return c.api.Domain.SetCredentialActive(c.ctx(), c.keyStore(), c.param("credential"), active)
		})
	}
	return []Route{
		{Method: http.MethodGet, Path: credentials, ID: "listCredentials", Capability: identity.See, Summary: "A key store's SigV4 credentials, without their secrets",
			handler: lists(func(c *call) ([]*appliance.Credential, error) { return c.api.Domain.Credentials(c.ctx(), c.keyStore()) })},
		{Method: http.MethodPost, Path: credentials, ID: "createCredential", Capability: identity.ManageKeys, Dangerous: true, Summary: "Make or import a SigV4 credential; its secret is shown this once",
			handler: does(createCredential)},
		{Method: http.MethodPost, Path: credential + "/activate", ID: "activateCredential", Capability: identity.ManageKeys, Summary: "Accept signatures of a credential", handler: set(true)},
		{Method: http.MethodPost, Path: credential + "/deactivate", ID: "deactivateCredential", Capability: identity.ManageKeys, Summary: "Refuse signatures of a credential", handler: set(false)},
		{Method: http.MethodDelete, Path: credential, ID: "deleteCredential", Capability: identity.ManageKeys, Dangerous: true, Approvable: true, Summary: "Remove a credential",
			handler: checked(gives(func(c *call) (nothing, error) {
				return nothing{}, c.api.Domain.DeleteCredential(c.ctx(), c.keyStore(), c.param("credential"))
			}), func(c *call, _ nothing) error {
				return c.api.Domain.CheckDeleteCredential(c.ctx(), c.keyStore(), c.param("credential"))
			})},
	}
}

func createCredential(c *call, in NewCredential) (CreatedCredential, error) {
	created, secret, err := c.api.Domain.CreateCredential(c.ctx(), c.keyStore(), appliance.NewCredential(in))
	if err != nil {
		return CreatedCredential{}, err
	}
	ks, err := c.api.Domain.ShowKeyStore(c.ctx(), c.keyStore())
	if err != nil {
		return CreatedCredential{}, err
	}
	return CreatedCredential{*created, secret, ks.URIPathPrefix}, nil
}
