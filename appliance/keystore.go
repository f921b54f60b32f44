package appliance

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// KeyStore is one external key store as AWS KMS sees it: a URI path prefix
// with keys, credentials and grants of its own.
type KeyStore struct {
	// ID never changes and is never used again: 32 hexadecimal digits.
	ID string `json:"id" jsonschema:"The ID of the key store, 32 hexadecimal digits. It never changes and is never used again."`
	// Name is what administrators call it.
	Name string `json:"name" jsonschema:"The name of the key store."`
	// URIPathPrefix comes before "/kms/xks/v1"; empty, or "/" and a path.
	URIPathPrefix string `json:"uri_path_prefix" jsonschema:"The prefix that AWS KMS asks for, before /kms/xks/v1; empty for none."`
	// RequestsPerSecond is the quota of authenticated requests; 0 means none.
	RequestsPerSecond int `json:"requests_per_second" jsonschema:"The most authenticated requests a second; 0 for no quota."`
	// CreatedAt has millisecond precision, as all times of the domain.
	CreatedAt time.Time `json:"created_at" jsonschema:"When the key store was made."`

	// Blocked says that it is out of service, and why.
	Blocked Block `json:"blocked,omitzero" jsonschema:"The block of the key store itself; absent if it has none."`
	// Standing says whether it serves. It is not stored.
	Standing Standing `json:"standing" jsonschema:"Whether the key store serves, and what decides that."`
	// Policy is Cedar policies written by hand; empty for none.
	Policy string `json:"-"`

	// WrappedKey is the key store's keyring key, wrapped by the HSM's master key.
	WrappedKey []byte `json:"-"`
	// Seal authenticates the row under the state key.
	Seal []byte `json:"-"`
	// Unmatched says that this row, the key store's credentials and the grants on the
	// whole of it are not those that the state's manifest has.
	Unmatched bool `json:"-"`
}

// Binding names the key store's row. Without what key stores did not have at
// first it is bound as it was then, so that those rows remain good.
func (s *KeyStore) Binding() Binding {
	b := Binding{Purpose: "key-store", Fields: []string{
		s.ID, s.Name, s.URIPathPrefix, bindUint(uint64(s.RequestsPerSecond)), BindTime(s.CreatedAt)}}
	if s.Policy != "" || !s.Blocked.IsZero() {
		b.Purpose = "key-store/v2"
		b.Fields = append(append(b.Fields, s.Policy), s.Blocked.fields()...)
	}
	return b
}

// XKSPath is the part of every URI path that KMS is configured with
// (XksProxyUriPath): the prefix followed by this.
const XKSPath = "/kms/xks/v1"

// maxXKSProxyURIPath is the limit for prefix and [XKSPath] together (spec, API operations).
const maxXKSProxyURIPath = 128

var (
	keyStoreName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	uriPathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)*$`)
)

// validate reports what is wrong with the name, prefix and quota.
func (s *KeyStore) validate() error {
	if !keyStoreName.MatchString(s.Name) {
		return fault.Errorf(fault.Invalid, "key store name %q: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit", s.Name)
	}
	if !uriPathPrefix.MatchString(s.URIPathPrefix) {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: use \"/\" before each part and only letters, digits, '_' and '-' in it, such as /bank/prod", s.URIPathPrefix)
	}
	if n := len(s.URIPathPrefix) + len(XKSPath); n > maxXKSProxyURIPath {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: with %s it has %d characters; KMS allows %d", s.URIPathPrefix, XKSPath, n, maxXKSProxyURIPath)
	}
	if strings.Contains(s.URIPathPrefix+"/", XKSPath+"/") {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: leave out %s, which follows the prefix by itself", s.URIPathPrefix, XKSPath)
	}
	if s.RequestsPerSecond < 0 {
		return fault.Errorf(fault.Invalid, "requests per second %d: use a positive number, or 0 for no quota", s.RequestsPerSecond)
	}
	return nil
}

// keyStore finds a key store by name, as administrators need it: one that is out of
// service only because rows of it could not be read is given, since its keys and grants
// can be changed.
func (s *Service) keyStore(ctx context.Context, name string) (*view, *Endpoint, error) {
	s.awaitOpened(ctx, name)
	v, err := s.view()
	if err != nil {
		return nil, nil, err
	}
	for _, e := range v.byID {
		if e.store.Name == name {
			if e.fault != nil && (fault.CodeOf(e.fault) == fault.Tampered || !v.ring.HasKeyringKey(e.store.ID)) {
				return nil, nil, e.fault
			}
			return v, e, nil
		}
	}
	if v.unread != nil {
		return nil, nil, v.unread
	}
	return nil, nil, fault.Errorf(fault.NotFound, "there is no key store %q", name)
}

// keyStoreRow gives a key store's row by name, to be changed. It needs the state key
// alone: a key store can be blocked also while the HSM does not open its key. One whose
// row does not match its seal is not given, as a change would seal it: fault.Tampered.
func (a *Administration) keyStoreRow(ctx context.Context, name string) (*view, *KeyStore, error) {
	v, err := a.service.view()
	if err != nil {
		return nil, nil, err
	}
	for _, e := range v.byID {
		if e.store.Name == name && e.fault == nil {
			row := e.store
			return v, &row, nil
		}
	}
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(stores, func(ks *KeyStore) bool { return ks.Name == name })
	if i < 0 {
		return nil, nil, fault.Errorf(fault.NotFound, "there is no key store %q", name)
	}
	if err := v.ring.Verify(stores[i].Binding(), stores[i].Seal); err != nil {
		return nil, nil, DamagedRow{Kind: damagedKindStore, KeyStore: name}.fault(err)
	}
	if stores[i].Unmatched {
		return nil, nil, DamagedRow{Kind: damagedKindStore, KeyStore: name}.fault(unmatched("the key store's row, a credential or a grant"))
	}
	return v, stores[i], nil
}

// CreateKeyStore makes a key store with a keyring key of its own. It reads
// Name, URIPathPrefix and RequestsPerSecond of want and gives the key store as
// it was stored. Errors: fault.Invalid, fault.Exists.
func (a *Administration) CreateKeyStore(ctx context.Context, want KeyStore) (*KeyStore, error) {
	ks := &KeyStore{ID: newID(), Name: want.Name, URIPathPrefix: want.URIPathPrefix,
		RequestsPerSecond: want.RequestsPerSecond, CreatedAt: a.stamp()}
	if err := ks.validate(); err != nil {
		return nil, err
	}
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return nil, err
	}
	if ks.WrappedKey, err = v.ring.NewKeyringKey(ctx, ks.ID); err != nil {
		return nil, err
	}
	// It opens at the next start: better to know now.
	if err := v.ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey); err != nil {
		v.ring.DropKeyringKey(ks.ID)
		return nil, err
	}
	if ks.Seal, err = v.ring.Seal(ks.Binding(), nil); err == nil {
		err = a.store.CreateKeyStore(ctx, ks)
	}
	if err != nil {
		v.ring.DropKeyringKey(ks.ID)
		return nil, err
	}
	a.service.stand(ks)
	return ks, nil
}

// KeyStores gives all key stores, ordered by name.
func (a *Administration) KeyStores(ctx context.Context) ([]*KeyStore, error) {
	stores, err := a.store.KeyStores(ctx)
	a.service.stand(stores...)
	return stores, err
}

// KeyStoreDetail is a key store with what there is in it.
type KeyStoreDetail struct {
	KeyStore
	Keys        int           `json:"keys" jsonschema:"How many keys the key store has."`
	Credentials []*Credential `json:"credentials" jsonschema:"The SigV4 credentials of the key store, without their secrets."`
	Grants      []*Grant      `json:"grants" jsonschema:"The grants of the key store and of its keys."`
}

// ShowKeyStore gives a key store by name. Errors: fault.NotFound.
func (a *Administration) ShowKeyStore(ctx context.Context, name string) (*KeyStoreDetail, error) {
	_, e, err := a.service.keyStore(ctx, name)
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
	a.service.stand(&d.KeyStore)
	return d, nil
}

// SetQuota sets the most authenticated requests a second; 0 for no limit. Errors:
// fault.Invalid, fault.NotFound.
func (a *Administration) SetQuota(ctx context.Context, name string, requestsPerSecond int) (*KeyStore, error) {
	var changed KeyStore
	err := a.changeKeyStore(ctx, name, func(ks *KeyStore) error {
		ks.RequestsPerSecond = requestsPerSecond
		changed = *ks
		return ks.validate()
	})
	if err != nil {
		return nil, err
	}
	a.service.stand(&changed)
	return &changed, nil
}

// CheckQuota gives the error that SetQuota would, and changes nothing.
func (a *Administration) CheckQuota(ctx context.Context, name string, requestsPerSecond int) error {
	_, ks, err := a.keyStoreRow(ctx, name)
	if err != nil {
		return err
	}
	wanted := *ks
	wanted.RequestsPerSecond = requestsPerSecond
	return wanted.validate()
}

// DeleteKeyStore removes a key store with its credentials and grants. Errors:
// fault.NotFound; fault.Conflict if it has keys.
func (a *Administration) DeleteKeyStore(ctx context.Context, name string) error {
	a.admin.Lock()
	defer a.admin.Unlock()
	return retry(func() error {
		e, err := a.deletableKeyStore(ctx, name)
		if err != nil {
			return err
		}
		return a.store.DeleteKeyStore(ctx, e.store.ID, e.store.Seal)
	})
}

// CheckDeleteKeyStore gives the error that DeleteKeyStore would, and changes
// nothing. As with all checks, another change may come before the operation.
func (a *Administration) CheckDeleteKeyStore(ctx context.Context, name string) error {
	_, err := a.deletableKeyStore(ctx, name)
	return err
}

func (a *Administration) deletableKeyStore(ctx context.Context, name string) (*Endpoint, error) {
	_, e, err := a.service.keyStore(ctx, name)
	if err != nil {
		return nil, err
	}
	n, err := a.store.CountKeys(ctx, e.store.ID)
	if err == nil && n > 0 {
		err = fault.Errorf(fault.Conflict, "key store %q has keys: %d; delete them first", name, n)
	}
	return e, err
}

// changeKeyStore reads a key store's row, has it changed, seals it anew and
// writes it back.
func (a *Administration) changeKeyStore(ctx context.Context, name string, change func(*KeyStore) error) error {
	return retry(func() error {
		v, ks, err := a.keyStoreRow(ctx, name)
		if err != nil {
			return err
		}
		was := ks.Seal
		if err := change(ks); err != nil {
			return err
		}
		if ks.Seal, err = v.ring.Seal(ks.Binding(), nil); err != nil {
			return err
		}
		return a.store.UpdateKeyStore(ctx, ks, was)
	})
}

// maxTries is how often a change is tried that other operations are faster with.
const maxTries = 10

// retry calls f again when another operation was faster. What the state of a thing
// forbids is not tried again.
func retry(f func() error) (err error) {
	for range maxTries {
		if err = f(); fault.CodeOf(err) != fault.Changed {
			break
		}
	}
	return err
}
