package appliance

import (
	"context"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// A move of the state has one moment at which the new place begins to count, and the old one
// ends to: Moved has the HSM name the new one, and then the rows of the old one are renamed.
// Before it, all that was done is done once more from the old place. After it, FinishMove does
// what is left, as often as it is called.

// Moved makes the owner of its installation an appliance whose store has the rows of another
// copy as they are, which was verified: they are sealed, in a fleet as the first change of its
// log, and the HSM names a new incarnation. So the copy of before does not start again.
// Blocked is what is blocked of everything, whatever the rows say. The appliance must have no
// anchor, so that the copy of before is as good as it was until the HSM names this one; nobody
// joins it before FinishMove. Errors: those of the HSM, the store and the log.
func (l *Lifecycle) Moved(ctx context.Context, ring Keyring, blocked Block) error {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return err
	}
	early, err := openStateKey(ctx, ring, in)
	if err != nil {
		return err
	}
	if early != nil {
		return fault.Errorf(fault.Conflict, "the state is of an earlier release: start the appliance once with this one, and move it then")
	}
	if err := l.openState(ctx, ring, in.ID, StateOptions{Seal: true}, true); err != nil {
		return err
	}
	defer l.closeState()
	if in.Blocked != blocked {
		if err := l.setBlocked(ctx, ring, blocked); err != nil {
			return err
		}
	}
	next, err := l.ownership.next(ctx, ring, in)
	if err != nil {
		return err
	}
	if err := l.ownership.keep(ctx, ring, in, next); err != nil {
		return err
	}
	return l.ownership.start(ctx, ring, in, true)
}

// FinishMove completes what Moved began, when the rows of before are out of the way: the rows
// get this machine's anchor, and in a fleet other nodes may join. It may be called again after
// an error or a crash. The rows must be those that the HSM names: fault.StateSuperseded.
// fault.Exists if the fleet's database has another installation meanwhile; those of the HSM,
// the store and the log.
func (l *Lifecycle) FinishMove(ctx context.Context, ring Keyring) (*StateReport, error) {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return nil, err
	}
	if err := ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey); err != nil {
		return nil, err
	}
	if err := l.openMoved(ctx, ring, in.ID); err != nil {
		return nil, err
	}
	defer l.closeState()
	if err := l.clearGround(ctx, ring, in.ID); err != nil {
		return nil, err
	}
	if l.replication != nil {
		if err := l.replication.found(ctx, &Founding{Installation: in.ID, WrappedStateKey: in.WrappedStateKey}); err != nil {
			return nil, err
		}
	}
	return l.store.CheckState(ctx)
}

// CheckMoved says whether the rows, which have no anchor yet, are those that Moved has sealed
// and the HSM names. fault.StateSuperseded, and those of a state that does not match.
func (l *Lifecycle) CheckMoved(ctx context.Context, ring Keyring) error {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return err
	}
	if err := ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey); err != nil {
		return err
	}
	if err := l.openNamed(ctx, ring, in.ID); err != nil {
		return err
	}
	l.closeState()
	return nil
}

// openNamed opens rows that match their manifests, and that the HSM names.
func (l *Lifecycle) openNamed(ctx context.Context, ring Keyring, installation string) error {
	if err := l.openState(ctx, ring, installation, StateOptions{}, false); err != nil {
		return err
	}
	if err := l.CheckStanding(ctx, ring); err != nil {
		l.closeState()
		return err
	}
	return nil
}

// openMoved opens rows that were moved, with this machine's anchor. That stands where the rows
// of before had it; these are accepted in their place if they name none.
func (l *Lifecycle) openMoved(ctx context.Context, ring Keyring, installation string) error {
	err := l.openNamed(ctx, ring, installation)
	anchor := l.anchor
	if anchor == nil || fault.CodeOf(err) != fault.StateRolledBack {
		return err
	}
	l.anchor = nil
	err = l.openNamed(ctx, ring, installation)
	l.anchor = anchor
	if err != nil {
		return err
	}
	l.closeState()
	return l.openState(ctx, ring, installation, StateOptions{Seal: l.replication == nil}, true)
}

// CheckStanding says whether the HSM names this copy of the installation, whose rows are open, as
// the owner, or names none because the configuration wants it so. fault.StateSuperseded;
// fault.Conflict.
func (l *Lifecycle) CheckStanding(ctx context.Context, ring Keyring) error {
	if err := l.own(ctx, ring, false); err != nil {
		return err
	}
	if s := l.Installation(); s.Standing == StandingCopy {
		return fault.Errorf(fault.Conflict, "%s. Move that one; or make this one the owner first: start it, and call holdfast installation takeover --reason TEXT", s.Detail)
	}
	return nil
}

// clearGround removes from the HSM what nodes of the log of before have left there. What nodes of
// this log have left stays: FinishMove may be called again when they run already.
func (l *Lifecycle) clearGround(ctx context.Context, ring Keyring, installation string) error {
	if l.ownership.unkept {
		return nil
	}
	var origin string
	if l.replication != nil {
		var err error
		if origin, err = l.store.Origin(ctx); err != nil {
			return err
		}
	}
	all, err := ring.SealedObjects(ctx, ReachAny)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Installation != installation || o.Purpose != ObjectPosition && o.Purpose != ObjectReliance || ring.Verify(o.Binding(), o.Seal) != nil {
			continue
		}
		if l.replication != nil && len(o.Fields) > 0 && o.Fields[0] == origin {
			continue
		}
		if err := ring.RemoveSealedObject(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// retired is the reason of a block by Retire, up to its end of line, which no other reason can
// have. What was blocked before follows, so that a move that is done again knows it: when, and
// why.
const retired = "moved to a single appliance by holdfastd state move\n"

// Retire blocks everything in the state of a fleet that is moved elsewhere, so that nodes
// that still run stop to serve, and gives what was blocked before. The rows must be open. What
// a Retire of before has blocked it leaves as it is.
func (l *Lifecycle) Retire(ctx context.Context, ring Keyring) (was Block, err error) {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return was, err
	}
	if err := ring.Verify(in.Blocked.Binding(in.ID), in.BlockSeal); err != nil {
		return was, err
	}
	if before, is := strings.CutPrefix(in.Blocked.Reason, retired); is {
		return blockedBefore(before)
	}
	reason := retired
	if was = in.Blocked; !was.IsZero() {
		reason += was.Since.UTC().Format(time.RFC3339Nano) + " " + was.Reason
	}
	return was, l.setBlocked(ctx, ring, Block{Reason: reason, Since: l.stamp()})
}

// blockedBefore reads what Retire has written of a block.
func blockedBefore(text string) (b Block, err error) {
	if text == "" {
		return b, nil
	}
	since, reason, _ := strings.Cut(text, " ")
	if b.Since, err = time.Parse(time.RFC3339Nano, since); err != nil {
		return Block{}, fault.Wrapf(fault.Internal, err, "what was blocked before the move cannot be read")
	}
	b.Reason = reason
	return b, nil
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
