package appliance

import (
	"context"

	"golang.org/x/time/rate"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// Endpoint is a key store as it is served to KMS. Get one per request: it
// shows the key store as of that moment.
type Endpoint struct {
	service     *Service
	store       KeyStore
	credentials map[string]*liveCredential
	grants      liveGrants
	policies    *authz.Set    // written by hand
	limiter     *rate.Limiter // nil without a quota
	blocked     Block         // of everything, or of the key store
	fault       error
}

// Endpoint gives the key store whose URI path prefix is exactly prefix. Errors:
// fault.NotFound if there is none; fault.Locked; the reason for which a key store
// is out of service.
func (s *Service) Endpoint(prefix string) (*Endpoint, error) {
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	e := v.byPrefix[prefix]
	if e == nil {
		return nil, fault.Errorf(fault.NotFound, "no key store has that URI path prefix")
	}
	if e.fault != nil {
		return nil, e.fault
	}
	return e, nil
}

// endpoint reads what belongs to one key store. What was unlocked before and
// has not changed is kept, so that requests under way are not disturbed. What
// cannot be read puts the key store out of service: it never serves from stale
// rows.
func (s *Service) endpoint(ctx context.Context, ring Keyring, ks *KeyStore, before *Endpoint) *Endpoint {
	if err := ring.Verify(ks.Binding(), ks.Seal); err != nil {
		return s.outOfService(ks, err)
	}
	credentials, err := s.store.Credentials(ctx, ks.ID)
	if err != nil {
		return s.outOfService(ks, err)
	}
	grants, err := s.store.KeyStoreGrants(ctx, ks.ID)
	if err != nil {
		return s.outOfService(ks, err)
	}
	e := &Endpoint{service: s, store: *ks, credentials: map[string]*liveCredential{}}
	for _, c := range credentials {
		live, err := s.liveCredential(ring, c, before)
		if err != nil {
			s.log.Error("a credential does not open and is refused", "key_store", ks.Name, "access_key_id", c.AccessKeyID, "error", err)
		} else if live != nil {
			e.credentials[c.AccessKeyID] = live
		}
	}
	var old liveGrants
	if before != nil {
		old, e.policies = before.grants, before.policies
	}
	if before == nil || before.store.Policy != ks.Policy {
		written, err := authz.Parse(ks.Policy)
		if err != nil {
			return s.outOfService(ks, fault.Wrapf(fault.Internal, err, "the key store's Cedar policies cannot be read"))
		}
		e.policies = authz.NewSet(written...)
	}
	e.grants = s.indexGrants(ring, ks.ID, "", grants, old)
	switch {
	case ks.RequestsPerSecond == 0:
	case before != nil && before.limiter != nil && before.store.RequestsPerSecond == ks.RequestsPerSecond:
		e.limiter = before.limiter
	default:
		e.limiter = rate.NewLimiter(rate.Limit(ks.RequestsPerSecond), ks.RequestsPerSecond)
	}
	return e
}

// Name is the key store's name.
func (e *Endpoint) Name() string { return e.store.Name }

// HasCredential says whether the access key ID is an active one of this key
// store.
func (e *Endpoint) HasCredential(accessKeyID string) bool { return e.credentials[accessKeyID] != nil }

// Sign gives the SigV4 signature that the credential makes for the string to
// sign. Errors: fault.NotFound if the key store has no such active credential.
func (e *Endpoint) Sign(accessKeyID, date, region, service string, stringToSign []byte) ([32]byte, error) {
	c := e.credentials[accessKeyID]
	if c == nil {
		return [32]byte{}, fault.Errorf(fault.NotFound, "no such credential")
	}
	return c.unlocked.Sign(date, region, service, stringToSign)
}

// Authenticated notes that the credential authenticated a request, and takes
// the request from the key store's quota. Errors: fault.Throttled.
func (e *Endpoint) Authenticated(accessKeyID string) error {
	if c := e.credentials[accessKeyID]; c != nil {
		c.used.Store(e.service.now().UnixMilli())
	}
	if e.limiter != nil && !e.limiter.AllowN(e.service.now(), 1) {
		return fault.Errorf(fault.Throttled, "the key store's quota of %d requests per second is used up", e.store.RequestsPerSecond)
	}
	return nil
}

// Key gives an external key. Errors: fault.NotFound, fault.Tampered, fault.Locked,
// fault.Timeout.
func (e *Endpoint) Key(ctx context.Context, id string) (*Key, error) {
	v, err := e.service.view()
	if err != nil {
		return nil, err
	}
	live, err := e.service.loadKey(ctx, v.ring, e.store.ID, id)
	if err != nil {
		return nil, err
	}
	return &Key{e: e, live: live}, nil
}

// Key is an external key as it is served to KMS.
type Key struct {
	e    *Endpoint
	live *liveKey
}

// ExternalKey describes the key. Its Blocked is that which holds, be it of the
// key, of its key store or of everything.
func (k *Key) ExternalKey() ExternalKey {
	described := k.live.ExternalKey
	described.Blocked = k.blocked()
	return described
}

func (k *Key) blocked() Block {
	if !k.e.blocked.IsZero() {
		return k.e.blocked
	}
	return k.live.Blocked
}

// Allow asks the grants on the key and on its key store, and the policies
// written by hand, whether the request is allowed: with the decision comes nil
// or fault.Denied. It reads all of r but KeyStore, Key and Time.
func (k *Key) Allow(r RequestContext) (Decision, error) {
	d := k.decide(r)
	for _, fault := range d.Faults {
		k.e.service.log.Error("an authorization policy failed and allows nothing", "key_store", k.e.store.Name, "key_id", k.live.ID, "policy", fault)
	}
	if !d.Allowed {
		return d, fault.Errorf(fault.Denied, "%s", d)
	}
	return d, nil
}

func (k *Key) decide(r RequestContext) Decision {
	r.KeyStore, r.Key, r.Time = k.e.store.Name, k.live.ID, k.e.service.now()
	return authz.Decide(&r, k.e.policies, k.e.grants.set, k.live.grants.set)
}

// Usable says whether the key's state and usage permit all of the operations:
// nil, fault.Conflict (not enabled, or blocked) or fault.KeyUsage.
func (k *Key) Usable(ops ...Operation) error {
	if b := k.blocked(); !b.IsZero() {
		return fault.Errorf(fault.Conflict, "the external key is blocked: %s", b.Reason)
	}
	if k.live.State != KeyEnabled {
		return fault.Errorf(fault.Conflict, "the external key is not enabled")
	}
	for _, op := range ops {
		if (op == OpEncrypt && !k.live.Usage.Encrypt) || (op == OpDecrypt && !k.live.Usage.Decrypt) {
			return fault.Errorf(fault.KeyUsage, "the external key's usage does not include the operation %s", op)
		}
	}
	return nil
}

// Encrypt encrypts under the key's current version. The additional
// authenticated data have at most [MaxAAD] bytes and are framed as the
// specification says ([FrameAAD]). The encryption is counted durably before.
// When the version has done as many as it may, the key is rotated first.
func (k *Key) Encrypt(ctx context.Context, plaintext, aad []byte) (*Ciphertext, error) {
	if err := k.Usable(OpEncrypt); err != nil {
		return nil, err
	}
	if len(aad) > MaxAAD {
		return nil, fault.Errorf(fault.TooLarge, "additional authenticated data of %d bytes; at most %d are supported", len(aad), MaxAAD)
	}
	if err := k.count(ctx); err != nil {
		return nil, err
	}
	version := k.live.version(k.live.CurrentVersion)
	c := &Ciphertext{Metadata: encodeMetadata(version.Version)}
	err := k.live.with(version, func(u UnlockedKey) (err error) {
		c.IV, c.Ciphertext, c.Tag, err = u.Encrypt(ctx, plaintext, FrameAAD(aad, c.Metadata))
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Decrypt decrypts with the version that the ciphertext's metadata name.
// Errors: fault.Ciphertext if anything does not match.
func (k *Key) Decrypt(ctx context.Context, c *Ciphertext, aad []byte) (plaintext []byte, err error) {
	if err := k.Usable(OpDecrypt); err != nil {
		return nil, err
	}
	if len(aad) > MaxAAD {
		return nil, fault.Errorf(fault.TooLarge, "additional authenticated data of %d bytes; at most %d are supported", len(aad), MaxAAD)
	}
	plaintext, err = k.decryptOwn(ctx, c, aad)
	if k.live.Framing != FramingNone && fault.CodeOf(err) == fault.Ciphertext {
		return k.decryptForeign(ctx, c, aad)
	}
	return plaintext, err
}

// decryptOwn decrypts what Holdfast has encrypted.
func (k *Key) decryptOwn(ctx context.Context, c *Ciphertext, aad []byte) (plaintext []byte, err error) {
	number, err := decodeMetadata(c.Metadata)
	if err != nil {
		return nil, err
	}
	version := k.live.version(number)
	if version == nil {
		return nil, fault.Errorf(fault.Ciphertext, "the ciphertext names a version that the key does not have")
	}
	err = k.live.with(version, func(u UnlockedKey) (err error) {
		plaintext, err = u.Decrypt(ctx, c.IV, c.Ciphertext, c.Tag, FrameAAD(aad, c.Metadata))
		return err
	})
	return plaintext, err
}
