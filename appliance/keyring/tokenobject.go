package keyring

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/hsm"
)

// tokenObjects are the forms of the labels of external keys in HSM custody, the newest
// first. What is in parentheses is of the installation: how its ID begins, or all of it, or
// nothing. Keys keep the labels that they were made with.
var tokenObjects = []*regexp.Regexp{
	regexp.MustCompile("^holdfast-([0-9a-f]{8})-[a-z2-7]{13}$"),
	regexp.MustCompile("^holdfast-key-([0-9a-f]{32})-[0-9a-f]{32}$"),
	regexp.MustCompile("^holdfast-key-()[0-9a-f]{32}$"),
}

// ofInstallation says how the ID of the installation begins for which a label was made;
// false if it is no label of an external key.
func ofInstallation(label string) (begins string, ok bool) {
	for _, form := range tokenObjects {
		if parts := form.FindStringSubmatch(label); parts != nil {
			return parts[1], true
		}
	}
	return "", false
}

// installationBytes is how much of an installation's ID is in a label: enough to tell
// installations apart that share an HSM.
const installationBytes = 8

// NewTokenObject implements [appliance.Keyring].
func (k *Keyring) NewTokenObject() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return appliance.NewTokenLabel("holdfast-" + k.installation[:min(installationBytes, len(k.installation))] + "-")
}

// DestroyTokenObject implements [appliance.Keyring]. A label of before labels named
// the installation is taken: it is random, and who asks has its seal.
func (k *Keyring) DestroyTokenObject(ctx context.Context, label string) error {
	k.mu.RLock()
	installation := k.installation
	k.mu.RUnlock()
	begins, ok := ofInstallation(label)
	switch {
	case !ok:
		return fault.Errorf(fault.Invalid, "the key object %.60q is not destroyed: it is not one that Holdfast makes for an external key", label)
	case installation == "":
		return errLocked()
	case !strings.HasPrefix(installation, begins):
		return fault.Errorf(fault.Invalid, "the key object %q is not destroyed: it is of an installation whose ID begins with %s, and this is %s", label, begins, installation)
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
	return slices.DeleteFunc(labels, func(l string) bool { _, ok := ofInstallation(l); return !ok }), nil
}
