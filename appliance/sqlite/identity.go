package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// accountColumns are what scanAccount reads.
const accountColumns = `account, activity, seal, id, name, oidc, role, disabled`

// scanAccount reads an account. The columns that find it must say the same as what
// is sealed: otherwise it is what the columns say, and has no seal. Its ID is always that
// of the row, so that a text that was copied from another user does not stand for them.
func scanAccount(scan scanner) (*identity.Account, error) {
	var text, activity, id, name, role string
	var oidc *string
	var disabled bool
	var seal []byte
	if err := scan(&text, &activity, &seal, &id, &name, &oidc, &role, &disabled); err != nil {
		return nil, err
	}
	a, err := identity.DecodeAccount([]byte(text), []byte(activity))
	if oidc == nil {
		oidc = new(string)
	}
	if err != nil || a.ID != id || a.Name != name || a.OIDC != *oidc || string(a.Role) != role || a.Disabled != disabled {
		return &identity.Account{ID: id, Name: name, Role: identity.Role(role), Disabled: disabled, Sealed: []byte(text)}, nil
	}
	a.Seal = seal
	return a, nil
}

// Accounts implements [identity.Store].
func (s *DB) Accounts(ctx context.Context) (list []*identity.Account, err error) {
	err = s.read(ctx, func(c *conn) error {
		if err := s.allMatch(ctx, c, "users"); err != nil {
			return err
		}
		list, err = accounts(ctx, c)
		return err
	})
	return list, err
}

func accounts(ctx context.Context, c *conn) ([]*identity.Account, error) {
	var list []*identity.Account
	err := c.each(ctx, func(scan scanner) error {
		a, err := scanAccount(scan)
		list = append(list, a)
		return err
	}, `SELECT `+accountColumns+` FROM users ORDER BY name`)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Account implements [identity.Store].
func (s *DB) Account(ctx context.Context, id string) (*identity.Account, error) {
	return s.account(ctx, `id = ?`, id)
}

// AccountByName implements [identity.Store].
func (s *DB) AccountByName(ctx context.Context, name string) (*identity.Account, error) {
	return s.account(ctx, `name = ?`, name)
}

// AccountByOIDC implements [identity.Store].
func (s *DB) AccountByOIDC(ctx context.Context, email string) (*identity.Account, error) {
	return s.account(ctx, `oidc = ?`, email)
}

func (s *DB) account(ctx context.Context, where string, arg any) (a *identity.Account, err error) {
	err = s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "users", where, arg); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		a, err = account(c, where, arg)
		return err
	})
	return a, err
}

func account(c *conn, where string, arg any) (a *identity.Account, err error) {
	err = c.each(context.Background(), func(scan scanner) error {
		a, err = scanAccount(scan)
		return err
	}, `SELECT `+accountColumns+` FROM users WHERE `+where, arg)
	if err == nil && a == nil {
		err = fault.Errorf(fault.NotFound, "there is no such user")
	}
	return a, err
}

// CreateAccount implements [identity.Store].
func (s *DB) CreateAccount(ctx context.Context, a *identity.Account, invitation []byte, first identity.Rule) error {
	return s.write(ctx, func(c *conn) error {
		var setup bool
		found, err := c.one([]any{&setup}, `DELETE FROM invitations WHERE digest = ? RETURNING setup`, invitation)
		if err != nil {
			return err
		}
		if !found {
			return fault.Errorf(fault.NotFound, "the invitation was used or taken back meanwhile")
		}
		if setup {
			if err := obey(ctx, c, first); err != nil {
				return err
			}
		}
		account, activity, err := accountText(a)
		if err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO users (id, name, oidc, role, disabled, account, activity, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			a.ID, a.Name, text(a.OIDC), string(a.Role), a.Disabled, account, activity, a.Seal)
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "there is a user %q already", a.Name)
		}
		return err
	})
}

// accountText gives the two texts of an account.
func accountText(a *identity.Account) (account, activity string, err error) {
	lasting, err := a.Text()
	if err != nil {
		return "", "", err
	}
	act, err := a.ActivityText()
	return string(lasting), string(act), err
}

// updateAccount writes an account whose text was read as was.
func updateAccount(c *conn, a *identity.Account, was []byte) error {
	account, activity, err := accountText(a)
	if err != nil {
		return err
	}
	n, err := c.exec(`UPDATE OR IGNORE users SET name = ?, oidc = ?, role = ?, disabled = ?, account = ?, activity = ?, seal = ? WHERE id = ? AND account = ?`,
		a.Name, text(a.OIDC), string(a.Role), a.Disabled, account, activity, a.Seal, a.ID, string(was))
	if err == nil && n == 0 {
		return fault.Errorf(fault.Exists, "the name or the e-mail address is another user's")
	}
	return err
}

// UpdateAccount implements [identity.Store].
func (s *DB) UpdateAccount(ctx context.Context, id string, f func(*identity.Account) error, rule identity.Rule) (a *identity.Account, err error) {
	err = s.write(ctx, func(c *conn) error {
		if a, err = account(c, `id = ?`, id); err != nil {
			return err
		}
		was := a.Sealed
		if err := f(a); err != nil {
			return err
		}
		if err := updateAccount(c, a, was); err != nil {
			return err
		}
		return obey(ctx, c, rule)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// obey asks the rule about the users as they are.
func obey(ctx context.Context, c *conn, rule identity.Rule) error {
	if rule == nil {
		return nil
	}
	all, err := accounts(ctx, c)
	if err != nil {
		return err
	}
	return rule(all)
}

// DeleteAccount implements [identity.Store].
func (s *DB) DeleteAccount(ctx context.Context, was *identity.Account, rule identity.Rule) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`DELETE FROM users WHERE id = ? AND account = ?`, was.ID, string(was.Sealed))
		if err := unlessChanged(c, n, err, expect(fmt.Sprintf("the user %q", was.Name), fault.Errorf(fault.NotFound, "there is no such user"), `SELECT 1 FROM users WHERE id = ?`, was.ID)); err != nil {
			return err
		}
		return obey(ctx, c, rule)
	})
}

const invitationColumns = `digest, id, name, role, invited_by, created_at, expires_at, setup, origin, seal`

func scanInvitation(i *identity.Invitation) []any {
	return []any{&i.Digest, &i.ID, &i.Name, &i.Role, &i.InvitedBy, millis{&i.CreatedAt}, millis{&i.ExpiresAt}, &i.Setup, origin{&i.Origin}, &i.Seal}
}

// CreateInvitation implements [identity.Store].
func (s *DB) CreateInvitation(ctx context.Context, i *identity.Invitation) error {
	return s.write(ctx, func(c *conn) error {
		if _, err := c.exec(`DELETE FROM invitations WHERE expires_at <= ?`, i.CreatedAt.UnixMilli()); err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO invitations (`+invitationColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			blob(i.Digest), i.ID, i.Name, string(i.Role), i.InvitedBy, i.CreatedAt.UnixMilli(), i.ExpiresAt.UnixMilli(), i.Setup, i.Origin.Text(), i.Seal)
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "there is an invitation with the ID %q already", i.ID)
		}
		return err
	})
}

// origin is how an [identity.Origin] is read.
type origin struct{ o *identity.Origin }

// Scan reads a stored origin.
func (x origin) Scan(v any) error {
	text, _ := v.(string) // the column is of that type
	if json.Unmarshal([]byte(text), x.o) != nil {
		*x.o = identity.Origin{} // not what the seal is of
	}
	return nil
}

// Invitations implements [identity.Store].
func (s *DB) Invitations(ctx context.Context) ([]identity.Invitation, error) {
	return allMatching(ctx, s, "invitations", scanInvitation, `SELECT `+invitationColumns+` FROM invitations ORDER BY created_at DESC, id`)
}

// allMatching reads the rows of a query; fault.StateChanged if those of the table are not
// those of memory.
func allMatching[T any](ctx context.Context, s *DB, table string, columns func(*T) []any, query string) (list []T, err error) {
	err = s.read(ctx, func(c *conn) error {
		if err := s.allMatch(ctx, c, table); err != nil {
			return err
		}
		list, err = read(ctx, c, columns, query)
		return err
	})
	return list, err
}

// read does that with a connection.
func read[T any](ctx context.Context, c *conn, columns func(*T) []any, query string, args ...any) ([]T, error) {
	var list []T
	err := c.each(ctx, func(scan scanner) error {
		var v T
		err := scan(columns(&v)...)
		list = append(list, v)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// only reads the one row of a query; fault.NotFound if there is none.
// fault.StateChanged if it is not the row of memory.
func only[T any](ctx context.Context, s *DB, what string, row selection, columns func(*T) []any, query string) (*T, error) {
	v := new(T)
	err := s.read(ctx, func(c *conn) error {
		if matches, err := c.matches(ctx, nil, row); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one(columns(v), query, row.args...)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "there is no such %s", what)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

func byDigest(table string, digest []byte) selection {
	return selection{table, "digest = ?", []any{blob(digest)}}
}

// Invitation implements [identity.Store].
func (s *DB) Invitation(ctx context.Context, digest []byte) (*identity.Invitation, error) {
	return only(ctx, s, "invitation", byDigest("invitations", digest), scanInvitation, `SELECT `+invitationColumns+` FROM invitations WHERE digest = ?`)
}

// DeleteInvitation implements [identity.Store].
func (s *DB) DeleteInvitation(ctx context.Context, id string) error {
	return s.remove(ctx, "invitation", `DELETE FROM invitations WHERE id = ?`, id)
}

// remove removes a row; fault.NotFound if there is none.
func (s *DB) remove(ctx context.Context, what, query string, args ...any) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(query, args...)
		if err == nil && n == 0 {
			return fault.Errorf(fault.NotFound, "there is no such %s", what)
		}
		return err
	})
}

const sessionColumns = `sessions.digest, sessions.id, user_id, users.name, address, user_agent, sessions.created_at, last_seen_at, expires_at, proven_at, sessions.seal`

func scanSession(x *identity.Session) []any {
	return []any{&x.Digest, &x.ID, &x.UserID, &x.UserName, &x.Address, &x.UserAgent,
		millis{&x.CreatedAt}, millis{&x.LastSeenAt}, millis{&x.ExpiresAt}, millis{&x.ProvenAt}, &x.Seal}
}

// CreateSession implements [identity.Store].
func (s *DB) CreateSession(ctx context.Context, x *identity.Session) error {
	return s.write(ctx, func(c *conn) error {
		if _, err := c.exec(`DELETE FROM sessions WHERE expires_at <= ?`, x.CreatedAt.UnixMilli()); err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO sessions (digest, id, user_id, address, user_agent, created_at, last_seen_at, expires_at, proven_at, seal)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, blob(x.Digest), x.ID, x.UserID, x.Address, x.UserAgent,
			x.CreatedAt.UnixMilli(), x.LastSeenAt.UnixMilli(), x.ExpiresAt.UnixMilli(), x.ProvenAt.UnixMilli(), x.Seal)
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "there is a session with the ID %q already", x.ID)
		}
		return err
	})
}

// Session implements [identity.Store].
func (s *DB) Session(ctx context.Context, digest []byte) (*identity.Session, error) {
	return only(ctx, s, "session", byDigest("sessions", digest), scanSession, `SELECT `+sessionColumns+` FROM sessions JOIN users ON users.id = user_id WHERE digest = ?`)
}

// Sessions implements [identity.Store]. A row that is not that of memory is left out: it
// is no session, and must not keep others from theirs.
func (s *DB) Sessions(ctx context.Context, user string) (list []identity.Session, err error) {
	err = s.read(ctx, func(c *conn) error {
		all, err := read(ctx, c, scanSession, `SELECT `+sessionColumns+` FROM sessions JOIN users ON users.id = user_id
			WHERE user_id = ? OR ? = '' ORDER BY sessions.created_at DESC, sessions.id`, user, user)
		if err != nil {
			return err
		}
		list = nil
		for _, x := range all {
			matches, err := c.matches(ctx, nil, byDigest("sessions", x.Digest))
			if err != nil {
				return err
			}
			if matches {
				list = append(list, x)
			}
		}
		return nil
	})
	return list, err
}

// TouchSession implements [identity.Store].
func (s *DB) TouchSession(ctx context.Context, id string, at time.Time) error {
	return s.update(ctx, `UPDATE sessions SET last_seen_at = ? WHERE id = ? AND last_seen_at < ?`, at.UnixMilli(), id, at.UnixMilli())
}

// UpdateSession implements [identity.Store].
func (s *DB) UpdateSession(ctx context.Context, id string, f func(*identity.Session) error) error {
	return s.write(ctx, func(c *conn) error {
		x := &identity.Session{}
		found, err := c.one(scanSession(x), `SELECT `+sessionColumns+` FROM sessions JOIN users ON users.id = user_id WHERE sessions.id = ?`, id)
		if err != nil {
			return err
		}
		if !found {
			return fault.Errorf(fault.NotFound, "there is no such session")
		}
		was := blob(x.Seal)
		if err := f(x); err != nil {
			return err
		}
		_, err = c.exec(`UPDATE sessions SET proven_at = ?, seal = ? WHERE id = ? AND coalesce(seal, x'') = ?`, x.ProvenAt.UnixMilli(), x.Seal, id, was)
		return err
	})
}

// update changes rows, be there any or not.
func (s *DB) update(ctx context.Context, query string, args ...any) error {
	return s.write(ctx, func(c *conn) error {
		_, err := c.exec(query, args...)
		return err
	})
}

// DeleteSession implements [identity.Store].
func (s *DB) DeleteSession(ctx context.Context, id string) error {
	return s.remove(ctx, "session", `DELETE FROM sessions WHERE id = ?`, id)
}

// DeleteSessions implements [identity.Store].
func (s *DB) DeleteSessions(ctx context.Context, user string) (int, error) {
	var n int64
	err := s.write(ctx, func(c *conn) (err error) {
		n, err = c.exec(`DELETE FROM sessions WHERE user_id = ?`, user)
		return err
	})
	return int(n), err
}

// Spend implements [identity.Store].
func (s *DB) Spend(ctx context.Context, u identity.Spent) error {
	return s.write(ctx, func(c *conn) error {
		if _, err := c.exec(`DELETE FROM spent WHERE expires_at <= ?`, u.At.UnixMilli()); err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO spent (id, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING`, u.ID, u.ExpiresAt.UnixMilli())
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "%s is used up already", u.ID)
		}
		return err
	})
}

// Spent implements [identity.Store].
func (s *DB) Spent(ctx context.Context, id string) (spent bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		matches, err := s.rowMatches(ctx, c, "spent", "id = ?", id)
		if err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		var one int
		spent, err = c.one([]any{&one}, `SELECT 1 FROM spent WHERE id = ?`, id)
		return err
	})
	return spent, err
}

// scope is one in a column; NULL for a token from before there were scopes.
type scope struct{ s **identity.Scope }

// Scan reads a stored scope.
func (x scope) Scan(v any) error {
	*x.s = nil
	if v == nil {
		return nil
	}
	text, _ := v.(string) // the column is of that type
	read, err := identity.DecodeScope(text)
	if err != nil {
		read = &identity.Scope{} // not what the seal is of; it allows nothing
	}
	*x.s = read
	return nil
}

func scopeColumn(s *identity.Scope) any {
	if s == nil {
		return nil
	}
	return s.Text()
}

const tokenColumns = `digest, id, name, role, created_by, created_at, expires_at, last_used_at, revoked_at, origin, scope, seal`

func scanToken(t *identity.Token) []any {
	return []any{&t.Digest, &t.ID, &t.Name, &t.Role, &t.CreatedBy, millis{&t.CreatedAt}, millis{&t.ExpiresAt}, millis{&t.LastUsedAt}, millis{&t.RevokedAt}, origin{&t.Origin}, scope{&t.Scope}, &t.Seal}
}

// CreateToken implements [identity.Store].
func (s *DB) CreateToken(ctx context.Context, t *identity.Token) error {
	return s.write(ctx, func(c *conn) error {
		before := t.CreatedAt.Add(-identity.TokenRetention).UnixMilli()
		if _, err := c.exec(`DELETE FROM api_tokens WHERE expires_at <= ? OR revoked_at > 0 AND revoked_at <= ?`, before, before); err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO api_tokens (`+tokenColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			blob(t.Digest), t.ID, t.Name, string(t.Role), t.CreatedBy, t.CreatedAt.UnixMilli(), t.ExpiresAt.UnixMilli(), ms(t.LastUsedAt), ms(t.RevokedAt), t.Origin.Text(), scopeColumn(t.Scope), t.Seal)
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "there is an API token %q already", t.Name)
		}
		return err
	})
}

// Tokens implements [identity.Store].
func (s *DB) Tokens(ctx context.Context) ([]identity.Token, error) {
	return allMatching(ctx, s, "api_tokens", scanToken, `SELECT `+tokenColumns+` FROM api_tokens ORDER BY created_at DESC, id`)
}

// Token implements [identity.Store].
func (s *DB) Token(ctx context.Context, digest []byte) (*identity.Token, error) {
	return only(ctx, s, "API token", byDigest("api_tokens", digest), scanToken, `SELECT `+tokenColumns+` FROM api_tokens WHERE digest = ?`)
}

// TouchToken implements [identity.Store].
func (s *DB) TouchToken(ctx context.Context, id string, at time.Time) error {
	return s.update(ctx, `UPDATE api_tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)`, at.UnixMilli(), id, at.UnixMilli())
}

// UpdateToken implements [identity.Store].
func (s *DB) UpdateToken(ctx context.Context, id string, f func(*identity.Token) error) (*identity.Token, error) {
	var t *identity.Token
	err := s.write(ctx, func(c *conn) error {
		t = &identity.Token{}
		found, err := c.one(scanToken(t), `SELECT `+tokenColumns+` FROM api_tokens WHERE id = ?`, id)
		if err != nil {
			return err
		}
		if !found {
			return fault.Errorf(fault.NotFound, "there is no such API token")
		}
		was := blob(t.Seal)
		if err := f(t); err != nil {
			return err
		}
		_, err = c.exec(`UPDATE api_tokens SET revoked_at = ?, seal = ? WHERE id = ? AND coalesce(seal, x'') = ?`, ms(t.RevokedAt), t.Seal, id, was)
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// SealRows implements [identity.Store].
func (s *DB) SealRows(ctx context.Context, account func(*identity.Account) error, invitation func(*identity.Invitation) error, token func(*identity.Token) error) error {
	return s.write(ctx, func(c *conn) error {
		users, err := accounts(ctx, c)
		if err != nil {
			return err
		}
		for _, a := range users {
			was := a.Sealed
			if err := account(a); err != nil {
				return err
			}
			if err := updateAccount(c, a, was); err != nil {
				return err
			}
		}
		invitations, err := read(ctx, c, scanInvitation, `SELECT `+invitationColumns+` FROM invitations`)
		if err != nil {
			return err
		}
		for i := range invitations {
			if err := invitation(&invitations[i]); err != nil {
				return err
			}
			if _, err := c.exec(`UPDATE invitations SET seal = ? WHERE id = ?`, invitations[i].Seal, invitations[i].ID); err != nil {
				return err
			}
		}
		tokens, err := read(ctx, c, scanToken, `SELECT `+tokenColumns+` FROM api_tokens`)
		if err != nil {
			return err
		}
		for i := range tokens {
			if err := token(&tokens[i]); err != nil {
				return err
			}
			if _, err := c.exec(`UPDATE api_tokens SET origin = ?, seal = ? WHERE id = ?`, tokens[i].Origin.Text(), tokens[i].Seal, tokens[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
}
