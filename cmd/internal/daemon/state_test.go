package daemon_test

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/config"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// edit changes the database of a site that is stopped.
func (s *site) edit(statement string, args ...any) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.cfg.State.Dir, "holdfast.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement, args...); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

// startAccepting starts a daemon whose database was edited. Its state is held, and then
// accepted as it is, so that what the rows' own seals do can be seen.
func (s *site) startAccepting() *running {
	s.t.Helper()
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `state=locked .*code=E_STATE_CHANGED`)
	r.ok("POST", "state/accept", operation.AcceptedState{Reason: "the test has edited it"}, nil)
	s.logged(before, `state=serving`)
	return r
}

// bearer calls the admin API over HTTPS with a token, and gives the status.
func (r *running) bearer(token, method, path, body string) int {
	r.s.t.Helper()
	req, err := http.NewRequest(method, "https://"+r.Admin.String()+operation.Prefix+path, strings.NewReader(body))
	if err != nil {
		r.s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := r.s.client().Do(req)
	if err != nil {
		r.s.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// TestInsertedToken: a token that was put into the database opens nothing, over
// HTTPS, while a real one does.
func TestInsertedToken(t *testing.T) {
	s := newSite(t)
	r := s.start()
	r.newKeyStore()
	var real operation.CreatedToken
	r.ok("POST", "tokens", operation.NewToken{Name: "real", Role: identity.RoleAdministrator, Days: 1, Scope: *identity.Unlimited()}, &real)
	if got := r.bearer(real.Secret, "GET", "/keystores", ""); got != 200 {
		t.Fatalf("the real one: %d", got)
	}
	r.stop()
	const chosen = "hf_chosen"
	sum := sha256.Sum256([]byte(chosen))
	s.edit(`INSERT INTO api_tokens (digest, id, name, role, created_by, created_at, expires_at) VALUES (?, 'e', 'evil', 'administrator', 'alice', 0, ?)`,
		sum[:], time.Now().Add(time.Hour).UnixMilli())
	r = s.startAccepting()
	for _, call := range [][3]string{
		{"GET", "/keystores", ""},
		{"POST", "/keystores/p/credentials", "{}"},
		{"POST", "/keystores/p/grants", `{"principal": "*", "operations": ["Decrypt"]}`},
	} {
		if got := r.bearer(chosen, call[0], call[1], call[2]); got != 401 {
			t.Errorf("%s %s: %d", call[0], call[1], got)
		}
	}
	if got := r.bearer(real.Secret, "GET", "/keystores", ""); got != 200 {
		t.Errorf("the real one, after a restart: %d", got)
	}
	s.logged(0, `an API token is refused: the row does not match its seal`)
}

// TestBlockTakenOff: without its seal the row of the block blocks; an administrator
// takes it off, and then it serves.
func TestBlockTakenOff(t *testing.T) {
	s := newSite(t)
	r := s.start()
	kms := r.newKeyStore()
	r.newKey("k", appliance.CustodyCached, "")
	kms.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	r.ok("POST", "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{Everything: true}, Reason: "a test"}, nil)
	r.stop()
	s.edit(`UPDATE installation SET block_reason = '', block_since = NULL, block_seal = NULL`)
	r = s.startAccepting()
	kms.URL, kms.HTTP = "https://"+r.XKS.String(), s.client()
	if a := kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x")); a.Status == 200 {
		t.Error("it serves")
	}
	r.ok("POST", "unblock", appliance.BlockTarget{Everything: true}, nil)
	kms.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
}

// enrol makes the first administrator in the console.
func (r *running) enrol(code, name string) {
	r.s.t.Helper()
	status, page := r.page("/setup", url.Values{"setup_code": {code}, "name": {name}})
	link := between(page, `action="/invitation/`, `/`)
	secret := between(page, `id="totp-secret">`, `<`)
	if status != 200 || link == "" || secret == "" {
		r.s.t.Fatalf("%d %.300s", status, page)
	}
	now, err := totp.GenerateCode(strings.ReplaceAll(secret, " ", ""), time.Now())
	if err != nil {
		r.s.t.Fatal(err)
	}
	if status, page = r.page("/invitation/"+link+"/password", url.Values{"password": {"a sentence long enough"}, "code": {now}}); status != 200 || !strings.Contains(page, "Recovery codes") {
		r.s.t.Fatalf("%d %.300s", status, page)
	}
}

func between(text, from, to string) string {
	_, after, _ := strings.Cut(text, from)
	found, _, _ := strings.Cut(after, to)
	return strings.TrimSpace(found)
}

// TestUsersGone: who removes all users from the database opens setup to nobody, not
// by the code that this machine makes nor by a hash in the configuration.
func TestUsersGone(t *testing.T) {
	s := newSite(t)
	r := s.start()
	r.enrol(<-s.welcomed, "alice")
	r.stop()
	s.edit(`DELETE FROM sessions; DELETE FROM users`)
	r = s.startAccepting()
	if got := len(s.welcomed); got != 0 {
		t.Errorf("%d setup codes", got)
	}
	if _, page := r.page("/setup", nil); strings.Contains(page, "setup_code") {
		t.Error("the page asks for a setup code")
	}
	s.logged(0, `there is no user, and setup is over`)
}

// TestSetupAfterRestart: as long as nobody has enrolled, each start has a code, also
// when the keys are unlocked before it is known whether setup is over.
func TestSetupAfterRestart(t *testing.T) {
	s := newSite(t)
	s.start().stop()
	<-s.welcomed
	r := s.start()
	r.enrol(<-s.welcomed, "alice")
	r.stop()
	s.start()
	if got := len(s.welcomed); got != 0 {
		t.Errorf("%d setup codes, and there is a user", got)
	}
}

// TestFirstUnlockIsOnRecord: users who were there before the first unlock are sealed
// then, and the audit log names them.
func TestFirstUnlockIsOnRecord(t *testing.T) {
	s := newSite(t)
	s.start().stop() // has the policy signed
	<-s.welcomed
	if err := errors.Join(os.RemoveAll(s.cfg.State.Dir), os.Remove(s.cfg.SealedPIN())); err != nil {
		t.Fatal(err)
	}
	s.asIs = true
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `code=E_SEAL_MISSING`)
	r.enrol(<-s.welcomed, "alice")
	r.seal()
	// The HSM has the objects of the installation that was removed.
	s.logged(before, `state=locked .*code=E_STATE_MISSING`)
	r.ok("POST", "installation/begin", operation.Decision{Reason: "its disk is gone"}, nil)
	s.logged(before, `msg=serving `)
	var records []*audit.Record
	r.ok("GET", "audit/records?kind=admin", nil, &struct {
		Records *[]*audit.Record `json:"items"`
	}{&records})
	found := false
	for _, rec := range records {
		found = found || rec.Operation == "seal users" && strings.Contains(string(rec.After), "user alice: administrator")
	}
	if !found {
		t.Errorf("%d records, and none of the users that were sealed", len(records))
	}
	r.stop()
	s.asIs = false
	r = s.start()
	var users operation.List[*identity.User]
	r.ok("GET", "users", nil, &users)
	if len(users.Items) != 1 || users.Items[0].Refused {
		t.Errorf("%+v", users)
	}
}

// TestConfigurationBringsNothingBack: the credential of the section [aws_xks_config]
// that a person has deleted stays deleted; that it was made is on record; and each
// start warns of the section.
func TestConfigurationBringsNothingBack(t *testing.T) {
	s := newSite(t)
	s.cfg.AWSXKS = &config.AWSXKS{Enable: true, Region: "us-east-1", Service: "xks-kms", AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	r := s.start()
	health := func() int {
		k := r.kms(s.cfg.AWSXKS.AccessKeyID, s.cfg.AWSXKS.SecretAccessKey)
		k.Service = "xks-kms"
		return k.Call("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}).Status
	}
	if got := health(); got != 200 {
		t.Fatalf("%d", got)
	}
	var records []*audit.Record
	r.ok("GET", "audit/records?kind=admin&key_store=default", nil, &struct {
		Records *[]*audit.Record `json:"items"`
	}{&records})
	made := map[string]bool{}
	for _, rec := range records {
		if rec.Actor == "configuration [aws_xks_config]" {
			made[rec.Operation] = true
			if strings.Contains(string(rec.After), s.cfg.AWSXKS.SecretAccessKey) {
				t.Error("the record has the secret")
			}
		}
	}
	if len(made) != 2 || !made["POST keystores"] || !made["POST keystores/{keystore}/credentials"] {
		t.Errorf("on record: %v", made)
	}
	r.ok("DELETE", "keystores/default/credentials/AKIAIOSFODNN7EXAMPLE", nil, nil)
	for i := range 2 {
		before := len(s.log.String())
		r.stop()
		r = s.start()
		s.logged(before, `level=WARN msg="the configuration has the section \[aws_xks_config\]`)
		if got := health(); got != 401 {
			t.Errorf("start %d: the credential signs, %d", i, got)
		}
	}
	r.ok("DELETE", "keystores/default", nil, nil)
	r.stop()
	r = s.start()
	var stores operation.List[*appliance.KeyStore]
	r.ok("GET", "keystores", nil, &stores)
	if len(stores.Items) != 0 {
		t.Errorf("the key store came back: %s", fmt.Sprint(stores.Items[0].Name))
	}
}
