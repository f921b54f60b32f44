package appliance

import (
	"context"
	"io"
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
	// Setting is the name of the setting that changed; of key stores and keys nothing did.
	Setting string
}

// MaxPage is the most entries that a [Page] has: a page of the admin API, and one entry more
// that says whether there is a next one.
const MaxPage = 1001

// Page selects a part of a list that is ordered by ID.
type Page struct {
	// After is the last ID of the page before; empty for the first page.
	After string
	// ByCreation orders by the time of creation, and by ID where that is the same; otherwise
	// it is by ID. AfterCreated is then the time of the last one of the page before. Down is
	// the other way round.
	ByCreation   bool
	AfterCreated time.Time
	Down         bool
	// Limit is the most entries wanted, 1 to [MaxPage].
	Limit int
	// Prefix, if not empty, is what the IDs begin with.
	Prefix string
	// State, if not empty, is that of the keys: a state, or [KeyBlocked] for those
	// blocked by themselves, in whatever state. Unblocked leaves those out.
	State     KeyState
	Unblocked bool
	// Custody, if not empty, and Usage, if not nil, are those of the keys.
	Custody Custody
	Usage   *Usage
}

// Store keeps the rows that all machines of a fleet share. It knows nothing of keys or
// seals: blobs are opaque to it. What is about one machine is not here (package
// appliance/machine/boot, Journal); users and approvals are in stores that their
// packages declare. Each part of the appliance takes the interfaces that it needs.
//
// Every method that changes something is atomic and durable: when it returns
// nil, the change survives a crash; when it returns an error, nothing changed.
// (Should a disk fail in the middle of a commit, the error says that only a
// restart will tell; the store then refuses every further change.)
// After a change is durable and before the method returns, the functions given
// to Subscribe are called with it. A store that several appliances share calls
// them for the changes of the others, too.
//
// Every change of a row that exists states the value that it expects, as "was": the
// seal, or the sealed blob, of the row that the caller has read and judged. If the
// stored one is another, another operation was faster: fault.Changed, and nothing changed.
// Read again, and try again where that is safe. What only counts up needs no such
// value, and says so.
//
// Errors are of type [*fault.Fault]: fault.NotFound, fault.Exists, fault.Changed and fault.Conflict where
// a method says so, fault.Timeout when ctx ended, fault.Internal otherwise. All methods
// may be called at once from several goroutines. The tests of every engine are in
// package appliance/storetest.
type Store interface {
	InstallationRows
	SettingRows
	KeyStoreRows
	KeyRows
	TokenObjectRows
	AccessRows
	FleetRows
	StateRows
	Snapshots

	// Subscribe has f called with each change. Call it before any change.
	Subscribe(f func(Change))
}

// ServingRows are what requests need: [Service] reads rows, and counts.
type ServingRows interface {
	Installation(ctx context.Context) (*Installation, error)
	KeyStores(ctx context.Context) ([]*KeyStore, error)
	Key(ctx context.Context, keyStore, id string) (*StoredKey, error)
	Credentials(ctx context.Context, keyStore string) ([]*Credential, error)
	KeyStoreGrants(ctx context.Context, keyStore string) ([]*Grant, error)
	HasKeysInToken(ctx context.Context, keyStore string) (bool, error)
	ReserveEncryptions(ctx context.Context, keyStore, keyID string, version uint32, n uint64) (uint64, error)
	RecordCredentialUse(ctx context.Context, lastUsed map[string]time.Time) error
}

// AdministeredRows are what [Administration] changes.
type AdministeredRows interface {
	InstallationRows
	KeyStoreRows
	KeyRows
	TokenObjectRows
	AccessRows
}

// InstallationRows has the one row of the installation.
type InstallationRows interface {
	// Installation gives the installation; fault.NotFound in an empty database.
	Installation(ctx context.Context) (*Installation, error)
	// CreateInstallation writes it; fault.Exists if there is one.
	CreateInstallation(ctx context.Context, in *Installation) error
	// UpgradeInstallation replaces its wrapped state key and its block with the
	// block's seal; fault.NotFound if there is none. fault.Changed if the stored state key
	// or the block's seal are not those of was.
	UpgradeInstallation(ctx context.Context, in, was *Installation) error
	// SetBlock replaces the installation's block and its seal, which was was;
	// fault.NotFound without an installation, fault.Changed.
	SetBlock(ctx context.Context, b Block, seal, was []byte) error
	// SetIncarnation replaces the installation's incarnation and its seal, which was was;
	// fault.NotFound without an installation, fault.Changed. It announces no change.
	SetIncarnation(ctx context.Context, incarnation string, seal, was []byte) error
	// NoteMasterKey notes, about this machine alone, that the HSM is about to make a
	// master key, unless there is an installation; CreateInstallation removes the note.
	// It announces no change.
	NoteMasterKey(ctx context.Context, at time.Time) error
	// MasterKeyNoted says whether there is the note.
	MasterKeyNoted(ctx context.Context) (bool, error)
}

// SettingRows has small values that were chosen.
type SettingRows interface {
	// Setting gives a setting with its seal; fault.NotFound.
	Setting(ctx context.Context, name string) (*SettingRow, error)
	// SetSetting writes one in the place of was; nil if there is to be none yet.
	// fault.Changed if value or seal are not those of was, fault.NotFound if there is none.
	SetSetting(ctx context.Context, row, was *SettingRow) error
}

// FleetRows has the nodes of the fleet and which of them leads. None of them announces a
// change.
type FleetRows interface {
	// Nodes gives all nodes, ordered by ID.
	Nodes(ctx context.Context) ([]NodeRow, error)
	// CreateNode adds one; fault.Exists.
	CreateNode(ctx context.Context, r *NodeRow) error
	// UpdateNode replaces one, whose seal was was; fault.NotFound, fault.Changed;
	// fault.Conflict if the last node would leave.
	UpdateNode(ctx context.Context, r *NodeRow, was []byte) error
	// DeleteNode removes one, whose seal was was; fault.NotFound, fault.Changed.
	DeleteNode(ctx context.Context, id string, was []byte) error
	// Leader gives the leader; fault.NotFound.
	Leader(ctx context.Context) (*LeaderRow, error)
	// SetLeader writes it in the place of was; nil if there is to be none yet.
	// fault.Changed if it is not as was, fault.NotFound if there is none.
	SetLeader(ctx context.Context, r, was *LeaderRow) error
}

// KeyStoreRows has key stores.
type KeyStoreRows interface {
	// KeyStores gives all key stores, ordered by name.
	KeyStores(ctx context.Context) ([]*KeyStore, error)
	// CreateKeyStore adds one; fault.Exists if its name or prefix is taken.
	CreateKeyStore(ctx context.Context, ks *KeyStore) error
	// UpdateKeyStore replaces a key store's row, whose seal was was, but for its name,
	// prefix and keys; fault.NotFound, fault.Changed.
	UpdateKeyStore(ctx context.Context, ks *KeyStore, was []byte) error
	// DeleteKeyStore removes a key store, whose seal was was, with its credentials and
	// grants; fault.NotFound, fault.Changed, fault.Conflict if it has keys.
	DeleteKeyStore(ctx context.Context, id string, was []byte) error
	// DiscardKeyStore does that with one that has so many keys, and removes them, and
	// the notes of token objects that were made for them; fault.Changed also if they are
	// more or fewer.
	DiscardKeyStore(ctx context.Context, id string, was []byte, keys int) error
}

// KeyRows has external keys and their versions.
type KeyRows interface {
	// Key gives a key with its versions (ascending) and the grants on it;
	// fault.NotFound if there is none.
	Key(ctx context.Context, keyStore, id string) (*StoredKey, error)
	// Keys gives a page of the key store's keys, ordered by ID, without
	// versions or grants.
	Keys(ctx context.Context, keyStore string, page Page) ([]*ExternalKey, error)
	// CountKeys counts the key store's keys; 0 if there is no key store.
	CountKeys(ctx context.Context, keyStore string) (int, error)
	// CreateKeys adds keys, each with its first version or its first two, all or none;
	// fault.Exists if an ID is taken, fault.NotFound if the key store is gone.
	CreateKeys(ctx context.Context, keys ...NewKey) error
	// UpdateKey replaces a key's row, whose seal was was; fault.NotFound,
	// fault.Changed.
	UpdateKey(ctx context.Context, k *ExternalKey, was []byte) error
	// AddKeyVersion adds a version and replaces the key's row, under the
	// conditions of UpdateKey; fault.Exists if there is a version of that number.
	AddKeyVersion(ctx context.Context, k *ExternalKey, v *KeyVersion, was []byte, tokenObject string) error
	// DeleteKey removes a key with its versions and grants, under the
	// conditions of UpdateKey, and notes the token objects for destruction.
	DeleteKey(ctx context.Context, keyStore, id string, was []byte, tokenObjects []*TokenObject) error
	// DiscardKey does that, and removes all notes of token objects that were made for the
	// key, so that none is destroyed.
	DiscardKey(ctx context.Context, keyStore, id string, was []byte) error
	// DiscardKeyVersion removes a version whose material is that of v, and the notes of
	// token objects that were made for it; fault.NotFound, fault.Changed.
	DiscardKeyVersion(ctx context.Context, v *KeyVersion) error
	// KeysDueForDeletion gives up to limit keys pending deletion whose time is
	// not after now.
	KeysDueForDeletion(ctx context.Context, now time.Time, limit int) ([]*ExternalKey, error)
	// ReserveEncryptions adds n to the version's count of encryptions and gives
	// the new count; fault.NotFound if there is no such version. It announces no
	// change.
	ReserveEncryptions(ctx context.Context, keyStore, keyID string, version uint32, n uint64) (uint64, error)
	// VersionsInToken gives the key versions of all key stores that may be in the
	// token: those with another custody than cached, and, since a custody that was
	// edited must not hide one, those whose material has another length than
	// [CachedMaterial]. It does not read the others.
	VersionsInToken(ctx context.Context) ([]*KeyVersion, error)
	// HasKeysInToken says whether VersionsInToken has any of the key store.
	HasKeysInToken(ctx context.Context, keyStore string) (bool, error)
}

// TokenObjectRows has the notes of key objects in the token that no key owns.
type TokenObjectRows interface {
	// NoteTokenObjects writes down the token's key objects that are about to be made, or to
	// be destroyed, all or none. A label is of one key version for good, so a note of that label says
	// the same, and is replaced. CreateKeys and AddKeyVersion strike out
	// the labels that they are given with the key. What is left after a crash is
	// to be destroyed. It announces no change.
	NoteTokenObjects(ctx context.Context, notes ...*TokenObject) error
	// StrikeTokenObject removes the note of that label, whose seal was was; it is no error
	// if there is none. fault.Changed. It announces no change.
	StrikeTokenObject(ctx context.Context, label string, was []byte) error
	// TokenObjects gives the notes not struck out, ordered by label.
	TokenObjects(ctx context.Context) ([]*TokenObject, error)
}

// AccessRows has who may use keys: credentials, and grants.
type AccessRows interface {
	// Credentials gives the key store's credentials, ordered by access key ID.
	Credentials(ctx context.Context, keyStore string) ([]*Credential, error)
	// CreateCredential adds one; fault.Exists if the access key ID is taken, in
	// whatever key store; fault.NotFound if its key store is gone.
	CreateCredential(ctx context.Context, c *Credential) error
	// UpdateCredential replaces state and sealed secret, which was was;
	// fault.NotFound, fault.Changed.
	UpdateCredential(ctx context.Context, c *Credential, was []byte) error
	// DeleteCredential removes one whose sealed secret was was; fault.NotFound,
	// fault.Changed.
	DeleteCredential(ctx context.Context, keyStore, accessKeyID string, was []byte) error
	// RecordCredentialUse stores when credentials were last used, by access key
	// ID. A time never moves back. It announces no change.
	RecordCredentialUse(ctx context.Context, lastUsed map[string]time.Time) error

	// Grants gives all grants of the key store, on it and on its keys, ordered
	// by ID.
	Grants(ctx context.Context, keyStore string) ([]*Grant, error)
	// KeyStoreGrants gives only the grants on the whole key store.
	KeyStoreGrants(ctx context.Context, keyStore string) ([]*Grant, error)
	// CreateGrants adds grants, all or none; fault.Exists if an ID is taken, fault.NotFound if
	// the key store or key of one is gone.
	CreateGrants(ctx context.Context, grants ...*Grant) error
	// DeleteGrant removes one whose seal was was; fault.NotFound, fault.Changed.
	DeleteGrant(ctx context.Context, keyStore, id string, was []byte) error
}

// Snapshots move all rows to another store, which may be of another engine.
type Snapshots interface {
	// Snapshot writes all that a fleet shares as a stream of rows (package
	// appliance/snapshot), as of one moment, while others change it. An error of w comes
	// back as it is.
	Snapshot(ctx context.Context, w io.Writer) error
	// Restore takes over the rows of such a stream, of this schema or an earlier one, in
	// place of what there is, all or nothing. It leaves out sessions, invitations, API
	// tokens, pending requests for approval, and noted token objects. fault.Conflict if
	// there are key stores, or if the schema is newer; fault.Invalid for a stream that is
	// malformed, cut off, or has more or other tables, columns and rows than the schema.
	Restore(ctx context.Context, r io.Reader) error
}

// Copy is a store of its own with the rows of a backup.
type Copy interface {
	Store
	// Close ends the use of the store.
	Close() error
}

// NewKey is a key to be created, with its first version, or its first two.
type NewKey struct {
	Key     *ExternalKey
	Version *KeyVersion
	// TokenObject is the label noted for it; empty with cached custody.
	TokenObject string
	// Second is its second version, if it is made with two, and SecondTokenObject the
	// label noted for that.
	Second            *KeyVersion
	SecondTokenObject string
}
