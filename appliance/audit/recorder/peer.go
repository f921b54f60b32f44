package recorder

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// Peer is the audit log of another node, however it is reached. There, a [Recorder] is what
// answers. Who it is must be authenticated by the way that it is reached.
type Peer interface {
	// SignedHead gives the newest checkpoint.
	SignedHead(ctx context.Context) (*audit.SignedHead, error)
	// Consistency proves that the first from records are a beginning of the first to.
	Consistency(ctx context.Context, from, to int64) ([]tlog.Hash, error)
}

var _ Peer = (*Recorder)(nil)

// SignedHead implements [Peer].
func (r *Recorder) SignedHead(context.Context) (*audit.SignedHead, error) {
	r.mu.Lock()
	l, key := r.open, r.key
	r.mu.Unlock()
	if l == nil {
		return nil, errNotOpen
	}
	signed, err := l.Newest()
	return &audit.SignedHead{Checkpoint: string(signed), Key: key}, err
}

// LogID gives the ID of the log, by which the fleet names this node; "" before it is open.
func (r *Recorder) LogID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

// Consistency implements [Peer].
func (r *Recorder) Consistency(_ context.Context, from, to int64) ([]tlog.Hash, error) {
	l := r.current()
	if l == nil {
		return nil, errNotOpen
	}
	return l.ProveConsistency(from, to)
}

// peerTime bounds how long a peer is asked for its head and a proof.
const peerTime = 5 * time.Second

// peers are the logs of other nodes, by ID.
type peers struct {
	loading sync.Mutex
	loaded  bool // the heads on record were read

	mu sync.Mutex
	of map[string]*peer
}

// peer is what is known of one log.
type peer struct {
	turn sync.Mutex // held by who asks it

	// What peers.mu guards.
	head    *audit.Countersigned // the newest that was countersigned; nil if none was
	at      time.Time            // when
	code    fault.Code           // of the newest head, if that was refused
	refused string               // that head
	left    bool                 // it is no longer of the fleet
	member  string               // the newest operation about its membership; "" for none
}

// Countersign asks a peer for the head of its log, and countersigns it if it is consistent
// with the head that is on record: both become a record of this log. It does nothing if the
// head is the same. A head that is not consistent, of another log or not signed is refused,
// which is on record, once for each such head: fault.AuditInconsistent, fault.AuditLogID,
// fault.AuditCheckpointForged. The peer's other errors come back as they are, and leave no
// record: then it is not known whether the head is consistent.
func (r *Recorder) Countersign(ctx context.Context, logID string, from Peer) error {
	r.mu.Lock()
	l, own := r.open, r.id
	r.mu.Unlock()
	switch {
	case l == nil:
		return errNotOpen
	case !audit.ValidLogID(logID) || logID == own:
		return fault.Errorf(fault.Invalid, "%.80q is not the ID of another node's log", logID)
	}
	p, err := r.peer(ctx, logID)
	if err != nil {
		return err
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	head, err := from.SignedHead(ctx)
	if err != nil {
		return err
	}
	if head == nil {
		return fault.Errorf(fault.AuditPeer, "the node %s gave no head of its audit log", logID)
	}
	c, err := head.Open(logID)
	if err != nil {
		return r.refuse(ctx, logID, p, head, nil, err)
	}
	if err := consistent(ctx, p.head, c, from); err != nil {
		if fault.CodeOf(err) == fault.AuditInconsistent {
			return r.refuse(ctx, logID, p, head, c, err)
		}
		return err
	}
	if p.head != nil && p.head.Size == c.Size {
		r.peers.change(func() { p.code, p.left = "", false })
		return nil
	}
	signed, record, err := l.Countersign(ctx, p.head, c, head)
	if err != nil {
		return err
	}
	r.peers.change(func() { p.head, p.at, p.code, p.left = signed, record.Time, "", false })
	return nil
}

// consistent asks for the proof that a checkpoint is consistent with the head on record, and
// checks it.
func consistent(ctx context.Context, known *audit.Countersigned, c *audit.Checkpoint, from Peer) error {
	if known == nil {
		return nil
	}
	was, is := audit.Head{Size: known.Size, Root: known.Root}, audit.Head{Size: c.Size, Root: c.Root}
	var proof []tlog.Hash
	if was.Size > 0 && was.Size < is.Size {
		var err error
		if proof, err = from.Consistency(ctx, was.Size, is.Size); err != nil {
			return err
		}
	}
	return audit.CheckConsistency(proof, was, is)
}

// refuse tells that a head was not countersigned, and gives why.
func (r *Recorder) refuse(ctx context.Context, logID string, p *peer, head *audit.SignedHead, c *audit.Checkpoint, why error) error {
	code := fault.CodeOf(why)
	why = fault.Wrapf(code, why, "the head of the audit log of the node %s is not countersigned", logID)
	r.o.Log.Error("the head of a node's audit log is refused", "node", logID, "code", code, "error", why)
	if p.refused == head.Checkpoint && p.code == code {
		return why
	}
	after := map[string]any{"log": logID}
	if c != nil {
		after["size"], after["root"], after["checkpoint"], after["key"] = c.Size, c.Root, head.Checkpoint, head.Key
	}
	record := &audit.Record{Kind: audit.KindFleet, Operation: audit.RefuseHead, Result: audit.Failed, Error: string(code), Detail: why.Error()}
	var err error
	if record.After, err = json.Marshal(after); err != nil {
		return err
	}
	if p.head != nil {
		if record.Before, err = json.Marshal(map[string]any{"size": p.head.Size, "root": p.head.Root}); err != nil {
			return err
		}
	}
	r.peers.change(func() { p.code, p.left = code, false })
	if err := r.Record(ctx, record); err != nil {
		return err
	}
	r.peers.change(func() { p.refused = head.Checkpoint })
	return why
}

// change changes what p.mu guards.
func (p *peers) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// left notes that the node with that log is no longer of the fleet. Its head stays, in case
// it comes back.
func (p *peers) left(logID string) {
	p.change(func() {
		if gone := p.of[logID]; gone != nil {
			gone.left = true
		}
	})
}

// peer gives what is known of a log. The first time the heads on record are read.
func (r *Recorder) peer(ctx context.Context, logID string) (*peer, error) {
	r.peers.loading.Lock() // not mu: the status waits for no search
	defer r.peers.loading.Unlock()
	if !r.peers.loaded {
		of, err := recorded(ctx, r.current())
		if err != nil {
			return nil, err
		}
		r.peers.change(func() { r.peers.of = of })
		r.peers.loaded = true
	}
	var p *peer
	r.peers.change(func() {
		if p = r.peers.of[logID]; p == nil {
			p = &peer{}
			r.peers.of[logID] = p
		}
	})
	return p, nil
}

// ofMembership are the operations about who is in the fleet.
var ofMembership = map[string]bool{audit.NodeJoined: true, audit.NodeDrained: true, audit.NodeResumed: true, audit.NodeLeft: true}

// recorded reads the newest heads of peers that a log has on record.
func recorded(ctx context.Context, l *auditlog.Log) (map[string]*peer, error) {
	of := map[string]*peer{}
	for q := (audit.Query{Kind: audit.KindFleet, Limit: 1000}); ; {
		page, next, err := l.Search(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, record := range page {
			id := audit.NamedLog(record)
			if id == "" {
				continue
			}
			p, seen := of[id]
			if !seen {
				p = &peer{left: record.Operation == audit.NodeLeft}
				of[id] = p
			}
			if p.member == "" && ofMembership[record.Operation] {
				p.member = record.Operation
			}
			if record.Operation == audit.RefuseHead && p.head == nil {
				p.code = cmp.Or(p.code, fault.Code(record.Error))
			}
			if c := audit.CountersignedOf(record); c != nil && p.head == nil {
				p.head, p.at = c, record.Time
			}
		}
		if next == "" {
			return of, nil
		}
		q.Cursor = next
	}
}

// status gives what is on record of each but this node's own, by ID.
func (p *peers) status(own string) (all []audit.PeerStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(p.of)) {
		if id == own || p.of[id].left {
			continue
		}
		s := audit.PeerStatus{LogID: id, At: p.of[id].at, Refused: p.of[id].code}
		if h := p.of[id].head; h != nil {
			s.Size = h.Size
		}
		all = append(all, s)
	}
	return all
}
