package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// NewExternalKey says which key CreateKey is to make.
type NewExternalKey struct {
	ID      string
	Usage   Usage
	Custody Custody
	// Material is the key to import, [KeyBytes] bytes; nil to generate one. It is
	// zeroized.
	Material []byte
	// Framing is for a key that another proxy has used.
	Framing Framing
}

// CreateKey makes an external key with its first version. Errors: fault.Invalid,
// fault.Exists, fault.NotFound for the key store.
func (a *Appliance) CreateKey(ctx context.Context, keyStore string, want NewExternalKey) (*StoredKey, error) {
	defer clear(want.Material)
	if !ValidExternalKeyID(want.ID) {
		return nil, fault.Errorf(fault.Invalid, "key ID %q: use 1 to 128 letters, digits, '-', '.' and '_'", want.ID)
	}
	if want.Custody != CustodyCached && want.Custody != CustodyHSM {
		return nil, fault.Errorf(fault.Invalid, "custody %q: use cached or hsm", string(want.Custody))
	}
	if err := want.Framing.validate(); err != nil {
		return nil, err
	}
	if want.Framing != FramingNone && want.Material == nil {
		return nil, fault.Errorf(fault.Invalid, "AAD framing %q: it is for keys that are imported; no other proxy has encrypted with a new one", string(want.Framing))
	}
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	if _, err := a.store.Key(ctx, e.store.ID, want.ID); err == nil {
		return nil, fault.Errorf(fault.Exists, "key store %q has a key %q already", keyStore, want.ID)
	} else if fault.CodeOf(err) != fault.NotFound {
		return nil, err
	}
	key := &ExternalKey{KeyStore: e.store.ID, ID: want.ID, Usage: want.Usage, Custody: want.Custody,
		State: KeyEnabled, CurrentVersion: 1, CreatedAt: a.stamp(), Framing: want.Framing}
	version, object, err := a.makeVersion(ctx, v.ring, key, 1, want.Material)
	if err != nil {
		return nil, err
	}
	if key.Seal, err = v.ring.Seal(key.Binding(), nil); err == nil {
		err = a.store.CreateKeys(ctx, NewKey{Key: key, Version: version, TokenObject: object.label()})
	}
	if err != nil {
		a.undoTokenObject(ctx, v.ring, object)
		return nil, err
	}
	return &StoredKey{ExternalKey: *key, Versions: []*KeyVersion{version}, Grants: []*Grant{}}, nil
}

// makeVersion makes the material of a version that is not stored yet. With HSM
// custody the token's object is noted before it is made, so that a crash leaves
// none behind; the note comes with the version.
func (a *Appliance) makeVersion(ctx context.Context, ring Keyring, key *ExternalKey, number uint32, material []byte) (_ *KeyVersion, object *TokenObject, err error) {
	v := &KeyVersion{KeyStore: key.KeyStore, KeyID: key.ID, Version: number, Custody: key.Custody,
		Origin: OriginGenerated, CreatedAt: a.stamp()}
	if key.Custody == CustodyHSM {
		if object, err = a.newTokenObject(ctx, ring, ring.NewTokenObject(), v); err == nil {
			err = a.store.NoteTokenObject(ctx, object)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if material != nil {
		v.Origin = OriginImported
		err = ring.Import(ctx, v, object.label(), material)
	} else {
		err = ring.Generate(ctx, v, object.label())
	}
	if err != nil {
		a.undoTokenObject(ctx, ring, object)
		return nil, nil, err
	}
	return v, object, nil
}

// Keys gives a page of the key store's keys, ordered by ID. Errors: fault.Invalid,
// fault.NotFound for the key store.
func (a *Appliance) Keys(ctx context.Context, keyStore string, page Page) ([]*ExternalKey, error) {
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	if page.Limit < 1 || page.Limit > 1000 {
		return nil, fault.Errorf(fault.Invalid, "limit %d: use 1 to 1000", page.Limit)
	}
	switch page.State {
	case "", KeyEnabled, KeyDisabled, KeyPendingDeletion, KeyDeletionSuspended, KeyBlocked:
	default:
		return nil, fault.Errorf(fault.Invalid, "state %.40q: use enabled, disabled, pending_deletion, deletion_suspended or blocked", string(page.State))
	}
	if page.Prefix != "" && !ValidExternalKeyID(page.Prefix) {
		return nil, fault.Errorf(fault.Invalid, "prefix %.150q: no key ID begins so", page.Prefix)
	}
	return a.store.Keys(ctx, e.store.ID, page)
}

// ShowKey gives a key with its versions and the grants on it. Errors:
// fault.NotFound, fault.Tampered.
func (a *Appliance) ShowKey(ctx context.Context, keyStore, id string) (*StoredKey, error) {
	v, e, err := a.keyStore(keyStore)
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
	return k, checkKey(v.ring, k, e.store.ID, id)
}

// changeKey reads a key, has it changed, seals it anew and writes it back.
func (a *Appliance) changeKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) (*ExternalKey, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	return a.replaceKey(ctx, keyStore, id, change)
}

// replaceKey does what changeKey says, without the lock: change is called again if
// another operation was faster.
func (a *Appliance) replaceKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) (*ExternalKey, error) {
	v, _, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	var key ExternalKey
	return &key, retry(func() error {
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
}

// tryKey gives the error that a change of a key would have, and changes nothing.
func (a *Appliance) tryKey(ctx context.Context, keyStore, id string, change func(*ExternalKey) error) error {
	k, err := a.ShowKey(ctx, keyStore, id)
	if err != nil {
		return err
	}
	key := k.ExternalKey
	return change(&key)
}

// SetKeyEnabled enables or disables a key. Errors: fault.NotFound; fault.Conflict
// if its deletion is pending or suspended.
func (a *Appliance) SetKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) (*ExternalKey, error) {
	return a.changeKey(ctx, keyStore, id, setEnabled(enabled))
}

// CheckKeyEnabled gives the error that SetKeyEnabled would, and changes nothing.
func (a *Appliance) CheckKeyEnabled(ctx context.Context, keyStore, id string, enabled bool) error {
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

// The waiting period before a key is destroyed, in days.
const (
	MinDeletionDays     = 7
	MaxDeletionDays     = 30
	DefaultDeletionDays = 30
)

// ScheduleDeletion has a key destroyed after the days, 7 to 30; until then it
// is out of service. What KMS encrypted under it is lost afterwards. A suspended
// deletion is scheduled again so. Errors: fault.Invalid, fault.NotFound; fault.Conflict if
// it is scheduled already.
func (a *Appliance) ScheduleDeletion(ctx context.Context, keyStore, id string, days int) (*ExternalKey, error) {
	return a.changeKey(ctx, keyStore, id, a.scheduleDeletion(days))
}

// CheckDeletion gives the error that ScheduleDeletion would, and changes nothing.
func (a *Appliance) CheckDeletion(ctx context.Context, keyStore, id string, days int) error {
	return a.tryKey(ctx, keyStore, id, a.scheduleDeletion(days))
}

func (a *Appliance) scheduleDeletion(days int) func(*ExternalKey) error {
	return func(k *ExternalKey) error {
		if days < MinDeletionDays || days > MaxDeletionDays {
			return fault.Errorf(fault.Invalid, "waiting period of %d days: use %d to %d", days, MinDeletionDays, MaxDeletionDays)
		}
		if k.State == KeyPendingDeletion {
			return fault.Errorf(fault.Conflict, "key %q is pending deletion already", k.ID)
		}
		k.State, k.DeletionAt = KeyPendingDeletion, a.stamp().AddDate(0, 0, days)
		return nil
	}
}

// CancelDeletion takes back a deletion that is scheduled, or suspended. The key is
// disabled afterwards, as a KMS key is. Errors: fault.NotFound; fault.Conflict if no
// deletion is scheduled.
func (a *Appliance) CancelDeletion(ctx context.Context, keyStore, id string) (*ExternalKey, error) {
	return a.changeKey(ctx, keyStore, id, func(k *ExternalKey) error {
		if k.State != KeyPendingDeletion && k.State != KeyDeletionSuspended {
			return fault.Errorf(fault.Conflict, "key %q is not pending deletion", id)
		}
		k.State, k.DeletionAt = KeyDisabled, time.Time{}
		return nil
	})
}

// RotateKey adds a new version, which encrypts from now on. With material, of
// [KeyBytes] bytes, the version is imported; the material is zeroized. All
// earlier versions still decrypt. Errors: fault.NotFound, fault.Invalid;
// fault.Conflict if the key's deletion is pending or suspended.
func (a *Appliance) RotateKey(ctx context.Context, keyStore, id string, material []byte) (*ExternalKey, error) {
	defer clear(material)
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	return a.rotate(ctx, v.ring, e.store.ID, id, 0, material)
}

// rotateExhausted rotates a key whose version has done all its encryptions. It
// does nothing if the version is not the current one any more. A request of KMS
// waits for it, so it does not wait for an administrator's operation.
func (a *Appliance) rotateExhausted(ctx context.Context, keyStore, id string, version uint32) (*liveKey, error) {
	if !a.admin.TryLock() {
		return nil, fault.Errorf(fault.Changed, "an administrator's operation is under way")
	}
	defer a.admin.Unlock()
	v, err := a.view()
	if err != nil {
		return nil, err
	}
	key, err := a.rotate(ctx, v.ring, keyStore, id, version, nil)
	if err != nil {
		return nil, err
	}
	a.log.Info("a key was rotated: its version had done its encryptions", "key_store_id", keyStore, "key_id", id, "version", key.CurrentVersion)
	return a.loadKey(ctx, v.ring, keyStore, id)
}

// rotate adds a version, unless only is not 0 and not the current version. The
// caller holds a.admin.
func (a *Appliance) rotate(ctx context.Context, ring Keyring, keyStore, id string, only uint32, material []byte) (*ExternalKey, error) {
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
		a.undoTokenObject(ctx, ring, object)
		return nil, err
	}
	return &key, nil
}

// DeleteDueKeys destroys the keys whose waiting period is over. What fails is
// logged and tried again at the next call.
func (a *Appliance) DeleteDueKeys(ctx context.Context) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.view()
	if err != nil {
		return
	}
	const batch = 100
	due, err := a.store.KeysDueForDeletion(ctx, a.now(), batch)
	if err != nil {
		a.log.Error("keys due for deletion cannot be read", "error", err)
		return
	}
	for _, k := range due {
		if err := a.deleteKey(ctx, v, k); err != nil {
			a.log.Error("a key is due for deletion and was not deleted", "key_store_id", k.KeyStore, "key_id", k.ID, "error", err)
			continue
		}
		a.log.Info("a key was deleted: its waiting period was over", "key_store_id", k.KeyStore, "key_id", k.ID)
	}
}

func (a *Appliance) deleteKey(ctx context.Context, v *view, due *ExternalKey) error {
	ring := v.ring
	k, err := a.store.Key(ctx, due.KeyStore, due.ID)
	if err != nil {
		return err
	}
	// A row edited by hand must not have a key destroyed.
	if err := checkKey(ring, k, due.KeyStore, due.ID); err != nil {
		return err
	}
	if k.State != KeyPendingDeletion || k.DeletionAt.IsZero() || k.DeletionAt.After(a.now()) {
		return nil
	}
	var objects []*TokenObject
	for _, version := range k.Versions {
		label, err := ring.TokenObject(version)
		if err != nil {
			return err
		}
		if label == "" {
			continue
		}
		object, err := a.newTokenObject(ctx, ring, label, version)
		if err != nil {
			return err
		}
		objects = append(objects, object)
	}
	name := k.KeyStore
	if e := v.byID[k.KeyStore]; e != nil {
		name = e.store.Name
	}
	if err := a.deleting(ctx, name, k.ID); err != nil {
		return err
	}
	if err := a.store.DeleteKey(ctx, k.KeyStore, k.ID, k.Seal, objects); err != nil {
		return err
	}
	a.destroyTokenObjects(ctx, ring, objects, nil)
	return nil
}
