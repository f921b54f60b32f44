package appliance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"holdfast/appliance/fault"
)

// BackupReport is what a backup holds, each part of it opened.
type BackupReport struct {
	Installation string    `json:"installation"`
	Created      time.Time `json:"created"`
	Checkpoint   string    `json:"checkpoint,omitempty"`
	KeyStores    int       `json:"key_stores"`
	Credentials  int       `json:"credentials"`
	Grants       int       `json:"grants"`
	Keys         int       `json:"keys"`
	Versions     int       `json:"versions"`
	// InToken are the versions whose keys are in the HSM, where they were used.
	InToken int `json:"versions_in_token"`
	// PendingDeletion are the keys whose deletion is pending in the backup. A restore
	// suspends them: [KeyDeletionSuspended].
	PendingDeletion int `json:"keys_pending_deletion"`
	// Gone are the versions in custody of the HSM for which it has no key object any
	// more, such as those of keys that were destroyed since. Their rows are restored.
	Gone []GoneVersion `json:"gone,omitempty"`
	// Restored says whether it was restored, and not only verified.
	Restored bool `json:"restored"`
}

// GoneVersion is a key version whose key object the HSM does not have any more.
type GoneVersion struct {
	// KeyStore is the key store's name.
	KeyStore string `json:"key_store"`
	KeyID    string `json:"key_id"`
	Version  uint32 `json:"version"`
}

// VerifyBackup reads a backup and opens everything in it with this appliance's
// HSM, every version of every key. It changes nothing. Errors: fault.Invalid for
// what is no backup; fault.Tampered for one of another HSM, and for rows that do
// not open; fault.Internal or fault.Timeout if the HSM fails or is away. A key object
// that the HSM does not have is no error: the report names it.
func (b *Backups) VerifyBackup(ctx context.Context, r io.Reader) (*BackupReport, error) {
	report, dir, err := b.readBackup(ctx, r, nil)
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
	return report, err
}

// Restore verifies a backup and takes it over. What would destroy something later
// does not come along: pending deletions are suspended, and noted objects of the
// token are left behind, since another appliance may use the same ones. Errors:
// those of VerifyBackup; fault.Conflict if this appliance has key stores. If it fails,
// nothing changed.
func (b *Backups) Restore(ctx context.Context, r io.Reader) (*BackupReport, error) {
	var objects map[string]bool // of the token, which the backup's keys need
	report, dir, err := b.readBackup(ctx, r, func(st Store, ring Keyring) (err error) {
		if objects, err = ownedTokenObjects(ctx, st, ring); err != nil {
			return err
		}
		return suspendDeletions(ctx, st, ring)
	})
	if dir != "" {
		defer os.RemoveAll(dir)
	}
	if err != nil {
		return nil, err
	}
	b.administration.admin.Lock()
	defer b.administration.admin.Unlock()
	v, err := b.service.view()
	if err != nil {
		return nil, err
	}
	stores, err := b.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	var left []*TokenObject
	if len(stores) == 0 { // else it is refused
		left = b.administration.destroyLeftovers(ctx, v.ring, objects)
	}
	hsms := b.service.health.watched()
	b.lifecycle.lock() // the keys of the installation that is given up
	err = b.settings.seals.alone(func() error { return b.store.Replace(ctx, filepath.Join(dir, databaseName)) })
	if unlock := b.lifecycle.unlock(context.WithoutCancel(ctx), v.ring, hsms, nil); unlock != nil {
		b.log.Error("the appliance could not be unlocked after a restore; restart the machine", "error", unlock)
		err = errors.Join(err, unlock)
	}
	if err != nil {
		return nil, err
	}
	report.Restored = true
	b.log.Info("a backup was restored", "installation", report.Installation, "created", report.Created, "keys", report.Keys,
		"deletions_suspended", report.PendingDeletion, "gone", len(report.Gone))
	for _, o := range left {
		if !objects[o.Label] {
			b.log.Error("a key object in the token is left over from before the restore, and is no longer noted: destroy it by the HSM's own means", "object", o.Label)
		}
	}
	return report, nil
}

// suspendDeletions suspends the pending deletions in a store that nobody else uses
// and whose rows were verified.
func suspendDeletions(ctx context.Context, st Store, ring Keyring) error {
	stores, err := st.KeyStores(ctx)
	if err != nil {
		return err
	}
	for _, ks := range stores {
		for {
			pending, err := st.Keys(ctx, ks.ID, Page{State: KeyPendingDeletion, Limit: 1000})
			if err != nil {
				return err
			}
			if len(pending) == 0 {
				break
			}
			for _, k := range pending {
				was := k.Seal
				k.State, k.DeletionAt = KeyDeletionSuspended, time.Time{}
				if k.Seal, err = ring.Seal(k.Binding(), nil); err != nil {
					return err
				}
				if err := st.UpdateKey(ctx, k, was); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

const databaseName = "restore.db"

// readBackup decrypts a backup into a new folder, opens all that is in it, and has
// prepare, if given, change that copy.
func (b *Backups) readBackup(ctx context.Context, r io.Reader, prepare func(Store, Keyring) error) (_ *BackupReport, dir string, err error) {
	v, err := b.service.view()
	if err != nil {
		return nil, "", err
	}
	ring := v.ring.Empty()
	defer ring.Lock()
	lines := bufio.NewReaderSize(r, maxHeader)
	h, err := readHeader(lines)
	if err != nil {
		return nil, "", err
	}
	secret, err := ring.Unwrap(ctx, h.binding(), h.Identity)
	if err != nil {
		return nil, "", err
	}
	defer clear(secret)
	identity, err := age.ParseHybridIdentity(string(secret))
	if err != nil {
		return nil, "", fault.Wrapf(fault.Invalid, err, "the backup's key cannot be read")
	}
	if dir, err = b.temporary(); err != nil {
		return nil, "", err
	}
	file := filepath.Join(dir, databaseName)
	if err := decrypt(lines, identity, file); err != nil {
		return nil, dir, err
	}
	st, err := b.openStore(ctx, file)
	if err != nil {
		return nil, dir, err
	}
	report, err := verifyStore(ctx, st, ring)
	if err == nil && prepare != nil {
		err = prepare(st, ring)
	}
	if err := errors.Join(err, st.Close()); err != nil {
		return nil, dir, err
	}
	if report.Installation != h.Installation {
		return nil, dir, fault.Errorf(fault.Tampered, "the backup says that it is of installation %s, and its database is of %s", h.Installation, report.Installation)
	}
	report.Created, report.Checkpoint = h.Created, h.Checkpoint
	return report, dir, nil
}

func readHeader(r *bufio.Reader) (*BackupHeader, error) {
	notOne := fault.Errorf(fault.Invalid, "this is no backup of Holdfast: it does not begin with a line of the form %s", BackupFormat)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, notOne
	}
	var h BackupHeader
	if err := json.Unmarshal(line, &h); err != nil || h.Format != BackupFormat {
		return nil, notOne
	}
	return &h, nil
}

func decrypt(r io.Reader, identity age.Identity, file string) error {
	broken := func(err error) error {
		return fault.Wrapf(fault.Invalid, err, "the backup is cut off, or was changed")
	}
	opened, err := age.Decrypt(r, identity)
	if err != nil {
		return broken(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "there is no place for the backup")
	}
	_, err = io.Copy(f, opened)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		return fault.Wrapf(fault.Internal, closeErr, "there is no place for the backup")
	}
	if err != nil {
		return broken(err)
	}
	return nil
}

// verifyStore opens everything in a store with a keyring, which keeps the keys.
func verifyStore(ctx context.Context, st Store, ring Keyring) (*BackupReport, error) {
	in, err := st.Installation(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := openStateKey(ctx, ring, in); err != nil {
		return nil, err
	}
	stores, err := st.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	report := &BackupReport{Installation: in.ID, KeyStores: len(stores)}
	for _, ks := range stores {
		if err := report.keyStore(ctx, st, ring, ks); err != nil {
			return nil, within(err, "key store %q", ks.Name)
		}
	}
	return report, nil
}

// within says where an error is.
func within(err error, format string, args ...any) error {
	message := "cannot be opened"
	if e, ok := errors.AsType[*fault.Fault](err); ok {
		message = e.Message
	}
	return &fault.Fault{Code: fault.CodeOf(err), Message: fmt.Sprintf(format, args...) + ": " + message, Err: err}
}

func (r *BackupReport) keyStore(ctx context.Context, st Store, ring Keyring, ks *KeyStore) error {
	if err := ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey); err != nil {
		return err
	}
	if err := ring.Verify(ks.Binding(), ks.Seal); err != nil {
		return err
	}
	credentials, err := st.Credentials(ctx, ks.ID)
	if err != nil {
		return err
	}
	for _, c := range credentials {
		u, err := ring.UnlockCredential(c)
		if err != nil {
			return err
		}
		u.Wipe()
		r.Credentials++
	}
	grants, err := st.Grants(ctx, ks.ID)
	if err != nil {
		return err
	}
	for _, g := range grants {
		if err := ring.Verify(g.Binding(), g.Seal); err != nil {
			return err
		}
		r.Grants++
	}
	for page := (Page{Limit: 1000}); ; {
		keys, err := st.Keys(ctx, ks.ID, page)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := r.key(ctx, st, ring, ks, k.ID); err != nil {
				return err
			}
		}
		if len(keys) < page.Limit {
			return nil
		}
		page.After = keys[len(keys)-1].ID
	}
}

func (r *BackupReport) key(ctx context.Context, st Store, ring Keyring, ks *KeyStore, id string) error {
	k, err := st.Key(ctx, ks.ID, id)
	if err != nil {
		return err
	}
	if err := checkKey(ring, k, ks.ID, id); err != nil {
		return err
	}
	r.Keys++
	if k.State == KeyPendingDeletion {
		r.PendingDeletion++
	}
	for _, v := range k.Versions {
		u, err := ring.Unlock(v)
		if err != nil {
			return within(err, "key %q version %d", id, v.Version)
		}
		r.Versions++
		if v.Custody == CustodyHSM { // the row is no more than the name of the token's object
			r.InToken++
			_, _, _, err = u.Encrypt(ctx, []byte("holdfast"), nil)
		}
		u.Wipe()
		if fault.CodeOf(err) == fault.Gone {
			r.Gone = append(r.Gone, GoneVersion{KeyStore: ks.Name, KeyID: id, Version: v.Version})
			continue
		}
		if err != nil {
			return within(err, "key %q version %d, which is in the HSM", id, v.Version)
		}
	}
	return nil
}
