package console

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// downloads are the files that pages link to, by the last part of their paths.
var downloads = map[string]func(p *page) (operation.Stream, error){
	"evidence.json": func(p *page) (operation.Stream, error) {
		text, err := read(p, operation.ShowEvidence, operation.Nonce{Nonce: p.URL.Query().Get("nonce")})
		return file("application/json", "evidence.json", text), err
	},
	"proof.json": func(p *page) (operation.Stream, error) {
		n, err := recordNumber(p.URL.Query().Get("seq"))
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
	"backup": func(p *page) (operation.Stream, error) { return read(p, operation.Backup, operation.Nothing{}) },
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

// auditFilter reads the filter of a page of the audit log: fault.Invalid.
func auditFilter(q url.Values) (operation.AuditFilter, error) {
	text := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	f := operation.AuditFilter{KeyStore: text("key_store"), Key: text("key"), Principal: text("principal"), KMSRequestID: text("kms_request_id"),
		Kind: audit.Kind(text("kind")), Result: audit.Result(text("result"))}
	for name, t := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		v := text(name)
		if v == "" {
			continue
		}
		var err error
		if *t, err = time.Parse("2006-01-02T15:04", v); err != nil { // a field of time without a zone
			*t, err = time.Parse(time.RFC3339, v)
		}
		if err != nil {
			return f, fault.Errorf(fault.Invalid, "%s %.40q: give a time such as 2026-11-24T12:00:00Z", name, v)
		}
	}
	return f, nil
}

func recordNumber(text string) (operation.RecordNumber, error) {
	seq, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seq < 0 {
		return operation.RecordNumber{}, fault.Errorf(fault.Invalid, "record %.40q: a record has a number, from 0", text)
	}
	return operation.RecordNumber{Seq: seq}, nil
}

// download gives files that pages link to.
func (c *console) download(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	what, p := chi.URLParam(r, "what"), &page{Request: r, c: c, who: who, now: c.Now()}
	open, ok := downloads[what]
	if !ok {
		c.failPage(w, r, who, fault.Errorf(fault.NotFound, "there is no download %.60q", what))
		return
	}
	stream, err := open(p)
	if fault.CodeOf(err) == operation.CodePresence {
		c.show(w, p, p.proveView("", url.Values{"back": {"/settings#backup"}}, ""))
		return
	}
	if err == nil {
		err = stream.Serve(w, c.Log)
	}
	if err != nil {
		c.failPage(w, r, who, err)
	}
}
