package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// The waiting period before a key is destroyed, in days.
const (
	MinDeletionDays     = 7
	MaxDeletionDays     = 30
	DefaultDeletionDays = 30
)

// ScheduleDeletion has a key destroyed after the days, 7 to 30; until then it
// is out of service. What KMS encrypted under it is lost afterwards. A suspended
// deletion is scheduled again so. Errors: fault.Invalid, fault.NotFound; fault.Conflict if
// it is scheduled already.
func (a *Administration) ScheduleDeletion(ctx context.Context, keyStore, id string, days int) (*ExternalKey, error) {
	return a.changeKey(ctx, keyStore, id, a.scheduleDeletion(days))
}

// CheckDeletion gives the error that ScheduleDeletion would, and changes nothing.
func (a *Administration) CheckDeletion(ctx context.Context, keyStore, id string, days int) error {
	return a.tryKey(ctx, keyStore, id, a.scheduleDeletion(days))
}

func (a *Administration) scheduleDeletion(days int) func(*ExternalKey) error {
	return func(k *ExternalKey) error {
		if days < MinDeletionDays || days > MaxDeletionDays {
			return fault.Errorf(fault.Invalid, "waiting period of %d days: use %d to %d", days, MinDeletionDays, MaxDeletionDays)
		}
		if k.State == KeyPendingDeletion {
			return fault.Errorf(fault.Conflict, "key %q is pending deletion already", k.ID)
		}
		k.State, k.DeletionAt = KeyPendingDeletion, a.time.begins().AddDate(0, 0, days)
		return nil
	}
}

// CancelDeletion takes back a deletion that is scheduled, or suspended. The key is
// disabled afterwards, as a KMS key is. Errors: fault.NotFound; fault.Conflict if no
// deletion is scheduled.
func (a *Administration) CancelDeletion(ctx context.Context, keyStore, id string) (*ExternalKey, error) {
	return a.changeKey(ctx, keyStore, id, func(k *ExternalKey) error {
		if k.State != KeyPendingDeletion && k.State != KeyDeletionSuspended {
			return fault.Errorf(fault.Conflict, "key %q is not pending deletion", id)
		}
		k.State, k.DeletionAt = KeyDisabled, time.Time{}
		return nil
	})
}

// DeleteDueKeys destroys the keys whose waiting period is over, by the wall clock and
// by the witnessed time: a clock that is wrong destroys nothing before half of the period
// has passed. What fails is logged and tried again at the next call.
func (a *Administration) DeleteDueKeys(ctx context.Context) {
	certain := a.time.due()
	a.admin.Lock()
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return
	}
	const batch = 100
	due, err := a.store.KeysDueForDeletion(ctx, certain, batch)
	if err != nil {
		a.log.Error("keys due for deletion cannot be read", "error", err)
		return
	}
	for _, k := range due {
		if err := a.deleteKey(ctx, v, k, certain); err != nil {
			a.log.Error("a key is due for deletion and was not deleted", "key_store_id", k.KeyStore, "key_id", k.ID, "error", err)
			continue
		}
		a.log.Info("a key was deleted: its waiting period was over", "key_store_id", k.KeyStore, "key_id", k.ID)
	}
}

func (a *Administration) deleteKey(ctx context.Context, v *view, due *ExternalKey, certain time.Time) error {
	ring := v.ring
	k, err := a.store.Key(ctx, due.KeyStore, due.ID)
	if err != nil {
		return err
	}
	// A row edited by hand must not have a key destroyed.
	if err := checkKey(ring, k, due.KeyStore, due.ID); err != nil {
		return err
	}
	if k.State != KeyPendingDeletion || k.DeletionAt.IsZero() || k.DeletionAt.After(certain) {
		return nil
	}
	var objects []*TokenObject
	for _, version := range k.Versions {
		label, err := ring.TokenObject(version)
		if err != nil {
			return err
		}
		if label == "" {
			continue
		}
		object, err := a.newTokenObject(ctx, ring, label, version)
		if err != nil {
			return err
		}
		objects = append(objects, object)
	}
	name := k.KeyStore
	if e := v.byID[k.KeyStore]; e != nil {
		name = e.store.Name
	}
	if err := a.deleting(ctx, name, k.ID); err != nil {
		return err
	}
	if err := a.store.DeleteKey(ctx, k.KeyStore, k.ID, k.Seal, objects); err != nil {
		return err
	}
	a.destroyTokenObjects(ctx, ring, objects)
	return nil
}
