package appliance

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// The operations of administrators. They are few and slow compared with those
// of KMS, so one lock serializes them; each takes effect on requests that start
// after it returns.

// keyStore finds a key store by name.
func (a *Appliance) keyStore(name string) (*view, *Endpoint, error) {
	v, err := a.view()
	if err != nil {
		return nil, nil, err
	}
	for _, e := range v.byID {
		if e.store.Name == name {
			if e.fault != nil {
				return nil, nil, e.fault
			}
			return v, e, nil
		}
	}
	return nil, nil, fault.Errorf(fault.NotFound, "there is no key store %q", name)
}

// CreateKeyStore makes a key store with a keyring key of its own. It reads
// Name, URIPathPrefix and RequestsPerSecond of want and gives the key store as
// it was stored. Errors: fault.Invalid, fault.Exists.
func (a *Appliance) CreateKeyStore(ctx context.Context, want KeyStore) (*KeyStore, error) {
	ks := &KeyStore{ID: newID(), Name: want.Name, URIPathPrefix: want.URIPathPrefix,
		RequestsPerSecond: want.RequestsPerSecond, CreatedAt: a.stamp()}
	if err := ks.validate(); err != nil {
		return nil, err
	}
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.view()
	if err != nil {
		return nil, err
	}
	if ks.WrappedKey, err = v.ring.NewKeyringKey(ctx, ks.ID); err != nil {
		return nil, err
	}
	if ks.Seal, err = v.ring.Seal(ks.Binding(), nil); err == nil {
		err = a.store.CreateKeyStore(ctx, ks)
	}
	if err != nil {
		v.ring.DropKeyringKey(ks.ID)
		return nil, err
	}
	return ks, nil
}

// KeyStores gives all key stores, ordered by name.
func (a *Appliance) KeyStores(ctx context.Context) ([]*KeyStore, error) {
	return a.store.KeyStores(ctx)
}

// KeyStoreDetail is a key store with what there is in it.
type KeyStoreDetail struct {
	KeyStore
	Keys        int           `json:"keys"`
	Credentials []*Credential `json:"credentials"`
	Grants      []*Grant      `json:"grants"`
}

// ShowKeyStore gives a key store by name. Errors: fault.NotFound.
func (a *Appliance) ShowKeyStore(ctx context.Context, name string) (*KeyStoreDetail, error) {
	_, e, err := a.keyStore(name)
	if err != nil {
		return nil, err
	}
	d := &KeyStoreDetail{KeyStore: e.store, Credentials: []*Credential{}, Grants: []*Grant{}}
	if d.Keys, err = a.store.CountKeys(ctx, e.store.ID); err != nil {
		return nil, err
	}
	credentials, err := a.Credentials(ctx, name)
	if err != nil {
		return nil, err
	}
	grants, err := a.store.KeyStoreGrants(ctx, e.store.ID)
	if err != nil {
		return nil, err
	}
	d.Credentials, d.Grants = append(d.Credentials, credentials...), append(d.Grants, grants...)
	return d, nil
}

// SetQuota sets the most authenticated requests a second; 0 for no limit. Errors:
// fault.Invalid, fault.NotFound.
func (a *Appliance) SetQuota(ctx context.Context, name string, requestsPerSecond int) (*KeyStore, error) {
	var changed KeyStore
	err := a.changeKeyStore(ctx, name, func(ks *KeyStore) error {
		ks.RequestsPerSecond = requestsPerSecond
		changed = *ks
		return ks.validate()
	})
	if err != nil {
		return nil, err
	}
	return &changed, nil
}

// DeleteKeyStore removes a key store with its credentials and grants. Errors:
// fault.NotFound; fault.Conflict if it has keys.
func (a *Appliance) DeleteKeyStore(ctx context.Context, name string) error {
	a.admin.Lock()
	defer a.admin.Unlock()
	e, err := a.deletableKeyStore(ctx, name)
	if err != nil {
		return err
	}
	return a.store.DeleteKeyStore(ctx, e.store.ID)
}

// CheckDeleteKeyStore gives the error that DeleteKeyStore would, and changes
// nothing. As with all checks, another change may come before the operation.
func (a *Appliance) CheckDeleteKeyStore(ctx context.Context, name string) error {
	_, err := a.deletableKeyStore(ctx, name)
	return err
}

func (a *Appliance) deletableKeyStore(ctx context.Context, name string) (*Endpoint, error) {
	_, e, err := a.keyStore(name)
	if err != nil {
		return nil, err
	}
	n, err := a.store.CountKeys(ctx, e.store.ID)
	if err == nil && n > 0 {
		err = fault.Errorf(fault.Conflict, "key store %q has keys: %d; delete them first", name, n)
	}
	return e, err
}

// NewCredential says which credential CreateCredential is to make.
type NewCredential struct {
	// AccessKeyID and SecretAccessKey are those to import; both are made if
	// both are empty.
	AccessKeyID, SecretAccessKey string
}

// The Base32 alphabet is the one of access key IDs (spec, Appendix A).
const accessKeyAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// newCredential makes an access key ID of 24 characters and a secret of 256
// random bits in Base64, which has 44.
func newCredential() NewCredential {
	raw := make([]byte, 24+32)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	defer clear(raw)
	id := raw[:24]
	for i, b := range id {
		id[i] = accessKeyAlphabet[b%32]
	}
	return NewCredential{AccessKeyID: string(id), SecretAccessKey: base64.StdEncoding.EncodeToString(raw[24:])}
}

// CreateCredential makes or imports a credential of the key store, active at
// once, and gives it with its secret access key, which is never shown again.
// Errors: fault.Invalid if KMS would not take it, fault.Exists, fault.NotFound.
func (a *Appliance) CreateCredential(ctx context.Context, keyStore string, want NewCredential) (*Credential, string, error) {
	if want == (NewCredential{}) {
		want = newCredential()
	}
	if !ValidAccessKeyID(want.AccessKeyID) {
		return nil, "", fault.Errorf(fault.Invalid, "access key ID: KMS takes 20 to 30 characters of A-Z and 2-7")
	}
	if !ValidSecretAccessKey(want.SecretAccessKey) {
		return nil, "", fault.Errorf(fault.Invalid, "secret access key: KMS takes 43 to 64 characters of A-Z, a-z, 0-9, '+', '/' and '='")
	}
	c, err := a.addCredential(ctx, keyStore, want)
	return c, want.SecretAccessKey, err
}

func (a *Appliance) addCredential(ctx context.Context, keyStore string, want NewCredential) (*Credential, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	c := &Credential{AccessKeyID: want.AccessKeyID, KeyStore: e.store.ID, Active: true, CreatedAt: a.stamp()}
	if c.Secret, err = v.ring.Seal(c.Binding(), []byte(want.SecretAccessKey)); err != nil {
		return nil, err
	}
	if err := a.store.CreateCredential(ctx, c); err != nil {
		return nil, err
	}
	return c, nil
}

// Credentials gives the key store's credentials, ordered by access key ID,
// with their last use up to now.
func (a *Appliance) Credentials(ctx context.Context, keyStore string) ([]*Credential, error) {
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	credentials, err := a.store.Credentials(ctx, e.store.ID)
	if err != nil {
		return nil, err
	}
	for _, c := range credentials {
		if t := a.used.at(c.AccessKeyID); t.After(c.LastUsedAt) {
			c.LastUsedAt = t
		}
	}
	return credentials, nil
}

// SetCredentialActive activates or deactivates a credential. Errors:
// fault.NotFound.
func (a *Appliance) SetCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) (*Credential, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	credentials, err := a.store.Credentials(ctx, e.store.ID)
	if err != nil {
		return nil, err
	}
	for _, c := range credentials {
		if c.AccessKeyID != accessKeyID {
			continue
		}
		if c.Active == active {
			return c, nil
		}
		from := c.Binding()
		c.Active = active
		if c.Secret, err = v.ring.Reseal(from, c.Binding(), c.Secret); err != nil {
			return nil, err
		}
		return c, a.store.UpdateCredential(ctx, c)
	}
	return nil, noCredential(keyStore, accessKeyID)
}

// DeleteCredential removes a credential. Errors: fault.NotFound.
func (a *Appliance) DeleteCredential(ctx context.Context, keyStore, accessKeyID string) error {
	a.admin.Lock()
	defer a.admin.Unlock()
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return err
	}
	return a.store.DeleteCredential(ctx, e.store.ID, accessKeyID)
}

// CheckDeleteCredential gives the error that DeleteCredential would, and changes
// nothing.
func (a *Appliance) CheckDeleteCredential(ctx context.Context, keyStore, accessKeyID string) error {
	credentials, err := a.Credentials(ctx, keyStore)
	if err == nil && !slices.ContainsFunc(credentials, func(c *Credential) bool { return c.AccessKeyID == accessKeyID }) {
		err = noCredential(keyStore, accessKeyID)
	}
	return err
}

func noCredential(keyStore, accessKeyID string) error {
	return fault.Errorf(fault.NotFound, "key store %q has no credential %q", keyStore, accessKeyID)
}

// AddGrant allows, or forbids, a principal operations on a key store or a key of
// it. It reads all of want but ID, KeyStore and CreatedAt. Errors: fault.Invalid,
// fault.NotFound.
func (a *Appliance) AddGrant(ctx context.Context, keyStore string, want Grant) (*Grant, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, _, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	g, err := a.newGrant(ctx, keyStore, want)
	if err != nil {
		return nil, err
	}
	if g.Seal, err = v.ring.Seal(g.Binding(), nil); err != nil {
		return nil, err
	}
	if err := a.store.CreateGrant(ctx, g); err != nil {
		return nil, err
	}
	return g, nil
}

// CheckGrant gives the error that AddGrant would, and changes nothing.
func (a *Appliance) CheckGrant(ctx context.Context, keyStore string, want Grant) error {
	_, err := a.newGrant(ctx, keyStore, want)
	return err
}

// newGrant makes a grant that is not sealed or stored yet.
func (a *Appliance) newGrant(ctx context.Context, keyStore string, want Grant) (*Grant, error) {
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	ops, err := ParseOperations(JoinOperations(want.Operations))
	if err != nil {
		return nil, err
	}
	g := &want
	g.ID, g.KeyStore, g.Operations, g.CreatedAt = newID(), e.store.ID, ops, a.stamp()
	g.Effect, g.NotAfter = cmp.Or(g.Effect, EffectAllow), g.NotAfter.UTC().Truncate(time.Millisecond)
	if !g.NotAfter.IsZero() && g.NotAfter.Before(g.CreatedAt) {
		return nil, fault.Errorf(fault.Invalid, "not after %s: that is past", g.NotAfter.Format(time.RFC3339))
	}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if g.KeyID != "" {
		if _, err := a.store.Key(ctx, e.store.ID, g.KeyID); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Grants gives all grants of a key store and of its keys.
func (a *Appliance) Grants(ctx context.Context, keyStore string) ([]*Grant, error) {
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return nil, err
	}
	return a.store.Grants(ctx, e.store.ID)
}

// RemoveGrant removes a grant. Errors: fault.NotFound.
func (a *Appliance) RemoveGrant(ctx context.Context, keyStore, id string) error {
	a.admin.Lock()
	defer a.admin.Unlock()
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return err
	}
	return a.store.DeleteGrant(ctx, e.store.ID, id)
}

// CheckRemoveGrant gives the error that RemoveGrant would, and changes nothing.
func (a *Appliance) CheckRemoveGrant(ctx context.Context, keyStore, id string) error {
	grants, err := a.Grants(ctx, keyStore)
	if err == nil && !slices.ContainsFunc(grants, func(g *Grant) bool { return g.ID == id }) {
		err = fault.Errorf(fault.NotFound, "key store %q has no grant %q", keyStore, id)
	}
	return err
}

// TestGrants decides about a request without making it, by the same evaluation.
// It reads all of r but KeyStore, Key and Time. Errors: fault.Invalid,
// fault.NotFound.
func (a *Appliance) TestGrants(ctx context.Context, keyStore, key string, r RequestContext) (Decision, error) {
	if _, err := ParseOperations(string(r.Operation)); err != nil {
		return Decision{}, err
	}
	if r.Principal == "" {
		return Decision{}, fault.Errorf(fault.Invalid, "principal: give one as KMS sends it, such as arn:aws:iam::123456789012:role/app")
	}
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return Decision{}, err
	}
	k, err := e.Key(ctx, key)
	if err != nil {
		return Decision{}, err
	}
	return k.decide(r), nil
}

// Policy gives the Cedar policies of a key store that were written by hand.
// Errors: fault.NotFound.
func (a *Appliance) Policy(_ context.Context, keyStore string) (string, error) {
	_, e, err := a.keyStore(keyStore)
	if err != nil {
		return "", err
	}
	return e.store.Policy, nil
}

// SetPolicy replaces them; empty for none. Errors: fault.Invalid, with line and
// column; fault.NotFound.
func (a *Appliance) SetPolicy(ctx context.Context, keyStore, cedar string) error {
	cedar, err := parsePolicy(cedar)
	if err != nil {
		return err
	}
	return a.changeKeyStore(ctx, keyStore, func(ks *KeyStore) error {
		ks.Policy = cedar
		return nil
	})
}

// CheckPolicy gives the error that SetPolicy would, and changes nothing.
func (a *Appliance) CheckPolicy(_ context.Context, keyStore, cedar string) error {
	if _, err := parsePolicy(cedar); err != nil {
		return err
	}
	_, _, err := a.keyStore(keyStore)
	return err
}

// parsePolicy gives Cedar policies as they are stored.
func parsePolicy(cedar string) (string, error) {
	cedar = strings.ReplaceAll(cedar, "\r\n", "\n")
	if _, err := authz.Parse(cedar); err != nil {
		return "", fault.Errorf(fault.Invalid, "%s", err)
	}
	return cedar, nil
}

// Bootstrap makes the key store with the credential that the section
// [aws_xks_config] of the configuration asks for, once in the life of an
// installation, and only if it has no key store: what a person has removed does not
// come back. It takes a secret that KMS itself would refuse.
//
// Record is called when both are there; made says whether they were made now. If the
// process ends in between, or nothing could be recorded, the next call goes on.
func (a *Appliance) Bootstrap(ctx context.Context, want KeyStore, credential NewCredential, record func(*KeyStore, *Credential) error) (made bool, err error) {
	const begun = "begun"
	state, err := a.Setting(ctx, SettingBootstrap)
	if fault.CodeOf(err) == fault.Tampered { // it may have been made, and removed by a person
		a.log.Error("the setting that says whether the configuration may still make its key store does not match its seal: the database was changed by hand, and none is made", "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return false, err
	}
	switch {
	case state == begun:
	case state != SettingOpen:
		return false, nil
	case len(stores) > 0:
		return false, a.SetSetting(ctx, SettingBootstrap, SettingDone)
	default:
		if err := a.SetSetting(ctx, SettingBootstrap, begun); err != nil {
			return false, err
		}
	}
	ks, err := a.CreateKeyStore(ctx, want)
	if fault.CodeOf(err) == fault.Exists {
		var d *KeyStoreDetail
		if d, err = a.ShowKeyStore(ctx, want.Name); err == nil {
			ks = &d.KeyStore
		}
	}
	if err != nil {
		return false, err
	}
	c, err := a.addCredential(ctx, want.Name, credential)
	if fault.CodeOf(err) == fault.Exists {
		c, err = a.credential(ctx, want.Name, credential.AccessKeyID)
	}
	if err != nil {
		return false, err
	}
	if err := record(ks, c); err != nil {
		return false, err
	}
	return true, a.SetSetting(ctx, SettingBootstrap, SettingDone)
}

// credential gives one of a key store. fault.NotFound.
func (a *Appliance) credential(ctx context.Context, keyStore, accessKeyID string) (*Credential, error) {
	all, err := a.Credentials(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.AccessKeyID == accessKeyID {
			return c, nil
		}
	}
	return nil, fault.Errorf(fault.NotFound, "key store %q has no credential %q", keyStore, accessKeyID)
}

// Status is what administrators see at a glance.
type Status struct {
	Locked bool `json:"locked"`
	// Reason says why it is locked; empty if it is not.
	Reason string `json:"reason,omitempty"`
	// LeaseSeconds is how long keys would stay in memory if no HSM answered from
	// now on; 0 while locked.
	LeaseSeconds int         `json:"lease_seconds"`
	KeyStores    int         `json:"key_stores"`
	HSMs         []HSMHealth `json:"hsms"`
	// Blocked says that everything is out of service by a block, and why.
	Blocked Block `json:"blocked,omitzero"`
	// BlockedKeyStores are the names of key stores that are blocked by themselves.
	BlockedKeyStores []string  `json:"blocked_key_stores,omitempty"`
	Time             time.Time `json:"time"`
}

// CredentialAges gives when the active credentials of each key store were made,
// by the key store's name. fault.Locked.
func (a *Appliance) CredentialAges() (map[string][]time.Time, error) {
	v, err := a.view()
	if err != nil {
		return nil, err
	}
	ages := map[string][]time.Time{}
	for _, e := range v.byID {
		ages[e.store.Name] = []time.Time{}
		for _, c := range e.credentials {
			ages[e.store.Name] = append(ages[e.store.Name], c.CreatedAt)
		}
	}
	return ages, nil
}

// Status gives the state of the appliance; it never fails.
func (a *Appliance) Status(ctx context.Context) Status {
	s := Status{Time: a.stamp()}
	if v, err := a.view(); err != nil {
		s.Locked, s.Reason = true, err.Error()
	} else {
		s.KeyStores, s.LeaseSeconds = len(v.byID), int(a.lease.remaining()/time.Second)
		s.Blocked = v.blocked
		for _, e := range v.byID {
			if !e.store.Blocked.IsZero() {
				s.BlockedKeyStores = append(s.BlockedKeyStores, e.store.Name)
			}
		}
		slices.Sort(s.BlockedKeyStores)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s.HSMs, _ = a.Health(ctx)
	return s
}
