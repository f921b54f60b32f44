package web_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// fileBody is the body of an import of a file.
func fileBody(t testing.TB, file string, rows, most int) string {
	t.Helper()
	sum := sha256.Sum256([]byte(file))
	body := map[string]any{"file": file, "rows": rows, "sha256": hex.EncodeToString(sum[:])}
	if most > 0 {
		body["most"] = most
	}
	return encode(t, body)
}

func encode(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// many is a file of rows, each of which a format makes of its number.
func many(head, row string, n int) string {
	var b strings.Builder
	b.WriteString(head + "\n")
	for i := range n {
		fmt.Fprintf(&b, row+"\n", i)
	}
	return b.String()
}

func (c *caller) imported(path, body string) operation.FileResult {
	c.t.Helper()
	var r operation.FileResult
	if err := json.Unmarshal(c.want(c.call(&root, "POST", path, body), 200).Body.Bytes(), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// TestFiles: keys and grants are made of files: step by step, each thing on record as if it was
// made alone, and never twice, wherever it was interrupted.
func TestFiles(t *testing.T) {
	p := newPeople(t)
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	keys := many("id,usage,custody", "key-%03d,encrypt decrypt,cached", 1200) + "one-hsm,decrypt,hsm\n"
	grants := many("principal,operations,key_id", "arn:aws:iam::123456789012:role/app-%[1]d,Encrypt Decrypt,key-%03[1]d", 700) +
		`"arn:aws:iam::123456789012:role/all","Decrypt",` + "\n"
	for _, tt := range []struct {
		path, file, single string
		rows               int
	}{
		{"/keystores/p/key-files", keys, operation.CreateKey.Operation(), 1201},
		{"/keystores/p/grant-files", grants, operation.CreateGrant.Operation(), 701},
	} {
		var report operation.FileReport
		if err := json.Unmarshal(p.want(p.call(&root, "POST", tt.path+"/check", encode(t, map[string]string{"file": tt.file})), 200).Body.Bytes(), &report); err != nil {
			t.Fatal(err)
		}
		if report.Rows != tt.rows || report.New != tt.rows || report.There != 0 || len(report.Problems) != 0 {
			t.Fatalf("%s: the check says %+v", tt.path, report)
		}
		before := len(p.audit.Records)
		first := p.imported(tt.path, fileBody(t, tt.file, tt.rows, 600))
		if first.Made != 600 || first.There != 0 || first.Left != tt.rows-600 {
			t.Errorf("%s: the first step: %+v", tt.path, first)
		}
		// The same again, as after a stop: what is there is not made twice.
		rest := p.imported(tt.path, fileBody(t, tt.file, tt.rows, 0))
		if rest.Made != tt.rows-600 || rest.There != 600 || rest.Left != 0 {
			t.Errorf("%s: the rest: %+v", tt.path, rest)
		}
		if none := p.imported(tt.path, fileBody(t, tt.file, tt.rows, 0)); none.Made != 0 || none.There != tt.rows || none.Left != 0 {
			t.Errorf("%s: once more: %+v", tt.path, none)
		}
		single, whole := 0, 0
		for _, r := range p.audit.Records[before:] {
			switch {
			case r.Operation == tt.single && r.Result == audit.Allowed && r.Actor == root.Name && r.KeyStore == "p" && len(r.After) > 0:
				single++
			case strings.HasSuffix(r.Operation, "-files") && strings.Contains(string(r.After), first.SHA256):
				whole++
			}
		}
		if single != tt.rows || whole != 3 {
			t.Errorf("%s: %d records of single things, and %d of the file", tt.path, single, whole)
		}
	}
	k, err := p.Appliance.ShowKey(t.Context(), "p", "one-hsm")
	if err != nil || k.Custody != appliance.CustodyHSM || k.Usage != (appliance.Usage{Decrypt: true}) {
		t.Errorf("%+v: %v", k, err)
	}
	all, err := p.Appliance.Grants(t.Context(), "p")
	if err != nil || len(all) != 701 {
		t.Errorf("%d grants: %v", len(all), err)
	}
}

// TestWrongFiles: each line that is wrong is named with its column and what to do, and nothing is
// made of a file that has one.
func TestWrongFiles(t *testing.T) {
	p := newPeople(t)
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	p.want(p.call(&root, "POST", "/keystores/p/keys", `{"id": "there", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`), 201)
	const grantHead, keyHead = "principal,operations,key_id,not_after,force,effect\n", "id,usage,custody\n"
	for _, tt := range []struct {
		path, file string
		problems   []string // of each, in order
	}{
		{"grant", grantHead + "*,Encrypt,,,,\n*,encrypt,,,,\n", []string{"line 3, column operations: operation \"encrypt\""}},
		{"grant", grantHead + "*,Encrypt,gone,,,\n", []string{"line 2, column : "}},
		{"grant", grantHead + "nobody,Encrypt,,,,\n,Encrypt,,,,\n", []string{"line 2, column principal: ", "line 3, column principal: it is empty"}},
		{"grant", grantHead + "*,Encrypt,,tomorrow,,\n*,Encrypt,,2001-01-01T00:00:00Z,,\n*,Decrypt,,,maybe,\n*,Decrypt,,,,perhaps\n",
			[]string{"line 2, column not_after: ", "line 3, column not_after: ", "line 4, column force: ", "line 5, column effect: "}},
		{"grant", grantHead + "*,Encrypt,,,,\n*,Encrypt,,,,allow\n", []string{"line 3, column : it says the same as line 2"}},
		{"grant", grantHead + "*,Encrypt\n", []string{"line 2, column : it has 2 values"}},
		{"grant", "principal,colour\n", []string{"line 1, column : there is no column \"colour\""}},
		{"grant", "principal\n*\n", []string{"line 1, column : the column \"operations\" is missing"}},
		{"grant", grantHead + "*,Encrypt,,,,\n\"*,Encrypt\n", []string{"line 3, column : this is no CSV"}},
		{"grant", `{"principal": "*", "operations": ["Encrypt"]}` + "\n{\"principal\": \"*\"}\n\n{\"principal\": \"*\", \"colour\": 1}\n", []string{"line 2, column : \"operations\" is missing", "line 4, column : "}},
		{"key", keyHead + "there,encrypt decrypt,cached\nthere2,both,cached\nthere3,encrypt,pocket\n", []string{"line 3, column usage: ", "line 4, column custody: "}},
		{"key", keyHead + "there,encrypt,cached\n", []string{"line 2, column : there is a key \"there\" already"}},
		{"key", keyHead + "a b,encrypt,cached\n", []string{"line 2, column "}},
		{"key", keyHead + "x,encrypt,cached\nx,decrypt,cached\n", []string{"line 3, column : it says the same as line 2, or"}},
		{"key", "id,usage,custody,material\n", []string{"line 1, column : there is no column \"material\""}},
	} {
		before := p.things(t)
		var report operation.FileReport
		path := "/keystores/p/" + tt.path + "-files"
		if err := json.Unmarshal(p.want(p.call(&root, "POST", path+"/check", encode(t, map[string]string{"file": tt.file})), 200).Body.Bytes(), &report); err != nil {
			t.Fatal(err)
		}
		if len(report.Problems) != len(tt.problems) {
			t.Errorf("%q: %v", tt.file, report.Problems)
			continue
		}
		for i, want := range tt.problems {
			if got := report.Problems[i]; !strings.HasPrefix(fmt.Sprintf("line %d, column %s: %s", got.Line, got.Column, got.Problem), want) {
				t.Errorf("%q: %+v, want %q", tt.file, got, want)
			}
		}
		w := p.call(&root, "POST", path, fileBody(t, tt.file, report.Rows, 0))
		if w.Code != 400 && w.Code != 422 || !strings.Contains(w.Body.String(), "nothing was made") {
			t.Errorf("%q: %d %s", tt.file, w.Code, w.Body)
		}
		if now := p.things(t); now != before {
			t.Errorf("%q: before %s, and now %s", tt.file, before, now)
		}
	}
	for what, file := range map[string]string{"empty": "", "only a head": keyHead, "no text": keyHead + "x\x00,encrypt,cached\n", "a long line": keyHead + strings.Repeat("x", 17<<10) + ",encrypt,cached\n",
		"too long": keyHead + strings.Repeat("x,encrypt,cached\n", operation.MaxFile/17+1), "too many rows": many("id,usage,custody", "k%d,encrypt,cached", operation.MaxFileRows+1)} {
		if w := p.call(&root, "POST", "/keystores/p/key-files/check", encode(t, map[string]string{"file": file})); w.Code != 400 {
			t.Errorf("%s: %d %.300s", what, w.Code, w.Body)
		}
	}
}

// things says which keys and grants there are.
func (p *people) things(t *testing.T) string {
	t.Helper()
	keys, err := p.Appliance.Keys(t.Context(), "p", appliance.Page{Limit: appliance.MaxPage}, "")
	if err != nil {
		t.Fatal(err)
	}
	grants, err := p.Appliance.Grants(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d keys and %d grants", len(keys), len(grants))
}

// TestManyNeedWhatOneNeeds: where an operation needs a second person, so does each that does many
// of it at once: one person does nothing with it that two must do. What an operation has recorded
// in the name of another one it does many of, whatever the table says.
func TestManyNeedWhatOneNeeds(t *testing.T) {
	walked := 0
	one := newBank(t)
	for _, r := range operation.Table() {
		if !r.Changes() || samples[r.ID] == "" {
			continue
		}
		b := one
		path := b.names.Replace(r.Path)
		before := len(b.audit.Records)
		b.call(&root, r.Method, path, samples[r.ID])
		for _, rec := range b.audit.Records[before:] {
			if rec.Operation != r.Operation() && !slices.Contains([]string{operation.Approve.ID, operation.PerformApproved.ID}, r.ID) && (r.Many == nil || rec.Operation != r.Many.Operation()) {
				t.Errorf("%s does %s, and does not say so in the table (Many)", r.ID, rec.Operation)
			}
		}
		if r.Many == nil {
			continue
		}
		walked++
		b = newBank(t)
		b.fourEyes(r.Many.ID)
		if w := b.call(&b.alice, r.Method, path, samples[r.ID]); w.Code != 202 {
			t.Errorf("%s needs a second person, and %s is answered with %d %s", r.Many.ID, r.ID, w.Code, w.Body)
		}
		if w := b.call(&b.alice, "GET", "/settings", ""); !strings.Contains(w.Body.String(), `"with":"`+r.Many.ID+`"`) {
			t.Errorf("the settings do not say that %s is chosen with %s", r.ID, r.Many.ID)
		}
	}
	if walked < 2 {
		t.Errorf("%d operations do many of another one", walked)
	}
}

// TestFileOfTwoPeople: where grants need a second person, a file is one request, with how many
// rows it has and its digest. It is done whole, with that file and no other.
func TestFileOfTwoPeople(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	p.fourEyes("createGrants")
	file := many("principal,operations", "arn:aws:iam::123456789012:role/app-%d,Encrypt", 30)
	id := p.ask(p.user("alice"), "POST", "/keystores/p/grant-files", fileBody(t, file, 30, 10))
	shown := p.read(p.want(p.call(p.user("bob"), "GET", "/approvals/"+id, ""), 200))
	if body := string(shown.Body); !strings.Contains(body, `"rows":30`) || !strings.Contains(body, `"sha256"`) || !strings.Contains(body, "1 rows: allow arn:aws:iam::123456789012:role/app-7") || !strings.Contains(body, "line 21: allow arn:aws:iam::123456789012:role/app-19 Encrypt on all keys") || strings.Contains(body, "line 22") || !shown.TakesSecret {
		t.Errorf("the one who approves sees %s", body)
	}
	p.want(p.approve(p.user("bob"), id), 200)
	perform := func(file string) string {
		return encode(t, map[string]string{"secret": base64.StdEncoding.EncodeToString([]byte(file))})
	}
	p.want(p.call(p.user("alice"), "POST", "/approvals/"+id+"/perform", perform(file+"*,Encrypt\n")), 400)
	if p.things(t) != "0 keys and 0 grants" {
		t.Fatal(p.things(t))
	}
	done := p.read(p.want(p.call(p.user("alice"), "POST", "/approvals/"+id+"/perform", perform(file)), 200))
	if done.State != approval.Done || p.things(t) != "0 keys and 30 grants" {
		t.Errorf("%s %s: %s", done.State, done.Outcome, p.things(t))
	}
}

// batches calls before and after each batch of grants, of which the first is 1.
type batches struct {
	operation.Domain
	n             int
	before, after func(n int) error
}

func (b *batches) AddGrants(ctx context.Context, keyStore string, want []appliance.Grant) ([]*appliance.Grant, error) {
	b.n++
	if b.before != nil {
		if err := b.before(b.n); err != nil {
			return nil, err
		}
	}
	made, err := b.Domain.AddGrants(ctx, keyStore, want)
	if err == nil && b.after != nil {
		err = b.after(b.n)
	}
	return made, err
}

// inBatches is an appliance with a key store whose batches of grants are watched.
func inBatches(t *testing.T, names ...string) (*people, *web.API, *batches) {
	p := newPeople(t, names...)
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	a := p.api.(*web.API)
	b := &batches{Domain: a.Domain}
	a.Domain = b
	return p, a, b
}

func grantsFile(n int) string {
	return many("principal,operations", "arn:aws:iam::123456789012:role/app-%d,Encrypt", n)
}

const grantFiles = "/keystores/p/grant-files"

// TestFileStops: after a batch was made, what stops the next one is in the answer, with what is left;
// and no batch is made whose caller may not any more, or that cannot be recorded.
func TestFileStops(t *testing.T) {
	for name, tt := range map[string]struct {
		stop func(p *people, a *web.API, b *batches)
		code string
	}{
		"the database is away": {func(_ *people, _ *web.API, b *batches) {
			b.before = func(n int) error {
				if n == 2 {
					return fault.Errorf(fault.DatabaseAway, "the database is away")
				}
				return nil
			}
		}, string(fault.DatabaseAway)},
		"nothing can be recorded": {func(p *people, _ *web.API, b *batches) {
			b.after = func(int) error {
				p.audit.Lock()
				defer p.audit.Unlock()
				p.audit.NotReady = fault.Errorf(fault.AuditNoSpace, "the audit log's disk is full")
				return nil
			}
		}, string(fault.AuditNoSpace)},
		"the caller was stopped": {func(_ *people, a *web.API, b *batches) {
			stopped := false
			a.Still = func(_ context.Context, was identity.Principal) (identity.Principal, error) {
				if stopped {
					return was, identity.ErrProof
				}
				return was, nil
			}
			b.after = func(int) error { stopped = true; return nil }
		}, string(fault.Unauthenticated)},
	} {
		p, a, b := inBatches(t)
		tt.stop(p, a, b)
		r := p.imported(grantFiles, fileBody(t, grantsFile(1200), 1200, 0))
		if r.Made != 500 || r.Left != 700 || r.Stopped == nil || string(r.Stopped.Code) != tt.code || strings.Contains(r.Stopped.Message, "nothing was") {
			t.Errorf("%s: %+v, stopped %+v", name, r, r.Stopped)
		}
		if now := p.things(t); now != "0 keys and 500 grants" {
			t.Errorf("%s: %s", name, now)
		}
		if name == "the database is away" {
			b.before = nil
			if r = p.imported(grantFiles, fileBody(t, grantsFile(1200), 1200, 0)); r.Made != 700 || r.Left != 0 || r.Stopped != nil {
				t.Errorf("the same file again: %+v", r)
			}
		}
	}
}

// forgetful is a store of answers that cannot forget one while the database is away.
type forgetful struct {
	idempotency.Store
	away *bool
}

func (f forgetful) DeleteAnswer(ctx context.Context, id, run string) error {
	if *f.away {
		return fault.Errorf(fault.DatabaseAway, "the database is away")
	}
	return f.Store.DeleteAnswer(ctx, id, run)
}

// TestStoppedFileGoesOn: what has stopped a file is no answer that is kept: sent again with the same
// idempotency key, it goes on. Once nothing stops it, its answer is kept.
func TestStoppedFileGoesOn(t *testing.T) {
	for _, whole := range []bool{true, false} { // whether the database is away for all
		p := newBank(t)
		away, b := false, &batches{Domain: p.api.(*web.API).Domain}
		p.caller = p.with(func(o *operation.Options) { o.Domain, o.Answers = b, forgetful{o.Answers, &away} })
		b.before = func(n int) error {
			if away = n == 2; away {
				away = whole
				return fault.Errorf(fault.DatabaseAway, "the database is away")
			}
			return nil
		}
		send := func() (r operation.FileResult, replayed bool) {
			t.Helper()
			w := p.call(&root, "POST", grantFiles, fileBody(t, grantsFile(1200), 1200, 0), keyed("a file"))
			if err := json.Unmarshal(w.Body.Bytes(), &r); w.Code != http.StatusOK || err != nil {
				t.Fatal(w.Code, w.Body, err)
			}
			return r, w.Header().Get(operation.ReplayedHeader) == "true"
		}
		if r, replayed := send(); r.Made != 500 || r.Stopped == nil || replayed {
			t.Errorf("%+v, %t", r, replayed)
		}
		away = false
		for _, again := range []bool{false, true} {
			if r, replayed := send(); r.Made != 700 || r.There != 500 || r.Left != 0 || r.Stopped != nil || replayed != again {
				t.Errorf("sent again: %+v, %t", r, replayed)
			}
		}
	}
}

// TestFileWithoutMost: a request that does not say how many are to be made ends after a step, too.
func TestFileWithoutMost(t *testing.T) {
	p, a, b := inBatches(t)
	late := time.Duration(0)
	a.Now = func() time.Time { return time.Now().Add(late) }
	b.after = func(int) error { late += 6 * time.Second; return nil } // a slow machine
	for _, left := range []int{700, 200, 0} {
		if r := p.imported(grantFiles, fileBody(t, grantsFile(1200), 1200, 0)); r.Left != left || r.Stopped != nil {
			t.Errorf("%+v, want %d left", r, left)
		}
	}
}

// TestFileAtTwoNodes: a file that two nodes are sent at once, or a node while another one makes the
// same, is made once.
func TestFileAtTwoNodes(t *testing.T) {
	p := newKeyedPair(t)
	before, err := p.bed.Appliance.Grants(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	q := request{&root, "POST", grantFiles, fileBody(t, grantsFile(20), 20, 0)}
	here, there := p.atOnce(q, q)
	all, err := p.bed.Appliance.Grants(t.Context(), "p")
	if err != nil || here.Code != 200 || there.Code != 200 || len(all)-len(before) != 20 {
		t.Errorf("a file of 20 grants has made %d: %d %s, %d %s (%v)", len(all)-len(before), here.Code, here.Body, there.Code, there.Body, err)
	}
}

// TestGrantsThatSaySame: the order of what a list of a grant has means nothing, nor does how often it
// is there.
func TestGrantsThatSaySame(t *testing.T) {
	p, _, _ := inBatches(t)
	const head = "principal,operations,calling_accounts,kms_operations,not_after\n"
	for i, row := range []string{"*,Decrypt Encrypt,123456789012 210987654321,,2031-01-31T18:00:00.123456+02:00", "*,Encrypt Decrypt,210987654321 123456789012 210987654321,,2031-01-31T16:00:00.123Z"} {
		if r := p.imported(grantFiles, fileBody(t, head+row+"\n", 1, 0)); r.Made != 1-i || r.There != i {
			t.Errorf("%s: %+v", row, r)
		}
	}
}

// TestFileMeetsDamage: a key or a grant that does not match its seal is out of service, so it is not
// there, though it says what the file says: check and import name it, with what to do, and nothing is
// made. Rows that are about other things are as ever.
func TestFileMeetsDamage(t *testing.T) {
	for discard, tt := range map[string]struct{ path, command, head, same, other string }{
		"discardKey":   {"/keystores/p/key-files", "holdfast key discard p damaged", "id,usage,custody\n", "damaged,decrypt,cached\n", "other,decrypt,cached\n"},
		"discardGrant": {grantFiles, "holdfast grant discard p ", "principal,operations,force\n", "*,Encrypt,true\n", "arn:aws:iam::123456789012:role/app,Encrypt,\n"},
	} {
		b := newBank(t)
		b.want(b.call(&root, "DELETE", b.names.Replace("/keystores/p/grants/{grant}"), ""), 200) // it says the same
		path := b.damage(discard)
		refused := func(path, body string) {
			t.Helper()
			state := b.state()
			if w := b.call(&root, "POST", path, body); w.Code != http.StatusInternalServerError || code(t, w) != "tampered" || !strings.Contains(w.Body.String(), tt.command) {
				t.Errorf("%s: %d %s", discard, w.Code, w.Body)
			}
			if b.state() != state {
				t.Errorf("%s: something was made", discard)
			}
		}
		refused(tt.path+"/check", encode(t, map[string]string{"file": tt.head + tt.same + tt.other}))
		refused(tt.path, fileBody(t, tt.head+tt.same+tt.other, 2, 0))
		if r := b.imported(tt.path, fileBody(t, tt.head+tt.other, 1, 0)); r.Made != 1 || r.There != 0 {
			t.Errorf("%s: %+v", discard, r)
		}
		b.want(b.call(&root, "POST", path, samples[discard]), 200)
		if r := b.imported(tt.path, fileBody(t, tt.head+tt.same+tt.other, 2, 0)); r.Made != 1 || r.There != 1 {
			t.Errorf("%s, discarded: %+v", discard, r)
		}
	}
}

// TestApprovedFileGoesOn: an approved file stays approved until all of it was made: after a failure
// and after a step the one who asked goes on with it.
func TestApprovedFileGoesOn(t *testing.T) {
	p, a, b := inBatches(t, "alice", "bob")
	p.fourEyes("createGrant")
	file := grantsFile(1700)
	id := p.ask(p.user("alice"), "POST", grantFiles, fileBody(t, file, 1700, 0))
	p.want(p.approve(p.user("bob"), id), 200)
	perform := func() (operation.ApprovalDetail, operation.FileResult) {
		t.Helper()
		d := p.read(p.want(p.call(p.user("alice"), "POST", "/approvals/"+id+"/perform", encode(t, map[string]string{"secret": base64.StdEncoding.EncodeToString([]byte(file))})), 200))
		var r operation.FileResult
		if err := json.Unmarshal(d.Result, &r); err != nil {
			t.Fatal(err)
		}
		return d, r
	}
	away := fault.Errorf(fault.DatabaseAway, "the database is away")
	b.before = func(int) error { return away }
	if w := p.call(p.user("alice"), "POST", "/approvals/"+id+"/perform", encode(t, map[string]string{"secret": base64.StdEncoding.EncodeToString([]byte(file))})); w.Code < 400 {
		t.Errorf("nothing can be made: %d %s", w.Code, w.Body)
	}
	b.n, b.before = 0, func(n int) error {
		if n == 2 {
			return away
		}
		return nil
	}
	if d, r := perform(); d.State != approval.Approved || r.Made != 500 || r.Left != 1200 || r.Stopped == nil {
		t.Errorf("%s after a failure: %+v", d.State, r)
	}
	late := time.Duration(0)
	a.Now = func() time.Time { return time.Now().Add(late) }
	b.before, b.after = nil, func(int) error { late += 6 * time.Second; return nil } // a slow machine
	for made := 1000; made <= 1500; made += 500 {
		if d, r := perform(); d.State != approval.Approved || r.Made != 500 || r.Done() != made || r.Stopped != nil {
			t.Errorf("%s after a step: %+v", d.State, r)
		}
	}
	if d, r := perform(); d.State != approval.Done || r.Left != 0 || p.things(t) != "0 keys and 1700 grants" {
		t.Errorf("%s at the end: %+v, %s", d.State, r, p.things(t))
	}
}

// BenchmarkFiles makes 10,000 keys in the appliance's memory, 10,000 grants on them, and 1,000 keys
// in the HSM, in steps of 1,000, as the command does.
func BenchmarkFiles(b *testing.B) {
	bed := xkstest.Start(b, xkstest.Options{})
	log := slog.New(slog.DiscardHandler)
	records := &webtest.Audit{}
	api := web.NewAPI(optionsOn(b, bed.Store, bed.Appliance, &webtest.Boot{}, records, log))
	if _, err := bed.Appliance.CreateKeyStore(b.Context(), appliance.KeyStore{Name: "p", URIPathPrefix: "/p"}); err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name, head, row string
		rows            int
		create          *operation.Operation[operation.FileImport, operation.FileResult]
	}{
		{"keys", "id,usage,custody", "k%05d,encrypt decrypt,cached", 10_000, operation.CreateKeys},
		{"grants", "principal,operations,key_id", "arn:aws:iam::123456789012:role/application-%[1]d,Encrypt Decrypt GetAttributes,k%05[1]d", 10_000, operation.CreateGrants},
		{"keys in the HSM", "id,usage,custody", "h%05d,encrypt decrypt,hsm", 1000, operation.CreateKeys},
	} {
		b.Run(tt.name, func(b *testing.B) {
			file := many(tt.head, tt.row, tt.rows)
			sum := sha256.Sum256([]byte(file))
			in := operation.FileImport{KeyStoreName: operation.KeyStoreName{KeyStore: "p"}, File: file, Rows: tt.rows, SHA256: hex.EncodeToString(sum[:]), Most: 1000}
			for b.Loop() {
				for left := 1; left > 0; {
					done, err := tt.create.Do(b.Context(), api.As(root, ""), in)
					if err != nil {
						b.Fatal(err)
					}
					left = done.Out.Left
				}
			}
		})
	}
}
