package appliance_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/hsm/hsmtest"
)

// backupTo writes a backup.
func backupTo(a *appliance.Appliance, w io.Writer, checkpoint string) error {
	made, err := a.Backup(ctx, checkpoint)
	if err != nil {
		return err
	}
	_, err = made.WriteTo(w)
	return errors.Join(err, made.Close())
}

// earlierBackup writes a backup as releases did before rows were a stream: a header of
// holdfast-backup/v1, and a copy of the SQLite database encrypted by age.
func earlierBackup(t *testing.T, database string, ring appliance.Keyring, installation, checkpoint string) []byte {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "backup.db")
	db := must(sql.Open("sqlite", database))(t)
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", copied); err != nil {
		t.Fatal(err)
	}
	identity := must(age.GenerateHybridIdentity())(t)
	h := appliance.BackupHeader{Format: "holdfast-backup/v1", Installation: installation, Created: time.Now().UTC().Truncate(time.Millisecond), Checkpoint: checkpoint}
	h.Identity = must(ring.Wrap(ctx, h.Binding(), []byte(identity.String())))(t)
	var out bytes.Buffer
	out.Write(append(must(json.Marshal(h))(t), '\n'))
	sealed := must(age.Encrypt(&out, identity.Recipient()))(t)
	_, err := sealed.Write(must(os.ReadFile(copied))(t))
	if err := errors.Join(err, sealed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestEarlierBackup: a backup of an earlier release is verified and restored, as one of
// today; and neither passes for the other.
func TestEarlierBackup(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), bothCustodies)
	installation := must(p.bed.Store.Installation(ctx))(t).ID
	backup := earlierBackup(t, p.bed.DB, p.ring, installation, checkpoint)
	report := must(p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(backup)))(t)
	today := must(p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(p.backup(t))))(t)
	if report.Checkpoint != checkpoint || report.Installation != installation {
		t.Errorf("verified: %+v", report)
	}
	report.Created, report.Checkpoint = today.Created, today.Checkpoint
	if !reflect.DeepEqual(report, today) || report.Keys != 3 || report.PendingDeletion != 2 {
		t.Errorf("the earlier one has\n%+v, the one of today\n%+v", report, today)
	}
	for name, broken := range map[string][]byte{
		"another format": bytes.Replace(bytes.Clone(backup), []byte("holdfast-backup/v1"), []byte("holdfast-backup/v2"), 1),
		"cut":            backup[:len(backup)-20],
		"no database":    bytes.Clone(backup[:bytes.IndexByte(backup, '\n')+1]),
	} {
		if _, err := p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(broken)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, k, report := p.copy(t, backup)
	if !report.Restored {
		t.Errorf("restored: %+v", report)
	}
	for id := range bothCustodies {
		must(b.Appliance.CancelDeletion(ctx, "demo", id))(t)
		must(b.Appliance.SetKeyEnabled(ctx, "demo", id, true))(t)
	}
	p.decrypts(t, k, "kept", "in-token", "in-memory")
	restart(t, b, k, appliancetest.Options{Appliance: appliance.Options{Now: p.Now, Lease: 10000 * time.Hour}})
	p.decrypts(t, k, "kept", "in-token", "in-memory")
}
