package identity_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// byHand is a connection to the database, as one has who can write to the disk.
func (d *directory) byHand() *sql.DB {
	d.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(d.dir, "holdfast.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (d *directory) exec(query string, args ...any) {
	d.t.Helper()
	db := d.byHand()
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
}

// changes says whether the statement changed a row; the schema may refuse it.
func (d *directory) changes(query string) bool {
	d.t.Helper()
	db := d.byHand()
	defer db.Close()
	result, err := db.Exec(query)
	if err != nil {
		if !strings.Contains(err.Error(), "constraint failed") {
			d.t.Fatalf("%s: %v", query, err)
		}
		return false
	}
	n, err := result.RowsAffected()
	if err != nil {
		d.t.Fatal(err)
	}
	return n > 0
}

// admitted is a way in: the table that has its row, and a proof that works.
type admitted struct {
	table string
	// unsealed are the columns that signing in changes, or that only find a row.
	unsealed []string
	proof    func() error
}

// ways gives every way in for a directory with one of each.
func (d *directory) ways() []admitted {
	d.t.Helper()
	ctx := d.t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	_, invitation, err := d.Invite(ctx, root, "bob", identity.RoleAdministrator)
	if err != nil {
		d.t.Fatal(err)
	}
	_, token, err := d.CreateToken(ctx, root, identity.NewToken{Name: "robot", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		d.t.Fatal(err)
	}
	return []admitted{
		{"users", []string{"activity"}, func() error {
			d.pass(time.Minute) // another code
			_, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), from)
			return err
		}},
		{"sessions", []string{"last_seen_at"}, func() error { return errorOf(d.Session(ctx, a.token, false)) }},
		{"invitations", nil, func() error { return errorOf(d.OpenInvitation(ctx, invitation, from)) }},
		{"api_tokens", []string{"last_used_at"}, func() error { return errorOf(d.Bearer(ctx, token, from)) }},
	}
}

// TestEveryColumnIsSealed: of each row by which somebody comes in, no column can be
// changed in the database, but for those that are listed: before the first unlock, while
// the appliance is locked, and while it is unlocked. A new column is among them by itself.
func TestEveryColumnIsSealed(t *testing.T) {
	for state, set := range map[string]func(*vault){
		"before the first unlock": func(v *vault) { v.set(true, false) },
		"locked":                  func(v *vault) { v.set(false, true) },
		"unlocked":                func(*vault) {},
	} {
		t.Run(state, func(t *testing.T) { everyColumnIsSealed(t, set) })
	}
}

func everyColumnIsSealed(t *testing.T, set func(*vault)) {
	for i := range 4 {
		d := open(t, nil)
		way := d.ways()[i]
		set(d.vault)
		err := way.proof()
		if fault.CodeOf(err) == fault.Locked { // it is no way in while the appliance is locked
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", way.table, err)
		}
		rows, err := d.byHand().Query(`SELECT name, type FROM pragma_table_info(?)`, way.table)
		if err != nil {
			t.Fatal(err)
		}
		columns := map[string]string{}
		for rows.Next() {
			var name, kind string
			if err := rows.Scan(&name, &kind); err != nil {
				t.Fatal(err)
			}
			columns[name] = kind
		}
		if err := rows.Err(); err != nil || columns["seal"] != "BLOB" {
			t.Fatalf("%s has the columns %v, %v", way.table, columns, err)
		}
		for column, kind := range columns {
			// The sessions' users are foreign keys: another user's session is tried below.
			if way.table == "sessions" && column == "user_id" {
				continue
			}
			changes := map[string]string{"other": map[string]string{
				"TEXT": `coalesce(` + column + `, '') || 'x'`, "INTEGER": `coalesce(` + column + `, 0) + 1`, "BLOB": `CAST(x'00' || ` + column + ` AS BLOB)`}[kind]}
			if column == "disabled" || column == "setup" {
				changes["other"] = `1 - ` + column
			}
			if column == "account" {
				changes["other"] = `replace(account, '"created_at"', '"oidc":"eve@example.com","created_at"')`
			}
			if column == "role" {
				changes["other"] = `'viewer'`
			}
			if column == "origin" {
				changes["other"] = `'{"made_by":["x"]}'`
			}
			if column == "seal" {
				changes["missing"], changes["empty"] = `NULL`, `x''`
				changes["of another kind of row"] = `(SELECT max(seal) FROM (SELECT seal FROM users UNION SELECT seal FROM invitations UNION SELECT seal FROM api_tokens) WHERE seal <> ` + way.table + `.seal)`
			}
			changes["NULL"], changes["nothing"] = `NULL`, map[string]string{"TEXT": `''`, "INTEGER": `0`, "BLOB": `x''`}[kind]
			if column == "oidc" || column == "last_seen_at" {
				// No address is as good as none; a session that was seen last in 1970 is over.
				delete(changes, "nothing")
			}
			for how, change := range changes {
				name := way.table + "." + column + " " + how
				saved := way.table + "_saved"
				d.exec(`DROP TABLE IF EXISTS ` + saved)
				d.exec(`CREATE TABLE ` + saved + ` AS SELECT * FROM ` + way.table)
				if !d.changes(`UPDATE ` + way.table + ` SET ` + column + ` = ` + change + ` WHERE ` + column + ` IS NOT ` + change) {
					d.exec(`DROP TABLE ` + saved)
					continue // it is so already, or the schema refuses it
				}
				err := way.proof()
				if want := slices.Contains(way.unsealed, column); want != (err == nil) && !(column == "activity" && err != nil) {
					t.Errorf("%s: %v; may be changed: %v", name, err, want)
				}
				d.exec(`UPDATE ` + way.table + ` SET ` + column + ` = (SELECT ` + column + ` FROM ` + saved + `)`)
				if column != "last_seen_at" && column != "activity" {
					if err := way.proof(); err != nil {
						t.Fatalf("%s, put back: %v", name, err)
					}
				}
				d.exec(`DROP TABLE ` + saved)
			}
		}
		d.exec(`DELETE FROM ` + way.table)
		if err := way.proof(); err == nil {
			t.Errorf("%s: the row is gone, and it is a way in", way.table)
		}
	}
}

// TestInsertedRows: nobody comes in by a row that was put into the database.
func TestInsertedRows(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	secret := "chosen by the attacker"
	sum := sha256.Sum256([]byte(secret))
	later := d.clock().Add(time.Hour).UnixMilli()
	now := d.clock().UnixMilli()

	d.exec(`INSERT INTO api_tokens (digest, id, name, role, created_by, created_at, expires_at) VALUES (?, 'e1', 'evil', 'administrator', 'alice', ?, ?)`, sum[:], now, later)
	wants(t, "a token", errorOf(d.Bearer(ctx, secret, from)), fault.Unauthenticated)
	d.exec(`INSERT INTO sessions (digest, id, user_id, address, user_agent, created_at, last_seen_at, expires_at, proven_at) VALUES (?, 'e2', ?, '', '', ?, ?, ?, ?)`, sum[:], a.id, now, now, later, now)
	wants(t, "a session", errorOf(d.Session(ctx, secret, true)), fault.Unauthenticated)
	d.exec(`INSERT INTO invitations (digest, id, name, role, invited_by, created_at, expires_at, setup) VALUES (?, 'e3', 'eve', 'administrator', 'alice', ?, ?, 0)`, sum[:], now, later)
	wants(t, "an invitation", errorOf(d.BeginEnrolPassword(ctx, secret, from)), fault.Unauthenticated)
	d.exec(`INSERT INTO users (id, name, oidc, role, disabled, account) SELECT 'e4', 'eve', NULL, role, 0, replace(replace(account, id, 'e4'), '"alice"', '"eve"') FROM users WHERE name = 'alice'`)
	d.pass(time.Minute)
	_, err := d.SignInPassword(ctx, "eve", password, d.code(a.secret), from)
	wants(t, "a user", err, fault.Unauthenticated)
	// A user's row under another's ID: its seal is good, and it is not that user.
	d.exec(`UPDATE users SET account = (SELECT account FROM users WHERE name = 'alice'), seal = (SELECT seal FROM users WHERE name = 'alice') WHERE id = 'e4'`)
	d.pass(time.Minute)
	_, err = d.SignInPassword(ctx, "eve", password, d.code(a.secret), from)
	wants(t, "a user's row once more", err, fault.Unauthenticated)

	// Administrators see them, and can remove them.
	users, err := d.Users(ctx)
	if err != nil || len(users) != 2 || users[0].Refused || !users[1].Refused {
		t.Errorf("%+v %v", users, err)
	}
	tokens, err := d.Tokens(ctx)
	if err != nil || len(tokens) != 1 || !tokens[0].Refused {
		t.Errorf("%+v %v", tokens, err)
	}
	if err := d.DeleteUser(ctx, "e4"); err != nil {
		t.Error(err)
	}
	if got, err := d.RevokeToken(ctx, "e1"); err != nil || !got.Refused || got.RevokedAt.IsZero() {
		t.Errorf("%+v %v", got, err)
	}
	wants(t, "the token, revoked", errorOf(d.Bearer(ctx, secret, from)), fault.Unauthenticated)
	if !strings.Contains(d.log.String(), "does not match its seal") {
		t.Error("the log does not say that rows were refused")
	}
	// An inserted administrator is none that would be left.
	d.exec(`INSERT INTO users (id, name, oidc, role, disabled, account) SELECT 'e4', 'eve', NULL, role, 0, replace(replace(account, id, 'e4'), '"alice"', '"eve"') FROM users WHERE name = 'alice'`)
	wants(t, "delete the last administrator", d.DeleteUser(ctx, a.id), fault.Conflict)
}

// TestRowsThatCannotBeRead: a row that is no account, invitation or token harms no
// other, keeps setup open if it is the only one, is told once, and can be removed.
func TestRowsThatCannotBeRead(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	d.exec(`INSERT INTO users (id, name, role, disabled, account) VALUES ('x', 'x', 'administrator', 0, 'garbage')`)
	code, err := d.SetupCode(ctx)
	if err != nil || code == "" {
		t.Fatalf("%q %v", code, err)
	}
	link, err := d.RedeemSetupCode(ctx, code, "alice", from)
	if err != nil {
		t.Fatal(err)
	}
	a := d.accept(link, "alice")
	_, token, err := d.CreateToken(ctx, root, identity.NewToken{Name: "robot", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	d.exec(`INSERT INTO api_tokens (digest, id, name, role, created_by, created_at, expires_at, origin) VALUES (x'00', 'y', 'y', 'administrator', 'alice', 0, 1, '')`)
	for range 50 {
		if users, err := d.Users(ctx); err != nil || len(users) != 2 || !users[1].Refused {
			t.Fatal(users, err)
		}
		if tokens, err := d.Tokens(ctx); err != nil || len(tokens) != 2 {
			t.Fatal(tokens, err)
		}
	}
	if _, err := d.Bearer(ctx, token, from); err != nil {
		t.Error(err)
	}
	if n := strings.Count(d.log.String(), "a user is refused"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	if err := d.DeleteUser(ctx, "x"); err != nil {
		t.Error(err)
	}
	if u, err := d.User(ctx, a.id); err != nil || u.Refused {
		t.Error(u, err)
	}
}

// TestRefusedUserIsRemoved: also where there is no good one, so that setup goes on.
func TestRefusedUserIsRemoved(t *testing.T) {
	d := open(t, nil)
	d.exec(`INSERT INTO users (id, name, role, disabled, account) VALUES ('x', 'x', 'administrator', 0, '{"id":"x","name":"x","role":"administrator"}')`)
	if err := d.DeleteUser(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if d.vault.settings[appliance.SettingSetup] != appliance.SettingOpen {
		t.Error("setup is over by the word of a row without a seal")
	}
}

// TestWhileLocked: users come in, marked as nobody can verify them; nobody comes in
// by anything else, and nothing about users is changed. What signing in changes is
// kept, and the rows are good when it is unlocked.
func TestWhileLocked(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	_, invitation, err := d.Invite(ctx, root, "bob", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := d.CreateToken(ctx, root, identity.NewToken{Name: "robot", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	d.vault.set(false, true)
	d.pass(time.Minute)
	code := d.code(a.secret)
	in, err := d.SignInPassword(ctx, "alice", password, code, from)
	if err != nil || !in.Principal.Unverified {
		t.Fatalf("%+v %v", in.Principal, err)
	}
	if _, err := d.SignInPassword(ctx, "alice", password, code, from); err == nil {
		t.Error("a code was taken twice")
	}
	if _, err := d.SignInPassword(ctx, "alice", password, a.codes[0], from); err != nil {
		t.Errorf("a recovery code: %v", err)
	}
	for what, err := range map[string]error{
		"token":      errorOf(d.Bearer(ctx, token, from)),
		"invitation": errorOf(d.OpenInvitation(ctx, invitation, from)),
		"invite":     third(d.Invite(ctx, root, "carol", identity.RoleViewer)),
		"make token": third(d.CreateToken(ctx, root, identity.NewToken{Name: "other", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})),
		"set role":   errorOf(d.SetRole(ctx, a.id, identity.RoleViewer)),
		"disable":    errorOf(d.SetDisabled(ctx, a.id, true)),
		"codes":      errorOf(d.NewRecoveryCodes(ctx, a.id)),
		"bind OIDC":  errorOf(d.BindOIDC(ctx, root, a.id, "eve@example.com")),
	} {
		wants(t, what, err, fault.Locked)
	}
	d.vault.set(false, false)
	p, err := d.Session(ctx, in.Token, true)
	if err != nil || p.Unverified {
		t.Errorf("unlocked: %+v %v", p, err)
	}
	if _, err := d.SignInPassword(ctx, "alice", password, a.codes[0], from); err == nil {
		t.Error("a recovery code was taken twice")
	}
	if u, err := d.User(ctx, a.id); err != nil || u.Refused || u.RecoveryCodes != len(a.codes)-1 {
		t.Errorf("%+v %v", u, err)
	}
	if _, err := d.Bearer(ctx, token, from); err != nil {
		t.Error(err)
	}
}

// TestFirstUnlock: what was made before there was an installation is sealed as it
// is, and is good afterwards.
func TestFirstUnlock(t *testing.T) {
	d := open(t, nil)
	d.vault.set(true, false)
	delete(d.vault.settings, appliance.SettingSetup)
	ways := d.ways()
	d.exec(`UPDATE api_tokens SET created_by = 'token gone', origin = '{}'`) // by a release that kept no origins
	d.vault.early = true
	d.vault.set(false, false)
	for _, way := range ways {
		wants(t, way.table+", not sealed", way.proof(), fault.Unauthenticated)
	}
	all, err := d.SealAll(t.Context(), func(name, value string) error { return d.vault.SetSetting(t.Context(), name, value) })
	if got := forced(all); err != nil || got != "user alice, invitation bob, API token robot" {
		t.Errorf("%v %v", got, err)
	}
	for _, way := range ways {
		if err := way.proof(); err != nil {
			t.Errorf("%s: %v", way.table, err)
		}
	}
	if d.vault.settings[appliance.SettingSetup] != appliance.SettingDone {
		t.Error("setup is not over")
	}
	// Whose the token is nobody knows: nobody approves what it asks for.
	made, err := d.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	robot, err := d.Principal(t.Context(), "", made[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "approve for the token", d.MayApprove(t.Context(), d.enrol("zoe", identity.RoleAdministrator).id, robot), fault.Forbidden)
}

// forced names those who are sealed.
func forced(all []appliance.Admitted) string {
	var names []string
	for _, a := range all {
		if !a.Refused {
			names = append(names, a.Kind+" "+a.Name)
		}
	}
	return strings.Join(names, ", ")
}

// TestFirstUnlockRefuses: a row that was put into the database, or changed there, before
// the first unlock is not sealed by it; nor does anybody come in by it before.
func TestFirstUnlockRefuses(t *testing.T) {
	d := open(t, nil)
	d.vault.set(true, false)
	ways := d.ways()
	for _, table := range []string{"users", "invitations", "api_tokens"} {
		d.exec(`UPDATE ` + table + ` SET seal = CASE WHEN seal IS NULL THEN NULL ELSE x'' END`)
	}
	check := func(when string) {
		t.Helper()
		for _, way := range ways {
			if way.table != "sessions" { // its user is refused
				wants(t, way.table+", "+when, way.proof(), fault.Unauthenticated)
			}
		}
	}
	check("before")
	all, err := d.SealAll(t.Context(), func(string, string) error { return nil })
	if got := forced(all); err != nil || got != "" || len(all) != 3 {
		t.Errorf("sealed: %v %v", all, err)
	}
	d.vault.set(false, false)
	check("after")
}

// TestLockedRefuses: while the appliance is locked nobody comes in by a row without the
// machine's seal, whatever it was changed to.
func TestLockedRefuses(t *testing.T) {
	for _, change := range []string{
		`UPDATE users SET seal = NULL`, `UPDATE users SET seal = x''`, `UPDATE users SET seal = substr(seal, 33)`,
		`UPDATE users SET seal = (SELECT seal FROM api_tokens)`,
		`UPDATE users SET account = replace(account, 'administrator', 'viewer')`,
	} {
		d := open(t, nil)
		way := d.ways()[0]
		d.vault.set(false, true)
		if err := way.proof(); err != nil {
			t.Fatal(err)
		}
		d.exec(change)
		wants(t, change, way.proof(), fault.Unauthenticated)
	}
}

// TestSetupStaysOver: once there was a user, no setup code admits anybody, though
// all users are gone from the database.
func TestSetupStaysOver(t *testing.T) {
	for _, setting := range []string{"as it was", "missing"} {
		d := open(t, nil)
		ctx := t.Context()
		code, err := d.SetupCode(ctx)
		if err != nil || code == "" {
			t.Fatalf("%q %v", code, err)
		}
		first, err := d.RedeemSetupCode(ctx, code, "alice", from)
		if err != nil {
			t.Fatal(err)
		}
		d.accept(first, "alice")
		d.exec(`DELETE FROM users`)
		if setting == "missing" {
			delete(d.vault.settings, appliance.SettingSetup)
		}
		again := open(t, func(c *identity.Config) { c.Store, c.Seals, c.Settings = d.Config.Store, d.vault, d.vault })
		if open, err := again.SetupOpen(ctx); err != nil || open {
			t.Errorf("%s: setup is open: %v %v", setting, open, err)
		}
		if code, err := again.SetupCode(ctx); err != nil || code != "" {
			t.Errorf("%s: there is a code: %q %v", setting, code, err)
		}
		again.AcceptSetupCode(sha256.Sum256([]byte("by user data")))
		_, err = again.RedeemSetupCode(ctx, "by user data", "eve", from)
		wants(t, "a code by its hash", err, fault.Unauthenticated)
	}
}

// TestSessionsOfAnotherProcess: an unlocked process takes a session that another one of the
// installation has made, and a locked one does not, so that none can be made in the database.
func TestSessionsOfAnotherProcess(t *testing.T) {
	d := open(t, nil)
	a := d.enrol("alice", identity.RoleAdministrator)
	again, err := identity.New(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	again.HashCheaply(true)
	if p, err := again.Session(t.Context(), a.token, true); err != nil || p.Name != "alice" {
		t.Errorf("in another process: %+v %v", p, err)
	}
	d.vault.set(false, true)
	wants(t, "in another process that is locked", errorOf(again.Session(t.Context(), a.token, true)), fault.Unauthenticated)
	if list, err := again.Sessions(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := d.Session(t.Context(), a.token, true); err != nil {
		t.Error(err)
	}
}

// TestAccountText: what a later release would write in other words keeps its seal.
func TestAccountText(t *testing.T) {
	text := []byte(`{"name":"alice", "id":"1","role":"viewer","created_at":"2026-01-01T00:00:00Z"}`)
	a, err := identity.DecodeAccount(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Failures = 3
	if got, err := a.Text(); err != nil || string(got) != string(text) {
		t.Errorf("%s %v", got, err)
	}
	a.Role = identity.RoleAdministrator
	got, err := a.Text()
	var read identity.Account
	if err != nil || json.Unmarshal(got, &read) != nil || read.Role != identity.RoleAdministrator || read.Failures != 0 {
		t.Errorf("%s %v", got, err)
	}
}

func third[A, B any](_ A, _ B, err error) error { return err }
