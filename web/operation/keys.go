package operation

import (
	"context"
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Keys are the operations of the domain on external keys. The checks give the
// error that the operation would, and change nothing.
type Keys interface {
	CreateKey(ctx context.Context, keyStore string, want appliance.NewExternalKey) (*appliance.StoredKey, error)
	CheckKey(ctx context.Context, keyStore string, want appliance.NewExternalKey) error
	CreateKeys(ctx context.Context, keyStore string, want []appliance.NewExternalKey) ([]*appliance.StoredKey, error)
	FindKeys(ctx context.Context, keyStore string, ids []string) (map[string]*appliance.ExternalKey, error)
	Keys(ctx context.Context, keyStore string, page appliance.Page, standing appliance.StandingState) ([]*appliance.ExternalKey, error)
	ShowKey(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error)
	SetKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) (*appliance.ExternalKey, error)
	CheckKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) error
	RotateKey(ctx context.Context, keyStore, id string, material []byte) (*appliance.ExternalKey, error)
	CheckRotation(ctx context.Context, keyStore, id string, material []byte) error
	ScheduleDeletion(ctx context.Context, keyStore, id string, days int) (*appliance.ExternalKey, error)
	CheckDeletion(ctx context.Context, keyStore, id string, days int) error
	CancelDeletion(ctx context.Context, keyStore, id string) (*appliance.ExternalKey, error)
}

// KeyName names an external key.
type KeyName struct {
	KeyStoreName
	Key string `path:"key" json:"-" about:"The external key ID." example:"payments-2026"`
}

// subject is the key with its versions and grants.
func (n KeyName) subject(ctx context.Context, c *Caller) any {
	return found(c.Domain.ShowKey(ctx, n.KeyStore, n.Key))
}

func keySubject(ctx context.Context, c *Caller, in KeyName) any { return in.subject(ctx, c) }

// KeyPage asks for a page of a key store's keys.
type KeyPage struct {
	KeyStoreName
	Paging
	Prefix   string                  `query:"prefix" about:"only IDs that begin so" json:"-"`
	Standing appliance.StandingState `query:"standing" enum:"serving,disabled,pending_deletion,deletion_suspended,blocked,no_credential,hsm_away,out_of_service,stale,unrecorded" about:"only keys whose standing has this state" json:"-"`
	Custody  appliance.Custody       `query:"custody" enum:"cached,hsm" about:"only keys in that custody" json:"-"`
	Usage    string                  `query:"usage" enum:"encrypt,decrypt,both,none" about:"only keys that may do just this" json:"-"`
}

// NewKey asks for an external key. Material, if there is any, is imported.
type NewKey struct {
	KeyStoreName
	ID       string            `json:"id" jsonschema:"The external key ID that KMS is given: 1 to 128 letters, digits, '-', '.' and '_'." example:"payments-2026" pattern:"^[A-Za-z0-9._-]{1,128}$"`
	Usage    appliance.Usage   `json:"usage" jsonschema:"What the key may be used for."`
	Custody  appliance.Custody `json:"custody" jsonschema:"Where the key is while it serves: cached in the appliance's memory, or always in the HSM." example:"cached"`
	Material Secret            `json:"material,omitempty" jsonschema:"The key to import: 32 bytes. Leave it out to have a key generated."`
	// Framing is for an imported key that another proxy has used.
	Framing appliance.Framing `json:"aad_framing,omitempty" jsonschema:"How another proxy framed the additional authenticated data, for an imported key that it has used."`
	// Reversible has such a key go on to encrypt with the imported material.
	Reversible bool `json:"reversible,omitempty" jsonschema:"Whether the key goes on to encrypt with the imported material, so that the other proxy can still decrypt."`
}

func (n NewKey) key() appliance.NewExternalKey {
	return appliance.NewExternalKey{ID: n.ID, Usage: n.Usage, Custody: n.Custody, Material: n.Material, Framing: n.Framing, Reversible: n.Reversible}
}

// Rotation asks for a new version of a key; with Material, for that one.
type Rotation struct {
	KeyName
	Material Secret `json:"material,omitempty" jsonschema:"The key to import as the new version: 32 bytes. Leave it out to have one generated."`
}

// Deletion asks for a key to be destroyed after Days, 7 to 30.
type Deletion struct {
	KeyName
	Days int `json:"days" jsonschema:"After how many days the key is destroyed, 7 to 30." example:"30" least:"7" most:"30"`
}

// The operations on external keys.
var (
	ListKeys = defineList(Listing[KeyPage, *appliance.ExternalKey]{
		Route: Route{ID: "listKeys", Method: http.MethodGet, Path: "/keystores/{keystore}/keys", Capability: identity.See,
			Words: "List keys", Summary: "A page of a key store's keys, by ID"},
		ID: func(k *appliance.ExternalKey) string { return k.ID },
		By: []Order[*appliance.ExternalKey]{
			{"created", func(k *appliance.ExternalKey) string { return timeKey(k.CreatedAt) }},
		},
		Part: func(ctx context.Context, c *Caller, in KeyPage, want part) ([]*appliance.ExternalKey, int, error) {
			page := appliance.Page{After: want.after.ID, ByCreation: want.by == "created", Down: want.down, Limit: want.limit, Prefix: in.Prefix, Custody: in.Custody}
			if page.ByCreation && page.After != "" {
				at, err := time.Parse(timeKeyFormat, want.after.Key)
				if err != nil {
					return nil, 0, invalid("after: the cursor names no time: leave it out for the first page")
				}
				page.AfterCreated = at
			}
			if in.Usage != "" {
				page.Usage = &appliance.Usage{Encrypt: in.Usage != "decrypt", Decrypt: in.Usage != "encrypt"}
				if in.Usage == "none" {
					page.Usage = &appliance.Usage{}
				}
			}
			keys, err := c.Domain.Keys(ctx, in.KeyStore, page, in.Standing)
			return keys, 0, err
		},
	})
	CreateKey = define(Operation[NewKey, *appliance.StoredKey]{
		Route: Route{ID: "createKey", Method: http.MethodPost, Path: "/keystores/{keystore}/keys", Makes: "/keystores/{keystore}/keys/{id}", Capability: identity.ManageKeys, Urgency: Ordinary,
			Words: "Create key", Summary: "Make or import an external key"},
		Subject: makes[NewKey],
		Named:   func(in NewKey) (string, string) { return in.KeyStore, in.ID },
		Check: func(ctx context.Context, c *Caller, in NewKey) error {
			return c.Domain.CheckKey(ctx, in.KeyStore, in.key())
		},
		Run: func(ctx context.Context, c *Caller, in NewKey) (*appliance.StoredKey, error) {
			return c.Domain.CreateKey(ctx, in.KeyStore, in.key())
		},
	})
	ShowKey = define(Operation[KeyName, *appliance.StoredKey]{
		Route: Route{ID: "showKey", Method: http.MethodGet, Path: "/keystores/{keystore}/keys/{key}", Capability: identity.See,
			Words: "Show key", Summary: "A key with its versions and grants"},
		Run: func(ctx context.Context, c *Caller, in KeyName) (*appliance.StoredKey, error) {
			return c.Domain.ShowKey(ctx, in.KeyStore, in.Key)
		},
	})
	EnableKey = define(Operation[KeyName, *appliance.ExternalKey]{
		Route: Route{ID: "enableKey", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/enable", Capability: identity.ManageKeys, Effects: GivesAccess, Urgency: Ordinary,
			Words: "Enable key", Summary: "Let a key serve"},
		Subject: keySubject,
		Check: func(ctx context.Context, c *Caller, in KeyName) error {
			return c.Domain.CheckKeyEnabled(ctx, in.KeyStore, in.Key, true)
		},
		Run: func(ctx context.Context, c *Caller, in KeyName) (*appliance.ExternalKey, error) {
			return c.Domain.SetKeyEnabled(ctx, in.KeyStore, in.Key, true)
		},
	})
	DisableKey = define(Operation[KeyName, *appliance.ExternalKey]{
		Route: Route{ID: "disableKey", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/disable", Capability: identity.ManageKeys, Effects: StopsService, Urgency: Urgent,
			Words: "Disable key", Summary: "Take a key out of service"},
		Subject: keySubject,
		Check: func(ctx context.Context, c *Caller, in KeyName) error {
			return c.Domain.CheckKeyEnabled(ctx, in.KeyStore, in.Key, false)
		},
		Run: func(ctx context.Context, c *Caller, in KeyName) (*appliance.ExternalKey, error) {
			return c.Domain.SetKeyEnabled(ctx, in.KeyStore, in.Key, false)
		},
	})
	RotateKey = define(Operation[Rotation, *appliance.ExternalKey]{
		Route: Route{ID: "rotateKey", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/rotate", Capability: identity.ManageKeys, Urgency: Ordinary,
			Words: "Rotate key", Summary: "Encrypt with a new version of a key from now on"},
		Subject: func(ctx context.Context, c *Caller, in Rotation) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in Rotation) error {
			return c.Domain.CheckRotation(ctx, in.KeyStore, in.Key, in.Material)
		},
		Run: func(ctx context.Context, c *Caller, in Rotation) (*appliance.ExternalKey, error) {
			return c.Domain.RotateKey(ctx, in.KeyStore, in.Key, in.Material)
		},
	})
	ScheduleKeyDeletion = define(Operation[Deletion, *appliance.ExternalKey]{
		Route: Route{ID: "scheduleKeyDeletion", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/delete", Capability: identity.ManageKeys, Effects: StopsService | Destroys, Urgency: Ordinary,
			Words: "Schedule key deletion", Summary: "Have a key destroyed after a waiting period; it is out of service from now on"},
		Subject: func(ctx context.Context, c *Caller, in Deletion) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in Deletion) error {
			return c.Domain.CheckDeletion(ctx, in.KeyStore, in.Key, in.Days)
		},
		Restricts: always[Deletion], // the key does nothing while it waits
		Run: func(ctx context.Context, c *Caller, in Deletion) (*appliance.ExternalKey, error) {
			return c.Domain.ScheduleDeletion(ctx, in.KeyStore, in.Key, in.Days)
		},
	})
	CancelKeyDeletion = define(Operation[KeyName, *appliance.ExternalKey]{
		Route: Route{ID: "cancelKeyDeletion", Method: http.MethodPost, Path: "/keystores/{keystore}/keys/{key}/cancel-deletion", Capability: identity.ManageKeys, Urgency: Ordinary,
			Words: "Cancel key deletion", Summary: "Take back a scheduled or suspended deletion; the key is disabled then"},
		Subject: keySubject,
		Run: func(ctx context.Context, c *Caller, in KeyName) (*appliance.ExternalKey, error) {
			return c.Domain.CancelDeletion(ctx, in.KeyStore, in.Key)
		},
	})
)
