package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// Installation is what there is once per database.
type Installation struct {
	// ID is 32 hexadecimal digits; it is bound into every wrapped key.
	ID string
	// WrappedStateKey is the state key, wrapped by the HSM's master key.
	WrappedStateKey []byte
	CreatedAt       time.Time

	// Blocked says that everything is out of service. BlockSeal authenticates it,
	// also when nothing is blocked, under the state key.
	Blocked   Block
	BlockSeal []byte

	// Incarnation is the [Incarnation] as it is stored, and IncarnationSeal authenticates
	// it under the state key. Both are empty in an installation of before there were any.
	Incarnation     string
	IncarnationSeal []byte
}

// install makes the installation in an empty database, and seals the rows of
// those who came before it, whom a person has confirmed. Begun says that a person has it
// begun beside the traces of another one. fault.AdmissionUnconfirmed.
func (l *Lifecycle) install(ctx context.Context, ring Keyring, begun bool) (err error) {
	if err := l.checkAdmission(ctx); err != nil {
		return err
	}
	in := &Installation{ID: newID(), CreatedAt: l.stamp()}
	if in.WrappedStateKey, err = ring.NewStateKey(ctx, in.ID); err != nil {
		return err
	}
	if l.replication != nil {
		if err := l.replication.log.Found(ctx, &Founding{Installation: in.ID, WrappedStateKey: in.WrappedStateKey}); err != nil {
			return foundedMeanwhile(err)
		}
		return foundedMeanwhile(l.installAs(ctx, ring, in, begun)) // who comes to the first change is first
	}
	return l.installAs(ctx, ring, in, begun)
}

// installAs makes the installation whose state key is in the keyring.
func (l *Lifecycle) installAs(ctx context.Context, ring Keyring, in *Installation, begun bool) (err error) {
	if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
		return err
	}
	if err := in.setIncarnation(ring, newIncarnation(1)); err != nil {
		return err
	}
	return l.settings.seals.sealAll(ctx, ring, false, l.confirmation(), func() error {
		return l.openState(ctx, ring, in.ID, StateOptions{Seal: true, Installed: in}, begun)
	})
}

// checkNoKeyStores says whether the database has lost the row of its installation alone:
// fault.Tampered.
func (l *Lifecycle) checkNoKeyStores(ctx context.Context) error {
	stores, err := l.store.KeyStores(ctx)
	if err != nil || len(stores) == 0 {
		return err
	}
	return fault.Errorf(fault.Tampered, "the database has key stores and lacks the row of its installation: it was changed by hand or is damaged; restore the last good backup into a fresh appliance")
}

// openStateKey opens the state key and the state. A state key that was wrapped before
// all rows had seals, or before there were manifests, is wrapped in the present form once
// they have: from then on a row without a seal and a set without a manifest are not valid.
// AsItIs has all rows sealed as they are: they were restored, or people have accepted them.
func (l *Lifecycle) openStateKey(ctx context.Context, ring Keyring, in *Installation, asItIs bool) error {
	early, err := openStateKey(ctx, ring, in)
	if err != nil {
		return err
	}
	if early == nil {
		return l.openState(ctx, ring, in.ID, StateOptions{Seal: asItIs}, asItIs)
	}
	was := *in
	in.WrappedStateKey = early.again
	open := func() error {
		return l.openState(ctx, ring, in.ID, StateOptions{Seal: true, Installed: in, Was: &was}, asItIs)
	}
	if early.sealed {
		l.log.Warn("the database was made before there was a manifest of all rows; it gets one now, of the rows as they are", "installation", in.ID)
		return open()
	}
	l.log.Warn("the database was made before all rows had seals; they get them now, as they are. Look through the users and API tokens", "installation", in.ID)
	if in.Blocked.IsZero() && in.BlockSeal == nil {
		if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
			return err
		}
	}
	return l.settings.seals.sealAll(ctx, ring, true, Confirmation{}, func() error {
		if err := l.settings.setSetting(ctx, SettingBootstrap, SettingDone); err != nil {
			return err
		}
		return open()
	})
}

// earlyStateKey is a state key that was wrapped in a former form: again in the present one,
// and whether all rows had seals then.
type earlyStateKey struct {
	again  []byte
	sealed bool
}

// openStateKey opens the state key of an installation. One of a former form it gives in
// the present one; nil for any other.
func openStateKey(ctx context.Context, ring Keyring, in *Installation) (*earlyStateKey, error) {
	err := ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey)
	if fault.CodeOf(err) != fault.Tampered {
		return nil, err
	}
	again, sealed, early := ring.OpenEarlyStateKey(ctx, in.ID, in.WrappedStateKey)
	if early != nil {
		return nil, err
	}
	return &earlyStateKey{again, sealed}, nil
}
