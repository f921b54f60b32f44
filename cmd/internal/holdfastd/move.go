package holdfastd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/coredump"
	"holdfast/cmd/internal/daemon"
)

// toSingle is what --to says for the way back.
const toSingle = "sqlite"

// Moved is what a move has done.
type Moved struct {
	Installation string    `json:"installation"`
	Rows         int       `json:"rows"`
	Sequence     uint64    `json:"sequence"`
	Digest       string    `json:"digest"`
	At           time.Time `json:"at"`
	// From is what does not count any more, To what does.
	From []string `json:"from"`
	To   string   `json:"to"`
	Next string   `json:"next"`
}

func stateMoveCommand(a *cli.Admin) *cobra.Command {
	var f copyFlags
	var to string
	c := &cobra.Command{
		Use:   "move --to postgres://USER@HOST:PORT/NAME|sqlite --config FILE [--pin-file FILE] [--without-tpm] < PIN",
		Short: "Move the state of this machine to a fleet's database, or back",
		Long: "Move the state of this machine, whose appliance must be stopped, to an empty database of a fleet; or with\n" +
			"--to sqlite from the database that state.database names back to one file of this machine. All rows are\n" +
			"verified by their manifests first, and sealed once more where they go. The HSM then names the new place:\n" +
			"what was left behind does not start again. Nodes of a fleet that still run are blocked before its rows are\n" +
			"taken, and take no change from then on; the command waits for fleet.grace until they have stopped. The HSM's PIN is read from standard input, or from a file that only its owner may read.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			m, err := f.move(cmd, a.Notes(cmd), to)
			if err != nil {
				return err
			}
			return a.Show(cmd, m, func(w io.Writer) {
				cli.Row(w, "installation", m.Installation)
				cli.Row(w, "rows", m.Rows)
				cli.Row(w, "state number", m.Sequence)
				cli.Row(w, "digest", m.Digest)
				cli.Row(w, "left behind", strings.Join(m.From, ", "))
				cli.Row(w, "to", m.To)
				cli.Row(w, "next", m.Next)
			})
		}),
	}
	c.Flags().StringVar(&to, "to", "", "where to: the URL of an empty PostgreSQL database, or sqlite")
	c.Flags().StringVar(&f.config, "config", "", "configuration file (TOML), which names the state, the HSM and the TPM")
	c.Flags().StringVar(&f.pinFile, "pin-file", "", "file with the HSM's PIN, instead of standard input")
	c.Flags().BoolVar(&f.withoutTPM, "without-tpm", false, "do not use this machine's TPM; for a machine whose appliance uses none")
	cobra.CheckErr(c.MarkFlagRequired("to"))
	cobra.CheckErr(c.MarkFlagRequired("config"))
	return c
}

// mover moves the state of one machine.
type mover struct {
	cfg *config.Config
	o   appliance.Options
	// ring gives a keyring without keys over the HSM.
	ring func() appliance.Keyring
	log  moveLog
	// rename is [os.Rename].
	rename func(from, to string) error
	// pause waits until nodes that still run have stopped.
	pause func(ctx context.Context, d time.Duration) error
}

// moveLog is what a move needs of the fleet's database.
type moveLog interface {
	appliance.ChangeLog
	// Abandon removes the changes of a database in which no installation was begun:
	// fault.Exists if one was.
	Abandon(ctx context.Context) error
}

func (f *copyFlags) move(cmd *cobra.Command, notes io.Writer, to string) (_ *Moved, err error) {
	ctx := cmd.Context()
	if err := coredump.Forbid(); err != nil {
		return nil, err
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return nil, err
	}
	m := &mover{cfg: cfg, rename: os.Rename, pause: func(ctx context.Context, d time.Duration) error {
		fmt.Fprintf(notes, "waiting %s, until nodes of the fleet that still run have stopped to serve\n", d)
		return pause(ctx, d)
	}}
	var anchors appliance.CopyOptions
	closeTPM, err := f.openTPM(cfg.Attestation.TPM, &anchors)
	if err != nil {
		return nil, err
	}
	defer closeTPM()
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	m.o = appliance.Options{Log: logger, NoInstallationObject: cfg.HSM.NoInstallationObject, Anchor: func() appliance.Anchor { return anchors.Anchor }}
	if anchors.Anchor == nil {
		m.o.Anchor = nil
	}
	var move func(context.Context) (*Moved, error)
	switch {
	case to == toSingle && cfg.State.Database == "":
		return nil, cli.Unusable(errors.New("--to sqlite moves the state of a fleet, and the configuration names none: set state.database"))
	case to == toSingle:
		move = m.toSingle
	default:
		if cfg.State.Database != "" && cfg.State.Database != to {
			return nil, cli.Unusable(fmt.Errorf("the configuration names another database than --to: state.database is %s", cfg.State.Database))
		}
		cfg.State.Database = to
		move = m.toFleet
	}
	token, err := f.openHSM(cmd, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	m.ring = func() appliance.Keyring { return keyring.New(token) }
	log, err := daemon.Changes(cfg, logger)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.log = log
	return move(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.Wrapf(fault.Timeout, ctx.Err(), "the move was ended while it waited for nodes to stop: run it once more, which finishes it")
	}
}

func (m *mover) path(name string) string { return filepath.Join(m.cfg.State.Dir, name) }

// there says whether a file is there.
func (m *mover) there(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// absent says that files are not there.
func (m *mover) absent(names ...string) error {
	for _, name := range names {
		if _, err := os.Stat(m.path(name)); !errors.Is(err, fs.ErrNotExist) {
			return fault.Errorf(fault.Conflict, "there is a file %s already: look whose it is, and move it away", m.path(name))
		}
	}
	return nil
}

// open opens a file of rows, and keeps other processes out.
func (m *mover) open(ctx context.Context, name string) (*sqlite.DB, error) {
	if _, err := os.Stat(m.path(name)); err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	return sqlite.Open(ctx, m.path(name), sqlite.Options{Logger: m.o.Log})
}

// opened are open files of rows: those that a fleet shares and those of the machine, or all
// in one.
type opened struct {
	rows []*sqlite.DB
}

// openAll opens files of rows.
func (m *mover) openAll(ctx context.Context, names ...string) (*opened, error) {
	o := &opened{}
	for _, name := range names {
		db, err := m.open(ctx, name)
		if err != nil {
			return nil, errors.Join(err, o.close())
		}
		o.rows = append(o.rows, db)
	}
	return o, nil
}

// close closes them, once.
func (o *opened) close() (err error) {
	for _, db := range o.rows {
		err = errors.Join(err, db.Close())
	}
	o.rows = nil
	return err
}

// appliance gives an appliance over rows: a node if there are those of a machine.
func (m *mover) appliance(rows *opened, anchor func() appliance.Anchor) *appliance.Appliance {
	o := m.o
	o.Anchor = anchor
	o.Store = rows.rows[0]
	own := rows.rows[len(rows.rows)-1]
	if len(rows.rows) > 1 {
		o.ChangeLog, o.Machine = m.log, own.Machine()
	}
	o.AuditHeads, o.WitnessedTime = own.Machine(), own.Machine()
	return appliance.New(o)
}

// A way is what differs between a move to a fleet and one back. The first of the files it
// comes from says which place counts: as long as it has its name, the old one does.
type way struct {
	from, to []string
	// nodes says that nodes of a fleet that is left behind may still run.
	nodes bool
	// take verifies the rows, gives what is blocked of them, and copies them.
	take func(ctx context.Context, a *appliance.Appliance, ring appliance.Keyring) (appliance.Block, error)
}

// claimMove is how long a move that was interrupted keeps others from beginning an installation
// in the fleet's database.
const claimMove = 5 * time.Minute

// toFleet moves the rows of one file to a fleet's database.
func (m *mover) toFleet(ctx context.Context) (*Moved, error) {
	w := way{from: []string{daemon.SingleFile}, to: []string{daemon.SharedFile, daemon.MachineFile}}
	f, err := m.log.Founding(ctx)
	switch {
	case err == nil && !m.there(daemon.SingleFile) && m.there(daemon.SharedFile):
		return nil, fault.Errorf(fault.Exists, "the fleet's database has the installation %q already, and this machine is a node of a fleet: there is nothing to move", f.Installation)
	case err == nil && m.there(daemon.SingleFile):
		return nil, fault.Errorf(fault.Exists, "the fleet's database has the installation %q already; name an empty database", f.Installation)
	case err != nil && fault.CodeOf(err) != fault.NotFound:
		return nil, err
	}
	w.take = func(ctx context.Context, a *appliance.Appliance, ring appliance.Keyring) (blocked appliance.Block, err error) {
		if blocked, err = a.BlockedRow(ctx); err == nil {
			err = m.emptyLog(ctx, ring, a.Installation().ID)
		}
		if err != nil {
			return blocked, err
		}
		return blocked, sqlite.Split(ctx, m.path(daemon.SingleFile), m.path(daemon.SharedFile+moving), m.path(daemon.MachineFile+moving))
	}
	return m.move(ctx, w, &Moved{To: m.cfg.State.Database, Next: "set state.database in the configuration of this machine and of the others, and start them"})
}

// toSingle moves the rows of a fleet to one file.
func (m *mover) toSingle(ctx context.Context) (*Moved, error) {
	w := way{from: []string{daemon.SharedFile, daemon.MachineFile}, to: []string{daemon.SingleFile}, nodes: true}
	w.take = func(ctx context.Context, a *appliance.Appliance, ring appliance.Keyring) (appliance.Block, error) {
		blocked, err := a.Retire(ctx, ring)
		if err != nil {
			return blocked, err
		}
		return blocked, sqlite.Join(ctx, m.path(daemon.SharedFile), m.path(daemon.MachineFile), m.path(daemon.SingleFile+moving))
	}
	return m.move(ctx, w, &Moved{To: m.path(daemon.SingleFile), From: []string{m.cfg.State.Database},
		Next: "take state.database out of this machine's configuration, and start it; switch off the other nodes: they serve nothing and take no change any more"})
}

// move moves the rows, or goes on with a move that was interrupted. The new place is made whole
// under other names; then the HSM names it, and the old place loses its name. After either, what
// is left of the move is done from the new place; before, all is done once more from the old one.
func (m *mover) move(ctx context.Context, w way, moved *Moved) (*Moved, error) {
	if m.there(w.from[0]) {
		if err := m.absent(w.to...); err != nil {
			return nil, err
		}
		if err := m.leaveOld(ctx, w); err != nil {
			return nil, err
		}
	} else if !m.there(w.to[0] + moving) {
		return nil, fault.Errorf(fault.NotFound, "there is no state %s to move, and no move that was not finished", m.path(w.from[0]))
	}
	if err := m.renameAll(w.from, "", left); err != nil {
		return nil, err
	}
	for _, name := range w.from {
		moved.From = append(moved.From, m.path(name)+left)
	}
	if w.nodes { // what proves to them that they may serve named the place that was left behind
		grace := time.Duration(cmp.Or(m.cfg.Fleet.Grace, config.DefaultFleetGrace))
		if err := m.pause(ctx, fleet.StopsWithin(grace)); err != nil {
			return nil, err
		}
	}
	if err := m.finish(ctx, w, moved); err != nil {
		return nil, err
	}
	return moved, nil
}

// leaveOld makes the new place whole, and has the HSM name it; nothing if it does so already.
func (m *mover) leaveOld(ctx context.Context, w way) (err error) {
	from, err := m.openAll(ctx, w.from...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	a, ring := m.appliance(from, m.o.Anchor), m.ring()
	defer ring.Lock()
	if err := a.OpenRows(ctx, ring); err != nil {
		return err
	}
	defer a.CloseRows()
	err = a.CheckOwnership(ctx, ring)
	if fault.CodeOf(err) == fault.StateSuperseded && m.there(w.to[0]+moving) {
		return m.checkMoved(ctx, w, a, err)
	}
	if err != nil {
		return err
	}
	for _, name := range w.to {
		if err := m.removeMoving(name); err != nil {
			return err
		}
	}
	var taken appliance.MovedFrom
	if taken.Blocked, err = w.take(ctx, a, ring); err != nil {
		return err
	}
	if taken.Anchor, err = a.AnchorCount(ctx); err != nil {
		return err
	}
	to, err := m.openAll(ctx, movingNames(w.to)...)
	if err != nil {
		return err
	}
	sealing := m.ring()
	defer sealing.Lock()
	return errors.Join(m.appliance(to, nil).Moved(ctx, sealing, taken), to.close())
}

// checkMoved says whether what a move has left is what the HSM names in the place of the old
// one: if not, why the old one does not count stands.
func (m *mover) checkMoved(ctx context.Context, w way, old *appliance.Appliance, why error) error {
	at, err := old.AnchorCount(ctx)
	if err != nil {
		return err
	}
	to, err := m.openAll(ctx, movingNames(w.to)...)
	if err != nil {
		return why
	}
	ring := m.ring()
	defer ring.Lock()
	err = m.appliance(to, nil).CheckMoved(ctx, ring, at)
	if err := to.close(); err != nil {
		return err
	}
	if code := fault.CodeOf(err); code == fault.DatabaseAway || code == fault.HSMAway {
		return err
	}
	if err != nil {
		return why
	}
	return nil
}

// emptyLog removes from the fleet's database what a move of this installation has left there
// that was interrupted, and keeps others from beginning an installation there.
func (m *mover) emptyLog(ctx context.Context, ring appliance.Keyring, installation string) error {
	mine, err := m.log.ClaimFounding(ctx, "move of "+installation, claimMove)
	if err != nil {
		return err
	}
	if !mine {
		return fault.Errorf(fault.FleetFounding, "a node is making an installation in the fleet's database: stop the nodes that were started with this database, wait a minute, and do it again; or name an empty database")
	}
	first, err := m.log.Changes(ctx, 1, 1)
	if err != nil {
		return err
	}
	if len(first) > 0 {
		key, err := ring.ManifestKey(installation)
		if err != nil {
			return err
		}
		defer key.Wipe()
		if err := sqlite.MadeFirst(key, first[0]); err != nil {
			return fault.Wrapf(fault.Exists, err, "the fleet's database has the changes of another installation; name an empty database")
		}
	} else if newest, err := m.log.Newest(ctx); err != nil || newest == 0 {
		return err
	} else {
		return fault.Errorf(fault.Exists, "the fleet's database has changes, and lacks the first one; name an empty database")
	}
	return m.log.Abandon(ctx)
}

// finish does what is left when the new place counts: its rows get the anchor, and their names.
func (m *mover) finish(ctx context.Context, w way, moved *Moved) error {
	names := movingNames(w.to)
	for i, name := range w.to {
		if !m.there(names[i]) {
			names[i] = name // it has its name already
		}
	}
	to, err := m.openAll(ctx, names...)
	if err != nil {
		return err
	}
	ring := m.ring()
	defer ring.Lock()
	a := m.appliance(to, m.o.Anchor)
	report, err := a.FinishMove(ctx, ring)
	if fault.CodeOf(err) == fault.StateSuperseded && names[0] != w.to[0] {
		err = fault.Wrapf(fault.StateSuperseded, err, "the move was given up, or another copy has taken over since: the files %s do not count, and may be removed", m.path("*"+moving))
	}
	if err = errors.Join(err, to.close()); err != nil {
		return err
	}
	moved.Installation = a.Installation().ID
	moved.Rows, moved.Sequence, moved.Digest, moved.At = report.Rows, report.Head.Sequence, report.Head.Digest, report.Head.At
	last := slices.Clone(w.to)
	slices.Reverse(last) // the first says that all is done
	return m.renameAll(last, moving, "")
}

// Endings of the names of files that do not count yet, or any more.
const (
	moving = daemon.MovingSuffix
	left   = daemon.MovedSuffix
)

func movingNames(names []string) (all []string) {
	for _, name := range names {
		all = append(all, name+moving)
	}
	return all
}

// renameAll gives files another ending durably, in their order, but for those that have it.
func (m *mover) renameAll(names []string, ending, to string) error {
	for _, name := range names {
		if !m.there(name + ending) {
			continue
		}
		if err := m.rename(m.path(name+ending), m.path(name+to)); err != nil {
			return err
		}
		dir, err := os.Open(m.cfg.State.Dir)
		if err != nil {
			return err
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// removeMoving removes what a move that was interrupted has left of a file.
func (m *mover) removeMoving(name string) error {
	files, err := os.ReadDir(m.cfg.State.Dir)
	for _, file := range files {
		if strings.HasPrefix(file.Name(), name+moving) {
			err = errors.Join(err, os.Remove(m.path(file.Name())))
		}
	}
	return err
}
