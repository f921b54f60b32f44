package operation

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Audit is what operations need of the audit log. Before the log is open, its
// methods fail with fault.Locked.
type Audit interface {
	// Ready says why nothing can be recorded; nil if something can.
	Ready() error
	// ReadyUrgent says why not even what is urgent can be recorded; nil if it can.
	ReadyUrgent() error
	// RecordUrgent is Record for operations that may use the log's reserve.
	RecordUrgent(ctx context.Context, r *audit.Record) error
	// Record writes a record durably.
	Record(ctx context.Context, r *audit.Record) error
	// Checkpoint signs the log as it is now.
	Checkpoint() ([]byte, error)
	// Status gives the state of the log; nil before it is open.
	Status() *audit.Status
	Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error)
	Export(ctx context.Context, q audit.Query, w io.Writer, format string) error
	// Proof makes a proof, in JSON, that a record is in the log.
	Proof(ctx context.Context, seq int64) ([]byte, error)
	// Verify reads the whole log as it is on the disk; it may take minutes. It calls verified
	// from time to time with how many records it has verified.
	Verify(ctx context.Context, verified func(records int64)) (*audit.Report, error)
}

// AuditSearch asks for a page of records.
type AuditSearch struct {
	Limit int    `query:"limit" least:"1" most:"1000" about:"how many entries at most, 1 to 1000; 100 if left out" json:"-"`
	After string `query:"after" longest:"4096" about:"the next of the page before; the first page if left out" json:"-"`
	AuditFilter
}

// AuditExport asks for all records that a filter finds.
type AuditExport struct {
	Format string `query:"format" enum:"jsonl,csv" about:"jsonl (if left out) or csv" json:"-"`
	AuditFilter
}

// auditList is the list that cursors of records are of.
const auditList = "audit"

// RecordNumber names a record of the audit log.
type RecordNumber struct {
	Seq  int64  `path:"seq" json:"-" about:"The number of the record in its log, from 0."`
	Node string `query:"node" about:"the node of the fleet in whose log it is; the one that answers if left out" json:"-"`
}

// Records is a page of the audit log.
type Records struct {
	// Records have their node, if the appliance is in a fleet.
	Records []audit.NodeRecord `json:"items" jsonschema:"The records of this page, the newest first."`
	// Next is the cursor of the next page, of older records; empty if there is none.
	Next string `json:"next,omitempty" jsonschema:"The cursor of the next page, which has older records; absent on the last page."`
	// Nodes are those whose logs were asked for; none without a fleet. Silent are those
	// among them of which there is nothing here.
	Nodes  []string     `json:"nodes,omitempty" jsonschema:"The IDs of the nodes whose logs were searched; absent for an appliance on its own."`
	Silent []SilentNode `json:"silent,omitempty" jsonschema:"The nodes whose records are missing from this answer."`
}

// Checkpoint is a signed state of the audit log. Kept elsewhere it proves later
// that the log was not swapped for an older copy.
type Checkpoint struct {
	Checkpoint string `json:"checkpoint" jsonschema:"The signed checkpoint of the audit log, as text (C2SP signed-note)."`
}

// LogVerification is the state of the verification of the whole log of one node.
type LogVerification struct {
	// Node is whose log it is: the ID of a node of a fleet; absent for an appliance on its own.
	Node    string `json:"node,omitempty" jsonschema:"The ID of the node whose log was verified; absent for an appliance on its own."`
	Running bool   `json:"running" jsonschema:"Whether a verification is under way."`
	// Started and Ended are of the last one; zero before.
	Started time.Time `json:"started,omitzero" jsonschema:"When the last verification began; absent before the first."`
	Ended   time.Time `json:"ended,omitzero" jsonschema:"When the last verification ended; absent before the first."`
	By      string    `json:"by,omitempty" jsonschema:"The name of the person or token that asked for the verification."`
	// Verified of Records were verified so far; neither is there when none is under way.
	Verified int64 `json:"verified,omitempty" jsonschema:"How many records the verification under way has verified so far; absent if there is none." example:"120000"`
	Records  int64 `json:"records,omitempty" jsonschema:"How many records the log had when the verification under way began; absent if there is none." example:"5000000"`
	// Report is what it found; Error why it could not be done.
	Report *audit.Report `json:"report,omitempty" jsonschema:"What the last verification found."`
	Error  string        `json:"error,omitempty" jsonschema:"Why the last verification could not be done."`
	// Unknown is why nothing is known of it: the node does not answer.
	Unknown string `json:"unknown,omitempty" jsonschema:"Why nothing is known of this log: its node does not answer."`
}

// Verification is that of the node that answers, with those of the fleet's other nodes.
type Verification struct {
	LogVerification
	Others []LogVerification `json:"others,omitempty" jsonschema:"The verifications of the logs of the fleet's other nodes."`
}

// VerificationPeers have the fleet's other nodes verify their logs, each its own.
type VerificationPeers interface {
	// Verify has each begin, in the name of a user.
	Verify(ctx context.Context, by string) []LogVerification
	// Verifications gives the state of each.
	Verifications(ctx context.Context) []LogVerification
}

// The operations on the audit log.
var (
	SearchAudit = define(Operation[AuditSearch, *Records]{
		Route: Route{ID: "searchAudit", Method: http.MethodGet, Path: "/audit/records", Absent: true, Capability: identity.Audit,
			Words: "Search audit log", Summary: "Search the audit log, or those of all nodes, the newest first"},
		KeyStore: func(_ context.Context, _ *Caller, in AuditSearch) (string, error) { return in.KeyStore, nil },
		Run: func(ctx context.Context, c *Caller, in AuditSearch) (*Records, error) {
			q, err := c.auditQuery(ctx, in.AuditFilter)
			if err != nil {
				return nil, err
			}
			after, err := positionOf(auditList, in, in.After)
			if err != nil {
				return nil, err
			}
			q.Limit, q.Cursor = cmp.Or(in.Limit, pageLimit), after.ID
			found, err := c.searchAudit(ctx, q, in.Node)
			if err == nil && found.Next != "" {
				found.Next = cursorOf(auditList, in, position{ID: found.Next})
			}
			return found, err
		},
	})
	ShowAuditRecord = define(Operation[RecordNumber, *audit.NodeRecord]{
		Route: Route{ID: "auditRecord", Method: http.MethodGet, Path: "/audit/records/{seq}", Capability: identity.Audit,
			Words: "Show audit record", Summary: "One record of the audit log"},
		KeyStore: recordKeyStore,
		Run:      auditRecord,
	})
	ShowAuditProof = define(Operation[RecordNumber, json.RawMessage]{
		Route: Route{ID: "auditProof", Method: http.MethodGet, Path: "/audit/records/{seq}/proof", Capability: identity.Audit,
			Words: "Prove audit record", Summary: "Proof that a record is in the log, to check offline"},
		KeyStore: recordKeyStore,
		Run: func(ctx context.Context, c *Caller, in RecordNumber) (json.RawMessage, error) {
			return c.proveRecord(ctx, in)
		},
	})
	ExportAudit = define(Operation[AuditExport, Stream]{
		Route: Route{ID: "exportAudit", Method: http.MethodGet, Path: "/audit/export", Absent: true, Capability: identity.Audit, Recorded: true, BinaryAnswer: "application/jsonl", OtherAnswer: "text/csv",
			Words: "Export audit log", Summary: "All records that a search finds"},
		KeyStore: func(_ context.Context, _ *Caller, in AuditExport) (string, error) { return in.KeyStore, nil },
		Run: func(ctx context.Context, c *Caller, in AuditExport) (Stream, error) {
			q, err := c.auditQuery(ctx, in.AuditFilter)
			if err != nil {
				return Stream{}, err
			}
			format, media := cmp.Or(in.Format, "jsonl"), "application/jsonl"
			if format == "csv" {
				media = "text/csv; charset=utf-8"
			}
			return Stream{Media: media, Name: "holdfast-audit." + format, Write: func(w io.Writer) error {
				return c.exportAudit(ctx, q, in.Node, w, format)
			}}, nil
		},
	})
	SignCheckpoint = define(Operation[Nothing, Checkpoint]{
		Route: Route{ID: "auditCheckpoint", Method: http.MethodGet, Path: "/audit/checkpoint", Capability: identity.Audit,
			Words: "Sign checkpoint", Summary: "Sign the audit log as it is now"},
		Run: func(_ context.Context, c *Caller, _ Nothing) (Checkpoint, error) {
			text, err := c.Audit.Checkpoint()
			return Checkpoint{string(text)}, err
		},
	})
	ShowAuditVerification = define(Operation[Nothing, Verification]{
		Route: Route{ID: "auditVerification", Method: http.MethodGet, Path: "/audit/verification", Capability: identity.Audit,
			Words: "Show audit log verification", Summary: "What the last verification of the whole log found, and of those of all nodes"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Verification, error) {
			v := Verification{LogVerification: c.Verification()}
			if c.VerificationPeers != nil {
				v.Others = c.VerificationPeers.Verifications(ctx)
			}
			return v, nil
		},
	})
	VerifyAudit = define(Operation[Nothing, Verification]{
		Route: Route{ID: "verifyAudit", Method: http.MethodPost, Path: "/audit/verification", Capability: identity.Audit, ReadOnly: true, Urgency: Independent,
			Words: "Verify audit log", Summary: "Begin to verify the whole log, and those of all nodes; it goes on in the background"},
		Subject: apart[Nothing],
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Verification, error) {
			v := Verification{LogVerification: c.Verify(c.Who.Name)}
			if c.VerificationPeers != nil {
				v.Others = c.VerificationPeers.Verify(ctx, c.Who.Name)
			}
			return v, nil
		},
	})
)

// auditRecord finds one record: the newest before the one after it.
func auditRecord(ctx context.Context, c *Caller, in RecordNumber) (*audit.NodeRecord, error) {
	q := audit.Query{Limit: 1, Cursor: strconv.FormatInt(in.Seq+1, 10)}
	node := in.Node
	if node == "" && c.AuditPeers != nil {
		node = c.AuditPeers.Node()
	}
	if node != "" {
		q.Cursor = node + ":" + q.Cursor
	}
	found, err := c.searchAudit(ctx, q, node)
	if err != nil {
		return nil, err
	}
	if len(found.Records) == 0 || found.Records[0].Seq != in.Seq {
		return nil, fault.Errorf(fault.NotFound, "the audit log has no record %d, or retention has removed it", in.Seq)
	}
	return &found.Records[0], nil
}

// recordKeyStore is the key store that a record is about; empty for none.
func recordKeyStore(ctx context.Context, c *Caller, in RecordNumber) (string, error) {
	rec, err := auditRecord(ctx, c, in)
	if err != nil {
		return "", err
	}
	return rec.KeyStore, nil
}

// verification lets one run at a time.
type verification struct {
	mu   sync.Mutex
	last LogVerification
}

// verified notes how far the verification is. The log grows meanwhile, and what it has grown by is
// verified, too.
func (v *verification) verified(records int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last.Verified, v.last.Records = records, max(v.last.Records, records)
}

// Verification gives the state of the verification of this node's log.
func (p *Performer) Verification() LogVerification {
	v := &p.checks
	v.mu.Lock()
	defer v.mu.Unlock()
	last := v.last
	last.Node = p.Node()
	return last
}

// Verify begins to verify this node's log, in the name of a user; what runs goes on.
func (p *Performer) Verify(by string) LogVerification {
	p.beginVerification(by)
	return p.Verification()
}

func (p *Performer) beginVerification(by string) {
	v := &p.checks
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last.Running {
		return
	}
	v.last = LogVerification{Running: true, Started: p.Now().UTC(), By: by}
	if status := p.Audit.Status(); status != nil {
		v.last.Records = status.Size - status.First
	}
	go func() {
		report, err := p.Audit.Verify(context.Background(), v.verified)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.last.Running, v.last.Ended, v.last.Report = false, p.Now().UTC(), report
		v.last.Verified, v.last.Records = 0, 0
		if err != nil {
			told := fault.Answer(context.Background(), p.Log, "the audit log was verified", err)
			if v.last.Error = told.Message; told.Reference == "" {
				p.Log.Error("the audit log was verified", "error", err)
			}
		}
	}()
}
