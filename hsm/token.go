package hsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// Config says which token to open and how. Module, PIN and one of TokenLabel
// and TokenSerial are needed.
type Config struct {
	// Module is the path of the vendor's PKCS#11 library.
	Module string
	// TokenLabel or TokenSerial selects the token.
	TokenLabel, TokenSerial string
	// PIN is the user PIN. It is copied, and zeroized by Close.
	PIN []byte
	// MasterKeyLabel is the label of the master key, which Open makes if there
	// is none. Default [DefaultMasterKeyLabel].
	MasterKeyLabel string
	// MasterKeyExists says that something is wrapped under the master key already:
	// if it is not found, that is an error, and none is made in its place.
	MasterKeyExists bool
	// MakingMasterKey, if given, is called before Open makes the master key. An error
	// keeps it from being made, and is that of Open.
	MakingMasterKey func() error
	// ProbeKeyLabel is the label of the key for Probe, likewise. Default
	// holdfast-probe.
	ProbeKeyLabel string
	// MaxSessions bounds the operations in the token at once. Default [DefaultMaxSessions].
	MaxSessions int
	// IVFromToken is for tokens that insist on making the IV of AES-GCM
	// themselves, as AWS CloudHSM does.
	IVFromToken bool
	Log         *slog.Logger
	// Observe, if given, is called when an operation has got a session: "Encrypt",
	// "Decrypt", "GenerateRandom", "GenerateKey", "CreateObject", "DestroyObject",
	// "FindObjects" or "Info". What it gives is called when the session is free again, with what came
	// of the operation. Token is the configured label, or else the serial number.
	Observe func(token, operation string) (done func(error))
	// Pause gives how long to wait before the attempt'th attempt to open a lost
	// token anew, counting from 0. Default: none, then from half a second
	// doubling up to 30 s, each with jitter.
	Pause func(attempt int) time.Duration
}

// The defaults of a [Config].
const (
	DefaultMasterKeyLabel = "holdfast-master"
	DefaultMaxSessions    = 16
)

func (c *Config) setDefaults() error {
	if c.Module == "" {
		return errors.New("hsm: no PKCS#11 module is named")
	}
	if (c.TokenLabel == "") == (c.TokenSerial == "") {
		return errors.New("hsm: name the token by its label or by its serial number, and not by both")
	}
	if c.MasterKeyLabel == "" {
		c.MasterKeyLabel = DefaultMasterKeyLabel
	}
	if c.ProbeKeyLabel == "" {
		c.ProbeKeyLabel = "holdfast-probe"
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = DefaultMaxSessions
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string) func(error) { return func(error) {} }
	}
	if c.Pause == nil {
		c.Pause = pause
	}
	return nil
}

// name says which token is meant, for errors.
func (c *Config) name() string {
	if c.TokenLabel != "" {
		return fmt.Sprintf("token %q of %s", c.TokenLabel, c.Module)
	}
	return fmt.Sprintf("token with serial number %q of %s", c.TokenSerial, c.Module)
}

// ownKey says whether the label is of the master key or the probe key.
func (c *Config) ownKey(label string) bool {
	return label == c.MasterKeyLabel || label == c.ProbeKeyLabel
}

const maxPause = 30 * time.Second

func pause(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	d := min(maxPause, 500*time.Millisecond<<min(attempt-1, 10))
	return d/2 + rand.N(d/2)
}

// Token is an open token. Its methods may be called at once from several
// goroutines.
type Token struct {
	cfg Config

	mu   sync.Mutex
	conn *connection // nil while the token is lost
	why  error       // why conn is nil
	// closed ends the background work.
	closed     bool
	stop       chan struct{}
	background sync.WaitGroup

	// check is a ciphertext of the master key, made when the token was opened
	// first: after it is opened anew, the master key must be the same.
	check sealed
}

// sealed is a ciphertext with all that its decryption needs.
type sealed struct{ iv, ciphertext, tag []byte }

// Open opens the token, logs in once, and finds or makes the master key and the
// probe key. Errors: [ErrNotFound] for the module or token, [ErrAmbiguous],
// [ErrPINRefused], or an [*Error]. To close it is the caller's part.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	cfg.PIN = append([]byte(nil), cfg.PIN...)
	t := &Token{cfg: cfg, stop: make(chan struct{})}
	conn, err := connect(&t.cfg)
	if err != nil {
		clear(t.cfg.PIN)
		return nil, err
	}
	t.conn = conn
	t.cfg.MasterKeyExists = true // from here on, also when the token is opened anew
	t.check.iv, t.check.ciphertext, t.check.tag, err = t.Encrypt(ctx, cfg.MasterKeyLabel, []byte("holdfast"), nil)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close ends the sessions, waits for operations under way, and zeroizes the
// PIN.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	conn := t.conn
	t.conn, t.why = nil, ErrClosed
	close(t.stop)
	t.mu.Unlock()
	t.background.Wait()
	clear(t.cfg.PIN)
	if conn == nil {
		return nil
	}
	return conn.close()
}

// current gives the connection, or why there is none.
func (t *Token) current() (*connection, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return nil, t.why
	}
	return t.conn, nil
}

// lose gives a connection up and has the token opened anew.
func (t *Token) lose(conn *connection, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != conn {
		return // somebody was faster
	}
	t.conn = nil
	t.why = fmt.Errorf("%s: %w: %w", t.cfg.name(), ErrUnavailable, why)
	t.cfg.Log.Error("the token is lost and is opened anew", "token", t.cfg.name(), "error", why)
	t.background.Go(func() { t.reopen(conn) })
}

// reopen opens the token until it succeeds, the PIN is refused or Close is
// called.
func (t *Token) reopen(old *connection) {
	if err := old.close(); err != nil {
		t.cfg.Log.Debug("the lost token did not close cleanly", "token", t.cfg.name(), "error", err)
	}
	for attempt := 0; ; attempt++ {
		select {
		case <-t.stop:
			return
		case <-time.After(t.cfg.Pause(attempt)):
		}
		conn, err := connect(&t.cfg)
		if err == nil {
			if err = t.sameMasterKey(conn); err != nil {
				_ = conn.close()
			}
		}
		t.mu.Lock()
		switch {
		case t.closed:
			t.mu.Unlock()
			if err == nil {
				_ = conn.close()
			}
			return
		case err == nil:
			t.conn, t.why = conn, nil
			t.mu.Unlock()
			t.cfg.Log.Info("the token is open again", "token", t.cfg.name(), "attempt", attempt+1)
			return
		case errors.Is(err, ErrPINRefused):
			t.why = err
			t.mu.Unlock()
			t.cfg.Log.Error("the token is not opened again", "token", t.cfg.name(), "error", err)
			return
		}
		t.why = fmt.Errorf("%s: %w", t.cfg.name(), away(err))
		t.mu.Unlock()
		t.cfg.Log.Warn("the token could not be opened anew; it is tried again", "token", t.cfg.name(), "attempt", attempt+1, "error", err)
	}
}

// sameMasterKey says whether the master key still is the one there was.
func (t *Token) sameMasterKey(conn *connection) error {
	return conn.with(func(s pkcs11.SessionHandle) error {
		key, err := conn.key(s, t.cfg.MasterKeyLabel)
		if err != nil {
			return err
		}
		if _, err := conn.decrypt(s, key, t.check, nil); err != nil {
			return fmt.Errorf("%s: the master key %q is not the one there was before: %w", t.cfg.name(), t.cfg.MasterKeyLabel, err)
		}
		return nil
	})
}

// do runs one operation in a session. It gives up when ctx ends, though the
// call may go on in the module; its session is not used until it is back. The
// operation must not touch memory that the caller may use again then.
func do[T any](ctx context.Context, t *Token, name string, operation func(*connection, pkcs11.SessionHandle) (T, error)) (T, error) {
	var none T
	conn, err := t.current()
	if err != nil {
		return none, err
	}
	select {
	case conn.slots <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%s: no session is free: %w", t.cfg.name(), ctx.Err())
	}
	if !conn.begin() {
		<-conn.slots
		if _, err := t.current(); err != nil {
			return none, err
		}
		return none, fmt.Errorf("%s: %w", t.cfg.name(), ErrUnavailable)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	observed := t.cfg.Observe(cmp.Or(t.cfg.TokenLabel, t.cfg.TokenSerial), name)
	go func() {
		var r result
		r.err = t.attempt(conn, func(s pkcs11.SessionHandle) (err error) {
			r.value, err = operation(conn, s)
			return err
		})
		conn.end()
		<-conn.slots
		observed(r.err)
		done <- r
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("%s: the token did not answer: %w", t.cfg.name(), ctx.Err())
	}
}

// attempt runs the operation, once more if only its session or a key's handle
// was stale, and gives the token up if it is lost.
func (t *Token) attempt(conn *connection, operation func(pkcs11.SessionHandle) error) error {
	err := conn.with(operation)
	if sessionLost(err) || handleStale(err) {
		conn.forgetStale(err)
		err = conn.with(operation)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound) && conn.dead():
		// A token that has lost the login shows no key object.
		err = errors.New("it has lost its session or the login")
		t.lose(conn, err)
		return fmt.Errorf("%s: %w", t.cfg.name(), away(err))
	case errors.Is(err, ErrDecrypt), errors.Is(err, ErrNotFound), errors.Is(err, ErrExists), errors.Is(err, ErrAmbiguous), errors.Is(err, ErrOwnKey), errors.Is(err, ErrNoDataObjects):
	case tokenLost(err), sessionLost(err), conn.dead():
		t.lose(conn, err)
		return fmt.Errorf("%s: %w: %w", t.cfg.name(), ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", t.cfg.name(), err)
}
