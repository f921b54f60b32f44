package web

import (
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// VersionDiscard says what of a damaged key to discard.
type VersionDiscard struct {
	// Version is that version alone; 0 is the whole key.
	Version uint32 `json:"version"`
}

// KeyStoreDiscard says what is lost with a damaged key store.
type KeyStoreDiscard struct {
	// Keys is how many keys it has.
	Keys int `json:"keys"`
}

// discardRoutes remove rows that do not match their seals. What they answer, which is
// recorded, names all that is lost.
func discardRoutes() []Route {
	const store = "/keystores/{keystore}"
	return []Route{
		discards(store+"/discard", "discardKeyStore", "Remove a damaged key store for good, with its keys, credentials and grants", func(c *call, in KeyStoreDiscard) appliance.DiscardTarget {
			return appliance.DiscardTarget{KeyStore: c.keyStore(), Keys: in.Keys}
		}),
		discards(store+"/keys/{key}/discard", "discardKey", "Remove a damaged key, or a damaged version of one, for good", func(c *call, in VersionDiscard) appliance.DiscardTarget {
			return appliance.DiscardTarget{KeyStore: c.keyStore(), Key: c.key(), Version: in.Version}
		}),
		discards(store+"/credentials/{credential}/discard", "discardCredential", "Remove a damaged credential", func(c *call, _ nothing) appliance.DiscardTarget {
			return appliance.DiscardTarget{KeyStore: c.keyStore(), Credential: c.param("credential")}
		}),
		discards(store+"/grants/{grant}/discard", "discardGrant", "Remove a damaged grant", func(c *call, _ nothing) appliance.DiscardTarget {
			return appliance.DiscardTarget{KeyStore: c.keyStore(), Grant: c.param("grant")}
		}),
		discards("/settings/{setting}/discard", "discardSetting", "Replace a damaged setting by the value that it has when nobody has chosen one", func(c *call, _ nothing) appliance.DiscardTarget {
			return appliance.DiscardTarget{Setting: c.param("setting")}
		}),
	}
}

func discards[In any](path, id, summary string, target func(c *call, in In) appliance.DiscardTarget) Route {
	return Route{Method: http.MethodPost, Path: path, ID: id, Capability: identity.ManageKeys, Dangerous: true, Approvable: true, Summary: summary,
		handler: checked(does(func(c *call, in In) (*appliance.Discarded, error) {
			return c.api.Domain.Discard(c.ctx(), target(c, in))
		}),
			func(c *call, in In) error { return c.api.Domain.CheckDiscard(c.ctx(), target(c, in)) })}
}
