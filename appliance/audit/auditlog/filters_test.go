package auditlog_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
)

// filter is one that a query may have, and what it means for a record.
type filter struct {
	name  string
	set   func(q *audit.Query)
	means func(r *audit.Record) bool
}

func filtersOf(start time.Time) []filter {
	actor := func(name string) func(r *audit.Record) bool {
		return func(r *audit.Record) bool {
			who, _, _ := strings.Cut(r.Actor, " pid ")
			return who == name || r.ApprovedBy == name || strings.HasSuffix(r.Detail, "approved by "+name)
		}
	}
	object := func(name string) func(r *audit.Record) bool {
		return func(r *audit.Record) bool {
			return r.ObjectID == name || r.Object == name || r.ObjectID == "" && strings.HasPrefix(string(r.Before), `{"id":"`+name+`"`)
		}
	}
	return []filter{
		{"key store", func(q *audit.Query) { q.KeyStore = "demo" }, func(r *audit.Record) bool { return r.KeyStore == "demo" }},
		{"key", func(q *audit.Query) { q.KeyStore, q.Key = "demo", "key-2" }, func(r *audit.Record) bool { return r.KeyStore == "demo" && r.Key == "key-2" }},
		{"principal", func(q *audit.Query) { q.Principal = "principal-1" }, func(r *audit.Record) bool { return r.Principal == "principal-1" }},
		{"request", func(q *audit.Query) { q.KMSRequestID = record(100).KMSRequestID }, func(r *audit.Record) bool { return r.KMSRequestID == record(100).KMSRequestID }},
		{"request of the API", func(q *audit.Query) { q.RequestID = "request-4" }, func(r *audit.Record) bool { return r.RequestID == "request-4" }},
		{"kind admin", func(q *audit.Query) { q.Kind = audit.KindAdmin }, func(r *audit.Record) bool { return r.Kind == audit.KindAdmin }},
		{"kind xks", func(q *audit.Query) { q.Kind = audit.KindXKS }, func(r *audit.Record) bool { return r.Kind == audit.KindXKS }},
		{"denied", func(q *audit.Query) { q.Result = audit.Denied }, func(r *audit.Record) bool { return r.Result == audit.Denied }},
		{"allowed", func(q *audit.Query) { q.Result = audit.Allowed }, func(r *audit.Record) bool { return r.Result == audit.Allowed }},
		{"from", func(q *audit.Query) { q.From = start.Add(60 * time.Second) }, func(r *audit.Record) bool { return !r.Time.Before(start.Add(60 * time.Second)) }},
		{"to", func(q *audit.Query) { q.To = start.Add(200 * time.Second) }, func(r *audit.Record) bool { return r.Time.Before(start.Add(200 * time.Second)) }},
		{"actor", func(q *audit.Query) { q.Actor = "alice" }, actor("alice")},
		{"approver", func(q *audit.Query) { q.Actor = "bob" }, actor("bob")},
		{"root", func(q *audit.Query) { q.Actor = "local uid 0" }, actor("local uid 0")},
		{"a process of root", func(q *audit.Query) { q.Actor = "local uid 0 pid 7" }, actor("local uid 0")},
		{"token", func(q *audit.Query) { q.Token = "t1" }, func(r *audit.Record) bool {
			return r.Token == "t1" || r.Detail == "token t1" || strings.HasPrefix(r.Detail, "token t1,")
		}},
		{"operation", func(q *audit.Query) { q.Operations = []string{"POST block"} }, func(r *audit.Record) bool { return r.Operation == "POST block" }},
		{"operations", func(q *audit.Query) { q.Operations = []string{"Encrypt", "DELETE users/{user}"} }, func(r *audit.Record) bool { return r.Operation == "Encrypt" || r.Operation == "DELETE users/{user}" }},
		{"object's ID", func(q *audit.Query) { q.Objects = []string{"u1"} }, object("u1")},
		{"object's name", func(q *audit.Query) { q.Objects = []string{"user carol"} }, object("user carol")},
		{"address", func(q *audit.Query) { q.Remote = "192.0.2.1" }, func(r *audit.Record) bool {
			return r.Remote == "192.0.2.1" || strings.HasPrefix(r.Remote, "192.0.2.1:")
		}},
		{"address of IPv6", func(q *audit.Query) { q.Remote = "[2001:db8::1]:9" }, func(r *audit.Record) bool { return r.Remote == "[2001:db8::1]:443" }},
		{"error", func(q *audit.Query) { q.Error = "E_FORBIDDEN" }, func(r *audit.Record) bool { return r.Error == "E_FORBIDDEN" }},
		{"life", func(q *audit.Query) { q.Life, q.KeyStore, q.Key = true, "demo", "key-2" }, func(r *audit.Record) bool {
			every := r.KeyStore == "" && r.Key == "" && r.Operation == "POST block"
			return r.Kind == audit.KindAdmin && (r.KeyStore == "demo" && (r.Key == "key-2" || r.Key == "") || every)
		}},
	}
}

// various logs n records, of this release and as earlier ones wrote them.
func various(t testing.TB, c *clock, n int, append func(r *audit.Record)) {
	t.Helper()
	pick := func(i int, of ...string) string { return of[i%len(of)] }
	for i := range n {
		r := record(i)
		r.Key, r.Principal = fmt.Sprintf("key-%d", i%4), fmt.Sprintf("principal-%d", i%3)
		if i%3 != 0 {
			r = &audit.Record{Kind: audit.KindAdmin, Operation: pick(i/2, "POST block", "DELETE users/{user}", "GET audit/export"), Result: audit.Allowed, Actor: pick(i/3, "alice", "bob", "local uid 0 pid 7", "local uid 0 pid 71"),
				RequestID: fmt.Sprintf("request-%d", i/2%8), Remote: pick(i/5, "192.0.2.1", "192.0.2.1:5000", "[2001:db8::1]:443", "192.0.2.11", ""), KeyStore: pick(i/7, "demo", "other", "")}
			if r.KeyStore != "" {
				r.Key = pick(i/4, "key-2", "", "key-3")
			}
			if i%2 == 0 {
				r.ObjectKind, r.ObjectID, r.Object, r.Token, r.ApprovedBy = "user", pick(i, "u1", "u2"), pick(i/4, "user carol", "user dora"), pick(i/8, "t1", "t2", ""), pick(i/16, "", "bob")
			} else {
				r.Before = []byte(`{"id":"` + pick(i/2, "u1", "u2") + `","name":"carol"}`)
				r.Detail = pick(i/2, "session s1", "token t1", "token t1, approved by bob", "session s1, approved by alice", "token t11")
			}
		}
		if i%5 == 0 {
			r.Result, r.Error = audit.Denied, pick(i, "E_FORBIDDEN", "E_LOCKED")
		}
		append(r)
		c.advance(time.Second)
	}
}

// TestFiltersCombine: each filter, and each two of them, find what a plain loop over all
// records finds, with indexes, without, and with those of an earlier release.
func TestFiltersCombine(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	start := c.Now()
	l := open(t, dir, c.options())
	various(t, c, 300, func(r *audit.Record) { must(t, l.Append(t.Context(), r)) })
	all, _, err := l.Search(t.Context(), audit.Query{Limit: 1000})
	must(t, err)
	if len(segments(t, dir)) < 10 || len(all) != 300 {
		t.Fatalf("%d segments, %d records", len(segments(t, dir)), len(all))
	}
	for _, x := range got(filepath.Glob(filepath.Join(dir, "*.index")))(t)[:3] { // as another release made them
		edit(t, x, func(b []byte) []byte { return append([]byte("HFAUDIX2"), b[8:]...) })
	}
	filters := filtersOf(start)
	empty := 0
	for i, a := range filters {
		for _, b := range filters[i:] {
			var q audit.Query
			a.set(&q)
			b.set(&q)
			if aq, bq := (audit.Query{}), (audit.Query{}); conflict(a, b, &aq, &bq) {
				continue // the same member with two values
			}
			means := func(r *audit.Record) bool { return a.means(r) && b.means(r) }
			var want []int64
			for _, r := range all {
				if means(r) {
					want = append(want, r.Seq)
				}
			}
			if len(want) == 0 {
				empty++
			}
			for _, limit := range []int{0, 7} {
				q.Limit = limit
				if found := everything(t, audit.NewReader(dir), q); !slices.Equal(found, want) {
					t.Errorf("%s and %s found\n%v\nwant\n%v", a.name, b.name, found, want)
				}
			}
		}
		// Requests of KMS and of the API are apart, whatever their IDs.
		for _, q := range []audit.Query{{RequestID: record(100).KMSRequestID}, {KMSRequestID: "request-4", Kind: audit.KindXKS}, {RequestID: "request-4", KMSRequestID: record(100).KMSRequestID}} {
			if found := everything(t, audit.NewReader(dir), q); len(found) > 0 {
				t.Errorf("%+v found %v", q, found)
			}
		}
		if i == 0 {
			if x := got(os.ReadFile(got(filepath.Glob(filepath.Join(dir, "*.index")))(t)[0]))(t); string(x[:8]) == "HFAUDIX2" {
				t.Error("the index of an earlier release was not made anew")
			}
		}
	}
	if empty > 80 {
		t.Errorf("%d pairs find nothing", empty)
	}
}

// conflict says whether two filters give the same member two values.
func conflict(a, b filter, aq, bq *audit.Query) bool {
	a.set(aq)
	b.set(bq)
	differ := func(x, y string) bool { return x != "" && y != "" && x != y }
	if aq.Life != bq.Life && (aq.KeyStore != "" && bq.KeyStore != "") {
		return true // what is sought of the key store is the life alone
	}
	return differ(aq.KeyStore, bq.KeyStore) || differ(aq.Key, bq.Key) || differ(string(aq.Kind), string(bq.Kind)) || differ(string(aq.Result), string(bq.Result)) || differ(aq.Actor, bq.Actor) ||
		len(aq.Objects) > 0 && len(bq.Objects) > 0 && !slices.Equal(aq.Objects, bq.Objects) || differ(aq.Remote, bq.Remote) || len(aq.Operations) > 0 && len(bq.Operations) > 0 && !slices.Equal(aq.Operations, bq.Operations)
}

var actorRecords = flag.Int("audit-actor-records", 100_000, "how many records the benchmark of a search by actor makes")

// BenchmarkSearchByActor: an administrator's few records among very many requests.
func BenchmarkSearchByActor(b *testing.B) {
	dir := b.TempDir()
	o := options()
	o.NoSync = true
	l := open(b, dir, o)
	for i := 0; i < *actorRecords; i += 1000 {
		appendAll(b, l, i, i+999)
		must(b, l.Append(b.Context(), &audit.Record{Kind: audit.KindAdmin, Operation: "POST block", Result: audit.Allowed, Actor: "alice", KeyStore: "demo", Key: "key-7"}))
	}
	must(b, l.Close())
	r := audit.NewReader(dir)
	_, _, err := r.Search(b.Context(), audit.Query{Actor: "nobody"}) // makes the indexes
	must(b, err)
	for name, q := range map[string]audit.Query{"actor": {Actor: "alice"}, "actor and operation": {Actor: "alice", Operations: []string{"POST block"}}, "nobody": {Actor: "nobody"},
		"life of a key": {Life: true, KeyStore: "demo", Key: "key-7"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Search(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
