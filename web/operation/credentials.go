package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Credentials are the operations of the domain on SigV4 credentials. The checks give the error
// that the operation would, and change nothing.
type Credentials interface {
	CreateCredential(ctx context.Context, keyStore string, want appliance.NewCredential) (*appliance.Credential, string, error)
	CheckCredential(ctx context.Context, keyStore string, want appliance.NewCredential) error
	Credentials(ctx context.Context, keyStore string) ([]*appliance.Credential, error)
	SetCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) (*appliance.Credential, error)
	CheckCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) error
	DeleteCredential(ctx context.Context, keyStore, accessKeyID string) error
	CheckDeleteCredential(ctx context.Context, keyStore, accessKeyID string) error
}

// NewCredential asks for a credential: to be made if both are empty, else
// imported.
type NewCredential struct {
	KeyStoreName
	AccessKeyID     string `json:"access_key_id,omitempty" jsonschema:"The access key ID of a credential to import, 20 to 30 characters of A-Z and 2-7; leave it out to have one made." pattern:"^[A-Z2-7]{20,30}$"`
	SecretAccessKey string `json:"secret_access_key,omitempty" record:"-" secret:"true" jsonschema:"The secret access key of a credential to import; leave it out to have one made." pattern:"^[A-Za-z0-9+/=]{43,64}$"`
}

func (n NewCredential) credential() appliance.NewCredential {
	return appliance.NewCredential{AccessKeyID: n.AccessKeyID, SecretAccessKey: n.SecretAccessKey}
}

// CreatedCredential shows the secret for the only time.
type CreatedCredential struct {
	appliance.Credential
	SecretAccessKey string `json:"secret_access_key" jsonschema:"The secret access key. It is shown this once."`
	URIPathPrefix   string `json:"uri_path_prefix" jsonschema:"The prefix that AWS KMS asks for (XksProxyUriPath without /kms/xks/v1); empty if the key store has none."`
}

func (c CreatedCredential) withoutSecret() any { return c.Credential }

// CredentialName names a credential.
type CredentialName struct {
	KeyStoreName
	Credential string `path:"credential" json:"-" about:"The access key ID of the credential."`
}

// CredentialPage asks for a page of a key store's credentials.
type CredentialPage struct {
	KeyStoreName
	Paging
	Standing appliance.StandingState `query:"standing" enum:"serving,inactive,blocked,out_of_service,stale,unrecorded" about:"only credentials whose standing has this state" json:"-"`
}

func credentialSubject(ctx context.Context, c *Caller, in CredentialName) any {
	list, _ := c.Domain.Credentials(ctx, in.KeyStore)
	return one(list, func(x *appliance.Credential) bool { return x.AccessKeyID == in.Credential })
}

// The operations on SigV4 credentials.
var (
	ListCredentials = defineList(Listing[CredentialPage, *appliance.Credential]{
		Route: Route{ID: "listCredentials", Method: http.MethodGet, Path: "/keystores/{keystore}/credentials", Capability: identity.See,
			Words: "List credentials", Summary: "A key store's SigV4 credentials, without their secrets"},
		ID: func(k *appliance.Credential) string { return k.AccessKeyID },
		By: []Order[*appliance.Credential]{
			{"created", func(k *appliance.Credential) string { return timeKey(k.CreatedAt) }},
			{"last_used", func(k *appliance.Credential) string { return timeKey(k.LastUsedAt) }},
		},
		All: func(ctx context.Context, c *Caller, in CredentialPage) ([]*appliance.Credential, error) {
			all, err := c.Domain.Credentials(ctx, in.KeyStore)
			return keep(all, err, func(k *appliance.Credential) bool { return is(k.Standing.State, in.Standing) })
		},
	})
	CreateCredential = define(Operation[NewCredential, CreatedCredential]{
		Route: Route{ID: "createCredential", Method: http.MethodPost, Path: "/keystores/{keystore}/credentials", Makes: "/keystores/{keystore}/credentials/{access_key_id}", Capability: identity.ManageKeys, Effects: GivesAccess, Urgency: Ordinary,
			Words: "Create credential", Variants: []string{"Import credential"}, Summary: "Make or import a SigV4 credential; its secret is shown this once"},
		Subject: makes[NewCredential],
		Check: func(ctx context.Context, c *Caller, in NewCredential) error {
			return c.Domain.CheckCredential(ctx, in.KeyStore, in.credential())
		},
		Variant: func(in NewCredential) string {
			if in.AccessKeyID != "" {
				return "Import credential"
			}
			return "Create credential"
		},
		Run: func(ctx context.Context, c *Caller, in NewCredential) (CreatedCredential, error) {
			created, secret, err := c.Domain.CreateCredential(ctx, in.KeyStore, in.credential())
			if err != nil {
				return CreatedCredential{}, err
			}
			ks, err := c.Domain.ShowKeyStore(ctx, in.KeyStore)
			if err != nil {
				return CreatedCredential{}, err
			}
			return CreatedCredential{*created, secret, ks.URIPathPrefix}, nil
		},
	})
	ShowCredential = define(Operation[CredentialName, *appliance.Credential]{
		Route: Route{ID: "showCredential", Method: http.MethodGet, Path: "/keystores/{keystore}/credentials/{credential}", Capability: identity.See,
			Words: "Show credential", Summary: "A SigV4 credential, without its secret"},
		Run: func(ctx context.Context, c *Caller, in CredentialName) (*appliance.Credential, error) {
			list, err := c.Domain.Credentials(ctx, in.KeyStore)
			return named(list, err, func(x *appliance.Credential) bool { return x.AccessKeyID == in.Credential }, "the key store has no credential of that access key ID")
		},
	})
	ActivateCredential = define(Operation[CredentialName, *appliance.Credential]{
		Route: Route{ID: "activateCredential", Method: http.MethodPost, Path: "/keystores/{keystore}/credentials/{credential}/activate", Capability: identity.ManageKeys, Effects: GivesAccess, Urgency: Ordinary,
			Words: "Activate credential", Summary: "Accept signatures of a credential"},
		Subject: credentialSubject,
		Check: func(ctx context.Context, c *Caller, in CredentialName) error {
			return c.Domain.CheckCredentialActive(ctx, in.KeyStore, in.Credential, true)
		},
		Run: func(ctx context.Context, c *Caller, in CredentialName) (*appliance.Credential, error) {
			return c.Domain.SetCredentialActive(ctx, in.KeyStore, in.Credential, true)
		},
	})
	DeactivateCredential = define(Operation[CredentialName, *appliance.Credential]{
		Route: Route{ID: "deactivateCredential", Method: http.MethodPost, Path: "/keystores/{keystore}/credentials/{credential}/deactivate", Capability: identity.ManageKeys, Effects: StopsService | TakesAccess, Urgency: Urgent,
			Words: "Deactivate credential", Summary: "Refuse signatures of a credential"},
		Subject: credentialSubject,
		Check: func(ctx context.Context, c *Caller, in CredentialName) error {
			return c.Domain.CheckCredentialActive(ctx, in.KeyStore, in.Credential, false)
		},
		Run: func(ctx context.Context, c *Caller, in CredentialName) (*appliance.Credential, error) {
			return c.Domain.SetCredentialActive(ctx, in.KeyStore, in.Credential, false)
		},
	})
	DeleteCredential = define(Operation[CredentialName, Nothing]{
		Route: Route{ID: "deleteCredential", Method: http.MethodDelete, Path: "/keystores/{keystore}/credentials/{credential}", Capability: identity.ManageKeys, Effects: StopsService | TakesAccess | Destroys, Urgency: Urgent,
			Words: "Delete credential", Summary: "Remove a credential"},
		Subject: credentialSubject,
		Check: func(ctx context.Context, c *Caller, in CredentialName) error {
			return c.Domain.CheckDeleteCredential(ctx, in.KeyStore, in.Credential)
		},
		Run: func(ctx context.Context, c *Caller, in CredentialName) (Nothing, error) {
			return Nothing{}, c.Domain.DeleteCredential(ctx, in.KeyStore, in.Credential)
		},
	})
)
