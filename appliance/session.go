package appliance

import (
	"context"
	"crypto/subtle"
	"errors"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// Session is one authenticated request to a key store. It is the only way to use a
// key: [Endpoint.Open] gives one, and its operations ask all checks, in the one
// order that there is:
//
//	freshness in a fleet                       Endpoint.current, in Endpoint.Open
//	authentication, quota                      Endpoint.Open
//	key, grants, block, state, usage, sizes    Session.admit
//	count of encryptions                       Endpoint.count
//	the operation
//	all checks again, if a change came         Session.holds
//	the record                                 Session.record
//	all checks again, if a change came         Session.holds
//
// Of several that fail, the first answers. Nothing is given out that is not on
// record, and nothing that a change forbids which returned before the answer was
// decided, on whichever node of a fleet, however long the request waited for its body, the HSM or the log. A
// session serves one operation: the quota counts requests.
type Session struct {
	endpoint *Endpoint
	proof    Proof
	outcome  *Outcome
	limits   Limits
	spent    atomic.Bool
}

// MaxData is the longest plaintext or ciphertext, in bytes.
const MaxData = 64 << 10

// ErrNotRecorded is in the chain of the error of a request that could not be
// recorded. The request is not answered then.
var ErrNotRecorded = errors.New("the record could not be written")

// Open authenticates a request, takes it from the key store's quota and gives a
// session for it. Call it when the whole request is there: what decides is the key
// store as it is now, and not as it was when the endpoint was asked for. Open sets
// KeyStore and Credential of the outcome, which the session keeps, as it keeps the
// proof. Errors: those of [Service.Endpoint], where fault.Unauthenticated stands for a
// key store that is gone; fault.Unauthenticated, and then fault.Throttled. None is
// recorded, so that nobody can fill the log without being counted.
func (e *Endpoint) Open(p Proof, o *Outcome) (*Session, error) {
	if e.service == nil || p == nil {
		return nil, fault.Errorf(fault.Unauthenticated, "the request has no proof of who sends it")
	}
	o.Request.KeyStore = e.store.Name
	e, err := e.current()
	if err != nil {
		return nil, err
	}
	o.Credential, err = authenticate(p, e)
	if fault.CodeOf(err) == fault.Unauthenticated && e.service.newest.look() { // it may be new
		if e, err = e.current(); err == nil {
			o.Credential, err = authenticate(p, e)
		}
	}
	if err != nil {
		return nil, err
	}
	if e.limiter != nil && !e.limiter.AllowN(e.service.now(), 1) {
		return nil, fault.Errorf(fault.Throttled, "the key store's quota of %d requests per second is used up", e.store.RequestsPerSecond)
	}
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	s := &Session{endpoint: e, proof: p, outcome: o}
	if o.Protocol != nil {
		s.limits = o.Protocol.Limits()
	}
	s.limits.Data, s.limits.AAD = capped(s.limits.Data, MaxData), capped(s.limits.AAD, MaxAAD)
	return s, nil
}

// authenticate gives the credential that is proven; fault.Unauthenticated.
func authenticate(p Proof, e *Endpoint) (string, error) {
	credential, err := p.prove(e)
	if err != nil && fault.CodeOf(err) != fault.Unauthenticated {
		err = fault.Wrapf(fault.Unauthenticated, err, "the proof could not be checked")
	}
	return credential, err
}

// capped gives a limit that is not above the domain's own.
func capped(limit, own int) int {
	if limit <= 0 {
		return own
	}
	return min(limit, own)
}

// Encrypt encrypts under the current version of the key that the outcome names. The
// additional authenticated data are framed as the XKS specification says
// ([FrameAAD]). The encryption is counted durably before. A version that has done
// all its encryptions is rotated first.
//
// With check, the ciphertext is proven to decrypt: check is called with it, then it
// is decrypted and compared with the plaintext. So damage to the ciphertext is
// noticed here, if it came before check saw it, and otherwise by whoever compares
// with what check saw. The key's usage must include Decrypt then.
//
// Errors: fault.NotFound, fault.Tampered; fault.Denied; fault.Conflict if the key is
// blocked or not enabled; fault.KeyUsage; fault.TooLarge; fault.Timeout;
// fault.Locked; [ErrNotRecorded].
func (s *Session) Encrypt(ctx context.Context, plaintext, aad []byte, check func(*Ciphertext)) (*Ciphertext, error) {
	if err := s.begin(OpEncrypt); err != nil {
		return nil, err
	}
	u := use{what: "plaintext", data: plaintext, aad: aad, decrypts: check != nil}
	c, key, err := s.encrypt(ctx, u, check)
	if err := s.finish(ctx, err, func() error { return s.holds(ctx, key, u) }); err != nil {
		return nil, err
	}
	return c, nil
}

// encrypt gives the key as well that it has used.
func (s *Session) encrypt(ctx context.Context, u use, check func(*Ciphertext)) (*Ciphertext, *liveKey, error) {
	key, err := s.admit(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	if key, err = s.endpoint.count(ctx, key); err != nil {
		return nil, nil, err
	}
	c, err := key.encrypt(ctx, u.data, u.aad)
	if err != nil {
		return nil, nil, err
	}
	s.outcome.KeyVersion = c.KeyVersion()
	if check != nil {
		check(c)
		if err := key.decryptsTo(ctx, c, u.aad, u.data); err != nil {
			return nil, nil, err
		}
	}
	return c, key, nil
}

// decryptsTo says whether a ciphertext just made decrypts to the plaintext.
func (k *liveKey) decryptsTo(ctx context.Context, c *Ciphertext, aad, plaintext []byte) error {
	again, err := k.decrypt(ctx, c, aad)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "a ciphertext just made does not decrypt")
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(again, plaintext) != 1 {
		return fault.Errorf(fault.Internal, "a ciphertext just made decrypts to another plaintext: suspect the memory or the HSM")
	}
	return nil
}

// Decrypt decrypts with the version that the ciphertext's metadata name, of the key
// that the outcome names. The caller zeroizes the plaintext. Errors: those of
// [Session.Encrypt]; fault.Ciphertext if anything does not match.
func (s *Session) Decrypt(ctx context.Context, c *Ciphertext, aad []byte) ([]byte, error) {
	if err := s.begin(OpDecrypt); err != nil {
		return nil, err
	}
	u := use{what: "ciphertext", data: c.Ciphertext, aad: aad, decrypts: true}
	plaintext, key, err := s.decrypt(ctx, c, u)
	if err := s.finish(ctx, err, func() error { return s.holds(ctx, key, u) }); err != nil {
		clear(plaintext)
		return nil, err
	}
	return plaintext, nil
}

// decrypt gives the key as well that it has used.
func (s *Session) decrypt(ctx context.Context, c *Ciphertext, u use) ([]byte, *liveKey, error) {
	key, err := s.admit(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	s.outcome.KeyVersion = c.KeyVersion()
	plaintext, err := key.decrypt(ctx, c, u.aad)
	return plaintext, key, err
}

// Attributes describes the key that the outcome names, also one that is blocked or
// not enabled: its Standing says so. Its Blocked is the block that holds: of the key, of
// its key store or of everything. Errors: fault.NotFound, fault.Tampered, fault.Denied,
// fault.Timeout, fault.Locked, [ErrNotRecorded].
func (s *Session) Attributes(ctx context.Context) (ExternalKey, error) {
	if err := s.begin(OpGetAttributes); err != nil {
		return ExternalKey{}, err
	}
	key, err := s.permit(ctx)
	still := func() (err error) {
		if same, err := s.same(key); same || err != nil {
			return err
		}
		key, err = s.permit(ctx)
		return err
	}
	if err := s.finish(ctx, err, still); err != nil {
		return ExternalKey{}, err
	}
	described := key.ExternalKey
	described.Standing = serving(DecidesKey)
	if r := s.endpoint.refuses(&described); r != nil {
		described.Standing = r.Standing
		if !r.Block.IsZero() {
			described.Blocked = r.Block
		}
	}
	return described, nil
}

// Health gives the state of each HSM, as [Service.Health] does, as it matters to the key
// store: HealthUnavailable if it is blocked, or if keys of it are in the custody of HSMs
// of which none does its work in time. No grant is asked.
// Errors: fault.Timeout, fault.Locked, [ErrNotRecorded].
func (s *Session) Health(ctx context.Context) ([]HSMHealth, error) {
	if err := s.begin(OpHealth); err != nil {
		return nil, err
	}
	hsms, err := s.endpoint.service.Health(ctx)
	still := func() error {
		_, err := s.same(nil)
		return err
	}
	if err := s.finish(ctx, err, still); err != nil {
		return nil, err
	}
	return s.endpoint.health(ctx, hsms), nil
}

// Refuse records that the front end refuses the request itself, as when it cannot be
// read, and gives the error to answer: why, or [ErrNotRecorded]. After an operation,
// which has recorded its own end, it gives why and does nothing.
func (s *Session) Refuse(ctx context.Context, why error) error {
	if s.endpoint == nil || s.spent.Swap(true) {
		return why
	}
	return s.record(ctx, why)
}

// begin takes the session for an operation.
func (s *Session) begin(op Operation) error {
	if s.endpoint == nil {
		return fault.Errorf(fault.Unauthenticated, "the session was not opened: no request was authenticated")
	}
	if s.spent.Swap(true) {
		return fault.Errorf(fault.Internal, "the session has served its request already")
	}
	s.outcome.Request.Operation = op
	return nil
}

// use is how an operation uses a key, besides that it is allowed to.
type use struct {
	what      string // names data for people
	data, aad []byte
	decrypts  bool // also if the operation is another
}

// admit asks all checks of a use, in their order, and gives the key. A new check
// belongs here and nowhere else.
func (s *Session) admit(ctx context.Context, u use) (*liveKey, error) {
	key, err := s.permit(ctx)
	if err != nil {
		return nil, err
	}
	if r := s.endpoint.refuses(&key.ExternalKey); r != nil {
		return nil, r.err
	}
	op := s.outcome.Request.Operation
	if op == OpEncrypt && !key.Usage.Encrypt {
		return nil, fault.Errorf(fault.KeyUsage, "the external key's usage does not include the operation %s", OpEncrypt)
	}
	if u.decrypts && !key.Usage.Decrypt {
		return nil, fault.Errorf(fault.KeyUsage, "the external key's usage does not include the operation %s", OpDecrypt)
	}
	if len(u.data) > s.limits.Data {
		return nil, fault.Errorf(fault.TooLarge, "the %s has more than %d bytes", u.what, s.limits.Data)
	}
	if len(u.aad) > s.limits.AAD {
		return nil, fault.Errorf(fault.TooLarge, "the additional authenticated data has more than %d bytes", s.limits.AAD)
	}
	return key, nil
}

// permit gives the key, if there is one and the grants allow the operation on it.
func (s *Session) permit(ctx context.Context) (*liveKey, error) {
	key, d, err := s.decided(ctx)
	if err == nil && !d.Allowed && len(d.Policies) == 0 && s.endpoint.service.newest.look() { // a grant may be new
		if _, err := s.same(key); err != nil {
			return nil, err
		}
		key, d, err = s.decided(ctx)
	}
	if err != nil {
		return nil, err
	}
	e, o := s.endpoint, s.outcome
	o.Policies = d.Policies
	for _, failed := range d.Faults {
		e.service.log.Error("an authorization policy failed and allows nothing", "key_store", e.store.Name, "key_id", key.ID, "policy", failed)
	}
	if !d.Allowed {
		return nil, fault.Errorf(fault.Denied, "%s", d)
	}
	return key, nil
}

// decided gives the key, and what the grants say.
func (s *Session) decided(ctx context.Context) (*liveKey, Decision, error) {
	key, err := s.endpoint.key(ctx, s.outcome.Request.Key)
	if err != nil {
		return nil, Decision{}, err
	}
	return key, s.endpoint.decide(&s.outcome.Request, key), nil
}

// finish ends an operation: it records it, and gives the error to answer. What
// admitted it is asked before, so that the record says what is answered, and after,
// since the log may have taken its time. A request that is refused then has two
// records, of which the last one is answered.
func (s *Session) finish(ctx context.Context, err error, still func() error) error {
	if err == nil {
		err = still()
	}
	if err = s.record(ctx, err); err != nil {
		return err
	}
	if err = still(); err != nil {
		return s.record(ctx, err)
	}
	return nil
}

// holds asks all checks of a use again, if anything has changed since they were asked;
// key is the one that was used. It costs hardly anything if nothing has.
func (s *Session) holds(ctx context.Context, key *liveKey, u use) error {
	if same, err := s.same(key); same || err != nil {
		return err
	}
	_, err := s.admit(ctx, u)
	return err
}

// same says whether key store and key are as they were when the request was admitted.
// If not, the session goes on with the key store as it is now, to which the request
// has proven itself again.
func (s *Session) same(key *liveKey) (bool, error) {
	now, err := s.endpoint.current()
	if err != nil {
		return false, err
	}
	if now == s.endpoint {
		return key == nil || !key.left(), nil
	}
	s.endpoint = now
	_, err = authenticate(s.proof, now)
	return false, err
}

// decide asks the grants on the key and on its key store, and the policies written
// by hand. It sets KeyStore, Key and Time of the request.
func (e *Endpoint) decide(r *RequestContext, key *liveKey) Decision {
	r.KeyStore, r.Key, r.Time = e.store.Name, key.ID, e.service.now()
	return e.service.decider.Decide(r, e.policies, e.grants.set, key.grants.set)
}

// record records the end of the request and gives the error to answer.
func (s *Session) record(ctx context.Context, err error) error {
	o := s.outcome
	o.Err, o.Took = err, time.Since(o.Began)
	r := s.endpoint.service.recorder
	if r == nil {
		return err
	}
	switch failed := r.RecordOutcome(ctx, o); {
	case failed == nil:
	case errors.Is(failed, context.DeadlineExceeded):
		o.Err = fault.Wrapf(fault.Timeout, errors.Join(ErrNotRecorded, failed), "the audit log did not take the record in time")
	default:
		o.Err = fault.Wrapf(fault.Internal, errors.Join(ErrNotRecorded, failed), "the request could not be audited, and so is not answered")
	}
	return o.Err
}
