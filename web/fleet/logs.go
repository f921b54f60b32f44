package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// The kinds of questions about the audit log of a node.
const (
	askHead        = "audit head"
	askConsistency = "audit consistency"
	askSearch      = "audit search"
	askProof       = "audit proof"
)

const (
	// logsAtOnce is how many questions of each kind about its log a node answers at once.
	logsAtOnce = 8
	// maxHashes bounds a proof of consistency: two hashes for each level of a tree.
	maxHashes = 128
	// countersignEvery is how often the heads of others are countersigned.
	countersignEvery = time.Minute
	// membersEvery is how often the rows of nodes are looked at.
	membersEvery = 5 * time.Second
)

// Logs are the audit logs of a fleet's nodes, as one of them has them: it asks the others,
// answers what they ask of its own, countersigns their heads, and records which nodes come
// and go. It implements [operation.AuditPeers]. A node's ID is that of its log.
type Logs struct {
	calls *fleet.Calls
	own   *recorder.Recorder
	log   *slog.Logger
	// others are the IDs of the other nodes as they were seen last, so that those are
	// named of which nothing can be had while the appliance is locked.
	others atomic.Pointer[[]string]
}

var _ operation.AuditPeers = (*Logs)(nil)

// NewLogs makes them, and has the calls answer what is asked of this node's log.
func NewLogs(calls *fleet.Calls, own *recorder.Recorder, log *slog.Logger) *Logs {
	l := &Logs{calls: calls, own: own, log: log}
	calls.On(askHead, logsAtOnce, answering(func(ctx context.Context, _ struct{}) ([]byte, error) {
		head, err := own.SignedHead(ctx)
		return written(head, err)
	}))
	calls.On(askConsistency, logsAtOnce, answering(func(ctx context.Context, in sizes) ([]byte, error) {
		proof, err := own.Consistency(ctx, in.From, in.To)
		return written(proof, err)
	}))
	calls.On(askSearch, logsAtOnce, answering(func(ctx context.Context, q audit.Query) ([]byte, error) {
		records, next, err := own.Search(ctx, q)
		if err != nil {
			return nil, err
		}
		return writePage(records, next)
	}))
	calls.On(askProof, logsAtOnce, answering(func(ctx context.Context, seq int64) ([]byte, error) { return own.Proof(ctx, seq) }))
	return l
}

// sizes are what consistency is asked of.
type sizes struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// answering answers questions whose body is JSON. A field that this release does not know
// is an error: it may narrow what is asked for.
func answering[In any](answer func(ctx context.Context, in In) ([]byte, error)) fleet.Answer {
	return func(ctx context.Context, from string, body []byte) ([]byte, error) {
		var in In
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			return nil, fault.Wrapf(fault.Invalid, err, "the question of node %s cannot be read; see that all nodes run the same release", from)
		}
		return answer(ctx, in)
	}
}

func written(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// ask asks a node; the question's body is JSON.
func ask(ctx context.Context, calls *fleet.Calls, to, kind string, in any) ([]byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "what node %s is to be asked cannot be written", to)
	}
	return calls.Ask(ctx, to, kind, body)
}

// wrong is for an answer that cannot be right.
func wrong(node string, err error) error {
	return fault.Wrapf(fault.AuditPeer, err, "the node %s gives an answer about its audit log that cannot be read", node)
}

// Node implements [operation.AuditPeers].
func (l *Logs) Node() string { return l.own.LogID() }

// Peers implements [operation.AuditPeers]: all that the sealed rows have and were not
// removed, also those that do not answer, so that it is told whose records are missing.
func (l *Logs) Peers() (all []operation.AuditPeer) {
	if n := l.calls.Seat().Node(); n != nil {
		ids := []string{}
		for _, m := range n.Members() {
			if m.ID != l.own.LogID() && m.State != appliance.NodeLeaving {
				ids = append(ids, m.ID)
			}
		}
		l.others.Store(&ids)
	}
	if ids := l.others.Load(); ids != nil {
		for _, id := range *ids {
			all = append(all, &peerLog{l.calls, id})
		}
	}
	return all
}

// Run countersigns the heads of others, and records which nodes come and go, until ctx
// ends.
func (l *Logs) Run(ctx context.Context) {
	members, heads := time.NewTicker(membersEvery), time.NewTicker(countersignEvery)
	defer members.Stop()
	defer heads.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-members.C:
			l.RecordMembers(ctx)
		case <-heads.C:
			l.Countersign(ctx)
		}
	}
}

// Countersign countersigns the head of each node that answers. What fails is in the log,
// and tried again with the next round.
func (l *Logs) Countersign(ctx context.Context) {
	n := l.calls.Seat().Node()
	if n == nil || l.own.LogID() == "" {
		return
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, id := range n.Others(true) {
		asking.Go(func() {
			if err := l.own.Countersign(ctx, id, &peerLog{l.calls, id}); err != nil && ctx.Err() == nil {
				l.log.Warn("the head of a node's audit log was not countersigned", "node", id, "code", fault.CodeOf(err), "error", err)
			}
		})
	}
}

// RecordMembers records which nodes have joined, are drained or have left since the last
// time, which the log itself has on record. What fails is tried again the next time.
func (l *Logs) RecordMembers(ctx context.Context) {
	n := l.calls.Seat().Node()
	if n == nil || l.own.LogID() == "" {
		return
	}
	members := n.Members()
	if len(members) == 0 {
		return
	}
	if err := l.own.Members(ctx, members); err != nil && ctx.Err() == nil {
		l.log.Warn("which nodes the fleet has could not be recorded; it is tried again", "code", fault.CodeOf(err), "error", err)
	}
}

// peerLog is the audit log of another node.
type peerLog struct {
	calls *fleet.Calls
	id    string
}

var _ recorder.Peer = (*peerLog)(nil)

// Node implements [operation.AuditPeer].
func (p *peerLog) Node() string { return p.id }

// SignedHead implements [recorder.Peer].
func (p *peerLog) SignedHead(ctx context.Context) (*audit.SignedHead, error) {
	answer, err := ask(ctx, p.calls, p.id, askHead, struct{}{})
	if err != nil {
		return nil, err
	}
	var head *audit.SignedHead
	if err := json.Unmarshal(answer, &head); err != nil {
		return nil, wrong(p.id, err)
	}
	if head != nil && len(head.Checkpoint) > audit.MaxNote {
		return nil, fault.Errorf(fault.AuditPeer, "the node %s gives a head of its audit log with %d bytes; %d are the most", p.id, len(head.Checkpoint), audit.MaxNote)
	}
	return head, nil
}

// Consistency implements [recorder.Peer].
func (p *peerLog) Consistency(ctx context.Context, from, to int64) ([]tlog.Hash, error) {
	answer, err := ask(ctx, p.calls, p.id, askConsistency, sizes{from, to})
	if err != nil {
		return nil, err
	}
	var proof []tlog.Hash
	if err := json.Unmarshal(answer, &proof); err != nil {
		return nil, wrong(p.id, err)
	}
	if len(proof) > maxHashes {
		return nil, fault.Errorf(fault.AuditPeer, "the node %s gives a proof of %d hashes; %d are the most", p.id, len(proof), maxHashes)
	}
	return proof, nil
}

// Search implements [operation.AuditPeer].
func (p *peerLog) Search(ctx context.Context, q audit.Query) ([]*audit.Record, string, error) {
	answer, err := ask(ctx, p.calls, p.id, askSearch, q)
	if err != nil {
		return nil, "", err
	}
	records, next, err := readPage(answer, q.Limit)
	if err != nil {
		return nil, "", wrong(p.id, err)
	}
	return records, next, nil
}

// Proof implements [operation.AuditPeer].
func (p *peerLog) Proof(ctx context.Context, seq int64) ([]byte, error) {
	proof, err := ask(ctx, p.calls, p.id, askProof, seq)
	if err == nil && !json.Valid(proof) {
		err = fault.Errorf(fault.AuditPeer, "the node %s gives a proof that is not JSON", p.id)
	}
	if err != nil {
		return nil, err
	}
	return proof, nil
}

// pageHead is the first line of a page; the lines of its records come after it, as they
// are in the log.
type pageHead struct {
	Next string `json:"next"`
}

// maxNext bounds the cursor of a page.
const maxNext = 64

// writePage writes a page of records, or as many as an answer can have: then it says that
// there are more.
func writePage(records []*audit.Record, next string) ([]byte, error) {
	var lines []byte
	for i, r := range records {
		before := len(lines)
		var err error
		if lines, err = r.AppendJSON(lines); err != nil {
			return nil, err
		}
		if lines = append(lines, '\n'); len(lines) > fleet.MaxAnswerBody-2*maxNext && i > 0 {
			lines, next = lines[:before], strconv.FormatInt(records[i-1].Seq, 10)
			break
		}
	}
	head, err := json.Marshal(pageHead{next})
	if err != nil {
		return nil, err
	}
	return append(append(head, '\n'), lines...), nil
}

// readPage reads a page of at most so many records.
func readPage(page []byte, limit int) (records []*audit.Record, next string, err error) {
	first, lines, _ := bytes.Cut(page, []byte("\n"))
	var head pageHead
	if err := json.Unmarshal(first, &head); err != nil {
		return nil, "", err
	}
	if len(head.Next) > maxNext {
		return nil, "", fault.Errorf(fault.AuditPeer, "the cursor has %d bytes", len(head.Next))
	}
	for len(lines) > 0 {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\n"))
		r, err := audit.ParseRecord(line)
		if err != nil {
			return nil, "", err
		}
		if records = append(records, r); limit > 0 && len(records) > limit {
			return nil, "", fault.Errorf(fault.AuditPeer, "there are more than the %d records that were asked for", limit)
		}
	}
	return records, head.Next, nil
}
