package appliance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
)

// rig is an appliance over a folder with a database, an anchor and an audit log.
type rig struct {
	*appliance.Appliance
	log   *auditlog.Log
	store *sqlite.DB
	token appliancetest.Token
}

// openAuditLog opens the log in the folder of an appliance, as it is before it is proven.
func openAuditLog(dir string) (*auditlog.Log, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := audit.NewECDSASigner("test.example/audit", key)
	if err != nil {
		return nil, err
	}
	return auditlog.Open(filepath.Join(dir, "audit"), auditlog.Options{LogID: "the-log", Signer: signer, Unproven: true, SegmentBytes: 32 << 10, CheckpointRecords: 50})
}

// openRig opens one; the error is why it stays locked.
func openRig(dir string, device *appliancetest.Memory, anchor appliance.Anchor) (s *rig, err error) {
	s = &rig{}
	if s.log, err = openAuditLog(dir); err != nil {
		return s, err
	}
	if s.store, err = sqlite.Open(ctx, filepath.Join(dir, "holdfast.db"), sqlite.Options{}); err != nil {
		return s, err
	}
	s.Appliance = appliance.New(appliance.Options{Store: s.store, AuditLog: s.log, AuditHeads: s.store.Machine(), Anchor: func() appliance.Anchor { return anchor }})
	if s.token, err = device.Open(ctx, appliancetest.Opening{Log: slog.New(slog.DiscardHandler), MakingMasterKey: func() error { return s.NoteMasterKey(ctx) }}); err != nil {
		return s, err
	}
	return s, s.Unlock(ctx, keyring.New(s.token), nil)
}

func (s *rig) close() {
	if s.Appliance != nil {
		s.Lock()
	}
	if s.token != nil {
		_ = s.token.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
	if s.log != nil {
		_ = s.log.Close()
	}
}

func (s *rig) request(n int) error {
	return s.log.Append(ctx, &audit.Record{Kind: audit.KindXKS, Operation: "Encrypt", Result: audit.Allowed, Key: fmt.Sprint("key-", n)})
}

const headKillEnv = "HOLDFAST_TEST_HEAD_KILL"

// served writes records as requests do, keeps the log's head, and makes changes, until it
// is killed. It says how many records were on the disk before each head that was kept.
func rigUntilKilled(dir string) error {
	dumped, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	device, err := appliancetest.NewMemoryOf(dumped)
	if err != nil {
		return err
	}
	s, err := openRig(dir, device, fileAnchor(filepath.Join(dir, "anchor")))
	if err != nil {
		return err
	}
	fmt.Println("serving")
	failed := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			if err := s.request(n); err != nil {
				failed <- err
				return
			}
		}
	}()
	for n := 1; ; n++ {
		select {
		case err := <-failed:
			return err
		default:
		}
		before := s.log.Status().Size
		if n%3 == 0 {
			if _, err := s.SetQuota(ctx, "demo", 1000+n); err != nil { // which keeps the head by itself
				return err
			}
		} else if err := s.KeepAuditHead(ctx); err != nil {
			return err
		}
		fmt.Println("kept", before)
	}
}

// TestHeadOutlivesAKill: after a kill at any moment the log is proven as it is. Whoever
// cuts, edits or renumbers it before the last head that was kept is found; only what came
// after that can be cut off.
func TestHeadOutlivesAKill(t *testing.T) {
	if dir := os.Getenv(headKillEnv); dir != "" {
		fmt.Println("failed", rigUntilKilled(dir))
		os.Exit(1)
	}
	dir, device := t.TempDir(), appliancetest.NewMemory()
	s := must(openRig(dir, device, fileAnchor(filepath.Join(dir, "anchor"))))(t)
	must(s.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo", RequestsPerSecond: 1000}))(t)
	s.close()
	if err := os.WriteFile(filepath.Join(dir, "token"), must(device.Dump())(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		kept := killedLogged(t, dir)
		head := keptHead(t, dir)
		if head < kept {
			t.Fatalf("the head of %d records is kept, and one of %d was answered", head, kept)
		}
		for name, c := range map[string]struct {
			tamper func(t *testing.T, log string)
			want   fault.Code
		}{
			"as it is":                       {func(*testing.T, string) {}, ""},
			"cut to the head":                {func(t *testing.T, log string) { rewrite(t, log, func(all [][]byte) [][]byte { return all[:head] }) }, ""},
			"cut to one record before":       {func(t *testing.T, log string) { rewrite(t, log, func(all [][]byte) [][]byte { return all[:head-1] }) }, fault.AuditRewritten},
			"cut to the half":                {func(t *testing.T, log string) { rewrite(t, log, func(all [][]byte) [][]byte { return all[:head/2] }) }, fault.AuditRewritten},
			"the first record edited":        {func(t *testing.T, log string) { edited(t, log, 0) }, fault.AuditRewritten},
			"the last record before, edited": {func(t *testing.T, log string) { edited(t, log, head-1) }, fault.AuditRewritten},
			"one dropped, the rest renumbered": {func(t *testing.T, log string) {
				rewrite(t, log, func(all [][]byte) [][]byte { return append(all[:head/2:head/2], all[head/2+1:]...) })
			}, fault.AuditRewritten},
			"one doubled, the rest renumbered": {func(t *testing.T, log string) {
				rewrite(t, log, func(all [][]byte) [][]byte {
					return append(append([][]byte{}, all[:head/2]...), all[head/2-1:]...)
				})
			}, fault.AuditRewritten},
		} {
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c.tamper(t, filepath.Join(copied, "audit"))
			s, err := openRig(copied, must(appliancetest.NewMemoryOf(must(device.Dump())(t)))(t), fileAnchor(filepath.Join(copied, "anchor")))
			if fault.CodeOf(err) != c.want || (err == nil) == s.Locked() {
				t.Errorf("%s, %d records kept: %v", name, head, err)
			}
			s.close()
		}
	}
}

// killedLogged runs a child and kills it. It gives how many records were certainly kept.
func killedLogged(t *testing.T, dir string) (kept int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), headKillEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wanted := 3 + mathrand.IntN(10)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch what, rest, _ := strings.Cut(lines.Text(), " "); what {
		case "serving":
		case "kept":
			kept = must(strconv.ParseInt(rest, 10, 64))(t)
			if wanted--; wanted == 0 {
				time.AfterFunc(time.Duration(mathrand.IntN(5000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		default:
			t.Errorf("the child says: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	return kept
}

// keptHead reads how many records the head in the database is of.
func keptHead(t *testing.T, dir string) (size int64) {
	t.Helper()
	copied := t.TempDir() // so that the log of writes is read, and not begun again
	for _, name := range []string{"holdfast.db", "holdfast.db-wal"} {
		copyFile(t, filepath.Join(dir, name), filepath.Join(copied, name))
	}
	db := must(sql.Open("sqlite", filepath.Join(copied, "holdfast.db")))(t)
	defer db.Close()
	var value string
	if err := db.QueryRow(`SELECT value FROM audit_head`).Scan(&value); err != nil {
		t.Fatal(err)
	}
	digits, _, _ := strings.Cut(value, " ")
	return must(strconv.ParseInt(digits, 10, 64))(t)
}

// rewrite makes a log of other records in place of one, in a form that opens: its lines
// are numbered again, its checkpoints cut to the first, its tree removed.
func rewrite(t *testing.T, log string, change func(all [][]byte) [][]byte) {
	t.Helper()
	segments := must(filepath.Glob(filepath.Join(log, "*"+audit.SegmentSuffix)))(t)
	var all [][]byte
	for _, s := range segments {
		text, _, _ := bytes.Cut(must(os.ReadFile(s))(t), []byte{0})
		all = append(all, bytes.SplitAfter(text, []byte("\n"))...)
		all = all[:len(all)-1] // the empty one behind the last newline, or a torn one
	}
	for _, s := range segments {
		_ = os.Remove(s + audit.IndexSuffix)
		if s != segments[0] {
			if err := os.Remove(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	var text []byte
	for i, line := range change(all) {
		_, rest, _ := bytes.Cut(line, []byte(","))
		text = append(fmt.Appendf(text, `{"seq":%d,`, i), rest...)
	}
	first, _, err := (&audit.Notes{R: bytes.NewReader(must(os.ReadFile(filepath.Join(log, audit.CheckpointsName)))(t))}).Next()
	if err := errors.Join(err, os.WriteFile(segments[0], text, 0o600), os.Remove(filepath.Join(log, audit.TreeName)),
		os.WriteFile(filepath.Join(log, audit.CheckpointsName), append(first, '\n'), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func edited(t *testing.T, log string, n int64) {
	t.Helper()
	rewrite(t, log, func(all [][]byte) [][]byte {
		all[n] = bytes.Replace(all[n], []byte(`"kind":"xks"`), []byte(`"kind":"boot"`), 1)
		return all
	})
}

// TestHeadIsOfTheChange: the transaction of a change has the head of the log as it was then,
// and the anchor is raised once: what is kept after the record costs the TPM nothing.
func TestHeadIsOfTheChange(t *testing.T) {
	anchor, dir := &counter{}, t.TempDir()
	s := must(openRig(dir, appliancetest.NewMemory(), anchor))(t)
	defer s.close()
	must(s.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo"}))(t)
	for n := range 3 {
		for range 5 {
			if err := s.request(n); err != nil {
				t.Fatal(err)
			}
		}
		size, was := s.log.Status().Size, must(anchor.Count(ctx))(t)
		must(s.SetQuota(ctx, "demo", 100+n))(t)
		if head := keptHead(t, dir); head != size {
			t.Errorf("the change has the head of %d records, and the log had %d", head, size)
		}
		if err := s.request(n); err != nil { // its record
			t.Fatal(err)
		}
		if err := s.KeepAuditHead(context.Background()); err != nil {
			t.Fatal(err)
		}
		if head := keptHead(t, dir); head != size+1 {
			t.Errorf("after the record the head of %d records is kept, and the log has %d", head, size+1)
		}
		if now := must(anchor.Count(ctx))(t); now != was+1 {
			t.Errorf("the anchor was raised by %d for one change", now-was)
		}
		if status := must(s.VerifyState(ctx))(t); status.NotAnchored != "" || status.Held != "" {
			t.Errorf("%+v", status)
		}
	}
}

// TestUnprovenHeadStays: while the log is not proven, no change replaces the head that was
// kept, so that a later start finds the forgery as well.
func TestUnprovenHeadStays(t *testing.T) {
	anchor, dir, device := &counter{}, t.TempDir(), appliancetest.NewMemory()
	s := must(openRig(dir, device, anchor))(t)
	for n := range 20 {
		if err := s.request(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.KeepAuditHead(ctx); err != nil {
		t.Fatal(err)
	}
	s.close()
	rewrite(t, filepath.Join(dir, "audit"), func(all [][]byte) [][]byte { return all[:10] })
	for range 3 {
		s, err := openRig(dir, device, anchor)
		if fault.CodeOf(err) != fault.AuditRewritten {
			t.Errorf("%v", err)
		}
		s.close()
	}
}
