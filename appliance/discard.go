package appliance

import (
	"context"
	"slices"

	"holdfast/appliance/fault"
)

// DiscardTarget names a damaged row: a key store, and of it a key, a version of a key, a
// credential, a grant, or none of these for the key store itself; or a setting.
type DiscardTarget struct {
	// KeyStore is the key store's name.
	KeyStore string
	// Key is a key's ID; Version, if not 0, means that version of it alone.
	Key     string
	Version uint32
	// Credential is an access key ID, Grant a grant's ID, Setting a setting's name.
	Credential, Grant, Setting string
	// Keys is how many keys are lost with a key store. It must be right, so that nobody
	// loses more than they know.
	Keys int
}

// Discarded is what was lost with a damaged row.
type Discarded struct {
	DamagedRow
	// Versions and Grants are those of a key. Keys is how many a key store had.
	Versions []uint32 `json:"versions,omitempty" jsonschema:"The versions of the key that was discarded."`
	Grants   []string `json:"grants,omitempty" jsonschema:"The IDs of the grants on the key that was discarded."`
	Keys     int      `json:"keys,omitempty" jsonschema:"How many keys the discarded key store had."`
	// TokenObjects are labels of key objects in the HSM that versions of a discarded key
	// name. They stay in the HSM; nothing destroys them but the HSM's own means.
	TokenObjects []string `json:"token_objects,omitempty" jsonschema:"The labels of key objects in the HSM that the discarded versions name. They stay in the HSM."`
}

// Discard removes a damaged row for good, with what cannot be without it. It never
// removes one that is good, and nothing in the HSM: a damaged row says nothing that
// could be relied on. Notes of the HSM's objects that were made for it go as well, so
// that none is destroyed later because no key seems to need it. A setting gets the value
// that it has when nobody has chosen one. Errors: fault.NotFound; fault.Conflict if the
// row is good, or more is lost than the target says; what the HSM gives if it cannot be
// asked.
func (a *Administration) Discard(ctx context.Context, t DiscardTarget) (*Discarded, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	lost, discard, err := a.damaged(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := discard(); err != nil {
		return nil, err
	}
	a.log.Warn("a damaged row was discarded", "row", lost.String(), "keys", lost.Keys, "versions", lost.Versions, "grants", lost.Grants, "left in the HSM", lost.TokenObjects)
	return lost, nil
}

// CheckDiscard gives the error that Discard would, and changes nothing.
func (a *Administration) CheckDiscard(ctx context.Context, t DiscardTarget) error {
	_, _, err := a.damaged(ctx, t)
	return err
}

// damaged finds the row, makes sure that it is damaged, and says what is lost with it.
func (a *Administration) damaged(ctx context.Context, t DiscardTarget) (*Discarded, func() error, error) {
	switch {
	case t.Setting != "":
		return a.damagedSetting(ctx, t)
	case t.Key == "" && t.Credential == "" && t.Grant == "":
		return a.damagedKeyStore(ctx, t)
	}
	v, err := a.service.view()
	if err != nil {
		return nil, nil, err
	}
	ks, err := a.goodKeyStore(ctx, v.ring, t.KeyStore)
	if err != nil {
		return nil, nil, err
	}
	lost := &Discarded{DamagedRow: DamagedRow{KeyStore: t.KeyStore}}
	switch {
	case t.Credential != "":
		all, err := a.store.Credentials(ctx, ks.ID)
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(all, func(c *Credential) bool { return c.AccessKeyID == t.Credential })
		if i < 0 {
			return nil, nil, noCredential(t.KeyStore, t.Credential)
		}
		c := all[i]
		lost.Kind, lost.ID = damagedKindCredential, c.AccessKeyID
		u, err := v.ring.UnlockCredential(c)
		if err == nil {
			u.Wipe()
		}
		return lost, func() error { return a.store.DeleteCredential(ctx, c.KeyStore, c.AccessKeyID, c.Secret) }, onlyDamaged(lost, err)
	case t.Grant != "":
		all, err := a.store.Grants(ctx, ks.ID)
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(all, func(g *Grant) bool { return g.ID == t.Grant })
		if i < 0 {
			return nil, nil, fault.Errorf(fault.NotFound, "key store %q has no grant %q", t.KeyStore, t.Grant)
		}
		g := all[i]
		lost.Kind, lost.ID = damagedKindGrant, g.ID
		return lost, func() error { return a.store.DeleteGrant(ctx, g.KeyStore, g.ID, g.Seal) }, onlyDamaged(lost, g.verify(v.ring))
	}
	k, err := a.store.Key(ctx, ks.ID, t.Key)
	if err != nil {
		return nil, nil, err
	}
	if t.Version != 0 {
		return a.damagedVersion(ctx, v.ring, k, t)
	}
	return a.damagedKey(ctx, v.ring, k, t)
}

// goodKeyStore gives a key store whose own row is good, though other rows of it may have
// put it out of service.
func (a *Administration) goodKeyStore(ctx context.Context, ring Keyring, name string) (*KeyStore, error) {
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(stores, func(ks *KeyStore) bool { return ks.Name == name })
	if i < 0 {
		return nil, fault.Errorf(fault.NotFound, "there is no key store %.200q", name)
	}
	if err := ring.Verify(stores[i].Binding(), stores[i].Seal); err != nil {
		return nil, DamagedRow{Kind: damagedKindStore, KeyStore: name}.fault(err)
	}
	return stores[i], nil
}

// onlyDamaged turns what the keyring said of a row around: that it does not open is
// what is wanted.
func onlyDamaged(lost *Discarded, err error) error {
	switch fault.CodeOf(err) {
	case fault.Tampered:
		return nil
	case "":
		return fault.Errorf(fault.Conflict, "%s is not damaged: it matches its seal, and is not discarded; delete it in the ordinary way", lost.DamagedRow)
	}
	return err
}

func (a *Administration) damagedKey(ctx context.Context, ring Keyring, k *StoredKey, t DiscardTarget) (*Discarded, func() error, error) {
	lost := &Discarded{DamagedRow: DamagedRow{Kind: damagedKindKey, KeyStore: t.KeyStore, ID: k.ID}}
	for _, v := range k.Versions {
		lost.Versions = append(lost.Versions, v.Version)
		if label, err := ring.TokenObject(v); err == nil && label != "" {
			lost.TokenObjects = append(lost.TokenObjects, label)
		}
	}
	for _, g := range k.Grants {
		lost.Grants = append(lost.Grants, g.ID)
	}
	return lost, func() error { return a.store.DiscardKey(ctx, k.KeyStore, k.ID, k.Seal) }, onlyDamaged(lost, checkKey(ring, k, k.KeyStore, t.Key))
}

func (a *Administration) damagedVersion(ctx context.Context, ring Keyring, k *StoredKey, t DiscardTarget) (*Discarded, func() error, error) {
	if err := checkKeySeal(ring, k, k.KeyStore, t.Key); err != nil {
		return nil, nil, damagedKey(t.KeyStore, t.Key, err)
	}
	v := k.version(t.Version)
	if v == nil {
		return nil, nil, fault.Errorf(fault.NotFound, "key %q has no version %d", t.Key, t.Version)
	}
	lost := &Discarded{DamagedRow: DamagedRow{Kind: damagedKindVersion, KeyStore: t.KeyStore, ID: k.ID, Version: v.Version}, Versions: []uint32{v.Version}}
	u, err := ring.Unlock(v)
	if err == nil {
		u.Wipe()
	}
	if err := onlyDamaged(lost, err); err != nil {
		return nil, nil, err
	}
	if v.Version == k.CurrentVersion {
		return nil, nil, fault.Errorf(fault.Conflict, "version %d is the current one of key %q, which would have none to encrypt with; rotate the key first: holdfast key rotate %s %s",
			v.Version, k.ID, argument(t.KeyStore), argument(k.ID))
	}
	return lost, func() error { return a.store.DiscardKeyVersion(ctx, v) }, nil
}

func (a *Administration) damagedKeyStore(ctx context.Context, t DiscardTarget) (*Discarded, func() error, error) {
	v, err := a.service.view()
	if err != nil {
		return nil, nil, err
	}
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(stores, func(ks *KeyStore) bool { return ks.Name == t.KeyStore })
	if i < 0 {
		return nil, nil, fault.Errorf(fault.NotFound, "there is no key store %.200q", t.KeyStore)
	}
	ks := stores[i]
	in, err := a.store.Installation(ctx)
	if err != nil {
		return nil, nil, err
	}
	ring := v.ring.Empty() // the one that serves keeps what it has
	defer ring.Lock()
	if _, err := openStateKey(ctx, ring, in); err != nil {
		return nil, nil, err
	}
	lost := &Discarded{DamagedRow: DamagedRow{Kind: damagedKindStore, KeyStore: ks.Name}}
	if err := onlyDamaged(lost, openKeyStore(ctx, ring, ks)); err != nil {
		return nil, nil, err
	}
	if lost.Keys, err = a.reallyCount(ctx, ks.ID); err != nil {
		return nil, nil, err
	}
	if lost.Keys != t.Keys {
		return nil, nil, fault.Errorf(fault.Conflict, "key store %.200q has %d keys, which are lost with it; say so: holdfast keystore discard %s --keys %d", ks.Name, lost.Keys, argument(ks.Name), lost.Keys)
	}
	return lost, func() error { return a.store.DiscardKeyStore(ctx, ks.ID, ks.Seal, lost.Keys) }, nil
}

// reallyCount counts the keys of a key store one by one: the stored count has no seal.
func (a *Administration) reallyCount(ctx context.Context, keyStore string) (n int, err error) {
	for page := (Page{Limit: 1000}); ; {
		keys, err := a.store.Keys(ctx, keyStore, page)
		if err != nil {
			return 0, err
		}
		n += len(keys)
		if len(keys) < page.Limit {
			return n, nil
		}
		page.After = keys[len(keys)-1].ID
	}
}

func (a *Administration) damagedSetting(ctx context.Context, t DiscardTarget) (*Discarded, func() error, error) {
	value, known := discardedSettings[t.Setting]
	if !known {
		return nil, nil, fault.Errorf(fault.NotFound, "there is no setting %.80q", t.Setting)
	}
	lost := &Discarded{DamagedRow: DamagedRow{Kind: damagedKindSetting, ID: t.Setting}}
	_, err := a.settings.Setting(ctx, t.Setting)
	return lost, func() error { return a.settings.SetSetting(ctx, t.Setting, value) }, onlyDamaged(lost, err)
}

// discardedSettings are the values of settings whose rows were discarded. What is done
// once counts as done, as it does while the row is damaged.
var discardedSettings = map[string]string{
	SettingFourEyes:  firstSettings[SettingFourEyes],
	SettingSetup:     SettingDone,
	SettingBootstrap: SettingDone,
}
