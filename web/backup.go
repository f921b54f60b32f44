package web

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
)

func backupRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/backup", ID: "backup", Capability: identity.Administer, Dangerous: true,
			Summary: "A backup of all that is stored, encrypted; of no use without the HSM. The header Holdfast-Backup-Report names the rows in it that are damaged", BinaryAnswer: "application/octet-stream", handler: streams(backup)},
		{Method: http.MethodPost, Path: "/restore", ID: "restore", Capability: identity.Administer, Dangerous: true,
			Summary: "Take a backup over into an appliance without key stores", BinaryRequest: "application/octet-stream",
			Query:   []Parameter{{Name: "verify", Type: "boolean", Description: "true: take nothing over, but open every version of every key in the backup"}},
			handler: takes(restore)},
	}
}

// ReportHeader is the header of the answer with a backup: what is in it, as
// [appliance.BackupReport] in JSON and that in Base64. Of damaged rows it names the
// first 20.
const ReportHeader = "Holdfast-Backup-Report"

const maxReported = 20

// backup streams a backup, once it is made and verified.
func backup(c *call) error {
	c.unhurried()
	checkpoint, err := c.api.Audit.Checkpoint()
	if err != nil {
		return err
	}
	made, err := c.api.Domain.Backup(c.ctx(), string(checkpoint))
	rec := c.record(audit.Allowed, nil)
	if err != nil {
		rec = c.record(audit.Failed, err)
	} else {
		defer made.Close()
		rec.After = encoded(made.Report)
	}
	if err := errors.Join(c.api.write(c.ctx(), rec), err); err != nil {
		return err
	}
	name := "holdfast-" + c.api.Now().UTC().Format("20060102-150405")
	if n := made.Report.DamagedRows; n > 0 { // so that nobody overlooks it in a browser
		name += fmt.Sprintf("-%d-damaged-rows", n)
	}
	report := *made.Report
	report.Damaged = report.Damaged[:min(len(report.Damaged), maxReported)]
	c.w.Header().Set(ReportHeader, base64.StdEncoding.EncodeToString(encoded(report)))
	return c.download("application/octet-stream", name+".backup", func(w *lateHeader) error {
		_, err := made.WriteTo(w)
		return err
	})
}

// unhurried lifts the deadlines of the connection: what follows may take minutes.
func (c *call) unhurried() {
	deadlines := http.NewResponseController(c.w)
	_, _ = deadlines.SetReadDeadline(time.Time{}), deadlines.SetWriteDeadline(time.Time{}) // a writer without them has none
}

// download has a body written. If it fails when the first bytes are gone, the
// connection is cut, so that nobody takes it for whole.
func (c *call) download(media, name string, write func(w *lateHeader) error) error {
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Time{}) // a writer without one has none
	out := &lateHeader{w: c.w, media: media, name: name}
	err := write(out)
	if err == nil || !out.begun {
		if err == nil {
			_, err = out.Write(nil) // an empty file
		}
		return err
	}
	c.api.Log.Error("a download was cut short", "path", c.URL.Path, "error", err)
	panic(http.ErrAbortHandler)
}

// lateHeader says what follows once something does.
type lateHeader struct {
	w           http.ResponseWriter
	media, name string
	begun       bool
}

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		h := l.w.Header()
		h.Set("Content-Type", l.media)
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": l.name}))
		h.Set("Cache-Control", "no-store")
	}
	return l.w.Write(p)
}

// maxBackup bounds an upload: two million keys and their versions.
const maxBackup = 16 << 30

// restore takes a backup over, or with ?verify=true only verifies it.
func restore(c *call) (*appliance.BackupReport, error) {
	c.unhurried()
	body := http.MaxBytesReader(c.w, c.Body, maxBackup)
	if c.URL.Query().Get("verify") == "true" {
		return c.api.Domain.VerifyBackup(c.ctx(), body)
	}
	return c.api.Domain.Restore(c.ctx(), io.Reader(body))
}
