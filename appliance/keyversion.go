package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// CachedMaterial is the length of a version's sealed material with cached custody,
// in bytes: of the key, and of its seal. The label of a token's object has another length
// ([MaxTokenLabel], and labels of earlier releases are longer).
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
	Version   uint32    `json:"version" jsonschema:"The number of the version, from 1."`
	Custody   Custody   `json:"-"`
	Origin    Origin    `json:"origin" jsonschema:"Whether the version was generated or imported."`
	CreatedAt time.Time `json:"created_at" jsonschema:"When the version was made or imported."`
	// Encryptions is an upper bound of how often this version has encrypted: the
	// blocks of encryptions reserved for it so far.
	Encryptions uint64 `json:"encryptions" jsonschema:"An upper bound of how often this version has encrypted."`

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

// makeVersion makes the material of a version that is not stored yet. With HSM
// custody the token's object is noted before it is made, so that a crash leaves
// none behind; the note comes with the version.
func (a *Administration) makeVersion(ctx context.Context, ring Keyring, key *ExternalKey, number uint32, material []byte) (*KeyVersion, *TokenObject, error) {
	v, err := a.draftVersion(key, number)
	if err != nil {
		return nil, nil, err
	}
	objects, err := a.noteObjects(ctx, ring, []*KeyVersion{v})
	if err != nil {
		return nil, nil, err
	}
	if err := fillVersion(ctx, ring, v, objects[0].label(), material); err != nil {
		a.undoTokenObjects(ctx, ring, objects...)
		return nil, nil, err
	}
	return v, objects[0], nil
}

// draftVersion gives a version of a key that has no material yet.
func (a *Administration) draftVersion(key *ExternalKey, number uint32) (*KeyVersion, error) {
	if key.Custody == CustodyHSM && a.ownership.State().Ownership == OwnershipDrill {
		return nil, fault.Errorf(fault.Conflict, "this appliance was restored as a drill, and makes no key in the HSM; use custody cached, or make it the owner with holdfast installation takeover --reason TEXT")
	}
	return &KeyVersion{KeyStore: key.KeyStore, KeyID: key.ID, Version: number, Custody: key.Custody,
		Origin: OriginGenerated, CreatedAt: a.stamp()}, nil
}

// noteObjects notes the objects that the token is to have for versions, in one change of the
// state. It gives one for each version: nil for one without.
func (a *Administration) noteObjects(ctx context.Context, ring Keyring, versions []*KeyVersion) (_ []*TokenObject, err error) {
	objects := make([]*TokenObject, len(versions))
	var noted []*TokenObject
	for i, v := range versions {
		if v.Custody != CustodyHSM {
			continue
		}
		if objects[i], err = a.newTokenObject(ctx, ring, ring.NewTokenObject(), v); err != nil {
			return nil, err
		}
		noted = append(noted, objects[i])
	}
	if len(noted) == 0 {
		return objects, nil
	}
	return objects, a.store.NoteTokenObjects(ctx, noted...)
}

// fillVersion makes the material of a version, or imports it, into the token's object of that
// label if it has one.
func fillVersion(ctx context.Context, ring Keyring, v *KeyVersion, label string, material []byte) error {
	if material == nil {
		return ring.Generate(ctx, v, label)
	}
	v.Origin = OriginImported
	return ring.Import(ctx, v, label, material)
}

// RotateKey adds a new version, which encrypts from now on. With material, of
// [KeyBytes] bytes, the version is imported; the material is zeroized. All
// earlier versions still decrypt. Errors: fault.NotFound, fault.Invalid;
// fault.Conflict if the key's deletion is pending or suspended.
func (a *Administration) RotateKey(ctx context.Context, keyStore, id string, material []byte) (*ExternalKey, error) {
	defer clear(material)
	if err := validMaterial(material); err != nil {
		return nil, err
	}
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	k, err := a.rotate(ctx, v.ring, e.store.ID, id, 0, material)
	if err != nil {
		return nil, damagedKey(keyStore, id, err)
	}
	a.service.standKeys(ctx, k)
	return k, nil
}

// CheckRotation gives the error that RotateKey would, and changes nothing: neither the appliance
// nor the material.
func (a *Administration) CheckRotation(ctx context.Context, keyStore, id string, material []byte) error {
	if err := validMaterial(material); err != nil {
		return err
	}
	if err := wholeMaterial(material); err != nil {
		return err
	}
	return a.tryKey(ctx, keyStore, id, (*ExternalKey).mustStay)
}

// rotate adds a version, unless only is not 0 and not the current version. The
// caller holds a.admin.
func (a *Administration) rotate(ctx context.Context, ring Keyring, keyStore, id string, only uint32, material []byte) (*ExternalKey, error) {
	k, err := a.store.Key(ctx, keyStore, id)
	if err != nil {
		return nil, err
	}
	if err := checkKey(ring, k, keyStore, id); err != nil {
		return nil, err
	}
	key, was := k.ExternalKey, k.Seal
	if only != 0 && key.CurrentVersion != only {
		return &key, nil
	}
	if err := key.mustStay(); err != nil {
		return nil, err
	}
	key.CurrentVersion++
	version, object, err := a.makeVersion(ctx, ring, &key, key.CurrentVersion, material)
	if err != nil {
		return nil, err
	}
	if key.Seal, err = ring.Seal(key.Binding(), nil); err == nil {
		err = a.store.AddKeyVersion(ctx, &key, version, was, object.label())
	}
	if err != nil {
		a.undoTokenObjects(ctx, ring, object)
		return nil, err
	}
	key.tell()
	return &key, nil
}
