package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Discards are the operations of the domain on rows that do not match their seals.
type Discards interface {
	Discard(ctx context.Context, t appliance.DiscardTarget) (*appliance.Discarded, error)
	CheckDiscard(ctx context.Context, t appliance.DiscardTarget) error
}

// DiscardedKey says what of a damaged key to discard.
type DiscardedKey struct {
	KeyName
	// Version is that version alone; 0 is the whole key.
	Version uint32 `json:"version" jsonschema:"The version to discard; 0 for the whole key." example:"0"`
}

// DiscardedKeyStore says what is lost with a damaged key store.
type DiscardedKeyStore struct {
	KeyStoreName
	// Keys is how many keys it has.
	Keys int `json:"keys" jsonschema:"How many keys the damaged key store has, as a confirmation." example:"0" least:"0"`
}

// SettingName names a setting.
type SettingName struct {
	Setting string `path:"setting" json:"-" about:"The name of the setting."`
}

// The operations that remove rows which do not match their seals. What they answer,
// which is recorded, names all that is lost.
var (
	DiscardKeyStore = discards("discardKeyStore", "/keystores/{keystore}/discard", "Discard key store", "Remove a damaged key store for good, with its keys, credentials and grants", func(in DiscardedKeyStore) appliance.DiscardTarget {
		return appliance.DiscardTarget{KeyStore: in.KeyStore, Keys: in.Keys}
	})
	DiscardKey = discards("discardKey", "/keystores/{keystore}/keys/{key}/discard", "Discard key", "Remove a damaged key, or a damaged version of one, for good", func(in DiscardedKey) appliance.DiscardTarget {
		return appliance.DiscardTarget{KeyStore: in.KeyStore, Key: in.Key, Version: in.Version}
	})
	DiscardCredential = discards("discardCredential", "/keystores/{keystore}/credentials/{credential}/discard", "Discard credential", "Remove a damaged credential", func(in CredentialName) appliance.DiscardTarget {
		return appliance.DiscardTarget{KeyStore: in.KeyStore, Credential: in.Credential}
	})
	DiscardGrant = discards("discardGrant", "/keystores/{keystore}/grants/{grant}/discard", "Discard grant", "Remove a damaged grant", func(in GrantName) appliance.DiscardTarget {
		return appliance.DiscardTarget{KeyStore: in.KeyStore, Grant: in.Grant}
	})
	DiscardSetting = discards("discardSetting", "/settings/{setting}/discard", "Discard setting", "Replace a damaged setting by the value that it has when nobody has chosen one", func(in SettingName) appliance.DiscardTarget {
		return appliance.DiscardTarget{Setting: in.Setting}
	})
)

func discards[In any](id, path, words, summary string, target func(In) appliance.DiscardTarget) *Operation[In, *appliance.Discarded] {
	return define(Operation[In, *appliance.Discarded]{
		Route:   Route{ID: id, Method: http.MethodPost, Path: path, Capability: identity.ManageKeys, Effects: Destroys, Revision: "-", Urgency: Ordinary, Words: words, Summary: summary},
		Subject: apart[In],
		Check:   func(ctx context.Context, c *Caller, in In) error { return c.Domain.CheckDiscard(ctx, target(in)) },
		Run: func(ctx context.Context, c *Caller, in In) (*appliance.Discarded, error) {
			return c.Domain.Discard(ctx, target(in))
		},
	})
}
