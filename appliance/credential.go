package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// Credential is a SigV4 credential with which KMS signs requests to one key
// store. It has nothing to do with IAM.
type Credential struct {
	// AccessKeyID is 20 to 30 characters of A-Z and 2-7.
	AccessKeyID string `json:"access_key_id" jsonschema:"The access key ID, 20 to 30 characters of A-Z and 2-7."`
	// KeyStore is the ID of the key store it opens.
	KeyStore  string    `json:"-"`
	Active    bool      `json:"active" jsonschema:"Whether signatures of this credential are accepted."`
	CreatedAt time.Time `json:"created_at" jsonschema:"When the credential was made."`
	// LastUsedAt is when it last authenticated a request; zero if never. It is
	// stored once a minute, so that a crash may lose the last minute of it.
	LastUsedAt time.Time `json:"last_used_at,omitzero" jsonschema:"When the credential last authenticated a request, to within a minute; absent if never."`
	// Standing says whether requests that are signed with it are answered. It is not stored.
	Standing Standing `json:"standing" jsonschema:"Whether requests signed with it are answered, and what decides that."`

	// Secret is the secret access key, sealed under the state key.
	Secret []byte `json:"-"`
}

// Binding names the credential's row.
func (c *Credential) Binding() Binding {
	return Binding{Purpose: "credential", Fields: []string{
		c.AccessKeyID, c.KeyStore, bindBool(c.Active), BindTime(c.CreatedAt)}}
}

var (
	accessKeyID     = regexp.MustCompile(`^[A-Z2-7]{20,30}$`)
	secretAccessKey = regexp.MustCompile(`^[A-Za-z0-9+/=]{43,64}$`)
)

// ValidAccessKeyID says whether KMS accepts s as an access key ID (spec,
// Appendix A).
func ValidAccessKeyID(s string) bool { return accessKeyID.MatchString(s) }

// ValidSecretAccessKey says whether KMS accepts s as a secret access key (spec,
// "XKS proxy configuration in AWS KMS console").
func ValidSecretAccessKey(s string) bool { return secretAccessKey.MatchString(s) }

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
func (a *Administration) CreateCredential(ctx context.Context, keyStore string, want NewCredential) (*Credential, string, error) {
	if want == (NewCredential{}) {
		want = newCredential()
	}
	if err := want.validate(); err != nil {
		return nil, "", err
	}
	c, err := a.addCredential(ctx, keyStore, want)
	return c, want.SecretAccessKey, err
}

// CheckCredential gives the error that CreateCredential would, and changes nothing. Whether
// another key store has the access key ID is seen when it is made.
func (a *Administration) CheckCredential(ctx context.Context, keyStore string, want NewCredential) error {
	if want != (NewCredential{}) {
		if err := want.validate(); err != nil {
			return err
		}
	}
	all, err := a.Credentials(ctx, keyStore)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(c *Credential) bool { return c.AccessKeyID == want.AccessKeyID }) {
		return fault.Errorf(fault.Exists, "key store %q has a credential %q already", keyStore, want.AccessKeyID)
	}
	return nil
}

// validate says why KMS would not take the credential: fault.Invalid.
func (want *NewCredential) validate() error {
	if !ValidAccessKeyID(want.AccessKeyID) {
		return fault.Errorf(fault.Invalid, "access key ID: KMS takes 20 to 30 characters of A-Z and 2-7")
	}
	if !ValidSecretAccessKey(want.SecretAccessKey) {
		return fault.Errorf(fault.Invalid, "secret access key: KMS takes 43 to 64 characters of A-Z, a-z, 0-9, '+', '/' and '='")
	}
	return nil
}

func (a *Administration) addCredential(ctx context.Context, keyStore string, want NewCredential) (*Credential, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.service.keyStore(ctx, keyStore)
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
	a.service.standCredentials(c)
	return c, nil
}

// Credentials gives the key store's credentials, ordered by access key ID,
// with their last use up to now.
func (a *Administration) Credentials(ctx context.Context, keyStore string) ([]*Credential, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	credentials, err := a.store.Credentials(ctx, e.store.ID)
	if err != nil {
		return nil, err
	}
	for _, c := range credentials {
		if t := a.service.used.at(c.AccessKeyID); t.After(c.LastUsedAt) {
			c.LastUsedAt = t
		}
	}
	a.service.standCredentials(credentials...)
	return credentials, nil
}

// credential gives one of a key store. fault.NotFound.
func (a *Administration) credential(ctx context.Context, keyStore, accessKeyID string) (*Credential, error) {
	all, err := a.Credentials(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.AccessKeyID == accessKeyID {
			return c, nil
		}
	}
	return nil, noCredential(keyStore, accessKeyID)
}

// CredentialAges gives when the active credentials of each key store were made,
// by the key store's name. fault.Locked.
func (s *Service) CredentialAges() (map[string][]time.Time, error) {
	v, err := s.view()
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

// SetCredentialActive activates or deactivates a credential. Errors:
// fault.NotFound.
func (a *Administration) SetCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) (*Credential, error) {
	if active { // to deactivate one waits for no other operation, since one may wait for the HSM
		a.admin.Lock()
		defer a.admin.Unlock()
	}
	v, _, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	var c *Credential
	err = retry(func() (err error) {
		if c, err = a.credential(ctx, keyStore, accessKeyID); err != nil || c.Active == active {
			return err
		}
		from, was := c.Binding(), c.Secret
		c.Active = active
		if c.Secret, err = v.ring.Reseal(from, c.Binding(), was); err != nil {
			return damagedCredential(keyStore, accessKeyID, err)
		}
		return a.store.UpdateCredential(ctx, c, was)
	})
	if err != nil {
		return nil, err
	}
	a.service.standCredentials(c)
	return c, nil
}

// CheckCredentialActive gives the error that SetCredentialActive would, and changes nothing.
func (a *Administration) CheckCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) error {
	v, _, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return err
	}
	c, err := a.credential(ctx, keyStore, accessKeyID)
	if err != nil || c.Active == active {
		return err
	}
	from := c.Binding()
	c.Active = active
	if _, err := v.ring.Reseal(from, c.Binding(), c.Secret); err != nil {
		return damagedCredential(keyStore, accessKeyID, err)
	}
	return nil
}

// DeleteCredential removes a credential, also one whose row is damaged: that only
// takes away. It waits for no other operation. Errors: fault.NotFound.
func (a *Administration) DeleteCredential(ctx context.Context, keyStore, accessKeyID string) error {
	return retry(func() error {
		c, err := a.credential(ctx, keyStore, accessKeyID)
		if err != nil {
			return err
		}
		return a.store.DeleteCredential(ctx, c.KeyStore, accessKeyID, c.Secret)
	})
}

// CheckDeleteCredential gives the error that DeleteCredential would, and changes
// nothing.
func (a *Administration) CheckDeleteCredential(ctx context.Context, keyStore, accessKeyID string) error {
	credentials, err := a.Credentials(ctx, keyStore)
	if err == nil && !slices.ContainsFunc(credentials, func(c *Credential) bool { return c.AccessKeyID == accessKeyID }) {
		err = noCredential(keyStore, accessKeyID)
	}
	return err
}

func noCredential(keyStore, accessKeyID string) error {
	return fault.Errorf(fault.NotFound, "key store %q has no credential %q", keyStore, accessKeyID)
}

// liveCredential is an active credential.
type liveCredential struct {
	Credential
	unlocked UnlockedCredential
	used     *atomic.Int64 // Unix milliseconds
}

// liveCredential unlocks an active credential; it gives nil for an inactive one.
func (s *Service) liveCredential(ring Keyring, c *Credential, before *Endpoint) (*liveCredential, error) {
	if before != nil {
		if old := before.credentials[c.AccessKeyID]; old != nil && bytes.Equal(old.Secret, c.Secret) && c.Active {
			return old, nil
		}
	}
	if !c.Active {
		return nil, nil
	}
	unlocked, err := ring.UnlockCredential(c)
	if err != nil {
		return nil, err
	}
	return &liveCredential{Credential: *c, unlocked: unlocked, used: s.used.of(c.AccessKeyID)}, nil
}
