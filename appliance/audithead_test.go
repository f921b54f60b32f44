package appliance_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
)

// headLog is an audit log of which only the head counts.
type headLog struct {
	head   string
	proven []string
	err    error
}

func (l *headLog) Head() (string, error) { return l.head, nil }
func (l *headLog) Prove(head string) error {
	l.proven = append(l.proven, head)
	return l.err
}

// lateRows are the rows of a store that is open only later.
type lateRows struct{ store func() *sqlite.DB }

func (r lateRows) AuditHead(ctx context.Context) (*appliance.AuditHeadRow, error) {
	return r.store().Machine().AuditHead(ctx)
}
func (r lateRows) KeepAuditHead(ctx context.Context, anchor bool) error {
	return r.store().Machine().KeepAuditHead(ctx, anchor)
}

// TestAuditHead: the head that the state keeps is the newest; another one, one without a
// seal, one of another row and none at all keep the appliance locked: the manifest of the
// installation has it.
func TestAuditHead(t *testing.T) {
	log := &headLog{head: "0 first"}
	var store *sqlite.DB
	device, dir := appliancetest.NewMemory(), t.TempDir()
	o := appliancetest.Options{Token: device, Dir: dir, Appliance: appliance.Options{AuditLog: log}}
	// The bed opens the store, so the rows are given before it.
	o.Appliance.AuditHeads = lateRows{func() *sqlite.DB { return store }}
	unlock := func(t *testing.T) error {
		t.Helper()
		var err error
		if store, err = sqlite.Open(t.Context(), dir+"/holdfast.db", sqlite.Options{}); err != nil {
			t.Fatal(err)
		}
		o.Appliance.Store = store
		a := appliance.New(o.Appliance)
		token, err := device.Open(t.Context(), appliancetest.Opening{MakingMasterKey: func() error { return a.NoteMasterKey(t.Context()) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Lock(); _ = token.Close(); _ = store.Close() })
		err = a.Unlock(t.Context(), keyring.New(token), nil)
		if (err != nil) != a.Locked() {
			t.Errorf("locked %v after %v", a.Locked(), err)
		}
		if err == nil {
			log.head += "+"
			if err := a.KeepAuditHead(t.Context()); err != nil {
				t.Error(err)
			}
		}
		a.Lock()
		if fault.CodeOf(a.KeepAuditHead(t.Context())) != fault.Locked {
			t.Error("a head is kept while locked")
		}
		_ = token.Close()
		_ = store.Close()
		return err
	}
	step := func(name, want string) {
		t.Run(name, func(t *testing.T) {
			log.proven = nil
			if err := unlock(t); err != nil || len(log.proven) != 1 || log.proven[0] != want {
				t.Errorf("proven %q, want %q; %v", log.proven, want, err)
			}
		})
	}
	step("the first unlock", "")
	step("the second", "0 first+")
	exec := func(t *testing.T, query string) {
		db, err := sql.Open("sqlite", dir+"/holdfast.db")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	for name, query := range map[string]string{
		"removed":             `DELETE FROM audit_head`,
		"edited":              `UPDATE audit_head SET value = '0 other'`,
		"as if none was kept": `UPDATE audit_head SET value = '', seal = NULL`,
		"no seal":             `UPDATE audit_head SET seal = NULL`,
		"empty":               `UPDATE audit_head SET value = ''`,
		"another's seal":      `UPDATE audit_head SET seal = (SELECT block_seal FROM installation)`,
	} {
		t.Run(name, func(t *testing.T) {
			var value string
			var seal []byte
			db, err := sql.Open("sqlite", dir+"/holdfast.db")
			if err == nil {
				err = db.QueryRowContext(t.Context(), `SELECT value, seal FROM audit_head`).Scan(&value, &seal)
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = db.Close()
			exec(t, query)
			log.proven = nil
			if err := unlock(t); fault.CodeOf(err) != fault.StateChanged || log.proven != nil {
				t.Errorf("%v; proven %q", err, log.proven)
			}
			exec(t, `DELETE FROM audit_head`)
			exec(t, fmt.Sprintf(`INSERT INTO audit_head VALUES (1, '%s', x'%x')`, value, seal))
		})
	}
	t.Run("rewritten", func(t *testing.T) {
		log.err = fault.Errorf(fault.AuditRewritten, "not that log")
		if err := unlock(t); fault.CodeOf(err) != fault.AuditRewritten {
			t.Error(err)
		}
		log.err = nil
	})
	step("as it was", "0 first++")
}
