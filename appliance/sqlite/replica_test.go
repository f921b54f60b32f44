package sqlite

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/storetest"
)

type memoryLog struct {
	mu      sync.Mutex
	changes [][]byte
}

func (l *memoryLog) Append(_ context.Context, number uint64, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number != uint64(len(l.changes))+1 {
		return fault.Errorf(fault.Changed, "there is a change %d", number)
	}
	l.changes = append(l.changes, body)
	return nil
}

func (l *memoryLog) change(_ context.Context, number uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number < 1 || number > uint64(len(l.changes)) {
		return nil, fault.Errorf(fault.NotFound, "no change %d", number)
	}
	return l.changes[number-1], nil
}

func (s *DB) replicate(ctx context.Context, o appliance.StateOptions) error {
	return s.writer.doOnce(ctx, func(c *conn) error { return nil })
}

type replicated struct {
	*DB
	t   *testing.T
	log *memoryLog
}

func (r *replicated) OpenState(ctx context.Context, o appliance.StateOptions) (*appliance.StateReport, error) {
	o.Log, o.Taken = r.log, uint64(len(r.log.changes))
	return r.DB.OpenState(ctx, o)
}

func (r *replicated) Close() error {
	ctx := context.Background()
	live := r.DB.writer.live.Load()
	if live == nil {
		return r.DB.Close()
	}
	head := live.heads[appliance.ScopeInstallation].Head()
	if err := r.DB.Close(); err != nil {
		return err
	}
	other, err := Open(ctx, filepath.Join(r.t.TempDir(), "other.db"), Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer other.Close()
	o := storetest.StateOptions()
	o.Log = r.log
	st := newState(o, other.schema, other.seed, other.writer.specs)
	st.version, _ = dataVersion(other.writer.conn)
	began := time.Now()
	if err := other.writer.catchUp(ctx, st); err != nil {
		r.t.Errorf("change %d: %v", st.number+1, err)
		return nil
	}
	if st.number > 500 {
		r.t.Logf("%d changes in %s", st.number, time.Since(began))
	}
	if got := st.heads[appliance.ScopeInstallation].Head(); got != head {
		r.t.Errorf("%+v, want %+v", got, head)
	}
	other.writer.live.Store(st)
	report, err := other.CheckState(ctx)
	if err != nil || len(report.Damaged) > 0 {
		r.t.Errorf("%+v %v", report, err)
	}
	return nil
}

// TestReplica: what each method of the store changes comes out the same in another database.
func TestReplica(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "one.db"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := &replicated{s, t, &memoryLog{}}
		o := storetest.StateOptions()
		o.Seal = true
		if _, err := r.OpenState(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	})
}
