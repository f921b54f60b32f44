package storetest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

func testKeys(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Wants(t, s.CreateKeys(ctx, NewKey(ks, "a")), fault.NotFound, "no key store")
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	k := NewKey(ks, "a")
	k.Key.Usage.Encrypt = false
	k.Key.Custody, k.Version.Custody = appliance.CustodyHSM, appliance.CustodyHSM
	k.Key.State, k.Key.DeletionAt = appliance.KeyPendingDeletion, At(9)
	k.Version.Origin, k.Version.Encryptions = appliance.OriginImported, 7
	Must(t, s.CreateKeys(ctx, k, NewKey(ks, "b"), NewKey(other, "a")))

	Equal(t, *Got(s.Key(ctx, ks.ID, "a"))(t), appliance.StoredKey{ExternalKey: *k.Key, Versions: []*appliance.KeyVersion{k.Version}})
	o := NewKey(other, "a")
	Equal(t, *Got(s.Key(ctx, other.ID, "a"))(t), appliance.StoredKey{ExternalKey: *o.Key, Versions: []*appliance.KeyVersion{o.Version}})
	_, err := s.Key(ctx, ks.ID, "c")
	Wants(t, err, fault.NotFound, `"c"`)
	_, err = s.Key(ctx, ID(9), "a")
	Wants(t, err, fault.NotFound, `"a"`)
	for store, want := range map[string]int{ks.ID: 2, other.ID: 1, ID(9): 0} {
		Equal(t, Got(s.CountKeys(ctx, store))(t), want)
	}
	Must(t, s.CreateKeys(ctx))
}

func testPages(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	var keys []appliance.NewKey
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("k%02d", i))
		keys = append(keys, NewKey(ks, fmt.Sprintf("k%02d", 24-i)))
	}
	Must(t, s.CreateKeys(ctx, append(keys, NewKey(other, "k05b"))...))
	var ids []string
	page := appliance.Page{Limit: 10}
	for {
		list := Got(s.Keys(ctx, ks.ID, page))(t)
		if len(list) > page.Limit {
			t.Fatalf("a page of %d has %d keys", page.Limit, len(list))
		}
		if len(list) == 0 {
			break
		}
		for _, k := range list {
			Equal(t, k, NewKey(ks, k.ID).Key)
			ids = append(ids, k.ID)
		}
		page.After = ids[len(ids)-1]
	}
	Equal(t, ids, want)
	for _, limit := range []int{0, -1, appliance.MaxPage + 1} {
		_, err := s.Keys(ctx, ks.ID, appliance.Page{Limit: limit})
		Wants(t, err, fault.Invalid, "1 to 1001")
	}
}

func testFilteredPages(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	suspended := NewKey(ks, "c")
	suspended.Key.State = appliance.KeyDeletionSuspended
	Must(t, s.CreateKeys(ctx, suspended))
	for i, name := range []string{"a", "ab", "ab-1", "ab.2", "abc", "ac", "b", "zz", "z"} {
		for _, in := range []*appliance.KeyStore{ks, other} {
			k := NewKey(in, name)
			Must(t, s.CreateKeys(ctx, k))
			was := k.Key.Seal
			changed := *k.Key
			switch i % 3 {
			case 1:
				changed.State = appliance.KeyDisabled
			case 2:
				changed.State, changed.Blocked = appliance.KeyPendingDeletion, appliance.Block{Reason: "why", Since: changed.CreatedAt}
			}
			Must(t, s.UpdateKey(ctx, &changed, was))
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
		{appliance.Page{State: appliance.KeyPendingDeletion, Unblocked: true}, ""},
		{appliance.Page{State: appliance.KeyDisabled, Unblocked: true, After: "ab", Down: true}, ""},
		{appliance.Page{Unblocked: true}, "a ab ab.2 abc b c zz"},
		{appliance.Page{Unblocked: true, ByCreation: true, Prefix: "ab", Limit: 2}, "ab ab.2"},
		{appliance.Page{State: appliance.KeyDeletionSuspended}, "c"},
		{appliance.Page{State: appliance.KeyBlocked}, "ab-1 ac z"},
		{appliance.Page{State: appliance.KeyBlocked, After: "ab-1", Limit: 1}, "ac"},
		{appliance.Page{State: appliance.KeyBlocked, Prefix: "b"}, ""},
		{appliance.Page{Down: true}, "zz z c b ac abc ab.2 ab-1 ab a"},
		{appliance.Page{Down: true, After: "b", Limit: 2}, "ac abc"},
		{appliance.Page{Down: true, After: "ab.2", Prefix: "ab"}, "ab-1 ab"},
		{appliance.Page{Down: true, After: "zz", Prefix: "ab"}, "abc ab.2 ab-1 ab"},
		{appliance.Page{Down: true, After: "a", Prefix: "ab"}, ""},
		{appliance.Page{Down: true, State: appliance.KeyDisabled, Limit: 2}, "zz abc"},
		{appliance.Page{Custody: suspended.Key.Custody, State: appliance.KeyBlocked, Limit: 1}, "ab-1"},
		{appliance.Page{Custody: "nowhere"}, ""},
		{appliance.Page{Usage: &appliance.Usage{}}, ""},
		{appliance.Page{Usage: &suspended.Key.Usage, Prefix: "ac"}, "ac"},
		{appliance.Page{ByCreation: true, Prefix: "ab"}, "ab ab-1 ab.2 abc"},
		{appliance.Page{ByCreation: true, After: "ab.2", AfterCreated: suspended.Key.CreatedAt, Limit: 3}, "abc ac b"},
		{appliance.Page{ByCreation: true, After: "ab.2", AfterCreated: suspended.Key.CreatedAt, Down: true}, "ab-1 ab a"},
		{appliance.Page{ByCreation: true, After: "a", AfterCreated: suspended.Key.CreatedAt.Add(-time.Hour), Down: true}, ""},
		{appliance.Page{ByCreation: true, After: "z", AfterCreated: suspended.Key.CreatedAt.Add(-time.Hour), Limit: 1}, "a"},
		{appliance.Page{ByCreation: true, State: appliance.KeyPendingDeletion, Down: true, Limit: 2}, "z ac"},
	} {
		if tt.page.Limit == 0 {
			tt.page.Limit = 100
		}
		var ids []string
		for _, k := range Got(s.Keys(ctx, ks.ID, tt.page))(t) {
			ids = append(ids, k.ID)
			Equal(t, k.KeyStore, ks.ID)
		}
		if strings.Join(ids, " ") != tt.want {
			t.Errorf("%+v: %v, want %s", tt.page, ids, tt.want)
		}
	}
}

func testCreateKeysAtomic(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "taken")))
	Must(t, s.NoteTokenObjects(ctx, TokenObject("object")))
	a := NewKey(ks, "a")
	a.TokenObject = "object"
	Wants(t, s.CreateKeys(ctx, a, NewKey(ks, "taken"), NewKey(ks, "z")), fault.Exists, `"taken"`)
	Wants(t, s.CreateKeys(ctx, a, NewKey(ks, "twice"), NewKey(ks, "twice")), fault.Exists, `"twice"`)
	Wants(t, s.CreateKeys(ctx, a, NewKey(KeyStore(2), "z")), fault.NotFound, "no key store")
	_, err := s.Key(ctx, ks.ID, "a")
	Wants(t, err, fault.NotFound, `"a"`)
	Equal(t, Got(s.CountKeys(ctx, ks.ID))(t), 1)
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("object"))
}

func testUpdateKey(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a"), NewKey(ks, "b")))
	k := NewKey(ks, "a").Key
	was := k.Seal
	k.State, k.DeletionAt, k.Usage.Decrypt, k.Seal = appliance.KeyPendingDeletion, At(30), false, []byte("new seal")
	Must(t, s.UpdateKey(ctx, k, was))
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k)
	Equal(t, &Got(s.Key(ctx, ks.ID, "b"))(t).ExternalKey, NewKey(ks, "b").Key)

	late := NewKey(ks, "a").Key
	Wants(t, s.UpdateKey(ctx, late, was), fault.Changed, `"a"`)
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k)

	back := *k
	back.State, back.DeletionAt = appliance.KeyEnabled, time.Time{}
	Must(t, s.UpdateKey(ctx, &back, k.Seal))
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, &back)
	Wants(t, s.UpdateKey(ctx, NewKey(ks, "c").Key, was), fault.NotFound, `"c"`)
}

func testVersions(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a")))
	Must(t, s.NoteTokenObjects(ctx, TokenObject("object")))
	k := NewKey(ks, "a").Key
	was := k.Seal
	k.CurrentVersion, k.Seal = 2, []byte("seal 2")
	v2 := Version(ks, "a", 2)
	Wants(t, s.AddKeyVersion(ctx, k, v2, []byte("other"), "object"), fault.Changed, `"a"`)
	Wants(t, s.AddKeyVersion(ctx, k, Version(ks, "a", 1), was, "object"), fault.Exists, "version 1")
	Wants(t, s.AddKeyVersion(ctx, NewKey(ks, "b").Key, Version(ks, "b", 2), was, "object"), fault.NotFound, `"b"`)
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, NewKey(ks, "a").Key)
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("object"))

	Must(t, s.AddKeyVersion(ctx, k, v2, was, "object"))
	Equal(t, *Got(s.Key(ctx, ks.ID, "a"))(t), appliance.StoredKey{ExternalKey: *k,
		Versions: []*appliance.KeyVersion{Version(ks, "a", 1), v2}})
	Equal(t, len(Got(s.TokenObjects(ctx))(t)), 0)
}

func testDeleteKey(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a"), NewKey(ks, "b")))
	Must(t, s.CreateGrants(ctx, Grant(ks, 1, "a")))
	Must(t, s.CreateGrants(ctx, Grant(ks, 2, "b")))
	Must(t, s.CreateGrants(ctx, Grant(ks, 3, "")))
	Wants(t, s.DeleteKey(ctx, ks.ID, "a", []byte("other"), tokenObjects("x")), fault.Changed, `"a"`)
	Wants(t, s.DeleteKey(ctx, ks.ID, "c", nil, tokenObjects("x")), fault.NotFound, `"c"`)
	Equal(t, len(Got(s.TokenObjects(ctx))(t)), 0)
	Must(t, s.DeleteKey(ctx, ks.ID, "a", []byte("seal of a"), tokenObjects("y", "x")))
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("x", "y"))
	_, err := s.Key(ctx, ks.ID, "a")
	Wants(t, err, fault.NotFound, `"a"`)
	Equal(t, Got(s.Grants(ctx, ks.ID))(t), []*appliance.Grant{Grant(ks, 2, "b"), Grant(ks, 3, "")})
	Equal(t, Got(s.CountKeys(ctx, ks.ID))(t), 1)
	_, err = s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1)
	Wants(t, err, fault.NotFound, `"a"`)
	// The ID is free again, and nothing of the old key comes back with it.
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a")))
	k := Got(s.Key(ctx, ks.ID, "a"))(t)
	Equal(t, k.Versions, []*appliance.KeyVersion{Version(ks, "a", 1)})
	Equal(t, len(k.Grants), 0)
}

func testDue(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	pending := func(ks *appliance.KeyStore, id string, minute int) appliance.NewKey {
		k := NewKey(ks, id)
		k.Key.State, k.Key.DeletionAt = appliance.KeyPendingDeletion, At(minute)
		return k
	}
	late, due, first := pending(ks, "late", 21), pending(ks, "due", 20), pending(other, "first", 10)
	suspended, undated := pending(ks, "suspended", 1), NewKey(ks, "undated")
	suspended.Key.State, undated.Key.State = appliance.KeyDeletionSuspended, appliance.KeyPendingDeletion
	Must(t, s.CreateKeys(ctx, NewKey(ks, "enabled"), late, due, first, suspended, undated))
	Equal(t, Got(s.KeysDueForDeletion(ctx, At(20), 10))(t), []*appliance.ExternalKey{first.Key, due.Key})
	Equal(t, Got(s.KeysDueForDeletion(ctx, At(20), 1))(t), []*appliance.ExternalKey{first.Key})
	Equal(t, len(Got(s.KeysDueForDeletion(ctx, At(9), 10))(t)), 0)
}

func testReserve(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a")))
	Equal(t, Got(s.ReserveEncryptions(ctx, ks.ID, "a", 1, 5))(t), uint64(5))
	Equal(t, Got(s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1<<20))(t), uint64(5+1<<20))
	Equal(t, Got(s.Key(ctx, ks.ID, "a"))(t).Versions[0].Encryptions, uint64(5+1<<20))
	_, err := s.ReserveEncryptions(ctx, ks.ID, "a", 2, 1)
	Wants(t, err, fault.NotFound, "version 2")
	_, err = s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1<<63)
	Wants(t, err, fault.Invalid, "at most")
}

func testReserveConcurrently(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a")))
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
	Equal(t, len(seen), callers*each)
}

func testVersionsInToken(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
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
			k := NewKey(in, tt.id)
			k.Version.Custody, k.Version.Material = tt.custody, bytes.Repeat([]byte{1}, tt.bytes)
			Must(t, s.CreateKeys(ctx, k))
			if tt.in {
				want = append(want, k.Version)
			}
		}
	}
	third := KeyStore(3)
	Must(t, s.CreateKeyStore(ctx, third))
	cached := NewKey(third, "cached")
	cached.Version.Custody, cached.Version.Material = appliance.CustodyCached, bytes.Repeat([]byte{1}, appliance.CachedMaterial)
	Must(t, s.CreateKeys(ctx, cached))
	for id, want := range map[string]bool{ks.ID: true, other.ID: true, third.ID: false, "none": false} {
		Equal(t, Got(s.HasKeysInToken(ctx, id))(t), want)
	}
	k := NewKey(ks, "cached").Key
	k.CurrentVersion = 2
	v := Version(ks, k.ID, 2)
	v.Custody = appliance.CustodyHSM
	Must(t, s.AddKeyVersion(ctx, k, v, k.Seal, ""))
	Equal(t, len(Got(s.VersionsInToken(ctx))(t)), len(want)+1)
	Must(t, s.DeleteKey(ctx, ks.ID, k.ID, k.Seal, nil))
	Equal(t, Got(s.VersionsInToken(ctx))(t), want)
}

// testTwoVersionsAtOnce: a key may be made with two versions, whole or not at all.
func testTwoVersionsAtOnce(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	k := NewKey(ks, "k")
	k.Key.CurrentVersion, k.Second, k.SecondTokenObject = 2, Version(ks, "k", 2), "second"
	for _, label := range []string{"second", "other"} {
		Must(t, s.NoteTokenObjects(ctx, &appliance.TokenObject{Label: label, KeyStore: ks.ID, KeyID: "k", Version: 2, Seal: []byte(label)}))
	}
	twice := NewKey(ks, "twice")
	twice.Second = Version(ks, "twice", 1)
	Wants(t, s.CreateKeys(ctx, k, twice), fault.Exists, "version 1")
	_, err := s.Key(ctx, ks.ID, "k")
	Wants(t, err, fault.NotFound, "k")
	Must(t, s.CreateKeys(ctx, k))
	Equal(t, Got(s.Key(ctx, ks.ID, "k"))(t).Versions, []*appliance.KeyVersion{k.Version, k.Second})
	left := Got(s.TokenObjects(ctx))(t)
	Equal(t, len(left), 1)
	Equal(t, left[0].Label, "other")
}
