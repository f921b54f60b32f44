package appliance_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm/hsmtest"
)

var ctx = context.Background()

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("got %v (%s), want %s", err, fault.CodeOf(err), code)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// edit changes the database by hand, behind the back of a stopped appliance.
func edit(t *testing.T, file, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res, err := db.Exec(statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, _ := res.RowsAffected(); n == 0 {
		t.Fatalf("%s: changed nothing", statement)
	}
}

// realToken gives a fresh token of SoftHSM2.
func realToken(t testing.TB) appliancetest.Device {
	t.Helper()
	return appliancetest.PKCS11(hsmtest.New(t))
}

// restart runs the appliance again over its state.
func restart(t *testing.T, b *appliancetest.Bed, k *appliancetest.Client, o appliancetest.Options) *appliancetest.Bed {
	t.Helper()
	again := appliancetest.Restart(t, b, o)
	k.Appliance = again.Appliance
	return again
}

// TestCiphertextsSurvive restart and rotation, in both custodies.
func TestCiphertextsSurvive(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{Token: realToken(t)})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	sealed := map[string][]*appliance.Ciphertext{} // by key
	encrypt := func(key string) *appliance.Ciphertext {
		t.Helper()
		c := k.OK(appliancetest.Encrypt(key, "of "+key)).Ciphertext
		sealed[key] = append(sealed[key], c)
		return c
	}
	decryptAll := func() {
		t.Helper()
		for key, all := range sealed {
			for i, c := range all {
				if got := k.OK(appliancetest.Decrypt(key, c)).Plaintext; got != "of "+key {
					t.Errorf("%s, ciphertext %d: %q", key, i, got)
				}
			}
		}
	}
	custodies := []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM}
	for _, c := range custodies {
		b.NewKey(t, "demo", string(c), "encrypt,decrypt", c)
		encrypt(string(c))
	}
	for version := uint32(2); version <= 4; version++ {
		for _, c := range custodies {
			rotated := must(b.Appliance.RotateKey(ctx, "demo", string(c), nil))(t)
			if rotated.CurrentVersion != version {
				t.Errorf("version %d after rotation, want %d", rotated.CurrentVersion, version)
			}
			if got := encrypt(string(c)).Metadata; !bytes.Equal(got, []byte{1, 0, 0, 0, byte(version)}) {
				t.Errorf("metadata %x", got)
			}
		}
		decryptAll()
		b = restart(t, b, k, appliancetest.Options{})
		decryptAll()
	}
}

// TestRowsEditedByHand: what the row stands for is refused, the log says so,
// and nothing else is harmed.
func TestRowsEditedByHand(t *testing.T) {
	// What a request for the key "victim" gets, and for "bystander" of the same
	// key store, and for a key of another.
	const ok, internal = fault.Code(""), fault.Tampered
	tests := map[string]struct {
		statement                 string
		victim, bystander, abroad fault.Code
		log, told                 string // parts of the log, and of the error that the front end logs
	}{
		"usage":            {`UPDATE external_keys SET can_decrypt = 0 WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"state":            {`UPDATE external_keys SET state = 'disabled' WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"current version":  {`UPDATE external_keys SET current_version = 2 WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"custody":          {`UPDATE external_keys SET custody = 'hsm' WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"framing":          {`UPDATE external_keys SET framing = 'plain' WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"seal":             {`UPDATE external_keys SET seal = x'00' WHERE id = 'victim'`, internal, ok, ok, "does not match its seal", ""},
		"material":         {`UPDATE key_versions SET material = (SELECT material FROM key_versions WHERE key_id = 'bystander') WHERE key_id = 'victim'`, internal, ok, ok, "", "does not match its seal"},
		"material cut":     {`UPDATE key_versions SET material = substr(material, 1, 20) WHERE key_id = 'victim'`, internal, ok, ok, "", "does not match its seal"},
		"origin":           {`UPDATE key_versions SET origin = 'imported' WHERE key_id = 'victim'`, internal, ok, ok, "", "does not match its seal"},
		"version gone":     {`DELETE FROM key_versions WHERE key_id = 'victim'`, internal, ok, ok, "lacks its current version", ""},
		"grant":            {`UPDATE grants SET operations = 'Encrypt' WHERE key_store = (SELECT id FROM key_stores WHERE name = 'home')`, fault.Denied, fault.Denied, ok, "allows nothing", ""},
		"grant moved":      {`UPDATE grants SET key_id = 'victim' WHERE key_store = (SELECT id FROM key_stores WHERE name = 'home')`, fault.Denied, fault.Denied, ok, "allows nothing", ""},
		"prefix":           {`UPDATE key_stores SET name = 'house' WHERE name = 'home'`, internal, internal, ok, "out of service", ""},
		"keyring key":      {`UPDATE key_stores SET wrapped_key = (SELECT wrapped_key FROM key_stores WHERE name = 'abroad') WHERE name = 'home'`, internal, internal, ok, "does not unwrap", ""},
		"credential moved": {`UPDATE credentials SET created_at = created_at + 1 WHERE key_store = (SELECT id FROM key_stores WHERE name = 'home')`, fault.Unauthenticated, fault.Unauthenticated, ok, "a credential does not open", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := appliancetest.Start(t, appliancetest.Options{})
			k := b.NewKeyStore(t, "home", "/home", appliancetest.Principal)
			abroad := b.NewKeyStore(t, "abroad", "/abroad", appliancetest.Principal)
			sealed := map[string]*appliance.Ciphertext{}
			for _, id := range []string{"victim", "bystander"} {
				b.NewKey(t, "home", id, "encrypt,decrypt", appliance.CustodyCached)
				sealed[id] = k.OK(appliancetest.Encrypt(id, "x")).Ciphertext
			}
			b.NewKey(t, "abroad", "foreign", "encrypt,decrypt", appliance.CustodyCached)
			sealed["foreign"] = abroad.OK(appliancetest.Encrypt("foreign", "x")).Ciphertext
			b.Stop()
			edit(t, b.DB, tt.statement)
			again := restart(t, b, k, appliancetest.Options{Accept: true})
			abroad.Appliance = again.Appliance
			var told []error
			for _, c := range []struct {
				client *appliancetest.Client
				key    string
				want   fault.Code
			}{{k, "victim", tt.victim}, {k, "bystander", tt.bystander}, {abroad, "foreign", tt.abroad}} {
				_, err := c.client.Call(appliancetest.Decrypt(c.key, sealed[c.key]))
				told = append(told, err)
				if got := fault.CodeOf(err); got != c.want {
					t.Errorf("%s: got %v (%s), want %s", c.key, err, got, c.want)
				}
			}
			if !strings.Contains(again.Log.String(), tt.log) {
				t.Errorf("the log lacks %q:\n%s", tt.log, again.Log)
			}
			if tt.told != "" && !strings.Contains(fmt.Sprint(told[0]), tt.told) {
				t.Errorf("the error %v lacks %q", told[0], tt.told)
			}
		})
	}
}

// TestAnotherToken: the database of one HSM does not open under another's
// master key, and the error says what to look for.
func TestAnotherToken(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{Token: realToken(t)})
	b.NewKeyStore(t, "demo", "/demo", "")
	other := appliancetest.Start(t, appliancetest.Options{Token: realToken(t)})
	err := appliance.New(appliance.Options{Store: b.Store}).Unlock(ctx, keyring.New(other.Token), nil)
	wantCode(t, err, fault.Tampered)
	if !strings.Contains(err.Error(), "another HSM") {
		t.Errorf("got %v", err)
	}
}

// TestRotationByCount: a version rotates when it has done its encryptions, and
// what it encrypted still decrypts.
func TestRotationByCount(t *testing.T) {
	var told []string // each rotation is on record before it is done
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{RotateAfter: 64, Rotating: func(_ context.Context, keyStore, key string, version uint32) error {
		told = append(told, fmt.Sprintf("%s/%s %d", keyStore, key, version))
		return nil
	}}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	first := k.OK(appliancetest.Encrypt("k", "first")).Ciphertext
	for range 63 {
		k.OK(appliancetest.Encrypt("k", "x"))
	}
	if v := must(b.Appliance.ShowKey(ctx, "demo", "k"))(t); v.CurrentVersion != 1 || v.Versions[0].Encryptions != 64 {
		t.Errorf("after 64 encryptions: version %d, count %d", v.CurrentVersion, v.Versions[0].Encryptions)
	}
	last := k.OK(appliancetest.Encrypt("k", "last")).Ciphertext
	if v := must(b.Appliance.ShowKey(ctx, "demo", "k"))(t); v.CurrentVersion != 2 || !slices.Equal(told, []string{"demo/k 2"}) {
		t.Errorf("after 65 encryptions: version %d, told %q", v.CurrentVersion, told)
	}
	for want, sealed := range map[string]*appliance.Ciphertext{"first": first, "last": last} {
		if got := k.OK(appliancetest.Decrypt("k", sealed)).Plaintext; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// Under load from all sides no version does much more than its share.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				k.OK(appliancetest.Encrypt("k", "x"))
			}
		})
	}
	wg.Wait()
	for _, v := range must(b.Appliance.ShowKey(ctx, "demo", "k"))(t).Versions {
		if v.Encryptions > 64 {
			t.Errorf("version %d did up to %d encryptions", v.Version, v.Encryptions)
		}
	}
}

// TestCountNeverGoesBack over a restart: what was reserved counts as done.
func TestCountNeverGoesBack(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt", appliance.CustodyCached)
	before := uint64(0)
	for range 3 {
		for range 5 {
			k.OK(appliancetest.Encrypt("k", "x"))
		}
		n := must(b.Appliance.ShowKey(ctx, "demo", "k"))(t).Versions[0].Encryptions
		if n < before+5 {
			t.Errorf("count %d after %d and five encryptions", n, before)
		}
		before = n
		b = restart(t, b, k, appliancetest.Options{})
	}
}

// TestScheduledDeletion: the key and its token object go when the time comes,
// not before, and not if it was cancelled.
func TestScheduledDeletion(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	var told []string
	unrecorded := errors.New("the disk is full")
	b := appliancetest.Start(t, appliancetest.Options{Token: realToken(t), Appliance: appliance.Options{Lease: 1000 * time.Hour * 24, Now: clock,
		Deleting: func(_ context.Context, keyStore, keyID string) error {
			told = append(told, keyStore+" "+keyID)
			return unrecorded
		}}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	for _, id := range []string{"going", "staying"} {
		b.NewKey(t, "demo", id, "encrypt,decrypt", appliance.CustodyHSM)
		must(b.Appliance.AddGrant(ctx, "demo", appliance.Grant{KeyID: id, Principal: "dynamodb.amazonaws.com", Operations: []appliance.Operation{appliance.OpEncrypt}}))(t)
	}
	_, err := b.Appliance.ScheduleDeletion(ctx, "demo", "going", 6)
	wantCode(t, err, fault.Invalid)
	_, err = b.Appliance.ScheduleDeletion(ctx, "demo", "going", 31)
	wantCode(t, err, fault.Invalid)
	_, err = b.Appliance.CancelDeletion(ctx, "demo", "going")
	wantCode(t, err, fault.Conflict)
	must(b.Appliance.ScheduleDeletion(ctx, "demo", "going", 7))(t)
	must(b.Appliance.ScheduleDeletion(ctx, "demo", "staying", 30))(t)
	_, err = b.Appliance.ScheduleDeletion(ctx, "demo", "going", 7)
	wantCode(t, err, fault.Conflict)
	_, err = b.Appliance.SetKeyEnabled(ctx, "demo", "going", true)
	wantCode(t, err, fault.Conflict)
	_, err = b.Appliance.RotateKey(ctx, "demo", "going", nil)
	wantCode(t, err, fault.Conflict)

	now = now.Add(7*24*time.Hour - time.Second)
	b.Appliance.DeleteDueKeys(ctx)
	must(b.Appliance.ShowKey(ctx, "demo", "going"))(t)
	must(b.Appliance.CancelDeletion(ctx, "demo", "staying"))(t)
	now = now.Add(2 * time.Second)
	b.Appliance.DeleteDueKeys(ctx) // which cannot be recorded
	must(b.Appliance.ShowKey(ctx, "demo", "going"))(t)
	unrecorded = nil
	b.Appliance.DeleteDueKeys(ctx)
	_, err = b.Appliance.ShowKey(ctx, "demo", "going")
	wantCode(t, err, fault.NotFound)
	if !slices.Equal(told, []string{"demo going", "demo going"}) {
		t.Errorf("told of %q", told)
	}
	k.Fails(appliancetest.Encrypt("going", "x"), fault.NotFound)
	b.DestroyLeftovers(ctx)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("token objects left to destroy: %v", left)
	}
	if grants := must(b.Appliance.Grants(ctx, "demo"))(t); len(grants) != 2 {
		t.Errorf("%d grants, want the one on the key store and the one on the other key", len(grants))
	}
	now = now.Add(40 * 24 * time.Hour)
	b.Appliance.DeleteDueKeys(ctx)
	if got := must(b.Appliance.ShowKey(ctx, "demo", "staying"))(t).State; got != appliance.KeyDisabled {
		t.Errorf("the key whose deletion was cancelled is %s", got)
	}
}

// TestDestructionIsRecorded: that a key's object in the HSM is destroyed is on record
// before, once, and with the names of key and key store; what cannot be recorded is not
// destroyed.
func TestDestructionIsRecorded(t *testing.T) {
	for name, custody := range map[string]appliance.Custody{"in the HSM": appliance.CustodyHSM, "in memory": appliance.CustodyCached} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			var told []string
			unrecorded := errors.New("the disk is full")
			var b *appliancetest.Bed
			b = appliancetest.Start(t, appliancetest.Options{Token: realToken(t), Appliance: appliance.Options{Lease: 1000 * time.Hour * 24, Now: func() time.Time { return now },
				Destroying: func(_ context.Context, keyStore string, o *appliance.TokenObject) error {
					told = append(told, fmt.Sprintf("%s %s %d", keyStore, o.KeyID, o.Version))
					if !encrypts(t, b, o.Label) {
						t.Error("it was destroyed before")
					}
					return unrecorded
				}}})
			b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
			b.NewKey(t, "demo", "going", "encrypt,decrypt", custody)
			must(b.Appliance.ScheduleDeletion(ctx, "demo", "going", 7))(t)
			now = now.Add(8 * 24 * time.Hour)
			b.Appliance.DeleteDueKeys(ctx)
			var want []string
			noted := len(must(b.Store.TokenObjects(ctx))(t))
			if custody == appliance.CustodyHSM {
				want = []string{"demo going 1", "demo going 1"}
				b.DestroyLeftovers(ctx) // which cannot be recorded
				if left := len(must(b.Store.TokenObjects(ctx))(t)); left != noted || noted != 1 {
					t.Errorf("%d objects are noted, %d were", left, noted)
				}
			}
			unrecorded = nil
			b.DestroyLeftovers(ctx)
			b.DestroyLeftovers(ctx)
			if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 || !slices.Equal(told, want) {
				t.Errorf("noted are %v; told of %q, want %q", left, told, want)
			}
		})
	}
}

// TestLeftoverTokenObjects of a crash are destroyed at the next start; those of
// keys are not.
func TestLeftoverTokenObjects(t *testing.T) {
	n := newNoted(t)
	if left := n.leftovers(t, []*appliance.TokenObject{n.note(t, n.orphan, "unfinished", 1)}); left != "" {
		t.Errorf("still noted: %q", left)
	}
	if encrypts(t, n.bed, n.orphan) {
		t.Error("the orphan still encrypts")
	}
	n.client.OK(appliancetest.Encrypt("victim", "x"))
}

// TestAdministration: what is refused, and why.
func TestAdministration(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	a := b.Appliance
	b.NewKeyStore(t, "demo", "/demo", "")
	create := func(ks appliance.KeyStore) error { _, err := a.CreateKeyStore(ctx, ks); return err }
	wantCode(t, create(appliance.KeyStore{Name: "demo", URIPathPrefix: "/x"}), fault.Exists)
	wantCode(t, create(appliance.KeyStore{Name: "x", URIPathPrefix: "/demo"}), fault.Exists)
	for _, prefix := range []string{"demo", "/", "/a/", "/a b", "/a.b", "//a", "/kms/xks/v1", "/a/kms/xks/v1/b", "/" + strings.Repeat("x", 117)} {
		wantCode(t, create(appliance.KeyStore{Name: "x", URIPathPrefix: prefix}), fault.Invalid)
	}
	for _, name := range []string{"", "-x", "a b", "a/b", strings.Repeat("x", 65)} {
		wantCode(t, create(appliance.KeyStore{Name: name, URIPathPrefix: "/x"}), fault.Invalid)
	}
	if err := create(appliance.KeyStore{Name: "x", URIPathPrefix: "/" + strings.Repeat("x", 116)}); err != nil {
		t.Errorf("a prefix that makes 128 characters: %v", err)
	}

	key := func(id string, custody appliance.Custody, material []byte) error {
		_, err := a.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Custody: custody, Material: material})
		return err
	}
	wantCode(t, key("", appliance.CustodyCached, nil), fault.Invalid)
	wantCode(t, key("a/b", appliance.CustodyCached, nil), fault.Invalid)
	wantCode(t, key("k", "elsewhere", nil), fault.Invalid)
	wantCode(t, key("k", appliance.CustodyCached, make([]byte, 16)), fault.Invalid)
	wantCode(t, key("k", appliance.CustodyHSM, make([]byte, 33)), fault.Invalid)
	if err := key("k", appliance.CustodyCached, nil); err != nil {
		t.Fatal(err)
	}
	wantCode(t, key("k", appliance.CustodyCached, nil), fault.Exists)
	wantCode(t, key("k", appliance.CustodyHSM, nil), fault.Exists)
	err := a.DeleteKeyStore(ctx, "demo")
	wantCode(t, err, fault.Conflict)
	if err := a.DeleteKeyStore(ctx, "x"); err != nil {
		t.Error(err)
	}
	wantCode(t, a.DeleteKeyStore(ctx, "x"), fault.NotFound)

	credential := func(id, secret string) error {
		_, _, err := a.CreateCredential(ctx, "demo", appliance.NewCredential{AccessKeyID: id, SecretAccessKey: secret})
		return err
	}
	good := strings.Repeat("s", 43)
	wantCode(t, credential("AKIAIOSFODNN7EXAMPL1", good), fault.Invalid)
	wantCode(t, credential("SHORT", good), fault.Invalid)
	wantCode(t, credential("AKIAIOSFODNN7EXAMPLE", strings.Repeat("s", 42)), fault.Invalid)
	wantCode(t, credential("AKIAIOSFODNN7EXAMPLE", strings.Repeat("-", 43)), fault.Invalid)
	if err := credential("AKIAIOSFODNN7EXAMPLE", good); err != nil {
		t.Fatal(err)
	}
	wantCode(t, credential("AKIAIOSFODNN7EXAMPLE", good), fault.Exists)
	_, err = a.SetCredentialActive(ctx, "demo", "ABSENT", true)
	wantCode(t, err, fault.NotFound)
	made, secret, err := a.CreateCredential(ctx, "demo", appliance.NewCredential{})
	if err != nil || !appliance.ValidAccessKeyID(made.AccessKeyID) || !appliance.ValidSecretAccessKey(secret) {
		t.Errorf("%v: KMS would not take what was made", err)
	}
	if raw, err := base64.StdEncoding.DecodeString(secret); err != nil || len(raw) != 32 {
		t.Error("the secret does not have 256 bits")
	}

	grant := func(g appliance.Grant) error { _, err := a.AddGrant(ctx, "demo", g); return err }
	ops := []appliance.Operation{appliance.OpEncrypt}
	wantCode(t, grant(appliance.Grant{Operations: ops}), fault.Invalid)
	wantCode(t, grant(appliance.Grant{Principal: "arn:*", Operations: ops}), fault.Invalid)
	wantCode(t, grant(appliance.Grant{Principal: "dynamodb.amazonaws.com"}), fault.Invalid)
	wantCode(t, grant(appliance.Grant{Principal: "dynamodb.amazonaws.com", Operations: []appliance.Operation{"Sign"}}), fault.Invalid)
	wantCode(t, grant(appliance.Grant{Principal: "dynamodb.amazonaws.com", Operations: ops, KeyID: "absent"}), fault.NotFound)
	wantCode(t, a.RemoveGrant(ctx, "demo", "absent"), fault.NotFound)

	_, err = a.Keys(ctx, "demo", appliance.Page{Limit: 0}, "")
	wantCode(t, err, fault.Invalid)
	a.Lock()
	wantCode(t, create(appliance.KeyStore{Name: "y", URIPathPrefix: "/y"}), fault.Locked)
	_, err = a.ShowKey(ctx, "demo", "k")
	wantCode(t, err, fault.Locked)
}

// TestBoundedCache: more keys than are kept unlocked, used at once by many.
func TestBoundedCache(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{MaxUnlockedKeys: 16}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	const keys = 60
	for i := range keys {
		b.NewKey(t, "demo", fmt.Sprintf("k%d", i), "encrypt,decrypt", appliance.CustodyCached)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 60 {
				key := fmt.Sprintf("k%d", (i*(g+1))%keys)
				request := appliancetest.Encrypt(key, "of "+key)
				request.Check = true
				sealed := k.OK(request).Ciphertext
				if got := k.OK(appliancetest.Decrypt(key, sealed)).Plaintext; got != "of "+key {
					t.Errorf("%s: %q", key, got)
				}
			}
		})
	}
	wg.Wait()
}

// TestChangesUnderLoad: administration does not disturb requests that have
// nothing to do with it.
func TestChangesUnderLoad(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				sealed := k.OK(appliancetest.Encrypt("k", "x")).Ciphertext
				k.OK(appliancetest.Decrypt("k", sealed))
			}
		})
	}
	for i := range 20 {
		name := fmt.Sprintf("s%d", i)
		b.NewKeyStore(t, name, "/"+name, "*")
		c, _, err := b.Appliance.CreateCredential(ctx, "demo", appliance.NewCredential{})
		if err != nil {
			t.Fatal(err)
		}
		must(b.Appliance.RotateKey(ctx, "demo", "k", nil))(t)
		if err := errors.Join(b.Appliance.DeleteCredential(ctx, "demo", c.AccessKeyID), b.Appliance.DeleteKeyStore(ctx, name)); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}

// TestNothingSecretOnDisk: neither secrets nor key material nor plaintext are
// in the files of the database.
func TestNothingSecretOnDisk(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	material := []byte("an imported key of 32 bytes, raw")
	must(b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true, Decrypt: true},
		Custody: appliance.CustodyCached, Material: bytes.Clone(material)}))(t)
	k.OK(appliancetest.Encrypt("k", "the plaintext of the test"))
	check := func() {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(b.Dir, "*"))
		if err != nil || len(files) == 0 {
			t.Fatal("no files", err)
		}
		for _, f := range files {
			content, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{k.SecretAccessKey, string(material), "the plaintext of the test"} {
				if bytes.Contains(content, []byte(secret)) {
					t.Errorf("%s has %q", f, secret)
				}
			}
		}
	}
	check()
	b.Stop()
	check()
}

func TestMain(m *testing.M) { hsmtest.Main(m) }
