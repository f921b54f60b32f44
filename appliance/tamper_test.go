package appliance_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/sqlite"
	"holdfast/attest"
)

// The tamper matrix: whoever has the disk changes the database in every way that its
// schema allows, and the appliance never serves by another decision than before. It is
// generated from the schema, so that a new table or column is in it by itself.

// leftOut are the tables and columns that no manifest covers, each with the rule that
// makes that right. All others must be covered.
var leftOut = map[string]string{
	"boot_steps":       "a diary for people; nothing reads it to decide",
	"policy_version":   "only rises, in every boot, also before the HSM is there; policy and TCB recovery file are signed, the TPM and the broker know the policy's version, and the daemon seals both",
	"sessions":         "each is sealed by a key of the process, and ends with it",
	"manifest_history": "links that prove that a head is in the past; no others lead to the digest that the manifest seals",
	"goose_db_version": "the schema itself is compared byte for byte",

	"credentials.last_used_at": "for people",
	"api_tokens.last_used_at":  "for people",
	"users.activity":           "each sign-in changes it, also while there is no state key; a used code that is valid again still needs the password",
}

// covered says whether a manifest covers the column.
func covered(table, column string) bool {
	_, t := leftOut[table]
	_, c := leftOut[table+"."+column]
	return !t && !c
}

// memoryAnchor plays the counter of a TPM.
type memoryAnchor struct {
	mu    sync.Mutex
	count uint64
	made  bool
}

func (a *memoryAnchor) Name() string { return "memory" }

func (a *memoryAnchor) Count(context.Context) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.made {
		return 0, fault.Errorf(fault.NotFound, "there is no counter")
	}
	return a.count, nil
}

func (a *memoryAnchor) Raise(_ context.Context, to uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if to > a.count+1 {
		return fmt.Errorf("from %d to %d", a.count, to)
	}
	a.count = max(a.count, to)
	return nil
}

func (a *memoryAnchor) Make(context.Context) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count, a.made = a.count+1, true
	return a.count, nil
}

// copied gives an anchor that stands where this one does.
func (a *memoryAnchor) copied() *memoryAnchor {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &memoryAnchor{count: a.count, made: a.made}
}

// target is a state that is tampered with: its files as they are and as they were, and
// what it decides.
type target struct {
	device *appliancetest.Memory
	dumped []byte // what the device keeps at the end
	clock  *appliancetest.Clock
	anchor *memoryAnchor // nil for none
	logged bool          // there is an audit log beside the database
	// machine is the machine's key, by which users are known while it is locked; nil for none.
	machine appliance.MachineKey

	credentials map[string][2]string // by name
	sealed      map[string]*appliance.Ciphertext
	token       map[string]string // secrets by name
	password    map[string]string // secrets of the authenticator app by user

	// moments are folders with database and log as they were, the last as they are.
	moments []string
	// old and present are databases without a log.
	old, present string
	// decides are all decisions, ofKeys those of requests, ofPeople those about users.
	decides, ofKeys, ofPeople map[string]string
}

// served is an appliance over files of a target.
type served struct {
	*appliance.Appliance
	store     *sqlite.DB
	users     *identity.Directory
	approvals approval.Store
	log       *auditlog.Log // nil for none
	ring      appliance.Keyring
	stop      func()
}

// Admissions, SealAll and Sealed are those of users and requests, at the first unlock.
func (s *served) Admissions(ctx context.Context) ([]appliance.Admitted, error) {
	users, err := s.users.Admissions(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := approval.Admissions(ctx, s.store, s.Seals())
	return append(users, requests...), err
}

func (s *served) SealAll(ctx context.Context, set func(name, value string) error) ([]appliance.Admitted, error) {
	users, err := s.users.SealAll(ctx, set)
	if err != nil {
		return nil, err
	}
	requests, err := approval.SealAll(ctx, s.store, s.Seals())
	return append(users, requests...), err
}

func (s *served) Sealed(context.Context, []appliance.Admitted, appliance.Confirmation) error {
	return nil
}

// start starts an appliance over the folder's database. The error is why it does not
// start, or is locked.
func (g *target) start(t testing.TB, dir string, anchor *memoryAnchor) (*served, error) {
	t.Helper()
	s, err := g.open(t, dir, anchor)
	if err != nil {
		return nil, err
	}
	return s, s.Unlock(ctx, s.ring, nil)
}

// open makes an appliance over the folder's database, which is locked.
func (g *target) open(t testing.TB, dir string, anchor *memoryAnchor) (*served, error) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(ctx, filepath.Join(dir, "holdfast.db"), sqlite.Options{Logger: log, Readers: 2})
	if err != nil {
		return nil, err
	}
	s := &served{store: store}
	o := appliance.Options{Store: store, Log: log, Now: g.clock.Now, Lease: 100000 * time.Hour, Dir: dir, MachineKey: g.machine, Identities: s}
	if anchor != nil {
		o.Anchor = func() appliance.Anchor { return anchor }
	}
	if g.logged {
		if s.log, err = openAuditLog(dir); err != nil {
			_ = store.Close()
			return nil, err
		}
		o.AuditLog, o.AuditHeads = s.log, store.Machine()
	}
	s.Appliance = appliance.New(o)
	device := g.device
	if g.dumped != nil { // each has a token of its own
		device = must(appliancetest.NewMemoryOf(g.dumped))(t)
	}
	token := must(device.Open(ctx, appliancetest.Opening{Log: log, MakingMasterKey: func() error { return s.NoteMasterKey(ctx) }}))(t)
	s.stop = sync.OnceFunc(func() {
		s.Lock()
		_, _ = token.Close(), store.Close()
		if s.log != nil {
			_ = s.log.Close()
		}
	})
	t.Cleanup(s.stop)
	s.users = must(identity.New(identity.Config{Store: store, Seals: s.Seals(), Settings: s, Now: g.clock.Now, Log: log, URL: "https://console.test", SetupFile: filepath.Join(dir, "setup-code")}))(t)
	s.approvals = approval.Sealed(store, s.Seals())
	s.ring = keyring.New(token)
	return s, nil
}

const bob = "arn:aws:iam::123456789012:user/Bob"

var tamperKeys = []string{"enabled", "disabled", "blocked", "forbidden", "rotated", "doomed", "deleted", "in-token", "encrypt-only"}

// newTarget makes a state with every kind of decision in it, and has each of them changed.
func newTarget(t testing.TB, anchored bool) *target { return madeTarget(t, anchored, false) }

// newLoggedTarget makes one with an audit log beside it.
func newLoggedTarget(t testing.TB, anchored bool) *target { return madeTarget(t, anchored, true) }

func madeTarget(t testing.TB, anchored, logged bool) *target {
	t.Helper()
	g := &target{logged: logged, device: appliancetest.NewMemory(), clock: appliancetest.NewClock(), credentials: map[string][2]string{}, sealed: map[string]*appliance.Ciphertext{},
		token: map[string]string{}, password: map[string]string{}}
	if anchored {
		g.anchor = &memoryAnchor{}
	}
	dir := t.TempDir()
	s := must(g.start(t, dir, g.anchor))(t)
	g.found(t, s)
	s.stop() // which empties the log
	s = must(g.start(t, dir, g.anchor))(t)
	g.keep(t, dir)
	g.change(t, s, dir).stop()
	g.dumped = must(g.device.Dump())(t)
	g.old, g.present = checkpointed(t, g.moments[0]), checkpointed(t, dir)
	again := copied(t, g.present)
	if g.logged {
		copyAudit(t, dir, again)
	}
	present, err := g.start(t, again, g.anchorCopy())
	if err != nil {
		t.Fatal(err)
	}
	g.decides, g.ofKeys = g.decisions(t, present), g.keyDecisions(t, present)
	g.ofPeople = map[string]string{}
	g.decisionsOnPeople(t, present, g.ofPeople)
	present.stop()
	return g
}

func (g *target) anchorCopy() *memoryAnchor {
	if g.anchor == nil {
		return nil
	}
	return g.anchor.copied()
}

func tamperDo[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// found makes what there is at first.
func (g *target) found(t testing.TB, s *served) {
	all := []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}
	for _, store := range []string{"demo", "other", "stopped"} {
		tamperDo(t, first(s.CreateKeyStore(ctx, appliance.KeyStore{Name: store, URIPathPrefix: "/" + store})), nil)
		for _, name := range []string{store, store + " deleted", store + " inactive"} {
			c, secret, err := s.CreateCredential(ctx, store, appliance.NewCredential{})
			tamperDo(t, c, err)
			g.credentials[name] = [2]string{c.AccessKeyID, secret}
		}
		must(s.AddGrant(ctx, store, appliance.Grant{Principal: appliancetest.Principal, Operations: all}))(t)
		must(s.AddGrant(ctx, store, appliance.Grant{Principal: bob, Operations: all}))(t)
	}
	make1 := func(store, id, usage string, custody appliance.Custody) {
		u := must(appliance.ParseUsage(usage))(t)
		must(s.CreateKey(ctx, store, appliance.NewExternalKey{ID: id, Usage: u, Custody: custody}))(t)
		g.sealed[store+"/"+id] = must(g.client(t, s, store, store).Call(appliancetest.Encrypt(id, "x")))(t).Ciphertext
	}
	for _, id := range tamperKeys {
		make1("demo", id, map[bool]string{true: "encrypt", false: "encrypt,decrypt"}[id == "encrypt-only"], map[bool]appliance.Custody{true: appliance.CustodyHSM, false: appliance.CustodyCached}[id == "in-token"])
	}
	make1("other", "k", "encrypt,decrypt", appliance.CustodyCached)
	make1("stopped", "k", "encrypt,decrypt", appliance.CustodyCached)
	must(s.AddGrant(ctx, "demo", appliance.Grant{KeyID: "enabled", Principal: bob, Operations: all}))(t)
	must(s.AddGrant(ctx, "demo", appliance.Grant{KeyID: "rotated", Principal: bob, Operations: all}))(t)
	g.people(t, s)
	for i := range 2 {
		if err := s.store.NoteTokenObjects(ctx, &appliance.TokenObject{Label: fmt.Sprintf("holdfast-key-%032x", i), KeyStore: "x", KeyID: fmt.Sprint("y", i), Version: 1, Seal: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
		if err := s.store.Machine().RecordBootStep(ctx, progress.Step{Boot: "boot", Seq: i, State: "serving", Began: g.clock.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	must(s.store.Machine().RaisePolicyVersion(ctx, attest.SignedID{Version: 1}))(t)
}

func first[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// people makes users, tokens, invitations and requests for approval.
func (g *target) people(t testing.TB, s *served) {
	root := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	from := identity.Client{Address: "192.0.2.1:4711", UserAgent: "test"}
	for _, name := range []string{"ann", "ben", "cid"} {
		_, token, err := s.users.Invite(ctx, root, name, identity.RoleAdministrator)
		tamperDo(t, token, err)
		app := must(s.users.BeginEnrolPassword(ctx, token, identity.Client{}))(t)
		in := must(s.users.FinishEnrolPassword(ctx, token, "a sentence long enough", must(totp.GenerateCode(app.Secret, g.clock.Now()))(t), from))(t)
		g.password[name], g.token["session "+name] = app.Secret, in.Token
		_, secret, err := s.users.CreateToken(ctx, root, identity.NewToken{Name: "token-" + name, Role: identity.RoleAdministrator, Lifetime: 24 * 300 * time.Hour, Scope: identity.Unlimited()})
		g.token["bearer "+name] = tamperDo(t, secret, err)
	}
	for i := range 2 {
		r := &approval.Request{ID: fmt.Sprintf("%032x", i), Operation: "op", Method: "POST", Path: "/x", Body: []byte("{}"), UserID: "u", RequestedBy: "ann",
			CreatedAt: g.clock.Now().UTC().Truncate(time.Millisecond), ExpiresAt: g.clock.Now().UTC().Truncate(time.Millisecond).AddDate(1, 0, 0), State: approval.Pending}
		if err := s.approvals.CreateApproval(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	g.invite(t, s, "dan")
}

func (g *target) invite(t testing.TB, s *served, name string) {
	_, token, err := s.users.Invite(ctx, identity.Principal{Name: "local", Role: identity.RoleAdministrator}, name, identity.RoleAdministrator)
	g.token["invitation "+name] = tamperDo(t, token, err)
}

// change changes each decision, and keeps the files after each. Half-way it starts the
// appliance once more, so that the log is begun again. It gives the one that runs.
func (g *target) change(t testing.TB, s *served, dir string) *served {
	grantOf := func(store, key, principal string) string {
		list := must(s.Grants(ctx, store))(t)
		return list[slices.IndexFunc(list, func(x *appliance.Grant) bool { return x.Principal == principal && x.KeyID == key })].ID
	}
	user := func(name string) string {
		list := must(s.users.Users(ctx))(t)
		return list[slices.IndexFunc(list, func(u *identity.User) bool { return u.Name == name })].ID
	}
	for i, step := range []func() error{
		func() error { return errorOf(s.SetKeyEnabled(ctx, "demo", "disabled", false)) },
		func() error {
			return errors.Join(errorOf(s.ScheduleDeletion(ctx, "demo", "deleted", 7)), func() error { g.clock.Pass(8 * day); s.DeleteDueKeys(ctx); return nil }())
		},
		func() error { return s.DeleteCredential(ctx, "demo", g.credentials["demo deleted"][0]) },
		func() error { return s.RemoveGrant(ctx, "demo", grantOf("demo", "", bob)) },
		func() error {
			return errorOf(s.AddGrant(ctx, "demo", appliance.Grant{KeyID: "forbidden", Effect: appliance.EffectForbid, Principal: appliancetest.Principal, Operations: []appliance.Operation{appliance.OpDecrypt}, NotAfter: g.clock.Now().AddDate(1, 0, 0)}))
		},
		func() error {
			return errors.Join(errorOf(s.SetQuota(ctx, "other", 100000)), s.SetPolicy(ctx, "other", appliance.Policies{Cedar: `forbid (principal, action, resource);`}), s.RemoveGrant(ctx, "demo", grantOf("demo", "enabled", bob)))
		},
		func() error {
			return errorOf(s.SetCredentialActive(ctx, "demo", g.credentials["demo inactive"][0], false))
		},
		func() error {
			_, err := s.users.RevokeToken(ctx, must(s.users.Tokens(ctx))(t)[0].ID)
			g.invite(t, s, "eve")
			return errors.Join(err, errorOf(s.users.SetDisabled(ctx, user("ben"), true)), errorOf(s.users.SetRole(ctx, user("cid"), identity.RoleAuditor)))
		},
		func() error {
			r := *must(s.approvals.Approval(ctx, fmt.Sprintf("%032x", 0)))(t)
			was := r
			r.State, r.DecidedBy, r.DecidedAt = approval.Rejected, "ben", g.clock.Now().UTC().Truncate(time.Millisecond)
			return errors.Join(s.approvals.DecideApproval(ctx, &r, &was), s.SetSetting(ctx, appliance.SettingFourEyes, `{"operations":["scheduleKeyDeletion"]}`),
				s.SetSetting(ctx, appliance.SettingBootstrap, appliance.SettingDone))
		},
		func() error {
			return errors.Join(errorOf(s.RotateKey(ctx, "demo", "rotated", nil)), errorOf(s.ScheduleDeletion(ctx, "demo", "doomed", 30)), errorOf(s.Block(ctx, appliance.BlockTarget{KeyStore: "stopped"}, "a test", "alice")),
				s.store.StrikeTokenObject(ctx, fmt.Sprintf("holdfast-key-%032x", 1), []byte{1}), errorOf(s.store.Machine().RaisePolicyVersion(ctx, attest.SignedID{Version: 2})))
		},
		func() error {
			return errorOf(s.Block(ctx, appliance.BlockTarget{KeyStore: "demo", KeyID: "blocked"}, "a test", "alice"))
		},
	} {
		if err := errors.Join(step(), s.record(i)); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		g.keep(t, dir)
		if i == 4 {
			s.stop()
			s = must(g.start(t, dir, g.anchor))(t)
		}
	}
	return s
}

// keep copies the files as they are.
func (g *target) keep(t testing.TB, dir string) {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"holdfast.db", "holdfast.db-wal"} {
		if content, err := os.ReadFile(filepath.Join(dir, name)); err == nil || name == "holdfast.db" {
			must(content, err)(t)
			copyFile(t, filepath.Join(dir, name), filepath.Join(to, name))
		}
	}
	if g.logged {
		copyAudit(t, dir, to)
	}
	g.moments = append(g.moments, to)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, must(os.ReadFile(from))(t), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copied gives a new folder with the database.
func copied(t testing.TB, db string) string {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, db, filepath.Join(dir, "holdfast.db"))
	return dir
}

// checkpointed gives the database of a folder as one file.
func checkpointed(t testing.TB, from string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"holdfast.db", "holdfast.db-wal"} {
		if _, err := os.Stat(filepath.Join(from, name)); err == nil {
			copyFile(t, filepath.Join(from, name), filepath.Join(dir, name))
		}
	}
	file := filepath.Join(dir, "holdfast.db")
	db := must(sql.Open("sqlite", file))(t)
	must(db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`))(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func (g *target) client(t testing.TB, s *served, store, credential string) *appliancetest.Client {
	c := g.credentials[credential]
	return &appliancetest.Client{T: t, Appliance: s.Appliance, URIPathPrefix: "/" + store, AccessKeyID: c[0], SecretAccessKey: c[1]}
}

func said1(err error, ok string) string {
	if err != nil {
		return "refused: " + string(fault.CodeOf(err))
	}
	return ok
}

// decisions asks for every decision.
func (g *target) decisions(t testing.TB, s *served) map[string]string {
	t.Helper()
	out := g.keyDecisions(t, s)
	for name := range g.credentials {
		store, _, _ := strings.Cut(name, " ")
		key := map[bool]string{true: "enabled", false: "k"}[store == "demo"]
		_, err := g.client(t, s, store, name).Call(appliancetest.Attributes(key))
		out["credential "+name] = said1(err, "good")
	}
	stores, err := s.KeyStores(ctx)
	out["key stores"] = said1(err, "")
	for _, name := range []string{"demo", "other", "stopped"} {
		out["key store "+name] = "refused: " + string(fault.Tampered)
	}
	for _, ks := range stores {
		if !ks.Unmatched { // otherwise all its requests are refused; lists show what is there
			out["key store "+ks.Name] = fmt.Sprint(ks.RequestsPerSecond, ks.Policy, ks.Blocked, ks.URIPathPrefix)
		}
	}
	g.decisionsOnPeople(t, s, out)
	return out
}

// keyDecisions asks for those of requests.
func (g *target) keyDecisions(t testing.TB, s *served) map[string]string {
	t.Helper()
	out := map[string]string{}
	ask := func(c *appliancetest.Client, store, key, principal string) {
		for _, r := range []appliancetest.Request{appliancetest.Encrypt(key, "x"), appliancetest.Decrypt(key, g.sealed[store+"/"+key]), appliancetest.Attributes(key)} {
			if r.Context.Operation == appliance.OpEncrypt && key != "enabled" && key != "disabled" && key != "blocked" {
				continue // it counts, and is written
			}
			r.Context.Principal = principal
			a, err := c.Call(r)
			out[fmt.Sprintf("%s %s/%s by %s", r.Context.Operation, store, key, principal)] = said1(err, fmt.Sprint(a.Plaintext, a.Key.State, a.Key.Usage, a.Key.CurrentVersion, a.Key.Blocked))
		}
	}
	for _, key := range tamperKeys {
		ask(g.client(t, s, "demo", "demo"), "demo", key, appliancetest.Principal)
		ask(g.client(t, s, "demo", "demo"), "demo", key, bob)
	}
	ask(g.client(t, s, "other", "other"), "other", "k", appliancetest.Principal)
	ask(g.client(t, s, "stopped", "stopped"), "stopped", "k", appliancetest.Principal)
	return out
}

func (g *target) decisionsOnPeople(t testing.TB, s *served, out map[string]string) {
	t.Helper()
	from := identity.Client{Address: "192.0.2.1:4711", UserAgent: "test"}
	users, err := s.users.Users(ctx)
	out["users"] = said1(err, "")
	for _, name := range []string{"ann", "ben", "cid"} {
		out["user "+name] = "refused: " + string(fault.NotFound)
	}
	for _, u := range users {
		_, err := s.users.Principal(ctx, u.ID, "")
		out["user "+u.Name] = said1(err, "") + fmt.Sprint(u.ID, u.Role, u.Disabled, u.Password, u.OIDC, u.RecoveryCodes)
		if u.Refused {
			out["user "+u.Name] = "refused: " + string(fault.Tampered)
		}
	}
	for name, secret := range g.token {
		var err error
		ok := ""
		switch what, _, _ := strings.Cut(name, " "); what {
		case "bearer":
			var p identity.Principal
			p, err = s.users.Bearer(ctx, secret, from)
			ok = fmt.Sprint(p.Role, p.Name)
		case "invitation":
			var i identity.Invitation
			i, err = s.users.OpenInvitation(ctx, secret, identity.Client{})
			ok = fmt.Sprint(i.Name, i.Role)
		case "session":
			var p identity.Principal
			p, err = s.users.Session(ctx, secret, false)
			ok = fmt.Sprint(p.Role, p.Name)
		}
		out[name] = said1(err, ok)
	}
	for _, name := range []string{appliance.SettingFourEyes, appliance.SettingSetup, appliance.SettingBootstrap} {
		v, err := s.Setting(ctx, name)
		out["setting "+name] = said1(err, v)
	}
	for i := range 2 {
		r, err := s.approvals.Approval(ctx, fmt.Sprintf("%032x", i))
		if err != nil {
			out[fmt.Sprint("approval ", i)] = said1(err, "")
		} else {
			out[fmt.Sprint("approval ", i)] = fmt.Sprint(r.State, r.Operation, r.Path)
		}
	}
	notes, err := s.store.TokenObjects(ctx)
	out["notes"] = said1(err, "")
	out[fmt.Sprintf("note holdfast-key-%032x", 0)] = "refused: " + string(fault.Tampered) // nothing is destroyed
	for _, n := range notes {
		if !n.Unmatched {
			out["note "+n.Label] = fmt.Sprint(n.KeyStore, n.KeyID, n.Version)
		}
	}
}

// refusals are the codes that refuse a request since what it needs is not what it was, cannot
// be read, or since the state is held meanwhile.
var refusals = []fault.Code{fault.Tampered, fault.Locked, fault.StateChanged, fault.StateSchema, fault.Internal}

// differing gives the decisions that are other than they were, and not refusals of that thing.
func differing(c tampering, want, got map[string]string) (list []string) {
	refusals := refusals
	if c.table == "key_stores" && (c.column == "uri_path_prefix" || c.column == "") { // there is no such prefix any more
		refusals = append(slices.Clone(refusals), fault.NotFound)
	}
	all := maps.Clone(want)
	maps.Copy(all, got)
	for name := range all {
		was, is := want[name], got[name]
		code, refused := strings.CutPrefix(is, "refused: ")
		if was != is && !(refused && (slices.Contains(refusals, fault.Code(code)) || !ofRequests(name))) {
			list = append(list, fmt.Sprintf("%s: %q, and was %q", name, is, was))
		}
	}
	slices.Sort(list)
	return list
}

// otherwise gives what is decided otherwise than before the change. While the state is held,
// requests are refused, and users sign in by the rows that there are, to look and to accept.
func (g *target) otherwise(t testing.TB, c tampering, s *served) []string {
	t.Helper()
	if s.Held() != nil {
		return differing(c, g.ofKeys, g.keyDecisions(t, s))
	}
	return differing(c, g.decides, g.decisions(t, s))
}

// ofRequests says whether a decision is that of a request for a key.
func ofRequests(name string) bool {
	what, _, _ := strings.Cut(name, " ")
	return slices.Contains([]string{string(appliance.OpEncrypt), string(appliance.OpDecrypt), string(appliance.OpGetAttributes), "credential"}, what)
}

// column is one of the schema.
type column struct{ table, name, kind string }

// schemaOfDatabase reads tables, columns and keys from the database itself.
func schemaOfDatabase(t testing.TB, file string) (tables []string, columns []column, keys, unique map[string][]string) {
	t.Helper()
	db := must(sql.Open("sqlite", file))(t)
	defer db.Close()
	list := func(query string, args ...any) (out [][]string) {
		rows := must(db.Query(query, args...))(t)
		defer rows.Close()
		for n := len(must(rows.Columns())(t)); rows.Next(); {
			values, into := make([]string, n), make([]any, n)
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			out = append(out, values)
		}
		return out
	}
	keys, unique = map[string][]string{}, map[string][]string{}
	for _, r := range list(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`) {
		table := r[0]
		tables = append(tables, table)
		for _, c := range list(`SELECT name, type, pk FROM pragma_table_info(?) ORDER BY pk`, table) {
			columns = append(columns, column{table, c[0], c[1]})
			if c[2] != "0" {
				keys[table] = append(keys[table], c[0])
			}
		}
		for _, c := range list(`SELECT DISTINCT i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i WHERE l."unique"`, table) {
			unique[table] = append(unique[table], c[0])
		}
	}
	return tables, columns, keys, unique
}

// tampering is one change of the database by somebody else.
type tampering struct {
	name       string
	table      string
	column     string // empty for a change of rows
	schema     bool   // of the schema
	statements []string
}

// tamperings gives all of them.
func (g *target) tamperings(t testing.TB) (list []tampering) {
	t.Helper()
	tables, columns, keys, unique := schemaOfDatabase(t, g.present)
	for _, c := range columns {
		empty := map[string]string{"INTEGER": "0", "TEXT": "''", "BLOB": "x''"}[c.kind]
		other := map[string]string{"INTEGER": "coalesce(%[1]s, 0) + 1", "TEXT": "coalesce(%[1]s, '') || 'x'", "BLOB": "CAST(coalesce(%[1]s, x'') || x'00' AS BLOB)"}[c.kind]
		if empty == "" {
			empty, other = "''", "%[1]s || 'x'"
		}
		k := strings.Join(keys[c.table], ", ")
		on := make([]string, len(keys[c.table]))
		for i, name := range keys[c.table] {
			on[i] = fmt.Sprintf("o.%[1]s IS a.%[1]s", name)
		}
		one := func(condition string) string {
			return fmt.Sprintf(` WHERE (%[1]s) IN (SELECT %[1]s FROM (SELECT * FROM %[2]s) a WHERE %[3]s LIMIT 1)`, k, c.table, condition)
		}
		earlier := fmt.Sprintf(`FROM old.%s o WHERE %s`, c.table, strings.ReplaceAll(strings.Join(on, " AND "), "a.", c.table+"."))
		for name, set := range map[string][2]string{
			"NULL":          {"NULL", fmt.Sprintf("a.%s IS NOT NULL", c.name)},
			"empty":         {empty, fmt.Sprintf("a.%s IS NOT %s", c.name, empty)},
			"another value": {fmt.Sprintf(other, c.name), "true"},
			"another row's": {fmt.Sprintf("(SELECT b.%[1]s FROM (SELECT * FROM %[2]s) b WHERE b.%[1]s IS NOT %[2]s.%[1]s LIMIT 1)", c.name, c.table), fmt.Sprintf("EXISTS (SELECT 1 FROM %[2]s b WHERE b.%[1]s IS NOT a.%[1]s)", c.name, c.table)},
			"older":         {fmt.Sprintf("(SELECT o.%s %s)", c.name, earlier), fmt.Sprintf("EXISTS (SELECT 1 FROM old.%s o WHERE %s AND o.%[3]s IS NOT a.%[3]s)", c.table, strings.Join(on, " AND "), c.name)},
		} {
			list = append(list, tampering{name: c.table + "." + c.name + " " + name, table: c.table, column: c.name, statements: []string{fmt.Sprintf(`UPDATE %s SET %s = %s`, c.table, c.name, set[0]) + one(set[1])}})
		}
	}
	for _, table := range tables {
		var row []string
		for _, c := range columns {
			if c.table != table {
				continue
			}
			value := c.name
			if slices.Contains(keys[table], c.name) && c.name != "key_store" && c.name != "key_id" || slices.Contains(unique[table], c.name) && len(unique[table]) <= 3 && c.name != "key_store" && c.name != "key_id" {
				value = map[string]string{"INTEGER": "%s + 1000", "TEXT": "%s || 'x'", "BLOB": "CAST(%s || x'00' AS BLOB)"}[c.kind]
				value = fmt.Sprintf(value, c.name)
			}
			row = append(row, value)
		}
		var names []string
		for _, c := range columns {
			if c.table == table {
				names = append(names, c.name)
			}
		}
		k := strings.Join(keys[table], ", ")
		n, into := strings.Join(names, ", "), strings.Join(row, ", ")
		rows := map[string][]string{
			"one row deleted":        {fmt.Sprintf(`DELETE FROM %[1]s WHERE (%[2]s) IN (SELECT %[2]s FROM %[1]s LIMIT 1)`, table, k)},
			"last row deleted":       {fmt.Sprintf(`DELETE FROM %[1]s WHERE (%[2]s) IN (SELECT %[2]s FROM %[1]s ORDER BY %[3]s DESC LIMIT 1)`, table, k, keys[table][len(keys[table])-1])},
			"all rows deleted":       {`DELETE FROM ` + table},
			"row duplicated":         {fmt.Sprintf(`INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[1]s LIMIT 1`, table, n, into)},
			"rows of before back in": {fmt.Sprintf(`INSERT OR IGNORE INTO %[1]s SELECT * FROM old.%[1]s`, table)},
			"as it was before":       {`DELETE FROM ` + table, fmt.Sprintf(`INSERT INTO %[1]s SELECT * FROM old.%[1]s`, table)},
		}
		for name, statements := range rows {
			list = append(list, tampering{name: table + ": " + name, table: table, statements: statements})
		}
		schema := map[string][]string{
			"replaced by a view": {`PRAGMA legacy_alter_table = 1`, fmt.Sprintf(`ALTER TABLE %[1]s RENAME TO %[1]s_x`, table), fmt.Sprintf(`CREATE VIEW %[1]s AS SELECT * FROM %[1]s_x`, table)},
			"trigger":            {fmt.Sprintf(`CREATE TRIGGER mine AFTER UPDATE ON %s BEGIN SELECT 1; END`, table)},
			"undoing trigger":    {fmt.Sprintf(`CREATE TRIGGER mine AFTER UPDATE ON %[1]s BEGIN UPDATE %[1]s SET %[2]s = OLD.%[2]s; END`, table, names[len(names)-1])},
			"index":              {fmt.Sprintf(`CREATE INDEX mine ON %s (%s)`, table, names[0])},
			"column":             {fmt.Sprintf(`ALTER TABLE %s ADD COLUMN mine TEXT`, table)},
			"dropped":            {`DROP TABLE ` + table},
		}
		for name, statements := range schema {
			list = append(list, tampering{name: table + ": " + name, table: table, schema: true, statements: statements})
		}
	}
	for name, statement := range map[string]string{
		"virtual table": `CREATE VIRTUAL TABLE mine USING fts5(x)`, "view": `CREATE VIEW mine AS SELECT 1`, "table": `CREATE TABLE mine (x)`,
		"the trigger of the issue": `CREATE TRIGGER mine AFTER UPDATE ON external_keys BEGIN UPDATE external_keys SET state = OLD.state, block_since = OLD.block_since, block_reason = OLD.block_reason, seal = OLD.seal WHERE id = OLD.id; END`,
	} {
		list = append(list, tampering{name: name, schema: true, statements: []string{statement}})
	}
	slices.SortFunc(list, func(a, b tampering) int { return strings.Compare(a.name, b.name) })
	return list
}

// tamper makes the change. It gives false if the change changes nothing, such as where no row
// has an older value, or if SQLite cannot write such a row at all.
func (g *target) tamper(t testing.TB, file string, c tampering) (changed bool) {
	t.Helper()
	err := g.try(t, file, c, &changed)
	if err == nil {
		return changed
	}
	if !strings.Contains(err.Error(), "NOT NULL") || c.schema {
		if !strings.Contains(err.Error(), "constraint") && !strings.Contains(err.Error(), "cannot store") {
			t.Errorf("%s: %v", c.name, err)
		}
		return false
	}
	// With the schema rewritten for a moment, any column can be NULL.
	var was string
	rewrite := func(text string) {
		db := must(sql.Open("sqlite", file))(t)
		defer db.Close()
		db.SetMaxOpenConns(1)
		must(db.Exec(`PRAGMA writable_schema = 1`))(t)
		must(db.Exec(`UPDATE sqlite_schema SET sql = ? WHERE name = ?`, text, c.table))(t)
	}
	db := must(sql.Open("sqlite", file))(t)
	if err := db.QueryRow(`SELECT sql FROM sqlite_schema WHERE name = ?`, c.table).Scan(&was); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	rewrite(strings.ReplaceAll(was, "NOT NULL", ""))
	err = g.try(t, file, c, &changed)
	rewrite(was)
	return err == nil && changed
}

func (g *target) try(t testing.TB, file string, c tampering, changed *bool) error {
	t.Helper()
	db := must(sql.Open("sqlite", file+"?_pragma=busy_timeout(5000)"))(t)
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range []string{`PRAGMA ignore_check_constraints = 1`, `PRAGMA foreign_keys = 0`, fmt.Sprintf(`ATTACH '%s' AS old`, g.old)} {
		must(db.Exec(s))(t)
	}
	if !c.schema {
		must(db.Exec(`CREATE TEMP TABLE as_before AS SELECT * FROM main.` + c.table))(t)
	}
	for _, s := range c.statements {
		if _, err := db.Exec(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if *changed = c.schema; !c.schema {
		return db.QueryRow(fmt.Sprintf(`SELECT EXISTS (SELECT * FROM main.%[1]s EXCEPT SELECT * FROM as_before) OR EXISTS (SELECT * FROM as_before EXCEPT SELECT * FROM main.%[1]s)`, c.table)).Scan(changed)
	}
	return nil
}

// counts are how the cases ended.
type counts struct {
	mu sync.Mutex
	of map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[what]++
}

// each runs the cases of a matrix side by side.
func each[T any](t *testing.T, cases []T, f func(t *testing.T, c T, n *counts)) {
	t.Helper()
	n, queue := &counts{}, make(chan T)
	t.Run("cases", func(t *testing.T) {
		for range max(2, runtime.GOMAXPROCS(0)) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for c := range queue {
					t.Run("", func(t *testing.T) { f(t, c, n) })
				}
			})
		}
		go func() {
			for i, c := range cases {
				if i%oneIn == 0 {
					queue <- c
				}
			}
			close(queue)
		}()
	})
	t.Logf("%d cases: %v", len(cases), n.of)
}

// TestTamperedStopped edits the database while the appliance is stopped, and starts it.
func TestTamperedStopped(t *testing.T) {
	g := newTarget(t, false)
	each(t, g.tamperings(t), func(t *testing.T, c tampering, n *counts) {
		dir := copied(t, g.present)
		if !g.tamper(t, filepath.Join(dir, "holdfast.db"), c) {
			n.add("changes nothing")
			return
		}
		s, err := g.start(t, dir, nil)
		if err != nil {
			n.add("locked: " + string(fault.CodeOf(err)))
			if c.schema && fault.CodeOf(err) != fault.StateSchema {
				t.Errorf("%s: %v", c.name, err)
			}
			ownCode(t, c.name, s, err)
			if s == nil && c.name != "goose_db_version: last row deleted" && !strings.Contains(err.Error(), c.table) { // no list of sets is to be had
				t.Errorf("%s: the refusal does not say which table: %v", c.name, err)
			}
			if s != nil {
				s.stop()
			}
			return
		}
		status := must(s.VerifyState(ctx))(t)
		noticed := len(status.Damaged) > 0 || status.Held != ""
		if c.schema && c.table != "goose_db_version" || !c.schema && noticed != covered(c.table, c.column) {
			t.Errorf("%s: a manifest notices it: %v, and the list of what is left out says that it does: %v", c.name, noticed, covered(c.table, c.column))
		}
		for _, d := range g.otherwise(t, c, s) {
			t.Errorf("%s: %s", c.name, d)
		}
		n.add(map[bool]string{true: "that thing refused", false: "left out, and decides nothing"}[noticed])
		s.stop()
	})
}

// ownCode says that a state is not opened for a reason of its own.
func ownCode(t *testing.T, name string, s *served, err error) {
	t.Helper()
	code := fault.CodeOf(err)
	if !strings.HasPrefix(string(code), "E_STATE_") && code != fault.Tampered || s == nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: it has no code of the state, or more than one line: %v", name, err)
	}
}

// TestTamperedRunning edits the database by another connection while the appliance runs. From
// the next change or check on, and at once for a key that is not in memory, nothing is
// decided otherwise.
func TestTamperedRunning(t *testing.T) {
	g := newTarget(t, false)
	cases := slices.DeleteFunc(g.tamperings(t), func(c tampering) bool {
		return c.column != "" && !strings.HasSuffix(c.name, "older") && !strings.HasSuffix(c.name, "another value")
	})
	each(t, cases, func(t *testing.T, c tampering, n *counts) {
		dir := copied(t, g.present)
		s := must(g.start(t, dir, nil))(t)
		defer s.stop()
		if !g.tamper(t, filepath.Join(dir, "holdfast.db"), c) {
			n.add("changes nothing")
			return
		}
		if slices.Contains([]string{"external_keys", "key_versions", "grants"}, c.table) && !c.schema {
			for _, d := range differing(c, g.ofKeys, g.keyDecisions(t, s)) { // no key is in memory yet
				t.Errorf("%s: a key that is read: %s", c.name, d)
			}
		}
		if slices.Contains([]string{"users", "sessions", "api_tokens", "invitations", "settings", "approvals", "token_objects"}, c.table) && !c.schema {
			out := map[string]string{}
			g.decisionsOnPeople(t, s, out)
			if !s.Locked() { // otherwise the first of these has noticed it
				for _, d := range differing(c, g.ofPeople, out) {
					t.Errorf("%s: at once: %s", c.name, d)
				}
			}
		}
		status, err := s.VerifyState(ctx)
		code := fault.CodeOf(err)
		if err == nil {
			code = status.HeldCode
		}
		noticed := code != "" || len(status.Damaged) > 0
		if c.schema && c.table != "goose_db_version" && code != fault.StateSchema {
			t.Errorf("%s: the check says %q: %v", c.name, code, err)
		}
		// A session is held against memory when it is read, and is of no manifest.
		if !c.schema && c.table != "sessions" && noticed != covered(c.table, c.column) {
			t.Errorf("%s: the check notices it: %v", c.name, noticed)
		}
		if code != "" {
			appliancetest.Eventually(t, c.name+": it is held", func() bool { return s.Held() != nil })
		}
		for _, d := range g.otherwise(t, c, s) {
			t.Errorf("%s: %s", c.name, d)
		}
		n.add(map[bool]string{true: "noticed: " + string(code), false: "left out, and decides nothing"}[noticed])
	})
}

// TestTamperedBeforeAChange does it with a change in place of the check.
func TestTamperedBeforeAChange(t *testing.T) {
	g := newTarget(t, false)
	cases := slices.DeleteFunc(g.tamperings(t), func(c tampering) bool {
		return c.column != "" && !strings.HasSuffix(c.name, "older")
	})
	each(t, cases, func(t *testing.T, c tampering, n *counts) {
		dir := copied(t, g.present)
		s := must(g.start(t, dir, nil))(t)
		defer s.stop()
		g.decisions(t, s) // has all keys in memory
		if !g.tamper(t, filepath.Join(dir, "holdfast.db"), c) {
			n.add("changes nothing")
			return
		}
		_, changed := s.AddGrant(ctx, "demo", appliance.Grant{Principal: "arn:aws:iam::123456789012:user/Dan", Operations: []appliance.Operation{appliance.OpDecrypt}})
		if c.schema && c.table != "goose_db_version" && changed == nil {
			t.Errorf("%s: a change is made in a schema that is not Holdfast's", c.name)
		}
		if appliance.IsHeld(changed) || fault.CodeOf(changed) == fault.StateSchema {
			appliancetest.Eventually(t, c.name+": it is held", func() bool { return s.Held() != nil })
		}
		for _, d := range g.otherwise(t, c, s) {
			t.Errorf("%s: %s", c.name, d)
		}
		n.add(map[bool]string{true: "the change is made", false: "the change is refused: " + string(fault.CodeOf(changed))}[changed == nil])
	})
}

// files are a database and its log as they were at two moments.
type files struct {
	name     string
	database string // folders
	log      string // empty for none
	// offset is from where on 4 KiB of the log are garbled, or where it is cut off; -1 for
	// neither.
	offset int64
	cut    bool
}

const garbled = 4096

// putBacks gives database and log of each earlier moment, together and singly, and the present
// ones with the log garbled or cut off at every 4 KiB.
func (g *target) putBacks(t testing.TB) (list []files) {
	t.Helper()
	last := len(g.moments) - 1
	present := g.moments[last]
	for i, m := range g.moments[:last] {
		list = append(list,
			files{fmt.Sprintf("both of moment %d", i), m, m, -1, false},
			files{fmt.Sprintf("database of moment %d, log of now", i), m, present, -1, false},
			files{fmt.Sprintf("database of now, log of moment %d", i), present, m, -1, false},
			files{fmt.Sprintf("database of now without its log, log of moment %d", i), g.present, m, -1, false},
			files{fmt.Sprintf("database of moment %d, no log", i), m, "", -1, false})
	}
	list = append(list, files{"no log", present, "", -1, false}, files{"all as it is", present, present, -1, false})
	size := must(os.Stat(filepath.Join(present, "holdfast.db-wal")))(t).Size()
	for at := int64(0); at < size; at += garbled {
		list = append(list, files{fmt.Sprintf("log garbled at %d of %d", at, size), present, present, at, false}, files{fmt.Sprintf("log cut off at %d of %d", at, size), present, present, at, true})
	}
	return list
}

func (f files) write(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db := f.database
	if info := must(os.Stat(db))(t); info.IsDir() {
		db = filepath.Join(db, "holdfast.db")
	}
	copyFile(t, db, filepath.Join(dir, "holdfast.db"))
	if f.log == "" {
		return dir
	}
	wal, err := os.ReadFile(filepath.Join(f.log, "holdfast.db-wal"))
	if errors.Is(err, os.ErrNotExist) {
		return dir // it was empty
	}
	must(wal, err)(t)
	switch {
	case f.offset >= 0 && f.cut:
		wal = wal[:f.offset]
	case f.offset >= 0:
		for i := f.offset; i < min(f.offset+garbled, int64(len(wal))); i++ {
			wal[i] ^= 0x5a
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "holdfast.db-wal"), wal, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPutBack puts database and log back to earlier moments, and damages the log. With an
// anchor nothing but the present state is served.
func TestPutBack(t *testing.T) {
	g := newTarget(t, true)
	each(t, g.putBacks(t), func(t *testing.T, f files, n *counts) {
		s, err := g.start(t, f.write(t), g.anchor.copied())
		if s != nil {
			defer s.stop()
		}
		if err != nil {
			n.add("locked: " + string(fault.CodeOf(err)))
			ownCode(t, f.name, s, err)
			if s != nil && s.Held() == nil && fault.CodeOf(err) != fault.Tampered && fault.CodeOf(err) != fault.StateRolledBack {
				t.Errorf("%s: %v", f.name, err)
			}
			if f.name == "all as it is" {
				t.Errorf("%s: %v", f.name, err)
			}
			return
		}
		for _, d := range differing(tampering{}, g.decides, g.decisions(t, s)) {
			t.Errorf("%s: %s", f.name, d)
		}
		n.add("the present state serves")
	})
}

// TestPutBackWithoutAnchor does that where there is no anchor. A database that is put back
// whole, or whose log is cut off between two changes, cannot be told from that of then. Any
// other damage is noticed, at the next start too, or nothing is missing.
func TestPutBackWithoutAnchor(t *testing.T) {
	g := newTarget(t, false)
	past := map[string]bool{}
	for _, m := range g.moments {
		past[g.decidesAt(t, files{"", m, m, -1, false})] = true
	}
	each(t, g.putBacks(t), func(t *testing.T, f files, n *counts) {
		dir := f.write(t)
		s, err := g.start(t, dir, nil)
		if s != nil {
			s.stop()
		}
		if err != nil {
			n.add("locked: " + string(fault.CodeOf(err)))
			ownCode(t, f.name, s, err)
			again, err2 := g.start(t, dir, nil)
			if fault.CodeOf(err2) != fault.CodeOf(err) {
				t.Errorf("%s: %v, and at the next start %v", f.name, err, err2)
			}
			if again != nil {
				again.stop()
			}
			return
		}
		at := g.decidesAt(t, files{"", dir, "", -1, false})
		switch {
		case at == fmt.Sprint(g.decides):
			n.add("the present state serves")
		case f.offset >= 0 && !f.cut && f.offset < g.lastCommit(t, f.log):
			t.Errorf("%s: an earlier state serves, and changes that were answered follow", f.name)
		case past[at]:
			n.add("not noticed without an anchor: a whole state of before")
		default:
			n.add("not noticed without an anchor: a state of between two moments")
		}
	})
}

// decidesAt gives what files decide, as text.
func (g *target) decidesAt(t testing.TB, f files) string {
	t.Helper()
	s := must(g.start(t, f.write(t), nil))(t)
	defer s.stop()
	return fmt.Sprint(g.decisions(t, s))
}

// lastCommit gives where the last frame of the log begins: what is damaged from there on may
// be a crash in the middle of the last change.
func (g *target) lastCommit(t testing.TB, dir string) int64 {
	t.Helper()
	const header, frame = 32, 24 + 4096
	size := must(os.Stat(filepath.Join(dir, "holdfast.db-wal")))(t).Size()
	return header + (size-header)/frame*frame - frame - garbled
}
