package daemon

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/attest"
	"holdfast/xks"
)

// auditGather is nothing to KMS, which waits for 250 ms, and saves a third of the
// disk's work under load.
const auditGather = time.Millisecond

// auditKeyName names the key that signs checkpoints.
const auditKeyName = "holdfast-audit"

// auditor keeps the audit log. Records of the boot that come before the log is
// open, as its key is not known yet, are written when it is.
type auditor struct {
	state   string // the state's folder
	log     *slog.Logger
	options auditlog.Options // the limits

	mu    sync.Mutex
	open  *auditlog.Log
	keys  note.Verifiers // that sign the log
	early []*audit.Record
}

// dir is the log's folder.
func (a *auditor) dir() string { return filepath.Join(a.state, "audit") }

// begin opens the log, its checkpoints signed by the TPM, and has the evidence
// name the key. Without a TPM the key is one that lives as long as the process.
func (a *auditor) begin(c *attest.Collector) error {
	var key crypto.Signer
	var err error
	if c.TPM != nil {
		key, err = c.TPM.CreateSigner(auditKeyName)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return err
	}
	if c.AuditKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open != nil {
		return nil // a state that is tried again
	}
	signer, err := audit.NewECDSASigner(auditKeyName, key)
	if err != nil {
		return err
	}
	id, err := a.id()
	if err != nil {
		return err
	}
	verifier, err := audit.ParseVerifierKey(signer.VerifierKey())
	if err != nil {
		return err
	}
	a.keys = note.VerifierList(verifier)
	o := a.options
	o.LogID, o.Signer, o.Log, o.Gather = id, signer, a.log, auditGather
	if a.open, err = auditlog.Open(a.dir(), o); err != nil {
		a.open = nil
		return err
	}
	for _, r := range a.early {
		if err := a.open.Append(context.Background(), r); err != nil {
			return err
		}
	}
	a.early = nil
	return nil
}

// id gives the log's ID, which never changes: 32 hexadecimal digits.
func (a *auditor) id() (string, error) {
	file := filepath.Join(a.state, "audit-id")
	text, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	id := hex.EncodeToString(random)
	return id, boot.WriteFile(file, []byte(id+"\n"))
}

// current gives the log; nil before it is open.
func (a *auditor) current() *auditlog.Log {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

func (a *auditor) close() {
	if l := a.current(); l != nil {
		if err := l.Close(); err != nil {
			a.log.Error("the audit log did not close cleanly", "error", err)
		}
	}
}

// errNotOpen is for what would have to be audited while nothing can be.
var errNotOpen = fault.Errorf(fault.Locked, "the audit log is not open")

// Ready implements [web.Audit].
func (a *auditor) Ready() error {
	l := a.current()
	if l == nil {
		return errNotOpen
	}
	switch s := l.Status(); {
	case s.Broken != "":
		return fault.Errorf(fault.AuditIO, "%s", s.Broken)
	case s.Level == audit.LevelFull:
		return fault.Errorf(fault.AuditNoSpace, "the disk of the audit log is full, and nothing is done that cannot be recorded: enlarge the state volume, or keep less of the log with audit.retain_age")
	}
	return nil
}

// Checkpoint implements [web.Audit].
func (a *auditor) Checkpoint() ([]byte, error) {
	l := a.current()
	if l == nil {
		return nil, errNotOpen
	}
	return l.Checkpoint()
}

// Status implements [web.Audit].
func (a *auditor) Status() *audit.Status {
	l := a.current()
	if l == nil {
		return nil
	}
	s := l.Status()
	return &s
}

// Search implements [web.Audit].
func (a *auditor) Search(ctx context.Context, q audit.Query) ([]*audit.Record, string, error) {
	l := a.current()
	if l == nil {
		return nil, "", errNotOpen
	}
	return l.Search(ctx, q)
}

// Export implements [web.Audit].
func (a *auditor) Export(ctx context.Context, q audit.Query, w io.Writer, format string) error {
	l := a.current()
	if l == nil {
		return errNotOpen
	}
	return l.Export(ctx, q, w, format)
}

// Proof implements [web.Audit].
func (a *auditor) Proof(_ context.Context, seq int64) ([]byte, error) {
	l := a.current()
	if l == nil {
		return nil, errNotOpen
	}
	if _, err := l.Checkpoint(); err != nil { // that covers the record
		return nil, err
	}
	return audit.InclusionProof(a.dir(), seq)
}

// Verify implements [web.Audit]. The key is the one that signs now: a log that an
// earlier key has signed, too, is verified offline, with both.
func (a *auditor) Verify(context.Context) (*audit.Report, error) {
	if a.current() == nil {
		return nil, errNotOpen
	}
	a.mu.Lock()
	keys := a.keys
	a.mu.Unlock()
	id, err := a.id()
	if err != nil {
		return nil, err
	}
	return audit.Verify(a.dir(), keys, audit.VerifyOptions{LogID: id})
}

// Record writes a record durably.
func (a *auditor) Record(ctx context.Context, r *audit.Record) error {
	l := a.current()
	if l == nil {
		return errNotOpen
	}
	return l.Append(ctx, r)
}

// request records a request of KMS.
func (a *auditor) request(ctx context.Context, o *xks.Outcome) error {
	r := &audit.Record{Kind: audit.KindXKS, Operation: o.Operation, Result: audit.Failed, Error: o.ErrorName,
		KeyStore: o.KeyStore, Key: o.KeyID, Version: uint64(o.KeyVersion), Principal: o.Principal,
		KMSRequestID: o.RequestID, KMSKeyARN: o.KMSKeyARN, KMSOperation: o.KMSOperation, ViaService: o.ViaService, Policies: o.Policies,
		Actor: o.AccessKeyID, Remote: o.Remote, DurationUS: o.Took.Microseconds()}
	switch o.Status {
	case http.StatusOK:
		r.Result = audit.Allowed
	case http.StatusForbidden:
		r.Result = audit.Denied
	}
	return a.Record(ctx, r)
}

// journal records the steps of the boot in the database and in the audit log.
type journal struct {
	boot.Journal
	audit *auditor
}

// RecordBootStep implements [boot.Journal].
func (j *journal) RecordBootStep(ctx context.Context, s appliance.BootStep) error {
	return errors.Join(j.Journal.RecordBootStep(ctx, s), j.audit.step(ctx, s))
}

func (a *auditor) step(ctx context.Context, s appliance.BootStep) error {
	r := &audit.Record{Kind: audit.KindBoot, Operation: s.State, Result: audit.Allowed, Error: s.Code, Detail: s.Reason,
		Actor: "boot " + s.Boot, DurationUS: s.Took.Microseconds()}
	if s.Code != "" {
		r.Result = audit.Failed
	}
	if s.Code == string(fault.HSMAway) || s.Code == string(fault.HSMLease) {
		r.Kind = audit.KindLease
	}
	a.mu.Lock()
	if a.open == nil {
		a.early = append(a.early, r)
		a.mu.Unlock()
		return nil
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return a.Record(ctx, r)
}
