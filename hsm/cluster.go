package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Cluster is several tokens that hold the same master key, such as the members
// of an HSM cluster. It does what a [Token] does: an operation goes to the first
// member that is there; if that fails, or does not answer in half of the time
// there is, to the next. One that was away is used again when it is back.
//
// Key objects are made on one member, and found on whichever has them. Whether
// they are on others as well is the HSMs' own matter.
type Cluster struct {
	log     *slog.Logger
	members []*Member

	// The reference is wrapped by the first master key that was seen: the others
	// must unwrap it.
	reference []byte

	stop       chan struct{}
	background sync.WaitGroup
}

// Member is one token of a cluster.
type Member struct {
	cfg Config

	mu    sync.Mutex
	token *Token    // nil until it is open
	why   error     // why it is not
	avoid time.Time // until then it is asked last
}

// ErrOtherMasterKey: the token's master key is not that of the cluster.
var ErrOtherMasterKey = errors.New("its master key is another than the other tokens'; copy the right one there by the HSM's own means")

// reference is what the master keys are compared with.
var referenceText, referenceAAD = []byte("holdfast"), []byte("holdfast cluster reference")

// othersWait is how long a cluster waits for its other members once one is open.
const othersWait = 3 * time.Second

// OpenCluster opens the tokens, at the same time. It is there once one is open and the
// others have opened or failed, or have taken three seconds more; they are tried again
// until they open, or their PIN is refused. In operations, they have the order of configs.
// Only the first may make the master key, and only if none of the others has opened.
// Errors: those of [Open], of each member.
func OpenCluster(ctx context.Context, configs []Config) (*Cluster, error) {
	c := &Cluster{stop: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
	mayMake := false
	for i, cfg := range configs {
		if err := cfg.setDefaults(); err != nil {
			return nil, err
		}
		c.log = cfg.Log
		cfg.PIN = bytes.Clone(cfg.PIN)
		mayMake = mayMake || i == 0 && !cfg.MasterKeyExists
		cfg.MasterKeyExists = true
		c.members = append(c.members, &Member{cfg: cfg, why: fmt.Errorf("%s: %w: it is being opened", cfg.name(), ErrUnavailable)})
	}
	settled := make(chan struct{})
	tried := c.openAll(ctx, settled)
	// The last of those that are open is the reference.
	for i := len(c.members) - 1; i >= 0; i-- {
		if m := c.members[i]; tried[m] {
			tried[m] = c.admit(ctx, m, m.current(), m.reason()) != nil
		}
	}
	first := c.members[0]
	if c.reference == nil && mayMake && errors.Is(first.reason(), ErrNotFound) {
		cfg := first.cfg
		cfg.MasterKeyExists = false
		token, err := Open(ctx, cfg)
		tried[first] = c.admit(ctx, first, token, err) != nil
	}
	close(settled)
	if c.reference == nil {
		var errs failures
		for _, m := range c.members {
			errs = append(errs, m.reason())
		}
		_ = c.Close() // there is nothing to close
		return nil, errs
	}
	for m, failed := range tried {
		if failed {
			c.background.Go(func() { c.keepOpening(m) })
		}
	}
	return c, nil
}

// openAll begins to open all members, waits as [OpenCluster] says, and gives those that
// have opened or failed. The others go on by themselves, once it is settled what master key
// the cluster has.
func (c *Cluster) openAll(ctx context.Context, settled <-chan struct{}) map[*Member]bool {
	type outcome struct {
		member *Member
		token  *Token
		err    error
	}
	outcomes := make(chan outcome)
	for _, m := range c.members {
		c.background.Go(func() {
			opening, cancel := c.while(ctx)
			defer cancel()
			token, err := Open(opening, m.cfg)
			select {
			case outcomes <- outcome{m, token, err}:
			case <-settled:
				if c.admit(opening, m, token, err) != nil {
					c.keepOpening(m)
				}
			}
		})
	}
	tried := map[*Member]bool{}
	var late <-chan time.Time
	for len(tried) < len(c.members) {
		select {
		case o := <-outcomes:
			o.member.set(o.token, o.err)
			tried[o.member] = true
			if o.err == nil && late == nil {
				late = time.After(othersWait)
			}
		case <-late:
			return tried
		}
	}
	return tried
}

// admit takes a member that has opened, if its master key is the right one.
func (c *Cluster) admit(ctx context.Context, m *Member, token *Token, err error) error {
	if err == nil {
		if err = c.compare(ctx, token); err != nil {
			_ = token.Close() // it is not used
			token, err = nil, fmt.Errorf("%s: %w", m.cfg.name(), err)
		}
	}
	m.set(token, err)
	return err
}

// while gives ctx until the cluster is closed.
func (c *Cluster) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// compare has a token unwrap the reference, which the first that is there wraps.
func (c *Cluster) compare(ctx context.Context, token *Token) (err error) {
	if c.reference == nil {
		c.reference, err = token.Wrap(ctx, referenceText, referenceAAD)
		return err
	}
	_, err = token.Unwrap(ctx, c.reference, referenceAAD)
	if errors.Is(err, ErrDecrypt) {
		return ErrOtherMasterKey
	}
	return err
}

// keepOpening tries a member again until it opens, its PIN is refused, or the
// cluster is closed.
func (c *Cluster) keepOpening(m *Member) {
	for attempt := 1; ; attempt++ {
		why := m.reason()
		if errors.Is(why, ErrPINRefused) {
			c.log.Error("a token of the cluster is out for good", "token", m.cfg.name(), "error", why)
			return
		}
		c.log.Warn("a token of the cluster could not be opened; it is tried again", "token", m.cfg.name(), "attempt", attempt, "error", why)
		select {
		case <-c.stop:
			return
		case <-time.After(m.cfg.Pause(attempt)):
		}
		ctx, cancel := c.while(context.Background())
		token, err := Open(ctx, m.cfg)
		err = c.admit(ctx, m, token, err)
		cancel()
		if err == nil {
			c.log.Info("a token of the cluster is open", "token", m.cfg.name(), "attempt", attempt)
			return
		}
	}
}

// Close ends the use of all tokens.
func (c *Cluster) Close() error {
	close(c.stop)
	c.background.Wait()
	var errs []error
	for _, m := range c.members {
		if t := m.current(); t != nil {
			errs = append(errs, t.Close())
		}
		clear(m.cfg.PIN)
	}
	return errors.Join(errs...)
}

// Members are the tokens, for their health.
func (c *Cluster) Members() []*Member { return c.members }

func (m *Member) current() *Token {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.token
}

// reason is why the token is not open.
func (m *Member) reason() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

func (m *Member) set(token *Token, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.why = token, why
}

// ready gives the token if it is there at the moment, or else why not.
func (m *Member) ready() (*Token, error) {
	m.mu.Lock()
	t, why := m.token, m.why
	m.mu.Unlock()
	if t == nil {
		return nil, why
	}
	if _, err := t.current(); err != nil {
		return nil, err
	}
	return t, nil
}

// LastEnding is that of the member's last module process that has ended; nil if none has.
func (m *Member) LastEnding() *Ending {
	if t := m.current(); t != nil {
		return t.LastEnding()
	}
	e, _ := errors.AsType[*Ending](m.reason())
	return e
}

// Probe has the token do its test operation.
func (m *Member) Probe(ctx context.Context) error {
	t, err := m.ready()
	if err != nil {
		return err
	}
	return t.Probe(ctx)
}

// Info gives the token's facts; its name alone while it is not there.
func (m *Member) Info(ctx context.Context) (Info, error) {
	t, err := m.ready()
	if err != nil {
		return Info{Label: m.cfg.TokenLabel, Serial: m.cfg.TokenSerial, FreeSessions: -1, Dialect: m.cfg.Dialect, MaxSessions: m.cfg.MaxSessions}, nil
	}
	return t.Info(ctx)
}

// avoidFor is how long a member that did not answer in time is asked last.
const avoidFor = 5 * time.Second

// order gives the members that are there: those that were too slow lately come
// last; and why the others are not.
func (c *Cluster) order() (there []*Member, absent failures) {
	var slow []*Member
	now := time.Now()
	for _, m := range c.members {
		if _, err := m.ready(); err != nil {
			absent = append(absent, away(err))
			continue
		}
		m.mu.Lock()
		avoid := now.Before(m.avoid)
		m.mu.Unlock()
		if avoid {
			slow = append(slow, m)
		} else {
			there = append(there, m)
		}
	}
	return append(there, slow...), absent
}

// anyOf runs an operation on one member after the other, until one has an answer.
// A member before the last gets half of the time that there is.
func anyOf[T any](ctx context.Context, c *Cluster, f func(context.Context, *Token) (T, error)) (T, error) {
	var none T
	there, errs := c.order()
	for i, m := range there {
		t, err := m.ready()
		if err != nil {
			errs = append(errs, away(err))
			continue
		}
		attempt, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok && i < len(there)-1 {
			attempt, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		}
		v, err := f(attempt, t)
		if attempt.Err() != nil && ctx.Err() == nil {
			m.mu.Lock()
			m.avoid = time.Now().Add(avoidFor)
			m.mu.Unlock()
		}
		cancel()
		if err == nil || errors.Is(err, ErrDecrypt) || errors.Is(err, ErrExists) || errors.Is(err, ErrAmbiguous) {
			return v, err
		}
		if errs = append(errs, err); ctx.Err() != nil {
			errs = append(errs, ctx.Err()) // the others were not asked
			break
		}
	}
	return none, errs.ofKey()
}

// failures are why no member has an answer.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap implements what [errors.Is] looks at.
func (f failures) Unwrap() []error { return f }

// ofKey gives the failures of an operation with a key. They are [ErrNotFound] only
// if every member says so: one that is away, or has failed, may have the key.
func (f failures) ofKey() failures {
	found := func(err error) bool { return !errors.Is(err, ErrNotFound) }
	if !slices.ContainsFunc(f, found) {
		return f
	}
	out := slices.Clone(f)
	for i, err := range out {
		if !found(err) {
			out[i] = errors.New(err.Error())
		}
	}
	return out
}

// first gives the first member that is there. What is not to be done twice is
// done there or nowhere.
func (c *Cluster) first() (*Token, error) {
	there, absent := c.order()
	if len(there) == 0 {
		return nil, absent
	}
	return there[0].ready()
}

// Random: see [Token.Random].
func (c *Cluster) Random(ctx context.Context, n int) ([]byte, error) {
	return anyOf(ctx, c, func(ctx context.Context, t *Token) ([]byte, error) { return t.Random(ctx, n) })
}

// Wrap: see [Token.Wrap].
func (c *Cluster) Wrap(ctx context.Context, secret, aad []byte) ([]byte, error) {
	return anyOf(ctx, c, func(ctx context.Context, t *Token) ([]byte, error) { return t.Wrap(ctx, secret, aad) })
}

// Unwrap: see [Token.Unwrap].
func (c *Cluster) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	return anyOf(ctx, c, func(ctx context.Context, t *Token) ([]byte, error) { return t.Unwrap(ctx, blob, aad) })
}

// Encrypt: see [Token.Encrypt]. [ErrNotFound] if all members are there and none
// has the key.
func (c *Cluster) Encrypt(ctx context.Context, label string, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	type sealed struct{ iv, ciphertext, tag []byte }
	out, err := anyOf(ctx, c, func(ctx context.Context, t *Token) (s sealed, err error) {
		s.iv, s.ciphertext, s.tag, err = t.Encrypt(ctx, label, plaintext, aad)
		return s, err
	})
	return out.iv, out.ciphertext, out.tag, err
}

// Decrypt: see [Token.Decrypt]. [ErrNotFound] if all members are there and none
// has the key.
func (c *Cluster) Decrypt(ctx context.Context, label string, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	return anyOf(ctx, c, func(ctx context.Context, t *Token) ([]byte, error) {
		return t.Decrypt(ctx, label, iv, ciphertext, tag, aad)
	})
}

// GenerateKey: see [Token.GenerateKey]. It is made on the first member that is
// there, or not at all: two keys of one label would be worse than none.
func (c *Cluster) GenerateKey(ctx context.Context, label string) error {
	t, err := c.first()
	if err != nil {
		return err
	}
	return t.GenerateKey(ctx, label)
}

// ImportKey: see [Token.ImportKey], and GenerateKey.
func (c *Cluster) ImportKey(ctx context.Context, label string, key []byte) error {
	t, err := c.first()
	if err != nil {
		return err
	}
	return t.ImportKey(ctx, label, key)
}

// DestroyKey destroys the key on every member. It fails if one is not there, for
// that may have it. [ErrNotFound] if none has it; [ErrOwnKey] if it is the master
// key or the probe key of one, and then none destroys it.
func (c *Cluster) DestroyKey(ctx context.Context, label string) error {
	for _, m := range c.members {
		if m.cfg.ownKey(label) {
			return fmt.Errorf("%s: key %q: %w", m.cfg.name(), label, ErrOwnKey)
		}
	}
	var errs failures
	destroyed := false
	for _, m := range c.members {
		t, err := m.ready()
		if err != nil {
			errs = append(errs, away(err))
			continue
		}
		switch err := t.DestroyKey(ctx, label); {
		case err == nil:
			destroyed = true
		case !errors.Is(err, ErrNotFound):
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if !destroyed {
		return fmt.Errorf("key %q: %w", label, ErrNotFound)
	}
	return nil
}
