package appliance

import (
	"context"
	"errors"
	"fmt"

	"holdfast/appliance/fault"
)

// DamagedRow names a row that does not match its seal, or does not open: it was
// changed by hand, or its disk has failed. It decides nothing, and what it was about is
// out of service. [Administration.Discard] removes it.
type DamagedRow struct {
	// Kind is "key store", "key", "key version", "credential", "grant", "setting",
	// "block" or "incarnation"; of a copy that is verified offline also "user",
	// "invitation", "API token" or "request for approval".
	Kind string `json:"kind" jsonschema:"What kind of row is damaged, such as \"key\" or \"grant\"."`
	// KeyStore is the key store's name; empty for a setting and the block of everything.
	KeyStore string `json:"key_store,omitempty" jsonschema:"The name of the key store; absent for a setting and the block of everything."`
	// ID is the key's, credential's, grant's, invitation's or request's, or the name of
	// the setting, user or token.
	ID      string `json:"id,omitempty" jsonschema:"The ID of the damaged key, credential, grant, invitation or request, or the name of the setting, user or token."`
	Version uint32 `json:"version,omitempty" jsonschema:"The version of the key, if the row is of one."`
}

// The kinds of damaged rows.
const (
	damagedKindStore      = "key store"
	damagedKindKey        = "key"
	damagedKindVersion    = "key version"
	damagedKindCredential = "credential"
	damagedKindGrant      = "grant"
	damagedKindSetting    = "setting"
	damagedKindBlock      = "block"
	damagedKindCopy       = "incarnation"
)

// The kinds of damaged rows that other packages keep.
const (
	DamagedUser       = "user"
	DamagedInvitation = "invitation"
	DamagedToken      = "API token"
	DamagedApproval   = "request for approval"
)

// String names the row for people.
func (d DamagedRow) String() string {
	switch d.Kind {
	case damagedKindStore:
		return fmt.Sprintf("key store %.200q", d.KeyStore)
	case damagedKindVersion:
		return fmt.Sprintf("version %d of key %.200q of key store %.200q", d.Version, d.ID, d.KeyStore)
	case damagedKindSetting, DamagedUser, DamagedInvitation, DamagedToken, DamagedApproval:
		return fmt.Sprintf("%s %.200q", d.Kind, d.ID)
	case damagedKindBlock:
		return "the row that says whether everything is blocked"
	case damagedKindCopy:
		return "the row that says which copy of the installation this is"
	}
	return fmt.Sprintf("%s %.200q of key store %.200q", d.Kind, d.ID, d.KeyStore)
}

// Remedy says in one line what to do about the row, with a command that does it.
func (d DamagedRow) Remedy() string {
	switch d.Kind {
	case damagedKindStore:
		return "holdfast keystore discard " + argument(d.KeyStore) + " --keys N, where N is how many keys are lost with it"
	case damagedKindKey:
		return "holdfast key discard " + argument(d.KeyStore) + " " + argument(d.ID)
	case damagedKindVersion:
		return fmt.Sprintf("holdfast key discard %s %s --version %d", argument(d.KeyStore), argument(d.ID), d.Version)
	case damagedKindCredential:
		return "holdfast credential discard " + argument(d.KeyStore) + " " + argument(d.ID)
	case damagedKindGrant:
		return "holdfast grant discard " + argument(d.KeyStore) + " " + argument(d.ID)
	case damagedKindBlock:
		return "holdfast unblock --everything"
	case damagedKindCopy:
		return "holdfast installation takeover --reason TEXT"
	case DamagedUser:
		return "holdfast user delete " + argument(d.ID)
	case DamagedInvitation:
		return "holdfast invitation revoke " + argument(d.ID)
	case DamagedToken:
		return "holdfast token revoke " + argument(d.ID)
	case DamagedApproval:
		return "holdfast approval reject " + argument(d.ID)
	}
	return "holdfast setting discard " + argument(d.ID)
}

// argument gives a name as a shell takes it. One that was edited may have any bytes.
func argument(name string) string {
	if ValidExternalKeyID(name) {
		return name
	}
	return fmt.Sprintf("%.200q", name)
}

// errUnmatched is in the chain of errors about rows whose set does not match its manifest.
var errUnmatched = errors.New("the set of rows does not match its manifest")

func unmatched(what string) error {
	return fault.Wrapf(fault.Tampered, errUnmatched, "%s", what)
}

// fault makes the error of the row: what is wrong, and what to do. Why is the keyring's,
// which says that the row does not open; any other is given back as it is.
func (d DamagedRow) fault(why error) error {
	if fault.CodeOf(why) != fault.Tampered {
		return why
	}
	if errors.Is(why, errUnmatched) {
		return &fault.Fault{Code: fault.Tampered, Err: why, Message: fmt.Sprintf(
			"the rows of %s do not match the manifest of the state: one was changed, removed, added or put back by something else than Holdfast, and it is out of service. Restore a backup of before into a fresh appliance; or, if the rows are right as they are, accept them: holdfast state accept --reason TEXT", d)}
	}
	return &fault.Fault{Code: fault.Tampered, Err: why, Message: fmt.Sprintf(
		"%s does not match its seal: the row was changed by hand or is damaged, and is out of service. Restore a backup of before into a fresh appliance, or discard the row, which loses it for good: %s", d, d.Remedy())}
}

// damagedCredential makes the error of a credential that does not open.
func damagedCredential(keyStore, accessKeyID string, why error) error {
	return DamagedRow{Kind: damagedKindCredential, KeyStore: keyStore, ID: accessKeyID}.fault(why)
}

// damagedKey makes the error of a key that does not open.
func damagedKey(keyStore, id string, why error) error {
	return DamagedRow{Kind: damagedKindKey, KeyStore: keyStore, ID: id}.fault(why)
}

// maxDamaged bounds how many damaged rows a report names.
const maxDamaged = 1000

// inspection looks for damaged rows in a store.
type inspection struct {
	store Store
	ring  Keyring
	// inToken says whether keys in the HSM are used once, which costs it an operation
	// each.
	inToken bool
	report  *BackupReport
}

// inspect opens everything in a store with a keyring, which keeps the keys. What does
// not open is in the report.
func inspect(ctx context.Context, st Store, ring Keyring, inToken bool) (*BackupReport, error) {
	in, err := st.Installation(ctx)
	if err != nil {
		return nil, err
	}
	early, err := openStateKey(ctx, ring, in)
	if err != nil {
		return nil, err
	}
	stores, err := st.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	i := &inspection{store: st, ring: ring, inToken: inToken, report: &BackupReport{Installation: in.ID, KeyStores: len(stores)}}
	if early == nil || early.sealed { // before, these rows had no seals
		if err := i.installation(ctx, in); err != nil {
			return nil, err
		}
	}
	for _, ks := range stores {
		if err := i.keyStore(ctx, ks); err != nil {
			return nil, within(err, "key store %q", ks.Name)
		}
	}
	return i.report, nil
}

// found notes a row that does not open, and gives any other error.
func (i *inspection) found(row DamagedRow, err error) (damaged bool, _ error) {
	if fault.CodeOf(err) != fault.Tampered {
		return false, err
	}
	if i.report.DamagedRows++; i.report.DamagedRows <= maxDamaged {
		i.report.Damaged = append(i.report.Damaged, row)
	}
	return true, nil
}

func (i *inspection) installation(ctx context.Context, in *Installation) error {
	if _, err := i.found(DamagedRow{Kind: damagedKindBlock}, i.ring.Verify(in.Blocked.Binding(in.ID), in.BlockSeal)); err != nil {
		return err
	}
	_, err := in.incarnation(i.ring)
	if _, err := i.found(DamagedRow{Kind: damagedKindCopy}, err); err != nil {
		return err
	}
	for name := range firstSettings {
		row, err := i.store.Setting(ctx, name)
		if fault.CodeOf(err) == fault.NotFound { // in an installation every setting has a row
			row, err = &SettingRow{Name: name}, nil
		}
		if err == nil {
			_, state := splitSeals(row.Seal)
			_, err = i.found(DamagedRow{Kind: damagedKindSetting, ID: name}, i.ring.Verify(settingBinding(name, row.Value), state))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) keyStore(ctx context.Context, ks *KeyStore) error {
	if damaged, err := i.found(DamagedRow{Kind: damagedKindStore, KeyStore: ks.Name}, openKeyStore(ctx, i.ring, ks)); damaged || err != nil {
		return err // what is in it cannot be told
	}
	if err := i.access(ctx, ks); err != nil {
		return err
	}
	for page := (Page{Limit: 1000}); ; {
		keys, err := i.store.Keys(ctx, ks.ID, page)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := i.key(ctx, ks, k.ID); err != nil {
				return err
			}
		}
		if len(keys) < page.Limit {
			return nil
		}
		page.After = keys[len(keys)-1].ID
	}
}

// openKeyStore opens the keyring key of a key store, and holds its row against its
// seal: fault.Tampered.
func openKeyStore(ctx context.Context, ring Keyring, ks *KeyStore) error {
	if err := ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey); err != nil {
		return err
	}
	if err := ring.Verify(ks.Binding(), ks.Seal); err != nil {
		return err
	}
	if ks.Unmatched {
		return unmatched("the key store's row, a credential or a grant")
	}
	return nil
}

func (i *inspection) access(ctx context.Context, ks *KeyStore) error {
	credentials, err := i.store.Credentials(ctx, ks.ID)
	if err != nil {
		return err
	}
	for _, c := range credentials {
		i.report.Credentials++
		u, err := i.ring.UnlockCredential(c)
		if err == nil {
			u.Wipe()
		}
		if _, err := i.found(DamagedRow{Kind: damagedKindCredential, KeyStore: ks.Name, ID: c.AccessKeyID}, err); err != nil {
			return err
		}
	}
	grants, err := i.store.Grants(ctx, ks.ID)
	if err != nil {
		return err
	}
	for _, g := range grants {
		i.report.Grants++
		if _, err := i.found(DamagedRow{Kind: damagedKindGrant, KeyStore: ks.Name, ID: g.ID}, g.verify(i.ring)); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) key(ctx context.Context, ks *KeyStore, id string) error {
	k, err := i.store.Key(ctx, ks.ID, id)
	if err != nil {
		return err
	}
	i.report.Keys++
	damaged, err := i.found(DamagedRow{Kind: damagedKindKey, KeyStore: ks.Name, ID: id}, checkKey(i.ring, k, ks.ID, id))
	if err != nil {
		return err
	}
	if k.State == KeyPendingDeletion && !damaged {
		i.report.PendingDeletion++
	}
	for _, v := range k.Versions {
		i.report.Versions++
		u, err := i.ring.Unlock(v)
		if damaged, err := i.found(DamagedRow{Kind: damagedKindVersion, KeyStore: ks.Name, ID: id, Version: v.Version}, err); damaged {
			continue
		} else if err != nil {
			return within(err, "key %q version %d", id, v.Version)
		}
		if v.Custody == CustodyHSM { // the row is no more than the name of the token's object
			i.report.InToken++
			if i.inToken {
				_, _, _, err = u.Encrypt(ctx, []byte("holdfast"), nil)
			}
		}
		u.Wipe()
		if fault.CodeOf(err) == fault.Gone {
			i.report.Gone = append(i.report.Gone, GoneVersion{KeyStore: ks.Name, KeyID: id, Version: v.Version})
			continue
		}
		if err != nil {
			return within(err, "key %q version %d, which is in the HSM", id, v.Version)
		}
	}
	return nil
}

// within says where an error is.
func within(err error, format string, args ...any) error {
	return &fault.Fault{Code: fault.CodeOf(err), Message: fmt.Sprintf(format, args...) + ": " + messageOf(err), Err: err}
}

// messageOf gives what may be shown of an error.
func messageOf(err error) string {
	if e, ok := errors.AsType[*fault.Fault](err); ok {
		return e.Message
	}
	return "cannot be opened"
}
