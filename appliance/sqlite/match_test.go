package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// TestListsAreThoseOfMemory: while the state is open, a list by which something is decided
// is refused if one of its rows was changed, removed, added or put back by another program.
func TestListsAreThoseOfMemory(t *testing.T) {
	ctx := t.Context()
	at := time.Now().UTC().Truncate(time.Millisecond)
	request := func(i int) *approval.Request {
		return &approval.Request{ID: fmt.Sprint("r", i), Operation: "o", Method: "POST", Path: "/", CreatedAt: at, ExpiresAt: at.Add(time.Hour), State: approval.Pending, Seal: []byte{1}}
	}
	made := func(t *testing.T) (path string, s *sqlite.DB) {
		path = filepath.Join(t.TempDir(), "holdfast.db")
		s = openSQLite(t, path)
		o := storetest.StateOptions()
		o.Seal = true
		storetest.Got(s.OpenState(ctx, o))(t)
		for i := range 3 {
			invitation := &identity.Invitation{ID: fmt.Sprint("i", i), Name: fmt.Sprint("name", i), Role: identity.RoleAuditor, CreatedAt: at, ExpiresAt: at.Add(time.Hour), Digest: []byte{byte(i)}, Seal: []byte{1}}
			storetest.Must(t, s.CreateInvitation(ctx, invitation))
			storetest.Must(t, s.CreateAccount(ctx, &identity.Account{ID: fmt.Sprint("u", i), Name: fmt.Sprint("user", i), Role: identity.RoleAdministrator, Seal: []byte{1}}, invitation.Digest, nil))
			invitation.Digest = []byte{byte(i), 1}
			storetest.Must(t, s.CreateInvitation(ctx, invitation))
			storetest.Must(t, s.CreateToken(ctx, &identity.Token{ID: fmt.Sprint("t", i), Name: fmt.Sprint("token", i), Role: identity.RoleAuditor, CreatedAt: at, ExpiresAt: at.Add(time.Hour), Digest: []byte{byte(i)}, Seal: []byte{1}}))
			storetest.Must(t, s.CreateApproval(ctx, request(i)))
		}
		return path, s
	}
	lists := map[string]struct {
		column string // that a test changes
		list   func(ctx context.Context, s *sqlite.DB) error
		remove func(ctx context.Context, s *sqlite.DB) error // one row, as people do; nil if they cannot
	}{
		"users": {"seal", func(ctx context.Context, s *sqlite.DB) error { return errorOf(s.Accounts(ctx)) }, func(ctx context.Context, s *sqlite.DB) error {
			a, err := s.Account(ctx, "u1")
			storetest.Must(t, err)
			return s.DeleteAccount(ctx, a, nil)
		}},
		"invitations": {"seal", func(ctx context.Context, s *sqlite.DB) error { return errorOf(s.Invitations(ctx)) }, func(ctx context.Context, s *sqlite.DB) error { return s.DeleteInvitation(ctx, "i1") }},
		"api_tokens":  {"seal", func(ctx context.Context, s *sqlite.DB) error { return errorOf(s.Tokens(ctx)) }, nil},
		"approvals":   {"seal", func(ctx context.Context, s *sqlite.DB) error { return errorOf(s.Approvals(ctx, 2)) }, nil},
	}
	for table, l := range lists {
		for name, statements := range map[string][]string{
			"nothing":     nil,
			"changed":     {fmt.Sprintf(`UPDATE %[1]s SET %[2]s = x'02' WHERE id LIKE '%%1'`, table, l.column)},
			"removed":     {`PRAGMA foreign_keys = 0`, fmt.Sprintf(`DELETE FROM %s WHERE id LIKE '%%2'`, table)},
			"all removed": {`PRAGMA foreign_keys = 0`, fmt.Sprintf(`DELETE FROM %s`, table)},
		} {
			t.Run(table+" "+name, func(t *testing.T) {
				path, s := made(t)
				storetest.Must(t, l.list(ctx, s))
				edit(t, path, statements...)
				wantsChanged(t, l.list(ctx, s), statements != nil)
			})
		}
		if l.remove == nil {
			continue
		}
		t.Run(table+" put back", func(t *testing.T) {
			path, s := made(t)
			edit(t, path, fmt.Sprintf(`ATTACH '%s' AS kept`, path+".kept"), fmt.Sprintf(`CREATE TABLE kept.rows AS SELECT * FROM main.%s`, table), `DETACH kept`)
			storetest.Must(t, l.remove(ctx, s))
			storetest.Must(t, l.list(ctx, s))
			edit(t, path, `PRAGMA foreign_keys = 0`, fmt.Sprintf(`ATTACH '%s' AS kept`, path+".kept"), fmt.Sprintf(`INSERT OR IGNORE INTO main.%s SELECT * FROM kept.rows`, table))
			wantsChanged(t, l.list(ctx, s), true)
		})
	}
}

// TestSessionsAreThoseOfMemory: while the state is open, a session whose row was changed or
// put back by another program is not in the list, and keeps no other out of it.
func TestSessionsAreThoseOfMemory(t *testing.T) {
	ctx := t.Context()
	at := time.Now().UTC().Truncate(time.Millisecond)
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	o := storetest.StateOptions()
	o.Seal = true
	storetest.Got(s.OpenState(ctx, o))(t)
	invitation := &identity.Invitation{ID: "i", Role: identity.RoleAuditor, CreatedAt: at, ExpiresAt: at.Add(time.Hour), Digest: []byte{1}, Seal: []byte{1}}
	storetest.Must(t, s.CreateInvitation(ctx, invitation))
	storetest.Must(t, s.CreateAccount(ctx, &identity.Account{ID: "u", Name: "user", Role: identity.RoleAdministrator, Seal: []byte{1}}, invitation.Digest, nil))
	for i := range 4 {
		storetest.Must(t, s.CreateSession(ctx, &identity.Session{ID: fmt.Sprint("s", i), UserID: "u", CreatedAt: at, LastSeenAt: at, ExpiresAt: at.Add(time.Hour), ProvenAt: at, Digest: []byte{byte(i)}, Seal: []byte{1}}))
	}
	edit(t, path, `ATTACH '`+path+`.kept' AS kept`, `CREATE TABLE kept.rows AS SELECT * FROM main.sessions`, `DETACH kept`)
	storetest.Must(t, s.DeleteSession(ctx, "s1"))
	edit(t, path, `ATTACH '`+path+`.kept' AS kept`, `INSERT OR IGNORE INTO main.sessions SELECT * FROM kept.rows`,
		`UPDATE sessions SET seal = x'02' WHERE id = 's2'`, `DELETE FROM sessions WHERE id = 's3'`)
	list := storetest.Got(s.Sessions(ctx, ""))(t)
	if len(list) != 1 || list[0].ID != "s0" {
		t.Errorf("the list has %+v", list)
	}
}

func errorOf[T any](_ T, err error) error { return err }

func wantsChanged(t *testing.T, err error, changed bool) {
	t.Helper()
	if changed && fault.CodeOf(err) != fault.StateChanged || !changed && err != nil {
		t.Errorf("the list gives %v; were its rows changed: %v", err, changed)
	}
}
