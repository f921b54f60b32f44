package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"holdfast/appliance/fault"
)

// BackupRows are what [Backups] needs of the store.
type BackupRows interface {
	Installation(ctx context.Context) (*Installation, error)
	KeyStores(ctx context.Context) ([]*KeyStore, error)
	Snapshots
}

// Backups is the part that writes backups of the stored rows, verifies and restores
// them.
type Backups struct {
	ground
	store          BackupRows
	service        *Service
	settings       *Settings
	administration *Administration
	lifecycle      *Lifecycle
	dir            string
	openCopy       func(ctx context.Context, path string) (Copy, error)
}

// A backup is one line of JSON, a [BackupHeader], and then the rows as a stream
// (package snapshot), encrypted by age to an identity of its own. That identity is
// wrapped under the HSM's master key, bound to all else that the header says. So a
// backup is of no use without the HSM, and nothing in it can be changed.

// BackupFormat names the file, and its version. Backups of [EarlierBackupFormat], in
// which a SQLite database takes the place of the stream, are verified and restored as
// well.
const (
	BackupFormat        = "holdfast-backup/v2"
	EarlierBackupFormat = "holdfast-backup/v1"
)

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

// Binding names the backup with all that its header says.
func (h *BackupHeader) Binding() Binding {
	return Binding{Purpose: "backup", Fields: []string{h.Format, h.Installation, BindTime(h.Created), h.Checkpoint}}
}

// maxHeader bounds the first line of a backup, in bytes.
const maxHeader = 16 << 10

// Backup is a backup that was made and verified, and lies in a folder of its own
// until Close.
type Backup struct {
	// Report says what is in it, and which rows of it are damaged.
	Report *BackupReport
	// Size is its length in bytes.
	Size int64

	dir  string
	file *os.File
}

// WriteTo writes the backup.
func (b *Backup) WriteTo(w io.Writer) (int64, error) {
	if _, err := b.file.Seek(0, io.SeekStart); err != nil {
		return 0, fault.Wrapf(fault.Internal, err, "the backup cannot be read")
	}
	return io.Copy(w, b.file)
}

// Close removes the backup from the appliance.
func (b *Backup) Close() error { return errors.Join(b.file.Close(), os.RemoveAll(b.dir)) }

// Backup makes a backup of all that is stored, as of one moment, while requests go
// on, and reads it once more: each row is held against its seal. The checkpoint goes
// with it. A damaged row does not stop it, so that one does not take the backup from a
// million others. It is in the backup as it is stored, a restore takes it over so, and the
// report names it. Keys in the HSM are not used.
func (b *Backups) Backup(ctx context.Context, checkpoint string) (_ *Backup, err error) {
	dir, err := b.temporary()
	if err != nil {
		return nil, err
	}
	made := &Backup{dir: dir}
	if made.file, err = os.OpenFile(filepath.Join(dir, "backup"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, errors.Join(noPlace(err), os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			_ = made.Close()
		}
	}()
	if err := b.write(ctx, made.file, checkpoint); err != nil {
		return nil, err
	}
	if made.Size, err = made.file.Seek(0, io.SeekEnd); err != nil {
		return nil, noPlace(err)
	}
	if _, err := made.file.Seek(0, io.SeekStart); err != nil {
		return nil, noPlace(err)
	}
	opened, err := b.read(ctx, made.file, false)
	if err != nil {
		return nil, fmt.Errorf("the backup that was made cannot be read again: %w", err)
	}
	made.Report = opened.report
	if err := opened.close(); err != nil {
		return nil, err
	}
	b.tell("a row is damaged, and is in the backup so", made.Report)
	return made, nil
}

// tell logs what is damaged.
func (b *Backups) tell(what string, r *BackupReport) {
	for _, d := range r.Damaged {
		b.log.Error(what, "row", d.String(), "to discard it", d.Remedy())
	}
	if more := r.DamagedRows - len(r.Damaged); more > 0 {
		b.log.Error("more rows are damaged", "rows", more)
	}
}

func (b *Backups) write(ctx context.Context, w io.Writer, checkpoint string) error {
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
	if h.Identity, err = v.ring.Wrap(ctx, h.Binding(), secret); err != nil {
		return err
	}
	line, err := json.Marshal(h)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the backup's header cannot be written")
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return noPlace(err)
	}
	sealed, err := age.Encrypt(w, identity.Recipient())
	if err != nil {
		return noPlace(err)
	}
	if err := b.store.Snapshot(ctx, sealed); err != nil {
		if _, ok := errors.AsType[*fault.Fault](err); !ok {
			err = noPlace(err)
		}
		return err
	}
	if err := sealed.Close(); err != nil {
		return noPlace(err)
	}
	return nil
}

func noPlace(err error) error {
	return fault.Wrapf(fault.Internal, err, "the folder of the database has no place for a copy of it: make room, about twice the size of the database")
}

// temporary makes a folder beside the database, where there is space and nobody
// else looks.
func (b *Backups) temporary() (string, error) {
	dir, err := os.MkdirTemp(b.dir, "backup-")
	if err != nil {
		return "", noPlace(err)
	}
	return dir, nil
}
