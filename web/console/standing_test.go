package console_test

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// header gives the header's badge and digest of a page, or of what an open page asks for.
var header = regexp.MustCompile(`(?s)id="standing"[^>]* data-digest="([0-9a-f]*)" data-ask="([^"]*)"[^>]*>.*?<span class="badge (\w+)">.*?<span>([^<]*)</span>`)

type shownHeader struct{ digest, ask, kind, text string }

func (s *session) header(path string) shownHeader {
	s.r.t.Helper()
	w := s.do(http.MethodGet, path, nil, nil)
	m := header.FindStringSubmatch(w.Body.String())
	if m == nil {
		s.r.t.Fatalf("%s: %d, and no header: %.300s", path, w.Code, w.Body)
	}
	return shownHeader{m[1], strings.ReplaceAll(m[2], "&amp;", "&"), m[3], m[4]}
}

// block blocks a target, and gives what takes it back.
func (r *rig) block(target appliance.BlockTarget) (undo func()) {
	r.t.Helper()
	if _, err := r.Appliance.Block(r.t.Context(), target, "a leak", "alice"); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if err := r.Appliance.Unblock(context.WithoutCancel(r.t.Context()), target); err != nil {
			r.t.Error(err)
		}
	}
}

// TestEveryPageSaysTheStanding: the header of every page says what is blocked, and no badge of a
// page says that something serves which does not.
func TestEveryPageSaysTheStanding(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	serving := regexp.MustCompile(`<span class="badge ok">.{0,200}?<span>(Serving|Enabled|Open|Serves|Active)</span>`)
	for _, pattern := range console.Pages() {
		if strings.HasPrefix(pattern, "/do/") || strings.Contains(pattern, "{seq}") || strings.Contains(pattern, "/signin") || strings.HasPrefix(pattern, "/invitation") || pattern == "/setup" || pattern == "/prove" {
			continue
		}
		path := parameter.ReplaceAllStringFunc(pattern, func(name string) string { return url.PathEscape(things.Get(name[1 : len(name)-1])) })
		if w := admin.do(http.MethodGet, path, nil, nil); w.Code == http.StatusNotFound || w.Code == http.StatusSeeOther {
			continue // what the rig does not have
		}
		before := admin.header(path)
		if before.text != "Serving" {
			t.Errorf("%s: the header says %q", path, before.text)
		}
		undo := r.block(appliance.BlockTarget{Everything: true})
		now := admin.header(path)
		if now.text != "Blocked: everything" || now.kind != "bad" || now.digest == before.digest {
			t.Errorf("%s, everything blocked: the header says %+v, and before %+v", path, now, before)
		}
		page := admin.do(http.MethodGet, path, nil, nil).Body.String()
		if strings.HasPrefix(pattern, "/keystores") {
			if found := serving.FindString(page); found != "" {
				t.Errorf("%s, everything blocked: it says %s", path, found)
			}
		}
		if asked := admin.header(before.ask); asked.text != now.text || asked.digest != now.digest {
			t.Errorf("%s: an open page is told %+v, and a new one %+v", path, asked, now)
		}
		undo()
		if again := admin.header(path); again.digest != before.digest {
			t.Errorf("%s: unblocked, the digest is another one", path)
		}
	}
}

// TestBadgesSayWhatDecides: the badges of a key, in its list and on its page, and of a key store
// say which block decides.
func TestBadgesSayWhatDecides(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	for _, tt := range []struct {
		target     appliance.BlockTarget
		key, store string
	}{
		{appliance.BlockTarget{Everything: true}, "Blocked: everything", "Blocked: everything"},
		{appliance.BlockTarget{KeyStore: "bank"}, "Blocked: key store", "Blocked: key store"},
		{appliance.BlockTarget{KeyStore: "bank", KeyID: "k"}, "Blocked: key", "Serving"},
	} {
		undo := r.block(tt.target)
		for path, want := range map[string]string{"/keystores/bank/keys": tt.key, "/keystores/bank/keys/k": tt.key, "/keystores": tt.store, "/keystores/bank": tt.store, "/": tt.store} {
			_, main, _ := strings.Cut(admin.do(http.MethodGet, path, nil, nil).Body.String(), "<main")
			if about := path == "/keystores/bank/keys/k" || path == "/keystores/bank" && want != "Serving"; about && !strings.Contains(main, "by alice") {
				t.Errorf("%s blocked: %s does not say by whom", tt.target, path)
			}
			if !strings.Contains(main, "<span>"+want+"</span>") {
				t.Errorf("%s blocked: %s does not say %q", tt.target, path, want)
			}
		}
		undo()
	}
}

// TestOpenPageLearns: an open page is told another digest when what it shows was changed by
// somebody else, and the same one otherwise.
func TestOpenPageLearns(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	ctx := t.Context()
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, change := range map[string]func(on bool){
		"/keystores/bank/keys/k": func(on bool) { _, err := r.Appliance.SetKeyEnabled(ctx, "bank", "k", !on); set(err) },
		"/keystores/bank/keys":   func(on bool) { _, err := r.Appliance.SetKeyEnabled(ctx, "bank", "k", !on); set(err) },
		"/keystores/bank/credentials": func(on bool) {
			_, err := r.Appliance.SetCredentialActive(ctx, "bank", things.Get("credential"), !on)
			set(err)
		},
		"/settings": func(on bool) {
			target := appliance.BlockTarget{KeyStore: "bank"}
			if on {
				r.block(target)
			} else {
				set(r.Appliance.Unblock(ctx, target))
			}
		},
	} {
		before := admin.header(path)
		if asked := admin.header(before.ask); asked != before {
			t.Errorf("%s: nothing has changed, and the page is told %+v, not %+v", path, asked, before)
		}
		change(true)
		if asked := admin.header(before.ask); asked.digest == before.digest {
			t.Errorf("%s: it has changed, and the page does not learn it", path)
		}
		change(false)
		if asked := admin.header(before.ask); asked.digest != before.digest {
			t.Errorf("%s: it was changed back, and the digest is another one", path)
		}
	}
}

// unasked are the pages that show what an open page does not ask for, and why.
var unasked = map[string]string{
	"/": "it shows the newest records of the audit log", "/audit": "it shows the audit log", "/attestation/report": "it shows what the machine is, as of a moment",
	"/attestation/history": "it shows what boots have done", "/hsms": "it shows what HSMs answer",
}

// unshown are parts of a page that differ from one time that it is made to the next, and those of
// the audit log and of KMS's requests, which no person changes.
var unshown = []*regexp.Regexp{
	regexp.MustCompile(`(?s)^.*?<main`), regexp.MustCompile(`(?s)</main>.*$`), regexp.MustCompile(`<input type="hidden"[^>]*>`),
	regexp.MustCompile(`(?s)<section class="card"><h2>(Life of|Done to|Done or approved by) .*?</section>`),
}

// shownBy gives what each page shows, besides that, and what an open one is told.
func (s *session) shownBy(paths []string) map[string][2]string {
	all := map[string][2]string{}
	for _, path := range paths {
		w := s.do(http.MethodGet, path, nil, nil)
		m := header.FindStringSubmatch(w.Body.String())
		if w.Code != http.StatusOK || m == nil {
			continue // what it is about is gone
		}
		text := w.Body.String()
		for _, part := range unshown {
			text = part.ReplaceAllString(text, "")
		}
		all[path] = [2]string{text, m[1]}
	}
	return all
}

// firstDifference gives where two texts differ.
func firstDifference(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-60)
	return a[from:min(len(a), i+120)] + " ≠ " + b[from:min(len(b), i+120)]
}

// TestOpenPageLearnsOfEachOperation: for each form of each page, each open page that shows something
// else is told another digest when a second person has sent the form, and so is the form's own.
func TestOpenPageLearnsOfEachOperation(t *testing.T) {
	r := start(t)
	admin, other := r.enrol("admin", identity.RoleAdministrator), r.enrol("other", identity.RoleAdministrator)
	third := r.enrol("third", identity.RoleAdministrator)
	things := r.things(third)
	things.Set("user_name", "third")
	form := regexp.MustCompile(`action="/do/(\w+)"`)
	// What changes nothing that the page shows: why.
	unseen := map[string]string{
		"testGrants": "asks", "renderGrant": "asks", "checkKeyFile": "asks", "checkGrantFile": "asks", "verifyAudit": "asks", "verifyState": "asks", "probeHSMs": "asks", "signCheckpoint": "asks", "backup": "asks",
		"requestCertificate": "keeps a key, which no page shows",
		"revokePolicies":     "no page shows the oldest policy that is taken",
		"signOutUser":        "the page of a user shows no sessions",
		"beginPassword":      "is of the one who sends it", "newRecoveryCodes": "is of the one who sends it", "signOutEverywhere": "is of the one who sends it",
	}
	routes := map[string]string{}
	for _, o := range operation.Table() {
		routes[o.ID] = o.Operation()
	}
	paths := map[string]string{}
	for _, pattern := range console.Pages() {
		path := pattern
		for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(pattern, -1) {
			path = strings.ReplaceAll(path, m[0], url.PathEscape(things.Get(m[1])))
		}
		if w := admin.do(http.MethodGet, path, nil, nil); w.Code == http.StatusOK && strings.Contains(w.Body.String(), `id="standing"`) {
			paths[path] = pattern
		}
	}
	everywhere := slices.DeleteFunc(slices.Collect(maps.Keys(paths)), func(path string) bool { return unasked[path] != "" })
	seen, learnt := map[string]bool{}, 0
	walk := func(destroys bool) {
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			w := admin.do(http.MethodGet, path, nil, nil)
			for _, m := range form.FindAllStringSubmatch(w.Body.String(), -1) {
				op := m[1]
				if seen[op] || unseen[op] != "" || destroys != (strings.HasPrefix(op, "delete") || strings.HasPrefix(op, "remove") || strings.HasPrefix(op, "revoke") || strings.HasPrefix(op, "signOut") || strings.HasPrefix(op, "scheduleKey") || op == "disableUser") {
					continue
				}
				before, recorded, shown := admin.header(path), len(r.audit.Records), admin.shownBy(everywhere)
				filled := confirmed(things, op, other.version(""))
				filled.Set("cedar", "forbid (principal, action, resource);")
				if path == "/" {
					filled.Set("everything", "true")
					filled.Set("confirm", "everything")
					filled.Del("keystore")
					filled.Del("key")
				}
				if op == "createGrant" { // also the page of its key shows it
					filled.Set("key_id", things.Get("key"))
				}
				if op == "createToken" {
					filled["operations"] = []string{"", "*"}
				}
				other.submit("/do/"+op, filled)
				done := slices.ContainsFunc(r.audit.Records[recorded:], func(rec *audit.Record) bool { return rec.Operation == routes[op] && rec.Result == audit.Allowed })
				if !done { // refused, for reasons of its own
					continue
				}
				seen[op] = true
				if w := admin.do(http.MethodGet, before.ask, nil, nil); w.Code == http.StatusOK && admin.header(before.ask).digest == before.digest {
					t.Errorf("%s was done, and the open page %s does not learn it", op, path)
				}
				for other, now := range admin.shownBy(everywhere) {
					was, open := shown[other]
					if open && was[0] != now[0] && was[1] == now[1] {
						t.Errorf("%s was done, %s shows something else, and does not learn it: %s", op, other, firstDifference(was[0], now[0]))
					}
					if open && was[0] != now[0] {
						learnt++
					}
				}
			}
		}
	}
	walk(false)
	walk(true)
	if len(seen) < 22 {
		t.Errorf("only %d operations were done: %v", len(seen), seen)
	}
	if learnt < 2*len(seen) {
		t.Errorf("only %d pages showed something else after %d operations", learnt, len(seen))
	}
}

// TestOpenPageOfAnEndedSession: an open page is told that its session has ended, and asking does
// not keep the session.
func TestOpenPageOfAnEndedSession(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	ask := admin.header("/").ask
	for range 20 { // asked all the time, and used by nobody
		r.pass(time.Minute)
		admin.do(http.MethodGet, ask, nil, nil)
	}
	if w := admin.do(http.MethodGet, ask, nil, nil); w.Code != http.StatusUnauthorized {
		t.Errorf("the session is over, and the page is told %d", w.Code)
	}
	if w := (&session{r: r}).do(http.MethodGet, ask, nil, nil); w.Code != http.StatusUnauthorized {
		t.Errorf("somebody without a session is told %d", w.Code)
	}
}

// TestStandingChangesNoRevision: what somebody sees of a key, a key store and a credential is still
// what they saw when only its standing is another one.
func TestStandingChangesNoRevision(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	ctx := t.Context()
	revisions := func() (all []string) {
		k, err := r.Appliance.ShowKey(ctx, "bank", "k")
		ks, err2 := r.Appliance.ShowKeyStore(ctx, "bank")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return append(all, operation.Revision(k), operation.Revision(ks.KeyStore), operation.Revision(ks.Credentials[0]))
	}
	before := revisions()
	undo := r.block(appliance.BlockTarget{Everything: true})
	defer undo()
	for i, now := range revisions() {
		if now != before[i] {
			t.Errorf("revision %d is another one, as everything is blocked", i)
		}
	}
	_ = things
}
