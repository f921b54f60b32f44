package fleet

import (
	"context"
	"log/slog"
	"slices"
	"strconv"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// TokenGround is the [Ground] over the log in the database and sealed objects in the HSM's
// token. It is for one unlock: make another with the next keyring.
//
// Of several HSMs more than half must be there, both to write and to read, so that whoever
// reads sees what was written; all nodes must have the same HSMs in their configuration.
// Where too few are there, every method fails, and a node proves nothing.
//
// No object is written twice under one label. What a call of before may still do in the HSM
// after an error is so one of two things: it creates an object that is true anyway, or
// removes one that nobody counts on any more. In this process there is no such call: all
// calls that change the token are waited for, however long the HSM takes, also if ctx ends.
type TokenGround struct {
	o TokenGroundOptions
	// reliance is this node's reliance as this process has created it, or tries to; nil
	// if it did not, or has begun to remove it. Created says that it is in the token.
	reliance *appliance.SealedObject
	created  bool
	// position is the last that this process has created, or tried to, and posted what it says.
	position *appliance.SealedObject
	posted   appliance.Position
	// told are the objects that the log names already as not sealed.
	told map[string]bool
}

// TokenGroundOptions are what a [TokenGround] works with. All are needed.
type TokenGroundOptions struct {
	Ring         appliance.Keyring
	Changes      appliance.ChangeLog
	Installation string
	// Origin is the ID of the log ([appliance.StateRows.Origin]): what was left in the token by nodes of
	// another log of this installation counts for nothing.
	Origin string
	// Node is the ID of this node.
	Node string
	// CheckOwner says whether this copy of the installation is the owner now.
	CheckOwner func(context.Context, appliance.Keyring) error
	Log        *slog.Logger
}

var _ Ground = (*TokenGround)(nil)

// NewTokenGround makes a ground. It does nothing in the token yet.
func NewTokenGround(o TokenGroundOptions) *TokenGround {
	return &TokenGround{o: o, told: map[string]bool{}}
}

// Read implements [Ground]. A reliance that a process before this one has left does not
// count: its removal may have begun.
func (g *TokenGround) Read(ctx context.Context) ([]appliance.Position, error) {
	if err := g.rely(ctx); err != nil {
		return nil, err
	}
	newest, err := g.o.Changes.Newest(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.o.CheckOwner(ctx, g.o.Ring); err != nil {
		return nil, err
	}
	objects, err := g.objects(ctx)
	if err != nil {
		return nil, err
	}
	if g.created = objects.has(g.reliance); !g.created {
		g.reliance = nil
		return nil, fault.Errorf(fault.Conflict, "the reliance of this node is not in the HSM any more: another node, or somebody with the PIN, has removed it; it is created again at the next reading")
	}
	g.removeEarlier(ctx, objects)
	return append(objects.all(nil), appliance.Position{Number: newest}), nil
}

// removeEarlier removes what processes before this one have left, now that this node's
// reliance is there.
func (g *TokenGround) removeEarlier(ctx context.Context, objects groundObjects) {
	for _, r := range objects.reliances {
		if r.Fields[1] != g.o.Node || r.Label == g.reliance.Label {
			continue
		}
		if err := g.remove(ctx, r); err != nil { // it makes changes wait, and nothing worse
			g.o.Log.Warn("an earlier reliance of this node could not be removed from the HSM; the next reading tries again", "object", r.Label, "error", err)
		}
	}
}

// rely puts this node's reliance into the token.
func (g *TokenGround) rely(ctx context.Context) (err error) {
	if g.created {
		return nil
	}
	if g.reliance == nil {
		if g.reliance, err = appliance.NewSealedObject(g.o.Ring, appliance.ObjectReliance, g.o.Installation, g.o.Origin, g.o.Node); err != nil {
			return err
		}
	}
	return g.create(ctx, g.reliance)
}

// Release implements [Ground]. It removes what processes before this one have left as well.
func (g *TokenGround) Release(ctx context.Context) error { return g.Forget(ctx, g.o.Node) }

// Forget implements [Ground].
func (g *TokenGround) Forget(ctx context.Context, ids ...string) error {
	if slices.Contains(ids, g.o.Node) {
		g.reliance, g.created = nil, false
	}
	objects, err := g.objects(ctx)
	if err != nil {
		return err
	}
	for _, r := range objects.reliances {
		if slices.Contains(ids, r.Fields[1]) {
			if err := g.remove(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Post implements [Ground].
func (g *TokenGround) Post(ctx context.Context, at appliance.Position, covered func(appliance.Position) bool) (others []appliance.Position, relying []string, err error) {
	if g.position == nil || g.posted != at {
		if g.position, err = appliance.NewSealedObject(g.o.Ring, appliance.ObjectPosition, g.o.Installation, g.o.Origin, strconv.FormatUint(at.Number, 10), at.Digest); err != nil {
			return nil, nil, err
		}
		g.posted = at
	}
	if err := g.create(ctx, g.position); err != nil {
		return nil, nil, err
	}
	objects, err := g.objects(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !objects.has(g.position) {
		g.position = nil
		return nil, nil, fault.Errorf(fault.Conflict, "the position that this node has put into the HSM is not there: another node has put a later one there, or somebody with the PIN has removed it; it is tried again")
	}
	for _, r := range objects.reliances {
		relying = append(relying, r.Fields[1])
	}
	slices.Sort(relying)
	for _, p := range objects.positions {
		if p.object.Label == g.position.Label || !covered(p.Position) {
			continue
		}
		if err := g.remove(ctx, p.object); err != nil { // it is true, and one too many
			g.o.Log.Warn("an earlier position could not be removed from the HSM; the next change tries again", "object", p.object.Label, "change", p.Number, "error", err)
		}
	}
	return objects.all(g.position), slices.Compact(relying), nil
}

// create puts an object into the token. What fails may be tried again with the same.
func (g *TokenGround) create(ctx context.Context, o *appliance.SealedObject) error {
	if err := inTime(ctx); err != nil {
		return err
	}
	return g.o.Ring.CreateSealedObject(context.WithoutCancel(ctx), o, appliance.ReachMost)
}

// remove removes an object of this installation that matches its seal.
func (g *TokenGround) remove(ctx context.Context, o *appliance.SealedObject) error {
	if err := inTime(ctx); err != nil {
		return err
	}
	return g.o.Ring.RemoveSealedObject(context.WithoutCancel(ctx), o)
}

// inTime is the error of a token that is not asked any more.
func inTime(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrapf(fault.Timeout, err, "the HSM was not asked: there is no time left")
	}
	return nil
}

// groundObjects are the objects of this installation that match their seal.
type groundObjects struct {
	positions []positionObject
	reliances []*appliance.SealedObject
}

type positionObject struct {
	appliance.Position
	object *appliance.SealedObject
}

// objects reads them afresh.
func (g *TokenGround) objects(ctx context.Context) (all groundObjects, err error) {
	if err := inTime(ctx); err != nil {
		return all, err
	}
	found, err := appliance.ReadSealedObjects(ctx, g.o.Ring, g.o.Installation, appliance.ReachMost, g.tell, appliance.ObjectPosition, appliance.ObjectReliance)
	if err != nil {
		return all, err
	}
	for _, o := range found {
		if len(o.Fields) == 0 || o.Fields[0] != g.o.Origin { // all forms begin with the log
			continue
		}
		if o.Purpose == appliance.ObjectReliance && len(o.Fields) == 2 {
			all.reliances = append(all.reliances, o)
			continue
		}
		p, err := readPosition(o)
		if err != nil {
			return all, err
		}
		all.positions = append(all.positions, p)
	}
	return all, nil
}

// readPosition reads an object that matches its seal, so it is one that a node has written.
func readPosition(o *appliance.SealedObject) (p positionObject, err error) {
	p.object = o
	if o.Purpose == appliance.ObjectPosition && len(o.Fields) == 3 && o.Fields[2] != "" {
		if p.Number, err = strconv.ParseUint(o.Fields[1], 10, 64); err == nil {
			p.Digest = o.Fields[2]
			return p, nil
		}
	}
	return p, fault.Errorf(fault.Internal, "the %s object %s in the HSM is of a form that this release does not know: a later release wrote it. Run the same release on all nodes", o.Purpose, o.Label)
}

// tell names an object in the log once.
func (g *TokenGround) tell(o *appliance.SealedObject) {
	name := o.Label + "\x00" + string(o.Value)
	if g.told[name] {
		return
	}
	if len(g.told) > maxTold {
		clear(g.told)
	}
	g.told[name] = true
	appliance.TellUnsealed(g.o.Log, o)
}

// maxTold bounds how many objects are remembered as named in the log.
const maxTold = 1000

// has says whether an object is among them.
func (all *groundObjects) has(o *appliance.SealedObject) bool {
	same := func(other *appliance.SealedObject) bool {
		return other.Label == o.Label && string(other.Value) == string(o.Value)
	}
	return slices.ContainsFunc(all.reliances, same) || slices.ContainsFunc(all.positions, func(p positionObject) bool { return same(p.object) })
}

// all gives the positions but that of one object.
func (all *groundObjects) all(but *appliance.SealedObject) (positions []appliance.Position) {
	for _, p := range all.positions {
		if but == nil || p.object.Label != but.Label {
			positions = append(positions, p.Position)
		}
	}
	return positions
}
