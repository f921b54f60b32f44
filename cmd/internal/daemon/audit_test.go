package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/config"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

func (s *site) auditDir() string { return filepath.Join(s.cfg.State.Dir, "audit") }

// auditKey is the one that the evidence names.
func (r *running) auditKey() note.Verifiers {
	r.s.t.Helper()
	e, _ := r.evidence([]byte("an auditor's own nonce"))
	key, err := x509.ParsePKIXPublicKey(e.AuditKey)
	if err != nil {
		r.s.t.Fatal(err)
	}
	v, err := audit.NewECDSAVerifier("holdfast-audit", key.(*ecdsa.PublicKey))
	if err != nil {
		r.s.t.Fatal(err)
	}
	return note.VerifierList(v)
}

// TestEverythingIsAudited: the boot, administrators and KMS, over reboots, in one
// log that the machine's TPM signs.
func TestEverythingIsAudited(t *testing.T) {
	s := newSite(t)
	r := s.start()
	key := r.auditKey()
	k := r.newKeyStore()
	r.newKey("k", appliance.CustodyCached, "")
	metadata := xkstest.Metadata().With("kmsRequestId", "the request").With("kmsViaService", "s3.us-east-1.amazonaws.com")
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x").With("requestMetadata", metadata))
	k.Fails("/keys/nobody/encrypt", xkstest.EncryptBody("x"), 404, "KeyNotFoundException")
	r.kms("AAAAAAAAAAAAAAAAAAAAAAAA", k.SecretAccessKey).Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 401, "AuthenticationFailedException")
	r.stop()
	r = s.start()
	r.stop()

	report, err := audit.Verify(s.auditDir(), key, audit.VerifyOptions{})
	if err != nil || report.Unsigned != 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	reader := audit.NewReader(s.auditDir())
	found := func(q audit.Query) []*audit.Record {
		t.Helper()
		records, _, err := reader.Search(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return records
	}
	one := found(audit.Query{KMSRequestID: "the request"})
	if len(one) != 1 {
		t.Fatalf("%d records of the request", len(one))
	}
	if o := one[0]; o.Kind != audit.KindXKS || o.Operation != "Encrypt" || o.Result != audit.Allowed || o.KeyStore != "p" || o.Key != "k" || o.Version != 1 ||
		o.Principal != xkstest.Principal || o.ViaService != "s3.us-east-1.amazonaws.com" || o.KMSOperation != "Encrypt" || o.DurationUS <= 0 || o.Actor != k.AccessKeyID {
		t.Errorf("the request is recorded as %+v", o)
	}
	if n := len(found(audit.Query{Kind: audit.KindXKS})); n != 2 {
		t.Errorf("%d requests are recorded, want the 2 that were authenticated", n)
	}
	admin := found(audit.Query{Kind: audit.KindAdmin})
	if len(admin) != 4 || !strings.Contains(admin[0].Actor, fmt.Sprintf("uid %d pid %d", os.Getuid(), os.Getpid())) {
		t.Errorf("%d operations of administrators, the last of %q", len(admin), admin[0].Actor)
	}
	var states []string
	for _, b := range found(audit.Query{Kind: audit.KindBoot}) {
		states = append(states, b.Operation)
	}
	once := "serving unlock release appraise collect measure probe"
	if got := strings.Join(states, " "); got != once+" "+once {
		t.Errorf("the boots are recorded as %s", got)
	}
}

// TestDiskFull: what cannot be recorded is refused; nothing is corrupted; and all
// is well when there is space again.
func TestDiskFull(t *testing.T) {
	s := newSite(t)
	if err := os.MkdirAll(s.cfg.State.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.cfg.State.Dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.cfg.State.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.cfg.Audit = config.Audit{ReserveMiB: 8, WarnMiB: 16}
	r := s.start()
	key := r.auditKey()
	k := r.newKeyStore()
	r.newKey("k", appliance.CustodyCached, "")
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	filler := filepath.Join(s.cfg.State.Dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 42<<20), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	eventually(t, func() error { // the disk is asked each second
		if a := k.Call("/keys/k/decrypt", xkstest.DecryptBody(sealed)); a.Status != 500 || a.ErrorName() != "InternalException" || !strings.Contains(a.Text, "could not be audited") {
			return fmt.Errorf("it answers %d %s", a.Status, a.Text)
		}
		return nil
	})
	r.probes("/readyz", 503)
	r.probes("/healthz", 200)
	if err := r.do("POST", "keystores/p/keys", operation.NewKey{ID: "new", Custody: appliance.CustodyCached}, nil); err == nil || !strings.Contains(err.Error(), "the disk of the audit log is full") {
		t.Errorf("an operation of an administrator: %v", err)
	}
	if status := r.status(); status.Audit.Level != audit.LevelFull {
		t.Errorf("the status is %+v", status.Audit)
	}
	if !strings.Contains(r.scrape(), "holdfast_audit_writable 0") {
		t.Error("the metrics do not tell")
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if a := k.Call("/keys/k/decrypt", xkstest.DecryptBody(sealed)); a.Status != 200 {
			return fmt.Errorf("it answers %d %s", a.Status, a.Text)
		}
		return nil
	})
	r.probes("/readyz", 200)
	r.newKey("after", appliance.CustodyCached, "")
	r.stop()
	if report, err := audit.Verify(s.auditDir(), key, audit.VerifyOptions{}); err != nil {
		t.Errorf("%v: %+v", err, report)
	}
	r = s.start()
	r.kms(k.AccessKeyID, k.SecretAccessKey).OK("/keys/after/encrypt", xkstest.EncryptBody("x"))
}

// TestBrokenAuditLog: an appliance whose log was changed does not serve, and says
// which line it is.
func TestBrokenAuditLog(t *testing.T) {
	s := newSite(t)
	r := s.start()
	r.newKeyStore()
	r.stop()
	files, err := filepath.Glob(filepath.Join(s.auditDir(), "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments: %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], bytes.Replace(text, []byte("POST keystores"), []byte("GET  keystores"), 1)[:len(text)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	calls, from := s.shim.AllCalls(), len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_AUDIT`)
	if b := r.status().Boot; !strings.Contains(b.Reason, "audit log") {
		t.Errorf("the reason is %q", b.Reason)
	}
	if now := s.shim.AllCalls(); now != calls {
		t.Error("the HSM was called")
	}
}
