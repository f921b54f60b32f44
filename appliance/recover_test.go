package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
)

// troubles fail operations by name, until they are mended.
type troubles struct {
	mu     sync.Mutex
	failed map[string]error
	asked  map[string]int
}

func (f *troubles) set(err error, names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = map[string]error{}
	for _, name := range names {
		f.failed[name] = err
	}
}

func (f *troubles) of(names ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	for _, name := range names {
		f.asked[name]++
		if err := f.failed[name]; err != nil {
			return err
		}
	}
	return nil
}

func (f *troubles) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[name]
}

// troubledToken is a token whose operations may fail.
type troubledToken struct {
	appliancetest.Token
	troubles *troubles
}

func (t troubledToken) Wrap(ctx context.Context, secret, aad []byte) ([]byte, error) {
	if err := t.troubles.of("wrap"); err != nil {
		return nil, err
	}
	return t.Token.Wrap(ctx, secret, aad)
}

func (t troubledToken) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	if err := t.troubles.of("unwrap"); err != nil {
		return nil, err
	}
	return t.Token.Unwrap(ctx, blob, aad)
}

// troubledStore is a store whose reads may fail, of everything or of one key store.
type troubledStore struct {
	*sqlite.DB
	troubles *troubles
}

func (s troubledStore) Installation(ctx context.Context) (*appliance.Installation, error) {
	if err := s.troubles.of("installation"); err != nil {
		return nil, err
	}
	return s.DB.Installation(ctx)
}

func (s troubledStore) KeyStores(ctx context.Context) ([]*appliance.KeyStore, error) {
	if err := s.troubles.of("key stores"); err != nil {
		return nil, err
	}
	return s.DB.KeyStores(ctx)
}

func (s troubledStore) Credentials(ctx context.Context, keyStore string) ([]*appliance.Credential, error) {
	if err := s.troubles.of("credentials", "credentials of "+keyStore); err != nil {
		return nil, err
	}
	return s.DB.Credentials(ctx, keyStore)
}

func (s troubledStore) KeyStoreGrants(ctx context.Context, keyStore string) ([]*appliance.Grant, error) {
	if err := s.troubles.of("grants", "grants of "+keyStore); err != nil {
		return nil, err
	}
	return s.DB.KeyStoreGrants(ctx, keyStore)
}

// troubled is an appliance with two key stores, whose HSM and database may fail.
type troubled struct {
	*appliance.Appliance
	hsm, db *troubles
	token   appliancetest.Token
	store   *sqlite.DB
	clock   *appliancetest.Clock
	log     *appliancetest.Log
	ids     map[string]string
	clients map[string]*appliancetest.Client
	grants  map[string]string
}

func newTroubled(t *testing.T) *troubled {
	t.Helper()
	b := appliancetest.Start(t, appliancetest.Options{})
	r := &troubled{hsm: &troubles{}, db: &troubles{}, token: b.Token, clock: appliancetest.NewClock(), log: b.Log, ids: map[string]string{}, clients: map[string]*appliancetest.Client{}, grants: map[string]string{}}
	for _, name := range []string{"a", "b"} {
		r.clients[name] = b.NewKeyStore(t, name, "/"+name, appliancetest.Principal)
		b.NewKey(t, name, "k", "encrypt,decrypt", appliance.CustodyCached)
		r.grants[name] = must(b.Appliance.Grants(ctx, name))(t)[0].ID
	}
	for _, ks := range must(b.Store.KeyStores(ctx))(t) {
		r.ids[ks.Name] = ks.ID
	}
	b.Appliance.Lock()
	if err := b.Store.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = sqlite.Open(ctx, filepath.Join(b.Dir, "holdfast.db"), sqlite.Options{Logger: b.Logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Lock()
		_ = r.store.Close()
	})
	r.Appliance = appliance.New(appliance.Options{Store: troubledStore{r.store, r.db}, Now: r.clock.Now, Log: b.Logger, Lease: 1000 * time.Hour})
	for _, c := range r.clients {
		c.Appliance = r.Appliance
	}
	return r
}

func (r *troubled) unlock() error {
	return r.Unlock(ctx, keyring.New(troubledToken{r.token, r.hsm}), []appliance.HSM{keyring.Watched(r.token)})
}

// serves says whether a key store does.
func (r *troubled) serves(name string) bool {
	_, err := r.clients[name].Call(appliancetest.Encrypt("k", "x"))
	return err == nil
}

// wants fails unless just these key stores serve, and the rest is told as out of service.
func (r *troubled) wants(t *testing.T, when string, serve string) {
	t.Helper()
	out := map[string]bool{}
	for _, o := range r.Status(ctx).OutOfService {
		out[o.KeyStore] = true
		if o.Reason == "" {
			t.Errorf("%s: no reason is given for key store %s", when, o.KeyStore)
		}
	}
	for name := range r.clients {
		want := strings.Contains(serve, name)
		if got := r.serves(name); got != want {
			t.Errorf("%s: key store %s serves: %t, want %t", when, name, got, want)
		}
		if out[name] == want {
			t.Errorf("%s: the status says of key store %s that it is out of service: %t", when, name, !want)
		}
	}
	status, why := r.Condition()
	if (status == appliance.HealthActive) != (len(serve) == len(r.clients)) || (status != appliance.HealthActive) != (fault.CodeOf(errOf(why)) == fault.KeyStoreOut) {
		t.Errorf("%s: the condition is %s, %v", when, status, why)
	}
	for name := range out {
		if why != nil && !strings.Contains(why.Message, name) {
			t.Errorf("%s: the condition's reason %q does not name key store %s", when, why.Message, name)
		}
	}
	ready, note := r.Ready(ctx)
	if ready != (serve != "") || (note == "") != (len(serve) == len(r.clients)) {
		t.Errorf("%s: ready is %t, %q", when, ready, note)
	}
}

func errOf(f *fault.Fault) error {
	if f == nil {
		return nil
	}
	return f
}

// later has the background look again, after the longest pause.
func (r *troubled) later() {
	r.clock.Pass(time.Minute)
	r.Recover(ctx)
}

var errHiccup = errors.New("CKR_DEVICE_MEMORY")

// TestHiccupWhileKeyStoreIsMade: an HSM that fails once while a key store is made fails
// that alone.
func TestHiccupWhileKeyStoreIsMade(t *testing.T) {
	for _, at := range []string{"wrap", "unwrap"} {
		r := newTroubled(t)
		if err := r.unlock(); err != nil {
			t.Fatal(err)
		}
		r.hsm.set(errHiccup, at)
		if _, err := r.CreateKeyStore(ctx, appliance.KeyStore{Name: "c", URIPathPrefix: "/c"}); fault.CodeOf(err) != fault.Internal {
			t.Errorf("%s: %v", at, err)
		}
		r.wants(t, at, "ab")
		r.hsm.set(nil)
		must(r.CreateKeyStore(ctx, appliance.KeyStore{Name: "c", URIPathPrefix: "/c"}))(t)
		r.wants(t, at+", mended", "ab")
	}
}

// TestHiccupDuringChange: while the HSM is in trouble, administrators' changes that need
// none of it go through, and no key store stops.
func TestHiccupDuringChange(t *testing.T) {
	r := newTroubled(t)
	if err := r.unlock(); err != nil {
		t.Fatal(err)
	}
	r.hsm.set(errHiccup, "wrap", "unwrap")
	for name, change := range map[string]func() error{
		"grant add": func() error {
			return second(r.AddGrant(ctx, "b", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}}))
		},
		"grant remove":      func() error { return r.RemoveGrant(ctx, "b", must(r.Grants(ctx, "b"))(t)[0].ID) },
		"credential create": func() error { _, _, err := r.CreateCredential(ctx, "b", appliance.NewCredential{}); return err },
		"policy":            func() error { return r.SetPolicy(ctx, "b", appliance.Policies{Cedar: ""}) },
		"quota":             func() error { return second(r.SetQuota(ctx, "b", 1000)) },
		"block": func() error {
			if _, err := r.Block(ctx, appliance.BlockTarget{KeyStore: "b"}, "x", "alice"); err != nil {
				return err
			}
			return r.Unblock(ctx, appliance.BlockTarget{KeyStore: "b"})
		},
		"block everything": func() error {
			if _, err := r.Block(ctx, appliance.BlockTarget{Everything: true}, "x", "alice"); err != nil {
				return err
			}
			return r.Unblock(ctx, appliance.BlockTarget{Everything: true})
		},
	} {
		if err := change(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !r.serves("a") {
			t.Errorf("%s: the other key store does not serve", name)
		}
	}
}

// TestHiccupAtUnlock: a key store that the HSM does not open once is out of service alone,
// can be blocked, and comes back by itself.
func TestHiccupAtUnlock(t *testing.T) {
	r := newTroubled(t)
	var once sync.Once
	ring := hiccupRing{Keyring: keyring.New(troubledToken{r.token, r.hsm}), fails: func(id string) (err error) {
		if id == r.ids["b"] {
			once.Do(func() { err = fault.Errorf(fault.Internal, "the HSM failed: CKR_DEVICE_MEMORY") })
		}
		return err
	}}
	if err := r.Unlock(ctx, ring, []appliance.HSM{keyring.Watched(r.token)}); err != nil {
		t.Fatal(err)
	}
	r.wants(t, "after one hiccup", "a")
	must(r.Block(ctx, appliance.BlockTarget{KeyStore: "b"}, "just in case", "alice"))(t)
	r.later()
	if r.serves("b") || len(r.Status(ctx).OutOfService) != 0 {
		t.Errorf("a key store that was blocked while it was out of service is %+v", r.Status(ctx))
	}
	if err := r.Unblock(ctx, appliance.BlockTarget{KeyStore: "b"}); err != nil {
		t.Fatal(err)
	}
	r.wants(t, "back", "ab")
	if !strings.Contains(r.log.String(), "a key store is back in service") {
		t.Error("the log does not say that it is back")
	}
}

// hiccupRing opens keyring keys only if fails says so.
type hiccupRing struct {
	appliance.Keyring
	fails func(keyStore string) error
}

func (r hiccupRing) OpenKeyringKey(ctx context.Context, keyStore string, wrapped []byte) error {
	if err := r.fails(keyStore); err != nil {
		return err
	}
	return r.Keyring.OpenKeyringKey(ctx, keyStore, wrapped)
}

// TestHSMGoneAtUnlock: an HSM that opens no key store is not an unlocked appliance.
func TestHSMGoneAtUnlock(t *testing.T) {
	r := newTroubled(t)
	ring := hiccupRing{keyring.New(troubledToken{r.token, r.hsm}), func(string) error { return fault.Errorf(fault.Internal, "the HSM is away") }}
	if err := r.Unlock(ctx, ring, nil); fault.CodeOf(err) != fault.Internal || !r.Locked() {
		t.Errorf("got %v, locked %t", err, r.Locked())
	}
	if err := r.unlock(); err != nil {
		t.Error(err)
	}
	r.wants(t, "unlocked", "ab")
}

// TestDamagedKeyStoreWhileAway: a damaged wrapped key of one key store and an HSM that is
// away stop no other, also when a row changes meanwhile.
func TestDamagedKeyStoreWhileAway(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "b", "/b", appliancetest.Principal)
	a := b.NewKeyStore(t, "a", "/a", appliancetest.Principal)
	b.NewKey(t, "a", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.Stop()
	edit(t, b.DB, `UPDATE key_stores SET wrapped_key = randomblob(length(wrapped_key)) WHERE name = 'b'`)
	b = appliancetest.Restart(t, b, appliancetest.Options{})
	a.Appliance = b.Appliance
	b.Device.(*appliancetest.Memory).Cut()
	must(b.Appliance.AddGrant(ctx, "a", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}}))(t)
	a.OK(appliancetest.Encrypt("k", "x"))
	must(b.Appliance.Block(ctx, appliance.BlockTarget{Everything: true}, "x", "alice"))(t)
	if err := b.Appliance.Unblock(ctx, appliance.BlockTarget{Everything: true}); err != nil {
		t.Error(err)
	}
	a.OK(appliancetest.Encrypt("k", "x"))
	b.Device.(*appliancetest.Memory).Restore()
	a.OK(appliancetest.Encrypt("k", "x"))
	if out := b.Appliance.Status(ctx).OutOfService; len(out) != 1 || out[0].KeyStore != "b" || !strings.Contains(out[0].Reason, "does not match its seal") {
		t.Errorf("out of service are %+v", out)
	}
}

// TestUnreadAfterChange: a database that cannot be read after a change stops what the
// change concerns and nothing else, and what stopped comes back by itself.
func TestUnreadAfterChange(t *testing.T) {
	quota := func(r *troubled) error { return second(r.SetQuota(ctx, "b", 1000)) }
	blockAll := func(r *troubled) error {
		if _, err := r.Block(ctx, appliance.BlockTarget{Everything: true}, "x", "alice"); err != nil {
			return err
		}
		return nil
	}
	for _, tt := range []struct {
		read   string
		change func(*troubled) error
		serve  string // while it cannot be read
	}{
		{"key stores", quota, "a"}, {"installation", quota, "a"}, {"credentials", quota, "a"}, {"grants", quota, "a"},
		{"key stores", blockAll, ""}, {"credentials", blockAll, ""}, {"grants", blockAll, ""},
	} {
		t.Run(fmt.Sprintf("%s/%s", tt.read, map[bool]string{true: "of one", false: "of all"}[tt.serve != ""]), func(t *testing.T) {
			r := newTroubled(t)
			if err := r.unlock(); err != nil {
				t.Fatal(err)
			}
			r.wants(t, "before", "ab")
			r.db.set(fault.Errorf(fault.Timeout, "the database is busy"), tt.read)
			if err := tt.change(r); err != nil {
				t.Fatal(err)
			}
			for name, c := range r.clients {
				if _, err := c.Call(appliancetest.Encrypt("k", "x")); (err == nil) != strings.Contains(tt.serve, name) {
					t.Errorf("while it cannot be read, key store %s: %v", name, err)
				}
			}
			r.hsm.set(errHiccup, "wrap", "unwrap") // the HSM is not needed: what is open stays open
			r.later()
			if r.serves("b") {
				t.Error("it serves though it cannot be read")
			}
			r.db.set(nil)
			r.later()
			if tt.serve == "" {
				for name := range r.clients {
					r.clients[name].Fails(appliancetest.Encrypt("k", "x"), fault.Conflict) // the block that was made
				}
				if err := r.Unblock(ctx, appliance.BlockTarget{Everything: true}); err != nil {
					t.Fatal(err)
				}
			}
			r.wants(t, "when it can be read", "ab")
		})
	}
}

// TestRetriesBackOff: what fails is tried again with pauses that grow to a minute.
func TestRetriesBackOff(t *testing.T) {
	r := newTroubled(t)
	if err := r.unlock(); err != nil {
		t.Fatal(err)
	}
	read := "grants of " + r.ids["b"]
	r.db.set(fault.Errorf(fault.Timeout, "the database is busy"), read)
	must(r.SetQuota(ctx, "b", 1000))(t)
	before := r.db.count(read)
	for range 600 {
		r.clock.Pass(time.Second)
		r.Recover(ctx)
	}
	if n := r.db.count(read) - before; n < 14 || n > 16 { // after 1, 2, 4, 8, 16, 32 seconds, and each minute then
		t.Errorf("it was tried %d times within ten minutes", n)
	}
	r.db.set(nil)
	r.later()
	r.wants(t, "back", "ab")
}
