package appliance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"

	"holdfast/appliance/fault"
)

// BackupReport is what a backup holds, each part of it opened.
type BackupReport struct {
	Installation string    `json:"installation" jsonschema:"The ID of the installation that the backup is of."`
	Created      time.Time `json:"created" jsonschema:"When the backup was made."`
	Checkpoint   string    `json:"checkpoint,omitempty" jsonschema:"The checkpoint of the audit log at the time of the backup."`
	KeyStores    int       `json:"key_stores" jsonschema:"How many key stores the backup has."`
	Credentials  int       `json:"credentials" jsonschema:"How many credentials the backup has."`
	Grants       int       `json:"grants" jsonschema:"How many grants the backup has."`
	Keys         int       `json:"keys" jsonschema:"How many keys the backup has."`
	Versions     int       `json:"versions" jsonschema:"How many versions of keys the backup has."`
	// InToken are the versions whose keys are in the HSM, where they were used.
	InToken int `json:"versions_in_token" jsonschema:"How many versions have their key in the HSM, where it was used."`
	// PendingDeletion are the keys whose deletion is pending in the backup. A restore
	// suspends them: [KeyDeletionSuspended].
	PendingDeletion int `json:"keys_pending_deletion" jsonschema:"How many keys were pending deletion. A restore suspends their deletion."`
	// Gone are the versions in custody of the HSM for which it has no key object any
	// more, such as those of keys that were destroyed since. Their rows are restored.
	Gone []GoneVersion `json:"gone,omitempty" jsonschema:"The versions for which the HSM has no key object any more."`
	// Damaged are rows that do not open, the first 1,000 of DamagedRows. They are out of
	// service where they are, and a restore takes them over so.
	Damaged     []DamagedRow `json:"damaged,omitempty" jsonschema:"The damaged rows, the first 1,000 of them. They stay out of service."`
	DamagedRows int          `json:"damaged_rows,omitempty" jsonschema:"How many rows are damaged."`
	// Restored says whether it was restored, and not only verified.
	Restored bool `json:"restored" jsonschema:"Whether the backup was restored, and not only verified."`
	// As says which copy of its installation the restored one is, and Reason why it was
	// restored. Empty if it was not.
	As     InstallationState `json:"as,omitzero" jsonschema:"Which copy of its installation the restored one is; absent if it was not restored."`
	Reason string            `json:"reason,omitempty" jsonschema:"Why it was restored."`
}

// Restoration says what a restore is for.
type Restoration struct {
	// Drill has the copy serve and never change anything in the HSM. Otherwise it takes
	// over: the copies of before are locked when they start next, and destroy nothing
	// more.
	Drill bool
	// Reason is why, for the record: empty, or at most 256 printable characters.
	Reason string
}

// GoneVersion is a key version whose key object the HSM does not have any more.
type GoneVersion struct {
	// KeyStore is the key store's name.
	KeyStore string `json:"key_store" jsonschema:"The name of the key store."`
	KeyID    string `json:"key_id" jsonschema:"The external key ID."`
	Version  uint32 `json:"version" jsonschema:"The version of the key."`
}

// VerifyBackup reads a backup and opens everything in it with this appliance's
// HSM, every version of every key. It changes nothing. Errors: fault.Invalid for
// what is no backup; fault.Tampered for one of another HSM; fault.Internal or
// fault.Timeout if the HSM fails or is away. A row that does not open is no error, and
// neither is a key object that the HSM does not have: the report names them.
func (b *Backups) VerifyBackup(ctx context.Context, r io.Reader) (*BackupReport, error) {
	opened, err := b.read(ctx, r, true)
	if err != nil {
		return nil, err
	}
	return opened.report, opened.close()
}

// Restore verifies a backup and takes it over, as another incarnation of its
// installation. An appliance that is held by fault.StateMissing restores, too. What would destroy something later
// does not come along: pending deletions are suspended, and noted objects of the
// token are left behind, since another appliance may use the same ones. Damaged rows
// come along as they are, and the report names them. Errors:
// those of VerifyBackup; fault.Conflict if this appliance has key stores. If it fails,
// nothing changed.
func (b *Backups) Restore(ctx context.Context, r io.Reader, as Restoration) (*BackupReport, error) {
	if as.Reason != "" {
		if err := CheckReason(as.Reason); err != nil {
			return nil, err
		}
	}
	if b.lifecycle.replication != nil {
		return nil, fault.Errorf(fault.Conflict, "a backup is not restored into a fleet: restore it to an appliance of one machine, and move that with holdfastd state move to an empty database")
	}
	opened, err := b.read(ctx, r, true)
	if err != nil {
		return nil, err
	}
	defer opened.close()
	if err := opened.suspendDeletions(ctx); err != nil {
		return nil, err
	}
	if err := b.rename(ctx, opened, as); err != nil {
		return nil, err
	}
	left, err := b.takeRows(ctx, opened, as)
	if err != nil {
		return nil, err
	}
	report := opened.report
	report.Restored, report.As, report.Reason = true, b.lifecycle.Installation(), as.Reason
	b.log.Info("a backup was restored", "installation", report.Installation, "created", report.Created, "keys", report.Keys, "ownership", string(report.As.Ownership), "incarnation", report.As.Incarnation,
		"deletions_suspended", report.PendingDeletion, "gone", len(report.Gone), "damaged", report.DamagedRows)
	b.tell("a row of the restored backup is damaged, and out of service", report)
	for _, o := range left {
		b.log.Error("a key object in the token is left over from before the restore, and is no longer noted: if no key needs it, destroy it by the HSM's own means", "object", o.Label)
	}
	return report, nil
}

// takeRows has the rows of a backup take the place of those that there are, and unlocks.
// It gives the notes of the token's objects that go with the rows of before.
func (b *Backups) takeRows(ctx context.Context, opened *openedBackup, as Restoration) (left []*TokenObject, err error) {
	b.lifecycle.deciding.Lock()
	defer b.lifecycle.deciding.Unlock()
	b.administration.admin.Lock()
	defer b.administration.admin.Unlock()
	ring, hsms, err := b.service.opened()
	if err != nil {
		return nil, err
	}
	var given []*InstallationObject
	if in, err := b.store.Installation(ctx); err == nil {
		if left, err = b.leftBehind(ctx, ring); err != nil {
			return nil, err
		}
		if !as.Drill && !b.lifecycle.ownership.unkept && in.ID != opened.report.Installation {
			if given, _, err = b.lifecycle.ownership.objects(ctx, ring, in.ID, ReachAny); err != nil {
				return nil, err
			}
		}
	} else if fault.CodeOf(err) != fault.NotFound {
		return nil, err
	}
	b.lifecycle.lock() // the keys of the installation that is given up
	err = b.settings.seals.alone(func() error { return move(ctx, opened.store, b.store) })
	unlock := b.lifecycle.unlock(context.WithoutCancel(ctx), ring, hsms, unlocking{restored: err == nil})
	if unlock != nil && (err == nil || b.lifecycle.Held() == nil) {
		b.log.Error("the appliance could not be unlocked after a restore; restart the machine", "error", unlock)
		err = errors.Join(err, unlock)
	}
	if err != nil {
		return nil, err
	}
	for _, o := range given {
		if err := ring.RemoveSealedObject(context.WithoutCancel(ctx), o.sealed); err != nil {
			b.log.Warn("the installation object of the installation that was given up could not be removed from the HSM", "object", o.sealed.Label, "error", err)
		}
	}
	if owned, err := ownedTokenObjects(ctx, b.administration.store, ring); err == nil {
		left = slices.DeleteFunc(left, func(o *TokenObject) bool { return owned[o.Label] })
	}
	return left, nil
}

// leftBehind gives the sealed notes of the token's objects that end with the rows. Their
// objects stay: nothing is destroyed in less than [DestroyWait].
func (b *Backups) leftBehind(ctx context.Context, ring Keyring) ([]*TokenObject, error) {
	notes, err := b.administration.store.TokenObjects(ctx)
	if err != nil {
		return nil, err
	}
	return b.administration.sealedNotes(ctx, ring, notes), nil
}

// rename makes the rows of a backup another incarnation of their installation.
func (b *Backups) rename(ctx context.Context, opened *openedBackup, as Restoration) error {
	in, err := opened.store.Installation(ctx)
	if err != nil {
		return err
	}
	next := Incarnation{ID: newID(), Drill: true}
	if !as.Drill {
		if next, err = b.lifecycle.ownership.next(ctx, opened.ring, in); err != nil {
			return err
		}
	}
	was := in.IncarnationSeal
	if err := in.setIncarnation(opened.ring, next); err != nil {
		return err
	}
	return opened.store.SetIncarnation(ctx, in.Incarnation, in.IncarnationSeal, was)
}

// move has one store take over the rows of another.
func move(ctx context.Context, from, to Snapshots) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := from.Snapshot(ctx, w)
		w.CloseWithError(err)
		written <- err
	}()
	err := to.Restore(ctx, r)
	r.CloseWithError(io.ErrClosedPipe) // ends the writer where the reader had enough
	if failed := <-written; err == nil {
		err = failed
	}
	return err
}

// openedBackup is a backup whose rows are in a store of their own, and were looked at.
type openedBackup struct {
	report *BackupReport
	store  Copy
	ring   Keyring
	dir    string
}

func (o *openedBackup) close() error {
	o.ring.Lock()
	err := o.store.Close()
	return errors.Join(err, os.RemoveAll(o.dir))
}

// suspendDeletions suspends the pending deletions of keys. A key that is damaged is
// never deleted, and stays as it is: a new seal would make its row good.
func (o *openedBackup) suspendDeletions(ctx context.Context) error {
	stores, err := o.store.KeyStores(ctx)
	if err != nil {
		return err
	}
	for _, ks := range stores {
		for page := (Page{State: KeyPendingDeletion, Limit: 1000}); ; {
			pending, err := o.store.Keys(ctx, ks.ID, page)
			if err != nil {
				return err
			}
			for _, k := range pending {
				if err := o.suspendDeletion(ctx, k); err != nil {
					return err
				}
			}
			if len(pending) < page.Limit {
				break
			}
			page.After = pending[len(pending)-1].ID
		}
	}
	return nil
}

func (o *openedBackup) suspendDeletion(ctx context.Context, k *ExternalKey) error {
	if err := o.ring.Verify(k.Binding(), k.Seal); err != nil {
		if code := fault.CodeOf(err); code == fault.Tampered || code == fault.Locked { // or its key store is
			return nil
		}
		return err
	}
	was := k.Seal
	k.State, k.DeletionAt = KeyDeletionSuspended, time.Time{}
	var err error
	if k.Seal, err = o.ring.Seal(k.Binding(), nil); err != nil {
		return err
	}
	return o.store.UpdateKey(ctx, k, was)
}

const databaseName = "restore.db"

// read decrypts a backup into a store of its own, in a new folder, and looks at all that
// is in it. InToken says whether keys in the HSM are used.
func (b *Backups) read(ctx context.Context, r io.Reader, inToken bool) (_ *openedBackup, err error) {
	ring, _, err := b.service.opened()
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReaderSize(r, maxHeader)
	h, err := readHeader(lines)
	if err != nil {
		return nil, err
	}
	identity, err := openIdentity(ctx, ring, h)
	if err != nil {
		return nil, err
	}
	o := &openedBackup{ring: ring.Empty()}
	if o.dir, err = b.temporary(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.ring.Lock()
			if o.store != nil {
				_ = o.store.Close()
			}
			_ = os.RemoveAll(o.dir)
		}
	}()
	rows, err := age.Decrypt(lines, identity)
	if err != nil {
		return nil, brokenBackup(err)
	}
	if o.store, err = b.load(ctx, h.Format, rows, filepath.Join(o.dir, databaseName)); err != nil {
		return nil, err
	}
	if o.report, err = inspect(ctx, o.store, o.ring, inToken); err != nil {
		return nil, err
	}
	if o.report.Installation != h.Installation {
		return nil, fault.Errorf(fault.Tampered, "the backup says that it is of installation %s, and its rows are of %s", h.Installation, o.report.Installation)
	}
	o.report.Created, o.report.Checkpoint = h.Created, h.Checkpoint
	return o, nil
}

func openIdentity(ctx context.Context, ring Keyring, h *BackupHeader) (age.Identity, error) {
	secret, err := ring.Unwrap(ctx, h.Binding(), h.Identity)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	identity, err := age.ParseHybridIdentity(string(secret))
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "the backup's key cannot be read")
	}
	return identity, nil
}

// load makes a store at path of the decrypted rows of a backup.
func (b *Backups) load(ctx context.Context, format string, rows io.Reader, path string) (Copy, error) {
	if format == EarlierBackupFormat {
		if err := writeFile(path, rows); err != nil {
			return nil, err
		}
		return b.openCopy(ctx, path)
	}
	st, err := b.openCopy(ctx, path)
	if err != nil {
		return nil, err
	}
	source := &decrypted{r: rows}
	if err := st.Restore(ctx, source); err != nil {
		_ = st.Close()
		if source.err != nil { // what was read is not what was encrypted, whatever the rows looked like
			err = brokenBackup(source.err)
		}
		return nil, err
	}
	return st, nil
}

// decrypted remembers why its reader failed.
type decrypted struct {
	r   io.Reader
	err error
}

func (d *decrypted) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF {
		d.err = err
	}
	return n, err
}

func brokenBackup(err error) error {
	return fault.Wrapf(fault.Invalid, err, "the backup is cut off, or was changed; take another copy of it")
}

func readHeader(r *bufio.Reader) (*BackupHeader, error) {
	notOne := fault.Errorf(fault.Invalid, "this is no backup of Holdfast: it does not begin with a line of the form %s or %s", BackupFormat, EarlierBackupFormat)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, notOne
	}
	var h BackupHeader
	if err := json.Unmarshal(line, &h); err != nil || (h.Format != BackupFormat && h.Format != EarlierBackupFormat) {
		return nil, notOne
	}
	return &h, nil
}

// writeFile writes the decrypted database of an earlier backup.
func writeFile(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return noPlace(err)
	}
	source := &decrypted{r: r}
	_, err = io.Copy(f, source)
	closeErr := f.Close()
	switch {
	case source.err != nil:
		return brokenBackup(source.err)
	case err != nil:
		return noPlace(err)
	case closeErr != nil:
		return noPlace(closeErr)
	}
	return nil
}
