package operation

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Backups are the operations of the domain on the whole store.
type Backups interface {
	// Backup makes a backup, with a checkpoint of the audit log, and verifies it.
	Backup(ctx context.Context, checkpoint string) (*appliance.Backup, error)
	VerifyBackup(ctx context.Context, r io.Reader) (*appliance.BackupReport, error)
	Restore(ctx context.Context, r io.Reader, as appliance.Restoration) (*appliance.BackupReport, error)
}

// MaxBackup bounds an upload: two million keys and their versions.
const MaxBackup = 16 << 30

// BackupUpload is a backup to take over.
type BackupUpload struct {
	Verify bool      `query:"verify" about:"true: take nothing over, but open every version of every key in the backup" json:"-"`
	Drill  bool      `query:"drill" about:"true: for practice; the copy serves and never changes anything in the HSM" json:"-"`
	Reason string    `query:"reason" about:"why it is restored, for the audit log; at most 256 characters" json:"-"`
	Backup io.Reader `body:"application/octet-stream" json:"-"`
}

// BackupRequest asks for a backup.
type BackupRequest struct {
	Approval string `query:"approval" about:"The ID of the request by which another person has approved the backup; leave it out to ask for it." json:"-"`
}

func (b BackupRequest) approval() string { return b.Approval }

// The operations on the whole store.
var (
	Backup = define(Operation[BackupRequest, Stream]{
		Route: Route{ID: "backup", Method: http.MethodGet, Path: "/backup", Absent: true, Conflicts: true, Capability: identity.Administer, Effects: Leaves, Recorded: true, BinaryAnswer: "application/octet-stream",
			Words: "Create backup", Summary: "A backup of all that is stored, encrypted; of no use without the HSM. The header Holdfast-Backup-Report names the rows in it that are damaged"},
		Run: backup,
	})
	Restore = define(Operation[BackupUpload, *appliance.BackupReport]{
		Route: Route{ID: "restore", Method: http.MethodPost, Path: "/restore", Capability: identity.Administer, Effects: Decides, Alone: "it fills an appliance that has no key stores, and replaces its users", Urgency: Independent,
			Words: "Restore backup", Summary: "Take a backup over into an appliance without key stores"},
		Subject: apart[BackupUpload],
		Run: func(ctx context.Context, c *Caller, in BackupUpload) (*appliance.BackupReport, error) {
			if in.Verify {
				return c.Domain.VerifyBackup(ctx, in.Backup)
			}
			return c.Domain.Restore(ctx, in.Backup, appliance.Restoration{Drill: in.Drill, Reason: in.Reason})
		},
	})
)

// ReportHeader is the header of the answer with a backup: what is in it, as
// [appliance.BackupReport] in JSON and that in Base64. Of damaged rows it names the
// first 20.
const ReportHeader = "Holdfast-Backup-Report"

const maxReported = 20

// backup gives a backup once it is made and verified.
func backup(ctx context.Context, c *Caller, _ BackupRequest) (Stream, error) {
	checkpoint, err := c.Audit.Checkpoint()
	if err != nil {
		return Stream{}, err
	}
	made, err := c.Domain.Backup(ctx, string(checkpoint))
	if err != nil {
		return Stream{}, err
	}
	name := "holdfast-" + c.Now().UTC().Format("20060102-150405")
	if n := made.Report.DamagedRows; n > 0 { // so that nobody overlooks it in a browser
		name += fmt.Sprintf("-%d-damaged-rows", n)
	}
	report := *made.Report
	report.Damaged = report.Damaged[:min(len(report.Damaged), maxReported)]
	return Stream{Media: "application/octet-stream", Name: name + ".backup", About: made.Report,
		Header: http.Header{ReportHeader: {base64.StdEncoding.EncodeToString(encoded(report))}},
		Write: func(w io.Writer) error {
			_, err := made.WriteTo(w)
			return err
		}, Close: func() { made.Close() }}, nil
}
