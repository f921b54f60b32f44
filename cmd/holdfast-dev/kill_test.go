package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/mod/sumdb/note"
	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/attest"
	"holdfast/hsm/softhsm"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// answered is what an appliance has answered for, over all of its lives.
type answered struct {
	mu sync.Mutex
	// keys are those that were made, with how often each has encrypted;
	// ciphertexts have the answer of the last encryption by each.
	keys        map[string]int
	ciphertexts map[string]xkstest.Body
	count       int
	// requests are the request IDs that were answered, made the keys, both of the
	// present life of the appliance.
	requests, made []string
}

func (a *answered) created(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[id] = 0
	a.made = append(a.made, id)
	a.count++
}

func (a *answered) encrypted(id, request string, answer xkstest.Body) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[id]++
	a.ciphertexts[id] = answer
	a.requests = append(a.requests, request)
	a.count++
}

func (a *answered) total() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count
}

// TestKillUnderLoad kills the appliance twenty times while keys are made and used,
// and finds after each start every key that was answered for, every ciphertext
// decrypts, and no count has gone back; the audit log verifies, and has
// everything that was answered. At the end every key object in the token has a key that
// owns it, or is noted for destruction.
func TestKillUnderLoad(t *testing.T) {
	dir := t.TempDir()
	a := &answered{keys: map[string]int{}, ciphertexts: map[string]xkstest.Body{}}
	counts := map[string]int64{}
	for round := range 20 {
		p := start(t, dir)
		check(t, p, a)
		key := auditKey(t, p)
		load(t, p, a, round)
		_ = p.cmd.Wait()
		checkCounts(t, dir, a, counts)
		checkAudit(t, filepath.Join(dir, "state", "audit"), key, a)
	}
	p := start(t, dir)
	check(t, p, a)
	if len(a.keys) < 20 || a.total() < 100 {
		t.Errorf("only %d keys and %d answers: the appliance was killed too early to show anything", len(a.keys), a.total())
	}
	checkLeftovers(t, p, dir)
}

// load makes keys and encrypts from several goroutines, and kills the process
// after a random number of answers.
func load(t *testing.T, p *process, a *answered, round int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	enough := a.total() + 10 + rand.IntN(100)
	kill := sync.OnceFunc(func() {
		_ = p.cmd.Process.Kill()
		cancel()
	})
	admin := web.NewClient(p.dev.AdminSocket)
	var wg sync.WaitGroup
	for worker := range 6 {
		k := p.kms() // with connections of its own
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if a.total() >= enough {
					kill()
					return
				}
				id := fmt.Sprintf("k-%d-%d-%d", round, worker, n)
				custody := appliance.CustodyCached
				if worker%3 == 0 {
					custody = appliance.CustodyHSM
				}
				both := appliance.Usage{Encrypt: true, Decrypt: true}
				if err := admin.Do(ctx, http.MethodPost, web.Path("keystores", "demo", "keys"), operation.NewKey{ID: id, Usage: both, Custody: custody}, nil); err != nil {
					continue
				}
				a.created(id)
				for i := range 5 {
					request := fmt.Sprintf("%s-request-%d", id, i)
					body := xkstest.EncryptBody(id).With("requestMetadata", xkstest.Metadata().With("kmsRequestId", request))
					res, err := k.HTTP.Do(k.Request("/keys/"+id+"/encrypt", body))
					if err != nil {
						break
					}
					if answer := k.Read(res); answer.Status == http.StatusOK {
						a.encrypted(id, request, answer.Body)
					}
				}
			}
		})
	}
	// A machine too slow for so many answers is no reason to wait for ever.
	timer := time.AfterFunc(20*time.Second, kill)
	defer timer.Stop()
	wg.Wait()
}

// auditKey gives the key that signs the audit log, as the evidence names it.
func auditKey(t *testing.T, p *process) note.Verifier {
	t.Helper()
	var text json.RawMessage
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodGet, "attestation?nonce="+strings.Repeat("00", 16), nil, &text); err != nil {
		t.Fatal(err)
	}
	e, err := attest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(e.AuditKey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewECDSAVerifier("holdfast-audit", key.(*ecdsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// checkAudit verifies the log of the dead appliance, and looks for all that it
// has answered in this life.
func checkAudit(t *testing.T, dir string, key note.Verifier, a *answered) {
	t.Helper()
	report, err := audit.Verify(dir, note.VerifierList(key), audit.VerifyOptions{})
	if err != nil {
		t.Fatalf("%v: %+v", err, report)
	}
	var log bytes.Buffer
	if err := audit.NewReader(dir).Export(t.Context(), audit.Query{}, &log, "jsonl"); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range bytes.Lines(log.Bytes()) {
		r, err := audit.ParseRecord(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		if r.Result != audit.Allowed {
			continue
		}
		found[r.KMSRequestID] = true
		if r.Kind == audit.KindAdmin {
			var after struct{ ID string }
			_ = json.Unmarshal(r.After, &after) // without an ID it is about something else
			found[after.ID] = true
		}
	}
	for _, id := range append(a.requests, a.made...) {
		if !found[id] {
			t.Errorf("%s was answered, and is not in the audit log", id)
		}
	}
	a.requests, a.made = nil, nil
}

// check decrypts all that was encrypted.
func check(t *testing.T, p *process, a *answered) {
	t.Helper()
	k := p.kms()
	for id := range a.keys {
		patient(k, "/keys/"+id+"/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})
		if c, ok := a.ciphertexts[id]; ok {
			if got := patient(k, "/keys/"+id+"/decrypt", xkstest.DecryptBody(c)).Bytes(t, "plaintext"); string(got) != id {
				t.Errorf("key %s: decrypted %q", id, got)
			}
		}
	}
}

// patient calls as KMS does: a busy machine that is late (503) is called again, ten times.
func patient(k *xkstest.KMS, path string, body any) xkstest.Body {
	k.T.Helper()
	for range 10 {
		if a := k.Call(path, body); a.Status != http.StatusServiceUnavailable {
			break
		}
	}
	return k.OK(path, body)
}

// checkCounts reads the counts of encryptions, with the appliance dead.
func checkCounts(t *testing.T, dir string, a *answered, before map[string]int64) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "state", "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT key_id, encryptions FROM key_versions")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var id string
		var n int64
		if err := rows.Scan(&id, &n); err != nil {
			t.Fatal(err)
		}
		if answered, ok := a.keys[id]; ok {
			found++
			if n < int64(answered) {
				t.Errorf("key %s: %d encryptions are counted, %d were answered", id, n, answered)
			}
		}
		if n < before[id] {
			t.Errorf("key %s: the count went back from %d to %d", id, before[id], n)
		}
		before[id] = n
	}
	if err := rows.Err(); err != nil || found != len(a.keys) {
		t.Errorf("%d of %d keys are in the database: %v", found, len(a.keys), err)
	}
}

// checkLeftovers holds the key objects in the token against the keys. An object that no
// key owns is one whose key was not finished when the appliance was killed: it is noted,
// so that it is destroyed after its wait.
func checkLeftovers(t *testing.T, p *process, dir string) {
	t.Helper()
	var keys operation.List[*appliance.ExternalKey]
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodGet, web.Path("keystores", "demo", "keys")+"?limit=1000", nil, &keys); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, k := range keys.Items {
		if k.Custody == appliance.CustodyHSM {
			want++
		}
	}
	p.stop()
	noted := notedObjects(t, dir)
	got := 0
	for _, label := range keyObjects(t, dir) {
		if !noted[label] {
			got++
		}
	}
	if got != want || want == 0 {
		t.Errorf("%d key objects in the token that are not noted for destruction, for %d keys", got, want)
	}
}

// notedObjects gives the labels that the stopped appliance has noted for destruction.
func notedObjects(t *testing.T, dir string) map[string]bool {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "state", "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT label FROM token_objects")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	noted := map[string]bool{}
	for rows.Next() {
		var label string
		if err := rows.Scan(&label); err != nil {
			t.Fatal(err)
		}
		noted[label] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return noted
}

// externalKey matches the label of the object of an external key.
var externalKey = regexp.MustCompile(`^holdfast-[0-9a-f]{8}-`)

// keyObjects gives the labels of the objects in the token that are labelled as those of
// external keys.
func keyObjects(t *testing.T, dir string) []string {
	t.Helper()
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(filepath.Join(dir, "pin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := softhsm.Use(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	m := pkcs11.New(module)
	defer m.Destroy()
	if err := m.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Finalize() }()
	slots, err := m.GetSlotList(true)
	if err != nil || len(slots) == 0 {
		t.Fatalf("no slot: %v", err)
	}
	s, err := m.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Login(s, pkcs11.CKU_USER, strings.TrimSpace(string(pin))); err != nil {
		t.Fatal(err)
	}
	if err := m.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}); err != nil {
		t.Fatal(err)
	}
	objects, _, err := m.FindObjects(s, 10000)
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, o := range objects {
		label, err := m.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
		if err == nil && externalKey.Match(label[0].Value) {
			labels = append(labels, string(label[0].Value))
		}
	}
	return labels
}
