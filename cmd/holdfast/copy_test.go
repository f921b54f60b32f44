package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/sitetest"
)

// copied copies the folder of a state: the database and its log first, as the state has a
// head of the audit log, and must not be newer than that.
func copied(t *testing.T, state string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"holdfast.db", "holdfast.db-wal"} {
		content, err := os.ReadFile(filepath.Join(state, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(to, "audit"), os.DirFS(filepath.Join(state, "audit"))); err != nil {
		t.Fatal(err)
	}
	return to
}

// digests are those of all files of a folder, with their modes and times.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		all[path] = fmt.Sprint(sha256.Sum256(content), err, info.Mode(), info.ModTime())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// verified is what holdfastd state verify came to.
type verified struct {
	code   int
	report appliance.CopyReport
	fail   cli.Failure
}

func (v verified) codes() (codes []string) {
	for _, f := range v.report.Findings {
		codes = append(codes, string(f.Code))
	}
	return codes
}

// anchor gives the result of an anchor whose name begins so; empty if it is not there.
func (v verified) anchor(name string) appliance.CopyAnchor {
	for _, a := range v.report.Anchors {
		if strings.HasPrefix(a.Name, name) {
			return a
		}
	}
	return appliance.CopyAnchor{}
}

// verifyCopy runs holdfastd state verify, and finds the copy as it was.
func verifyCopy(t *testing.T, s *sitetest.Site, copy string, flags ...string) (v verified) {
	t.Helper()
	var before map[string]string
	dir := copy
	if info, err := os.Stat(copy); err == nil && !info.IsDir() {
		dir = filepath.Dir(copy)
	}
	_, absent := os.Stat(dir)
	running := dir == filepath.Join(s.Dir, "state")
	if absent == nil && !running {
		before = digests(t, dir)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	temporary := t.TempDir()
	cmd := s.Command(ctx, "holdfastd", append([]string{"state", "verify", copy, "--json"}, flags...)...)
	cmd.Env = append(cmd.Env, "TMPDIR="+temporary)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(sitetest.PIN+"\n"), &stdout, &stderr
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	v.code = cmd.ProcessState.ExitCode()
	if stdout.Len() > 0 {
		err = json.Unmarshal(stdout.Bytes(), &v.report)
	} else {
		err = json.Unmarshal(stderr.Bytes(), &v.fail)
	}
	if err != nil {
		t.Fatalf("exit code %d, %v:\n%s%s", v.code, err, &stdout, &stderr)
	}
	if strings.Contains(stdout.String()+stderr.String(), sitetest.PIN) {
		t.Error("the PIN is shown")
	}
	if absent == nil && !running && !maps.Equal(before, digests(t, dir)) {
		t.Errorf("the copy was changed: %v", slices.Sorted(maps.Keys(digests(t, dir))))
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
	return v
}

// editCopy changes the database of a copy. The database of an earlier copy is "old".
func editCopy(t *testing.T, dir, old string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, st := range append([]string{fmt.Sprintf("ATTACH '%s' AS old", filepath.Join(old, "holdfast.db"))}, statements...) {
		done, err := db.Exec(st)
		if err != nil {
			t.Fatalf("%s: %v", st, err)
		}
		if n, _ := done.RowsAffected(); n == 0 && !strings.HasPrefix(st, "ATTACH") && !strings.HasPrefix(st, "CREATE") && !strings.HasPrefix(st, "PRAGMA") {
			t.Fatalf("%s: it changes nothing", st)
		}
	}
}

// copySite is a site whose appliance has made two states and is stopped.
type copySite struct {
	*sitetest.Site
	old, present string // copies
}

func newCopySite(t *testing.T) *copySite {
	s := &copySite{Site: sitetest.New(t, t.TempDir())}
	state := filepath.Join(s.Dir, "state")
	p := s.Start(t)
	s.Run(t, "keystore", "create", "demo")
	s.Run(t, "keystore", "create", "other", "--uri-path-prefix", "/other")
	s.Run(t, "credential", "create", "demo")
	s.Run(t, "grant", "add", "demo", "--principal", "*", "--operations", "Encrypt,Decrypt")
	s.Run(t, "key", "create", "demo", "k")
	s.Run(t, "key", "create", "other", "k")
	s.Run(t, "token", "create", "robot", "--key-store", "*", "--operation", "*", "--network", "*", "--out", filepath.Join(s.Dir, "robot"))
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	s.old = copied(t, state)
	p = s.Start(t)
	s.Run(t, "key", "disable", "demo", "k")
	s.Run(t, "token", "revoke", "robot")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	s.present = copied(t, state)
	machine, err := s.PowerOn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(machine.Stop)
	return s
}

// with gives a copy of the present state that is changed.
func (s *copySite) with(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := copied(t, s.present)
	change(dir)
	return dir
}

// withRows is with for statements.
func (s *copySite) withRows(t *testing.T, statements ...string) string {
	return s.with(t, func(dir string) { editCopy(t, dir, s.old, statements...) })
}

// TestStateVerifyCopy: a copy of the state is whole, or what is wrong with it is said, and
// the copy stays as it is.
func TestStateVerifyCopy(t *testing.T) {
	t.Parallel()
	s := newCopySite(t)
	config := []string{"--config", s.Config}
	whole := verifyCopy(t, s.Site, s.present, config...)
	r := whole.report
	if tpm, log := whole.anchor("tpm:"), whole.anchor("records of the audit log"); whole.code != 0 || r.Verdict != appliance.CopyPass || tpm.Result != appliance.AnchorAgrees || tpm.Since != r.Head.At || log.Result != appliance.AnchorAgrees || log.Since.IsZero() {
		t.Fatalf("the whole copy: exit code %d, %+v", whole.code, r)
	}
	if known := whole.anchor("audit log"); known.Result != appliance.AnchorAgrees || known.Since.IsZero() {
		t.Errorf("what the audit log knows: %+v", r.Anchors)
	}
	if len(r.Scopes) != 3 || r.Head.Sequence == 0 || r.Rows == 0 || r.Scopes[1].Name == "" || r.Scopes[1].Sets < 2 || r.Installation == "" || r.Schema != r.KnownSchema {
		t.Errorf("the whole copy: %+v", r)
	}
	t.Run("by a file with the PIN, and the database by its path", func(t *testing.T) {
		v := verifyCopy(t, s.Site, filepath.Join(s.present, "holdfast.db"), append(config, "--pin-file", filepath.Join(s.Dir, "pin"))...)
		if v.code != 0 || v.report.Head != r.Head {
			t.Errorf("exit code %d, %+v", v.code, v.report)
		}
	})
	t.Run("without the HSM", func(t *testing.T) {
		v := verifyCopy(t, s.Site, s.present, append(config, "--without-hsm")...)
		if v.code != 3 || v.report.Verdict != appliance.CopyIncomplete || v.report.Head != r.Head || v.anchor("tpm:").Result != appliance.AnchorAgrees || len(v.report.Scopes) != 3 {
			t.Errorf("exit code %d, %+v", v.code, v.report)
		}
		if v := verifyCopy(t, s.Site, s.present, "--without-hsm"); v.code != 3 || v.report.Head != r.Head {
			t.Errorf("without a configuration: exit code %d, %+v", v.code, v.report)
		}
		if v := verifyCopy(t, s.Site, s.old, append(config, "--without-hsm")...); v.code != 1 || !slices.Equal(v.codes(), []string{"E_STATE_ROLLED_BACK"}) {
			t.Errorf("an older one: exit code %d, %+v", v.code, v.report)
		}
	})
	for name, test := range map[string]struct {
		copy    string
		code    int
		finding string // empty for none
		damaged int    // rows
	}{
		"a row changed":             {s.withRows(t, `UPDATE external_keys SET state = 'enabled' WHERE state = 'disabled'`), 1, "E_STATE_CHANGED", 1},
		"a row removed":             {s.withRows(t, `DELETE FROM grants`), 1, "E_STATE_CHANGED", 0},
		"a row put back":            {s.withRows(t, `REPLACE INTO external_keys SELECT * FROM old.external_keys WHERE key_store = (SELECT id FROM key_stores WHERE name = 'demo')`), 1, "E_STATE_CHANGED", 0},
		"a token put back":          {s.withRows(t, `REPLACE INTO api_tokens SELECT * FROM old.api_tokens`), 1, "E_STATE_CHANGED", 0},
		"a token changed":           {s.withRows(t, `UPDATE api_tokens SET revoked_at = NULL`), 1, "E_STATE_CHANGED", 1},
		"a setting removed":         {s.withRows(t, `DELETE FROM settings WHERE name = 'bootstrap'`), 1, "E_STATE_CHANGED", 1},
		"a row added":               {s.withRows(t, `INSERT INTO token_objects SELECT 'x', key_store, id, 1, x'' FROM external_keys LIMIT 1`), 1, "E_STATE_CHANGED", 0},
		"the manifest removed":      {s.withRows(t, `DELETE FROM manifests WHERE scope = ''`), 1, "E_STATE_UNSEALED", 0},
		"all manifests removed":     {s.withRows(t, `DELETE FROM manifests`, `DELETE FROM manifest_history`), 1, "E_STATE_UNSEALED", 0},
		"the manifest put back":     {s.withRows(t, `REPLACE INTO manifests SELECT * FROM old.manifests WHERE scope = ''`), 1, "E_STATE_CHANGED", 0},
		"the history changed":       {s.withRows(t, `UPDATE manifest_history SET link = x'00' WHERE sequence = (SELECT max(sequence) FROM manifest_history)`), 1, "E_STATE_CHANGED", 0},
		"no installation":           {s.withRows(t, `DELETE FROM installation`), 1, "E_STATE_MISSING", 0},
		"another state key":         {s.withRows(t, `UPDATE installation SET wrapped_state_key = zeroblob(61)`), 1, "tampered", 0},
		"a trigger":                 {s.withRows(t, `CREATE TRIGGER mine AFTER UPDATE ON external_keys BEGIN SELECT 1; END`), 1, "E_STATE_SCHEMA", 0},
		"a value that is forbidden": {s.withRows(t, `PRAGMA ignore_check_constraints = 1`, `UPDATE external_keys SET can_encrypt = 7`), 1, "E_STATE_DAMAGED", 0},
		"older than the TPM":        {s.old, 1, "E_STATE_ROLLED_BACK", 0},
		"the audit log put back": {s.with(t, func(dir string) {
			check(t, os.RemoveAll(filepath.Join(dir, "audit")))
			check(t, os.CopyFS(filepath.Join(dir, "audit"), os.DirFS(filepath.Join(s.old, "audit"))))
		}), 1, "E_AUDIT_REWRITTEN", 0},
		"the audit log edited": {s.with(t, func(dir string) {
			segments, err := filepath.Glob(filepath.Join(dir, "audit", "*.jsonl"))
			check(t, err)
			text, err := os.ReadFile(segments[0])
			check(t, err)
			check(t, os.WriteFile(segments[0], bytes.Replace(text, []byte(`"result":"allowed"`), []byte(`"result":"refused"`), 1), 0o600))
		}), 1, "E_AUDIT_REWRITTEN", 0},
		"the audit log emptied": {s.with(t, func(dir string) {
			check(t, os.RemoveAll(filepath.Join(dir, "audit")))
			check(t, os.Mkdir(filepath.Join(dir, "audit"), 0o700))
		}), 1, "E_AUDIT_REWRITTEN", 0},
		"the head of the audit log put back": {s.withRows(t, `UPDATE audit_head SET (value, seal) = (SELECT value, seal FROM old.audit_head)`), 1, "E_STATE_CHANGED", 0},
		"a garbled database": {s.with(t, func(dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "holdfast.db"), os.O_WRONLY, 0)
			check(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte("garbage!"), 2048), 4096)
			check(t, errors.Join(err, f.Close()))
		}), 1, "E_STATE_DAMAGED", 0},
		"a text": {s.with(t, func(dir string) {
			check(t, os.WriteFile(filepath.Join(dir, "holdfast.db"), []byte("not a database"), 0o600))
		}), 1, "E_STATE_FOREIGN", 0},
		"an empty file":     {s.with(t, func(dir string) { check(t, os.Truncate(filepath.Join(dir, "holdfast.db"), 0)) }), 1, "E_STATE_FOREIGN", 0},
		"another program's": {s.with(t, func(dir string) { editCopy(t, dir, s.old, `PRAGMA application_id = 7`) }), 1, "E_STATE_FOREIGN", 0},
		"a log without its database": {s.with(t, func(dir string) {
			check(t, os.Rename(filepath.Join(dir, "holdfast.db"), filepath.Join(dir, "holdfast.db-wal")))
		}), 1, "E_STATE_LOSS", 0},
		"of a newer release": {s.withRows(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`), 1, "", 0},
		"no audit log":       {s.with(t, func(dir string) { check(t, os.RemoveAll(filepath.Join(dir, "audit"))) }), 3, "", 0},
		"no database":        {s.with(t, func(dir string) { check(t, os.Remove(filepath.Join(dir, "holdfast.db"))) }), 2, "", 0},
		"no folder":          {filepath.Join(s.Dir, "nowhere"), 2, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := verifyCopy(t, s.Site, test.copy, config...)
			if v.code != test.code || v.report.DamagedRows != test.damaged || (test.finding == "") != (len(v.report.Findings) == 0) || test.finding != "" && !slices.Contains(v.codes(), test.finding) {
				t.Errorf("exit code %d, %+v %+v", v.code, v.report, v.fail)
			}
			if test.code == 2 && v.fail.Message == "" {
				t.Error("it does not say why")
			}
		})
	}
	s.elsewhere(t, r.Head)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// elsewhere verifies the copy with another machine's TPM, with none, and with another HSM.
func (s *copySite) elsewhere(t *testing.T, head appliance.Head) {
	config := func(t *testing.T, from, to string) []string {
		text, err := os.ReadFile(s.Config)
		check(t, err)
		if !strings.Contains(string(text), from) {
			t.Fatalf("the configuration has no %s", from)
		}
		return []string{"--config", s.Write(t, fmt.Sprintf("other-%d.toml", time.Now().UnixNano()), strings.ReplaceAll(string(text), from, to))}
	}
	t.Run("another machine's TPM", func(t *testing.T) {
		dir := t.TempDir()
		other, err := swtpm.PowerOn(dir, s.Components...)
		check(t, err)
		defer other.Stop()
		v := verifyCopy(t, s.Site, s.present, config(t, s.TPM(), filepath.Join(dir, swtpm.SocketName))...)
		if a := v.anchor(head.Anchor); v.code != 3 || a.Result != appliance.AnchorNotCompared || !strings.Contains(a.Detail, "another machine's TPM") {
			t.Errorf("exit code %d, %+v", v.code, v.report)
		}
	})
	t.Run("no TPM", func(t *testing.T) {
		for _, flags := range [][]string{config(t, s.TPM(), filepath.Join(s.Dir, "no-tpm")), {"--config", s.Config, "--without-tpm"}} {
			if v := verifyCopy(t, s.Site, s.present, flags...); v.code != 3 || v.anchor(head.Anchor).Result != appliance.AnchorNotCompared || v.anchor("audit log").Result != appliance.AnchorAgrees {
				t.Errorf("%q: exit code %d, %+v", flags, v.code, v.report)
			}
			if v := verifyCopy(t, s.Site, s.old, flags...); v.code != 3 || len(v.report.Findings) > 0 {
				t.Errorf("%q, an older copy: exit code %d, %+v", flags, v.code, v.report)
			}
		}
	})
	t.Run("no TPM, and the audit log knows a newer state", func(t *testing.T) {
		dir := copied(t, s.old)
		check(t, os.RemoveAll(filepath.Join(dir, "audit")))
		check(t, os.CopyFS(filepath.Join(dir, "audit"), os.DirFS(filepath.Join(s.present, "audit"))))
		v := verifyCopy(t, s.Site, dir, "--config", s.Config, "--without-tpm")
		if a := v.anchor("audit log"); v.code != 1 || !slices.Equal(v.codes(), []string{"E_STATE_ROLLED_BACK"}) || a.Result != appliance.AnchorDisagrees {
			t.Errorf("exit code %d, %+v", v.code, v.report)
		}
	})
	t.Run("another HSM", func(t *testing.T) {
		other := sitetest.New(t, t.TempDir())
		p := other.Start(t)
		check(t, p.Stop())
		if v := verifyCopy(t, other, s.present, "--config", other.Config, "--without-tpm"); v.code != 1 || !slices.Contains(v.codes(), "tampered") {
			t.Errorf("exit code %d, %+v %+v", v.code, v.report, v.fail)
		}
	})
	t.Run("a wrong PIN", func(t *testing.T) {
		if v := verifyCopy(t, s.Site, s.present, "--config", s.Config, "--pin-file", s.Write(t, "wrong", "no PIN")); v.code != 1 || v.fail.Code != "E_HSM_PIN" {
			t.Errorf("exit code %d, %+v %+v", v.code, v.report, v.fail)
		}
	})
}

// TestStateVerifyRunning: the folder of an appliance that runs under load is whole at each
// moment, and so is a copy of it with a write-ahead log.
func TestStateVerifyRunning(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	p := s.Start(t)
	s.Run(t, "keystore", "create", "demo")
	state := filepath.Join(s.Dir, "state")
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.Run(t, "key", "create", "demo", fmt.Sprint("k", i))
			}
		}
	}()
	last := uint64(0)
	for i := range 6 { // each copies it while it changes
		v := verifyCopy(t, s, state, "--config", s.Config, "--without-tpm")
		if v.code != 3 || len(v.report.Findings) > 0 || v.anchor("records of the audit log").Result != appliance.AnchorAgrees || v.report.Head.Sequence < last {
			t.Errorf("run %d: exit code %d, %+v %+v", i, v.code, v.report, v.fail)
		}
		last = v.report.Head.Sequence
	}
	close(stop)
	<-ended
	s.Run(t, "key", "disable", "demo", "k0")
	if _, err := os.Stat(filepath.Join(state, "holdfast.db-wal")); err != nil {
		t.Errorf("there is no write-ahead log to read: %v", err)
	}
	dir := copied(t, state)
	check(t, p.Cmd.Process.Kill()) // which leaves the log
	<-p.Ended
	machine, err := s.PowerOn()
	check(t, err)
	defer machine.Stop()
	if v := verifyCopy(t, s, dir, "--config", s.Config); v.code != 0 || v.report.Head.Sequence <= last {
		t.Errorf("exit code %d, %+v %+v", v.code, v.report, v.fail)
	}
	wal := filepath.Join(dir, "holdfast.db-wal")
	log, err := os.ReadFile(wal)
	check(t, err)
	// In the middle of the frames that count: behind them may be frames of an earlier round, with
	// other salts (https://www.sqlite.org/fileformat2.html#walformat).
	frame, frames := 24+int(binary.BigEndian.Uint32(log[8:])), 0
	for at := 32; at+frame <= len(log) && bytes.Equal(log[at+8:at+16], log[16:24]); at += frame {
		frames++
	}
	log[32+frames/2*frame+24] ^= 1
	check(t, os.WriteFile(wal, log, 0o600))
	if v := verifyCopy(t, s, dir, "--config", s.Config); v.code != 1 || !slices.Contains(v.codes(), "E_STATE_LOSS") {
		t.Errorf("with a garbled log: exit code %d, %+v %+v", v.code, v.report, v.fail)
	}
}
