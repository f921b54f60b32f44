package web_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/passkeytest"
	"holdfast/appliance/witness"
	"holdfast/hsm"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// samples are bodies with all members, by the route's ID: each route that takes a
// body has one.
var samples = map[string]string{
	"block":                `{"key_store": "p", "key_id": "k", "reason": "why"}`,
	"unblock":              `{"key_store": "p", "key_id": "k"}`,
	"createKeyStore":       `{"name": "q", "uri_path_prefix": "/q", "requests_per_second": 5}`,
	"setQuota":             `{"requests_per_second": 7}`,
	"createKey":            `{"id": "x", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached", "material": "` + material + `", "aad_framing": "plain", "reversible": true}`,
	"rotateKey":            `{"material": "` + material + `"}`,
	"scheduleKeyDeletion":  `{"days": 7}`,
	"acceptState":          `{"reason": "why"}`,
	"beginInstallation":    `{"reason": "why", "admission": "00"}`,
	"confirmAdmission":     `{"digest": "00"}`,
	"takeOverInstallation": `{"reason": "why"}`,
	"confirmTime":          `{"time": "2001-01-02T00:00:00Z", "reason": "why"}`,
	"discardKeyStore":      `{"keys": 0}`,
	"discardKey":           `{"version": 0}`,
	"createGrant":          grantSample,
	"checkKeyFile":         `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n"}`,
	"checkGrantFile":       `{"file": "principal,operations\n*,Encrypt Decrypt\n"}`,
	"createKeys":           `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n", "rows": 1, "sha256": "8196b9fb41792b79e040cf5aa2d65d4518b4880c6d67f2a583e7e1d2f9e516df", "most": 1, "contents": ["1 rows"]}`,
	"createGrants":         `{"file": "principal,operations\n*,Encrypt Decrypt\n", "rows": 1, "sha256": "f3165df228e8936c3cca948d4820b868faf3a229c990a974e1345a1fb8e7e00d", "most": 1, "contents": ["1 rows"]}`,
	"renderGrant":          grantSample,
	"testGrants": `{"principal": "arn:aws:iam::123456789012:role/app", "operation": "Encrypt", "kms_operation": "Encrypt", "via_service": "s3.us-east-1.amazonaws.com",
		"source_vpc": "vpc-1", "source_vpce": "vpce-1", "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1"}`,
	"setPolicy":           `{"cedar": "permit (principal, action, resource);", "force": true}`,
	"createCredential":    `{"access_key_id": "ABCDEFGHIJKLMNOPQRST", "secret_access_key": "` + strings.Repeat("a", 44) + `"}`,
	"seal":                `{"pin": "NDcxMQ==", "admission": "00"}`,
	"revokePolicies":      `{"below": 1, "approvals": true}`,
	"installLaunch":       `{"document": "good", "sets": ["x"]}`,
	"installPolicy":       `{"policy": "good", "authorizations": "good", "approvals": "good", "admits": ["x"]}`,
	"drainNode":           `{"drained": true}`,
	"createInvitation":    `{"name": "guest", "role": "viewer"}`,
	"setRole":             `{"role": "auditor"}`,
	"bindOIDC":            `{"email": "bob@example.com"}`,
	"setEmail":            `{"email": "bob@example.com"}`,
	"createToken":         `{"name": "t", "role": "viewer", "days": 30, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`,
	"provePassword":       `{"password": "a long enough sentence", "code": "123456"}`,
	"provePasskey":        `{"ceremony": "x", "response": {"id": "x"}, "name": "x"}`,
	"addPasskey":          `{"ceremony": "x", "response": {"id": "x"}, "name": "x"}`,
	"setPassword":         `{"password": "a long enough sentence", "code": "123456"}`,
	"confirmRecoveryUses": `{"until": "2026-11-28T03:04:05Z"}`,
	"setSettings":         `{"four_eyes": ["deleteKeyStore"], "approval_hours": 24}`,
	"requestCertificate":  `{"names": ["localhost"]}`,
	"installCertificate":  `{"chain": "good", "own_authority": true, "other_name": true}`,
	"shareCertificate":    `{"chain": "good", "private_key": "eA==", "own_authority": true, "other_name": true}`,
	"approve":             decided,
	"reject":              decided,
	"performApproved":     `{"secret": "eA=="}`,
}

const (
	material    = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	grantSample = `{"key_id": "k", "effect": "forbid", "principal": "*", "force": true, "operations": ["Encrypt", "Decrypt"], "conditions": {"calling_accounts": ["123456789012"],
		"via_services": ["s3.us-east-1.amazonaws.com"], "source_vpcs": ["vpc-1"], "source_vpces": ["vpce-1"], "kms_key_arns": ["arn:aws:kms:us-east-1:123456789012:key/1"],
		"kms_key_regions": ["us-east-1"], "kms_key_accounts": ["123456789012"], "kms_operations": ["Encrypt"]}, "not_after": "2099-01-01T00:00:00Z"}`
)

// bank is an API with one of each thing that routes name, all in one database.
type bank struct {
	*caller
	bed  *xkstest.Bed
	db   *sql.DB
	boot *webtest.Boot
	// alice may do everything; bob is the user whom routes name.
	alice, bob identity.Principal
	// names puts what there is into the paths of routes.
	names *strings.Replacer

	version, rows string // of the last state; see state
}

func newBank(t *testing.T) *bank {
	t.Helper()
	return newBankOn(t, xkstest.Options{})
}

func newBankOn(t *testing.T, options xkstest.Options) *bank {
	t.Helper()
	if options.Appliance.Witness == nil { // one that is behind, so that there is a time to confirm
		w := witness.New(nil, witness.Source{Name: "none", Elapsed: func() (time.Duration, error) { return 0, nil }})
		w.Begin(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC))
		options.Appliance.Witness = w
	}
	b := &bank{bed: xkstest.Start(t, options), boot: &webtest.Boot{}}
	a, log := &webtest.Audit{}, slog.New(slog.NewTextHandler(b.bed.Log, nil))
	o := optionsOn(t, b.bed.Store, b.bed.Appliance, b.boot, a, log)
	b.caller = &caller{t, web.NewAPI(o), a}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	b.db, err = sql.Open("sqlite", "file:"+b.bed.DB+"?_pragma=busy_timeout(5000)")
	must(err)
	b.db.SetMaxOpenConns(1) // whose version of the data is one
	t.Cleanup(func() { _ = b.db.Close() })
	ctx, d := t.Context(), b.bed.Appliance
	_, err = d.CreateKeyStore(ctx, appliance.KeyStore{Name: "p", URIPathPrefix: "/p", RequestsPerSecond: 3})
	must(err)
	_, err = d.CreateKeyStore(ctx, appliance.KeyStore{Name: "empty", URIPathPrefix: "/empty"})
	must(err)
	must(d.SetPolicy(ctx, "p", appliance.Policies{Cedar: `forbid (principal, action, resource);`}))
	_, err = d.CreateKey(ctx, "p", appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached})
	must(err)
	credential, _, err := d.CreateCredential(ctx, "p", appliance.NewCredential{})
	must(err)
	grant, err := d.AddGrant(ctx, "p", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}})
	must(err)
	b.alice, b.bob = b.enrol(o.Identity, "alice"), b.enrol(o.Identity, "bob")
	invitation, _, err := o.Identity.Invite(ctx, root, "carol", identity.RoleViewer)
	must(err)
	token, _, err := o.Identity.CreateToken(ctx, root, identity.NewToken{Name: "robot", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	must(err)
	b.names = strings.NewReplacer("{keystore}", "p", "{key}", "k", "{credential}", credential.AccessKeyID, "{grant}", grant.ID, "{user}", b.bob.UserID,
		"{invitation}", invitation.ID, "{token}", token.ID, "{session}", b.alice.Session, "{seq}", "0")
	for _, body := range []string{`{"everything": true, "reason": "why"}`, `{"key_store": "p", "reason": "why"}`, `{"key_store": "p", "key_id": "k", "reason": "why"}`} {
		b.ok("POST", "/block", body)
	}
	b.fourEyes("removeGrant")
	var waits operation.ApprovalDetail
	must(json.Unmarshal(b.call(&b.alice, "DELETE", b.names.Replace("/keystores/{keystore}/grants/{grant}"), "").Body.Bytes(), &waits))
	b.fourEyes()
	b.names = strings.NewReplacer("{approval}", waits.ID, "{keystore}", "p", "{key}", "k", "{credential}", credential.AccessKeyID, "{grant}", grant.ID, "{user}", b.bob.UserID,
		"{invitation}", invitation.ID, "{token}", token.ID, "{session}", b.alice.Session, "{seq}", "0", "{passkey}", b.passkeyOf(&b.alice), "{setting}", "setup")
	return b
}

// passkeyOf gives the ID of a user's first passkey.
func (b *bank) passkeyOf(who *identity.Principal) string {
	b.t.Helper()
	u, err := b.api.(*web.API).Identity.User(b.t.Context(), who.UserID)
	if err != nil || len(u.Passkeys) == 0 {
		b.t.Fatalf("%v %+v", err, u)
	}
	return u.Passkeys[0].ID
}

// enrol makes an administrator with a passkey, who is signed in and present.
func (b *bank) enrol(users *identity.Directory, name string) identity.Principal {
	b.t.Helper()
	ctx := b.t.Context()
	_, link, err := users.Invite(ctx, root, name, identity.RoleAdministrator)
	if err != nil {
		b.t.Fatal(err)
	}
	in, _ := passkeytest.Enrol(b.t, users, link, identity.Client{Address: "192.0.2.1:1"})
	return in.Principal
}

// ok has root do something that must succeed.
func (b *bank) ok(method, path, body string) {
	b.t.Helper()
	if w := b.call(&root, method, path, body); w.Code != success(method, path) {
		b.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

// fourEyes chooses the operations that need a second person.
func (b *bank) fourEyes(operations ...string) {
	b.t.Helper()
	text, err := json.Marshal(operation.Settings{FourEyes: append([]string{}, operations...)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.ok("PUT", "/settings", string(text))
}

// state is all that is stored, and what was sealed.
func (b *bank) state() string {
	b.t.Helper()
	said := fmt.Sprintf("PIN %q, revoked below %d\n", b.boot.PIN, b.boot.Below)
	// The version changes with each change that another connection commits.
	version := strings.Join(b.query(`PRAGMA data_version`), "")
	if version == b.version {
		return said + b.rows
	}
	var all strings.Builder
	for _, table := range b.query(`SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`) {
		fmt.Fprintln(&all, table)
		for _, row := range b.query(`SELECT * FROM ` + strings.Trim(table, "[]")) {
			fmt.Fprintln(&all, row)
		}
	}
	b.version, b.rows = version, all.String()
	return said + b.rows
}

// TestStateSeesChanges: what the tests compare is another after a change by the API, and after one
// beside it.
func TestStateSeesChanges(t *testing.T) {
	b := newBank(t)
	before := b.state()
	if b.state() != before {
		t.Error("it changes by itself")
	}
	b.ok("PUT", "/keystores/p/quota", `{"requests_per_second": 77}`)
	after := b.state()
	if after == before {
		t.Error("a change is not seen")
	}
	b.edit(`UPDATE key_stores SET requests_per_second = 78`)
	if b.state() == after {
		t.Error("a change beside the API is not seen")
	}
}

// edit changes rows beside the API.
func (b *bank) edit(statement string) {
	b.t.Helper()
	b.version = "" // which is that of other connections' changes
	if _, err := b.db.Exec(statement); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bank) query(statement string) (found []string) {
	b.t.Helper()
	rows, err := b.db.Query(statement)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		b.t.Fatal(err)
	}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			b.t.Fatal(err)
		}
		found = append(found, fmt.Sprint(values))
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	return found
}

// wrong is a body that a route must refuse; names is what the message must have.
type wrong struct{ what, body, names string }

// wrongBodies are those of a route, made from its body in full and the document's
// schema of it.
func wrongBodies(t *testing.T, d *openAPI, s *jsonschema.Schema, sample string) []wrong {
	t.Helper()
	all := []wrong{
		{"no body", "", ""}, {"whitespace", " \r\n\t", ""}, {"null", "null", ""}, {"a list", "[]", ""}, {"a text", `"x"`, ""}, {"a number", "0", ""}, {"half", `{"`, ""},
		{"a form", "days=7", ""}, {"more after it", sample + " {}", ""}, {"twice", sample + sample, ""},
	}
	var whole map[string]any
	if err := json.Unmarshal([]byte(sample), &whole); err != nil {
		t.Fatalf("%s: %v", sample, err)
	}
	all = append(all, wrong{"an unknown member", change(t, whole, func(m map[string]any) { m["colour"] = "red" }), "colour"})
	s = d.schema(s)
	if len(s.Required) > 0 {
		all = append(all, wrong{"an empty object", "{}", s.Required[0]})
	}
	if len(whole) != len(s.Properties) && s.Properties["everything"] == nil {
		t.Errorf("the sample %s lacks members: the document has %d", sample, len(s.Properties))
	}
	return append(all, wrongMembers(t, d, s, whole, func(object map[string]any) string { return change(t, object, func(map[string]any) {}) })...)
}

// wrongMembers are bodies with something wrong in one member of an object; write
// writes the body with another object in its place.
func wrongMembers(t *testing.T, d *openAPI, s *jsonschema.Schema, object map[string]any, write func(map[string]any) string) (all []wrong) {
	t.Helper()
	put := func(what, name string, f func(map[string]any)) {
		var copied map[string]any
		if err := json.Unmarshal([]byte(change(t, object, f)), &copied); err != nil {
			t.Fatal(err)
		}
		all = append(all, wrong{name + " " + what, write(copied), name})
	}
	for name := range object {
		value, _ := json.Marshal(object[name])
		required := slices.Contains(s.Required, name)
		if required {
			put("missing", name, func(m map[string]any) { delete(m, name) })
		}
		put("null", name, func(m map[string]any) { m[name] = nil })
		p := d.schema(s.Properties[name])
		put("of another type", name, func(m map[string]any) {
			if m[name] = any(map[string]any{"x": 1.5}); p.Type == "object" {
				m[name] = 1.5
			}
		})
		upper := func(m map[string]any) { m[strings.ToUpper(name)] = m[name]; delete(m, name) }
		all = append(all, wrong{name + " in upper case", write(changed(t, object, upper)), strings.ToUpper(name)})
		// A map has each name once: the second one is put in by hand.
		text := write(changed(t, object, func(m map[string]any) { m[name] = "@@" }))
		all = append(all, wrong{name + " twice", strings.Replace(text, `"@@"`, string(value)+`,"`+name+`":`+string(value), 1), name})
		inner, isObject := object[name].(map[string]any)
		list, isList := object[name].([]any)
		switch {
		case isObject && len(p.Properties) > 0:
			if !required {
				put("empty", name, func(m map[string]any) { m[name] = map[string]any{} })
			}
			all = append(all, wrongMembers(t, d, p, inner, func(o map[string]any) string {
				return write(changed(t, object, func(m map[string]any) { m[name] = o }))
			})...)
		case isList:
			put("with null", name, func(m map[string]any) { m[name] = append(slices.Clone(list), nil) })
			if !required {
				put("empty", name, func(m map[string]any) { m[name] = []any{} })
			}
		case p.Type == "string" && !required:
			put("empty", name, func(m map[string]any) { m[name] = "" })
		}
	}
	return all
}

// change gives the object in JSON, changed.
func change(t *testing.T, object map[string]any, f func(map[string]any)) string {
	t.Helper()
	text, err := json.Marshal(changed(t, object, f))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// changed gives a copy of the object, changed.
func changed(t *testing.T, object map[string]any, f func(map[string]any)) map[string]any {
	t.Helper()
	copied := maps.Clone(object)
	f(copied)
	return copied
}

// TestBodiesOfEveryRoute: what is absent from a body is never taken for a value. A
// new route is among them by itself, and needs a sample.
func TestBodiesOfEveryRoute(t *testing.T) {
	b := newBank(t)
	d := b.document()
	before, asked := b.state(), 0
	refuse := func(route *operation.Route, w wrong) {
		t.Helper()
		asked++
		got := b.call(&b.alice, route.Method, b.names.Replace(route.Path), w.body)
		if got.Code != http.StatusBadRequest || code(t, got) != "invalid" {
			t.Errorf("%s, %s: %d %s\n%s", route.ID, w.what, got.Code, got.Body, w.body)
		} else if !strings.Contains(got.Body.String(), w.names) || !strings.Contains(got.Body.String(), "this route takes") {
			t.Errorf("%s, %s: the message does not say what is wrong: %s", route.ID, w.what, got.Body)
		}
		if now := b.state(); now != before {
			t.Errorf("%s, %s: it changed something", route.ID, w.what)
			before = now
		}
	}
	for _, route := range operation.Table() {
		if route.BinaryRequest != "" {
			for _, body := range []string{"", " \r\n\t", "null", "{}", "x"} {
				if got := b.call(&b.alice, route.Method, b.names.Replace(route.Path), body); got.Code != http.StatusBadRequest || b.state() != before {
					t.Errorf("%s, body %q: %d %s, or it changed something", route.ID, body, got.Code, got.Body)
				}
			}
			continue
		}
		media, takes := d.Paths[route.Path][strings.ToLower(route.Method)].RequestBody.Content["application/json"]
		if !takes {
			for _, body := range []string{`null`, `[]`, `{"days": 7}`, `{}{}`, `x`, `""`} {
				refuse(route, wrong{"a body that says something", body, ""})
			}
			continue
		}
		if samples[route.ID] == "" {
			t.Errorf("%s: samples has no body of it", route.ID)
			continue
		}
		for _, w := range wrongBodies(t, d, media.Schema, samples[route.ID]) {
			refuse(route, w)
		}
	}
	if asked < 500 {
		t.Errorf("only %d bodies were tried", asked)
	}
	// That they were refused was not for another reason.
	for _, route := range operation.Table() {
		if body := samples[route.ID]; body != "" {
			if w := b.call(&b.alice, route.Method, b.names.Replace(route.Path), body); strings.Contains(w.Body.String(), "this route takes") {
				t.Errorf("%s: its sample is refused: %s", route.ID, w.Body)
			}
		}
	}
}

// TestQueriesOfEveryRoute: a parameter that the route does not know, or cannot read,
// is refused, and not taken for one that was left out.
func TestQueriesOfEveryRoute(t *testing.T) {
	b := newBank(t)
	before := b.state()
	for _, route := range operation.Table() {
		queries := []string{"colour=red", "colour", "=", "a;b", "%zz=1", "x=%zz"}
		for _, p := range route.Query {
			good := map[string]string{"boolean": "true", "integer": "5", "string": "x"}[p.Type]
			if len(p.Enum) > 0 {
				good = p.Enum[0]
			}
			queries = append(queries, p.Name+"=", p.Name, p.Name+"="+good+"&"+p.Name+"="+good, strings.ToUpper(p.Name)+"="+good, p.Name[1:]+"="+good, p.Name+"="+good+"&colour=red", p.Name+"="+good+";x")
			switch {
			case len(p.Enum) > 0:
				queries = append(queries, p.Name+"=nonsense", p.Name+"="+strings.ToUpper(good), p.Name+"=+"+good)
			case p.Type == "boolean":
				for _, v := range []string{"TRUE", "True", "1", "yes", "t", "on", "+true", "true+"} {
					queries = append(queries, p.Name+"="+v)
				}
			case p.Type == "integer":
				for _, v := range []string{"many", "0", "-1", "%2B5", "05", "5.0", "0x5", "99999999999999999999", "+5"} {
					queries = append(queries, p.Name+"="+v)
				}
			}
		}
		for _, q := range queries {
			w := b.call(&b.alice, route.Method, b.names.Replace(route.Path)+"?"+q, samples[route.ID])
			if w.Code != http.StatusBadRequest || code(t, w) != "invalid" {
				t.Errorf("%s?%s: %d %.200s", route.ID, q, w.Code, w.Body)
			}
			if now := b.state(); now != before {
				t.Errorf("%s?%s changed something", route.ID, q)
				before = now
			}
		}
	}
}

// restoring counts what is done with backups.
type restoring struct {
	operation.Domain
	restored, verified int
}

func (r *restoring) Restore(context.Context, io.Reader, appliance.Restoration) (*appliance.BackupReport, error) {
	r.restored++
	return &appliance.BackupReport{}, nil
}

func (r *restoring) VerifyBackup(context.Context, io.Reader) (*appliance.BackupReport, error) {
	r.verified++
	return &appliance.BackupReport{}, nil
}

// TestVerifyIsNoRestore: who wants a backup verified and misspells that has nothing
// restored.
func TestVerifyIsNoRestore(t *testing.T) {
	var r restoring
	a := start(t, func(d operation.Domain) operation.Domain { r.Domain = d; return &r })
	for _, q := range []string{"verify=TRUE", "verfy=true", "verify=1", "verify", "verify=", "Verify=true", "verify=true&verify=false", "verify=true;", "verify=%zz", "verify=+true"} {
		a.fails(post, "/api/v1/restore?"+q, "a backup", 400, fault.Invalid)
	}
	if r.restored+r.verified > 0 {
		t.Fatalf("%d were restored, %d verified", r.restored, r.verified)
	}
	a.ok(post, "/api/v1/restore?verify=true", "a backup")
	if r.restored != 0 || r.verified != 1 {
		t.Errorf("verify=true: %d were restored, %d verified", r.restored, r.verified)
	}
	a.ok(post, "/api/v1/restore?verify=false", "a backup")
	a.ok(post, "/api/v1/restore", "a backup")
	if r.restored != 2 || r.verified != 1 {
		t.Errorf("%d were restored, %d verified", r.restored, r.verified)
	}
}

// TestIfMatchSaysSomething: a header without a revision is refused, and not taken for none.
func TestIfMatchSaysSomething(t *testing.T) {
	b := newBank(t)
	before := b.state()
	for _, route := range operation.Table() {
		if !route.Mutates() {
			continue
		}
		for _, values := range [][]string{{""}, {" "}, {`""`}, {"0000"}, {`"0000`}, {`"a" "b"`}, {`*, "a"`}, {"", `"a"`}, {"null"}} {
			w := b.call(&b.alice, route.Method, b.names.Replace(route.Path), samples[route.ID], func(r *http.Request) { r.Header["If-Match"] = values })
			if w.Code != http.StatusBadRequest || code(t, w) != "invalid" {
				t.Errorf("%s, If-Match %q: %d %s", route.ID, values, w.Code, w.Body)
			}
		}
		if now := b.state(); now != before {
			t.Errorf("%s changed something", route.ID)
			before = now
		}
	}
}

// TestDocumentDemandsTheSame: what the OpenAPI document demands of a body is what
// the API refuses to miss, at every depth, and nothing may be null.
func TestDocumentDemandsTheSame(t *testing.T) {
	b := newBank(t)
	d := b.document()
	for _, route := range operation.Table() {
		op := d.Paths[route.Path][strings.ToLower(route.Method)]
		media, takes := op.RequestBody.Content["application/json"]
		if !takes {
			continue
		}
		if !op.RequestBody.Required {
			t.Errorf("%s: the document has its body not required", route.ID)
		}
		resolved, err := d.resolve(media.Schema)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range append(wrongBodies(t, d, media.Schema, samples[route.ID]), wrong{"", samples[route.ID], ""}) {
			var v any
			if json.Unmarshal([]byte(w.body), &v) != nil {
				continue // no JSON
			}
			refused := resolved.Validate(v) != nil
			if want := w.what != ""; refused != want && !strings.HasSuffix(w.what, "twice") && !strings.HasSuffix(w.what, "empty") {
				t.Errorf("%s, %s: the document refuses it: %t, want %t: %s", route.ID, w.what, refused, want, w.body)
			}
		}
	}
}

// approvable gives the routes that may need a second person.
func approvable() (all []*operation.Route) {
	for _, route := range operation.Table() {
		if route.Guards().FourEyes {
			all = append(all, route)
		}
	}
	return all
}

// impossible are requests that can never succeed, by the route's ID: each route
// that may need a second person has some. The parameters that other take the place
// of those in the path.
var impossible = map[string][]struct{ other, body string }{
	"takeOverInstallation": {{body: `{"reason": ""}`}},
	"confirmTime": {{body: `{"time": "2001-01-02T00:00:00Z", "reason": ""}`}, {body: `{"time": "2001-01-01T00:00:00Z", "reason": "passed"}`},
		{body: `{"time": "9999-01-01T00:00:00Z", "reason": "not yet"}`}, {body: `{"reason": "none"}`}},
	"backup": {{other: "?approval=nobody"}},
	"block": {{"", `{"everything": true, "reason": ""}`}, {"", `{"everything": true, "key_store": "p", "reason": "why"}`}, {"", `{"key_id": "k", "reason": "why"}`}, {"", `{"reason": "why"}`},
		{"", `{"key_store": "nobody", "reason": "why"}`}, {"", `{"key_store": "p", "key_id": "nobody", "reason": "why"}`}},
	"setQuota": {{"{keystore}=nobody", `{"requests_per_second": 1}`}, {"", `{"requests_per_second": -1}`}},
	"createKey": {{"{keystore}=nobody", `{"id": "x", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`}, {"", `{"id": "k", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`},
		{"", `{"id": "a b", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`}, {"", `{"id": "x", "usage": {"encrypt": true, "decrypt": true}, "custody": "safe"}`},
		{"", `{"id": "x", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached", "material": "AQID"}`}, {"", `{"id": "x", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached", "aad_framing": "plain"}`}},
	"disableKey": {{"{keystore}=nobody", ""}, {"{key}=nobody", ""}},
	"rotateKey":  {{"{keystore}=nobody", `{}`}, {"{key}=nobody", `{}`}, {"", `{"material": "AQID"}`}},
	"createCredential": {{"{keystore}=nobody", `{}`}, {"", `{"access_key_id": "short", "secret_access_key": "` + strings.Repeat("a", 44) + `"}`}, {"", `{"access_key_id": "ABCDEFGHIJKLMNOPQRST"}`},
		{"", `{"access_key_id": "ABCDEFGHIJKLMNOPQRST", "secret_access_key": "short"}`}},
	"activateCredential":   {{"{keystore}=nobody", ""}, {"{credential}=nobody", ""}},
	"deactivateCredential": {{"{keystore}=nobody", ""}, {"{credential}=nobody", ""}},
	"disableUser":          {{"{user}=nobody", ""}},
	"unlockUser":           {{"{user}=nobody", ""}},
	"installCertificate":   {{"", `{"chain": "x"}`}, {"", `{"chain": ""}`}},
	"shareCertificate":     {{"", `{"chain": "x", "private_key": "eA=="}`}},
	"restoreCertificate":   {{"", ""}}, // none is kept
	"unshareCertificate":   {{"", ""}}, // none is shared
	"unblock": {{"", `{"everything": true, "key_store": "p"}`}, {"", `{"key_id": "k"}`}, {"", `{"everything": false}`}, {"", `{}`}, {"", `{"key_store": "nobody"}`},
		{"", `{"key_store": "p", "key_id": "nobody"}`}, {"", `{"key_store": "nobody", "key_id": "k"}`}, {"", `{"key_store": "empty"}`}},
	"deleteKeyStore":      {{"{keystore}=nobody", ""}, {"", ""}},
	"enableKey":           {{"{keystore}=nobody", ""}, {"{key}=nobody", ""}},
	"discardKeyStore":     {{"{keystore}=nobody", `{"keys": 0}`}, {"", `{"keys": 1}`}},
	"discardKey":          {{"{keystore}=nobody", `{"version": 0}`}, {"{key}=nobody", `{"version": 0}`}, {"", `{"version": 0}`}, {"", `{"version": 1}`}, {"", `{"version": 2}`}},
	"discardCredential":   {{"{keystore}=nobody", ""}, {"{credential}=nobody", ""}, {"", ""}},
	"discardGrant":        {{"{keystore}=nobody", ""}, {"{grant}=nobody", ""}, {"", ""}},
	"discardSetting":      {{"{setting}=nobody", ""}, {"", ""}},
	"scheduleKeyDeletion": {{"{keystore}=nobody", `{"days": 7}`}, {"{key}=nobody", `{"days": 7}`}, {"", `{"days": 6}`}, {"", `{"days": 31}`}, {"", `{"days": 0}`}, {"", `{"days": -7}`}},
	"createKeys": {{"{keystore}=nobody", `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n", "rows": 1, "sha256": "8196b9fb41792b79e040cf5aa2d65d4518b4880c6d67f2a583e7e1d2f9e516df"}`}, {"", `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n", "rows": 2, "sha256": "8196b9fb41792b79e040cf5aa2d65d4518b4880c6d67f2a583e7e1d2f9e516df"}`},
		{"", `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n", "rows": 1, "sha256": "00"}`}, {"", `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,pocket\n", "rows": 1, "sha256": "5e188dcbccb986cb7fe176ad5ea3163fb85c37c447832c6e2d218eea7b1fe22b"}`}, {"", `{"file": "id,usage,custody\nbulk-1,encrypt decrypt,cached\n", "rows": 1, "sha256": "8196b9fb41792b79e040cf5aa2d65d4518b4880c6d67f2a583e7e1d2f9e516df", "most": -1}`}},
	"createGrants": {{"{keystore}=nobody", `{"file": "principal,operations\n*,Encrypt Decrypt\n", "rows": 1, "sha256": "f3165df228e8936c3cca948d4820b868faf3a229c990a974e1345a1fb8e7e00d"}`}, {"", `{"file": "principal,operations\n*,Encrypt Decrypt\n", "rows": 2, "sha256": "f3165df228e8936c3cca948d4820b868faf3a229c990a974e1345a1fb8e7e00d"}`},
		{"", `{"file": "principal,operations\n*,Encrypt Decrypt\n", "rows": 1, "sha256": "00"}`}, {"", `{"file": "principal,operations\n*,Encrypt Sign\n", "rows": 1, "sha256": "405baa9dfe9870afb3a1db3a73365f735cf219db0df1e5cc1b6269600997c713"}`}, {"", `{"file": "principal,operations\n*,Encrypt Decrypt\n", "rows": 1, "sha256": "f3165df228e8936c3cca948d4820b868faf3a229c990a974e1345a1fb8e7e00d", "most": -1}`}},
	"createGrant": {{"{keystore}=nobody", `{"principal": "*", "operations": ["Encrypt"]}`}, {"", `{"principal": "*", "operations": ["Encrypt"], "key_id": "nobody"}`},
		{"", `{"principal": "", "operations": ["Encrypt"]}`}, {"", `{"principal": "*", "operations": []}`}, {"", `{"principal": "*", "operations": ["Sign"]}`},
		{"", `{"principal": "*", "operations": ["Encrypt"], "effect": "maybe"}`}, {"", `{"principal": "*", "operations": ["Encrypt"], "not_after": "2001-01-01T00:00:00Z"}`},
		{"", `{"principal": "*", "operations": ["Encrypt"], "conditions": {"source_vpcs": [""]}}`}},
	"removeGrant":      {{"{keystore}=nobody", ""}, {"{grant}=nobody", ""}},
	"setPolicy":        {{"{keystore}=nobody", `{"cedar": ""}`}, {"", `{"cedar": "permit (everything);"}`}, {"", `{"cedar": "permit (principal, action, resource) when { context.colour == 1 };"}`}},
	"deleteCredential": {{"{keystore}=nobody", ""}, {"{credential}=nobody", ""}},
	"installLaunch":    {{"", `{"document": "bad"}`}, {"", `{"document": ""}`}},
	"installPolicy":    {{"", `{"policy": "bad"}`}, {"", `{"policy": ""}`}, {"", `{"policy": "good", "authorizations": "bad"}`}, {"", `{"policy": "good", "approvals": "bad"}`}},
	"revokePolicies":   {{"", `{"below": 6}`}, {"", `{"below": -1}`}},
	"setRole":          {{"{user}=nobody", `{"role": "viewer"}`}, {"", `{"role": "king"}`}, {"", `{"role": ""}`}},
	"enableUser":       {{"{user}=nobody", ""}},
	"setEmail":         {{"{user}=nobody", `{"email": "x@example.com"}`}, {"", `{"email": "x"}`}, {"", `{"email": "x@example.com\r\nBcc: y@example.com"}`}},
	"bindOIDC":         {{"{user}=nobody", `{"email": "x@example.com"}`}, {"", `{"email": "x"}`}, {"", `{"email": "taken@example.com"}`}},
	"deleteUser":       {{"{user}=nobody", ""}},
	"createInvitation": {{"", `{"name": "bob", "role": "viewer"}`}, {"", `{"name": "a b", "role": "viewer"}`}, {"", `{"name": "", "role": "viewer"}`}, {"", `{"name": "x", "role": "king"}`}},
	"createToken": {{"", `{"name": "robot", "role": "viewer", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`}, {"", `{"name": "a b", "role": "viewer", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`}, {"", `{"name": "x", "role": "king", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`},
		{"", `{"name": "x", "role": "viewer", "days": 0, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`}, {"", `{"name": "x", "role": "viewer", "days": 366, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`}},
	"setSettings": {{"", `{"four_eyes": ["nonsense"]}`}, {"", `{"four_eyes": ["deleteKeyStore", ""]}`}, {"", `{"four_eyes": ["approve"]}`}, {"", `{"four_eyes": [], "approval_hours": 721}`}, {"", `{"four_eyes": [], "approval_hours": -1}`}},
}

// TestOnlyWhatCanBeDoneIsFiled: a request that could never be done is refused when
// it is made, as it would be without a second person, and nobody is asked to
// approve it. A new route that may need one is among them by itself.
func TestOnlyWhatCanBeDoneIsFiled(t *testing.T) {
	type request struct {
		route            *operation.Route
		what, path, body string
		header           http.Header
	}
	var all []request
	b := newBank(t)
	d := b.document()
	b.ok("POST", "/users/"+b.alice.UserID+"/oidc", `{"email": "taken@example.com"}`)
	for _, route := range approvable() {
		path := b.names.Replace(route.Path)
		if media, takes := d.Paths[route.Path][strings.ToLower(route.Method)].RequestBody.Content["application/json"]; takes {
			for _, w := range wrongBodies(t, d, media.Schema, samples[route.ID]) {
				all = append(all, request{route, w.what, path, w.body, nil})
			}
		} else {
			all = append(all, request{route, "a body", path, `{"x": 1}`, nil}, request{route, "null", path, `null`, nil})
		}
		all = append(all, request{route, "an unknown parameter", path + "?x=1", samples[route.ID], nil})
		if route.Mutates() {
			all = append(all, request{route, "stale", path, samples[route.ID], http.Header{"If-Match": {`"0000"`}}}, request{route, "If-Match empty", path, samples[route.ID], http.Header{"If-Match": {""}}})
		}
		if len(impossible[route.ID]) == 0 {
			t.Errorf("%s: impossible has no request of it", route.ID)
		}
		for _, r := range impossible[route.ID] {
			path := route.Path
			if name, value, ok := strings.Cut(r.other, "="); ok {
				path = strings.Replace(path, name, value, 1)
			}
			if strings.HasPrefix(r.other, "?") {
				path += r.other
			}
			all = append(all, request{route, "impossible", b.names.Replace(path), r.body, nil})
		}
	}
	ask := func(r request) string {
		w := b.call(&b.alice, r.route.Method, r.path, r.body, func(q *http.Request) { maps.Copy(q.Header, r.header) })
		if w.Code < 400 {
			return fmt.Sprintf("%d %s", w.Code, w.Body)
		}
		return fmt.Sprintf("%d %s", w.Code, code(t, w))
	}
	before := b.state()
	direct := make([]string, len(all))
	for i, r := range all {
		if direct[i] = ask(r); !strings.HasPrefix(direct[i], "4") {
			t.Errorf("%s, %s: it is done: %s\n%s", r.route.ID, r.what, direct[i], r.body)
		}
	}
	if b.state() != before {
		t.Fatal("what was refused changed something")
	}
	var operations []string
	for _, route := range approvable() {
		operations = append(operations, route.ID)
	}
	b.fourEyes(operations...)
	before = b.state()
	for i, r := range all {
		recorded := len(b.audit.Records)
		if got := ask(r); got != direct[i] {
			t.Errorf("%s, %s: when it is to be approved: %s, done directly: %s\n%s", r.route.ID, r.what, got, direct[i], r.body)
		}
		if now := b.state(); now != before {
			t.Errorf("%s, %s: it was filed", r.route.ID, r.what)
			before = now
		}
		if len(b.audit.Records) != recorded+1 || b.audit.Records[recorded].Result != audit.Failed {
			t.Errorf("%s, %s: the refusal is not recorded once", r.route.ID, r.what)
		}
	}
	if len(all) < 200 {
		t.Errorf("only %d requests were tried", len(all))
	}
}

// damage makes a row that the operation can discard, and gives its path.
func (b *bank) damage(operation string) string {
	b.t.Helper()
	ctx, d := b.t.Context(), b.bed.Appliance
	statement, path := "", ""
	var err error
	switch operation {
	case "discardKeyStore":
		_, err = d.CreateKeyStore(ctx, appliance.KeyStore{Name: "damaged", URIPathPrefix: "/damaged"})
		statement, path = `UPDATE key_stores SET requests_per_second = 9 WHERE name = 'damaged'`, "/keystores/damaged/discard"
	case "discardKey":
		_, err = d.CreateKey(ctx, "p", appliance.NewExternalKey{ID: "damaged", Custody: appliance.CustodyCached})
		statement, path = `UPDATE external_keys SET can_decrypt = 1 WHERE id = 'damaged'`, "/keystores/p/keys/damaged/discard"
	case "discardCredential":
		var c *appliance.Credential
		c, _, err = d.CreateCredential(ctx, "p", appliance.NewCredential{})
		statement, path = `UPDATE credentials SET active = 0 WHERE access_key_id = '`+c.AccessKeyID+`'`, "/keystores/p/credentials/"+c.AccessKeyID+"/discard"
	case "discardGrant":
		var g *appliance.Grant
		g, err = d.AddGrant(ctx, "p", appliance.Grant{Principal: "arn:aws:iam::111111111111:role/x", Operations: []appliance.Operation{appliance.OpEncrypt}})
		statement, path = `UPDATE grants SET principal = '*' WHERE id = '`+g.ID+`'`, "/keystores/p/grants/"+g.ID+"/discard"
	case "discardSetting":
		statement, path = `UPDATE settings SET value = value || ' ' WHERE name = 'bootstrap'`, "/settings/bootstrap/discard"
	default:
		b.t.Fatalf("damage has nothing for %s", operation)
	}
	if err == nil {
		b.edit(statement)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	// So that the row's own seal is what does not match.
	if _, err := d.AcceptState(ctx, "a test", "the test has edited it"); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// TestDiscardIsRecorded: a damaged row is discarded by presence and the right role, and
// the audit log has what was lost.
func TestDiscardIsRecorded(t *testing.T) {
	b := newBank(t)
	for operation, want := range map[string]string{
		"discardKeyStore":   `{"kind":"key store","key_store":"damaged"}`,
		"discardKey":        `{"kind":"key","key_store":"p","id":"damaged","versions":[1]}`,
		"discardCredential": `{"kind":"credential","key_store":"p","id":"`,
		"discardGrant":      `{"kind":"grant","key_store":"p","id":"`,
		"discardSetting":    `{"kind":"setting","id":"bootstrap"}`,
	} {
		path := b.damage(operation)
		if w := b.call(&b.alice, "POST", path, samples[operation]); w.Code != success("POST", path) || !strings.HasPrefix(w.Body.String(), strings.TrimSuffix(want, "}")) {
			t.Errorf("%s: %d %s", operation, w.Code, w.Body)
		}
		last := b.audit.Records[len(b.audit.Records)-1]
		// What is lost is the row as it was, where it can be shown, or else the answer.
		lost := strings.HasPrefix(string(last.After), want) || len(last.Before) > 0 && strings.Contains(path, "/"+idIn(last.Before)+"/")
		if last.Result != audit.Allowed || !lost || last.Actor != "alice" {
			t.Errorf("%s is recorded as %s %s %s %s", operation, last.Result, last.Actor, last.Before, last.After)
		}
		if w := b.call(&b.alice, "POST", path, samples[operation]); w.Code != http.StatusNotFound && w.Code != http.StatusConflict {
			t.Errorf("%s once more: %d %s", operation, w.Code, w.Body)
		}
	}
}

// idIn gives the ID of a recorded credential or grant.
func idIn(row []byte) string {
	var r struct {
		ID          string `json:"id"`
		AccessKeyID string `json:"access_key_id"`
	}
	_ = json.Unmarshal(row, &r) // then it has none, which no path has
	return r.ID + r.AccessKeyID
}

// TestBackupNamesDamage: the answer with a backup says what is damaged before it begins,
// also where only the file's name is seen; and it is recorded.
func TestBackupNamesDamage(t *testing.T) {
	b := newBank(t)
	get := func() (*httptest.ResponseRecorder, *appliance.BackupReport) {
		w := b.call(&b.alice, "GET", "/backup", "")
		var r appliance.BackupReport
		text, err := base64.StdEncoding.DecodeString(w.Header().Get(operation.ReportHeader))
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d, %v", w.Code, err)
		}
		return w, &r
	}
	w, r := get()
	if r.DamagedRows != 0 || r.Keys != 1 || strings.Contains(w.Header().Get("Content-Disposition"), "damaged") {
		t.Errorf("%+v in %s", r, w.Header().Get("Content-Disposition"))
	}
	if _, err := b.bed.Appliance.VerifyBackup(t.Context(), w.Body); err != nil {
		t.Error(err)
	}
	for i := range 25 {
		if _, err := b.bed.Appliance.CreateKey(t.Context(), "p", appliance.NewExternalKey{ID: fmt.Sprintf("bad-%02d", i), Custody: appliance.CustodyCached}); err != nil {
			t.Fatal(err)
		}
	}
	b.edit(`UPDATE external_keys SET can_decrypt = 1 WHERE id LIKE 'bad-%'`)
	w, r = get()
	if r.DamagedRows != 25 || len(r.Damaged) != 20 || r.Damaged[0] != (appliance.DamagedRow{Kind: "key", KeyStore: "p", ID: "bad-00"}) {
		t.Errorf("%+v", r)
	}
	if name := w.Header().Get("Content-Disposition"); !strings.Contains(name, "-25-damaged-rows.backup") {
		t.Errorf("the file is called %s", name)
	}
	last := b.audit.Records[len(b.audit.Records)-1]
	if !strings.Contains(string(last.After), `"damaged_rows":25`) || !strings.Contains(string(last.After), "bad-24") {
		t.Errorf("recorded: %s", last.After)
	}
	if report, err := b.bed.Appliance.VerifyBackup(t.Context(), w.Body); err != nil || report.DamagedRows != 25 {
		t.Errorf("verified: %+v: %v", report, err)
	}
}

// TestWhatCanBeDoneIsFiled: each operation that may need a second person is filed
// with its sample, not done, and done by the approval, or after it by the one who
// asked if it shows a secret.
func TestWhatCanBeDoneIsFiled(t *testing.T) {
	b := newBank(t)
	dora := b.enrol(b.api.(*web.API).Identity, "dora")
	b.api.(*web.API).Site = webtest.Site{Served: operation.Certificate{Names: []string{}, Shared: true, Previous: &operation.PreviousCertificate{Names: []string{}}}}
	for _, route := range approvable() {
		path := b.ready(route)
		b.fourEyes(route.ID)
		filed := b.call(&b.alice, route.Method, path, samples[route.ID])
		var waits operation.ApprovalDetail
		if err := json.Unmarshal(filed.Body.Bytes(), &waits); err != nil || filed.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s: %v", route.ID, filed.Code, filed.Body, err)
			continue
		}
		w := b.call(&dora, "POST", "/approvals/"+waits.ID+"/approve", decided)
		if strings.Contains(b.state(), fmt.Sprint([]byte(material))) || strings.Contains(string(waits.Body), material) || strings.Contains(string(waits.Body), strings.Repeat("a", 44)) {
			t.Errorf("%s: the request has the secret: %s", route.ID, waits.Body)
		}
		if route.ShowsSecret() || waits.TakesSecret || route.BinaryAnswer != "" {
			if err := json.Unmarshal(w.Body.Bytes(), &waits); err != nil || waits.State != approval.Approved {
				t.Errorf("%s: %d %s: %v", route.ID, w.Code, w.Body, err)
			}
			if route.BinaryAnswer != "" {
				b.download(route, waits.ID, &dora)
				continue
			}
			w = b.performed(route, waits)
		}
		if err := json.Unmarshal(w.Body.Bytes(), &waits); err != nil || w.Code != http.StatusOK || waits.State != approval.Done {
			t.Errorf("%s: %d %s: %v", route.ID, w.Code, w.Body, err)
		}
	}
}

// ready makes what a route that may need a second person is about, and gives the path.
func (b *bank) ready(route *operation.Route) (path string) {
	b.t.Helper()
	switch {
	case route.ID == "deleteKeyStore":
		return "/keystores/empty"
	case strings.HasPrefix(route.ID, "discard"):
		return b.damage(route.ID)
	case route.ID == "takeOverInstallation": // only what is not the owner takes over
		objects, err := b.bed.Token.DataObjects(b.t.Context(), hsm.ReachAny)
		if err == nil {
			err = b.bed.Token.DestroyDataObject(b.t.Context(), objects[0])
		}
		if err != nil || len(objects) != 1 {
			b.t.Fatal(objects, err)
		}
	}
	return b.names.Replace(route.Path)
}

// secretOf gives the secret of an operation's sample in Base64; empty if it has none.
func secretOf(t testing.TB, id string) string {
	t.Helper()
	var sample map[string]any
	if err := json.Unmarshal([]byte(samples[id]), &sample); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"material", "private_key"} {
		if text, ok := sample[name].(string); ok {
			return text
		}
	}
	text, ok := sample["secret_access_key"].(string)
	if file, has := sample["file"].(string); has {
		text, ok = file, true
	}
	if !ok {
		t.Fatalf("%s: secretOf knows no secret of %s", id, samples[id])
	}
	return base64.StdEncoding.EncodeToString([]byte(text))
}

// performed has alice do what was approved: with the secret that she asked with, and not with
// another one or without.
func (b *bank) performed(route *operation.Route, waits operation.ApprovalDetail) *httptest.ResponseRecorder {
	b.t.Helper()
	path := "/approvals/" + waits.ID + "/perform"
	if !waits.TakesSecret {
		if w := b.call(&b.alice, "POST", path, `{"secret": "eA=="}`); w.Code != http.StatusBadRequest {
			b.t.Errorf("%s, with a secret that it does not take: %d %s", route.ID, w.Code, w.Body)
		}
		return b.call(&b.alice, "POST", path, "{}")
	}
	for _, wrong := range []string{`{}`, `{"secret": "eHl6"}`} {
		if w := b.call(&b.alice, "POST", path, wrong); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "stored nowhere") {
			b.t.Errorf("%s, with another secret: %d %s", route.ID, w.Code, w.Body)
		}
	}
	return b.call(&b.alice, "POST", path, `{"secret": "`+secretOf(b.t, route.ID)+`"}`)
}

// download has alice download what was approved, once, and nobody else.
func (b *bank) download(route *operation.Route, approval string, other *identity.Principal) {
	b.t.Helper()
	path := route.Path + "?approval=" + approval
	if w := b.call(other, "GET", path, ""); w.Code != http.StatusForbidden {
		b.t.Errorf("%s by the one who approved: %d", route.ID, w.Code)
	}
	if w := b.call(&b.alice, "POST", "/approvals/"+approval+"/perform", "{}"); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), path) {
		b.t.Errorf("%s, performed: %d %s", route.ID, w.Code, w.Body)
	}
	if w := b.call(&b.alice, "GET", path, ""); w.Code != http.StatusOK || w.Body.Len() < 1000 {
		b.t.Errorf("%s: %d, %d bytes", route.ID, w.Code, w.Body.Len())
	}
	last := b.audit.Records[len(b.audit.Records)-1]
	if last.Operation != route.Operation() || last.Result != audit.Allowed || last.ApprovedBy != "dora" || last.Approval != approval {
		b.t.Errorf("%s is recorded as %s %s, approved by %q with %q", route.ID, last.Operation, last.Result, last.ApprovedBy, last.Approval)
	}
	if last.Reason == "" || last.ApprovalWhy == "" {
		b.t.Errorf("%s: the record has the reasons %q and %q", route.ID, last.Reason, last.ApprovalWhy)
	}
	if w := b.call(&b.alice, "GET", path, ""); w.Code != http.StatusConflict {
		b.t.Errorf("%s twice: %d", route.ID, w.Code)
	}
}
