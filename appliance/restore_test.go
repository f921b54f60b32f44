package appliance_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

const day = 24 * time.Hour

// production is an appliance with keys in both custodies that are pending deletion,
// its clock, and what the keys have encrypted.
type production struct {
	*appliancetest.Clock
	bed    *appliancetest.Bed
	client *appliancetest.Client
	ring   appliance.Keyring
	sealed map[string]*appliance.Ciphertext
}

func (p *production) options() appliancetest.Options {
	return appliancetest.Options{Appliance: appliance.Options{Now: p.Now, Lease: 10000 * time.Hour}}
}

// newProduction makes the keys named in custody, all pending deletion after 7 days,
// and "kept", which is not.
func newProduction(t *testing.T, token hsm.Config, keys map[string]appliance.Custody) *production {
	t.Helper()
	p := &production{Clock: appliancetest.NewClock(), sealed: map[string]*appliance.Ciphertext{}}
	o := p.options()
	o.Token = appliancetest.PKCS11(token)
	o.Keyring = func(k appliance.Keyring) appliance.Keyring { p.ring = k; return k }
	p.bed = appliancetest.Start(t, o)
	p.client = p.bed.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	p.bed.NewKey(t, "demo", "kept", "encrypt,decrypt", appliance.CustodyHSM)
	p.sealed["kept"] = p.client.OK(appliancetest.Encrypt("kept", "of kept")).Ciphertext
	for id, custody := range keys {
		p.bed.NewKey(t, "demo", id, "encrypt,decrypt", custody)
		p.sealed[id] = p.client.OK(appliancetest.Encrypt(id, "of "+id)).Ciphertext
		must(p.bed.Appliance.ScheduleDeletion(ctx, "demo", id, 7))(t)
	}
	return p
}

func (p *production) backup(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := backupTo(p.bed.Appliance, &out, ""); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// copy restores a backup into a second appliance on the same token.
func (p *production) copy(t *testing.T, backup []byte) (*appliancetest.Bed, *appliancetest.Client, *appliance.BackupReport) {
	t.Helper()
	o := p.options()
	o.Token, o.Locked = p.bed.Device, fault.StateMissing
	b := appliancetest.Start(t, o)
	report := must(b.Appliance.Restore(ctx, bytes.NewReader(backup), appliance.Restoration{}))(t)
	k := *p.client
	k.Appliance = b.Appliance
	return b, &k, report
}

// decrypts fails unless the KMS decrypts what the keys have encrypted.
func (p *production) decrypts(t *testing.T, k *appliancetest.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if got := k.OK(appliancetest.Decrypt(id, p.sealed[id])).Plaintext; got != "of "+id {
			t.Errorf("%s decrypts to %q", id, got)
		}
	}
}

var bothCustodies = map[string]appliance.Custody{"in-token": appliance.CustodyHSM, "in-memory": appliance.CustodyCached}

// TestRestoredCopyDestroysNothing: a key is scheduled for deletion, a backup is
// taken, the deletion is cancelled, and the backup restored into a second appliance
// on the same token. When the old date comes, and long after it, the copy destroys
// nothing, also after a restart; the key serves where it was enabled.
func TestRestoredCopyDestroysNothing(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), bothCustodies)
	backup := p.backup(t)
	for id := range bothCustodies {
		must(p.bed.Appliance.CancelDeletion(ctx, "demo", id))(t)
		must(p.bed.Appliance.SetKeyEnabled(ctx, "demo", id, true))(t)
	}
	p.Pass(time.Hour)
	b, k, report := p.copy(t, backup)
	if !report.Restored || report.Keys != 3 {
		t.Errorf("restored: %+v", report)
	}
	for _, after := range []time.Duration{7 * day, day, 400 * day} {
		p.Pass(after)
		b.DestroyLeftovers(ctx)
		b.Appliance.DeleteDueKeys(ctx)
		p.decrypts(t, p.client, "kept", "in-token", "in-memory")
		for id := range bothCustodies {
			if got := must(b.Appliance.ShowKey(ctx, "demo", id))(t).State; got != "deletion_suspended" {
				t.Errorf("%s is %s", id, got)
			}
		}
		o := p.options()
		b = restart(t, b, k, o)
	}
	p.decrypts(t, k, "kept")
}

// TestSuspendedDeletion: a key whose deletion is suspended is out of service until
// somebody schedules the deletion again, from when the waiting period is counted, or
// cancels it.
func TestSuspendedDeletion(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), map[string]appliance.Custody{"again": appliance.CustodyHSM, "cancelled": appliance.CustodyHSM})
	backup := p.backup(t)
	verified := must(p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(backup)))(t)
	if verified.PendingDeletion != 2 || verified.Restored {
		t.Errorf("verified: %+v", verified)
	}
	if got := must(p.bed.Appliance.ShowKey(ctx, "demo", "again"))(t).State; got != appliance.KeyPendingDeletion {
		t.Errorf("verifying a backup made the key %s", got)
	}
	p.bed.Stop() // for good
	b, k, report := p.copy(t, backup)
	if report.PendingDeletion != 2 || len(report.Gone) != 0 {
		t.Errorf("restored: %+v", report)
	}
	a := b.Appliance
	var ids []string
	for _, key := range must(a.Keys(ctx, "demo", appliance.Page{Limit: 10}, appliance.StandingDeletionSuspended))(t) {
		ids = append(ids, key.ID)
		if !key.DeletionAt.IsZero() {
			t.Errorf("%s is to be destroyed at %s", key.ID, key.DeletionAt)
		}
	}
	if !slices.Equal(ids, []string{"again", "cancelled"}) {
		t.Errorf("suspended are %v", ids)
	}
	if pending := must(a.Keys(ctx, "demo", appliance.Page{Limit: 10}, appliance.StandingPendingDeletion))(t); len(pending) != 0 {
		t.Errorf("pending deletion are %+v", pending)
	}
	for what, err := range map[string]error{
		"enable":  second(a.SetKeyEnabled(ctx, "demo", "again", true)),
		"disable": second(a.SetKeyEnabled(ctx, "demo", "again", false)),
		"rotate":  second(a.RotateKey(ctx, "demo", "again", nil)),
	} {
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "cancel it first, or schedule it again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	k.Fails(appliancetest.Encrypt("again", "x"), fault.Conflict)
	k.Fails(appliancetest.Decrypt("again", p.sealed["again"]), fault.Conflict)
	if state := k.OK(appliancetest.Attributes("again")).Key.State; state != appliance.KeyDeletionSuspended {
		t.Errorf("a session is told %s", state)
	}
	if _, err := a.ScheduleDeletion(ctx, "demo", "again", 6); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("6 days: %v", err)
	}

	p.Pass(20 * day)
	if key := must(a.ScheduleDeletion(ctx, "demo", "again", 7))(t); key.State != appliance.KeyPendingDeletion || key.DeletionAt.Sub(p.Now()).Round(day) != 7*day {
		t.Errorf("scheduled again: %+v", key)
	}
	if key := must(a.CancelDeletion(ctx, "demo", "cancelled"))(t); key.State != appliance.KeyDisabled || !key.DeletionAt.IsZero() {
		t.Errorf("cancelled: %+v", key)
	}
	must(a.SetKeyEnabled(ctx, "demo", "cancelled", true))(t)
	p.Pass(6 * day)
	a.DeleteDueKeys(ctx)
	must(a.ShowKey(ctx, "demo", "again"))(t)
	p.Pass(2 * day)
	a.DeleteDueKeys(ctx)
	b.DestroyLeftovers(ctx)
	_, err := a.ShowKey(ctx, "demo", "again")
	wantCode(t, err, fault.NotFound)
	p.decrypts(t, k, "cancelled", "kept")
	if got := keyObjects(t, b.Device); got != 2 {
		t.Errorf("there are %d key objects in the token, want 2", got)
	}
}

func second[T any](_ T, err error) error { return err }

// TestStateEditedByHand: neither a suspended deletion made pending, nor a date, has
// a key destroyed.
func TestStateEditedByHand(t *testing.T) {
	for name, statement := range map[string]string{
		"pending":        `UPDATE external_keys SET state = 'pending_deletion', deletion_at = 1 WHERE id = 'in-token'`,
		"only a date":    `UPDATE external_keys SET deletion_at = 1 WHERE id = 'in-token'`,
		"only the state": `UPDATE external_keys SET state = 'pending_deletion' WHERE id = 'in-token'`,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProduction(t, hsmtest.New(t), bothCustodies)
			backup := p.backup(t)
			b, k, _ := p.copy(t, backup)
			b.Stop()
			edit(t, b.DB, statement)
			b = restart(t, b, k, p.options())
			p.Pass(400 * day)
			b.Appliance.DeleteDueKeys(ctx)
			must(p.bed.Appliance.CancelDeletion(ctx, "demo", "in-token"))(t)
			must(p.bed.Appliance.SetKeyEnabled(ctx, "demo", "in-token", true))(t)
			p.decrypts(t, p.client, "in-token")
		})
	}
}

// TestRestoreOfGoneKeys: a backup of keys in the HSM that were destroyed since is
// verified and restored, and names them. Everything else serves.
func TestRestoreOfGoneKeys(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), bothCustodies)
	must(p.bed.Appliance.RotateKey(ctx, "demo", "kept", nil))(t)
	backup := p.backup(t)
	p.Pass(8 * day)
	p.bed.Appliance.DeleteDueKeys(ctx)
	p.bed.DestroyLeftovers(ctx)
	_, err := p.bed.Appliance.ShowKey(ctx, "demo", "in-token")
	wantCode(t, err, fault.NotFound)

	want := []appliance.GoneVersion{{KeyStore: "demo", KeyID: "in-token", Version: 1}}
	report := must(p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(backup)))(t)
	if !reflect.DeepEqual(report.Gone, want) || report.Keys != 3 || report.Versions != 4 || report.InToken != 3 {
		t.Errorf("verified: %+v", report)
	}
	b, k, report := p.copy(t, backup)
	if !reflect.DeepEqual(report.Gone, want) || !report.Restored {
		t.Errorf("restored: %+v", report)
	}
	p.decrypts(t, k, "kept")
	for id := range bothCustodies {
		must(b.Appliance.CancelDeletion(ctx, "demo", id))(t)
		must(b.Appliance.SetKeyEnabled(ctx, "demo", id, true))(t)
	}
	p.decrypts(t, k, "in-memory")
	k.Fails(appliancetest.Decrypt("in-token", p.sealed["in-token"]), fault.Gone)
	k.Fails(appliancetest.Encrypt("in-token", "x"), fault.Gone)

	// An older version alone, destroyed by the HSM's own means.
	key := must(p.bed.Store.Key(ctx, must(p.bed.Store.KeyStores(ctx))(t)[0].ID, "kept"))(t)
	if err := p.bed.Token.DestroyKey(ctx, must(p.ring.TokenObject(key.Versions[0]))(t)); err != nil {
		t.Fatal(err)
	}
	want = append(want, appliance.GoneVersion{KeyStore: "demo", KeyID: "kept", Version: 1})
	report = must(p.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(backup)))(t)
	if !reflect.DeepEqual(report.Gone, want) {
		t.Errorf("verified: %+v", report)
	}
	_, k, _ = p.copy(t, backup)
	k.OK(appliancetest.Encrypt("kept", "x"))
	k.Fails(appliancetest.Decrypt("kept", p.sealed["kept"]), fault.Gone)
}

// TestRestoreLeavesNotes: the backup has the note of a key that was being made. It
// was finished in production, so that the copy must not destroy its object; nor does
// it a key's that was deleted, whose object was not destroyed yet.
func TestRestoreLeavesNotes(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), nil)
	keyStore, installation := must(p.bed.Store.KeyStores(ctx))(t)[0].ID, must(p.bed.Store.Installation(ctx))(t).ID
	note := &appliance.TokenObject{Label: p.ring.NewTokenObject(), KeyStore: keyStore, KeyID: "new", Version: 1}
	note.Seal = must(p.ring.Seal(note.Binding(installation), nil))(t)
	if err := p.bed.Store.NoteTokenObjects(ctx, note); err != nil {
		t.Fatal(err)
	}
	backup := p.backup(t)
	key := must(p.bed.Store.Key(ctx, keyStore, "kept"))(t).ExternalKey
	key.ID = "new"
	key.Seal = must(p.ring.Seal(key.Binding(), nil))(t)
	version := &appliance.KeyVersion{KeyStore: keyStore, KeyID: "new", Version: 1, Custody: appliance.CustodyHSM, Origin: appliance.OriginGenerated, CreatedAt: key.CreatedAt}
	if err := p.ring.Generate(ctx, version, note.Label); err != nil {
		t.Fatal(err)
	}
	if err := p.bed.Store.CreateKeys(ctx, appliance.NewKey{Key: &key, Version: version, TokenObject: note.Label}); err != nil {
		t.Fatal(err)
	}
	p.sealed["new"] = p.client.OK(appliancetest.Encrypt("new", "of new")).Ciphertext

	b, k, _ := p.copy(t, backup)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("the copy has the notes %+v", left)
	}
	b = restart(t, b, k, p.options())
	b.DestroyLeftovers(ctx)
	p.decrypts(t, p.client, "new", "kept")
}

// TestRestoreAndOwnLeftovers: what the appliance itself has left over in the token is
// not destroyed by a restore, which would be without the wait. The log names it, but not
// what the backup's keys need.
func TestRestoreAndOwnLeftovers(t *testing.T) {
	token := hsmtest.New(t)
	p := newProduction(t, token, nil)
	backup := p.backup(t)
	keyStore := must(p.bed.Store.KeyStores(ctx))(t)[0].ID
	kept := must(p.ring.TokenObject(must(p.bed.Store.Key(ctx, keyStore, "kept"))(t).Versions[0]))(t)

	n := &noted{}
	o := p.options()
	o.Token, o.Keyring, o.Beside = appliancetest.PKCS11(token), n.options().Keyring, true
	n.bed = appliancetest.Start(t, o)
	n.installation = must(n.bed.Store.Installation(ctx))(t).ID
	n.orphan = n.ring.NewTokenObject()
	forged := &appliance.TokenObject{Label: "payroll"}
	// The backup's own key: as after a deletion while the HSM was away.
	for _, o := range []*appliance.TokenObject{n.note(t, n.orphan, "unfinished", 1), n.note(t, kept, "kept", 1), forged} {
		if err := n.bed.Store.NoteTokenObjects(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, label := range []string{n.orphan, "payroll"} {
		if err := n.bed.Token.GenerateKey(ctx, label); err != nil {
			t.Fatal(err)
		}
	}
	must(n.bed.Appliance.Restore(ctx, bytes.NewReader(backup), appliance.Restoration{}))(t)
	n.bed.DestroyLeftovers(ctx)
	for _, label := range []string{n.orphan, kept, "payroll"} {
		if !encrypts(t, n.bed, label) {
			t.Errorf("%s was destroyed", label)
		}
	}
	if left := must(n.bed.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("noted are %+v", left)
	}
	log := n.bed.Log.String()
	if !strings.Contains(log, "object="+n.orphan) || strings.Count(log, "no longer noted") != 1 || !strings.Contains(log, "payroll") {
		t.Errorf("the log says:\n%s", log)
	}
	p.decrypts(t, p.client, "kept")
}

// TestRestoreWithoutHSM: while the HSM is away or fails, it is not known which keys
// are gone: nothing is restored, and no key is called gone.
func TestRestoreWithoutHSM(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	p := newProduction(t, token, bothCustodies)
	backup := p.backup(t)
	p.bed.Stop()
	for name, tt := range map[string]struct {
		away, back func()
		timeout    time.Duration
	}{
		"cut off":     {shim.Cut, shim.Restore, time.Minute},
		"fails":       {func() { shim.Fail("C_EncryptInit", pkcs11.CKR_FUNCTION_FAILED, 1<<20) }, shim.Reset, time.Minute},
		"login lost":  {func() { shim.Fail("C_EncryptInit", pkcs11.CKR_USER_NOT_LOGGED_IN, 1<<20) }, shim.Reset, time.Minute},
		"hangs":       {func() { shim.Hang("C_EncryptInit") }, shim.Reset, time.Second},
		"cannot find": {func() { shim.Fail("C_FindObjectsInit", pkcs11.CKR_DEVICE_MEMORY, 1<<20) }, shim.Reset, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			o := p.options()
			o.Token, o.Beside = appliancetest.PKCS11(token), true
			b := appliancetest.Start(t, o)
			before := must(b.Store.Installation(ctx))(t)
			tt.away()
			defer tt.back()
			limited, cancel := context.WithTimeout(ctx, tt.timeout)
			defer cancel()
			for what, restore := range map[string]func() (*appliance.BackupReport, error){
				"verify": func() (*appliance.BackupReport, error) {
					return b.Appliance.VerifyBackup(limited, bytes.NewReader(backup))
				},
				"restore": func() (*appliance.BackupReport, error) {
					return b.Appliance.Restore(limited, bytes.NewReader(backup), appliance.Restoration{})
				},
			} {
				report, err := restore()
				if code := fault.CodeOf(err); report != nil || code != fault.Internal && code != fault.Timeout {
					t.Errorf("%s: %+v, %v", what, report, err)
				}
			}
			if stores := must(b.Store.KeyStores(ctx))(t); len(stores) != 0 {
				t.Errorf("there are %d key stores", len(stores))
			}
			if after := must(b.Store.Installation(ctx))(t); after.ID != before.ID {
				t.Error("the installation was replaced")
			}
		})
	}
}

// TestGoneInACluster: a key object is gone only if every member of the cluster is
// there and says so.
func TestGoneInACluster(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	for i := range configs {
		configs[i].Pause = func(int) time.Duration { return time.Millisecond }
	}
	cluster := must(hsm.OpenCluster(ctx, configs))(t)
	defer func() { _ = cluster.Close() }()
	dir := t.TempDir()
	st := must(sqlite.Open(ctx, filepath.Join(dir, "holdfast.db"), sqlite.Options{}))(t)
	defer func() { _ = st.Close() }()
	ring := keyring.New(cluster)
	a := appliance.New(appliance.Options{Store: st, Dir: dir, OpenCopy: func(ctx context.Context, path string) (appliance.Copy, error) {
		return sqlite.Open(ctx, path, sqlite.Options{})
	}})
	wantCode(t, a.Unlock(ctx, ring, nil), fault.StateMissing) // the operators made the master key
	must(a.Begin(ctx))(t)
	ks := must(a.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo"}))(t)
	for _, id := range []string{"stays", "goes"} {
		must(a.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Custody: appliance.CustodyHSM}))(t)
	}
	var backup bytes.Buffer
	if err := backupTo(a, &backup, ""); err != nil {
		t.Fatal(err)
	}
	label := must(ring.TokenObject(must(st.Key(ctx, ks.ID, "goes"))(t).Versions[0]))(t)
	if err := cluster.DestroyKey(ctx, label); err != nil {
		t.Fatal(err)
	}
	verify := func() (*appliance.BackupReport, error) { return a.VerifyBackup(ctx, bytes.NewReader(backup.Bytes())) }
	want := []appliance.GoneVersion{{KeyStore: "demo", KeyID: "goes", Version: 1}}
	if report := must(verify())(t); !reflect.DeepEqual(report.Gone, want) {
		t.Errorf("all there: %+v", report)
	}
	shim.Cut()
	appliancetest.Eventually(t, "the first is noticed to be away", func() bool { return cluster.Members()[0].Probe(ctx) != nil })
	if report, err := verify(); report != nil || fault.CodeOf(err) != fault.Internal {
		t.Errorf("one away: %+v, %v", report, err)
	}
	shim.Restore()
	appliancetest.Eventually(t, "the first is back", func() bool { return cluster.Members()[0].Probe(ctx) == nil })
	if report := must(verify())(t); !reflect.DeepEqual(report.Gone, want) {
		t.Errorf("all there again: %+v", report)
	}
}

// TestRestoreLeavesWhatMayBeRevoked: sessions, invitations, API tokens and requests
// that wait for approval end with a restore; users, decided requests and the choice of
// operations for four eyes come back.
func TestRestoreLeavesWhatMayBeRevoked(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), nil)
	s, now := p.bed.Store, p.Now().UTC().Truncate(time.Millisecond)
	request := func(id string, state approval.State) *approval.Request {
		return &approval.Request{ID: id, Operation: "scheduleKeyDeletion", Method: "POST", Path: "/x", UserID: "u", RequestedBy: "ann", CreatedAt: now, ExpiresAt: now.Add(approval.DefaultHours * time.Hour), State: state}
	}
	if err := errors.Join(
		s.CreateInvitation(ctx, &identity.Invitation{ID: "i", Digest: []byte("i"), Name: "bob", Role: identity.RoleAdministrator, CreatedAt: now, ExpiresAt: now.Add(day)}),
		s.CreateApproval(ctx, request("waits", approval.Pending)),
		s.CreateApproval(ctx, request("decided", approval.Done)),
		s.CreateApproval(ctx, request("approved", approval.Approved)),
		p.bed.Appliance.SetSetting(ctx, appliance.SettingFourEyes, `{"operations":["scheduleKeyDeletion"]}`),
		s.CreateToken(ctx, &identity.Token{ID: "t", Name: "t", Role: identity.RoleAdministrator, CreatedAt: now, ExpiresAt: now.Add(365 * day), Digest: []byte("t")}),
		s.CreateInvitation(ctx, &identity.Invitation{ID: "j", Digest: []byte("j"), Name: "ann", Role: identity.RoleAdministrator, CreatedAt: now, ExpiresAt: now.Add(day)}),
		s.CreateAccount(ctx, &identity.Account{ID: "u", Name: "ann", Role: identity.RoleAdministrator, CreatedAt: now}, []byte("j"), nil),
		s.CreateSession(ctx, &identity.Session{ID: "s", UserID: "u", Digest: []byte("s"), CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(day), ProvenAt: now}),
	); err != nil {
		t.Fatal(err)
	}
	backup := p.backup(t)
	b, _, _ := p.copy(t, backup)
	for what, n := range map[string][2]int{
		"invitations": {len(must(b.Store.Invitations(ctx))(t)), 0},
		"tokens":      {len(must(b.Store.Tokens(ctx))(t)), 0},
		"sessions":    {len(must(b.Store.Sessions(ctx, "u"))(t)), 0},
		"users":       {len(must(b.Store.Accounts(ctx))(t)), 1},
	} {
		if n[0] != n[1] {
			t.Errorf("there are %d %s, want %d", n[0], what, n[1])
		}
	}
	if got := must(b.Appliance.Setting(ctx, appliance.SettingFourEyes))(t); got != `{"operations":["scheduleKeyDeletion"]}` {
		t.Errorf("four eyes: %s", got)
	}
	if requests := must(b.Store.Approvals(ctx, 10))(t); len(requests) != 1 || requests[0].ID != "decided" {
		t.Errorf("requests for approval: %+v", requests)
	}
}
