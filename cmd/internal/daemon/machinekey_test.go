package daemon_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/snp"
	"holdfast/cmd/internal/daemon"
	"holdfast/web/operation"
)

// refusedUsers gives how many users there are, and how many of them are refused.
func (r *running) refusedUsers() (all, refused int) {
	r.s.t.Helper()
	var users operation.List[*identity.User]
	r.ok("GET", "users", nil, &users)
	for _, u := range users.Items {
		if u.Refused {
			refused++
		}
	}
	return len(users.Items), refused
}

// locked starts the appliance without a PIN: it stays locked, and has the machine's key.
func (s *site) locked() *running {
	s.t.Helper()
	if err := os.Remove(s.cfg.SealedPIN()); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	s.asIs = true
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `code=E_SEAL_MISSING`)
	return r
}

// copyOf gives a function that puts the database of an appliance that does not run back.
func (s *site) copyOf() (putBack func()) {
	s.t.Helper()
	file := filepath.Join(s.cfg.State.Dir, "holdfast.db")
	content, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		for _, left := range []string{file + "-wal", file + "-shm"} {
			if err := os.Remove(left); err != nil && !errors.Is(err, os.ErrNotExist) {
				s.t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestLockedUsers: while the appliance is locked a user who has the machine's seal is
// not refused, and any other is. A database that was changed by hand is not unlocked.
func TestLockedUsers(t *testing.T) {
	s := newSite(t)
	r := s.start()
	r.enrol(<-s.welcomed, "alice")
	r.stop()
	putBack := s.copyOf()
	for change, want := range map[string]int{ // users that are refused
		``:                             0,
		`UPDATE users SET seal = NULL`: 1,
		`UPDATE users SET seal = x''`:  1,
		`UPDATE users SET seal = substr(seal, 1, 33)`:                                   0, // the machine's alone
		`UPDATE users SET seal = substr(seal, 34)`:                                      1, // the state key's alone, as of an earlier release
		`UPDATE users SET seal = (SELECT seal FROM settings LIMIT 1)`:                   1,
		`UPDATE users SET account = replace(account, 'alice', 'alicf'), name = 'alicf'`: 1,
	} {
		putBack()
		if change != "" {
			s.edit(change)
		}
		r := s.locked()
		if all, refused := r.refusedUsers(); all != 1 || refused != want {
			t.Errorf("%s: locked, %d of %d users are refused, want %d", change, refused, all, want)
		}
		before := len(s.log.String())
		r.ok("POST", "seal", operation.SealRequest{PIN: s.pin}, nil)
		if change == "" {
			s.logged(before, `msg=serving `)
		} else {
			s.logged(before, `msg=boot state=locked .*E_STATE_(CHANGED|ROLLED_BACK)|msg=boot state=locked .*E_UNLOCK`)
		}
		r.stop()
	}
}

// TestBeforeTheFirstUnlock: what was put into the database, changed or removed before
// the first unlock is refused before it and is not sealed by it.
func TestBeforeTheFirstUnlock(t *testing.T) {
	for name, c := range map[string]struct {
		statement string
		locked    bool // the unlock is refused
	}{
		"unsealed":         {`UPDATE users SET seal = NULL`, false},
		"changed":          {`UPDATE users SET account = replace(account, 'alice', 'mallory'), name = 'mallory'`, false},
		"setting gone":     {`DELETE FROM settings WHERE name = 'four_eyes'`, true},
		"settings gone":    {`DELETE FROM settings`, true},
		"setting changed":  {`UPDATE settings SET value = '{"operations":["block"]}' WHERE name = 'four_eyes'`, true},
		"setting unsealed": {`UPDATE settings SET seal = NULL`, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.start().stop() // has the policy signed
			<-s.welcomed
			if err := os.RemoveAll(s.cfg.State.Dir); err != nil {
				t.Fatal(err)
			}
			r := s.locked()
			r.enrol(<-s.welcomed, "alice")
			if _, refused := r.refusedUsers(); refused != 0 {
				t.Error("a user who enrolled is refused")
			}
			r.stop()
			s.edit(c.statement)
			r = s.locked()
			if _, refused := r.refusedUsers(); (refused == 1) == c.locked {
				t.Errorf("%d users are refused", refused)
			}
			before := len(s.log.String())
			r.seal()
			// TPM and HSM have the traces of the installation that was removed.
			s.logged(before, `state=locked .*code=E_STATE_MISSING`)
			err := r.beginBeside()
			if c.locked {
				if err == nil {
					t.Error("an installation was begun")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.logged(before, `msg=serving `)
			if _, refused := r.refusedUsers(); refused != 1 {
				t.Error("the first unlock has sealed a user that this machine had not")
			}
		})
	}
}

// TestMachineKeyLost: without the machine's key nobody is let in while the appliance is
// locked; the unlock makes another, and has it seal what is good.
func TestMachineKeyLost(t *testing.T) {
	for name, lose := range map[string]func(file string) error{
		"gone":    os.Remove,
		"damaged": func(file string) error { return os.WriteFile(file, []byte("damaged"), 0o600) },
		"public":  func(file string) error { return os.Chmod(file, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			r := s.start()
			r.enrol(<-s.welcomed, "alice")
			r.stop()
			file := filepath.Join(s.cfg.State.Dir, daemon.MachineKeyFile)
			if err := lose(file); err != nil {
				t.Fatal(err)
			}
			r = s.locked()
			if _, refused := r.refusedUsers(); (refused == 1) != (name == "gone") { // of a new key; without one nobody can tell
				t.Errorf("%d users are refused", refused)
			}
			before := len(s.log.String())
			r.ok("POST", "seal", operation.SealRequest{PIN: s.pin}, nil)
			s.logged(before, `msg=serving `)
			r.stop()
			r = s.locked()
			if _, refused := r.refusedUsers(); refused != 0 {
				t.Error("the unlock has not renewed the machine's seals")
			}
		})
	}
}

// editsOfColumns gives statements that set each column of the table to NULL, to nothing and
// to another value.
func (s *site) editsOfColumns(table string) (statements []string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.cfg.State.Dir, "holdfast.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT name, type FROM pragma_table_info(?)`, table)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			s.t.Fatal(err)
		}
		nothing, other := map[string]string{"INTEGER": `0`, "TEXT": `''`, "BLOB": `x''`}[kind], map[string]string{"INTEGER": name + ` + 1`, "TEXT": name + ` || 'x'`, "BLOB": `CAST(` + name + ` || x'00' AS BLOB)`}[kind]
		for _, value := range []string{`NULL`, nothing, other} {
			statements = append(statements, `UPDATE `+table+` SET `+name+` = `+value+` WHERE `+name+` IS NOT `+value)
		}
	}
	if err := rows.Err(); err != nil || len(statements) < 9 {
		s.t.Fatal(statements, err)
	}
	return statements
}

// edits changes the database of an appliance that does not run. It gives false if the
// schema refuses that, or it changes nothing.
func (s *site) edits(statement string) bool {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.cfg.State.Dir, "holdfast.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	result, err := db.Exec(statement)
	if err != nil {
		if !strings.Contains(err.Error(), "constraint failed") {
			s.t.Fatalf("%s: %v", statement, err)
		}
		return false
	}
	n, err := result.RowsAffected()
	if err != nil {
		s.t.Fatal(err)
	}
	return n > 0
}

// policyRow is what is noted of the policy's version.
func (s *site) policyRow() (row string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.cfg.State.Dir, "holdfast.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(`SELECT group_concat(one || ' ' || version || ' ' || sealed || ' ' || ifnull(hex(digest), '-') || ' ' || ifnull(hex(sealed_digest), '-') || ' ' || tcb_version || ' ' || sealed_tcb_version || ' ' || ifnull(hex(tcb_digest), '-') || ' ' || ifnull(hex(sealed_tcb_digest), '-') || ' ' || hex(seal)) FROM policy_version`).Scan(&row); err != nil {
		s.t.Fatal(err)
	}
	return row
}

// recovery is a TCB recovery file of that version, signed by the policy's signer.
func (s *site) recovery(version uint64) []byte {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(s.cfg.Attestation.PolicyKey), "policy-key"))
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := attest.SignRecovery(&attest.Recovery{Format: attest.RecoveryFormat, Name: "a test", Version: version,
		SNP: []snp.Floor{{Product: "Milan", From: time.Now().Add(-time.Hour), TCB: &snp.TCB{SNP: 29}}}}, key.(ed25519.PrivateKey))
	if err != nil {
		s.t.Fatal(err)
	}
	return file
}

// TestRecoveryOutlivesRestart: after a restart an older TCB recovery file, or none, keeps the
// PIN back, and the newer one that is put back does not.
func TestRecoveryOutlivesRestart(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(t.TempDir(), "tcb.json")
	s.cfg.Attestation.TCB = file
	older, newer := s.recovery(1), s.recovery(2)
	s.replace(file, newer)
	s.start().stop()
	s.asIs = true
	calls := s.shim.AllCalls()
	s.replace(file, older)
	from := len(s.log.String())
	r := s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_TCB_FILE`)
	r.stop()
	if now := s.shim.AllCalls(); now != calls {
		t.Error("the HSM was called")
	}
	s.replace(file, newer)
	s.start()
}

// TestPolicyVersionIsSealed: the noted version of the policy, and of the TCB recovery file,
// cannot be lowered, removed or replaced in the database.
func TestPolicyVersionIsSealed(t *testing.T) {
	s := newSite(t)
	s.cfg.Attestation.TCB = filepath.Join(t.TempDir(), "tcb.json")
	s.replace(s.cfg.Attestation.TCB, s.recovery(1))
	s.start().stop()
	putBack, present := s.copyOf(), s.policyRow()
	s.asIs = true
	for _, statement := range append(s.editsOfColumns("policy_version"),
		`DELETE FROM policy_version`,
		`UPDATE policy_version SET seal = NULL`,
		`UPDATE policy_version SET seal = x''`,
		`UPDATE policy_version SET sealed = 0`,
		`UPDATE policy_version SET sealed = 0, seal = NULL`,
		`UPDATE policy_version SET sealed = sealed + 1, version = version + 1`,
		`UPDATE policy_version SET version = 0, sealed = 0, seal = NULL`,
		`UPDATE policy_version SET seal = (SELECT substr(seal, 2, 32) FROM settings LIMIT 1)`,
		`INSERT INTO policy_version (one, version) VALUES (2, 1)`,
		`UPDATE policy_version SET tcb_version = 0, tcb_digest = NULL`,
		`UPDATE policy_version SET sealed_tcb_version = 0, sealed_tcb_digest = NULL`,
		`UPDATE policy_version SET tcb_version = 0, tcb_digest = NULL, sealed_tcb_version = 0, sealed_tcb_digest = NULL`,
	) {
		putBack()
		if !s.edits(statement) {
			continue // the schema refuses it, or it is so already
		}
		calls, before := s.shim.AllCalls(), len(s.log.String())
		r := s.begin()
		if ended := s.logged(before, `msg=boot state=(locked .*code=(?:E_POLICY_VERSION|E_TCB_FILE)|serving)`)[1]; ended == "serving" {
			r.stop()
			if now := s.policyRow(); now != present { // the edit was without effect
				t.Errorf("%s: it serves, and the noted version is %s, not %s", statement, now, present)
			}
			putBack = s.copyOf() // the anchor has moved
			continue
		}
		if b := r.status().Boot; b.State != progress.Locked || b.Code != string(fault.PolicyVersion) && b.Code != string(fault.RecoveryFile) {
			t.Errorf("%s: the boot is %+v", statement, b)
		}
		if now := s.shim.AllCalls(); now != calls {
			t.Errorf("%s: the HSM was called", statement)
		}
		r.stop()
	}
	putBack()
	s.start()
}
