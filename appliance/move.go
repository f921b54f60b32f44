package appliance

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// A move of the state has one moment at which the new place begins to count, and the old one
// ends to: Moved has the HSM name the new one, and then the rows of the old one are renamed.
// Before it, all that was done is done once more from the old place. After it, FinishMove does
// what is left, as often as it is called.

// MovedFrom is what a move knows of the rows of before, once it has taken them.
type MovedFrom struct {
	// Blocked is what was blocked of everything.
	Blocked Block
	Anchor  AnchorCount
}

// AnchorCount is where the anchor of a state stands; zero without one.
type AnchorCount struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// AnchorCount says where the anchor of the rows that are open stands. fault.StateAnchor.
func (l *Lifecycle) AnchorCount(ctx context.Context) (at AnchorCount, err error) {
	a := l.anchoring()
	if a == nil {
		return at, nil
	}
	count, made, err := a.count(ctx)
	if err == nil && made {
		at = AnchorCount{a.anchor.Name(), count}
	}
	return at, err
}

// keepMovedFrom notes in the rows, which are open, where the anchor of those of before stands.
func (l *Lifecycle) keepMovedFrom(ctx context.Context, at AnchorCount) error {
	text, err := json.Marshal(at)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "where the anchor stands cannot be written")
	}
	was, err := l.settings.store.Setting(ctx, SettingMoved)
	if fault.CodeOf(err) == fault.NotFound {
		was, err = nil, nil
	}
	if err != nil || was != nil && was.Value == string(text) {
		return err
	}
	return l.settings.store.SetSetting(ctx, &SettingRow{Name: SettingMoved, Value: string(text)}, was)
}

// isMovedFrom says whether the anchor stands where it did when the rows, which are open, were
// moved: then nothing has come after them.
func (l *Lifecycle) isMovedFrom(ctx context.Context, anchor Anchor) (bool, error) {
	row, err := l.settings.store.Setting(ctx, SettingMoved)
	if fault.CodeOf(err) == fault.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var at AnchorCount
	if err := json.Unmarshal([]byte(row.Value), &at); err != nil {
		return false, fault.Wrapf(fault.Internal, err, "where the anchor stood when the state was moved cannot be read")
	}
	count, err := anchor.Count(ctx)
	return at == AnchorCount{anchor.Name(), count}, err
}

// Moved makes the owner of its installation an appliance whose store has the rows of another
// copy as they are, which was verified: they are sealed, in a fleet as the first change of its
// log, and the HSM names a new incarnation. So the copy of before does not start again.
// What is blocked of everything is what from says, whatever the rows say. The appliance must have no
// anchor, so that the copy of before is as good as it was until the HSM names this one; nobody
// joins it before FinishMove. Errors: those of the HSM, the store and the log.
func (l *Lifecycle) Moved(ctx context.Context, ring Keyring, from MovedFrom) error {
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
	if in.Blocked != from.Blocked {
		if err := l.setBlocked(ctx, ring, from.Blocked); err != nil {
			return err
		}
	}
	if err := l.keepMovedFrom(ctx, from.Anchor); err != nil {
		return err
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
// and the HSM names. The rows of before have been opened once more, which has raised the anchor to
// at: that is noted. fault.StateSuperseded, and those of a state that does not match.
func (l *Lifecycle) CheckMoved(ctx context.Context, ring Keyring, at AnchorCount) error {
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
	defer l.closeState()
	return l.keepMovedFrom(ctx, at)
}

// openNamed opens rows that match their manifests, and that the HSM names.
func (l *Lifecycle) openNamed(ctx context.Context, ring Keyring, installation string) error {
	if err := l.openState(ctx, ring, installation, StateOptions{}, false); err != nil {
		return err
	}
	if err := l.CheckOwnership(ctx, ring); err != nil {
		l.closeState()
		return err
	}
	return nil
}

// openMoved opens rows that were moved, with this machine's anchor. They name none yet, and are
// accepted if the anchor stands where it did when they were moved. If it stands elsewhere, they have
// served since, and were put back.
func (l *Lifecycle) openMoved(ctx context.Context, ring Keyring, installation string) error {
	err := l.openNamed(ctx, ring, installation)
	anchor := l.anchor
	if anchor == nil || fault.CodeOf(err) != fault.StateRolledBack {
		return err
	}
	l.anchor = nil
	failed := l.openNamed(ctx, ring, installation)
	l.anchor = anchor
	switch fault.CodeOf(failed) {
	case "":
	case fault.Conflict: // a copy of the owner, which the anchor knows to be an earlier one
		return err
	default:
		return failed
	}
	is, failed := l.isMovedFrom(ctx, anchor())
	l.closeState()
	if failed != nil {
		return failed
	}
	if !is {
		return err
	}
	return l.openState(ctx, ring, installation, StateOptions{Seal: l.replication == nil}, true)
}

// CheckOwnership says whether the HSM names this copy of the installation, whose rows are open, as
// the owner, or names none because the configuration wants it so. fault.StateSuperseded;
// fault.Conflict.
func (l *Lifecycle) CheckOwnership(ctx context.Context, ring Keyring) error {
	if err := l.own(ctx, ring, false); err != nil {
		return err
	}
	if s := l.Installation(); s.Ownership == OwnershipCopy {
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
// have. What was blocked before follows, so that a move that is done again knows it: when, why, and
// after an end of line by whom.
const retired = "moved to a single appliance by holdfastd state move\n"

// Retired says whether it is the block of a state that is moved elsewhere: that takes no change
// any more.
func (b Block) Retired() bool { return strings.HasPrefix(b.Reason, retired) }

// Retire blocks everything in the state of a fleet that is moved elsewhere, so that nodes
// that still run stop to serve and take no change any more, and gives what was blocked before. The rows must be open. What
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
		if was.By != "" {
			reason += "\n" + was.By
		}
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
	b.Reason, b.By, _ = strings.Cut(reason, "\n")
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
