package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// vault is a fake of what the appliance seals rows with.
type vault struct {
	mu       sync.Mutex
	none     bool // there is no installation yet
	locked   bool
	early    bool // the first unlock takes rows as they are
	settings map[string]string
}

func (v *vault) state() (none, locked bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.none, v.locked
}

func (v *vault) set(none, locked bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.none, v.locked = none, locked
}

func (v *vault) Writing() func() { return func() {} }

func (v *vault) Installed(context.Context) (bool, error) {
	none, _ := v.state()
	return !none, nil
}

// mac is the seal of the machine, which comes first, or of the state key.
func (v *vault) mac(key string, b appliance.Binding) []byte {
	sum := sha256.Sum256(append([]byte(key), b.AAD()...))
	return sum[:]
}

func (v *vault) Seal(_ context.Context, b appliance.Binding) ([]byte, error) {
	none, locked := v.state()
	if none {
		return v.mac("the machine's key", b), nil
	}
	if locked {
		return nil, fault.Errorf(fault.Locked, "the appliance is locked")
	}
	return append(v.mac("the machine's key", b), v.mac("the state key", b)...), nil
}

func (v *vault) Verify(_ context.Context, b appliance.Binding, seal []byte) error {
	none, locked := v.state()
	if none || locked {
		if err := v.Admit(b, seal); err != nil || none {
			return err
		}
		return fault.Errorf(fault.Locked, "the appliance is locked")
	}
	if len(seal) != 64 || !bytes.Equal(v.mac("the state key", b), seal[32:]) {
		return fault.Errorf(fault.Tampered, "the stored %s does not match its seal", b.Purpose)
	}
	return nil
}

func (v *vault) Held() error { return nil }

// shared is what all unlocked nodes have; the fake seals without hiding anything.
func (v *vault) shared(b appliance.Binding, secret []byte) ([]byte, error) {
	if none, locked := v.state(); none || locked {
		return nil, fault.Errorf(fault.Locked, "the appliance is locked")
	}
	return v.mac("shared", appliance.Binding{Purpose: b.Purpose, Fields: append(slices.Clone(b.Fields), string(secret))}), nil
}

func (v *vault) SealShared(b appliance.Binding, secret []byte) ([]byte, error) {
	mac, err := v.shared(b, secret)
	return append(mac, secret...), err
}

func (v *vault) OpenShared(b appliance.Binding, sealed []byte) ([]byte, error) {
	mac, err := v.shared(b, sealed[min(len(sealed), 32):])
	if err == nil && !bytes.HasPrefix(sealed, mac) {
		err = fault.Errorf(fault.Tampered, "the %s does not match its seal", b.Purpose)
	}
	if err != nil {
		return nil, err
	}
	return sealed[32:], nil
}

func (v *vault) MACShared(b appliance.Binding) ([]byte, error) { return v.shared(b, nil) }

func (v *vault) Admit(b appliance.Binding, seal []byte) error {
	if none, _ := v.state(); v.early && !none {
		return nil
	}
	if len(seal) < 32 || !bytes.Equal(v.mac("the machine's key", b), seal[:32]) {
		return fault.Errorf(fault.Tampered, "the stored %s has no seal of this machine", b.Purpose)
	}
	return nil
}

func (v *vault) Renew(ctx context.Context, b appliance.Binding, seal []byte) ([]byte, error) {
	return v.Seal(ctx, b)
}

func (v *vault) Setting(_ context.Context, name string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, ok := v.settings[name]
	switch {
	case v.locked:
		return value, fault.Errorf(fault.Locked, "the appliance is locked")
	case !ok && v.none:
		return "", fault.Errorf(fault.NotFound, "never set")
	case !ok:
		return "", fault.Errorf(fault.Tampered, "the row is missing")
	}
	return value, nil
}

func (v *vault) SetSetting(_ context.Context, name, value string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.settings[name] = value
	return nil
}

// directory is one with a real database and a clock of the test's.
type directory struct {
	*identity.Directory
	vault *vault
	t     *testing.T
	dir   string
	now   atomic.Int64
	log   bytes.Buffer
}

func (d *directory) clock() time.Time     { return time.UnixMilli(d.now.Load()) }
func (d *directory) pass(x time.Duration) { d.now.Add(x.Milliseconds()) }

func open(t *testing.T, change func(*identity.Config)) *directory {
	t.Helper()
	d := &directory{t: t, dir: t.TempDir(), vault: &vault{settings: map[string]string{appliance.SettingSetup: appliance.SettingOpen}}}
	d.now.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixMilli())
	rows, err := appliancetest.OpenRows(t.Context(), filepath.Join(d.dir, "holdfast.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	c := identity.Config{Store: rows, Seals: d.vault, Settings: d.vault, Now: d.clock, Log: slog.New(slog.NewTextHandler(&d.log, nil)), URL: "https://console.test", SetupFile: filepath.Join(d.dir, "setup-code")}
	if change != nil {
		change(&c)
	}
	if d.Directory, err = identity.New(c); err != nil {
		t.Fatal(err)
	}
	d.HashCheaply(true)
	return d
}

const password = "a sentence long enough"

var (
	from = identity.Client{Address: "192.0.2.1:4711", UserAgent: "test"}
	root = identity.Principal{Name: "local", Role: identity.RoleAdministrator}
)

// user is one who has enrolled by password.
type user struct {
	id, name, secret string
	codes            []string
	token            string
	identity.Principal
}

func (d *directory) enrol(name string, role identity.Role) *user {
	d.t.Helper()
	_, token, err := d.Invite(d.t.Context(), root, name, role)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.accept(token, name)
}

func (d *directory) accept(token, name string) *user {
	d.t.Helper()
	secret, err := d.BeginEnrolPassword(d.t.Context(), token, from)
	if err != nil {
		d.t.Fatal(err)
	}
	in, err := d.FinishEnrolPassword(d.t.Context(), token, password, d.code(secret.Secret), from)
	if err != nil {
		d.t.Fatal(err)
	}
	return &user{in.Principal.UserID, name, secret.Secret, in.RecoveryCodes, in.Token, in.Principal}
}

// code is what the authenticator app shows.
func (d *directory) code(secret string) string {
	d.t.Helper()
	c, err := totp.GenerateCode(secret, d.clock())
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

func wants(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: %v, want the code %q", what, err, code)
	}
}

// TestSetup: the code admits one administrator, and nobody after.
func TestSetup(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	code, err := d.SetupCode(ctx)
	if err != nil || len(code) != 27 {
		t.Fatalf("%q %v", code, err)
	}
	info, err := os.Stat(filepath.Join(d.dir, "setup-code"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for _, wrong := range []string{"", "x", strings.ToLower(code)[1:], code + "A"} {
		_, err := d.RedeemSetupCode(ctx, wrong, "alice", from)
		wants(t, wrong, err, fault.Unauthenticated)
	}
	_, err = d.RedeemSetupCode(ctx, code, "no name at all", from)
	wants(t, "a bad name", err, fault.Invalid)
	first, err := d.RedeemSetupCode(ctx, " "+strings.ToLower(code)+" ", "alice", from)
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.RedeemSetupCode(ctx, code, "mallory", from) // still no user
	if err != nil {
		t.Fatal(err)
	}
	if a := d.accept(first, "alice"); a.Role != identity.RoleAdministrator {
		t.Errorf("the first is %s", a.Role)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "setup-code")); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
	_, err = d.RedeemSetupCode(ctx, code, "eve", from)
	wants(t, "afterwards", err, fault.Unauthenticated)
	secret, err := d.BeginEnrolPassword(ctx, second, from)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.FinishEnrolPassword(ctx, second, password, d.code(secret.Secret), from)
	wants(t, "an invitation of the code, afterwards", err, fault.NotFound)
}

// TestSignIn: each way in which a password does not prove who one is gives the same
// error, and the log says which it was.
func TestSignIn(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a, b := d.enrol("alice", identity.RoleAdministrator), d.enrol("bob", identity.RoleViewer)
	if _, err := d.SetDisabled(ctx, b.id, true); err != nil {
		t.Fatal(err)
	}
	d.pass(time.Minute)
	used := d.code(a.secret)
	if _, err := d.SignInPassword(ctx, "alice", password, used, from); err != nil {
		t.Fatalf("the right password and code: %v", err)
	}
	for _, tt := range []struct{ name, user, password, code, log string }{
		{"nobody", "nobody", password, used, "there is no such user"},
		{"name in other letters", "Alice", password, used, "there is no such user"},
		{"password", "alice", password + "x", d.code(a.secret), "wrong password"},
		{"no password", "alice", "", d.code(a.secret), "wrong password"},
		{"code used before", "alice", password, used, "used before"},
		{"no code", "alice", password, "", "wrong code"},
		{"somebody else's recovery code", "alice", password, b.codes[0], "wrong code"},
		{"disabled", "bob", password, d.code(b.secret), "disabled"},
		{"endless password", "alice", strings.Repeat("x", 1<<20), used, "too long"},
	} {
		d.log.Reset()
		_, err := d.SignInPassword(ctx, tt.user, tt.password, tt.code, from)
		if err != identity.ErrProof || !strings.Contains(d.log.String(), tt.log) {
			t.Errorf("%s: %v; the log: %s", tt.name, err, d.log.String())
		}
	}
	if _, err := d.SignInPassword(ctx, "alice", password, a.codes[3], from); err != nil {
		t.Errorf("a recovery code: %v", err)
	}
	if _, err := d.SignInPassword(ctx, "alice", password, a.codes[3], from); err != identity.ErrProof {
		t.Errorf("the recovery code once more: %v", err)
	}
	if _, err := d.SignInPassword(ctx, "alice", password, strings.ToUpper(strings.ReplaceAll(a.codes[4], "-", " ")), from); err != nil {
		t.Errorf("a recovery code written otherwise: %v", err)
	}
	d.pass(-30 * time.Second) // the app's clock is half a minute behind: before the one that was used
	if _, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), from); err != identity.ErrProof {
		t.Errorf("a code of before the last: %v", err)
	}
}

// TestLockOut: ten failures in a row keep passwords from being looked at for a
// quarter of an hour, the right one too.
func TestLockOut(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	address := 0
	try := func(password string) error {
		address++ // another client each time: the user is locked, not the client
		d.pass(31 * time.Second)
		_, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), identity.Client{Address: "192.0.2." + string(rune('0'+address%10)) + ":1"})
		return err
	}
	for range 9 {
		if try("wrong") != identity.ErrProof {
			t.Fatal("a wrong password was taken")
		}
	}
	if err := try(password); err != nil {
		t.Fatalf("after nine failures: %v", err)
	}
	for range 10 {
		_ = try("wrong")
	}
	if err := try(password); err != identity.ErrProof || !strings.Contains(d.log.String(), "locked out") {
		t.Errorf("after ten failures: %v", err)
	}
	if u, err := d.User(ctx, a.id); err != nil || u.LockedUntil.IsZero() {
		t.Errorf("%+v %v", u, err)
	}
	d.pass(15 * time.Minute)
	if err := try(password); err != nil {
		t.Errorf("a quarter of an hour later: %v", err)
	}
	for range 10 {
		_ = try("wrong")
	}
	if _, err := d.Unlock(ctx, a.id); err != nil {
		t.Fatal(err)
	}
	if err := try(password); err != nil {
		t.Errorf("unlocked by an administrator: %v", err)
	}
}

// TestSessions end when they are idle, old, revoked, or their user changes.
func TestSessions(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		do   func(d *directory, u *user) error
		good bool
	}{
		{"nothing", func(*directory, *user) error { return nil }, true},
		{"14 minutes, twice", func(d *directory, u *user) error {
			d.pass(14 * time.Minute)
			_, err := d.Session(ctx, u.token, true)
			d.pass(14 * time.Minute)
			return err
		}, true},
		{"15 minutes", func(d *directory, _ *user) error { d.pass(15 * time.Minute); return nil }, false},
		{"14 minutes, looked at, two more", func(d *directory, u *user) error {
			d.pass(14 * time.Minute)
			_, err := d.Session(ctx, u.token, false)
			d.pass(2 * time.Minute)
			return err
		}, false},
		{"12 hours, never idle", func(d *directory, u *user) error {
			for range 72 {
				_, _ = d.Session(ctx, u.token, true)
				d.pass(10 * time.Minute)
			}
			return nil
		}, false},
		{"signed out", func(d *directory, u *user) error { return d.SignOut(ctx, u.token) }, false},
		{"revoked", func(d *directory, u *user) error { return d.RevokeSession(ctx, u.Session) }, false},
		{"signed out everywhere", func(d *directory, u *user) error { _, err := d.RevokeSessions(ctx, u.id); return err }, false},
		{"another role", func(d *directory, u *user) error {
			_, err := d.SetRole(ctx, u.id, identity.RoleAuditor)
			return err
		}, false},
		{"disabled", func(d *directory, u *user) error { _, err := d.SetDisabled(ctx, u.id, true); return err }, false},
		{"deleted", func(d *directory, u *user) error { return d.DeleteUser(ctx, u.id) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := open(t, nil)
			d.enrol("admin", identity.RoleAdministrator)
			u := d.enrol("u", identity.RoleViewer)
			if err := tt.do(d, u); err != nil {
				t.Fatal(err)
			}
			p, err := d.Session(ctx, u.token, true)
			if tt.good != (err == nil) || !tt.good && err != identity.ErrProof {
				t.Errorf("%+v %v", p, err)
			}
			if err == nil && (p.Name != "u" || p.Role != identity.RoleViewer || p.ProvenAt.IsZero()) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// TestInvitation is good once, be it used by many at the same time.
func TestInvitation(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	d.enrol("admin", identity.RoleAdministrator)
	_, _, err := d.Invite(ctx, identity.Principal{Name: "k", Role: identity.RoleKeyAdministrator}, "x", identity.RoleAdministrator)
	wants(t, "a role above one's own", err, fault.Forbidden)
	_, _, err = d.Invite(ctx, root, "admin", identity.RoleViewer)
	wants(t, "a name that is taken", err, fault.Exists)
	_, _, err = d.Invite(ctx, root, "x", "king")
	wants(t, "no role", err, fault.Invalid)

	_, token, err := d.Invite(ctx, root, "guest", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := d.BeginEnrolPassword(ctx, token, from)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"short": "too short", "the name": "my guest sentence", "the product's": "holdfast holds fast", "one letter": strings.Repeat("a", 20)} {
		_, err := d.FinishEnrolPassword(ctx, token, bad, d.code(secret.Secret), from)
		wants(t, name, err, fault.Invalid)
	}
	_, err = d.FinishEnrolPassword(ctx, token, password, "000000", from)
	wants(t, "a wrong code", err, fault.Invalid)
	var wg sync.WaitGroup
	var done atomic.Int32
	for range 4 {
		wg.Go(func() {
			if _, err := d.FinishEnrolPassword(ctx, token, password, d.code(secret.Secret), from); err == nil {
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1 {
		t.Errorf("it made %d users", done.Load())
	}
	if _, err := d.OpenInvitation(ctx, token, from); err != identity.ErrProof {
		t.Errorf("afterwards: %v", err)
	}

	i, late, err := d.Invite(ctx, root, "late", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	d.pass(identity.InvitationLifetime)
	if _, err := d.OpenInvitation(ctx, late, from); err != identity.ErrProof {
		t.Errorf("three days later: %v", err)
	}
	if err := d.RevokeInvitation(ctx, i.ID); err != nil {
		t.Error(err)
	}
	wants(t, "revoked twice", d.RevokeInvitation(ctx, i.ID), fault.NotFound)
}

// TestLastAdministrator cannot go.
func TestLastAdministrator(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("a", identity.RoleAdministrator)
	b := d.enrol("b", identity.RoleAdministrator)
	if _, err := d.SetDisabled(ctx, b.id, true); err != nil {
		t.Fatal(err)
	}
	_, err := d.SetRole(ctx, a.id, identity.RoleViewer)
	wants(t, "lowered", err, fault.Conflict)
	_, err = d.SetDisabled(ctx, a.id, true)
	wants(t, "disabled", err, fault.Conflict)
	wants(t, "deleted", d.DeleteUser(ctx, a.id), fault.Conflict)
	if _, err := d.SetDisabled(ctx, b.id, false); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteUser(ctx, a.id); err != nil {
		t.Error(err)
	}
}

// TestTokens expire, are revoked, and have no more rights than their maker.
func TestTokens(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	k := identity.Principal{Name: "k", Role: identity.RoleKeyAdministrator}
	_, _, err := d.CreateToken(ctx, k, identity.NewToken{Name: "t", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	wants(t, "above", err, fault.Forbidden)
	_, _, err = d.CreateToken(ctx, k, identity.NewToken{Name: "t", Role: identity.RoleViewer, Lifetime: 366 * 24 * time.Hour, Scope: identity.Unlimited()})
	wants(t, "too long", err, fault.Invalid)
	made, secret, err := d.CreateToken(ctx, k, identity.NewToken{Name: "t", Role: identity.RoleAuditor, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil || !strings.HasPrefix(secret, "hf_") || len(secret) != 46 {
		t.Fatalf("%q %v", secret, err)
	}
	_, _, err = d.CreateToken(ctx, k, identity.NewToken{Name: "t", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	wants(t, "the same name", err, fault.Exists)
	p, err := d.Bearer(ctx, secret, from)
	if err != nil || p.Role != identity.RoleAuditor || p.Token != made.ID || p.UserID != "" || !p.ProvenAt.IsZero() {
		t.Errorf("%+v %v", p, err)
	}
	d.pass(time.Hour)
	if _, err := d.Bearer(ctx, secret, from); err != identity.ErrProof {
		t.Errorf("an hour later: %v", err)
	}
	_, secret, err = d.CreateToken(ctx, k, identity.NewToken{Name: "u", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.Tokens(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v %v", all, err)
	}
	if _, err := d.RevokeToken(ctx, all[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Bearer(ctx, secret, from); err != identity.ErrProof {
		t.Errorf("revoked: %v", err)
	}
}

// TestNoSecretInTheDatabase: of what proves who somebody is, only digests are
// stored; but for the secret of the authenticator app, which has to be.
func TestNoSecretInTheDatabase(t *testing.T) {
	d := open(t, nil)
	d.HashCheaply(false)
	a := d.enrol("alice", identity.RoleAdministrator)
	_, token, err := d.CreateToken(t.Context(), root, identity.NewToken{Name: "t", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	_, invitation, err := d.Invite(t.Context(), root, "guest", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(d.dir, "holdfast.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	if !bytes.Contains(all, []byte("$argon2id$v=19$m=65536,t=3,p=4$")) || !bytes.Contains(all, []byte(a.secret)) {
		t.Error("the files are not those of the database")
	}
	for _, secret := range []string{password, a.token, token, token[3:], invitation, a.codes[0], strings.ReplaceAll(a.codes[0], "-", "")} {
		if bytes.Contains(all, []byte(secret)) {
			t.Errorf("%s is in the database", secret)
		}
	}
	if strings.Contains(d.log.String(), password) || strings.Contains(d.log.String(), a.token) {
		t.Error("a secret is in the log")
	}
}
