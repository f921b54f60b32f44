package appliance

import (
	"regexp"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// Usage says which operations a key may be used for.
type Usage struct {
	Encrypt bool `json:"encrypt"`
	Decrypt bool `json:"decrypt"`
}

// String gives "encrypt,decrypt", "encrypt", "decrypt" or "none".
func (u Usage) String() string {
	switch u {
	case Usage{Encrypt: true, Decrypt: true}:
		return "encrypt,decrypt"
	case Usage{Encrypt: true}:
		return "encrypt"
	case Usage{Decrypt: true}:
		return "decrypt"
	}
	return "none"
}

// ParseUsage reads what [Usage.String] writes, in any order.
func ParseUsage(s string) (Usage, error) {
	var u Usage
	if s == "none" {
		return u, nil
	}
	for _, word := range strings.Split(s, ",") {
		switch strings.TrimSpace(word) {
		case "encrypt":
			u.Encrypt = true
		case "decrypt":
			u.Decrypt = true
		default:
			return Usage{}, fault.Errorf(fault.Invalid, "usage %q: use encrypt, decrypt, both with a comma between, or none", s)
		}
	}
	return u, nil
}

// Custody says where the key is while it is used.
type Custody string

const (
	// CustodyCached keys rest wrapped and are used in the appliance's memory.
	CustodyCached Custody = "cached"
	// CustodyHSM keys never leave the token; each operation happens there.
	CustodyHSM Custody = "hsm"
)

// KeyState is the state of an external key.
type KeyState string

// The states of an external key.
const (
	KeyEnabled         KeyState = "enabled"
	KeyDisabled        KeyState = "disabled"
	KeyPendingDeletion KeyState = "pending_deletion"
	// KeyDeletionSuspended keys were pending deletion in a backup that was restored.
	// They are out of service as before, and never due: the deletion may have been
	// cancelled since, and the object in the HSM may be another appliance's as well.
	// Somebody schedules the deletion again, or cancels it.
	KeyDeletionSuspended KeyState = "deletion_suspended"
)

// mustStay refuses what a key that is going cannot have done to it.
func (k *ExternalKey) mustStay() error {
	switch k.State {
	case KeyPendingDeletion:
		return fault.Errorf(fault.Conflict, "key %q is pending deletion; cancel that first", k.ID)
	case KeyDeletionSuspended:
		return fault.Errorf(fault.Conflict, "the deletion of key %q was pending in the restored backup, and is suspended; cancel it first, or schedule it again", k.ID)
	}
	return nil
}

// KeyBlocked is no state of a key; a [Page] of keys that are blocked asks for it.
const KeyBlocked KeyState = "blocked"

// ExternalKey is what KMS calls by an externalKeyId. Its material is in its
// versions.
type ExternalKey struct {
	// KeyStore is the ID of its key store.
	KeyStore string `json:"-"`
	// ID is the externalKeyId: 1 to 128 letters, digits, '-', '.' and '_'.
	ID      string   `json:"id"`
	Usage   Usage    `json:"usage"`
	Custody Custody  `json:"custody"`
	State   KeyState `json:"state"`
	// CurrentVersion encrypts; all versions decrypt. The first is 1.
	CurrentVersion uint32    `json:"current_version"`
	CreatedAt      time.Time `json:"created_at"`
	// DeletionAt is when a key pending deletion is destroyed; zero in other states.
	DeletionAt time.Time `json:"deletion_at,omitzero"`

	// Framing lets the key decrypt what another proxy has encrypted with it.
	Framing Framing `json:"aad_framing,omitempty"`
	// Blocked says that it is out of service by itself, and why.
	Blocked Block `json:"blocked,omitzero"`

	// Seal authenticates the row under the key store's keyring key.
	Seal []byte `json:"-"`
}

// Binding names the key's row with all that decides what it may do.
func (k *ExternalKey) Binding() Binding {
	b := Binding{Purpose: "external-key", KeyStore: k.KeyStore, Fields: []string{
		k.ID, k.Usage.String(), string(k.Custody), string(k.State),
		bindUint(uint64(k.CurrentVersion)), BindTime(k.CreatedAt), BindTime(k.DeletionAt)}}
	if !k.Blocked.IsZero() || k.Framing != FramingNone { // rows of before there were any are bound without
		b.Purpose = "external-key/v2"
		b.Fields = append(b.Fields, k.Blocked.Reason, BindTime(k.Blocked.Since), string(k.Framing))
	}
	return b
}

// KeySpec is the one kind of key that the specification's version 1 knows.
const KeySpec = "AES_256"

// KeyBytes is the length of an external key's material in bytes.
const KeyBytes = 32

// CachedMaterial is the length of a version's sealed material with cached custody,
// in bytes: of the key, and of its seal. The label of a token's object is longer.
const CachedMaterial = KeyBytes + 29

// Origin says where a version's material came from.
type Origin string

// The origins of key material.
const (
	OriginGenerated Origin = "generated"
	OriginImported  Origin = "imported"
)

// KeyVersion is one AES-256 key of an external key.
type KeyVersion struct {
	KeyStore  string    `json:"-"`
	KeyID     string    `json:"-"`
	Version   uint32    `json:"version"`
	Custody   Custody   `json:"-"`
	Origin    Origin    `json:"origin"`
	CreatedAt time.Time `json:"created_at"`
	// Encryptions is an upper bound of how often this version has encrypted: the
	// blocks of encryptions reserved for it so far.
	Encryptions uint64 `json:"encryptions"`

	// Material is sealed under the keyring key: the 32 bytes of the key for
	// cached custody, the label of the token's key object for HSM custody.
	Material []byte `json:"-"`
}

// Binding names the version. Encryptions is left out: it changes while the key
// serves.
func (v *KeyVersion) Binding() Binding {
	return Binding{Purpose: "key-version", KeyStore: v.KeyStore, Fields: []string{
		v.KeyID, bindUint(uint64(v.Version)), KeySpec, string(v.Custody), string(v.Origin), BindTime(v.CreatedAt)}}
}

var externalKeyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// ValidExternalKeyID says whether s can name an external key (spec, API
// operations: 1 to 128 letters, digits, '-', '.' and '_').
func ValidExternalKeyID(s string) bool { return externalKeyID.MatchString(s) }
