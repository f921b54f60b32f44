package webtest

import (
	"context"
	"io"
	"slices"
	"strconv"
	"sync"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// Audit is an audit log in memory, which fails on command. Hold its lock to look at it
// while requests are under way.
type Audit struct {
	sync.Mutex
	Records []*audit.Record
	// NotReady is the error of Ready, NotReadyUrgent that of ReadyUrgent and RecordUrgent,
	// Failing that of both ways to record.
	NotReady, NotReadyUrgent, Failing error
	// Verifying is how many records were verified; a verification ends when it is closed.
	Verifying chan int64
}

// Ready gives NotReady.
func (a *Audit) Ready() error { return a.NotReady }

// ReadyUrgent gives NotReadyUrgent.
func (a *Audit) ReadyUrgent() error { return a.NotReadyUrgent }

// RecordUrgent is Record.
func (a *Audit) RecordUrgent(ctx context.Context, r *audit.Record) error {
	if a.NotReadyUrgent != nil {
		return a.NotReadyUrgent
	}
	return a.Record(ctx, r)
}

// Record keeps the record and numbers it, or gives Failing.
func (a *Audit) Record(_ context.Context, r *audit.Record) error {
	a.Lock()
	defer a.Unlock()
	if a.Failing != nil {
		return a.Failing
	}
	r.Seq = int64(len(a.Records))
	a.Records = append(a.Records, r)
	return nil
}

// Checkpoint gives a text that is none.
func (a *Audit) Checkpoint() ([]byte, error) { return []byte("checkpoint"), nil }

// Status says that there is enough space, and how many records there are.
func (a *Audit) Status() *audit.Status {
	a.Lock()
	defer a.Unlock()
	return &audit.Status{Level: audit.LevelOK, Size: int64(len(a.Records))}
}

// Search gives all records, the newest first, page by page. Of a page it leaves out those of another
// result, key store, key or object than is asked for; whatever else is asked for counts for nothing.
func (a *Audit) Search(_ context.Context, q audit.Query) (found []*audit.Record, next string, err error) {
	a.Lock()
	defer a.Unlock()
	end := len(a.Records)
	if q.Cursor != "" {
		if end, err = strconv.Atoi(q.Cursor); err != nil {
			return nil, "", fault.Errorf(fault.Invalid, "%q is no cursor", q.Cursor)
		}
		end = min(end, len(a.Records))
	}
	begin := 0
	if q.Limit > 0 && end > q.Limit {
		begin = end - q.Limit
		next = strconv.Itoa(begin)
	}
	found = slices.Clone(a.Records[begin:end])
	slices.Reverse(found)
	found = slices.DeleteFunc(found, func(r *audit.Record) bool {
		return q.Result != "" && r.Result != q.Result || q.KeyStore != "" && r.KeyStore != q.KeyStore || q.Key != "" && r.Key != q.Key ||
			len(q.Objects) > 0 && !slices.Contains(q.Objects, r.ObjectID) && !slices.Contains(q.Objects, r.Object)
	})
	return found, next, nil
}

// Export writes a line.
func (a *Audit) Export(_ context.Context, _ audit.Query, w io.Writer, _ string) error {
	_, err := io.WriteString(w, "line\n")
	return err
}

// Proof gives an empty one.
func (a *Audit) Proof(_ context.Context, seq int64) ([]byte, error) {
	if seq >= int64(len(a.Records)) {
		return nil, fault.Errorf(fault.NotFound, "there is no record %d", seq)
	}
	return []byte("{}"), nil
}

// Verify gives an empty report. While Verifying is not nil it first calls verified with what comes
// from it.
func (a *Audit) Verify(_ context.Context, verified func(records int64)) (*audit.Report, error) {
	if a.Verifying != nil {
		for n := range a.Verifying {
			verified(n)
		}
	}
	return &audit.Report{}, nil
}
