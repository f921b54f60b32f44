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
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/witness"
	"holdfast/attest"
)

// newRecorder gives the recorder of an appliance with that configuration. The boot
// opens its log.
func newRecorder(cfg *config.Config, log *slog.Logger, clock *witness.Clock) *recorder.Recorder {
	state, c := cfg.State.Dir, cfg.Audit
	began := time.Now() // its monotonic reading
	return recorder.New(recorder.Options{
		Dir: filepath.Join(state, "audit"), LogID: func() (string, error) { return auditID(state) }, Log: log,
		Limits: auditlog.Options{RetainAge: time.Duration(c.RetainAge), RetainBytes: int64(c.RetainMiB) << 20,
			Unproven: true, Witnessed: clock.Now, Elapsed: func() time.Duration { return time.Since(began) }, ReserveBytes: int64(c.ReserveMiB) << 20, WarnBytes: int64(c.WarnMiB) << 20},
	})
}

// openAudit opens the audit log, its checkpoints signed by the TPM, and has the
// evidence name the key. Without a TPM the key is one that lives as long as the
// process.
func openAudit(r *recorder.Recorder, c *attest.Collector) error {
	var key crypto.Signer
	var err error
	if c.TPM != nil {
		key, err = c.TPM.CreateSigner(recorder.KeyName)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return err
	}
	if c.AuditKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return err
	}
	return r.Open(key)
}

// auditID gives the log's ID, which never changes: 32 hexadecimal digits.
func auditID(state string) (string, error) {
	file := filepath.Join(state, "audit-id")
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

// journal records the steps of the boot in the database and in the audit log.
type journal struct {
	boot.Journal
	audit *recorder.Recorder
	// raised seals version and digest of the policy, or of the TCB recovery file, if the
	// machine's key is there.
	raised func(ctx context.Context, now boot.Noted) error
}

// RaisePolicyVersion implements [boot.Journal].
func (j *journal) RaisePolicyVersion(ctx context.Context, policy attest.SignedID) (attest.SignedID, error) {
	highest, err := j.Journal.RaisePolicyVersion(ctx, policy)
	if err == nil && highest.Is(policy) {
		err = j.raised(ctx, boot.Noted{Policy: policy})
	}
	return highest, err
}

// RaiseRecovery implements [boot.Journal].
func (j *journal) RaiseRecovery(ctx context.Context, recovery attest.SignedID) (attest.SignedID, error) {
	highest, err := j.Journal.RaiseRecovery(ctx, recovery)
	if err == nil && recovery.Version > 0 && highest.Is(recovery) {
		err = j.raised(ctx, boot.Noted{Recovery: recovery})
	}
	return highest, err
}

// RecordBootStep implements [boot.Journal].
func (j *journal) RecordBootStep(ctx context.Context, s progress.Step) error {
	return errors.Join(j.Journal.RecordBootStep(ctx, s), j.audit.RecordBootStep(ctx, s))
}
