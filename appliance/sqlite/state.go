package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// state is what is known of all rows while they are open: the sums of the sets, which the
// manifests authenticate, and for each group of rows that are read together the sum of
// its short tags. The writer's goroutine alone changes it.
type state struct {
	o      appliance.StateOptions
	schema int64 // that rows are counted in: the fleet's, or without a log of changes the file's
	file   int64 // the file's
	specs  map[string]*spec
	seed   maphash.Seed

	// The writer's own.
	sums    map[string]appliance.Sum // by scope
	heads   map[string]*appliance.Manifest
	replica *replica         // nil without a log of changes
	version int64            // PRAGMA data_version: it changes when another connection writes
	first   appliance.Head   // when it was opened
	rows    int              // then
	known   []appliance.Head // what the first manifest comes after; none for the one before it
	told    uint64           // the sequence of the head that anchors were told last
	tx      *delta           // of the transaction; while a change is made, of that alone
	batch   *delta           // of the changes before it in the transaction

	mu     sync.RWMutex
	groups map[uint64]uint64 // sums of short tags; a group that is not there has no rows
	bad    map[uint64]bool   // groups whose rows are not those of memory
	broken map[string]bool   // scopes that did not match when the state was opened
	// damaged are the scopes, but the installation's, that are known not to match now.
	damaged map[string]bool
}

func newState(o appliance.StateOptions, schema int64, seed maphash.Seed, specs map[string]*spec) *state {
	if o.Log != nil { // what is of one machine is in a file of its own
		specs = maps.Clone(specs)
		maps.DeleteFunc(specs, func(_ string, sp *spec) bool { return sp.machine })
	}
	return &state{o: o, schema: schema, file: schema, seed: seed, specs: specs, sums: map[string]appliance.Sum{}, heads: map[string]*appliance.Manifest{},
		groups: map[uint64]uint64{}, bad: map[uint64]bool{}, broken: map[string]bool{}, damaged: map[string]bool{}, tx: newDelta()}
}

// delta is what a change does to the sums.
type delta struct {
	sums     map[string]appliance.Sum
	groups   map[uint64]uint64
	anchored bool
	// keepsHead says that the head of the audit log is to be written.
	keepsHead bool
	// cleared are groups whose rows are taken as they are from now on.
	cleared map[uint64]bool
	// forced are scopes that get a manifest, changed or not.
	forced map[string]bool
	heads  map[string]*appliance.Manifest
	rows   map[string]*rowChange // for the log of changes, by row
	// damaged are the scopes that do not match after people have discarded rows; nil if
	// that is not known.
	damaged map[string]bool
	err     error
	row     []byte // the encoding of the last row, whose memory the next one takes
}

func newDelta() *delta {
	return &delta{sums: map[string]appliance.Sum{}, groups: map[uint64]uint64{}, cleared: map[uint64]bool{}, forced: map[string]bool{}, heads: map[string]*appliance.Manifest{}}
}

// fold adds what another delta does.
func (d *delta) fold(o *delta) {
	for scope, sum := range o.sums {
		d.sums[scope] = d.sums[scope].Plus(sum)
	}
	for g, n := range o.groups {
		d.groups[g] += n
	}
	for _, r := range o.rows {
		d.recordRow(r.spec, r.before, r.after)
	}
	maps.Copy(d.cleared, o.cleared)
	maps.Copy(d.forced, o.forced)
	d.anchored = d.anchored || o.anchored
	d.keepsHead = d.keepsHead || o.keepsHead
	if d.err == nil {
		d.err = o.err
	}
}

// count counts a row in, or takes it out, and gives its place.
func (s *state) count(d *delta, sp *spec, row []any, out bool) place {
	d.row = sp.encode(d.row[:0], row)
	tag := s.o.Key.Tag(d.row)
	at := sp.place(row)
	short := tag.Short()
	if out {
		short = -short
	}
	d.groups[at.group] += short
	if sp.whole != 0 {
		d.groups[sp.whole] += short
	}
	if sp.kept {
		sum := d.sums[at.scope]
		if out {
			sum.Subtract(&tag)
		} else {
			sum.Add(&tag)
		}
		d.sums[at.scope] = sum
	}
	return at
}

// rows gives a row before and after a change; nil for one that is not there.
func (s *spec) rows(p *sqlite.SQLitePreUpdateData) (before, after []any, err error) {
	read := func(get func(...any) error) []any {
		row := make([]any, len(s.columns))
		err = errors.Join(err, get(row...))
		return row
	}
	if p.Op != sqlite3.SQLITE_INSERT {
		before = read(p.Old)
	}
	if p.Op != sqlite3.SQLITE_DELETE {
		after = read(p.New)
	}
	return before, after, err
}

// differs says whether one of the columns is changed.
func (s *spec) differs(columns []bool, before, after []any) bool {
	if before == nil || after == nil {
		return true
	}
	for i := range before {
		if columns[i] && !equal(before[i], after[i]) {
			return true
		}
	}
	return false
}

// moves says whether a change of a row is one of those that [DB.Changes] counts. What users have
// done last is: it says that one is locked, and changes with a sign-in and not with each request.
func (s *spec) moves(before, after []any) bool {
	return s.name != "manifests" && (s.name == "users" || s.differs(s.anchored, before, after))
}

// changed counts one change of a row, before it is made.
func (s *state) changed(sp *spec, before, after []any, err error) {
	if err != nil {
		s.tx.err = err
		return
	}
	if err := sp.writable(after); err != nil {
		s.tx.err = err
		return
	}
	if s.replica != nil && !s.replica.taking {
		s.tx.recordRow(sp, before, after)
	}
	if before != nil && !sp.outOfPlace(before) {
		s.count(s.tx, sp, before, true)
	}
	if after != nil && !sp.outOfPlace(after) {
		s.count(s.tx, sp, after, false)
	}
	if sp.kept && sp.name != "manifests" {
		s.tx.anchored = s.tx.anchored || sp.differs(sp.anchored, before, after)
	}
}

func equal(a, b any) bool {
	x, ok := a.([]byte)
	if y, both := b.([]byte); ok && both {
		return string(x) == string(y)
	}
	return !ok && a == b
}

// begin is called at the beginning of the transaction of a change.
func (s *state) begin(ctx context.Context, c *conn) error {
	s.tx = newDelta()
	version, err := dataVersion(c)
	if err != nil || version == s.version {
		return err
	}
	// Another program has written to the database. What it changed is found here.
	if err := checkSchema(ctx, c.c.QueryContext, s.file); err != nil {
		s.lost(err)
		return err
	}
	if _, err := s.compare(ctx, c); err != nil {
		return err
	}
	s.version = version
	return nil
}

func dataVersion(c *conn) (v int64, err error) {
	_, err = c.one([]any{&v}, `PRAGMA data_version`)
	return v, err
}

// lost tells that the rows of the installation are not what they were.
func (s *state) lost(err error) {
	if s.o.Lost != nil {
		go s.o.Lost(err)
	}
}

// scan reads all rows that count.
func scan(ctx context.Context, c *conn, specs map[string]*spec, f func(sp *spec, row []any)) (n int, err error) {
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		sp := specs[name]
		err := c.raw(ctx, func(row []any) {
			if !sp.outOfPlace(row) {
				n++
				f(sp, row)
			}
		}, fmt.Sprintf(`SELECT %s FROM %q`, quoted(sp.columns), sp.name))
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// actual counts all rows that there are.
func (s *state) actual(ctx context.Context, c *conn) (there *delta, n int, err error) {
	t := newTally(s.o.Key)
	n, err = scan(ctx, c, s.specs, t.add)
	return t.end(), n, err
}

// compare reads all rows and marks the groups that are not as in memory.
func (s *state) compare(ctx context.Context, c *conn) (*appliance.StateReport, error) {
	there, n, err := s.actual(ctx, c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.bad = map[uint64]bool{}
	for g := range there.groups {
		if s.groups[g] != there.groups[g] {
			s.bad[g] = true
		}
	}
	for g, sum := range s.groups {
		if sum != there.groups[g] {
			s.bad[g] = true
		}
	}
	s.mu.Unlock()
	report := &appliance.StateReport{Rows: n, Head: s.heads[appliance.ScopeInstallation].Head()}
	if err := s.compareHead(ctx, c); err != nil {
		return nil, err
	}
	for scope := range scopesOf(there.sums, s.sums) {
		if there.sums[scope] == s.sums[scope] && !s.broken[scope] {
			continue
		}
		if scope == appliance.ScopeInstallation {
			err := stateChanged()
			s.lost(err)
			return nil, err
		}
		report.Damaged = append(report.Damaged, scope)
	}
	slices.Sort(report.Damaged)
	s.know(report.Damaged)
	return report, nil
}

// know takes which scopes do not match.
func (s *state) know(damaged []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damaged = map[string]bool{}
	for _, scope := range damaged {
		s.damaged[scope] = true
	}
}

// compareHead holds the stored manifest of the installation, which is in no set, against
// that in memory.
func (s *state) compareHead(ctx context.Context, c *conn) error {
	stored, err := readManifests(ctx, c)
	if err != nil {
		return err
	}
	head, there := s.heads[appliance.ScopeInstallation], stored[appliance.ScopeInstallation]
	if there != nil && string(there.Digest()) == string(head.Digest()) {
		return nil
	}
	err = fault.Errorf(fault.StateChanged, "the stored manifest of the installation is not the one that Holdfast wrote last: something else has changed or removed it")
	s.lost(err)
	return err
}

func scopesOf(sums ...map[string]appliance.Sum) map[string]bool {
	all := map[string]bool{}
	for _, m := range sums {
		for scope := range m {
			all[scope] = true
		}
	}
	return all
}

func stateChanged() error {
	return fault.Errorf(fault.StateChanged, "rows of the installation, which are not of one key store, do not match their manifest: one was changed, removed, added or put back by something else than Holdfast")
}

// seal writes the manifests of the sets that the transaction changed.
func (s *state) seal(ctx context.Context, c *conn) error {
	if s.tx.err != nil {
		return s.tx.err
	}
	if len(s.tx.cleared) > 0 {
		if err := s.reconcile(ctx, c); err != nil {
			return err
		}
	}
	if err := s.keepHead(c); err != nil {
		return err
	}
	scopes := maps.Clone(s.tx.forced)
	for scope, sum := range s.tx.sums {
		if sum != (appliance.Sum{}) { // a change and its opposite cancel
			scopes[scope] = true
		}
	}
	if len(scopes) == 0 {
		s.tx.anchored = false
		return nil
	}
	delete(scopes, appliance.ScopeInstallation)
	for _, scope := range slices.Sorted(maps.Keys(scopes)) {
		if err := s.next(c, scope, "", 0); err != nil {
			return err
		}
	}
	var name string
	var count uint64
	if head := s.heads[appliance.ScopeInstallation]; head != nil {
		name, count = head.Anchor, head.Count
	}
	if s.tx.anchored {
		name, count = "", 0 // as when people accept a state without the anchor that it had
		if s.o.Anchoring != nil {
			name, count = s.o.Anchoring.Next()
		}
	}
	return s.next(c, appliance.ScopeInstallation, name, count)
}

// keepHead writes the head of the audit log where the transaction raises the anchor, or is
// made for that.
func (s *state) keepHead(c *conn) error {
	if s.o.AuditHead == nil || !s.tx.keepsHead && !s.tx.anchored {
		return nil
	}
	row, err := s.o.AuditHead()
	if err != nil && !s.tx.keepsHead {
		return nil // a block must work though the log does not; it says so itself
	}
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the head of the audit log cannot be read")
	}
	if row == nil {
		return nil
	}
	return setAuditHead(c, row)
}

// next writes the next manifest of a scope, with the sum that it has after the change.
func (s *state) next(c *conn, scope, anchor string, count uint64) error {
	m := &appliance.Manifest{Scope: scope, Sequence: 1, Before: []byte{}, Anchor: anchor, Count: count, Schema: s.schema, At: s.o.Now().UTC().Truncate(time.Millisecond)}
	if before := s.heads[scope]; before != nil {
		m.Sequence, m.Before = before.Sequence+1, before.Digest()
	}
	if scope == appliance.ScopeInstallation && len(s.known) > 0 {
		if err := s.follow(c, m); err != nil {
			return err
		}
	}
	sum := s.sums[scope].Plus(s.tx.sums[scope])
	m.Seal = s.o.Key.Seal(m, &sum)
	s.tx.heads[scope] = m
	return writeManifest(c, m)
}

// follow has a manifest come after the heads that anchors know, where people accept rows
// that do not. A chain begins with it, whose first links are the digests of these heads:
// none of the links of before leads to them.
func (s *state) follow(c *conn, m *appliance.Manifest) error {
	sequence := m.Sequence - 1
	for _, h := range s.known {
		sequence = max(sequence, h.Sequence)
	}
	if _, err := c.exec(`DELETE FROM manifest_history`); err != nil {
		return err
	}
	m.Before = nil
	for _, h := range s.known {
		link, err := hex.DecodeString(h.Digest)
		if err != nil {
			return fault.Wrapf(fault.Internal, err, "the digest of a head that an anchor knows")
		}
		sequence++
		if _, err := c.exec(`INSERT INTO manifest_history (sequence, link) VALUES (?, ?)`, int64(sequence), link); err != nil {
			return err
		}
		m.Before = appliance.ChainDigest(m.Before, link)
	}
	m.Sequence = sequence + 1
	return nil
}

// past says whether a head is that of the manifest, or in its past. The links need not be
// authentic: no others lead to the digest that the manifest's seal is of. They lead there
// from the head's digest; or from the beginning of a chain whose links have it.
func past(ctx context.Context, c *conn, m *appliance.Manifest, h appliance.Head) (bool, error) {
	if m == nil || h.Sequence >= m.Sequence {
		return m != nil && h.Sequence == m.Sequence && h.Digest == hex.EncodeToString(m.Digest()), nil
	}
	from, err := hex.DecodeString(h.Digest)
	if err != nil || len(from) != sha256.Size {
		return false, nil // no manifest has that digest
	}
	digest, _, err := fold(ctx, c, from, h.Sequence, m.Sequence)
	if err != nil || string(digest) == string(m.Before) {
		return err == nil, err
	}
	digest, links, err := fold(ctx, c, nil, 0, m.Sequence, from)
	return links && string(digest) == string(m.Before), err
}

// fold takes in the links between two manifests, and says whether one of them is the one
// that is looked for.
func fold(ctx context.Context, c *conn, digest []byte, after, before uint64, look ...[]byte) (out []byte, found bool, err error) {
	err = c.each(ctx, func(scan scanner) error {
		var link []byte
		err := scan(&link)
		for _, l := range look {
			found = found || string(l) == string(link)
		}
		digest = appliance.ChainDigest(digest, link)
		return err
	}, `SELECT link FROM manifest_history WHERE sequence > ? AND sequence < ? ORDER BY sequence`, int64(after), int64(before))
	return digest, found, err
}

// reconcile takes the groups that people have discarded as they are now. The set of a
// scope is whole again where nothing else in it differs from memory. A group that is
// missing altogether does not tell its scope, so then none is.
func (s *state) reconcile(ctx context.Context, c *conn) error {
	there, _, err := s.actual(ctx, c)
	if err != nil {
		return err
	}
	for g := range s.tx.cleared {
		s.tx.groups[g] = there.groups[g] - s.groups[g]
	}
	for g, sum := range s.groups {
		if _, rows := there.groups[g]; !rows && sum+s.tx.groups[g] != 0 {
			return nil
		}
	}
	differs := map[string]bool{}
	if _, err := scan(ctx, c, s.specs, func(sp *spec, row []any) {
		if at := sp.place(row); s.groups[at.group]+s.tx.groups[at.group] != there.groups[at.group] {
			differs[at.scope] = true
		}
	}); err != nil {
		return err
	}
	s.tx.damaged = map[string]bool{}
	for scope := range scopesOf(there.sums, s.sums) {
		switch {
		case differs[scope] || s.broken[scope]:
			s.tx.damaged[scope] = true
		case there.sums[scope] != s.sums[scope].Plus(s.tx.sums[scope]):
			s.tx.sums[scope] = there.sums[scope].Minus(s.sums[scope])
			s.tx.forced[scope] = true
		}
	}
	return nil
}

// committed takes over what a durable change did, and has the anchor raised.
func (s *state) committed() {
	tx := s.tx
	s.tx = newDelta()
	for scope, sum := range tx.sums {
		s.sums[scope] = s.sums[scope].Plus(sum)
	}
	maps.Copy(s.heads, tx.heads)
	s.mu.Lock()
	for g, n := range tx.groups {
		if n += s.groups[g]; n == 0 {
			delete(s.groups, g)
		} else {
			s.groups[g] = n
		}
	}
	for g := range tx.cleared {
		delete(s.bad, g)
	}
	if tx.damaged != nil {
		s.damaged = tx.damaged
	}
	s.mu.Unlock()
	if len(tx.heads) > 0 {
		s.known = nil
	}
	if tx.anchored && s.o.Anchoring != nil {
		s.o.Anchoring.Committed(s.heads[appliance.ScopeInstallation].Count)
	}
	if s.o.Told == nil || len(tx.heads) == 0 {
		return
	}
	if head := s.heads[appliance.ScopeInstallation]; tx.anchored || head.Sequence-s.told >= tellEvery {
		s.told = head.Sequence
		s.o.Told(head.Head())
	}
}

const (
	// keptHistory is how many links of former manifests are kept.
	keptHistory = 100000
	// tellEvery is after how many manifests an anchor is told a head though nothing was
	// decided, so that the links back to it are kept.
	tellEvery = keptHistory / 10
)

func writeManifest(c *conn, m *appliance.Manifest) error {
	_, err := c.exec(`INSERT INTO manifests (scope, sequence, before, anchor, count, schema, at, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (scope) DO UPDATE SET sequence = excluded.sequence, before = excluded.before, anchor = excluded.anchor,
		count = excluded.count, schema = excluded.schema, at = excluded.at, seal = excluded.seal`,
		m.Scope, int64(m.Sequence), m.Before, m.Anchor, int64(m.Count), m.Schema, m.At.UnixMilli(), m.Seal)
	if err != nil || m.Scope != appliance.ScopeInstallation {
		return err
	}
	return writeLink(c, m)
}

// writeLink keeps the link of a manifest of the installation.
func writeLink(c *conn, m *appliance.Manifest) error {
	if _, err := c.exec(`INSERT INTO manifest_history (sequence, link) VALUES (?, ?)
		ON CONFLICT (sequence) DO UPDATE SET link = excluded.link`, int64(m.Sequence), m.Link()); err != nil {
		return err
	}
	_, err := c.exec(`DELETE FROM manifest_history WHERE sequence <= ?`, int64(m.Sequence)-keptHistory)
	return err
}

func readManifests(ctx context.Context, c *conn) (map[string]*appliance.Manifest, error) {
	all := map[string]*appliance.Manifest{}
	err := c.each(ctx, func(scan scanner) error {
		m := &appliance.Manifest{}
		var sequence, count int64
		err := scan(&m.Scope, &sequence, &m.Before, &m.Anchor, &count, &m.Schema, millis{&m.At}, &m.Seal)
		m.Sequence, m.Count = uint64(sequence), uint64(count)
		all[m.Scope] = m
		return err
	}, `SELECT scope, sequence, before, anchor, count, schema, at, seal FROM manifests`)
	return all, err
}
