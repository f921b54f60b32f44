package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"

	"holdfast/appliance/fault"
)

// Of one installation there may be several copies: a restored backup, a copied volume,
// a drill. They have the same keys, and the same objects in the HSM. One of them is the
// owner: it alone destroys objects in the HSM. Which one that is stands in the HSM, in
// the installation object, which all copies see.

// Incarnation says which copy of an installation a database is. It rests in the row of
// the installation, sealed under the state key.
type Incarnation struct {
	// ID is 32 hexadecimal digits, new at each restore and at each takeover.
	ID string `json:"id"`
	// Epoch rises by one at each takeover, from 1. It is 0 in a drill.
	Epoch uint64 `json:"epoch"`
	// Start counts the starts of the owner, in an epoch. Run is 32 hexadecimal digits,
	// new at each of them: of two copies with the same incarnation, the one that starts
	// first goes on as the owner.
	Start uint64 `json:"start"`
	Run   string `json:"run"`
	// Made says that the HSM has the object of this run. Until then Before is the run
	// that it replaces; empty for none.
	Made   bool   `json:"made"`
	Before string `json:"before,omitempty"`
	// Drill says that it is a copy for practice, which never changes anything in the HSM.
	Drill bool `json:"drill,omitempty"`
}

// incarnationBinding names the incarnation, as it is stored, in the row of its
// installation.
func incarnationBinding(installation, stored string) Binding {
	return Binding{Purpose: "incarnation", Fields: []string{installation, stored}}
}

// incarnation reads the incarnation of an installation; the zero one if it was made
// before there were any. fault.Tampered.
func (in *Installation) incarnation(ring Keyring) (i Incarnation, err error) {
	if in.Incarnation == "" && in.IncarnationSeal == nil {
		return i, nil
	}
	if err := ring.Verify(incarnationBinding(in.ID, in.Incarnation), in.IncarnationSeal); err != nil {
		return i, err
	}
	if err := json.Unmarshal([]byte(in.Incarnation), &i); err != nil {
		return i, fault.Wrapf(fault.Internal, err, "the incarnation of the installation cannot be read")
	}
	return i, nil
}

// setIncarnation puts the sealed incarnation into the row.
func (in *Installation) setIncarnation(ring Keyring, i Incarnation) error {
	text, err := json.Marshal(i)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the incarnation of the installation cannot be written")
	}
	seal, err := ring.Seal(incarnationBinding(in.ID, string(text)), nil)
	if err != nil {
		return err
	}
	in.Incarnation, in.IncarnationSeal = string(text), seal
	return nil
}

// newIncarnation gives one that nobody has yet.
func newIncarnation(epoch uint64) Incarnation { return Incarnation{ID: newID(), Epoch: epoch} }

// InstallationObject is what the sealed object in the HSM says that names the owner of an
// installation. Without it nobody is the owner until a takeover.
type InstallationObject struct {
	Incarnation string
	Epoch       uint64
	Start       uint64
	Run         string

	sealed *SealedObject
}

// fields are what its sealed object says.
func (o *InstallationObject) fields() []string {
	return []string{o.Incarnation, bindUint(o.Epoch), bindUint(o.Start), o.Run}
}

// readInstallationObject is the reverse of fields.
func readInstallationObject(s *SealedObject) *InstallationObject {
	epoch, _ := strconv.ParseUint(s.Fields[1], 10, 64) // fields has written it
	start, _ := strconv.ParseUint(s.Fields[2], 10, 64)
	return &InstallationObject{Incarnation: s.Fields[0], Epoch: epoch, Start: start, Run: s.Fields[3], sealed: s}
}

// Ownership says what a copy of an installation may do.
type Ownership string

// The kinds of ownership.
const (
	// OwnershipOwner: it serves, and it alone destroys objects in the HSM.
	OwnershipOwner Ownership = "owner"
	// OwnershipCopy: it serves; another copy with the same incarnation is the owner, or it
	// cannot be told.
	OwnershipCopy Ownership = "copy"
	// OwnershipDrill: it serves, and changes nothing in the HSM.
	OwnershipDrill Ownership = "drill"
	// OwnershipUnkept: it serves. The configuration keeps no installation object, so
	// nobody destroys anything in the HSM.
	OwnershipUnkept Ownership = "unkept"
	// OwnershipSuperseded: locked; another incarnation is the owner.
	OwnershipSuperseded Ownership = "superseded"
	// OwnershipMissing: locked; the database has no installation, and there are traces of
	// one.
	OwnershipMissing Ownership = "missing"
)

// InstallationState is which copy of the installation this appliance is.
type InstallationState struct {
	ID          string    `json:"id,omitempty" jsonschema:"The ID of the installation, to which all copies of a state belong."`
	Ownership   Ownership `json:"ownership,omitempty" jsonschema:"Which copy of the installation this appliance is. Only the owner destroys keys in the HSM."`
	Incarnation string    `json:"incarnation,omitempty" jsonschema:"The ID of this copy."`
	Epoch       uint64    `json:"epoch,omitempty" jsonschema:"The number of the copy that owns the installation; it rises with each takeover."`
	// Detail says why it is not the owner; empty if it is.
	Detail string `json:"detail,omitempty" jsonschema:"Why this appliance is not the owner; absent if it is."`
}

// ownership says whether this copy of the installation is the owner, and makes it so.
type ownership struct {
	ground
	store  InstallationRows
	unkept bool // the configuration keeps no installation object
	// shared says that several nodes are this copy: one makes the object, the others join.
	shared bool

	mu    sync.Mutex
	state InstallationState
}

// reach is that of naming the owner, and of asking who it is: nodes of a fleet must see it
// of each other.
func (o *ownership) reach() Reach {
	if o.shared {
		return ReachMost
	}
	return ReachAny
}

// State gives the last that is known.
func (o *ownership) State() InstallationState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state
}

// say keeps the state, and logs it if it is another.
func (o *ownership) say(s InstallationState) {
	o.mu.Lock()
	before := o.state
	o.state = s
	o.mu.Unlock()
	if before == s {
		return
	}
	level := slog.LevelInfo
	if s.Ownership != OwnershipOwner {
		level = slog.LevelWarn
	}
	o.log.Log(context.Background(), level, "installation", "ownership", string(s.Ownership), "id", s.ID, "incarnation", s.Incarnation, "epoch", s.Epoch, "detail", s.Detail)
}

// objects gives the installation's objects that match their seal, the newest first, and
// how many of them are equally new. Others are named in the log, and count for nothing.
func (o *ownership) objects(ctx context.Context, ring Keyring, installation string, reach Reach) (all []*InstallationObject, newest int, err error) {
	tell := func(s *SealedObject) { TellUnsealed(o.log, s) }
	found, err := ReadSealedObjects(ctx, ring, installation, reach, tell, ObjectInstallation)
	if err != nil {
		return nil, 0, err
	}
	for _, s := range found {
		all = append(all, readInstallationObject(s))
	}
	slices.SortStableFunc(all, func(a, b *InstallationObject) int { return b.compare(a) })
	for newest < len(all) && all[newest].compare(all[0]) == 0 {
		newest++
	}
	return all, newest, nil
}

// compare orders objects by how new they are.
func (o *InstallationObject) compare(other *InstallationObject) int {
	for _, pair := range [][2]uint64{{o.Epoch, other.Epoch}, {o.Start, other.Start}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// start finds out what this copy is, and makes the owner's object of this start.
// Starting is false where the appliance goes on after its lease ran out. Errors:
// fault.StateSuperseded; fault.HSMObject; those of the HSM and the store.
func (o *ownership) start(ctx context.Context, ring Keyring, in *Installation, starting bool) error {
	own, err := in.incarnation(ring)
	if fault.CodeOf(err) == fault.Tampered {
		why := DamagedRow{Kind: damagedKindCopy}.String() + " does not match its seal"
		o.say(InstallationState{ID: in.ID, Ownership: OwnershipSuperseded, Detail: why})
		return superseded(why)
	}
	if err != nil {
		return err
	}
	state := InstallationState{ID: in.ID, Incarnation: own.ID, Epoch: own.Epoch}
	switch {
	case own.Drill:
		state.Ownership, state.Detail = OwnershipDrill, "it was restored as a drill, and changes nothing in the HSM"
		o.say(state)
		return nil
	case o.unkept:
		state.Ownership, state.Detail = OwnershipUnkept, "hsm.no_installation_object is true in the configuration: nothing in the HSM is destroyed"
		o.say(state)
		return nil
	}
	all, newest, err := o.objects(ctx, ring, in.ID, ReachAny)
	if err != nil {
		return err
	}
	claims, why := own.claims(all, newest)
	switch {
	case why != "" && !claims:
		state.Ownership, state.Detail = OwnershipSuperseded, why
		o.say(state)
		return superseded(why)
	case !claims:
		state.Ownership, state.Detail = OwnershipCopy, "the HSM names another copy of this installation as the owner; objects in the HSM are left alone"
		o.say(state)
		return nil
	case own.Made && (o.shared || !starting):
		state.Ownership = OwnershipOwner
		o.say(state)
		return nil
	}
	if own.ID == "" {
		own = newIncarnation(1)
	}
	return o.claim(ctx, ring, in, own, all)
}

// claims says whether an incarnation is, or becomes, the owner: the HSM names it, or
// nobody yet. If not, and why is empty, it is a copy of the owner.
func (i Incarnation) claims(all []*InstallationObject, newest int) (claims bool, why string) {
	if len(all) == 0 {
		if i.Made {
			return false, "the HSM has no installation object of this installation any more: it was removed, or this HSM was restored from a backup of before"
		}
		return true, ""
	}
	top := all[0]
	same := slices.ContainsFunc(all[:newest], func(o *InstallationObject) bool { return o.Incarnation == i.ID })
	switch {
	case same && newest == 1 && (top.Run == i.Run || (!i.Made && i.Before != "" && top.Run == i.Before)):
		return true, ""
	case same:
		return false, ""
	case i.ID != "" && !i.Made && i.Before == "" && top.Epoch < i.Epoch: // a takeover that was interrupted
		return true, ""
	case i.ID == "":
		return false, "the database was made by an earlier release, and the HSM names a later copy of it as the owner"
	}
	return false, fmt.Sprintf("the HSM names incarnation %s, epoch %d, as the owner, and this database is incarnation %s, epoch %d: another copy has taken over", top.Incarnation, top.Epoch, i.ID, i.Epoch)
}

func superseded(why string) *fault.Fault {
	return fault.Errorf(fault.StateSuperseded, "this copy of the installation does not serve: %s. If this copy is to be the one that counts, stop the other one and call holdfast installation takeover --reason TEXT", why)
}

// claim makes the object of a new run in the HSM, and removes those of before. Between
// its steps a crash leaves rows and objects of which the next start makes the same.
func (o *ownership) claim(ctx context.Context, ring Keyring, in *Installation, own Incarnation, all []*InstallationObject) error {
	next := own
	next.Run, next.Before, next.Made, next.Start = newID(), "", false, own.Start+1
	if len(all) > 0 && all[0].Incarnation == own.ID {
		next.Before, next.Start = all[0].Run, max(own.Start, all[0].Start)+1
	}
	if err := o.keep(ctx, ring, in, next); err != nil {
		if own.Made { // it is the owner as it was
			o.log.Warn("the start could not be noted; this copy goes on as the owner that it was", "error", err)
			o.say(InstallationState{ID: in.ID, Ownership: OwnershipOwner, Incarnation: own.ID, Epoch: own.Epoch})
			return nil
		}
		return err
	}
	object := &InstallationObject{Incarnation: next.ID, Epoch: next.Epoch, Start: next.Start, Run: next.Run}
	sealed, err := NewSealedObject(ring, ObjectInstallation, in.ID, object.fields()...)
	if err != nil {
		return err
	}
	if err := ring.CreateSealedObject(ctx, sealed, o.reach()); err != nil {
		return err
	}
	next.Before, next.Made = "", true
	if err := o.keep(ctx, ring, in, next); err != nil {
		return err
	}
	for _, old := range all {
		if err := ring.RemoveSealedObject(ctx, old.sealed); err != nil {
			o.log.Warn("an earlier installation object in the HSM could not be removed; it counts for nothing", "object", old.sealed.Label, "error", err)
		}
	}
	o.say(InstallationState{ID: in.ID, Ownership: OwnershipOwner, Incarnation: next.ID, Epoch: next.Epoch})
	return nil
}

// keep stores the incarnation in the row.
func (o *ownership) keep(ctx context.Context, ring Keyring, in *Installation, i Incarnation) error {
	was := in.IncarnationSeal
	next := *in
	if err := next.setIncarnation(ring, i); err != nil {
		return err
	}
	if err := o.store.SetIncarnation(ctx, next.Incarnation, next.IncarnationSeal, was); err != nil {
		return err
	}
	in.Incarnation, in.IncarnationSeal = next.Incarnation, next.IncarnationSeal
	return nil
}

// owns gives the run under which this copy is the owner now, read from the row and the
// HSM. The error says why it is not.
func (o *ownership) owns(ctx context.Context, ring Keyring) (run string, err error) {
	in, err := o.store.Installation(ctx)
	if err != nil {
		return "", err
	}
	own, err := in.incarnation(ring)
	if err != nil {
		return "", err
	}
	if own.Drill || o.unkept {
		return "", fault.Errorf(fault.Conflict, "%s", o.State().Detail)
	}
	all, newest, err := o.objects(ctx, ring, in.ID, o.reach())
	if err != nil {
		return "", err
	}
	if newest == 1 && own.Made && all[0].Incarnation == own.ID && all[0].Run == own.Run {
		return own.Run, nil
	}
	state := InstallationState{ID: in.ID, Ownership: OwnershipCopy, Incarnation: own.ID, Epoch: own.Epoch, Detail: "the HSM does not name this copy of the installation as the owner any more; objects in the HSM are left alone"}
	o.say(state)
	return "", fault.Errorf(fault.Conflict, "%s", state.Detail)
}

// next gives the incarnation that takes over from all there were.
func (o *ownership) next(ctx context.Context, ring Keyring, in *Installation) (Incarnation, error) {
	own, err := in.incarnation(ring)
	if err != nil && fault.CodeOf(err) != fault.Tampered { // the new one takes its place
		return Incarnation{}, err
	}
	epoch := own.Epoch
	if !o.unkept {
		all, _, err := o.objects(ctx, ring, in.ID, ReachAny)
		if err != nil {
			return Incarnation{}, err
		}
		if len(all) > 0 {
			epoch = max(epoch, all[0].Epoch)
		}
	}
	return newIncarnation(epoch + 1), nil
}
