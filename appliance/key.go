package appliance

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// Usage says which operations a key may be used for.
type Usage struct {
	Encrypt bool `json:"encrypt" jsonschema:"Whether the key may encrypt." example:"true"`
	Decrypt bool `json:"decrypt" jsonschema:"Whether the key may decrypt." example:"true"`
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

// KeyBlocked is no state of a key; a [Page] of keys that are blocked asks for it.
const KeyBlocked KeyState = "blocked"

// ExternalKey is what KMS calls by an externalKeyId. Its material is in its
// versions.
type ExternalKey struct {
	// KeyStore is the ID of its key store.
	KeyStore string `json:"-"`
	// ID is the externalKeyId: 1 to 128 letters, digits, '-', '.' and '_'.
	ID      string   `json:"id" jsonschema:"The external key ID that KMS is given: 1 to 128 letters, digits, '-', '.' and '_'."`
	Usage   Usage    `json:"usage" jsonschema:"What the key may be used for."`
	Custody Custody  `json:"custody" jsonschema:"Where the key is while it serves: cached in the appliance's memory, or always in the HSM."`
	State   KeyState `json:"state" jsonschema:"The state of the key."`
	// CurrentVersion encrypts; all versions decrypt. The first is 1.
	CurrentVersion uint32    `json:"current_version" jsonschema:"The version that encrypts; all versions decrypt. The first is 1."`
	CreatedAt      time.Time `json:"created_at" jsonschema:"When the key was made or imported."`
	// DeletionAt is when a key pending deletion is destroyed; zero in other states.
	DeletionAt time.Time `json:"deletion_at,omitzero" jsonschema:"When a key pending deletion is destroyed; absent in other states."`
	// DeletionWaits says why a key that is due is not destroyed yet. It is not stored.
	DeletionWaits string `json:"deletion_waits,omitempty" jsonschema:"Why a key that is due is not destroyed yet."`

	// Framing lets the version that was imported with the key decrypt what another proxy
	// has encrypted.
	Framing Framing `json:"aad_framing,omitempty" jsonschema:"How another proxy framed the additional authenticated data of what it has encrypted with this key; absent for none."`
	// Reversible says that the key still encrypts with the version that the framing is
	// for, so that the proxy it came from can be gone back to. It follows from the rest of
	// the row and is not stored.
	Reversible bool `json:"reversible,omitempty" jsonschema:"Whether the key still encrypts with the imported material, so that the other proxy can decrypt."`
	// Blocked says that it is out of service by itself, and why.
	Blocked Block `json:"blocked,omitzero" jsonschema:"The block of the key itself; absent if it has none."`
	// Standing says whether it serves. It is not stored.
	Standing Standing `json:"standing" jsonschema:"Whether the key serves, and what decides that."`

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
		if k.Blocked.By != "" {
			b.Purpose = "external-key/v3"
			b.Fields = append(b.Fields, k.Blocked.By)
		}
	}
	return b
}

// tell sets what follows from the rest of the row.
func (k *ExternalKey) tell() {
	k.Reversible = k.Framing != FramingNone && k.CurrentVersion == importedVersion
}

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

// KeySpec is the one kind of key that the specification's version 1 knows.
const KeySpec = "AES_256"

// KeyBytes is the length of an external key's material in bytes.
const KeyBytes = 32

// ValidExternalKeyID says whether s can name an external key (spec, API
// operations: 1 to 128 letters, digits, '-', '.' and '_').
func ValidExternalKeyID(s string) bool {
	for i := range len(s) { // each request asks, and a regular expression takes ten times as long
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 128
}

// StoredKey is a key with what belongs to it.
type StoredKey struct {
	ExternalKey
	Versions []*KeyVersion `json:"versions" jsonschema:"The versions of the key, the first first."`
	Grants   []*Grant      `json:"grants" jsonschema:"The grants that are on this key alone."`
	// Unmatched says that key, versions and grants are not those that the state's
	// manifest has: something else than Holdfast has changed, removed, added or put one
	// back.
	Unmatched bool `json:"-"`
}

// version gives the version of that number, or nil.
func (k *StoredKey) version(n uint32) *KeyVersion { return versionOf(k.Versions, n) }

func versionOf(versions []*KeyVersion, n uint32) *KeyVersion {
	for _, v := range slices.Backward(versions) {
		if v.Version == n {
			return v
		}
	}
	return nil
}

// checkKey holds the rows of a key against its seal.
func checkKey(ring Keyring, k *StoredKey, keyStore, id string) error {
	if err := checkKeySeal(ring, k, keyStore, id); err != nil {
		return err
	}
	if k.Unmatched {
		return unmatched("the key, a version or a grant on it")
	}
	return nil
}

// checkKeySeal holds the row of the key alone against its seal.
func checkKeySeal(ring Keyring, k *StoredKey, keyStore, id string) error {
	if k.KeyStore != keyStore || k.ID != id {
		return fault.Errorf(fault.Tampered, "the store gave key %q for key %q", k.ID, id)
	}
	if err := ring.Verify(k.Binding(), k.Seal); err != nil {
		return err
	}
	if k.version(k.CurrentVersion) == nil {
		return fault.Errorf(fault.Tampered, "key %q lacks its current version %d", id, k.CurrentVersion)
	}
	return nil
}

// NewExternalKey says which key CreateKey is to make.
type NewExternalKey struct {
	ID      string
	Usage   Usage
	Custody Custody
	// Material is the key to import, [KeyBytes] bytes; nil to generate one. It is
	// zeroized.
	Material []byte
	// Framing is for a key that another proxy has used. Such a key gets a second version,
	// which encrypts: whatever Holdfast encrypts is authenticated as the specification
	// says.
	Framing Framing
	// Reversible leaves the second version out, so that the other proxy has the key under
	// which new ciphertexts are made. What Holdfast encrypts then may be opened with AAD
	// and metadata that were moved, as the other proxy's framing allows.
	Reversible bool
}

// validate says what is wrong with the key: fault.Invalid.
func (n *NewExternalKey) validate() error {
	if !ValidExternalKeyID(n.ID) {
		return fault.Errorf(fault.Invalid, "key ID %q: use 1 to 128 letters, digits, '-', '.' and '_'", n.ID)
	}
	if n.ID == "." || n.ID == ".." {
		return fault.Errorf(fault.Invalid, "key ID %q: in a URI it means a folder, and HTTP clients take it out of the path; use another one", n.ID)
	}
	if err := validMaterial(n.Material); err != nil {
		return err
	}
	if n.Custody != CustodyCached && n.Custody != CustodyHSM {
		return fault.Errorf(fault.Invalid, "custody %q: use cached or hsm", string(n.Custody))
	}
	if err := n.Framing.validate(); err != nil {
		return err
	}
	if n.Framing != FramingNone && n.Material == nil {
		return fault.Errorf(fault.Invalid, "AAD framing %q: it is for keys that are imported; no other proxy has encrypted with a new one", string(n.Framing))
	}
	if n.Reversible && n.Framing == FramingNone {
		return fault.Errorf(fault.Invalid, "reversible: it is for keys that are imported with an AAD framing; every other key can be used by the proxy it came from anyway")
	}
	return nil
}

// validMaterial refuses material that is no key. Nil is for a key that is to be generated.
func validMaterial(material []byte) error {
	if Unset(material) {
		return fault.Errorf(fault.Invalid, "key material: all its bits are %d, as memory has that nobody has written; import the key itself", material[0]&1)
	}
	return nil
}

// Unset says whether bytes are all zero, or all 0xff, as memory and storage have that
// nobody has written.
func Unset(b []byte) bool {
	return len(b) > 0 && (b[0] == 0 || b[0] == 0xff) && bytes.Count(b, b[:1]) == len(b)
}

// maxURI is the longest path of a request (spec, API operations: the total length of a URI
// must not exceed 256 characters).
const maxURI = 256

// validPath refuses a key that KMS could not call.
func validPath(ks *KeyStore, id string) error {
	const longest = "/metadata"
	if n := len(ks.URIPathPrefix) + len(XKSPath+"/keys/") + len(id) + len(longest); n > maxURI {
		return fault.Errorf(fault.Invalid, "key ID %q: with the URI path prefix of key store %q the path of a request has %d characters; the XKS specification allows %d, so use an ID that is %d shorter", id, ks.Name, n, maxURI, n-maxURI)
	}
	return nil
}

// CreateKey makes an external key with its first version; one that another proxy has used,
// with its second as well ([NewExternalKey]). Errors: fault.Invalid,
// fault.Exists, fault.NotFound for the key store.
func (a *Administration) CreateKey(ctx context.Context, keyStore string, want NewExternalKey) (*StoredKey, error) {
	made, err := a.CreateKeys(ctx, keyStore, []NewExternalKey{want})
	if err != nil {
		return nil, err
	}
	return made[0], nil
}

// CreateKeys does that with some, all or none, in one change of the state; with custody hsm, in
// one more that notes their objects. Hand in a few thousand at most: other changes wait meanwhile.
func (a *Administration) CreateKeys(ctx context.Context, keyStore string, want []NewExternalKey) ([]*StoredKey, error) {
	for _, w := range want {
		defer clear(w.Material)
	}
	for _, w := range want {
		if err := w.validate(); err != nil {
			return nil, err
		}
	}
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	keys := make([]*ExternalKey, len(want))
	for i, w := range want {
		if err := a.free(ctx, e, w.ID); err != nil {
			return nil, err
		}
		keys[i] = &ExternalKey{KeyStore: e.store.ID, ID: w.ID, Usage: w.Usage, Custody: w.Custody,
			State: KeyEnabled, CurrentVersion: 1, CreatedAt: a.stamp(), Framing: w.Framing}
	}
	versions, err := a.makeKeys(ctx, v.ring, keys, want)
	if err != nil {
		return nil, err
	}
	made := make([]*StoredKey, len(keys))
	for i, key := range keys {
		key.tell()
		if key.Reversible {
			a.log.Warn(reversibleWarning, "key_store", keyStore, "key_id", key.ID, "aad_framing", key.Framing)
		}
		a.service.standKeys(ctx, key)
		made[i] = &StoredKey{ExternalKey: *key, Versions: versions[i], Grants: []*Grant{}}
	}
	return made, nil
}

// CheckKey gives the error that CreateKey would, and changes nothing: neither the appliance nor
// the material.
func (a *Administration) CheckKey(ctx context.Context, keyStore string, want NewExternalKey) error {
	if err := want.validate(); err != nil {
		return err
	}
	if err := wholeMaterial(want.Material); err != nil {
		return err
	}
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return err
	}
	return a.free(ctx, e, want.ID)
}

// FindKeys gives those of the keys that there are, by their IDs, as they are stored. Errors:
// fault.NotFound for the key store, fault.Tampered for a key.
func (a *Administration) FindKeys(ctx context.Context, keyStore string, ids []string) (map[string]*ExternalKey, error) {
	v, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	found := map[string]*ExternalKey{}
	for _, id := range ids {
		k, err := a.store.Key(ctx, e.store.ID, id)
		switch {
		case fault.CodeOf(err) == fault.NotFound:
			continue
		case err != nil:
			return nil, err
		}
		if err := checkKey(v.ring, k, e.store.ID, id); err != nil {
			return nil, damagedKey(keyStore, id, err)
		}
		found[id] = &k.ExternalKey
	}
	return found, nil
}

// free says why a key store cannot have a new key of that ID: it has one, or KMS could not call it.
func (a *Administration) free(ctx context.Context, e *Endpoint, id string) error {
	if err := validPath(&e.store, id); err != nil {
		return err
	}
	_, err := a.store.Key(ctx, e.store.ID, id)
	switch {
	case err == nil:
		return fault.Errorf(fault.Exists, "key store %q has a key %q already", e.store.Name, id)
	case fault.CodeOf(err) != fault.NotFound:
		return err
	}
	return nil
}

// wholeMaterial refuses material of another length than a key's. Nil is for a key that is to be
// generated.
func wholeMaterial(material []byte) error {
	if n := len(material); material != nil && n != KeyBytes {
		return fault.Errorf(fault.Invalid, "key material has %d bytes; an AES-256 key has %d", n, KeyBytes)
	}
	return nil
}

// reversibleWarning is logged of a key that is [ExternalKey.Reversible].
const reversibleWarning = "a key that was imported encrypts with the version that the AAD framing of the other proxy is for: what it encrypts may be opened with AAD and metadata that were moved. Rotate the key when you do not go back to that proxy"

// makeKeys makes the versions of keys, and stores both. It sets the current versions.
func (a *Administration) makeKeys(ctx context.Context, ring Keyring, keys []*ExternalKey, want []NewExternalKey) (_ [][]*KeyVersion, err error) {
	var objects []*TokenObject
	defer func() {
		if err != nil {
			a.undoTokenObjects(ctx, ring, objects...)
		}
	}()
	made, versions := make([]NewKey, len(keys)), make([][]*KeyVersion, len(keys))
	for i, key := range keys {
		made[i].Key = key
		if made[i].Version, err = a.draftVersion(key, 1); err != nil {
			return nil, err
		}
		versions[i] = []*KeyVersion{made[i].Version}
		if want[i].Framing != FramingNone && !want[i].Reversible {
			key.CurrentVersion = 2
			if made[i].Second, err = a.draftVersion(key, 2); err != nil {
				return nil, err
			}
			versions[i] = append(versions[i], made[i].Second)
		}
	}
	noted, err := a.noteObjects(ctx, ring, slices.Concat(versions...))
	if err != nil {
		return nil, err
	}
	objects = noted
	next := objects
	for i, key := range keys {
		labels := make([]string, len(versions[i]))
		for j, v := range versions[i] {
			labels[j], next = next[0].label(), next[1:]
			material := want[i].Material
			if j > 0 {
				material = nil // the second is new
			}
			if err = fillVersion(ctx, ring, v, labels[j], material); err != nil {
				return nil, err
			}
		}
		if made[i].TokenObject = labels[0]; len(labels) > 1 {
			made[i].SecondTokenObject = labels[1]
		}
		if key.Seal, err = ring.Seal(key.Binding(), nil); err != nil {
			return nil, err
		}
	}
	err = a.store.CreateKeys(ctx, made...)
	return versions, err
}

// Keys gives a page of the key store's keys that stand so, or of all if standing is empty. Errors:
// fault.Invalid, fault.NotFound for the key store.
func (a *Administration) Keys(ctx context.Context, keyStore string, page Page, standing StandingState) ([]*ExternalKey, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	if page.Limit < 1 || page.Limit > MaxPage {
		return nil, fault.Errorf(fault.Invalid, "limit %d: use 1 to %d", page.Limit, MaxPage)
	}
	if standing != "" && !slices.Contains(StandingStates(), standing) {
		return nil, fault.Errorf(fault.Invalid, "standing %.40q: there is no such standing", string(standing))
	}
	if page.Prefix != "" && !ValidExternalKeyID(page.Prefix) {
		return nil, fault.Errorf(fault.Invalid, "prefix %.150q: no key ID begins so", page.Prefix)
	}
	if standing != "" {
		return a.standingKeys(ctx, e.store.ID, page, standing)
	}
	keys, err := a.store.Keys(ctx, e.store.ID, page)
	for _, k := range keys {
		a.complete(k)
	}
	a.service.standKeys(ctx, keys...)
	return keys, err
}

// standingKeys gives a page of the keys that stand so.
func (a *Administration) standingKeys(ctx context.Context, keyStore string, page Page, standing StandingState) (list []*ExternalKey, err error) {
	st := a.service.standings()
	look := st.narrow(keyStore, page, standing)
	for look != nil && len(list) < page.Limit {
		keys, err := a.store.Keys(ctx, keyStore, look.Page)
		if err != nil {
			return nil, err
		}
		all := len(keys) < look.Limit
		if !all {
			last := keys[len(keys)-1]
			look.After, look.AfterCreated = last.ID, last.CreatedAt
		}
		for _, k := range keys {
			if !look.has(k) {
				continue
			}
			a.complete(k)
			if st.keys(ctx, k); k.Standing.State == standing && len(list) < page.Limit {
				list = append(list, k)
			}
		}
		if all {
			break
		}
	}
	return list, nil
}

// complete sets what of a key is not stored, but for its standing.
func (a *Administration) complete(k *ExternalKey) {
	k.tell()
	k.DeletionWaits = a.time.deletionWaits(k)
}

// ShowKey gives a key with its versions and the grants on it. Errors:
// fault.NotFound, fault.Tampered.
func (a *Administration) ShowKey(ctx context.Context, keyStore, id string) (*StoredKey, error) {
	v, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	k, err := a.store.Key(ctx, e.store.ID, id)
	if err != nil {
		return nil, err
	}
	if k.Grants == nil {
		k.Grants = []*Grant{} // in JSON a list, though it be empty
	}
	if err := checkKey(v.ring, k, e.store.ID, id); err != nil {
		return nil, damagedKey(keyStore, id, err)
	}
	a.complete(&k.ExternalKey)
	a.service.standKeys(ctx, &k.ExternalKey)
	return k, nil
}

// changeKey reads a key, has it changed, seals it anew and writes it back.
func (a *Administration) changeKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) (*ExternalKey, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	return a.replaceKey(ctx, keyStore, id, change)
}

// replaceKey does what changeKey says, without the lock: change is called again if
// another operation was faster.
func (a *Administration) replaceKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) (*ExternalKey, error) {
	v, _, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	var key ExternalKey
	err = retry(func() error {
		k, err := a.ShowKey(ctx, keyStore, id)
		if err != nil {
			return err
		}
		key = k.ExternalKey
		if err := change(&key); err != nil {
			return err
		}
		if key.Seal, err = v.ring.Seal(key.Binding(), nil); err != nil {
			return err
		}
		return a.store.UpdateKey(ctx, &key, k.Seal)
	})
	a.service.standKeys(ctx, &key)
	return &key, err
}

// tryKey gives the error that a change of a key would have, and changes nothing.
func (a *Administration) tryKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) error {
	k, err := a.ShowKey(ctx, keyStore, id)
	if err != nil {
		return err
	}
	key := k.ExternalKey
	return change(&key)
}

// SetKeyEnabled enables or disables a key. Errors: fault.NotFound; fault.Conflict
// if its deletion is pending or suspended.
func (a *Administration) SetKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) (*ExternalKey, error) {
	if !enabled { // what takes a key out of service waits for no other operation: one may wait for the HSM
		return a.replaceKey(ctx, keyStore, id, setEnabled(enabled))
	}
	return a.changeKey(ctx, keyStore, id, setEnabled(enabled))
}

// CheckKeyEnabled gives the error that SetKeyEnabled would, and changes nothing.
func (a *Administration) CheckKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) error {
	return a.tryKey(ctx, keyStore, id, setEnabled(enabled))
}

func setEnabled(enabled bool) func(*ExternalKey) error {
	return func(k *ExternalKey) error {
		if err := k.mustStay(); err != nil {
			return err
		}
		k.State = KeyDisabled
		if enabled {
			k.State = KeyEnabled
		}
		return nil
	}
}
