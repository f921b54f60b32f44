package console_test

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/xks/xkstest"
)

// readStore counts what is read of lists.
type readStore struct {
	appliance.Store
	reads *atomic.Int64
}

func (s readStore) Grants(ctx context.Context, keyStore string) ([]*appliance.Grant, error) {
	s.reads.Add(1)
	return s.Store.Grants(ctx, keyStore)
}

func (s readStore) KeyStoreGrants(ctx context.Context, keyStore string) ([]*appliance.Grant, error) {
	s.reads.Add(1)
	return s.Store.KeyStoreGrants(ctx, keyStore)
}

func (s readStore) Keys(ctx context.Context, keyStore string, page appliance.Page) ([]*appliance.ExternalKey, error) {
	s.reads.Add(1)
	return s.Store.Keys(ctx, keyStore, page)
}

func (s readStore) Key(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error) {
	s.reads.Add(1)
	return s.Store.Key(ctx, keyStore, id)
}

func (s readStore) Credentials(ctx context.Context, keyStore string) ([]*appliance.Credential, error) {
	s.reads.Add(1)
	return s.Store.Credentials(ctx, keyStore)
}

var askedPages = []string{"/keystores/bank", "/keystores/bank/keys", "/keystores/bank/keys/k", "/keystores/bank/grants", "/keystores/bank/credentials"}

// TestQuestionReadsNothing: as long as nothing changes, the question of an open page reads no list;
// each change is learnt, what ends by time within a minute, and each user has answers of their own.
func TestQuestionReadsNothing(t *testing.T) {
	reads := &atomic.Int64{}
	r := startSealed(t, xkstest.Options{Store: func(s appliance.Store) appliance.Store { return readStore{s, reads} }}, sealed)
	admin, viewer := r.enrol("admin", identity.RoleAdministrator), r.enrol("viewer", identity.RoleViewer)
	r.things(admin)
	ask := func(s *session, path string) (string, int64) {
		before := reads.Load()
		digest := s.header("/standing?page=" + url.QueryEscape(path)).digest
		return digest, reads.Load() - before
	}
	settle := func() { // both nodes have answered
		for _, path := range askedPages {
			ask(admin, path)
			ask(admin, path)
		}
	}
	for _, path := range askedPages {
		settle()
		was, n := ask(admin, path)
		if n != 0 {
			t.Errorf("%s: nothing has changed, and %d lists are read", path, n)
		}
		_, first := ask(viewer, path)
		_, second := ask(viewer, path) // the other node
		if _, n := ask(viewer, path); first == 0 || second == 0 || n != 0 {
			t.Errorf("%s: of another user %d, %d and %d lists are read", path, first, second, n)
		}
		g, err := r.Appliance.AddGrant(t.Context(), "bank", appliance.Grant{KeyID: "k", Effect: appliance.EffectAllow, Principal: "arn:aws:iam::123456789012:role/app", Operations: []appliance.Operation{appliance.OpEncrypt}})
		if err != nil {
			t.Fatal(err)
		}
		shows := path == "/keystores/bank/keys/k" || path == "/keystores/bank/grants"
		for range 2 {
			if now, n := ask(admin, path); n == 0 || (now != was) != shows {
				t.Errorf("%s: a grant on a key of it is new: %d lists are read, and the digest is another: %t", path, n, now != was)
			}
		}
		if err := r.Appliance.RemoveGrant(t.Context(), "bank", g.ID); err != nil {
			t.Fatal(err)
		}
		if now, _ := ask(admin, path); now != was {
			t.Errorf("%s: the grant is removed, and the digest is another one", path)
		}
		settle()
		r.pass(time.Minute)
		if _, n := ask(admin, path); n == 0 {
			t.Errorf("%s: what has ended by time is not looked for", path)
		}
	}
}

// BenchmarkQuestion is what an open page costs every five seconds, with 10,000 grants and as many
// keys: unchanged, and after a change each time.
func BenchmarkQuestion(b *testing.B) {
	r := start(b)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.fill(b, 10000)
	for _, path := range []string{"/keystores/bank", "/keystores/bank/keys", "/keystores/bank/grants", "/keystores/bank/credentials"} {
		question := "/standing?page=" + url.QueryEscape(path)
		for range 2 {
			admin.do(http.MethodGet, question, nil, nil)
		}
		b.Run("unchanged "+path, func(b *testing.B) {
			for b.Loop() {
				admin.do(http.MethodGet, question, nil, nil)
			}
		})
		b.Run("changed "+path, func(b *testing.B) {
			for n := range b.N {
				b.StopTimer()
				if _, err := r.Appliance.SetQuota(b.Context(), "bank", 1+n%1000); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				admin.do(http.MethodGet, question, nil, nil)
			}
		})
	}
}
