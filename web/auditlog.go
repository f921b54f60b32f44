package web

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Records is a page of the audit log.
type Records struct {
	Records []*audit.Record `json:"records"`
	// Next is the cursor of the next page, of older records; empty if there is none.
	Next string `json:"next,omitempty"`
}

// Checkpoint is a signed state of the audit log. Kept elsewhere it proves later
// that the log was not swapped for an older copy.
type Checkpoint struct {
	Checkpoint string `json:"checkpoint"`
}

// Verification is the state of the verification of the whole log.
type Verification struct {
	Running bool `json:"running"`
	// Started and Ended are of the last one; zero before.
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	By      string    `json:"by,omitempty"`
	// Report is what it found; Error why it could not be done.
	Report *audit.Report `json:"report,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// verification lets one run at a time.
type verification struct {
	mu   sync.Mutex
	last Verification
}

var auditQuery = []Parameter{
	{Name: "from", Type: "string", Description: "only records of this time (RFC 3339) or later"},
	{Name: "to", Type: "string", Description: "only records before this time (RFC 3339)"},
	{Name: "key_store", Type: "string", Description: "a key store's name"},
	{Name: "key", Type: "string", Description: "an external key's ID; give its key store, too"},
	{Name: "principal", Type: "string", Description: "awsPrincipalArn, whole"},
	{Name: "kms_request_id", Type: "string", Description: "KMS's ID of a request"},
	{Name: "kind", Type: "string", Description: "only records of this kind", Enum: []string{"xks", "admin", "boot", "lease", "audit"}},
	{Name: "result", Type: "string", Description: "only records with this result", Enum: []string{"allowed", "denied", "failed"}},
}

var pageQuery = []Parameter{
	{Name: "limit", Type: "integer", Least: 1, Most: 1000, Description: "how many, 1 to 1000; 100 if left out"},
	{Name: "cursor", Type: "string", Description: "of the page before"},
}

var formatParameter = Parameter{Name: "format", Type: "string", Description: "jsonl (if left out) or csv", Enum: []string{"jsonl", "csv"}}

func auditRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/audit/records", ID: "searchAudit", Capability: identity.Audit, Summary: "Search the audit log, the newest first",
			Query: append(pageQuery, auditQuery...), handler: gives(searchAudit)},
		{Method: http.MethodGet, Path: "/audit/records/{seq}", ID: "auditRecord", Capability: identity.Audit, Summary: "One record of the audit log",
			handler: gives(func(c *call) (*audit.Record, error) {
				seq, err := c.seq()
				if err != nil {
					return nil, err
				}
				return c.api.auditRecord(c.ctx(), seq)
			})},
		{Method: http.MethodGet, Path: "/audit/records/{seq}/proof", ID: "auditProof", Capability: identity.Audit, Summary: "Proof that a record is in the log, to check offline",
			handler: gives(func(c *call) (json.RawMessage, error) {
				seq, err := c.seq()
				if err != nil {
					return nil, err
				}
				return c.api.Audit.Proof(c.ctx(), seq)
			})},
		{Method: http.MethodGet, Path: "/audit/export", ID: "exportAudit", Capability: identity.Audit, Summary: "All records that a search finds",
			Query: append([]Parameter{formatParameter}, auditQuery...), BinaryAnswer: "application/jsonl", handler: streams(exportAudit)},
		{Method: http.MethodGet, Path: "/audit/checkpoint", ID: "auditCheckpoint", Capability: identity.Audit, Summary: "Sign the audit log as it is now",
			handler: gives(func(c *call) (Checkpoint, error) {
				text, err := c.api.Audit.Checkpoint()
				return Checkpoint{string(text)}, err
			})},
		{Method: http.MethodGet, Path: "/audit/verification", ID: "auditVerification", Capability: identity.Audit, Summary: "What the last verification of the whole log found",
			handler: gives(func(c *call) (Verification, error) { return c.api.checks.status(), nil })},
		{Method: http.MethodPost, Path: "/audit/verification", ID: "verifyAudit", Capability: identity.Audit, Summary: "Begin to verify the whole log; it goes on in the background",
			handler: gives(func(c *call) (Verification, error) { return c.api.verifyAudit(c.who.Name) })},
	}
}

// query reads the search in the query.
func (c *call) query() (audit.Query, error) {
	v := c.URL.Query()
	q := audit.Query{KeyStore: v.Get("key_store"), Key: v.Get("key"), Principal: v.Get("principal"), KMSRequestID: v.Get("kms_request_id"),
		Kind: audit.Kind(v.Get("kind")), Result: audit.Result(v.Get("result")), Cursor: v.Get("cursor")}
	for name, t := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if v.Get(name) == "" {
			continue
		}
		parsed, err := time.Parse(time.RFC3339, v.Get(name))
		if err != nil {
			return q, fault.Errorf(fault.Invalid, "%s %.40q: give a time such as 2026-11-24T12:00:00Z", name, v.Get(name))
		}
		*t = parsed
	}
	q.Limit = c.number("limit", 100)
	return q, nil
}

func (c *call) seq() (int64, error) {
	seq, err := strconv.ParseInt(c.param("seq"), 10, 64)
	if err != nil || seq < 0 {
		return 0, fault.Errorf(fault.Invalid, "record %.40q: a record has a number, from 0", c.param("seq"))
	}
	return seq, nil
}

func searchAudit(c *call) (*Records, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	page := &Records{Records: []*audit.Record{}}
	list, next, err := c.api.Audit.Search(c.ctx(), q)
	page.Records, page.Next = append(page.Records, list...), next
	return page, err
}

// auditRecord finds one record: the newest before the one after it.
func (a *API) auditRecord(ctx context.Context, seq int64) (*audit.Record, error) {
	list, _, err := a.Audit.Search(ctx, audit.Query{Limit: 1, Cursor: strconv.FormatInt(seq+1, 10)})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || list[0].Seq != seq {
		return nil, fault.Errorf(fault.NotFound, "the audit log has no record %d, or retention has removed it", seq)
	}
	return list[0], nil
}

// exportAudit streams records. If it fails when the first bytes are gone, the
// connection is cut, so that nobody takes it for whole.
func exportAudit(c *call) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	format, media := c.URL.Query().Get("format"), "text/csv; charset=utf-8"
	if format == "" || format == "jsonl" {
		format, media = "jsonl", "application/jsonl"
	}
	// What leaves the appliance is on record.
	if err := c.api.write(c.ctx(), c.record(audit.Allowed, nil)); err != nil {
		return err
	}
	return c.download(media, "holdfast-audit."+format, func(w *lateHeader) error {
		return c.api.Audit.Export(c.ctx(), q, w, format)
	})
}

func (v *verification) status() Verification {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// verifyAudit begins a verification; one that runs goes on.
func (a *API) verifyAudit(by string) (Verification, error) {
	v := &a.checks
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last.Running {
		return v.last, nil
	}
	v.last = Verification{Running: true, Started: a.Now().UTC(), By: by}
	go func() {
		report, err := a.Audit.Verify(context.Background())
		v.mu.Lock()
		defer v.mu.Unlock()
		v.last.Running, v.last.Ended, v.last.Report = false, a.Now().UTC(), report
		if err != nil {
			told := fault.Answer(context.Background(), a.Log, "the audit log was verified", err)
			if v.last.Error = told.Message; told.Reference == "" {
				a.Log.Error("the audit log was verified", "error", err)
			}
		}
	}()
	return v.last, nil
}
