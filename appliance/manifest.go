package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// Manifest authenticates the rows of one scope as a set, so that a row that was removed,
// added or put back is noticed as well as one that was edited. Each change of the rows
// writes the next manifest in the same transaction (docs/adr/0014-state.md).
type Manifest struct {
	// Scope is whose rows the set has: [ScopeInstallation], a key store's ID, or that and
	// a bucket of its keys.
	Scope string
	// Sequence rises by one with each change.
	Sequence uint64
	// Before is the digest of the scope's manifest before; empty for the first.
	Before []byte
	// Anchor names the anchor outside of the database, and Count is what that says once
	// the change is anchored. Both are empty without one, and but for the installation.
	Anchor string
	Count  uint64
	// Schema is the version of the schema whose columns were counted in.
	Schema int64
	At     time.Time
	// Seal is the MAC over all above and the sum of the set, under the state key.
	Seal []byte
}

// KeySet names the set that a key, its versions and the grants on it are in. The keys of a key
// store are in 256 sets, so that one row that does not match takes few other keys out of service.
func KeySet(keyStore, key string) string {
	var room [128]byte // so that nothing else is allocated for each of a million rows
	digest := sha256.Sum256(append(room[:0], key...))
	return keyStore + keySets[digest[0]]
}

// keySets are what follows the key store's ID in the name of a set of keys.
var keySets = func() (names [256]string) {
	for i := range names {
		names[i] = fmt.Sprintf("/%02x", i)
	}
	return names
}()

// ScopeInstallation is the scope of all that is not of one key store. Its set has the
// manifests of the other scopes, so that it authenticates the whole.
const ScopeInstallation = ""

// Body is what the seal is of, besides the sum.
func (m *Manifest) Body() []byte {
	b := Binding{Purpose: "manifest", Fields: []string{m.Scope, bindUint(m.Sequence), string(m.Before), m.Anchor, bindUint(m.Count), bindUint(uint64(m.Schema)), BindTime(m.At)}}
	return b.AAD()
}

// Link is what the manifest adds to the chain of digests: SHA-256 over body and seal.
func (m *Manifest) Link() []byte {
	d := sha256.Sum256(append(m.Body(), m.Seal...))
	return d[:]
}

// Digest names the manifest, and all before it.
func (m *Manifest) Digest() []byte { return ChainDigest(m.Before, m.Link()) }

// ChainDigest gives the digest of the manifest with that link, of the digest before it:
// SHA-256 over both. So the links after a manifest prove that it is in the past of
// another, whoever has kept them.
func ChainDigest(before, link []byte) []byte {
	d := sha256.Sum256(append(slices.Clip(before), link...))
	return d[:]
}

// Head names the state of all rows at one moment.
type Head struct {
	Sequence uint64    `json:"sequence" jsonschema:"The number of the last change of the state."`
	Digest   string    `json:"digest" jsonschema:"The SHA-256 of the state and all before it, in hexadecimal."` // of the installation's manifest, hexadecimal
	At       time.Time `json:"at" jsonschema:"When the change was made."`
	// Anchor is the anchor that the manifest names, and Count what it says of it.
	Anchor string `json:"anchor,omitempty" jsonschema:"The anchor that the state names."`
	Count  uint64 `json:"count,omitempty" jsonschema:"What the state says of its anchor's counter."`
}

// Head gives the head that the manifest of the installation is.
func (m *Manifest) Head() Head {
	return Head{Sequence: m.Sequence, Digest: hex.EncodeToString(m.Digest()), At: m.At, Anchor: m.Anchor, Count: m.Count}
}

// TagBytes is the length of a row's tag.
const TagBytes = 32

// Tag is the keyed tag of one row (HMAC-SHA256 under a key of the state key).
type Tag [TagBytes]byte

// Short gives the first 64 bits of the tag.
func (t *Tag) Short() uint64 { return binary.LittleEndian.Uint64(t[:8]) }

// Sum is the sum of the tags of a set's rows, modulo 2^256 (MSet-Add-Hash; Clarke et
// al., ASIACRYPT 2003). It must not be stored or sent: differences of sums give tags,
// and with many tags other sets of the same sum can be found. Only its MAC is.
type Sum [4]uint64

// Add counts a row in.
func (s *Sum) Add(t *Tag) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(t[8*i:]), carry)
	}
}

// Subtract takes a row out.
func (s *Sum) Subtract(t *Tag) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], binary.LittleEndian.Uint64(t[8*i:]), borrow)
	}
}

// Plus gives the sum of two sets.
func (s Sum) Plus(o Sum) Sum {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], o[i], carry)
	}
	return s
}

// Minus gives what a set has more than another.
func (s Sum) Minus(o Sum) Sum {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], o[i], borrow)
	}
	return s
}

// Bytes gives the sum as it is sealed.
func (s *Sum) Bytes() []byte {
	out := make([]byte, 0, TagBytes)
	for _, w := range s {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out
}

// ManifestKey authenticates rows and manifests. It is derived from the state key, so there
// is one only while the appliance is unlocked. Its methods may be called at once from
// several goroutines; after Wipe what they give is random, and matches nothing.
type ManifestKey interface {
	// Tag gives the tag of a row's encoding.
	Tag(row []byte) Tag
	// Seal gives the seal of a manifest with this sum.
	Seal(m *Manifest, sum *Sum) []byte
	// SealChange encrypts and authenticates what goes into a log of changes.
	SealChange(b Binding, body []byte) ([]byte, error)
	// OpenChange gives it back; fault.Tampered if it is not what was sealed with that binding.
	OpenChange(b Binding, sealed []byte) ([]byte, error)
	// Again gives the same key once more, with a life of its own.
	Again() (ManifestKey, error)
	Wipe()
}

// Anchor keeps a count outside of the database that only rises, such as a counter in the
// TPM. The state says what it will be before it is raised, so the state may be ahead of it
// by one, and never behind.
type Anchor interface {
	// Name is the anchor's, such as "tpm:" and the digest of the counter's name.
	Name() string
	// Count gives the count; fault.NotFound if it was never made.
	Count(ctx context.Context) (uint64, error)
	// Raise has it rise to the count, which is at most one above.
	Raise(ctx context.Context, to uint64) error
	// Make makes it, and gives its first count, which is above all that it ever had.
	Make(ctx context.Context) (uint64, error)
}

// StateRows has all rows as the sets that manifests authenticate.
type StateRows interface {
	// OpenState reads all rows, and holds them against their manifests. From then on
	// every change writes the next manifests, and every row that is read and decides is
	// held against the sets as they are in memory; one that does not match is marked
	// Unmatched. It replaces what OpenState did before. Errors: fault.StateSchema if the
	// schema has something that is not this version's; fault.StateUnsealed without a
	// manifest of the installation; fault.StateChanged if that does not match. After an
	// error the state is closed.
	OpenState(ctx context.Context, o StateOptions) (*StateReport, error)
	// CloseState ends that, as when the keys are wiped. While it is closed and there is a
	// manifest, what manifests cover cannot be changed: fault.Locked.
	CloseState()
	// CheckState reads all rows once more while the state is open, and holds them against
	// the sets in memory. fault.Locked if it is closed.
	CheckState(ctx context.Context) (*StateReport, error)
	// Damaged gives the scopes, but the installation's, whose rows are known not to match,
	// without reading them; none while the state is closed.
	Damaged() []string
	// Past says whether a head is that of the state that is open, or in its past.
	// fault.Locked if it is closed.
	Past(ctx context.Context, h Head) (bool, error)

	// CatchUp takes over what the log of changes has more, and announces it. Nothing
	// happens without a log, or while the state is closed. Errors: fault.DatabaseAway;
	// fault.FleetLog if the log has something that cannot be taken over; fault.FleetBranch if
	// it is of another past; fault.FleetBehind if the log has forgotten changes that are not
	// taken over: the state has to be opened once more.
	CatchUp(ctx context.Context) error
	// Position is how far the log of changes is taken over and announced; zero without one.
	Position() Position
	// Written gives the number of the last change of the log that is durable here, which may
	// not be announced yet: at least that of each method that has returned.
	Written() uint64
	// Passed says whether the state has been at that position. Of one that is further back
	// than positions are kept it says yes. fault.Locked if it is closed.
	Passed(ctx context.Context, p Position) (bool, error)
	// Origin gives the ID of the log, from the rows that the manifest counts ([SettingLog]).
	// No other log has it, also none of the same installation. fault.NotFound without one;
	// fault.StateChanged if the row does not match; fault.Locked.
	Origin(ctx context.Context) (string, error)
	// Schemas says in which schema the rows are.
	Schemas() Schemas
	// RaiseSchema seals all sets of a fleet in a later schema, as one change of the log.
	// Every node that serves must know it: one that does not stops. Nothing happens without
	// a log, or if the fleet's schema is that late already. fault.Locked while the state is
	// closed; fault.FleetNewer if this version does not know the schema; fault.StateChanged
	// if rows do not match; fault.FleetFenced, fault.DatabaseAway; fault.Changed if other
	// nodes were faster too often.
	RaiseSchema(ctx context.Context, to int64) error
	// KeepSnapshot writes all rows as they are into the log of changes, for nodes that
	// begin, and gives the number of the change that they are of. fault.Locked while the
	// state is closed, fault.DatabaseAway.
	KeepSnapshot(ctx context.Context) (uint64, error)
}

// Schemas says in which schema rows are. A number is that of the last migration.
type Schemas struct {
	// Used is the schema that the manifests are of, which all nodes of a fleet share; 0
	// while the state is closed. Known is this version's.
	Used, Known int64
}

// Has says whether columns and tables that came with a migration may be written:
// fault.FleetUpdating refuses that as long as the fleet uses an earlier schema.
func (s Schemas) Has(migration int64) bool { return s.Used >= migration }

// Past says whether a head is that of a state, or in its past: an ancestor of it, and not
// only a smaller number. The proof is the chain of digests. Of a head that is further back
// than the chain is kept it says no.
type Past func(Head) (bool, error)

// StateOptions are how [StateRows.OpenState] reads the rows.
type StateOptions struct {
	Key ManifestKey
	Now func() time.Time
	// Seal has all rows sealed as they are, whatever their manifests say: for the first
	// manifests, and when people accept. In the same transaction the installation's row
	// becomes Installed, if given, which was Was.
	Seal bool
	// Fresh, if given, is asked once all rows match whether the state is as new as its
	// anchors. Own is its head; zero if it has none. If it gives no error, the next manifest
	// is written in the same transaction, so that no copy with the count of the opening is
	// current any more once there is a change. It comes after own, unless Fresh gives the
	// heads that anchors know and that people accept, with Seal: then it comes after those.
	Fresh func(own Head, past Past) (known []Head, err error)
	// Told, if given, is told of each head that decides something, once it is durable and
	// anchored, and of others often enough that the next one can prove that it is in its
	// past. It must not wait.
	Told           func(Head)
	Installed, Was *Installation
	// AuditHead, if given, gives the head of the audit log, or nil while there is none to
	// keep. The transaction of each change that raises the anchor has it, so that it is
	// anchored without a change of its own. It is called while the transaction is open, and
	// must not use the store.
	AuditHead func() (*AuditHeadRow, error)
	// Anchoring may be nil.
	Anchoring Anchoring
	// Log, if given, is where each change goes before it is durable here, and where the
	// changes of the other nodes come from. The rows are brought to its newest change before
	// they count. Rows that do not match their manifest are loaded from it again.
	Log ChangeLog
	// Lost, if given, is called when a row of the installation's set was changed by
	// somebody else while the state is open.
	Lost func(error)
}

// Anchoring is what a store tells of its changes to whoever keeps an [Anchor].
type Anchoring interface {
	// Next gives the anchor's name, and the count that the next change is given.
	Next() (name string, count uint64)
	// Committed is told that a change with that count is durable. The change is answered
	// when it returns.
	Committed(count uint64)
}

// StateReport is what [StateRows.OpenState] has found.
type StateReport struct {
	Head Head
	// Rows is how many rows are in the sets.
	Rows int
	// Damaged are the scopes, but the installation's, whose rows do not match.
	Damaged []string
	// Migrated says that the manifests were of an earlier schema.
	Migrated bool
}
