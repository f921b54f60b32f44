package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
	"holdfast/appliance/postgres"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/witness"
)

// Endings of the names of files of the state.
const (
	// MovingSuffix is that of rows that holdfastd state move has not finished to move here.
	MovingSuffix = ".moving"
	// MovedSuffix is that of rows that it has moved elsewhere. They do not count any more.
	MovedSuffix = ".moved"
)

// The files of the state, in its folder. A single appliance has all rows in one; a node of a
// fleet has those that the fleet shares in one, and its own in another.
const (
	SingleFile  = "holdfast.db"
	SharedFile  = "fleet.db"
	MachineFile = "machine.db"
)

// openState opens the rows, and wires the boot and the appliance over them.
func (d *Daemon) openState(ctx context.Context, cert *certificate.Certificate) (err error) {
	cfg := d.o.Config
	if err := d.oneState(); err != nil {
		return err
	}
	if cfg.State.Database != "" {
		err = d.openNode(ctx)
	} else if d.store, err = d.openRows(ctx, SingleFile); err == nil {
		d.machine = d.store.Machine()
	}
	if err != nil {
		return err
	}
	d.onClose(d.machineKey.Wipe)
	d.clock = witness.New(d.o.Now, witness.Running())
	d.audit = newRecorder(cfg, d.o.Log, d.clock)
	if err := d.newBoot(cert); err != nil {
		return err
	}
	o := appliance.Options{Store: d.store, Log: d.o.Log, Now: d.o.Now, WhyLocked: func() string { return d.boot.Status().Code },
		Recorder: d.audit, AuditLog: d.audit, AuditHeads: d.machine, Witness: d.clock, WitnessedTime: d.machine, Identities: identities{d}, MachineKey: &d.machineKey, Deleting: d.audit.KeyDeleted, Destroying: d.audit.ObjectDestroyed, Rotating: d.audit.KeyRotated,
		NoInstallationObject: cfg.HSM.NoInstallationObject, Traces: d.traces(), Anchor: d.stateAnchor, HeadAnchors: d.headAnchors(),
		Dir: cfg.State.Dir, OpenCopy: func(ctx context.Context, path string) (appliance.Copy, error) {
			return sqlite.Open(ctx, path, sqlite.Options{Logger: d.o.Log, Copy: true})
		},
		MaxUnlockedKeys: cmp.Or(cfg.Keys.MaxUnlocked, d.budget.keys), RotateAfter: cfg.Keys.RotateAfter, Lease: time.Duration(cfg.HSM.Lease)}
	if d.changes != nil {
		d.fleet = d.newMembership()
		o.ChangeLog, o.Machine, o.Fleet, o.Peers = d.changes, d.machine, d.fleet, d.fleet.quotas
	}
	d.appliance = appliance.New(o)
	cert.Open(d.appliance, cfg.XKS.URL, cfg.Admin.URL)
	d.store.Subscribe(func(c appliance.Change) {
		if c.Setting != "" || c == (appliance.Change{}) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			cert.Look(ctx)
		}
	})
	return nil
}

// oneState refuses to begin another state beside the one that this machine has.
func (d *Daemon) oneState() error {
	path := func(name string) string { return filepath.Join(d.o.Config.State.Dir, name) }
	there := func(name string) bool {
		_, err := os.Stat(path(name))
		return err == nil
	}
	switch node := d.o.Config.State.Database != ""; {
	case !there(SingleFile) && !there(SharedFile) && (there(SingleFile+MovingSuffix) || there(SharedFile+MovingSuffix)):
		return fault.Errorf(fault.Conflict, "the state of this machine was being moved, and that was not finished: run the same holdfastd state move once more, which finishes it, or says that the files %s do not count any more", path("*"+MovingSuffix))
	case node && there(SingleFile):
		return fault.Errorf(fault.Conflict, "the configuration names a fleet's database, and this machine has the state of a single appliance, %s: move that with holdfastd state move --to URL, or move the file away if this machine is to join the fleet without it", path(SingleFile))
	case !node && there(SharedFile):
		return fault.Errorf(fault.Conflict, "this machine is a node of a fleet, whose rows are in %s, and the configuration names no database: set state.database, or move the state back with holdfastd state move --to sqlite", path(SharedFile))
	}
	return nil
}

// openRows opens one file of rows.
func (d *Daemon) openRows(ctx context.Context, name string) (*sqlite.DB, error) {
	s, err := sqlite.Open(ctx, filepath.Join(d.o.Config.State.Dir, name), sqlite.Options{Logger: d.o.Log})
	if err != nil {
		return nil, err
	}
	d.onClose(func() {
		if err := s.Close(); err != nil {
			d.o.Log.Error("the database did not close cleanly", "file", name, "error", err)
		}
	})
	return s, nil
}

// openNode opens the rows of a node of a fleet, and the log of changes, which need not
// answer yet.
func (d *Daemon) openNode(ctx context.Context) (err error) {
	if d.changes, err = Changes(d.o.Config, d.o.Log); err != nil {
		return err
	}
	d.onClose(d.changes.Close)
	if d.store, err = d.openRows(ctx, SharedFile); err != nil {
		return err
	}
	own, err := d.openRows(ctx, MachineFile)
	if err == nil {
		d.machine = own.Machine()
	}
	return err
}

// Changes gives the log of changes that the configuration names.
func Changes(cfg *config.Config, log *slog.Logger) (*postgres.Log, error) {
	c := cfg.State
	return postgres.New(postgres.Options{URL: c.Database, PasswordFile: c.DatabasePasswordFile, CA: c.DatabaseCA,
		Certificate: c.DatabaseCertificate, Key: c.DatabaseKey, Asynchronous: c.DatabaseAsynchronous, Log: log})
}

// foundingLease is how long a node that begins an installation may be silent.
const foundingLease = time.Minute

// installed says whether there is an installation, whose master key the HSM has: in the
// rows, or in the fleet's database. If there is none there, this node alone may begin it:
// fault.FleetFounding.
func (d *Daemon) installed(ctx context.Context) (bool, error) {
	_, err := d.store.Installation(ctx)
	if fault.CodeOf(err) != fault.NotFound {
		return err == nil, err
	}
	if d.changes == nil {
		return false, nil
	}
	_, err = d.changes.Founding(ctx)
	if fault.CodeOf(err) != fault.NotFound {
		return err == nil, err
	}
	if newest, err := d.changes.Newest(ctx); err != nil {
		return false, err
	} else if newest > 0 {
		return false, appliance.UnfinishedMove()
	}
	mine, err := d.changes.ClaimFounding(ctx, d.claimant(), foundingLease)
	if err == nil && !mine {
		err = fault.Errorf(fault.FleetFounding, "another node is making the installation; this one takes it over when it is made")
	}
	return false, err
}

// claimant names this process where nodes begin an installation.
func (d *Daemon) claimant() string {
	d.claim.Do(func() {
		var id [16]byte
		_, _ = rand.Read(id[:])
		d.claims = hex.EncodeToString(id[:])
	})
	return d.claims
}
