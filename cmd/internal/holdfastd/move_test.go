package holdfastd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/cmd/internal/daemon"
)

// fuse ends a move at one of the points at which it has, or is about to have, an effect outside
// of its own rows: what follows has none, and the files are kept as they are then.
type fuse struct {
	t      *testing.T
	dir    string
	left   int // points until it blows; 0 for never
	points []string
	kept   string // the folder as it was when it blew
}

var errKilled = errors.New("the move was killed")

// point is one; false from when it has blown on.
func (f *fuse) point(name string) bool {
	if f.kept != "" {
		return false
	}
	f.points = append(f.points, name)
	if f.left--; f.left != 0 {
		return true
	}
	f.kept = copyOf(f.t, f.dir)
	return false
}

// around does what has an effect, between two points.
func (f *fuse) around(name string, do func() error) error {
	if !f.point("before " + name) {
		return errKilled
	}
	err := do()
	if !f.point("after " + name) {
		return errKilled
	}
	return err
}

// copyOf copies a folder as it is, as a process that is killed leaves it.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

type fusedLog struct {
	*changelogtest.Memory
	f *fuse
}

func (l *fusedLog) Append(ctx context.Context, number uint64, body []byte) error {
	return l.f.around("a change", func() error { return l.Memory.Append(ctx, number, body) })
}

func (l *fusedLog) Found(ctx context.Context, at *appliance.Founding) error {
	return l.f.around("the founding", func() error { return l.Memory.Found(ctx, at) })
}

func (l *fusedLog) KeepSnapshot(ctx context.Context, number uint64, parts iter.Seq2[[]byte, error]) error {
	return l.f.around("a snapshot", func() error { return l.Memory.KeepSnapshot(ctx, number, parts) })
}

func (l *fusedLog) Abandon(ctx context.Context) error {
	return l.f.around("the removal of changes", func() error { return l.Memory.Abandon(ctx) })
}

type fusedRing struct {
	appliance.Keyring
	f *fuse
}

func (r *fusedRing) CreateSealedObject(ctx context.Context, o *appliance.SealedObject, reach appliance.Reach) error {
	return r.f.around("an object in the HSM", func() error { return r.Keyring.CreateSealedObject(ctx, o, reach) })
}

func (r *fusedRing) RemoveSealedObject(ctx context.Context, o *appliance.SealedObject) error {
	return r.f.around("the removal of an object", func() error { return r.Keyring.RemoveSealedObject(ctx, o) })
}

// tpmCounter is a TPM's, which is there after the process.
type tpmCounter struct {
	count uint64
	f     *fuse
}

func (*tpmCounter) Name() string { return "test:1" }

func (c *tpmCounter) Count(context.Context) (uint64, error) {
	if c.count == 0 {
		return 0, fault.Errorf(fault.NotFound, "there is no counter")
	}
	return c.count, nil
}

func (c *tpmCounter) Raise(_ context.Context, to uint64) error {
	return c.f.around("the TPM's count", func() error { c.count = to; return nil })
}

func (c *tpmCounter) Make(context.Context) (uint64, error) {
	return 7, c.f.around("the TPM's counter", func() error { c.count = 7; return nil })
}

// machine is one whose state is moved, and what it shares with others.
type machine struct {
	t       *testing.T
	dir     string
	token   *appliancetest.Memory
	log     *changelogtest.Memory
	counter *tpmCounter
	unkept  bool
	client  *appliancetest.Client
	sealed  *appliance.Ciphertext
	keys    []string
	ground  []string // labels of what another node has left in the HSM
}

// kind is what differs between machines.
type kind struct{ tpm, unkept, blocked bool }

func newMachine(t *testing.T, k kind) *machine {
	m := &machine{t: t, dir: t.TempDir(), token: appliancetest.NewMemory(), log: changelogtest.NewMemory(nil), unkept: k.unkept}
	if k.tpm {
		m.counter = &tpmCounter{f: &fuse{}}
	}
	b := appliancetest.Start(t, appliancetest.Options{Token: m.token, Dir: m.dir, Appliance: m.options(k.unkept)})
	m.client = b.NewKeyStore(t, "p", "/p", appliancetest.Principal)
	b.NewKey(t, "p", "k", "encrypt,decrypt", appliance.CustodyCached)
	m.sealed = m.client.OK(appliancetest.Encrypt("k", "plain")).Ciphertext
	if k.blocked {
		if _, err := b.Appliance.Block(t.Context(), appliance.BlockTarget{Everything: true}, "a drill", "alice"); err != nil {
			t.Fatal(err)
		}
	}
	b.Stop()
	return m
}

func (m *machine) options(unkept bool) appliance.Options {
	o := appliance.Options{NoInstallationObject: unkept}
	if m.counter != nil {
		o.Anchor = func() appliance.Anchor { return m.counter }
	}
	return o
}

// run moves the state; the fuse may end that. It gives what the files are then.
func (m *machine) run(f *fuse, to string) error {
	m.t.Helper()
	f.t, f.dir = m.t, m.dir
	mv := m.mover(f)
	move := mv.toFleet
	if to == toSingle {
		move = mv.toSingle
	}
	_, err := move(m.t.Context())
	if f.kept != "" {
		m.dir = f.kept
	}
	return err
}

func (m *machine) mover(f *fuse) *mover {
	if m.counter != nil {
		m.counter.f = f
	}
	token, err := m.token.Open(m.t.Context(), appliancetest.Opening{})
	if err != nil {
		m.t.Fatal(err)
	}
	o := m.options(m.unkept)
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	return &mover{cfg: &config.Config{State: config.State{Dir: m.dir, Database: "postgres://test"}}, o: o,
		ring: func() appliance.Keyring { return &fusedRing{keyring.New(token), f} },
		log:  &fusedLog{m.log.Peer(), f},
		pause: func(context.Context, time.Duration) error {
			return f.around("the wait", func() error { return nil })
		},
		rename: func(from, to string) error {
			return f.around("the name "+filepath.Base(to), func() error { return os.Rename(from, to) })
		}}
}

// serves says whether the rows serve; then a key is made in them if it is named.
func (m *machine) serves(dir, key string, names ...string) bool {
	m.t.Helper()
	mv := m.mover(&fuse{t: m.t, dir: dir})
	mv.cfg.State.Dir = dir
	rows, err := mv.openAll(m.t.Context(), names...)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		if err := rows.close(); err != nil {
			m.t.Error(err)
		}
	}()
	a := mv.appliance(rows, mv.o.Anchor)
	if err := a.Unlock(m.t.Context(), mv.ring(), nil); err != nil {
		if code := fault.CodeOf(err); code != fault.StateSuperseded && code != fault.FleetFounding {
			m.t.Errorf("the rows %q do not open: %v", names, err)
		}
		a.Lock()
		return false
	}
	defer a.Lock()
	if key != "" {
		b, err := a.BlockedRow(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		u, _ := appliance.ParseUsage("encrypt,decrypt")
		_, err = a.CreateKey(m.t.Context(), "p", appliance.NewExternalKey{ID: key, Usage: u, Custody: appliance.CustodyCached})
		if b.Retired() {
			if fault.CodeOf(err) != fault.Conflict {
				m.t.Errorf("a change of a state that is moved elsewhere: %v", err)
			}
			return true
		}
		if err != nil {
			m.t.Fatal(err)
		}
		m.keys = append(m.keys, key)
	}
	return true
}

// unlocked unlocks an appliance with the rows in a folder, until end.
func (m *machine) unlocked(dir string, names ...string) (a *appliance.Appliance, end func()) {
	m.t.Helper()
	mv := m.mover(&fuse{t: m.t, dir: dir})
	mv.cfg.State.Dir = dir
	rows, err := mv.openAll(m.t.Context(), names...)
	if err != nil {
		m.t.Fatal(err)
	}
	a = mv.appliance(rows, mv.o.Anchor)
	if err := a.Unlock(m.t.Context(), mv.ring(), nil); err != nil {
		_ = rows.close()
		m.t.Fatal(err)
	}
	return a, func() {
		a.Lock()
		if err := rows.close(); err != nil {
			m.t.Error(err)
		}
	}
}

// whole checks that the rows serve, and have all keys and blocks.
func (m *machine) whole(blocked bool, dir string, names ...string) {
	m.t.Helper()
	a, end := m.unlocked(dir, names...)
	defer end()
	client := *m.client
	client.T, client.Appliance = m.t, a
	b, err := a.BlockedRow(m.t.Context())
	switch {
	case err != nil:
		m.t.Error(err)
	case blocked && b.Reason != "a drill", !blocked && !b.IsZero():
		m.t.Errorf("blocked: %+v", b)
	case blocked:
		client.Fails(appliancetest.Decrypt("k", m.sealed), fault.Conflict)
	default:
		client.OK(appliancetest.Decrypt("k", m.sealed))
	}
	for _, key := range m.keys {
		if _, err := a.ShowKey(m.t.Context(), "p", key); err != nil {
			m.t.Errorf("a key that was made meanwhile: %v", err)
		}
	}
}

// fresh makes empty files of a node.
func (m *machine) fresh() string {
	dir := m.t.TempDir()
	for _, name := range []string{daemon.SharedFile, daemon.MachineFile} {
		db, err := sqlite.Open(m.t.Context(), filepath.Join(dir, name), sqlite.Options{})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return dir
}

func (m *machine) there(name string) bool {
	_, err := os.Stat(filepath.Join(m.dir, name))
	return err == nil
}

// again gives a machine as this one is, with its HSM and its database, as often as it is called.
func (m *machine) again(t *testing.T) *machine {
	t.Helper()
	next := *m
	next.t, next.dir, next.log, next.keys, next.ground = t, copyOf(t, m.dir), m.log.Clone(), nil, nil
	dumped, err := m.token.Dump()
	if err == nil {
		next.token, err = appliancetest.NewMemoryOf(dumped)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.counter != nil {
		next.counter = &tpmCounter{count: m.counter.count}
	}
	return &next
}

// TestMoveKilled: a move that is killed at any of its steps, in both directions, leaves one place
// that counts, and the same command once more finishes it. If the old place serves in between,
// nothing of that is lost.
func TestMoveKilled(t *testing.T) {
	for _, k := range []kind{{}, {tpm: true}, {tpm: true, blocked: true}, {tpm: true, unkept: true}} {
		for _, to := range []string{"fleet", toSingle} {
			t.Run(fmt.Sprintf("%+v to %s", k, to), func(t *testing.T) {
				t.Parallel()
				first := newMachine(t, k)
				if to == toSingle {
					if err := first.run(&fuse{}, "fleet"); err != nil {
						t.Fatal(err)
					}
				}
				all := &fuse{}
				if err := first.again(t).run(all, to); err != nil {
					t.Fatal(err)
				}
				for i, point := range all.points {
					if i%oneIn != 0 && i+1 != len(all.points) {
						continue
					}
					for _, between := range []string{"", "served"} {
						if k.blocked && between != "" {
							continue // of nothing that differs
						}
						t.Run(fmt.Sprintf("%d %s %s", i+1, point, between), func(t *testing.T) {
							t.Parallel() // they wait for the disk
							m := first.again(t)
							err := m.run(&fuse{left: i + 1}, to)
							last := i+1 == len(all.points) // after it there is nothing to do
							if !last && err == nil {
								t.Fatal("it was not killed")
							}
							m.killed(to, between)
							if err := m.run(&fuse{}, to); !last && err != nil || last && fault.CodeOf(err) != lastly[to] {
								t.Fatalf("once more: %v", err)
							}
							m.moved(to, k.blocked)
						})
					}
				}
			})
		}
	}
}

// lastly is what a move says that was done before.
var lastly = map[string]fault.Code{"fleet": fault.Exists, toSingle: fault.NotFound}

// killed checks that one place at most serves after a move was killed, and has that one change
// something if it is asked to.
func (m *machine) killed(to, between string) {
	m.t.Helper()
	single, fleet := m.there(daemon.SingleFile), m.there(daemon.SharedFile)
	if single && fleet {
		m.t.Error("both places have their names")
	}
	_, err := m.log.Founding(m.t.Context())
	joinable := err == nil
	if single && joinable && to == "fleet" {
		m.t.Error("nodes may join, and the old place has its name")
	}
	if between == "" {
		return
	}
	if single && to == "fleet" {
		m.serves(m.dir, "late", daemon.SingleFile)
	}
	if fleet && to == toSingle {
		m.serves(m.dir, "late", daemon.SharedFile, daemon.MachineFile)
	}
	if to == "fleet" && joinable {
		m.leaves()
	}
	if !single && !fleet && to == "fleet" && !joinable {
		if other := m.fresh(); m.serves(other, "", daemon.SharedFile, daemon.MachineFile) {
			m.t.Error("a node joins before the move is finished")
		}
	}
}

// leaves has another node of the fleet leave a position and a reliance in the HSM, which a move
// that is finished later must not take away.
func (m *machine) leaves() {
	m.t.Helper()
	mv := m.mover(&fuse{t: m.t})
	mv.cfg.State.Dir = m.fresh()
	rows, err := mv.openAll(m.t.Context(), daemon.SharedFile, daemon.MachineFile)
	if err != nil {
		m.t.Fatal(err)
	}
	defer rows.close()
	a, ring := mv.appliance(rows, nil), mv.ring()
	if err := a.Unlock(m.t.Context(), ring, nil); err != nil {
		m.t.Fatal(err)
	}
	defer a.Lock()
	origin, err := rows.rows[0].Origin(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for purpose, says := range map[appliance.ObjectPurpose][]string{
		appliance.ObjectPosition: {origin, "7", "digest"},
		appliance.ObjectReliance: {origin, "another node"},
	} {
		o, err := appliance.NewSealedObject(ring, purpose, a.Installation().ID, says...)
		if err == nil {
			err = ring.CreateSealedObject(m.t.Context(), o, appliance.ReachMost)
		}
		if err != nil {
			m.t.Fatal(err)
		}
		m.ground = append(m.ground, o.Label)
	}
}

// keptGround checks that what another node has left in the HSM is there.
func (m *machine) keptGround() {
	m.t.Helper()
	all, err := m.mover(&fuse{t: m.t}).ring().SealedObjects(m.t.Context(), appliance.ReachAny)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, label := range m.ground {
		if !slices.ContainsFunc(all, func(o *appliance.SealedObject) bool { return o.Label == label }) {
			m.t.Errorf("the move has removed %s, which a node that runs has left in the HSM", label)
		}
	}
}

// moved checks the place that the state was moved to.
func (m *machine) moved(to string, blocked bool) {
	m.t.Helper()
	names, gone := []string{daemon.SharedFile, daemon.MachineFile}, []string{daemon.SingleFile}
	if to == toSingle {
		names, gone = gone, names
	}
	for _, name := range gone {
		if m.there(name) || !m.there(name+left) {
			m.t.Errorf("%s is not left behind", name)
		}
	}
	for _, name := range append(names, gone...) {
		if m.there(name + moving) {
			m.t.Errorf("%s is still being moved", name)
		}
	}
	m.keptGround()
	m.whole(blocked, m.dir, names...)
	if to == "fleet" {
		m.counterless().whole(blocked, m.fresh(), names...)
	}
}

// counterless is another machine with the same installation.
func (m *machine) counterless() *machine {
	other := *m
	other.counter = nil
	return &other
}
