package appliance

import (
	"context"
	"time"
)

// Change tells that a part of the stored state differs from before. What is
// kept in memory of that part is stale. The zero value of a field means all:
// Change{} is everything.
type Change struct {
	// KeyStore is the ID of the key store that changed.
	KeyStore string
	// KeyID is the external key that changed, in that key store; empty when
	// the change is to the key store itself, its credentials or its grants.
	KeyID string
}

// Page selects a part of a list that is ordered by ID.
type Page struct {
	// After is the last ID of the page before; empty for the first page.
	After string
	// Limit is the most entries wanted, 1 to 1000.
	Limit int
	// Prefix, if not empty, is what the IDs begin with.
	Prefix string
	// State, if not empty, is that of the keys: a state, or [KeyBlocked] for those
	// blocked by themselves, in whatever state.
	State KeyState
}

// Store keeps the rows of the domain. It knows nothing of keys or seals: blobs
// are opaque to it.
//
// Every method that changes something is atomic and durable: when it returns
// nil, the change survives a crash; when it returns an error, nothing changed.
// (Should a disk fail in the middle of a commit, the error says that only a
// restart will tell; the store then refuses every further change.)
// After a change is durable and before the method returns, the functions given
// to Subscribe are called with it. A store that several appliances share calls
// them for the changes of the others, too.
//
// Errors are of type [*fault.Fault]: fault.NotFound and fault.Exists where a method says
// so, fault.Timeout when ctx ended, fault.Internal otherwise. All methods may be
// called at once from several goroutines.
type Store interface {
	// Installation gives the installation; fault.NotFound in an empty database.
	Installation(ctx context.Context) (*Installation, error)
	// CreateInstallation writes it; fault.Exists if there is one.
	CreateInstallation(ctx context.Context, in *Installation) error
	// UpgradeInstallation replaces its wrapped state key and its block with the
	// block's seal; fault.NotFound if there is none.
	UpgradeInstallation(ctx context.Context, in *Installation) error
	// SetBlock replaces the installation's block and its seal; fault.NotFound
	// without an installation.
	SetBlock(ctx context.Context, b Block, seal []byte) error

	// KeyStores gives all key stores, ordered by name.
	KeyStores(ctx context.Context) ([]*KeyStore, error)
	// CreateKeyStore adds one; fault.Exists if its name or prefix is taken.
	CreateKeyStore(ctx context.Context, ks *KeyStore) error
	// UpdateKeyStore replaces a key store's row but for its name, prefix and keys;
	// fault.NotFound if there is none. It fails with fault.Changed if the stored seal
	// is no longer was: another operation changed the row at the same time.
	UpdateKeyStore(ctx context.Context, ks *KeyStore, was []byte) error
	// DeleteKeyStore removes a key store with its credentials and grants;
	// fault.NotFound if there is none, fault.Conflict if it has keys.
	DeleteKeyStore(ctx context.Context, id string) error

	// Key gives a key with its versions (ascending) and the grants on it;
	// fault.NotFound if there is none.
	Key(ctx context.Context, keyStore, id string) (*StoredKey, error)
	// Keys gives a page of the key store's keys, ordered by ID, without
	// versions or grants.
	Keys(ctx context.Context, keyStore string, page Page) ([]*ExternalKey, error)
	// CountKeys counts the key store's keys; 0 if there is no key store.
	CountKeys(ctx context.Context, keyStore string) (int, error)
	// CreateKeys adds keys, each with its first version, all or none;
	// fault.Exists if an ID is taken, fault.NotFound if the key store is gone.
	CreateKeys(ctx context.Context, keys ...NewKey) error
	// UpdateKey replaces a key's row; fault.NotFound if there is none. It fails
	// with fault.Changed if the stored seal is no longer was: another operation
	// changed the row at the same time.
	UpdateKey(ctx context.Context, k *ExternalKey, was []byte) error
	// AddKeyVersion adds a version and replaces the key's row, under the
	// conditions of UpdateKey.
	AddKeyVersion(ctx context.Context, k *ExternalKey, v *KeyVersion, was []byte, tokenObject string) error
	// DeleteKey removes a key with its versions and grants, under the
	// conditions of UpdateKey, and notes the token objects for destruction.
	DeleteKey(ctx context.Context, keyStore, id string, was []byte, tokenObjects []*TokenObject) error
	// KeysDueForDeletion gives up to limit keys pending deletion whose time is
	// not after now.
	KeysDueForDeletion(ctx context.Context, now time.Time, limit int) ([]*ExternalKey, error)
	// ReserveEncryptions adds n to the version's count of encryptions and gives
	// the new count; fault.NotFound if there is no such version. It announces no
	// change.
	ReserveEncryptions(ctx context.Context, keyStore, keyID string, version uint32, n uint64) (uint64, error)

	// NoteTokenObject writes down a token's key object that is about to be made;
	// it replaces a note of that label. CreateKeys and AddKeyVersion strike out
	// the labels that they are given with the key. What is left after a crash is
	// to be destroyed. It announces no change.
	NoteTokenObject(ctx context.Context, o *TokenObject) error
	// StrikeTokenObject removes the note of that label; it is no error if there is
	// none. It announces no change.
	StrikeTokenObject(ctx context.Context, label string) error
	// TokenObjects gives the notes not struck out, ordered by label.
	TokenObjects(ctx context.Context) ([]*TokenObject, error)
	// VersionsInToken gives the key versions of all key stores that may be in the
	// token: those with another custody than cached, and, since a custody that was
	// edited must not hide one, those whose material has another length than
	// [CachedMaterial]. It does not read the others.
	VersionsInToken(ctx context.Context) ([]*KeyVersion, error)

	// Credentials gives the key store's credentials, ordered by access key ID.
	Credentials(ctx context.Context, keyStore string) ([]*Credential, error)
	// CreateCredential adds one; fault.Exists if the access key ID is taken, in
	// whatever key store; fault.NotFound if its key store is gone.
	CreateCredential(ctx context.Context, c *Credential) error
	// UpdateCredential replaces state and sealed secret; fault.NotFound if there
	// is none.
	UpdateCredential(ctx context.Context, c *Credential) error
	// DeleteCredential removes one; fault.NotFound if there is none.
	DeleteCredential(ctx context.Context, keyStore, accessKeyID string) error
	// RecordCredentialUse stores when credentials were last used, by access key
	// ID. A time never moves back. It announces no change.
	RecordCredentialUse(ctx context.Context, lastUsed map[string]time.Time) error

	// Grants gives all grants of the key store, on it and on its keys, ordered
	// by ID.
	Grants(ctx context.Context, keyStore string) ([]*Grant, error)
	// KeyStoreGrants gives only the grants on the whole key store.
	KeyStoreGrants(ctx context.Context, keyStore string) ([]*Grant, error)
	// CreateGrant adds one; fault.NotFound if its key store or key is gone.
	CreateGrant(ctx context.Context, g *Grant) error
	// DeleteGrant removes one; fault.NotFound if there is none.
	DeleteGrant(ctx context.Context, keyStore, id string) error

	// Setting gives a setting's value and its seal; fault.NotFound.
	Setting(ctx context.Context, name string) (value string, seal []byte, err error)
	// SetSetting writes one. It announces no change.
	SetSetting(ctx context.Context, name, value string, seal []byte) error

	// RecordBootStep adds a step of a boot; fault.Exists if its number is taken. Old
	// ones are dropped when there are many. It announces no change.
	RecordBootStep(ctx context.Context, b BootStep) error
	// BootSteps gives up to limit steps, the newest first.
	BootSteps(ctx context.Context, limit int) ([]BootStep, error)
	// RaisePolicyVersion notes that the appliance has an appraisal policy of that
	// version, and gives the highest that it has had. It announces no change.
	RaisePolicyVersion(ctx context.Context, version uint64) (highest uint64, err error)

	// Snapshot writes all that is stored into a new file, as of one moment, while
	// others change it; fault.Exists if the file is there.
	Snapshot(ctx context.Context, path string) error
	// Replace takes over the rows of such a file, in place of what there is, all or
	// nothing; fault.Conflict if there are key stores. It leaves out those about this
	// machine, sessions, invitations, API tokens, pending requests for approval, and
	// noted token objects.
	Replace(ctx context.Context, path string) error

	// Subscribe has f called with each change. Call it before any change.
	Subscribe(f func(Change))
	// Close ends the use of the store.
	Close() error
}

// NewKey is a key to be created, with its first version.
type NewKey struct {
	Key     *ExternalKey
	Version *KeyVersion
	// TokenObject is the label noted for it; empty with cached custody.
	TokenObject string
}
