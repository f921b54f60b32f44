package appliance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// TokenObject is the note of a key object in the token that no key owns: one that
// is about to be made, or whose key was deleted. What is still noted after a crash
// is destroyed at the next start, which cannot be undone. So a note counts only
// with its seal, and only while no key version names the object.
type TokenObject struct {
	// Label is the object's label in the token.
	Label string
	// KeyStore (its ID), KeyID and Version name the key version that the object was
	// made for.
	KeyStore, KeyID string
	Version         uint32
	// Seal authenticates the note under the state key.
	Seal []byte
	// Unmatched says that the state's manifest has no such note.
	Unmatched bool
}

// Binding names the note, in the database of one installation.
func (o *TokenObject) Binding(installation string) Binding {
	return Binding{Purpose: "token-object", Fields: []string{installation, o.Label, o.KeyStore, o.KeyID, bindUint(uint64(o.Version))}}
}

// label is the object's label; empty for none.
func (o *TokenObject) label() string {
	if o == nil {
		return ""
	}
	return o.Label
}

// newTokenObject gives the sealed note of an object of the version. It is not
// stored yet.
func (a *Administration) newTokenObject(ctx context.Context, ring Keyring, label string, v *KeyVersion) (*TokenObject, error) {
	in, err := a.store.Installation(ctx)
	if err != nil {
		return nil, err
	}
	o := &TokenObject{Label: label, KeyStore: v.KeyStore, KeyID: v.KeyID, Version: v.Version}
	o.Seal, err = ring.Seal(o.Binding(in.ID), nil)
	return o, err
}

// undoTokenObjects destroys the objects of key versions that could not be stored;
// nil is for none. First the notes are stored once more: a database whose disk failed in
// the middle of a commit may have the versions after all. It refuses every further
// change, and the next start finds either the version or the note.
func (a *Administration) undoTokenObjects(ctx context.Context, ring Keyring, objects ...*TokenObject) {
	objects = slices.DeleteFunc(slices.Clone(objects), func(o *TokenObject) bool { return o == nil })
	if len(objects) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	if err := a.store.NoteTokenObjects(ctx, objects...); err != nil {
		a.log.Warn("whether a key that could not be made is stored is unknown; its key object in the token is looked at again at the next start", "objects", labels(objects), "error", err)
		return
	}
	a.destroyTokenObjects(ctx, ring, objects)
}

// DestroyWait is how long an object waits for its destruction, from when this copy of
// the installation was first seen to be the owner: another copy that takes over
// meanwhile is seen by then.
const DestroyWait = 10 * time.Minute

// awaited is when an object was first found that is to be destroyed, and the run under
// which this copy was the owner then.
type awaited struct {
	since time.Time
	run   string
	// recorded says that the destruction is on record.
	recorded bool
}

// destroyTime bounds the destruction of one object in the HSM.
const destroyTime = 10 * time.Second

// destroyTokenObjects destroys the objects of stored notes, and strikes the notes
// out. It is the only place where the token's objects are destroyed. A note is
// passed over if it does not match its seal, or if a key version names its object;
// and none is acted on if that cannot be told, or if this copy of the installation is
// not the owner. An object is destroyed at the first call that comes [DestroyWait] after
// the one that found it, if the owner is the same. The caller holds a.admin.
func (a *Administration) destroyTokenObjects(ctx context.Context, ring Keyring, notes []*TokenObject) {
	sealed := a.sealedNotes(ctx, ring, notes)
	if len(sealed) == 0 {
		return
	}
	run, err := a.ownership.owns(ctx, ring)
	if err != nil {
		a.awaited = nil
		if fault.CodeOf(err) != fault.Conflict || a.ownership.State().Ownership == OwnershipOwner {
			a.log.Warn("no key object in the token is destroyed: which copy of the installation is the owner could not be read; it is tried again", "objects", labels(sealed), "error", err)
		}
		return
	}
	due := a.due(sealed, run)
	if len(due) == 0 {
		return
	}
	owned, err := ownedTokenObjects(ctx, a.store, ring)
	if err != nil && a.isNews("unknown", err.Error()+labels(sealed)) {
		a.log.Error("no key object in the token is destroyed: which of them keys need is unknown, as long as a key version does not open", "objects", labels(sealed), "error", err)
	}
	if err != nil {
		return
	}
	for _, o := range due {
		if again, err := a.ownership.owns(ctx, ring); err != nil || again != run {
			a.log.Warn("a key object in the token is not destroyed: the owner of the installation has changed, or could not be read", "object", o.Label, "error", err)
			return
		}
		if err := a.destroyTokenObject(ctx, ring, o, owned[o.Label]); err != nil && a.isNews("kept "+o.Label, err.Error()) {
			a.log.Warn("a key object in the token is to be destroyed and could not be; it is tried again", "object", o.Label, "error", err)
		}
	}
}

// isNews says whether something is said for the first time, or says something else than
// before: what is tried every minute is not in the log every minute.
func (a *Administration) isNews(what, said string) bool {
	if a.said[what] == said {
		return false
	}
	if a.said == nil {
		a.said = map[string]string{}
	}
	a.said[what] = said
	return true
}

// due gives the notes whose objects have waited long enough, under this run.
func (a *Administration) due(notes []*TokenObject, run string) (due []*TokenObject) {
	now := a.now()
	if a.awaited == nil {
		a.awaited = map[string]awaited{}
	}
	var found []*TokenObject
	for _, o := range notes {
		w, ok := a.awaited[o.Label]
		if !ok || w.run != run {
			a.awaited[o.Label] = awaited{since: now, run: run}
			found = append(found, o)
		} else if now.Sub(w.since) >= DestroyWait {
			due = append(due, o)
		}
	}
	if len(found) > 0 {
		a.log.Info("key objects in the token that no key needs are destroyed after a wait", "objects", labels(found), "wait", DestroyWait)
	}
	return due
}

func (a *Administration) destroyTokenObject(ctx context.Context, ring Keyring, o *TokenObject, owned bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTime)
	defer cancel()
	if err := checkVersionOf(ctx, a.store, ring, o); err != nil {
		return err
	}
	if owned {
		a.log.Error("a key object in the token was noted for destruction, and a key needs it: it is kept, and the note is removed", "object", o.Label)
		delete(a.awaited, o.Label)
		return a.store.StrikeTokenObject(ctx, o.Label, o.Seal)
	}
	if err := a.recordDestruction(ctx, o); err != nil {
		return err
	}
	if err := ring.DestroyTokenObject(ctx, o.Label); err != nil {
		return err
	}
	delete(a.awaited, o.Label)
	a.log.Info("a key object in the token was destroyed: no key needs it", "object", o.Label, "key_store_id", o.KeyStore, "key_id", o.KeyID, "version", o.Version)
	return a.store.StrikeTokenObject(ctx, o.Label, o.Seal)
}

// recordDestruction has it recorded that an object is destroyed, once: the destruction is
// tried again for as long as the HSM is away.
func (a *Administration) recordDestruction(ctx context.Context, o *TokenObject) error {
	w := a.awaited[o.Label]
	if w.recorded {
		return nil
	}
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return err
	}
	name := o.KeyStore
	for _, s := range stores {
		if s.ID == o.KeyStore {
			name = s.Name
		}
	}
	if err := a.destroying(ctx, name, o); err != nil {
		return err
	}
	w.recorded = true
	a.awaited[o.Label] = w
	return nil
}

// sealedNotes gives those of the notes that match their seal. The others are left
// alone, and named in one line of the log.
func (a *Administration) sealedNotes(ctx context.Context, ring Keyring, notes []*TokenObject) []*TokenObject {
	if len(notes) == 0 {
		return nil
	}
	in, err := a.store.Installation(ctx)
	if err != nil {
		a.log.Error("no key object in the token is destroyed: the installation cannot be read", "error", err)
		return nil
	}
	var sealed, other []*TokenObject
	for _, o := range notes {
		if err := ring.Verify(o.Binding(in.ID), o.Seal); err != nil || o.Unmatched {
			other = append(other, o)
		} else {
			sealed = append(sealed, o)
		}
	}
	if len(other) > 0 && a.isNews("unsealed", labels(other)) {
		a.log.Error("key objects in the token are noted for destruction without a seal of this appliance, and are left alone: the database was changed by hand, or an earlier version noted them; "+
			"compare the objects with those that your keys need, and destroy what is left over by the HSM's own means", "objects", labels(other))
	}
	return sealed
}

// maxLabels bounds how many labels a line of the log names.
const maxLabels = 10

func labels(notes []*TokenObject) string {
	var names []string
	for i, o := range notes {
		if i == maxLabels {
			names = append(names, fmt.Sprintf("and %d more", len(notes)-i))
			break
		}
		names = append(names, fmt.Sprintf("%.80q", o.Label))
	}
	return strings.Join(names, ", ")
}

// ownedTokenObjects gives the labels of the token's objects that key versions name,
// in all key stores. Errors: fault.Tampered if a version does not open that may be in
// the token; then nobody can say which object it names.
func ownedTokenObjects(ctx context.Context, st KeyRows, ring Keyring) (map[string]bool, error) {
	versions, err := st.VersionsInToken(ctx)
	if err != nil {
		return nil, err
	}
	owned := make(map[string]bool, len(versions))
	for _, v := range versions {
		label, err := ring.TokenObject(v)
		if err == nil && label == "" {
			err = fault.Errorf(fault.Tampered, "it is neither a key in the appliance's memory nor one in the HSM")
		}
		if err != nil {
			return nil, &fault.Fault{Code: fault.Tampered, Err: err,
				Message: fmt.Sprintf("version %d of key %q in key store %s does not open: its row was changed by hand or is damaged; holdfast restore --verify of a new backup names such rows, and how to discard them", v.Version, v.KeyID, v.KeyStore)}
		}
		owned[label] = true
	}
	return owned, nil
}

// checkVersionOf says whether the key version that an object was made for is whole,
// if there is one. One that was edited so that it seems to name no object, or
// removed from its key, may be the owner.
func checkVersionOf(ctx context.Context, st KeyRows, ring Keyring, o *TokenObject) error {
	k, err := st.Key(ctx, o.KeyStore, o.KeyID)
	if fault.CodeOf(err) == fault.NotFound {
		return nil
	}
	if err == nil {
		err = checkKey(ring, k, o.KeyStore, o.KeyID)
	}
	if err != nil || o.Version > k.CurrentVersion { // that one was never stored
		return err
	}
	v := k.version(o.Version)
	if v == nil {
		return fault.Errorf(fault.Tampered, "key %q lacks its version %d", o.KeyID, o.Version)
	}
	u, err := ring.Unlock(v)
	if err != nil {
		return err
	}
	u.Wipe()
	return nil
}

// DestroyLeftovers destroys the token's objects that no key owns, of keys that were
// deleted, or not finished when the process ended: at the first call that comes ten
// minutes after the one that found them. Run calls it at the start and every minute. For
// one noted object, with 1,000,000 cached keys and 100 in a SoftHSM2 token, it takes
// about 10 ms, as with no cached keys at all: an index has the versions that may be in
// the token, and only those are read and opened.
func (a *Administration) DestroyLeftovers(ctx context.Context) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return
	}
	notes, err := a.store.TokenObjects(ctx)
	if err != nil {
		a.log.Warn("the list of token objects to destroy cannot be read", "error", err)
		return
	}
	noted := make(map[string]bool, len(notes))
	for _, o := range notes {
		noted[o.Label] = true
	}
	maps.DeleteFunc(a.awaited, func(label string, _ awaited) bool { return !noted[label] })
	a.destroyTokenObjects(ctx, v.ring, notes)
}
