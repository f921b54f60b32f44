package holdfastd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/postgres"
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
			"taken. The HSM's PIN is read from standard input, or from a file that only its owner may read.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			m, err := f.move(cmd, to)
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
}

func (f *copyFlags) move(cmd *cobra.Command, to string) (_ *Moved, err error) {
	ctx := cmd.Context()
	if err := coredump.Forbid(); err != nil {
		return nil, err
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return nil, err
	}
	m := &mover{cfg: cfg}
	var anchors appliance.CopyOptions
	closeTPM, err := f.openTPM(cfg.Attestation.TPM, &anchors)
	if err != nil {
		return nil, err
	}
	defer closeTPM()
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	m.o = appliance.Options{Log: log, NoInstallationObject: cfg.HSM.NoInstallationObject, Anchor: func() appliance.Anchor { return anchors.Anchor }}
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
	token, err := f.openHSM(cmd, cfg.HSM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	m.ring = func() appliance.Keyring { return keyring.New(token) }
	return move(ctx)
}

func (m *mover) path(name string) string { return filepath.Join(m.cfg.State.Dir, name) }

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

// appliance gives an appliance over rows: a node if there are those of a machine.
func (m *mover) appliance(rows, machine *sqlite.DB, log appliance.ChangeLog) *appliance.Appliance {
	o := m.o
	o.Store = rows
	own := rows
	if machine != nil {
		own = machine
		o.ChangeLog, o.Machine = log, machine.Machine()
	}
	o.AuditHeads, o.WitnessedTime = own.Machine(), own.Machine()
	return appliance.New(o)
}

func (m *mover) changes() (*postgres.Log, error) {
	return daemon.Changes(m.cfg, m.o.Log)
}

// toFleet moves the rows of one file to a fleet's database.
func (m *mover) toFleet(ctx context.Context) (_ *Moved, err error) {
	log, err := m.changes()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if f, err := log.Founding(ctx); err == nil {
		return nil, fault.Errorf(fault.Exists, "the fleet's database has the installation %.32q already; name an empty database", f.Installation)
	} else if fault.CodeOf(err) != fault.NotFound {
		return nil, err
	}
	if err := m.absent(daemon.SharedFile, daemon.MachineFile); err != nil {
		return nil, err
	}
	from, err := m.open(ctx, daemon.SingleFile)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	blocked, err := m.verified(ctx, m.appliance(from, nil, nil))
	if err != nil {
		return nil, err
	}
	if err := sqlite.Split(ctx, m.path(daemon.SingleFile), m.path(daemon.SharedFile), m.path(daemon.MachineFile)); err != nil {
		return nil, err
	}
	moved := &Moved{To: m.cfg.State.Database, From: []string{m.path(daemon.SingleFile) + left}, Next: "set state.database in the configuration of this machine and of the others, and start them"}
	if err := m.seal(ctx, moved, blocked, log, daemon.SharedFile, daemon.MachineFile); err != nil {
		return nil, err
	}
	return moved, errors.Join(from.Close(), m.leave(daemon.SingleFile))
}

// toSingle moves the rows of a fleet to one file.
func (m *mover) toSingle(ctx context.Context) (_ *Moved, err error) {
	log, err := m.changes()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := m.absent(daemon.SingleFile); err != nil {
		return nil, err
	}
	from, err := m.open(ctx, daemon.SharedFile)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	own, err := m.open(ctx, daemon.MachineFile)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	blocked, err := m.retired(ctx, m.appliance(from, own, log))
	if err != nil {
		return nil, err
	}
	if err := sqlite.Join(ctx, m.path(daemon.SharedFile), m.path(daemon.MachineFile), m.path(daemon.SingleFile)); err != nil {
		return nil, err
	}
	moved := &Moved{To: m.path(daemon.SingleFile), From: []string{m.cfg.State.Database, m.path(daemon.SharedFile) + left, m.path(daemon.MachineFile) + left},
		Next: "take state.database out of this machine's configuration, and start it; stop the other nodes: they serve nothing any more"}
	if err := m.seal(ctx, moved, blocked, nil, daemon.SingleFile); err != nil {
		return nil, err
	}
	return moved, errors.Join(from.Close(), own.Close(), m.leave(daemon.SharedFile, daemon.MachineFile))
}

// verified holds all rows against their manifests and anchors, and gives what is blocked.
func (m *mover) verified(ctx context.Context, a *appliance.Appliance) (appliance.Block, error) {
	ring := m.ring()
	defer ring.Lock()
	if err := a.OpenRows(ctx, ring); err != nil {
		return appliance.Block{}, err
	}
	defer a.CloseRows()
	return a.BlockedRow(ctx)
}

// retired does that with the rows of a fleet, and blocks everything there.
func (m *mover) retired(ctx context.Context, a *appliance.Appliance) (appliance.Block, error) {
	ring := m.ring()
	defer ring.Lock()
	if err := a.OpenRows(ctx, ring); err != nil {
		return appliance.Block{}, err
	}
	defer a.CloseRows()
	return a.Retire(ctx, ring, "moved to a single appliance by holdfastd state move")
}

// seal seals the rows where they are now.
func (m *mover) seal(ctx context.Context, moved *Moved, blocked appliance.Block, log appliance.ChangeLog, names ...string) (err error) {
	var opened []*sqlite.DB
	defer func() {
		for _, db := range opened {
			err = errors.Join(err, db.Close())
		}
	}()
	for _, name := range names {
		db, err := m.open(ctx, name)
		if err != nil {
			return err
		}
		opened = append(opened, db)
	}
	var machine *sqlite.DB
	if log != nil {
		machine = opened[1]
	}
	ring := m.ring()
	defer ring.Lock()
	a := m.appliance(opened[0], machine, log)
	report, err := a.Moved(ctx, ring, blocked)
	if err != nil {
		return err
	}
	moved.Installation = a.Installation().ID
	moved.Rows, moved.Sequence, moved.Digest, moved.At = report.Rows, report.Head.Sequence, report.Head.Digest, report.Head.At
	return nil
}

// left is what the names of files end with that do not count any more.
const left = ".moved"

func (m *mover) leave(names ...string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, os.Rename(m.path(name), m.path(name)+left))
	}
	return errors.Join(errs...)
}
