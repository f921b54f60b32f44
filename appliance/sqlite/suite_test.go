package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// testStore says what every engine of appliance.Store must do. open gives an
// empty store each time.
func testStore(t *testing.T, open func(t *testing.T) appliance.Store) {
	for name, test := range map[string]func(t *testing.T, s appliance.Store){
		"installation":               testInstallation,
		"key stores":                 testKeyStores,
		"delete a key store":         testDeleteKeyStore,
		"keys":                       testKeys,
		"pages of keys":              testPages,
		"pages by prefix and state":  testFilteredPages,
		"keys are all or none":       testCreateKeysAtomic,
		"update a key":               testUpdateKey,
		"versions":                   testVersions,
		"delete a key":               testDeleteKey,
		"keys due for deletion":      testDue,
		"reserve encryptions":        testReserve,
		"reserve at once":            testReserveConcurrently,
		"token objects":              testTokenObjects,
		"versions in the token":      testVersionsInToken,
		"boots":                      testBoot,
		"credentials":                testCredentials,
		"credential use":             testCredentialUse,
		"grants":                     testGrants,
		"blocks":                     testBlocks,
		"changes are announced":      testSubscribe,
		"nothing after a refusal":    testSubscribeRefused,
		"subscriber may write":       testSubscriberWrites,
		"one refusal harms no other": testMixedConcurrent,
		"a read is one snapshot":     testSnapshot,
		"contexts":                   testContext,
		"close":                      testClose,
		"close while in use":         testCloseInUse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// at gives a time of the precision that is stored.
func at(minute int) time.Time {
	return time.Date(2026, 5, 4, 3, minute, 1, 234e6, time.UTC)
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

func keyStore(n int) *appliance.KeyStore {
	return &appliance.KeyStore{ID: id(n), Name: fmt.Sprintf("store-%d", n), URIPathPrefix: fmt.Sprintf("/p%d", n),
		RequestsPerSecond: n, CreatedAt: at(n), WrappedKey: []byte{1, byte(n)}, Seal: []byte{2, byte(n)}}
}

func newKey(ks *appliance.KeyStore, keyID string) appliance.NewKey {
	return appliance.NewKey{
		Key: &appliance.ExternalKey{KeyStore: ks.ID, ID: keyID, Usage: appliance.Usage{Encrypt: true, Decrypt: true},
			Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: at(1), Seal: []byte("seal of " + keyID)},
		Version: version(ks, keyID, 1),
	}
}

func version(ks *appliance.KeyStore, keyID string, n uint32) *appliance.KeyVersion {
	return &appliance.KeyVersion{KeyStore: ks.ID, KeyID: keyID, Version: n, Custody: appliance.CustodyCached,
		Origin: appliance.OriginGenerated, CreatedAt: at(int(n)), Material: fmt.Appendf(nil, "material %d of %s", n, keyID)}
}

func credential(ks *appliance.KeyStore, n int) *appliance.Credential {
	return &appliance.Credential{AccessKeyID: fmt.Sprintf("AAAAAAAAAAAAAAAAAA%02d", n), KeyStore: ks.ID, Active: true,
		CreatedAt: at(n), Secret: []byte{3, byte(n)}}
}

func grant(ks *appliance.KeyStore, n int, keyID string) *appliance.Grant {
	return &appliance.Grant{ID: id(n), KeyStore: ks.ID, KeyID: keyID, Principal: "arn:aws:iam::1:role/r", CreatedAt: at(n),
		Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpGetAttributes}, Seal: []byte{4, byte(n)}}
}

func tokenObject(label string) *appliance.TokenObject {
	return &appliance.TokenObject{Label: label, KeyStore: id(1), KeyID: "of " + label, Version: 7, Seal: []byte("seal of " + label)}
}

func tokenObjects(labels ...string) (list []*appliance.TokenObject) {
	for _, label := range labels {
		list = append(list, tokenObject(label))
	}
	return list
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants fails unless err has the code, and a message of one line with the part.
func wants(t testing.TB, err error, code fault.Code, part string) {
	t.Helper()
	var e *fault.Fault
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error is %v; want code %s", err, code)
	}
	if !strings.Contains(e.Message, part) || strings.Contains(e.Message, "\n") {
		t.Fatalf("message is %q; want one line with %q", e.Message, part)
	}
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", show(got), show(want))
	}
}

func show(v any) string {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice || r.Type().Elem().Kind() != reflect.Pointer {
		return fmt.Sprintf("%+v", v)
	}
	var b strings.Builder
	for i := range r.Len() {
		fmt.Fprintf(&b, "%+v ", r.Index(i).Elem())
	}
	return b.String()
}

// got gives the value, or fails the test.
func got[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func testInstallation(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	_, err := s.Installation(ctx)
	wants(t, err, fault.NotFound, "no installation")
	in := &appliance.Installation{ID: id(1), WrappedStateKey: []byte("wrapped"), CreatedAt: at(1)}
	must(t, s.CreateInstallation(ctx, in))
	equal(t, got(s.Installation(ctx))(t), in)
	wants(t, s.CreateInstallation(ctx, &appliance.Installation{ID: id(2), CreatedAt: at(2)}), fault.Exists, "already")
	equal(t, got(s.Installation(ctx))(t), in)
}

func testKeyStores(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	if list := got(s.KeyStores(ctx))(t); len(list) != 0 {
		t.Fatalf("an empty store has %d key stores", len(list))
	}
	two, one, bare := keyStore(2), keyStore(1), keyStore(3)
	bare.URIPathPrefix = ""
	for _, ks := range []*appliance.KeyStore{two, one, bare} {
		must(t, s.CreateKeyStore(ctx, ks))
	}
	equal(t, got(s.KeyStores(ctx))(t), []*appliance.KeyStore{one, two, bare})

	same := keyStore(4)
	same.Name = one.Name
	wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-1"`)
	same = keyStore(4)
	same.URIPathPrefix = two.URIPathPrefix
	wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"/p2"`)
	same.URIPathPrefix = ""
	wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-3"`)
	same = keyStore(4)
	same.ID = two.ID
	wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-2"`)
	equal(t, got(s.KeyStores(ctx))(t), []*appliance.KeyStore{one, two, bare})
}

func testDeleteKeyStore(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	wants(t, s.DeleteKeyStore(ctx, ks.ID), fault.NotFound, "no key store")
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	must(t, s.CreateKeys(ctx, newKey(ks, "a"), newKey(ks, "b"), newKey(ks, "c")))
	must(t, s.CreateCredential(ctx, credential(ks, 1)))
	must(t, s.CreateCredential(ctx, credential(other, 2)))
	must(t, s.CreateGrant(ctx, grant(ks, 1, "")))
	wants(t, s.DeleteKeyStore(ctx, ks.ID), fault.Conflict, `key store "store-1" has 3 keys; delete them first`)
	must(t, s.DeleteKey(ctx, ks.ID, "a", []byte("seal of a"), nil))
	must(t, s.DeleteKey(ctx, ks.ID, "b", []byte("seal of b"), nil))
	wants(t, s.DeleteKeyStore(ctx, ks.ID), fault.Conflict, `key store "store-1" has 1 key; delete it first`)
	must(t, s.DeleteKey(ctx, ks.ID, "c", []byte("seal of c"), nil))
	must(t, s.DeleteKeyStore(ctx, ks.ID))

	equal(t, got(s.KeyStores(ctx))(t), []*appliance.KeyStore{other})
	if n := len(got(s.Credentials(ctx, ks.ID))(t)) + len(got(s.Grants(ctx, ks.ID))(t)); n != 0 {
		t.Fatalf("%d credentials and grants were left behind", n)
	}
	equal(t, got(s.Credentials(ctx, other.ID))(t), []*appliance.Credential{credential(other, 2)})
	wants(t, s.DeleteKeyStore(ctx, ks.ID), fault.NotFound, "no key store")
}

func testKeys(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	wants(t, s.CreateKeys(ctx, newKey(ks, "a")), fault.NotFound, "no key store")
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	k := newKey(ks, "a")
	k.Key.Usage.Encrypt = false
	k.Key.Custody, k.Version.Custody = appliance.CustodyHSM, appliance.CustodyHSM
	k.Key.State, k.Key.DeletionAt = appliance.KeyPendingDeletion, at(9)
	k.Version.Origin, k.Version.Encryptions = appliance.OriginImported, 7
	must(t, s.CreateKeys(ctx, k, newKey(ks, "b"), newKey(other, "a")))

	equal(t, *got(s.Key(ctx, ks.ID, "a"))(t), appliance.StoredKey{ExternalKey: *k.Key, Versions: []*appliance.KeyVersion{k.Version}})
	o := newKey(other, "a")
	equal(t, *got(s.Key(ctx, other.ID, "a"))(t), appliance.StoredKey{ExternalKey: *o.Key, Versions: []*appliance.KeyVersion{o.Version}})
	_, err := s.Key(ctx, ks.ID, "c")
	wants(t, err, fault.NotFound, `"c"`)
	_, err = s.Key(ctx, id(9), "a")
	wants(t, err, fault.NotFound, `"a"`)
	for store, want := range map[string]int{ks.ID: 2, other.ID: 1, id(9): 0} {
		equal(t, got(s.CountKeys(ctx, store))(t), want)
	}
	must(t, s.CreateKeys(ctx))
}

func testPages(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	var keys []appliance.NewKey
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("k%02d", i))
		keys = append(keys, newKey(ks, fmt.Sprintf("k%02d", 24-i)))
	}
	must(t, s.CreateKeys(ctx, append(keys, newKey(other, "k05b"))...))
	var ids []string
	page := appliance.Page{Limit: 10}
	for {
		list := got(s.Keys(ctx, ks.ID, page))(t)
		if len(list) > page.Limit {
			t.Fatalf("a page of %d has %d keys", page.Limit, len(list))
		}
		if len(list) == 0 {
			break
		}
		for _, k := range list {
			equal(t, k, newKey(ks, k.ID).Key)
			ids = append(ids, k.ID)
		}
		page.After = ids[len(ids)-1]
	}
	equal(t, ids, want)
	for _, limit := range []int{0, -1, 1001} {
		_, err := s.Keys(ctx, ks.ID, appliance.Page{Limit: limit})
		wants(t, err, fault.Invalid, "1 to 1000")
	}
}

func testFilteredPages(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	suspended := newKey(ks, "c")
	suspended.Key.State = appliance.KeyDeletionSuspended
	must(t, s.CreateKeys(ctx, suspended))
	for i, name := range []string{"a", "ab", "ab-1", "ab.2", "abc", "ac", "b", "zz", "z"} {
		for _, in := range []*appliance.KeyStore{ks, other} {
			k := newKey(in, name)
			must(t, s.CreateKeys(ctx, k))
			was := k.Key.Seal
			changed := *k.Key
			switch i % 3 {
			case 1:
				changed.State = appliance.KeyDisabled
			case 2:
				changed.State, changed.Blocked = appliance.KeyPendingDeletion, appliance.Block{Reason: "why", Since: changed.CreatedAt}
			}
			must(t, s.UpdateKey(ctx, &changed, was))
		}
	}
	for _, tt := range []struct {
		page appliance.Page
		want string
	}{
		{appliance.Page{Prefix: "ab"}, "ab ab-1 ab.2 abc"},
		{appliance.Page{Prefix: "ab", After: "ab"}, "ab-1 ab.2 abc"},
		{appliance.Page{Prefix: "ab", After: "ab-1", Limit: 1}, "ab.2"},
		{appliance.Page{Prefix: "b", After: "a"}, "b"},
		{appliance.Page{Prefix: "a", After: "b"}, ""},
		{appliance.Page{Prefix: "z"}, "z zz"},
		{appliance.Page{Prefix: "y"}, ""},
		{appliance.Page{State: appliance.KeyEnabled}, "a ab.2 b"},
		{appliance.Page{State: appliance.KeyDisabled}, "ab abc zz"},
		{appliance.Page{State: appliance.KeyDisabled, Limit: 2}, "ab abc"},
		{appliance.Page{State: appliance.KeyDisabled, After: "abc"}, "zz"},
		{appliance.Page{State: appliance.KeyDisabled, Prefix: "ab"}, "ab abc"},
		{appliance.Page{State: appliance.KeyPendingDeletion}, "ab-1 ac z"},
		{appliance.Page{State: appliance.KeyDeletionSuspended}, "c"},
		{appliance.Page{State: appliance.KeyBlocked}, "ab-1 ac z"},
		{appliance.Page{State: appliance.KeyBlocked, After: "ab-1", Limit: 1}, "ac"},
		{appliance.Page{State: appliance.KeyBlocked, Prefix: "b"}, ""},
	} {
		if tt.page.Limit == 0 {
			tt.page.Limit = 100
		}
		var ids []string
		for _, k := range got(s.Keys(ctx, ks.ID, tt.page))(t) {
			ids = append(ids, k.ID)
			equal(t, k.KeyStore, ks.ID)
		}
		if strings.Join(ids, " ") != tt.want {
			t.Errorf("%+v: %v, want %s", tt.page, ids, tt.want)
		}
	}
}

func testCreateKeysAtomic(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "taken")))
	must(t, s.NoteTokenObject(ctx, tokenObject("object")))
	a := newKey(ks, "a")
	a.TokenObject = "object"
	wants(t, s.CreateKeys(ctx, a, newKey(ks, "taken"), newKey(ks, "z")), fault.Exists, `"taken"`)
	wants(t, s.CreateKeys(ctx, a, newKey(ks, "twice"), newKey(ks, "twice")), fault.Exists, `"twice"`)
	wants(t, s.CreateKeys(ctx, a, newKey(keyStore(2), "z")), fault.NotFound, "no key store")
	_, err := s.Key(ctx, ks.ID, "a")
	wants(t, err, fault.NotFound, `"a"`)
	equal(t, got(s.CountKeys(ctx, ks.ID))(t), 1)
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("object"))
}

func testUpdateKey(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a"), newKey(ks, "b")))
	k := newKey(ks, "a").Key
	was := k.Seal
	k.State, k.DeletionAt, k.Usage.Decrypt, k.Seal = appliance.KeyPendingDeletion, at(30), false, []byte("new seal")
	must(t, s.UpdateKey(ctx, k, was))
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k)
	equal(t, &got(s.Key(ctx, ks.ID, "b"))(t).ExternalKey, newKey(ks, "b").Key)

	late := newKey(ks, "a").Key
	wants(t, s.UpdateKey(ctx, late, was), fault.Changed, `"a"`)
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k)

	back := *k
	back.State, back.DeletionAt = appliance.KeyEnabled, time.Time{}
	must(t, s.UpdateKey(ctx, &back, k.Seal))
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, &back)
	wants(t, s.UpdateKey(ctx, newKey(ks, "c").Key, was), fault.NotFound, `"c"`)
}

func testVersions(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a")))
	must(t, s.NoteTokenObject(ctx, tokenObject("object")))
	k := newKey(ks, "a").Key
	was := k.Seal
	k.CurrentVersion, k.Seal = 2, []byte("seal 2")
	v2 := version(ks, "a", 2)
	wants(t, s.AddKeyVersion(ctx, k, v2, []byte("other"), "object"), fault.Changed, `"a"`)
	wants(t, s.AddKeyVersion(ctx, k, version(ks, "a", 1), was, "object"), fault.Exists, "version 1")
	wants(t, s.AddKeyVersion(ctx, newKey(ks, "b").Key, version(ks, "b", 2), was, "object"), fault.NotFound, `"b"`)
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, newKey(ks, "a").Key)
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("object"))

	must(t, s.AddKeyVersion(ctx, k, v2, was, "object"))
	equal(t, *got(s.Key(ctx, ks.ID, "a"))(t), appliance.StoredKey{ExternalKey: *k,
		Versions: []*appliance.KeyVersion{version(ks, "a", 1), v2}})
	equal(t, len(got(s.TokenObjects(ctx))(t)), 0)
}

func testDeleteKey(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a"), newKey(ks, "b")))
	must(t, s.CreateGrant(ctx, grant(ks, 1, "a")))
	must(t, s.CreateGrant(ctx, grant(ks, 2, "b")))
	must(t, s.CreateGrant(ctx, grant(ks, 3, "")))
	wants(t, s.DeleteKey(ctx, ks.ID, "a", []byte("other"), tokenObjects("x")), fault.Changed, `"a"`)
	wants(t, s.DeleteKey(ctx, ks.ID, "c", nil, tokenObjects("x")), fault.NotFound, `"c"`)
	equal(t, len(got(s.TokenObjects(ctx))(t)), 0)
	must(t, s.DeleteKey(ctx, ks.ID, "a", []byte("seal of a"), tokenObjects("y", "x")))
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("x", "y"))
	_, err := s.Key(ctx, ks.ID, "a")
	wants(t, err, fault.NotFound, `"a"`)
	equal(t, got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{grant(ks, 2, "b"), grant(ks, 3, "")})
	equal(t, got(s.CountKeys(ctx, ks.ID))(t), 1)
	_, err = s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1)
	wants(t, err, fault.NotFound, `"a"`)
	// The ID is free again, and nothing of the old key comes back with it.
	must(t, s.CreateKeys(ctx, newKey(ks, "a")))
	k := got(s.Key(ctx, ks.ID, "a"))(t)
	equal(t, k.Versions, []*appliance.KeyVersion{version(ks, "a", 1)})
	equal(t, len(k.Grants), 0)
}

func testDue(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	pending := func(ks *appliance.KeyStore, id string, minute int) appliance.NewKey {
		k := newKey(ks, id)
		k.Key.State, k.Key.DeletionAt = appliance.KeyPendingDeletion, at(minute)
		return k
	}
	late, due, first := pending(ks, "late", 21), pending(ks, "due", 20), pending(other, "first", 10)
	suspended, undated := pending(ks, "suspended", 1), newKey(ks, "undated")
	suspended.Key.State, undated.Key.State = appliance.KeyDeletionSuspended, appliance.KeyPendingDeletion
	must(t, s.CreateKeys(ctx, newKey(ks, "enabled"), late, due, first, suspended, undated))
	equal(t, got(s.KeysDueForDeletion(ctx, at(20), 10))(t), []*appliance.ExternalKey{first.Key, due.Key})
	equal(t, got(s.KeysDueForDeletion(ctx, at(20), 1))(t), []*appliance.ExternalKey{first.Key})
	equal(t, len(got(s.KeysDueForDeletion(ctx, at(9), 10))(t)), 0)
}

func testReserve(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a")))
	equal(t, got(s.ReserveEncryptions(ctx, ks.ID, "a", 1, 5))(t), uint64(5))
	equal(t, got(s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1<<20))(t), uint64(5+1<<20))
	equal(t, got(s.Key(ctx, ks.ID, "a"))(t).Versions[0].Encryptions, uint64(5+1<<20))
	_, err := s.ReserveEncryptions(ctx, ks.ID, "a", 2, 1)
	wants(t, err, fault.NotFound, "version 2")
	_, err = s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1<<63)
	wants(t, err, fault.Invalid, "at most")
}

func testReserveConcurrently(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a")))
	const callers, each = 32, 10
	counts := make(chan uint64, callers*each)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				n, err := s.ReserveEncryptions(ctx, ks.ID, "a", 1, 3)
				if err != nil {
					t.Error(err)
				}
				counts <- n
			}
		})
	}
	wg.Wait()
	close(counts)
	seen := map[uint64]bool{}
	for n := range counts {
		if n%3 != 0 || n == 0 || n > callers*each*3 || seen[n] {
			t.Fatalf("count %d is wrong or was given twice", n)
		}
		seen[n] = true
	}
	equal(t, len(seen), callers*each)
}

func testTokenObjects(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	equal(t, len(got(s.TokenObjects(ctx))(t)), 0)
	for _, label := range []string{"b", "a", "c"} {
		must(t, s.NoteTokenObject(ctx, tokenObject(label)))
	}
	forged := tokenObject("a")
	forged.KeyStore, forged.KeyID, forged.Version, forged.Seal = id(9), "other", 1, nil
	must(t, s.NoteTokenObject(ctx, forged))
	must(t, s.NoteTokenObject(ctx, tokenObject("a"))) // it replaces what was noted
	must(t, s.StrikeTokenObject(ctx, "b"))
	must(t, s.StrikeTokenObject(ctx, "unknown"))
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("a", "c"))
	k := newKey(ks, "k")
	k.TokenObject = "a"
	must(t, s.CreateKeys(ctx, k))
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("c"))
}

func testVersionsInToken(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	var want []*appliance.KeyVersion
	for _, in := range []*appliance.KeyStore{ks, other} {
		for _, tt := range []struct {
			id      string
			custody appliance.Custody
			bytes   int
			in      bool
		}{
			{"a byte", appliance.CustodyCached, 1, true},
			{"cached", appliance.CustodyCached, appliance.CachedMaterial, false},
			{"called cached", appliance.CustodyCached, appliance.CachedMaterial + 13, true},
			{"cut", appliance.CustodyCached, appliance.CachedMaterial - 1, true},
			{"in the token", appliance.CustodyHSM, appliance.CachedMaterial + 13, true},
			{"in the token, short", appliance.CustodyHSM, appliance.CachedMaterial, true},
			{"unknown", "elsewhere", appliance.CachedMaterial, true},
		} {
			k := newKey(in, tt.id)
			k.Version.Custody, k.Version.Material = tt.custody, bytes.Repeat([]byte{1}, tt.bytes)
			must(t, s.CreateKeys(ctx, k))
			if tt.in {
				want = append(want, k.Version)
			}
		}
	}
	k := newKey(ks, "cached").Key
	k.CurrentVersion = 2
	v := version(ks, k.ID, 2)
	v.Custody = appliance.CustodyHSM
	must(t, s.AddKeyVersion(ctx, k, v, k.Seal, ""))
	equal(t, len(got(s.VersionsInToken(ctx))(t)), len(want)+1)
	must(t, s.DeleteKey(ctx, ks.ID, k.ID, k.Seal, nil))
	equal(t, got(s.VersionsInToken(ctx))(t), want)
}

func testBoot(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	equal(t, got(s.BootSteps(ctx, 10))(t), []appliance.BootStep(nil))
	step := func(boot, seq, minute int) appliance.BootStep {
		return appliance.BootStep{Boot: id(boot), Seq: seq, State: "release", Began: at(minute), Took: 1500 * time.Microsecond, Code: "E_X", Reason: "why"}
	}
	for _, b := range []appliance.BootStep{step(1, 1, 1), step(1, 2, 1), step(2, 1, 2)} {
		must(t, s.RecordBootStep(ctx, b))
	}
	wants(t, s.RecordBootStep(ctx, step(1, 2, 3)), fault.Exists, "step 2")
	equal(t, got(s.BootSteps(ctx, 10))(t), []appliance.BootStep{step(2, 1, 2), step(1, 2, 1), step(1, 1, 1)})
	equal(t, got(s.BootSteps(ctx, 1))(t), []appliance.BootStep{step(2, 1, 2)})

	equal(t, got(s.RaisePolicyVersion(ctx, 3))(t), uint64(3))
	equal(t, got(s.RaisePolicyVersion(ctx, 2))(t), uint64(3))
	equal(t, got(s.RaisePolicyVersion(ctx, 1<<53-1))(t), uint64(1<<53-1))
}

func testCredentials(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	wants(t, s.CreateCredential(ctx, credential(ks, 1)), fault.NotFound, "no key store")
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	one, two := credential(ks, 1), credential(ks, 2)
	must(t, s.CreateCredential(ctx, two))
	must(t, s.CreateCredential(ctx, one))
	equal(t, got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	wants(t, s.CreateCredential(ctx, credential(other, 1)), fault.Exists, one.AccessKeyID)

	one.Active, one.Secret = false, []byte("sealed again")
	must(t, s.UpdateCredential(ctx, one))
	equal(t, got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	wants(t, s.UpdateCredential(ctx, credential(other, 1)), fault.NotFound, one.AccessKeyID)
	wants(t, s.UpdateCredential(ctx, credential(ks, 3)), fault.NotFound, "03")

	wants(t, s.DeleteCredential(ctx, other.ID, one.AccessKeyID), fault.NotFound, one.AccessKeyID)
	must(t, s.DeleteCredential(ctx, ks.ID, one.AccessKeyID))
	wants(t, s.DeleteCredential(ctx, ks.ID, one.AccessKeyID), fault.NotFound, one.AccessKeyID)
	equal(t, got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{two})
}

func testCredentialUse(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	one, two := credential(ks, 1), credential(ks, 2)
	must(t, s.CreateCredential(ctx, one))
	must(t, s.CreateCredential(ctx, two))
	must(t, s.RecordCredentialUse(ctx, nil))
	must(t, s.RecordCredentialUse(ctx, map[string]time.Time{one.AccessKeyID: at(10), two.AccessKeyID: at(20), "gone": at(1)}))
	must(t, s.RecordCredentialUse(ctx, map[string]time.Time{one.AccessKeyID: at(11), two.AccessKeyID: at(19)}))
	one.LastUsedAt, two.LastUsedAt = at(11), at(20)
	equal(t, got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
	// Changing the credential does not forget its use.
	one.Active = false
	stale := *one
	stale.LastUsedAt = time.Time{}
	must(t, s.UpdateCredential(ctx, &stale))
	equal(t, got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{one, two})
}

func testGrants(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks, other := keyStore(1), keyStore(2)
	wants(t, s.CreateGrant(ctx, grant(ks, 1, "")), fault.NotFound, "no key store")
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeyStore(ctx, other))
	wants(t, s.CreateGrant(ctx, grant(ks, 1, "a")), fault.NotFound, `"a"`)
	must(t, s.CreateKeys(ctx, newKey(ks, "a"), newKey(ks, "b"), newKey(other, "a")))
	all, onA, onB, elsewhere := grant(ks, 3, ""), grant(ks, 1, "a"), grant(ks, 2, "b"), grant(other, 4, "a")
	all.Principal, all.Operations = appliance.AnyPrincipal, []appliance.Operation{appliance.OpDecrypt}
	for _, g := range []*appliance.Grant{all, onA, onB, elsewhere} {
		must(t, s.CreateGrant(ctx, g))
	}
	equal(t, got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onA, onB, all})
	equal(t, got(s.KeyStoreGrants(ctx, ks.ID))(t), []*appliance.Grant{all})
	equal(t, len(got(s.KeyStoreGrants(ctx, other.ID))(t)), 0)
	equal(t, got(s.Key(ctx, ks.ID, "a"))(t).Grants, []*appliance.Grant{onA})
	wants(t, s.CreateGrant(ctx, grant(ks, 1, "")), fault.Exists, id(1))
	wants(t, s.CreateGrant(ctx, grant(other, 1, "a")), fault.Exists, id(1))

	wants(t, s.DeleteGrant(ctx, other.ID, onA.ID), fault.NotFound, onA.ID)
	must(t, s.DeleteGrant(ctx, ks.ID, onA.ID))
	wants(t, s.DeleteGrant(ctx, ks.ID, onA.ID), fault.NotFound, onA.ID)
	equal(t, got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all})

	full := grant(ks, 5, "b")
	full.Effect, full.NotAfter = appliance.EffectForbid, at(30)
	full.Conditions = appliance.Conditions{SourceVPCs: []string{"vpc-1", `"`}, KMSOperations: []string{"Encrypt"}}
	must(t, s.CreateGrant(ctx, full))
	equal(t, got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{onB, all, full})
}

func testBlocks(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	b := appliance.Block{Reason: "a test", Since: at(2)}
	wants(t, s.SetBlock(ctx, b, []byte("seal")), fault.NotFound, "no installation")
	must(t, s.CreateInstallation(ctx, &appliance.Installation{ID: id(1), WrappedStateKey: []byte("wrapped"), CreatedAt: at(1)}))
	must(t, s.SetBlock(ctx, b, []byte("seal")))
	equal(t, got(s.Installation(ctx))(t), &appliance.Installation{ID: id(1), WrappedStateKey: []byte("wrapped"), CreatedAt: at(1), Blocked: b, BlockSeal: []byte("seal")})

	ks := keyStore(1)
	wants(t, s.UpdateKeyStore(ctx, ks, ks.Seal), fault.NotFound, "no key store")
	must(t, s.CreateKeyStore(ctx, ks))
	was := ks.Seal
	ks.Blocked, ks.Policy, ks.Seal = b, "a policy", []byte("another")
	wants(t, s.UpdateKeyStore(ctx, ks, []byte("stale")), fault.Changed, "another operation")
	must(t, s.UpdateKeyStore(ctx, ks, was))
	equal(t, got(s.KeyStores(ctx))(t), []*appliance.KeyStore{ks})

	k := newKey(ks, "a")
	k.Key.Blocked = b
	must(t, s.CreateKeys(ctx, k))
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k.Key)
	k.Key.Blocked = appliance.Block{}
	must(t, s.UpdateKey(ctx, k.Key, k.Key.Seal))
	equal(t, &got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k.Key)
}

func testSubscribe(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	var mu sync.Mutex
	var heard []appliance.Change
	s.Subscribe(func(c appliance.Change) {
		// The change can be read already, from within the function.
		if c == (appliance.Change{KeyStore: ks.ID, KeyID: "a"}) {
			if _, err := s.Key(context.Background(), ks.ID, "a"); err != nil && fault.CodeOf(err) != fault.NotFound {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, c)
	})
	onStore, onKey := appliance.Change{KeyStore: ks.ID}, appliance.Change{KeyStore: ks.ID, KeyID: "a"}
	k := newKey(ks, "a").Key
	k.CurrentVersion = 2
	cr := credential(ks, 1)
	for _, step := range []struct {
		what string
		do   func() error
		want []appliance.Change
	}{
		{"installation", func() error {
			return s.CreateInstallation(ctx, &appliance.Installation{ID: id(1), CreatedAt: at(1)})
		}, []appliance.Change{{}}},
		{"block", func() error { return s.SetBlock(ctx, appliance.Block{}, nil) }, []appliance.Change{{}}},
		{"key store", func() error { return s.CreateKeyStore(ctx, ks) }, []appliance.Change{onStore}},
		{"key store update", func() error { return s.UpdateKeyStore(ctx, ks, ks.Seal) }, []appliance.Change{onStore}},
		{"keys", func() error { return s.CreateKeys(ctx, newKey(ks, "a"), newKey(ks, "b")) },
			[]appliance.Change{onKey, {KeyStore: ks.ID, KeyID: "b"}}},
		{"update", func() error { return s.UpdateKey(ctx, k, k.Seal) }, []appliance.Change{onKey}},
		{"version", func() error { return s.AddKeyVersion(ctx, k, version(ks, "a", 2), k.Seal, "") }, []appliance.Change{onKey}},
		{"reserve", func() error { _, err := s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1); return err }, nil},
		{"note", func() error { return s.NoteTokenObject(ctx, tokenObject("x")) }, nil},
		{"strike", func() error { return s.StrikeTokenObject(ctx, "x") }, nil},
		{"credential", func() error { return s.CreateCredential(ctx, cr) }, []appliance.Change{onStore}},
		{"credential update", func() error { return s.UpdateCredential(ctx, cr) }, []appliance.Change{onStore}},
		{"use", func() error { return s.RecordCredentialUse(ctx, map[string]time.Time{cr.AccessKeyID: at(1)}) }, nil},
		{"credential delete", func() error { return s.DeleteCredential(ctx, ks.ID, cr.AccessKeyID) }, []appliance.Change{onStore}},
		{"key store grant", func() error { return s.CreateGrant(ctx, grant(ks, 1, "")) }, []appliance.Change{onStore}},
		{"key grant", func() error { return s.CreateGrant(ctx, grant(ks, 2, "a")) }, []appliance.Change{onKey}},
		{"key store grant delete", func() error { return s.DeleteGrant(ctx, ks.ID, id(1)) }, []appliance.Change{onStore}},
		{"key grant delete", func() error { return s.DeleteGrant(ctx, ks.ID, id(2)) }, []appliance.Change{onKey}},
		{"delete a", func() error { return s.DeleteKey(ctx, ks.ID, "a", k.Seal, nil) }, []appliance.Change{onKey}},
		{"delete b", func() error { return s.DeleteKey(ctx, ks.ID, "b", []byte("seal of b"), nil) },
			[]appliance.Change{{KeyStore: ks.ID, KeyID: "b"}}},
		{"delete", func() error { return s.DeleteKeyStore(ctx, ks.ID) }, []appliance.Change{onStore}},
	} {
		heard = nil
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if !reflect.DeepEqual(heard, step.want) {
			t.Errorf("%s announced %v; want %v", step.what, heard, step.want)
		}
	}
}

func testSubscribeRefused(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	must(t, s.CreateKeyStore(ctx, keyStore(1)))
	s.Subscribe(func(c appliance.Change) { t.Errorf("a refused change was announced: %v", c) })
	wants(t, s.CreateKeyStore(ctx, keyStore(1)), fault.Exists, "already")
	wants(t, s.DeleteKeyStore(ctx, id(2)), fault.NotFound, "no key store")
}

func testSubscriberWrites(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	s.Subscribe(func(c appliance.Change) {
		if err := s.NoteTokenObject(context.Background(), tokenObject("heard "+c.KeyStore)); err != nil {
			t.Error(err)
		}
	})
	must(t, s.CreateKeyStore(ctx, ks))
	equal(t, got(s.TokenObjects(ctx))(t), tokenObjects("heard "+ks.ID))
}

// testMixedConcurrent has changes that succeed and changes that are refused
// half-way at the same time, so that they meet in one group.
func testMixedConcurrent(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "taken")))
	const callers, each = 16, 8
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				mine, half := fmt.Sprintf("mine-%d-%d", i, j), fmt.Sprintf("half-%d-%d", i, j)
				if err := s.CreateKeys(ctx, newKey(ks, mine)); err != nil {
					t.Error(err)
				}
				if err := s.CreateKeys(ctx, newKey(ks, half), newKey(ks, "taken")); fault.CodeOf(err) != fault.Exists {
					t.Errorf("error is %v; want %s", err, fault.Exists)
				}
				if _, err := s.Key(ctx, ks.ID, half); fault.CodeOf(err) != fault.NotFound {
					t.Errorf("reading a refused key: %v", err)
				}
				if _, err := s.ReserveEncryptions(ctx, ks.ID, mine, 1, 4); err != nil {
					t.Error(err)
				}
				k, err := s.Key(ctx, ks.ID, mine)
				if err != nil {
					t.Error(err)
				} else if k.Versions[0].Encryptions != 4 {
					t.Errorf("%s has %d encryptions; want 4", mine, k.Versions[0].Encryptions)
				}
			}
		})
	}
	wg.Wait()
	equal(t, got(s.CountKeys(ctx, ks.ID))(t), callers*each+1)
	equal(t, len(got(s.Keys(ctx, ks.ID, appliance.Page{Limit: 1000}))(t)), callers*each+1)
}

// testSnapshot reads a key while it is rotated: the row and the versions must
// fit together every time.
func testSnapshot(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	must(t, s.CreateKeys(ctx, newKey(ks, "a")))
	rotated := make(chan struct{})
	go func() {
		defer close(rotated)
		k := newKey(ks, "a").Key
		for n := uint32(2); n < 60; n++ {
			k.CurrentVersion = n
			if err := s.AddKeyVersion(ctx, k, version(ks, "a", n), k.Seal, ""); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		k := got(s.Key(ctx, ks.ID, "a"))(t)
		if int(k.CurrentVersion) != len(k.Versions) {
			t.Fatalf("current version %d with %d versions", k.CurrentVersion, len(k.Versions))
		}
		select {
		case <-rotated:
			return
		default:
		}
	}
}

func testContext(t *testing.T, s appliance.Store) {
	ks := keyStore(1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wants(t, s.CreateKeyStore(ended, ks), fault.Timeout, "nothing changed")
	_, err := s.KeyStores(ended)
	wants(t, err, fault.Timeout, "in time")
	_, err = s.Key(ended, ks.ID, "a")
	wants(t, err, fault.Timeout, "in time")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause of %v is not the context's", err)
	}
	must(t, s.CreateKeyStore(t.Context(), ks))

	// Contexts that end while many write: an error means that nothing changed,
	// nil means that it did.
	const callers = 32
	results := make([]error, callers)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			results[i] = s.CreateKeys(ctx, newKey(ks, fmt.Sprintf("k%d", i)))
			if i == callers/4 {
				cancel()
			}
		})
	}
	wg.Wait()
	for i, err := range results {
		_, readErr := s.Key(t.Context(), ks.ID, fmt.Sprintf("k%d", i))
		switch {
		case err == nil:
			must(t, readErr)
		default:
			wants(t, err, fault.Timeout, "nothing changed")
			wants(t, readErr, fault.NotFound, "no key")
		}
	}
}

func testClose(t *testing.T, s appliance.Store) {
	must(t, s.CreateKeyStore(t.Context(), keyStore(1)))
	must(t, s.Close())
	wants(t, s.CreateKeyStore(t.Context(), keyStore(2)), fault.Internal, "closed")
	_, err := s.KeyStores(t.Context())
	wants(t, err, fault.Internal, "closed")
	must(t, s.Close())
}

func testCloseInUse(t *testing.T, s appliance.Store) {
	ctx := t.Context()
	ks := keyStore(1)
	must(t, s.CreateKeyStore(ctx, ks))
	var began, wg sync.WaitGroup
	for i := range 8 {
		began.Add(1)
		wg.Go(func() {
			once := sync.OnceFunc(began.Done)
			for j := 0; ; j++ {
				keyID := fmt.Sprintf("k-%d-%d", i, j)
				err := s.CreateKeys(ctx, newKey(ks, keyID))
				once()
				if err != nil {
					if fault.CodeOf(err) != fault.Internal || !strings.Contains(err.Error(), "closed") {
						t.Error(err)
					}
					return
				}
				if k, err := s.Key(ctx, ks.ID, keyID); err == nil && !bytes.Equal(k.Seal, []byte("seal of "+keyID)) {
					t.Errorf("%s has seal %q", keyID, k.Seal)
				} else if err != nil && !strings.Contains(err.Error(), "closed") {
					t.Error(err)
				}
			}
		})
	}
	began.Wait()
	must(t, s.Close())
	wg.Wait()
}
