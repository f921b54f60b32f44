package recorder

import (
	"context"
	"fmt"
	"io"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

// Checkpoint signs the log as it is now.
func (r *Recorder) Checkpoint() ([]byte, error) {
	l := r.current()
	if l == nil {
		return nil, errNotOpen
	}
	return l.Checkpoint()
}

// Status gives the state of the log; nil before it is open.
func (r *Recorder) Status() *audit.Status {
	l := r.current()
	if l == nil {
		return nil
	}
	s := l.Status()
	s.Peers = r.peers.status(r.LogID())
	return &s
}

// Trace says whether the log knows of a state, or has the record of a boot that came to
// serving: what it is, or "". Boots that never served, and what people did meanwhile, are
// on record before there is an installation.
func (r *Recorder) Trace(ctx context.Context) (string, error) {
	seen, err := r.Seen(ctx)
	if err == nil {
		return fmt.Sprintf("the state number %d of %s, which the audit log has known since %s", seen.Head.Sequence, seen.Head.At.Format(time.RFC3339), seen.Since.Format(time.RFC3339)), nil
	}
	if fault.CodeOf(err) != fault.NotFound {
		return "", err
	}
	for q := (audit.Query{Kind: audit.KindBoot, Result: audit.Allowed, Limit: 1000}); ; {
		page, next, err := r.Search(ctx, q)
		if err != nil {
			return "", err
		}
		for _, record := range page {
			if record.Operation == string(progress.Serving) {
				return fmt.Sprintf("a record in the audit log, number %d, of an appliance that served here", record.Seq), nil
			}
		}
		if next == "" {
			return "", nil
		}
		q.Cursor = next
	}
}

// Search gives the records that match, the newest first, and where the next page
// begins.
func (r *Recorder) Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error) {
	l := r.current()
	if l == nil {
		return nil, "", errNotOpen
	}
	return l.Search(ctx, q)
}

// Export writes the records that match, in a format of [auditlog.Log.Export].
func (r *Recorder) Export(ctx context.Context, q audit.Query, w io.Writer, format string) error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	return l.Export(ctx, q, w, format)
}

// Proof makes a proof, in JSON, that a record is in the log.
func (r *Recorder) Proof(_ context.Context, seq int64) ([]byte, error) {
	l := r.current()
	if l == nil {
		return nil, errNotOpen
	}
	if _, err := l.Checkpoint(); err != nil { // that covers the record
		return nil, err
	}
	return audit.InclusionProof(r.o.Dir, seq)
}

// Verify reads the whole log as it is on the disk. The key is the one that signs
// now: a log that an earlier key has signed, too, is verified offline, with both. It calls verified
// from time to time with how many records it has verified.
func (r *Recorder) Verify(_ context.Context, verified func(records int64)) (*audit.Report, error) {
	r.mu.Lock()
	open, keys, id := r.open, r.keys, r.id
	r.mu.Unlock()
	if open == nil {
		return nil, errNotOpen
	}
	return audit.Verify(r.o.Dir, keys, audit.VerifyOptions{LogID: id, Progress: verified})
}
