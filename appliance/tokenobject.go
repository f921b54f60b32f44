package appliance

import (
	"context"
	"fmt"
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

// undoTokenObject destroys the object of a key version that could not be stored;
// nil for none. First the note is stored once more: a database whose disk failed in
// the middle of a commit may have the version after all. It refuses every further
// change, and the next start finds either the version or the note.
func (a *Administration) undoTokenObject(ctx context.Context, ring Keyring, o *TokenObject) {
	if o == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	if err := a.store.NoteTokenObject(ctx, o); err != nil {
		a.log.Warn("whether a key that could not be made is stored is unknown; its key object in the token is looked at again at the next start", "object", o.Label, "error", err)
		return
	}
	a.destroyTokenObjects(ctx, ring, []*TokenObject{o}, nil)
}

// destroyTime bounds the destruction of one object in the HSM.
const destroyTime = 10 * time.Second

// destroyTokenObjects destroys the objects of stored notes, and strikes the notes
// out. It is the only place where the token's objects are destroyed. A note is
// passed over if it does not match its seal, or if a key version names its object;
// and none is acted on if that cannot be told. Objects in keep stay, too. It gives
// the notes that remain.
func (a *Administration) destroyTokenObjects(ctx context.Context, ring Keyring, notes []*TokenObject, keep map[string]bool) (left []*TokenObject) {
	sealed := a.sealedNotes(ctx, ring, notes)
	if len(sealed) == 0 {
		return nil
	}
	owned, err := ownedTokenObjects(ctx, a.store, ring)
	if err != nil {
		a.log.Error("no key object in the token is destroyed: which of them keys need is unknown, as long as a key version does not open", "objects", labels(sealed), "error", err)
		return sealed
	}
	for _, o := range sealed {
		if keep[o.Label] {
			left = append(left, o)
			continue
		}
		if err := a.destroyTokenObject(ctx, ring, o, owned[o.Label]); err != nil {
			left = append(left, o)
			a.log.Warn("a key object in the token is to be destroyed and could not be; it is tried again at the next start", "object", o.Label, "error", err)
		}
	}
	return left
}

func (a *Administration) destroyTokenObject(ctx context.Context, ring Keyring, o *TokenObject, owned bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTime)
	defer cancel()
	if err := checkVersionOf(ctx, a.store, ring, o); err != nil {
		return err
	}
	if owned {
		a.log.Error("a key object in the token was noted for destruction, and a key needs it: it is kept, and the note is removed", "object", o.Label)
		return a.store.StrikeTokenObject(ctx, o.Label, o.Seal)
	}
	if err := ring.DestroyTokenObject(ctx, o.Label); err != nil {
		return err
	}
	a.log.Info("a key object in the token was destroyed: no key needs it", "object", o.Label, "key_store_id", o.KeyStore, "key_id", o.KeyID, "version", o.Version)
	return a.store.StrikeTokenObject(ctx, o.Label, o.Seal)
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
	if len(other) > 0 {
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
		names = append(names, fmt.Sprintf("%.60q", o.Label))
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

// DestroyLeftovers destroys the token's objects that no key owns: those of keys
// that were deleted, or not finished when the process ended. Run does it at the
// start. For one noted object, with 1,000,000 cached keys and 100 in a SoftHSM2
// token, it takes about 10 ms, as with no cached keys at all: an index has the
// versions that may be in the token, and only those are read and opened.
func (a *Administration) DestroyLeftovers(ctx context.Context) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return
	}
	a.destroyLeftovers(ctx, v.ring, nil)
}

// destroyLeftovers does what DestroyLeftovers says, but for the objects in keep. It
// gives the notes that remain and match their seal. The caller holds a.admin.
func (a *Administration) destroyLeftovers(ctx context.Context, ring Keyring, keep map[string]bool) []*TokenObject {
	notes, err := a.store.TokenObjects(ctx)
	if err != nil {
		a.log.Warn("the list of token objects to destroy cannot be read", "error", err)
		return nil
	}
	return a.destroyTokenObjects(ctx, ring, notes, keep)
}
