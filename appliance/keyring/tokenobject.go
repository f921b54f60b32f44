package keyring

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/hsm"
)

// tokenObjectPrefix begins the label of each external key in HSM custody. The ID of
// the installation follows, and the object's own.
const tokenObjectPrefix = "holdfast-key-"

// The forms of those labels, and what labels of before this form had: no installation.
var (
	tokenObject        = regexp.MustCompile("^" + tokenObjectPrefix + "([0-9a-f]{32})-[0-9a-f]{32}$")
	earlierTokenObject = regexp.MustCompile("^" + tokenObjectPrefix + "[0-9a-f]{32}$")
)

// NewTokenObject implements [appliance.Keyring].
func (k *Keyring) NewTokenObject() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return tokenObjectPrefix + k.installation + "-" + randomID()
}

// randomID gives 32 random hexadecimal digits.
func randomID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

// DestroyTokenObject implements [appliance.Keyring]. A label of before labels named
// the installation is taken: it is random, and who asks has its seal.
func (k *Keyring) DestroyTokenObject(ctx context.Context, label string) error {
	k.mu.RLock()
	installation := k.installation
	k.mu.RUnlock()
	parts := tokenObject.FindStringSubmatch(label)
	switch {
	case parts == nil && !earlierTokenObject.MatchString(label):
		return fault.Errorf(fault.Invalid, "the key object %.60q is not destroyed: it is not one that Holdfast makes for an external key", label)
	case installation == "":
		return errLocked()
	case parts != nil && parts[1] != installation:
		return fault.Errorf(fault.Invalid, "the key object %q is not destroyed: it is of installation %s, and this is %s", label, parts[1], installation)
	}
	err := k.token.DestroyKey(ctx, label)
	if err != nil && !errors.Is(err, hsm.ErrNotFound) {
		return tokenError(err, "destroy key object "+label)
	}
	return nil
}

// reaches are the reaches in the terms of package hsm.
var reaches = map[appliance.Reach]hsm.Reach{appliance.ReachAny: hsm.ReachAny, appliance.ReachMost: hsm.ReachMost}

// SealedObjects implements [appliance.Keyring].
func (k *Keyring) SealedObjects(ctx context.Context, reach appliance.Reach) ([]*appliance.SealedObject, error) {
	found, err := k.token.DataObjects(ctx, reaches[reach])
	if err != nil {
		return nil, tokenError(err, "read the data objects in the token")
	}
	list := make([]*appliance.SealedObject, 0, len(found))
	for _, f := range found {
		list = append(list, appliance.ParseSealedObject(f.Label, f.Value))
	}
	return list, nil
}

// CreateSealedObject implements [appliance.Keyring].
func (k *Keyring) CreateSealedObject(ctx context.Context, o *appliance.SealedObject, reach appliance.Reach) error {
	err := k.token.CreateDataObject(ctx, hsm.DataObject{Label: o.Label, Value: o.Value}, reaches[reach])
	if errors.Is(err, hsm.ErrNoDataObjects) {
		return fault.Wrapf(fault.HSMObject, err, "the HSM does not let this user make a data object, in which Holdfast notes which copy of an installation may destroy keys, and what the nodes of a fleet must know")
	}
	if err != nil && !errors.Is(err, hsm.ErrExists) { // the label is random: it is this one
		return tokenError(err, "make the "+string(o.Purpose)+" object in the token")
	}
	return nil
}

// RemoveSealedObject implements [appliance.Keyring].
func (k *Keyring) RemoveSealedObject(ctx context.Context, o *appliance.SealedObject) error {
	err := k.token.DestroyDataObject(ctx, hsm.DataObject{Label: o.Label, Value: o.Value})
	if err != nil && !errors.Is(err, hsm.ErrNotFound) {
		return tokenError(err, "remove "+o.Label+" from the token")
	}
	return nil
}

// KeyObjects implements [appliance.Keyring].
func (k *Keyring) KeyObjects(ctx context.Context) ([]string, error) {
	labels, err := k.token.KeyLabels(ctx)
	if err != nil {
		return nil, tokenError(err, "list the keys in the token")
	}
	return slices.DeleteFunc(labels, func(l string) bool { return !tokenObject.MatchString(l) && !earlierTokenObject.MatchString(l) }), nil
}
