package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"holdfast/appliance/fault"
)

// Backups is the part that writes backups of the stored rows, verifies and restores
// them.
type Backups struct {
	ground
	service        *Service
	settings       *Settings
	administration *Administration
	lifecycle      *Lifecycle
	dir            string
	openStore      func(ctx context.Context, path string) (Store, error)
}

// A backup is one line of JSON, a [BackupHeader], and then the database,
// encrypted by age to an identity of its own. That identity is wrapped under the
// HSM's master key, bound to all else that the header says. So a backup is of no
// use without the HSM, and nothing in it can be changed.

// BackupFormat names the file, and its version.
const BackupFormat = "holdfast-backup/v1"

// BackupHeader is the first line of a backup.
type BackupHeader struct {
	Format string `json:"format"`
	// Installation is the ID of the installation that it is of.
	Installation string    `json:"installation"`
	Created      time.Time `json:"created"`
	// Checkpoint is the audit log's newest checkpoint then; empty without one.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Identity is the age identity that decrypts the rest, wrapped.
	Identity []byte `json:"identity"`
}

func (h *BackupHeader) binding() Binding {
	return Binding{Purpose: "backup", Fields: []string{h.Format, h.Installation, BindTime(h.Created), h.Checkpoint}}
}

// maxHeader bounds the first line of a backup, in bytes.
const maxHeader = 16 << 10

// Backup writes a backup of all that is stored, as of one moment, while requests
// go on. The checkpoint goes with it.
func (b *Backups) Backup(ctx context.Context, w io.Writer, checkpoint string) error {
	v, err := b.service.view()
	if err != nil {
		return err
	}
	in, err := b.store.Installation(ctx)
	if err != nil {
		return err
	}
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "a key for the backup cannot be made")
	}
	h := BackupHeader{Format: BackupFormat, Installation: in.ID, Created: b.stamp(), Checkpoint: checkpoint}
	secret := []byte(identity.String())
	defer clear(secret)
	if h.Identity, err = v.ring.Wrap(ctx, h.binding(), secret); err != nil {
		return err
	}
	dir, err := b.temporary()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "backup.db")
	if err := b.store.Snapshot(ctx, copied); err != nil {
		return err
	}
	return writeBackup(w, &h, identity.Recipient(), copied)
}

func writeBackup(w io.Writer, h *BackupHeader, to age.Recipient, database string) error {
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	f, err := os.Open(database)
	if err != nil {
		return err
	}
	defer f.Close()
	sealed, err := age.Encrypt(w, to)
	if err != nil {
		return err
	}
	_, err = io.Copy(sealed, f)
	return errors.Join(err, sealed.Close())
}

// temporary makes a folder beside the database, where there is space and nobody
// else looks.
func (b *Backups) temporary() (string, error) {
	dir, err := os.MkdirTemp(b.dir, "backup-")
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "there is no place for a copy of the database")
	}
	return dir, nil
}
