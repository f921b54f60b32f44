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
}

// install makes the installation in an empty database, and seals the rows of
// those who came before it.
func (l *Lifecycle) install(ctx context.Context, ring Keyring) (*Installation, error) {
	stores, err := l.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	if len(stores) > 0 {
		return nil, fault.Errorf(fault.Tampered, "the database has key stores and lacks the row of its installation: it was changed by hand or is damaged; restore the last good backup into a fresh appliance")
	}
	if err := l.auditHead.begin(ctx); err != nil {
		return nil, err
	}
	in := &Installation{ID: newID(), CreatedAt: l.stamp()}
	if in.WrappedStateKey, err = ring.NewStateKey(ctx, in.ID); err != nil {
		return nil, err
	}
	if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
		return nil, err
	}
	err = l.settings.seals.sealAll(ctx, ring, func() error { return l.store.CreateInstallation(ctx, in) })
	if err != nil {
		return nil, err
	}
	return in, nil
}

// openStateKey opens the state key. One that was wrapped before all rows had
// seals is wrapped in the present form once all have: from then on a row without a
// seal is not valid.
func (l *Lifecycle) openStateKey(ctx context.Context, ring Keyring, in *Installation) error {
	wrapped, err := openStateKey(ctx, ring, in)
	if err != nil || wrapped == nil {
		return err
	}
	l.log.Warn("the database was made before all rows had seals; they get them now, as they are. Look through the users and API tokens", "installation", in.ID)
	was := *in
	in.WrappedStateKey = wrapped
	if in.Blocked.IsZero() && in.BlockSeal == nil {
		if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
			return err
		}
	}
	return l.settings.seals.sealAll(ctx, ring, func() error {
		if err := l.settings.setSetting(ctx, SettingBootstrap, SettingDone); err != nil {
			return err
		}
		return l.store.UpgradeInstallation(ctx, in, &was)
	})
}

// openStateKey opens the state key of an installation. One that was wrapped before
// all rows had seals it gives in the present form; nil for any other.
func openStateKey(ctx context.Context, ring Keyring, in *Installation) (again []byte, err error) {
	err = ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey)
	if fault.CodeOf(err) != fault.Tampered {
		return nil, err
	}
	again, early := ring.OpenEarlyStateKey(ctx, in.ID, in.WrappedStateKey)
	if early != nil {
		return nil, err
	}
	return again, nil
}
