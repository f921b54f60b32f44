package console_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring"
)

var (
	manyKeys    = flag.Int("console-keys", 2000, "how many keys BenchmarkPages makes")
	manyRecords = flag.Int("console-records", 20_000, "how many records of the audit log BenchmarkPages makes")
)

// realAudit is an audit log on the disk.
type realAudit struct {
	*auditlog.Log
	dir  string
	keys note.Verifiers
}

func (r *realAudit) Ready() error       { return nil }
func (r *realAudit) ReadyUrgent() error { return nil }
func (r *realAudit) RecordUrgent(ctx context.Context, x *audit.Record) error {
	return r.AppendUrgent(ctx, x)
}
func (r *realAudit) Record(ctx context.Context, x *audit.Record) error { return r.Append(ctx, x) }
func (r *realAudit) Status() *audit.Status                             { s := r.Log.Status(); return &s }
func (r *realAudit) Proof(_ context.Context, seq int64) ([]byte, error) {
	return audit.InclusionProof(r.dir, seq)
}
func (r *realAudit) Verify(_ context.Context, verified func(int64)) (*audit.Report, error) {
	return audit.Verify(r.dir, r.keys, audit.VerifyOptions{Progress: verified})
}

// maxPageTime is what each page is allowed.
const maxPageTime = 100 * time.Millisecond

// BenchmarkPages is how long the server takes for each page, with so many keys and
// records as the flags say.
func BenchmarkPages(b *testing.B) {
	r := start(b)
	ctx := b.Context()
	fail := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	_, err := r.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "bank", URIPathPrefix: "/bank"})
	fail(err)
	began := time.Now()
	ids := fillKeys(b, r, *manyKeys)
	b.Logf("%d keys were made in %v", *manyKeys, time.Since(began))
	log := fillAudit(b, ids, *manyRecords)
	for _, p := range r.performers { // each node's: they answer in turn
		p.Audit = log
	}
	admin := r.enrol("admin", identity.RoleAdministrator)
	middle := ids[len(ids)/2]
	for name, path := range map[string]string{
		"overview": "/", "key stores": "/keystores", "key store": "/keystores/bank", "keys": "/keystores/bank/keys",
		"keys, from the middle": middleOf(b, admin, "/keystores/bank/keys", len(ids)), "keys, from the end": "/keystores/bank/keys?sort=-id", "keys, by prefix": "/keystores/bank/keys?prefix=" + middle[:8],
		"keys, disabled": "/keystores/bank/keys?standing=disabled", "keys, blocked": "/keystores/bank/keys?standing=blocked", "keys, without credential": "/keystores/bank/keys?standing=no_credential",
		"keys, out of service": "/keystores/bank/keys?standing=out_of_service", "keys, HSM away": "/keystores/bank/keys?standing=hsm_away",
		"key": "/keystores/bank/keys/" + middle, "grants": "/keystores/bank/grants", "credentials": "/keystores/bank/credentials",
		"audit": "/audit", "audit, one key": "/audit?key_store=bank&key=" + middle, "audit, denied": "/audit?result=denied", "audit, administrators": "/audit?kind=admin",
		"audit, one administrator": "/audit?actor=admin-7", "audit, who did one thing long ago": "/audit?actor=rare", "audit, nobody": "/audit?actor=nobody", "audit, one and an operation": "/audit?actor=admin-7&operation=Disable+key",
		"audit, a time": "/audit?to=" + began.Add(time.Minute).UTC().Format("2006-01-02T15:04"),
		"audit record":  fmt.Sprintf("/audit/%d", *manyRecords/2), "users": "/users", "user": "/users/" + admin.principal.UserID, "HSMs": "/hsms", "boots": "/attestation/history", "approvals": "/approvals", "settings": "/settings", "account": "/account",
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if w := admin.do("GET", path, nil, nil); w.Code != http.StatusOK {
					b.Fatalf("%s: %d %s", path, w.Code, w.Body)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
			if median := took[len(took)/2]; median > maxPageTime {
				b.Errorf("%s takes the server %v; %v is the most", path, median, maxPageTime)
			}
		})
	}
}

// middleOf is the page in the middle of a list with so many entries, to which one comes page by
// page.
func middleOf(b *testing.B, by *session, path string, n int) string {
	b.Helper()
	const most = 1000
	at := fmt.Sprintf("%s?limit=%d", path, min(most, max(1, n/2)))
	for seen := 0; seen < n/2; seen += most {
		w := by.do("GET", at, nil, nil)
		next := linksOf(w.Body.String())["next"]
		if w.Code != http.StatusOK || next == "" {
			b.Fatalf("%s: %d, and no next page", at, w.Code)
		}
		at = next
	}
	middle, err := url.Parse(at)
	if err != nil {
		b.Fatal(err)
	}
	return path + "?after=" + middle.Query().Get("after")
}

// fillKeys puts keys into the key store as the appliance itself would.
func fillKeys(b *testing.B, r *rig, n int) []string {
	b.Helper()
	ctx := b.Context()
	fail := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	ring := keyring.New(r.Token)
	defer ring.Lock()
	in, err := r.Store.Installation(ctx)
	fail(err)
	fail(ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey))
	stores, err := r.Store.KeyStores(ctx)
	fail(err)
	ks := stores[slices.IndexFunc(stores, func(k *appliance.KeyStore) bool { return k.Name == "bank" })]
	fail(ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey))
	var ids []string
	var chunk []appliance.NewKey
	for i := range n {
		random := make([]byte, 16+appliance.KeyBytes)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		now := time.Now().UTC().Truncate(time.Millisecond)
		k := &appliance.ExternalKey{KeyStore: ks.ID, ID: fmt.Sprintf("%x", random[:16]), Usage: appliance.Usage{Encrypt: true, Decrypt: true},
			Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: now}
		if i%100_000 == 7 {
			k.State = appliance.KeyDisabled
		}
		v := &appliance.KeyVersion{KeyStore: ks.ID, KeyID: k.ID, Version: 1, Custody: k.Custody, Origin: appliance.OriginImported, CreatedAt: now}
		fail(ring.Import(ctx, v, "", random[16:]))
		k.Seal, err = ring.Seal(k.Binding(), nil)
		fail(err)
		ids, chunk = append(ids, k.ID), append(chunk, appliance.NewKey{Key: k, Version: v})
		if len(chunk) == 5000 || i == n-1 {
			fail(r.Store.CreateKeys(ctx, chunk...))
			chunk = nil
		}
	}
	slices.Sort(ids)
	return ids
}

// fillAudit logs requests of keys.
func fillAudit(b *testing.B, ids []string, n int) *realAudit {
	b.Helper()
	began := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := audit.NewECDSASigner("bench", key)
	if err != nil {
		b.Fatal(err)
	}
	verifier, err := audit.ParseVerifierKey(signer.VerifierKey())
	if err != nil {
		b.Fatal(err)
	}
	r := &realAudit{dir: b.TempDir(), keys: note.VerifierList(verifier)}
	r.Log, err = auditlog.Open(r.dir, auditlog.Options{LogID: "0123456789abcdef0123456789abcdef", Signer: signer, NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	const batch = 512
	pending := make([]auditlog.Pending, 0, batch)
	wait := func() {
		for _, p := range pending {
			if err := p.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	for i := range n {
		x := &audit.Record{Kind: audit.KindXKS, Operation: "Decrypt", Result: audit.Allowed, KeyStore: "bank", Key: ids[(i*7919)%len(ids)], Version: 1,
			Principal: fmt.Sprintf("arn:aws:iam::123456789012:role/app-%d", i%500), KMSRequestID: fmt.Sprintf("request-%d", i), KMSOperation: "Decrypt",
			ViaService: "rds.eu-central-1.amazonaws.com", Policies: []string{"0123456789abcdef0123456789abcdef"}, Actor: "AKIAEXAMPLE", DurationUS: 420, Remote: "10.0.0.7:443"}
		if i%100_000 == 99 {
			x.Result, x.Error = audit.Denied, "AccessDeniedException"
		}
		if i == 7 || i%1000 == 500 {
			x = &audit.Record{Kind: audit.KindAdmin, Operation: "POST keystores/{keystore}/keys/{key}/disable", Result: audit.Allowed, KeyStore: "bank", Key: x.Key, Actor: fmt.Sprintf("admin-%d", i/1000%20), Remote: "10.0.0.8:443"}
			if i == 7 {
				x.Actor = "rare"
			}
		}
		pending = append(pending, r.AppendAsync(x))
		if len(pending) == batch {
			wait()
		}
	}
	wait()
	if _, err := r.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d records were logged in %v", n, time.Since(began))
	for began := time.Now(); r.Log.Status().Unindexed > 1_000_000 && time.Since(began) < time.Minute; {
		_, _, _ = r.Search(b.Context(), audit.Query{KMSRequestID: "none"}) // makes what indexes are missing
	}
	return r
}
