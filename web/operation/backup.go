package operation

import (
	"context"
	"io"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Backups are the operations of the domain on the whole store.
type Backups interface {
	// Backup writes a backup, with a checkpoint of the audit log.
	Backup(ctx context.Context, w io.Writer, checkpoint string) error
	VerifyBackup(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	Restore(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
}

// MaxBackup bounds an upload: two million keys and their versions.
const MaxBackup = 16 << 30

// BackupUpload is a backup to take over.
type BackupUpload struct {
	Verify bool      `query:"verify" about:"true: take nothing over, but open every version of every key in the backup" json:"-"`
	Backup io.Reader `body:"application/octet-stream" json:"-"`
}

// The operations on the whole store.
var (
	Backup = define(Operation[Nothing, Stream]{
		Route: Route{ID: "backup", Method: http.MethodGet, Path: "/backup", Capability: identity.Administer, Dangerous: true, Recorded: true, BinaryAnswer: "application/octet-stream",
			Summary: "A backup of all that is stored, encrypted; of no use without the HSM"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Stream, error) {
			checkpoint, err := c.Audit.Checkpoint()
			return Stream{Media: "application/octet-stream", Name: "holdfast-" + c.Now().UTC().Format("20060102-150405") + ".backup", Write: func(w io.Writer) error {
				return c.Domain.Backup(ctx, w, string(checkpoint))
			}}, err
		},
	})
	Restore = define(Operation[BackupUpload, *appliance.BackupReport]{
		Route: Route{ID: "restore", Method: http.MethodPost, Path: "/restore", Capability: identity.Administer, Dangerous: true, Urgency: Independent,
			Summary: "Take a backup over into an appliance without key stores"},
		Subject: apart[BackupUpload],
		Run: func(ctx context.Context, c *Caller, in BackupUpload) (*appliance.BackupReport, error) {
			if in.Verify {
				return c.Domain.VerifyBackup(ctx, in.Backup)
			}
			return c.Domain.Restore(ctx, in.Backup)
		},
	})
)
