package console

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// downloads are the files that pages link to, by the last part of their paths.
var downloads = map[string]func(p *page) (operation.Stream, error){
	"evidence.json": func(p *page) (operation.Stream, error) {
		text, err := read(p, operation.ShowEvidence, operation.Nonce{Nonce: p.URL.Query().Get("nonce"), Node: p.URL.Query().Get("node")})
		return file("application/json", "evidence.json", text), err
	},
	"proof.json": func(p *page) (operation.Stream, error) {
		n, err := recordNumber(p.URL.Query().Get("seq"), p.URL.Query().Get("node"))
		if err != nil {
			return operation.Stream{}, err
		}
		text, err := read(p, operation.ShowAuditProof, n)
		return file("application/json", "proof.json", text), err
	},
	"checkpoint.txt": func(p *page) (operation.Stream, error) {
		c, err := read(p, operation.SignCheckpoint, operation.Nothing{})
		return file("text/plain; charset=utf-8", "checkpoint.txt", []byte(c.Checkpoint)), err
	},
	"audit.jsonl": func(p *page) (operation.Stream, error) { return exported(p, "jsonl") },
	"audit.csv":   func(p *page) (operation.Stream, error) { return exported(p, "csv") },
	"openapi.json": func(p *page) (operation.Stream, error) {
		return read(p, operation.ShowOpenAPI, operation.Nothing{})
	},
	"backup": func(p *page) (operation.Stream, error) {
		return read(p, operation.Backup, operation.BackupRequest{Approval: p.URL.Query().Get("approval")})
	},
}

// file is a stream of a text that is there.
func file(media, name string, text []byte) operation.Stream {
	return operation.Stream{Media: media, Name: "holdfast-" + name, Write: func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	}}
}

func exported(p *page, format string) (operation.Stream, error) {
	f, err := auditFilter(p.URL.Query())
	if err != nil {
		return operation.Stream{}, err
	}
	return read(p, operation.ExportAudit, operation.AuditExport{Format: format, AuditFilter: f})
}

// download gives files that pages link to.
func (c *console) download(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	what, p := chi.URLParam(r, "what"), &page{Request: r, c: c, who: who, now: c.Now()}
	open, ok := downloads[what]
	if !ok {
		c.failPage(w, r, who, fault.Errorf(fault.NotFound, "there is no download %.60q", what))
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // a file may take minutes to make
	stream, err := open(p)
	if fault.CodeOf(err) == fault.Presence {
		back := "/settings"
		if id := r.URL.Query().Get("approval"); id != "" {
			back = "/approvals/" + url.PathEscape(id)
		}
		http.Redirect(w, r, "/prove"+query("back", back), http.StatusSeeOther)
		return
	}
	if err == nil {
		err = stream.Serve(w, c.Log)
	}
	if err != nil {
		c.failPage(w, r, who, err)
	}
}
