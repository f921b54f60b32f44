package auditlog

import (
	"context"
	"encoding/json"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// ProveConsistency gives the proof (RFC 6962 section 2.1.2) that the first from records
// of the log are a beginning of its first to, for [audit.CheckConsistency]: fault.Invalid;
// fault.NotFound if the log has not so many.
func (l *Log) ProveConsistency(from, to int64) ([]tlog.Hash, error) {
	l.state.Lock()
	size := l.state.size
	l.state.Unlock()
	switch {
	case from < 0 || from > to:
		return nil, fault.Errorf(fault.Invalid, "%d records are no beginning of %d", from, to)
	case to > size:
		return nil, fault.Errorf(fault.NotFound, "the audit log has %d records, and not %d", size, to)
	case from == 0 || from == to:
		return nil, nil
	}
	return tlog.ProveTree(to, from, audit.TreeFile{R: l.tree})
}

// Newest gives the newest signed checkpoint; it signs one if there is none.
func (l *Log) Newest() ([]byte, error) {
	l.state.Lock()
	signed := l.state.signed
	l.state.Unlock()
	if signed != nil {
		return signed, nil
	}
	return l.Checkpoint()
}

// Countersign has the log's signer sign the head of a peer's log, and logs that. before is
// the head that was on record; nil if none was. The caller has shown that the two are
// consistent.
func (l *Log) Countersign(ctx context.Context, before *audit.Countersigned, c *audit.Checkpoint, head *audit.SignedHead) (*audit.Countersigned, *audit.Record, error) {
	if why := l.refusing.Load(); why != nil {
		return nil, nil, *why
	}
	signed, err := audit.Countersign(c, head, l.opts.Signer)
	if err != nil {
		return nil, nil, err
	}
	r := &audit.Record{Kind: audit.KindFleet, Operation: audit.CountersignHead, Result: audit.Allowed}
	if before != nil {
		if r.Before, err = json.Marshal(map[string]any{"size": before.Size, "root": before.Root}); err != nil {
			return nil, nil, err
		}
		if before.Key != head.Key {
			r.Detail = "the peer signs with another key than before"
		}
	}
	if r.After, err = json.Marshal(signed); err != nil {
		return nil, nil, err
	}
	if err := l.enter(ctx, r, false); err != nil {
		return nil, nil, err
	}
	return signed, r, nil
}
