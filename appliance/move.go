package appliance

import (
	"context"

	"holdfast/appliance/fault"
)

// Moved makes the owner of its installation an appliance whose store has the rows of another
// copy as they are, which was verified: they are sealed, in a fleet as the first change of its
// log, and the HSM names a new incarnation. So the copy of before does not start again.
// Blocked is what is blocked of everything, whatever the rows say. Nothing is served. Errors: fault.Exists if the fleet's database has an installation
// already; those of the HSM and the store.
func (l *Lifecycle) Moved(ctx context.Context, ring Keyring, blocked Block) (*StateReport, error) {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return nil, err
	}
	early, err := openStateKey(ctx, ring, in)
	if err != nil {
		return nil, err
	}
	if early != nil {
		return nil, fault.Errorf(fault.Conflict, "the state is of an earlier release: start the appliance once with this one, and move it then")
	}
	if l.replication != nil {
		if err := l.replication.log.Found(ctx, &Founding{Installation: in.ID, WrappedStateKey: in.WrappedStateKey}); err != nil {
			return nil, err
		}
	}
	if err := l.openState(ctx, ring, in.ID, StateOptions{Seal: true}, true); err != nil {
		return nil, err
	}
	defer l.closeState()
	if in.Blocked != blocked {
		if err := l.setBlocked(ctx, ring, blocked); err != nil {
			return nil, err
		}
	}
	next, err := l.ownership.next(ctx, ring, in)
	if err != nil {
		return nil, err
	}
	if err := l.ownership.keep(ctx, ring, in, next); err != nil {
		return nil, err
	}
	if err := l.ownership.start(ctx, ring, in, true); err != nil {
		return nil, err
	}
	if err := l.clearGround(ctx, ring, in.ID); err != nil {
		return nil, err
	}
	return l.store.CheckState(ctx)
}

// clearGround removes from the HSM what nodes of the log of before have left there: another
// log has other positions.
func (l *Lifecycle) clearGround(ctx context.Context, ring Keyring, installation string) error {
	if l.ownership.unkept {
		return nil
	}
	all, err := ring.SealedObjects(ctx, ReachAny)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Installation != installation || o.Purpose != ObjectPosition && o.Purpose != ObjectReliance || ring.Verify(o.Binding(), o.Seal) != nil {
			continue
		}
		if err := ring.RemoveSealedObject(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// Retire blocks everything in the state of a fleet that is moved elsewhere, so that nodes
// that still run stop to serve, and gives what was blocked before. The rows must be open.
func (l *Lifecycle) Retire(ctx context.Context, ring Keyring, reason string) (was Block, err error) {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return was, err
	}
	return in.Blocked, l.setBlocked(ctx, ring, Block{Reason: reason, Since: l.stamp()})
}

func (l *Lifecycle) setBlocked(ctx context.Context, ring Keyring, b Block) error {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return err
	}
	seal, err := ring.Seal(b.Binding(in.ID), nil)
	if err != nil {
		return err
	}
	return l.store.SetBlock(ctx, b, seal, in.BlockSeal)
}

// BlockedRow gives the block of everything. The rows must be open.
func (l *Lifecycle) BlockedRow(ctx context.Context) (Block, error) {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return Block{}, err
	}
	return in.Blocked, nil
}

// OpenRows opens the state key and the rows, and serves nothing: for tools that read and move
// them. CloseRows ends it.
func (l *Lifecycle) OpenRows(ctx context.Context, ring Keyring) error {
	return l.openAll(ctx, ring, false)
}

// CloseRows ends the use of rows that OpenRows has opened.
func (l *Lifecycle) CloseRows() { l.closeState() }
