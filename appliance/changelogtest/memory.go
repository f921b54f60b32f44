package changelogtest

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Memory is one node's connection to a log in memory. Make the first with [NewMemory],
// and one for each other node with [Memory.Peer].
type Memory struct {
	rows    *rows
	changed chan struct{}

	// Guarded by rows.mu.
	cut        bool
	loseAnswer bool
}

var _ Log = (*Memory)(nil)

// rows are what all connections to one log share.
type rows struct {
	now   func() time.Time
	mu    sync.Mutex
	peers []*Memory

	changes   map[uint64][]byte
	snapshots []snapshot // from the oldest to the newest
	founding  *appliance.Founding
	claimedBy string
	claimEnds time.Time
	nodes     map[string]appliance.NodeHint
}

type snapshot struct {
	number uint64
	parts  [][]byte
}

// NewMemory makes a log without changes. Now is its clock; [time.Now] if nil.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	r := &rows{now: now, changes: map[uint64][]byte{}, nodes: map[string]appliance.NodeHint{}}
	return r.connect()
}

func (r *rows) connect() *Memory {
	m := &Memory{rows: r, changed: make(chan struct{}, 1)}
	r.peers = append(r.peers, m)
	return m
}

// Peer gives another connection to the same log.
func (m *Memory) Peer() *Memory {
	m.rows.mu.Lock()
	defer m.rows.mu.Unlock()
	return m.rows.connect()
}

// Clone gives another log, which has what this one has now.
func (m *Memory) Clone() *Memory {
	m.rows.mu.Lock()
	defer m.rows.mu.Unlock()
	r := &rows{now: m.rows.now, changes: maps.Clone(m.rows.changes), snapshots: slices.Clone(m.rows.snapshots), founding: m.rows.founding,
		claimedBy: m.rows.claimedBy, claimEnds: m.rows.claimEnds, nodes: maps.Clone(m.rows.nodes)}
	return r.connect()
}

// Cut takes this connection away: each call gives fault.DatabaseAway. [Memory.Mend]
// brings it back.
func (m *Memory) Cut() { m.set(func() { m.cut = true }) }

// Mend ends what [Memory.Cut] began.
func (m *Memory) Mend() { m.set(func() { m.cut = false }) }

// LoseAnswer makes the next Append of this connection succeed and give
// fault.DatabaseAway, as when the connection is lost between the commit and the answer.
func (m *Memory) LoseAnswer() { m.set(func() { m.loseAnswer = true }) }

// Edit changes the changes as the database's superuser can: to add, replace and remove
// them. Nobody is told.
func (m *Memory) Edit(edit func(changes map[uint64][]byte)) { m.set(func() { edit(m.rows.changes) }) }

func (m *Memory) set(f func()) {
	m.rows.mu.Lock()
	defer m.rows.mu.Unlock()
	f()
}

// use locks the rows, if they can be reached.
func (m *Memory) use(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrapf(fault.DatabaseAway, err, "the log in memory was not waited for")
	}
	m.rows.mu.Lock()
	if m.cut {
		m.rows.mu.Unlock()
		return fault.Errorf(fault.DatabaseAway, "the log in memory is cut off")
	}
	return nil
}

// Append implements [appliance.ChangeLog].
func (m *Memory) Append(ctx context.Context, number uint64, body []byte) error {
	if number == 0 || number > math.MaxInt64 {
		return fault.Errorf(fault.Invalid, "%d is not the number of a change", number)
	}
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	newest := m.rows.newest()
	switch {
	case number <= newest:
		return fault.Errorf(fault.Changed, "change %d was made by another node", number)
	case number != newest+1:
		return fault.Errorf(fault.Conflict, "the log lacks change %d", number-1)
	}
	m.rows.changes[number] = append([]byte{}, body...)
	for _, p := range m.rows.peers {
		if p.cut {
			continue
		}
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	if m.loseAnswer {
		m.loseAnswer = false
		return fault.Errorf(fault.DatabaseAway, "the answer of the log in memory was lost")
	}
	return nil
}

func (r *rows) newest() (n uint64) {
	for number := range r.changes {
		n = max(n, number)
	}
	return n
}

// Changes implements [appliance.ChangeLog].
func (m *Memory) Changes(ctx context.Context, from uint64, most int) (bodies [][]byte, err error) {
	if err := m.use(ctx); err != nil {
		return nil, err
	}
	defer m.rows.mu.Unlock()
	for n := from; len(bodies) < most; n++ {
		body, ok := m.rows.changes[n]
		if !ok {
			break
		}
		bodies = append(bodies, bytes.Clone(body))
	}
	return bodies, nil
}

// Newest implements [appliance.ChangeLog].
func (m *Memory) Newest(ctx context.Context) (uint64, error) {
	if err := m.use(ctx); err != nil {
		return 0, err
	}
	defer m.rows.mu.Unlock()
	return m.rows.newest(), nil
}

// Changed implements [appliance.ChangeLog].
func (m *Memory) Changed() <-chan struct{} { return m.changed }

// Founding implements [appliance.ChangeLog].
func (m *Memory) Founding(ctx context.Context) (*appliance.Founding, error) {
	if err := m.use(ctx); err != nil {
		return nil, err
	}
	defer m.rows.mu.Unlock()
	if m.rows.founding == nil {
		return nil, fault.Errorf(fault.NotFound, "no installation was begun in this log")
	}
	f := *m.rows.founding
	f.WrappedStateKey = bytes.Clone(f.WrappedStateKey)
	return &f, nil
}

// ClaimFounding implements [appliance.ChangeLog].
func (m *Memory) ClaimFounding(ctx context.Context, node string, lease time.Duration) (bool, error) {
	if err := m.use(ctx); err != nil {
		return false, err
	}
	defer m.rows.mu.Unlock()
	now := m.rows.now()
	if m.rows.founding != nil || m.rows.claimedBy != node && now.Before(m.rows.claimEnds) {
		return false, nil
	}
	m.rows.claimedBy, m.rows.claimEnds = node, now.Add(lease)
	return true, nil
}

// Found implements [appliance.ChangeLog].
func (m *Memory) Found(ctx context.Context, f *appliance.Founding) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	if m.rows.founding != nil {
		return fault.Errorf(fault.Exists, "installation %s was begun in this log by another node", m.rows.founding.Installation)
	}
	m.rows.founding = &appliance.Founding{Installation: f.Installation, WrappedStateKey: bytes.Clone(f.WrappedStateKey)}
	return nil
}

// Snapshot implements [appliance.ChangeLog].
func (m *Memory) Snapshot(ctx context.Context) (uint64, iter.Seq2[[]byte, error], error) {
	if err := m.use(ctx); err != nil {
		return 0, nil, err
	}
	defer m.rows.mu.Unlock()
	if len(m.rows.snapshots) == 0 {
		return 0, nil, fault.Errorf(fault.NotFound, "the log has no snapshot")
	}
	s := m.rows.snapshots[len(m.rows.snapshots)-1]
	return s.number, func(yield func([]byte, error) bool) {
		for _, p := range s.parts {
			if err := m.use(ctx); err != nil {
				yield(nil, err)
				return
			}
			m.rows.mu.Unlock()
			if !yield(bytes.Clone(p), nil) {
				return
			}
		}
	}, nil
}

// KeepSnapshot implements [appliance.ChangeLog].
func (m *Memory) KeepSnapshot(ctx context.Context, number uint64, parts iter.Seq2[[]byte, error]) error {
	s := snapshot{number: number}
	for p, err := range parts {
		switch {
		case err != nil:
			return err
		case len(p) > MaxPart:
			return fault.Errorf(fault.Invalid, "a part of %d bytes; at most %d are allowed", len(p), MaxPart)
		}
		s.parts = append(s.parts, bytes.Clone(p))
	}
	if len(s.parts) == 0 || number == 0 || number > math.MaxInt64 {
		return fault.Errorf(fault.Invalid, "a snapshot of change %d in %d parts", number, len(s.parts))
	}
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	m.rows.snapshots = append(m.rows.snapshots, s)
	slices.SortStableFunc(m.rows.snapshots, func(a, b snapshot) int { return int(int64(a.number) - int64(b.number)) })
	return nil
}

// Forget implements [appliance.ChangeLog].
func (m *Memory) Forget(ctx context.Context, before uint64) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	newest := m.rows.newest()
	maps.DeleteFunc(m.rows.changes, func(n uint64, _ []byte) bool { return n < before && n < newest })
	m.rows.snapshots = slices.DeleteFunc(m.rows.snapshots, func(s snapshot) bool { return s.number < before })
	return nil
}

// Abandon implements [Log].
func (m *Memory) Abandon(ctx context.Context) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	if m.rows.founding != nil {
		return fault.Errorf(fault.Exists, "installation %s was begun in this log", m.rows.founding.Installation)
	}
	clear(m.rows.changes)
	m.rows.snapshots = nil
	return nil
}

// Announce implements [appliance.NodeHints].
func (m *Memory) Announce(ctx context.Context, n appliance.NodeHint) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	n.At = m.rows.now()
	m.rows.nodes[n.ID] = n
	return nil
}

// Nodes implements [appliance.NodeHints].
func (m *Memory) Nodes(ctx context.Context) ([]appliance.NodeHint, error) {
	if err := m.use(ctx); err != nil {
		return nil, err
	}
	defer m.rows.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.rows.nodes), func(a, b appliance.NodeHint) int { return strings.Compare(a.ID, b.ID) }), nil
}

// RemoveNode implements [appliance.NodeHints].
func (m *Memory) RemoveNode(ctx context.Context, id string) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	defer m.rows.mu.Unlock()
	delete(m.rows.nodes, id)
	return nil
}
