package appliance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm"
)

// encrypts says whether the token has a key object of that label that works.
func encrypts(t testing.TB, b *appliancetest.Bed, label string) bool {
	t.Helper()
	_, _, _, err := b.Token.Encrypt(ctx, label, []byte("x"), nil)
	if err != nil && !errors.Is(err, hsm.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// TestNotedLabels: whatever label is written into the list of objects to destroy,
// no object is destroyed on that word: not the HSM's master key, nor the probe key,
// nor another program's, another appliance's or this one's key.
func TestNotedLabels(t *testing.T) {
	device := realToken(t)
	neighbour := appliancetest.Start(t, appliancetest.Options{Token: device})
	neighbour.NewKeyStore(t, "theirs", "/theirs", "")
	neighbour.NewKey(t, "theirs", "k", "encrypt,decrypt", appliance.CustodyHSM)
	theirs := keyLabels(t, device)
	if len(theirs) != 1 {
		t.Fatalf("the neighbour has the objects %q", theirs)
	}

	b := appliancetest.Start(t, appliancetest.Options{Token: device, Beside: true})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	b.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	sealed := map[string]*appliance.Ciphertext{}
	for _, id := range []string{"hsm", "cached"} {
		sealed[id] = k.OK(appliancetest.Encrypt(id, "x")).Ciphertext
	}
	const foreign = "payroll"
	if err := b.Token.GenerateKey(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	labels := append(keyLabels(t, device), "holdfast-master", "holdfast-probe", foreign)
	b.Stop()
	for _, label := range labels {
		edit(t, b.DB, fmt.Sprintf(`INSERT INTO token_objects (label) VALUES ('%s')`, label))
	}
	b = restart(t, b, k, appliancetest.Options{Accept: true})
	b.DestroyLeftovers(ctx)
	for _, label := range labels {
		if !encrypts(t, b, label) {
			t.Errorf("%s was destroyed", label)
		}
	}
	for id, c := range sealed {
		k.OK(appliancetest.Decrypt(id, c))
	}
	restart(t, b, k, appliancetest.Options{})
	for id, c := range sealed {
		k.OK(appliancetest.Decrypt(id, c))
	}
}

// noted is an appliance with a key in the HSM, the object of a key that was not
// finished, and its neighbours in the token.
type noted struct {
	bed    *appliancetest.Bed
	client *appliancetest.Client
	ring   appliance.Keyring
	// installation and keyStore are IDs.
	installation, keyStore string
	// victim is the label of the key that must stay, orphan of the one that no key
	// owns.
	victim, orphan string
	sealed         *appliance.Ciphertext
}

func newNoted(t *testing.T) *noted {
	t.Helper()
	n := &noted{}
	o := n.options()
	o.Token = realToken(t)
	n.bed = appliancetest.Start(t, o)
	n.client = n.bed.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	n.bed.NewKey(t, "demo", "victim", "encrypt,decrypt", appliance.CustodyHSM)
	n.bed.NewKey(t, "demo", "bystander", "encrypt,decrypt", appliance.CustodyHSM)
	n.bed.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	n.sealed = n.client.OK(appliancetest.Encrypt("victim", "x")).Ciphertext
	n.installation = must(n.bed.Store.Installation(ctx))(t).ID
	n.keyStore = must(n.bed.Store.KeyStores(ctx))(t)[0].ID
	n.victim = must(n.ring.TokenObject(must(n.bed.Store.Key(ctx, n.keyStore, "victim"))(t).Versions[0]))(t)
	n.orphan = n.ring.NewTokenObject()
	if err := n.bed.Token.GenerateKey(ctx, n.orphan); err != nil {
		t.Fatal(err)
	}
	return n
}

// options give n the keyring.
func (n *noted) options() appliancetest.Options {
	return appliancetest.Options{Keyring: func(k appliance.Keyring) appliance.Keyring { n.ring = k; return k }}
}

// note gives a note as the appliance seals it.
func (n *noted) note(t *testing.T, label, keyID string, version uint32) *appliance.TokenObject {
	t.Helper()
	o := &appliance.TokenObject{Label: label, KeyStore: n.keyStore, KeyID: keyID, Version: version}
	o.Seal = must(n.ring.Seal(o.Binding(n.installation), nil))(t)
	return o
}

// leftovers stores the notes, edits the database of the stopped appliance and
// starts it again, which destroys what is left over. It gives the labels that are
// noted afterwards.
func (n *noted) leftovers(t *testing.T, notes []*appliance.TokenObject, statements ...string) string {
	t.Helper()
	for _, o := range notes {
		if err := n.bed.Store.NoteTokenObjects(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	n.bed.Stop()
	for _, s := range statements {
		edit(t, n.bed.DB, s)
	}
	n.bed = restart(t, n.bed, n.client, accepting(n.options()))
	n.bed.DestroyLeftovers(ctx)
	var left []string
	for _, o := range must(n.bed.Store.TokenObjects(ctx))(t) {
		left = append(left, o.Label)
	}
	return strings.Join(left, " ")
}

// TestNoteSeals: a note counts only with the seal of this note, of this
// installation.
func TestNoteSeals(t *testing.T) {
	n := newNoted(t)
	other := &noted{}
	otherBed := appliancetest.Start(t, appliancetest.Options{Token: n.bed.Device, Beside: true, Keyring: other.options().Keyring})
	other.installation = must(otherBed.Store.Installation(ctx))(t).ID
	genuine := n.note(t, n.orphan, "unfinished", 1)
	seals := map[string][]byte{
		"none":                      nil,
		"a byte":                    {1},
		"noise":                     bytes.Repeat([]byte{1}, len(genuine.Seal)),
		"of another note":           n.note(t, n.ring.NewTokenObject(), "unfinished", 1).Seal,
		"of another key":            n.note(t, n.orphan, "other", 1).Seal,
		"of another version":        n.note(t, n.orphan, "unfinished", 2).Seal,
		"of another installation":   other.note(t, n.orphan, "unfinished", 1).Seal,
		"for another installation":  must(n.ring.Seal(genuine.Binding(other.installation), nil))(t),
		"of the key store":          must(n.ring.Seal(appliance.Binding{Purpose: "token-object", KeyStore: n.keyStore, Fields: genuine.Binding(n.installation).Fields}, nil))(t),
		"for another purpose":       must(n.ring.Seal(appliance.Binding{Purpose: "block", Fields: genuine.Binding(n.installation).Fields}, nil))(t),
		"with a secret":             must(n.ring.Seal(genuine.Binding(n.installation), []byte("x")))(t),
		"longer":                    append(bytes.Clone(genuine.Seal), 0),
		"with a flipped bit at end": append(bytes.Clone(genuine.Seal[:len(genuine.Seal)-1]), genuine.Seal[len(genuine.Seal)-1]^1),
	}
	for name, seal := range seals {
		forged := *genuine
		forged.Seal = seal
		if left := n.leftovers(t, []*appliance.TokenObject{&forged}); left != n.orphan {
			t.Errorf("%s: noted are %q", name, left)
		}
		if !encrypts(t, n.bed, n.orphan) {
			t.Fatalf("%s: the object was destroyed", name)
		}
		if log := n.bed.Log.String(); strings.Count(log, "without a seal of this appliance") != 1 || !strings.Contains(log, n.orphan) {
			t.Errorf("%s: the log says:\n%s", name, log)
		}
	}
	// The one that is sealed is acted on, and the others beside it are not.
	forged := *n.note(t, n.victim, "victim", 1)
	forged.Seal = genuine.Seal
	if left := n.leftovers(t, []*appliance.TokenObject{genuine, &forged}); left != n.victim {
		t.Errorf("noted are %q", left)
	}
	if encrypts(t, n.bed, n.orphan) {
		t.Error("the orphan still encrypts")
	}
	n.client.OK(appliancetest.Decrypt("victim", n.sealed))
	otherBed.Stop()
}

// TestManyUnsealedNotes make one line of the log, of bounded length.
func TestManyUnsealedNotes(t *testing.T) {
	n := newNoted(t)
	var many []*appliance.TokenObject
	for i := range 100 {
		many = append(many, &appliance.TokenObject{Label: fmt.Sprintf("%03d\n", i) + strings.Repeat("x", 10_000)})
	}
	n.leftovers(t, many)
	var lines []string
	for line := range strings.Lines(n.bed.Log.String()) {
		if strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || len(lines[0]) > 2000 || !strings.Contains(lines[0], "and 90 more") {
		t.Errorf("the log has the errors %q", lines)
	}
}

// TestSealedNotesOfForeignLabels: even a note of the appliance itself does not have
// an object destroyed that is not one it makes for keys.
func TestSealedNotesOfForeignLabels(t *testing.T) {
	n := newNoted(t)
	if err := n.bed.Token.GenerateKey(ctx, "payroll"); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"holdfast-master", "holdfast-probe", "payroll"} {
		if left := n.leftovers(t, []*appliance.TokenObject{n.note(t, label, "unfinished", 1)}); !strings.Contains(left, label) {
			t.Errorf("noted are %q", left)
		}
		if !encrypts(t, n.bed, label) {
			t.Errorf("%s was destroyed", label)
		}
	}
	n.client.OK(appliancetest.Decrypt("victim", n.sealed))
}

// TestReplayedNotes: a note that the appliance itself sealed, put back when a key
// has the object, does not destroy it, whatever is done to the key's rows. And as
// long as one row does not open, nothing at all is destroyed.
func TestReplayedNotes(t *testing.T) {
	for name, tt := range map[string]struct {
		statements []string
		struck     bool   // the note is removed, for it is known that a key has the object
		log        string // a part of it
		serves     bool
	}{
		"nothing else":        {nil, true, "a key needs it", true},
		"custody of version":  {[]string{`UPDATE key_versions SET custody = 'cached' WHERE key_id = 'victim'`}, false, `of key \"victim\" in key store`, false},
		"custody of all":      {[]string{`UPDATE key_versions SET custody = 'cached' WHERE key_id = 'victim'`, `UPDATE external_keys SET custody = 'cached' WHERE id = 'victim'`}, false, `of key \"victim\" in key store`, false},
		"custody unknown":     {[]string{`UPDATE key_versions SET custody = '' WHERE key_id = 'victim'`}, false, `of key \"victim\" in key store`, false},
		"looks cached":        {[]string{`UPDATE key_versions SET custody = 'cached', material = (SELECT material FROM key_versions WHERE key_id = 'cached') WHERE key_id = 'victim'`}, false, "does not match its seal", false},
		"material":            {[]string{`UPDATE key_versions SET material = (SELECT material FROM key_versions WHERE key_id = 'bystander') WHERE key_id = 'victim'`}, false, `of key \"victim\" in key store`, false},
		"material as cached":  {[]string{`UPDATE key_versions SET material = CAST(material || 'x' AS BLOB) WHERE key_id = 'victim'`}, false, `of key \"victim\" in key store`, false},
		"version gone":        {[]string{`DELETE FROM key_versions WHERE key_id = 'victim'`}, false, "lacks its current version", false},
		"version moved":       {[]string{`UPDATE key_versions SET key_id = 'cached', version = 2 WHERE key_id = 'victim'`}, false, `version 2 of key \"cached\"`, false},
		"version renumbered":  {[]string{`UPDATE key_versions SET version = 2 WHERE key_id = 'victim'`}, false, `version 2 of key \"victim\"`, false},
		"key's row":           {[]string{`UPDATE external_keys SET state = 'pending_deletion' WHERE id = 'victim'`}, false, "does not match its seal", false},
		"key store":           {[]string{`UPDATE key_stores SET wrapped_key = x'00'`}, false, "in key store", false},
		"a bystander's row":   {[]string{`UPDATE key_versions SET origin = 'imported' WHERE key_id = 'bystander'`}, false, `of key \"bystander\"`, true},
		"a cached row longer": {[]string{`UPDATE key_versions SET material = CAST(material || x'00' AS BLOB) WHERE key_id = 'cached'`}, false, `of key \"cached\"`, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNoted(t)
			orphan := n.note(t, n.orphan, "unfinished", 1)
			left := n.leftovers(t, []*appliance.TokenObject{n.note(t, n.victim, "victim", 1)}, tt.statements...)
			if struck := left == ""; struck != tt.struck {
				t.Errorf("noted are %q", left)
			}
			if !encrypts(t, n.bed, n.victim) {
				t.Fatal("the key's object was destroyed")
			}
			if log := n.bed.Log.String(); !strings.Contains(log, tt.log) || !strings.Contains(log, n.victim) {
				t.Errorf("the log lacks %q:\n%s", tt.log, log)
			}
			if tt.serves {
				n.client.OK(appliancetest.Decrypt("victim", n.sealed))
			}
			if tt.struck || tt.log == "does not match its seal" || tt.log == "lacks its current version" {
				return // what the other notes are about is known
			}
			if left := n.leftovers(t, []*appliance.TokenObject{orphan}); !strings.Contains(left, n.orphan) || !encrypts(t, n.bed, n.orphan) {
				t.Errorf("an object was destroyed while a row did not open; noted are %q", left)
			}
		})
	}
}

// TestNoteOfAnUnfinishedVersion is acted on although its key is there, with other
// versions: as a crash in the middle of a rotation leaves it, or one in the middle of
// a creation that was then repeated.
func TestNoteOfAnUnfinishedVersion(t *testing.T) {
	for name, version := range map[string]uint32{"rotation": 2, "creation": 1} {
		t.Run(name, func(t *testing.T) {
			n := newNoted(t)
			if left := n.leftovers(t, []*appliance.TokenObject{n.note(t, n.orphan, "victim", version)}); left != "" || encrypts(t, n.bed, n.orphan) {
				t.Errorf("noted are %q", left)
			}
			n.client.OK(appliancetest.Decrypt("victim", n.sealed))
		})
	}
}

// TestDueKeyOfASharedObject: a key that is due is deleted, but not the object that
// another key names as well.
func TestDueKeyOfASharedObject(t *testing.T) {
	now := appliancetest.NewClock()
	n := &noted{}
	o := n.options()
	o.Token = realToken(t)
	o.Appliance.Now, o.Appliance.Lease = now.Now, 1000*time.Hour
	n.bed = appliancetest.Start(t, o)
	n.client = n.bed.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	abroad := n.bed.NewKeyStore(t, "abroad", "/abroad", appliancetest.Principal)
	n.bed.NewKey(t, "demo", "going", "encrypt,decrypt", appliance.CustodyHSM)
	var keyStores = map[string]string{}
	for _, ks := range must(n.bed.Store.KeyStores(ctx))(t) {
		keyStores[ks.Name] = ks.ID
	}
	going := must(n.bed.Store.Key(ctx, keyStores["demo"], "going"))(t)
	label := must(n.ring.TokenObject(going.Versions[0]))(t)
	key, version := going.ExternalKey, *going.Versions[0]
	key.KeyStore, key.ID, version.KeyStore, version.KeyID = keyStores["abroad"], "staying", keyStores["abroad"], "staying"
	key.Seal = must(n.ring.Seal(key.Binding(), nil))(t)
	version.Material = must(n.ring.Seal(version.Binding(), []byte(label)))(t)
	if err := n.bed.Store.CreateKeys(ctx, appliance.NewKey{Key: &key, Version: &version}); err != nil {
		t.Fatal(err)
	}
	sealed := abroad.OK(appliancetest.Encrypt("staying", "x")).Ciphertext
	must(n.bed.Appliance.ScheduleDeletion(ctx, "demo", "going", 7))(t)
	now.Pass(8 * 24 * time.Hour)
	n.bed.Appliance.DeleteDueKeys(ctx)
	n.bed.DestroyLeftovers(ctx)
	_, err := n.bed.Appliance.ShowKey(ctx, "demo", "going")
	wantCode(t, err, fault.NotFound)
	abroad.OK(appliancetest.Decrypt("staying", sealed))
	if left := must(n.bed.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("noted are %+v", left)
	}
}

// TestDueKeyWhileARowDoesNotOpen: its object stays until all rows open again.
func TestDueKeyWhileARowDoesNotOpen(t *testing.T) {
	now := appliancetest.NewClock()
	b := appliancetest.Start(t, appliancetest.Options{Token: realToken(t), Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	k := b.NewKeyStore(t, "demo", "/demo", "")
	for _, id := range []string{"going", "edited"} {
		b.NewKey(t, "demo", id, "encrypt,decrypt", appliance.CustodyHSM)
	}
	must(b.Appliance.ScheduleDeletion(ctx, "demo", "going", 7))(t)
	b.Stop()
	edit(t, b.DB, `UPDATE key_versions SET created_at = created_at + 1 WHERE key_id = 'edited'`)
	b = restart(t, b, k, appliancetest.Options{Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	now.Pass(8 * 24 * time.Hour)
	b.Appliance.DeleteDueKeys(ctx)
	_, err := b.Appliance.ShowKey(ctx, "demo", "going")
	wantCode(t, err, fault.NotFound)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 1 || !encrypts(t, b, left[0].Label) {
		t.Fatalf("noted are %+v", left)
	}
	b.Stop()
	edit(t, b.DB, `UPDATE key_versions SET created_at = created_at - 1 WHERE key_id = 'edited'`)
	b = restart(t, b, k, appliancetest.Options{Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	b.DestroyLeftovers(ctx)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("noted are %+v", left)
	}
	if got := keyObjects(t, b.Device); got != 1 {
		t.Errorf("there are %d key objects in the token, want that of the other key", got)
	}
}

// brokenDisk is a store whose disk fails in the middle of a commit: the change is on
// the disk, and until a restart the store shows what was before.
type brokenDisk struct {
	appliance.Store
	broken   bool
	key      *appliance.StoredKey // before; nil for none
	versions []*appliance.KeyVersion
}

func (s *brokenDisk) commit(ctx context.Context, k *appliance.ExternalKey, commit func() error) (err error) {
	if s.key, err = s.Store.Key(ctx, k.KeyStore, k.ID); err != nil && fault.CodeOf(err) != fault.NotFound {
		return err
	}
	if s.versions, err = s.Store.VersionsInToken(ctx); err != nil {
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	s.broken = true
	return fault.Errorf(fault.Internal, "the database's disk failed; restart the machine to see whether the change is on it")
}

func (s *brokenDisk) CreateKeys(ctx context.Context, keys ...appliance.NewKey) error {
	return s.commit(ctx, keys[0].Key, func() error { return s.Store.CreateKeys(ctx, keys...) })
}

func (s *brokenDisk) AddKeyVersion(ctx context.Context, k *appliance.ExternalKey, v *appliance.KeyVersion, was []byte, object string) error {
	return s.commit(ctx, k, func() error { return s.Store.AddKeyVersion(ctx, k, v, was, object) })
}

func (s *brokenDisk) Key(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error) {
	switch {
	case !s.broken:
		return s.Store.Key(ctx, keyStore, id)
	case s.key == nil:
		return nil, fault.Errorf(fault.NotFound, "there is no key %q in the key store", id)
	}
	return s.key, nil
}

func (s *brokenDisk) VersionsInToken(ctx context.Context) ([]*appliance.KeyVersion, error) {
	if s.broken {
		return s.versions, nil
	}
	return s.Store.VersionsInToken(ctx)
}

func (s *brokenDisk) NoteTokenObjects(ctx context.Context, notes ...*appliance.TokenObject) error {
	if s.broken {
		return fault.Errorf(fault.Internal, "the database is not written any more, because its disk failed; nothing changed, restart the machine")
	}
	return s.Store.NoteTokenObjects(ctx, notes...)
}

// TestUnknownCommit: a key whose commit failed may be on the disk, so its object
// stays until the next start tells.
func TestUnknownCommit(t *testing.T) {
	n := newNoted(t)
	a := appliance.New(appliance.Options{Store: &brokenDisk{Store: n.bed.Store}})
	if err := a.Unlock(ctx, n.ring, nil); err != nil {
		t.Fatal(err)
	}
	_, err := a.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "new", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyHSM})
	wantCode(t, err, fault.Internal)
	a = appliance.New(appliance.Options{Store: &brokenDisk{Store: n.bed.Store}})
	if err := a.Unlock(ctx, n.ring, nil); err != nil {
		t.Fatal(err)
	}
	_, err = a.RotateKey(ctx, "demo", "victim", nil)
	wantCode(t, err, fault.Internal)
	if left := n.leftovers(t, nil); left != "" {
		t.Errorf("noted are %q", left)
	}
	n.client.OK(appliancetest.Encrypt("new", "x"))
	n.client.OK(appliancetest.Encrypt("victim", "x"))
	n.client.OK(appliancetest.Decrypt("victim", n.sealed))
}

// BenchmarkDestroyLeftovers measures what a start does for one noted object, with
// many keys in the appliance's custody and some in the HSM's; HOLDFAST_BENCH_KEYS
// sets how many.
func BenchmarkDestroyLeftovers(b *testing.B) {
	total := 10_000
	if s := os.Getenv("HOLDFAST_BENCH_KEYS"); s != "" {
		var err error
		if total, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	n := &noted{}
	o := n.options()
	o.Token = realToken(b)
	bed := appliancetest.Start(b, o)
	bed.NewKeyStore(b, "demo", "/demo", "")
	for i := range 100 {
		bed.NewKey(b, "demo", fmt.Sprint("in-token-", i), "encrypt", appliance.CustodyHSM)
	}
	stores, err := bed.Store.KeyStores(ctx)
	if err != nil {
		b.Fatal(err)
	}
	in, err := bed.Store.Installation(ctx)
	if err != nil {
		b.Fatal(err)
	}
	for from := 0; from < total; from += 10_000 {
		var keys []appliance.NewKey
		for i := from; i < min(total, from+10_000); i++ {
			id := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, i)))[:36]
			key := &appliance.ExternalKey{KeyStore: stores[0].ID, ID: id, Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1,
				CreatedAt: time.Now(), Seal: bytes.Repeat([]byte{1}, 29)}
			version := &appliance.KeyVersion{KeyStore: key.KeyStore, KeyID: id, Version: 1, Custody: appliance.CustodyCached, Origin: appliance.OriginGenerated,
				CreatedAt: key.CreatedAt, Material: bytes.Repeat([]byte{2}, appliance.CachedMaterial)}
			keys = append(keys, appliance.NewKey{Key: key, Version: version})
		}
		if err := bed.Store.CreateKeys(ctx, keys...); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		b.StopTimer()
		o := &appliance.TokenObject{Label: n.ring.NewTokenObject(), KeyStore: stores[0].ID, KeyID: "unfinished", Version: 1}
		if o.Seal, err = n.ring.Seal(o.Binding(in.ID), nil); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(bed.Store.NoteTokenObjects(ctx, o), bed.Token.GenerateKey(ctx, o.Label)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		bed.DestroyLeftovers(ctx)
		b.StopTimer()
		if encrypts(b, bed, o.Label) {
			b.Fatal("the object was not destroyed")
		}
		b.StartTimer()
	}
}

// accepting has what was edited accepted, so that what the rows' own seals do is seen.
func accepting(o appliancetest.Options) appliancetest.Options {
	o.Accept = true
	return o
}
