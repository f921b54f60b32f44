package web_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
	"holdfast/hsm"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// named is a node that knows no other one's audit log.
type named string

func (n named) Node() string               { return string(n) }
func (named) Peers() []operation.AuditPeer { return nil }

// keyText is in each idempotency key of these tests.
const keyText = "a key of the tests: "

// keyed gives a request an idempotency key.
func keyed(key string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(operation.IdempotencyKeyHeader, `"`+keyText+key+`"`) }
}

// newKeyedPair is a pair whose nodes have names.
func newKeyedPair(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	p.api.(*web.API).AuditPeers, p.other.api.(*web.API).AuditPeers = named("one"), named("two")
	for _, c := range []*caller{p.caller, p.other} {
		c.api.(*web.API).Site = webtest.Site{Served: operation.Certificate{Names: []string{}, Shared: true, Previous: &operation.PreviousCertificate{Names: []string{}}}}
	}
	return p
}

// with gives the same node as another process that was set up otherwise.
func (c *caller) with(change func(*operation.Options)) *caller {
	o := c.api.(*web.API).Options
	change(&o)
	return &caller{c.t, web.NewAPI(o), c.audit}
}

// restarted is the same node after its process has ended.
func (c *caller) restarted() *caller { return c.with(func(*operation.Options) {}) }

// later is the clock of a node that is ahead by so much.
func later(by time.Duration) func(*operation.Options) {
	return func(o *operation.Options) { o.Now = func() time.Time { return time.Now().Add(by) } }
}

// changes are the operations that change something: what removes a thing comes last.
func changes() []*operation.Route {
	routes := slices.DeleteFunc(operation.Table(), func(r *operation.Route) bool { return !r.Changes() })
	slices.SortStableFunc(routes, func(a, b *operation.Route) int {
		return cmp.Compare(strings.Count(a.Method, "DELETE"), strings.Count(b.Method, "DELETE"))
	})
	return routes
}

// notDone are the operations that two nodes of these tests cannot have done, and why.
var notDone = map[string]string{
	"discardKeyStore": onOne, "discardKey": onOne, "discardCredential": onOne, "discardGrant": onOne, "discardSetting": onOne, "restore": onOne, "takeOverInstallation": onOne,
	"acceptState":         "the state is not held",
	"confirmAdmission":    "there is an installation",
	"beginInstallation":   "there is an installation",
	"seal":                "there is an installation",
	"provePassword":       anAuthenticator,
	"beginProvePasskey":   anAuthenticator,
	"provePasskey":        anAuthenticator,
	"addPasskey":          anAuthenticator,
	"setPassword":         anAuthenticator,
	"confirmRecoveryUses": "no recovery code was used",
	"drainNode":           "the nodes of these tests have no membership",
	"removeNode":          "the nodes of these tests have no membership",
}

const (
	onOne           = "TestDoneOnceAlone"
	anAuthenticator = "an authenticator is needed"
)

// asked gives a request of the operation that can be done.
func (p *pair) asked(route *operation.Route) request {
	p.t.Helper()
	q := request{&root, route.Method, p.names.Replace(strings.ReplaceAll(route.Path, "{user}", p.dave.UserID)), samples[route.ID]}
	if start := starts[route.ID]; start != nil {
		who, path := start(p)
		q.who, q.path = cmp.Or(who, q.who), cmp.Or(path, q.path)
	}
	switch {
	case route.ID == "performApproved": // of a request that takes no secret
		q.body = "{}"
	case strings.HasSuffix(route.ID, "Session"):
		eve := p.enrol(p.api.(*web.API).Identity, "eve"+strings.ToLower(route.ID))
		q.who, q.path = &eve, strings.ReplaceAll(q.path, p.alice.Session, eve.Session)
	case strings.HasPrefix(route.Path, "/account"):
		q.who = &p.alice
	}
	return q
}

// eachDone calls f with a request for each operation that can be done, at a pair.
func eachDone(t *testing.T, f func(p *pair, route *operation.Route, q request)) {
	p := newKeyedPair(t)
	for _, route := range changes() {
		if notDone[route.ID] != "" {
			continue
		}
		q := p.asked(route)
		p.same()
		f(p, route, q)
		p.same()
	}
}

// secretTexts finds what looks like a secret in an answer.
var secretTexts = regexp.MustCompile(`"(?:secret_access_key|secret|token|link|url|uri)":"([^"]+)"`)

// TestDoneOnce: each operation that changes something is done once for an idempotency key, and
// answered alike: at the same node, after its restart, and at another node. A new operation is
// among them by itself. What was refused is not kept.
func TestDoneOnce(t *testing.T) {
	var secrets []string
	var db string
	eachDone(t, func(p *pair, route *operation.Route, q request) {
		db = p.bed.DB
		key := keyed(route.ID)
		recorded, shown := p.allowed(route.Operation()), p.allowed("replay of "+route.Operation())
		if w := q.of(p.caller, key, func(r *http.Request) { r.Header.Set("If-Match", `"0000"`) }); w.Code != http.StatusPreconditionFailed {
			t.Errorf("%s, stale: %d %s", route.ID, w.Code, w.Body)
		}
		first := q.of(p.caller, key)
		p.same()
		if first.Code/100 != 2 || first.Header().Get(operation.ReplayedHeader) != "" {
			t.Errorf("%s: %d %s", route.ID, first.Code, first.Body)
			return
		}
		if route.ShowsSecret() {
			for _, found := range secretTexts.FindAllStringSubmatch(first.Body.String(), -1) {
				secrets = append(secrets, found[1])
			}
		}
		state := p.state()
		for where, c := range map[string]*caller{"the same node": p.caller, "the restarted node": p.restarted(), "the other node": p.other} {
			w := q.of(c, key)
			if w.Code != first.Code || w.Body.String() != first.Body.String() || w.Header().Get("Location") != first.Header().Get("Location") || w.Header().Get(operation.ReplayedHeader) != "true" {
				t.Errorf("%s, again at %s: %d %s %s, and was %d %s", route.ID, where, w.Code, w.Header(), w.Body, first.Code, first.Body)
			}
			another := map[string]func(*http.Request){
				"reason":   func(r *http.Request) { r.Header.Set(operation.ReasonHeader, "another") },
				"If-Match": func(r *http.Request) { r.Header.Set("If-Match", "*") },
			}
			for what, change := range another {
				if w := q.of(c, key, change); w.Code != http.StatusUnprocessableEntity || code(t, w) != "idempotency_key_reused" {
					t.Errorf("%s, with another %s at %s: %d %s", route.ID, what, where, w.Code, w.Body)
				}
			}
		}
		if w := (request{&root, "POST", "/keystores", `{"name": "other"}`}).of(p.caller, keyed(route.ID)); q.who == &root && (w.Code != http.StatusUnprocessableEntity || code(t, w) != "idempotency_key_reused") {
			t.Errorf("another operation with the key of %s: %d %s", route.ID, w.Code, w.Body)
		}
		if n := p.allowed(route.Operation()) - recorded; n != 1 {
			t.Errorf("%s is on record %d times", route.ID, n)
		}
		again := 0 // how often a secret was shown again
		if route.Can().Can(operation.ShowsSecret) || route.ShowsSecret() && secretTexts.MatchString(first.Body.String()) {
			again = 3
		}
		if n := p.allowed("replay of "+route.Operation()) - shown; n != again {
			t.Errorf("the replay of %s is on record %d times, want %d", route.ID, n, again)
		}
		if q.who == &root && p.state() != state {
			t.Errorf("%s, again, changed something", route.ID)
		}
	})
	if len(secrets) < 4 {
		t.Errorf("only %d secrets were shown", len(secrets))
	}
	for _, name := range []string{db, db + "-wal"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range append(secrets, keyText) {
			if strings.Contains(string(text), s) {
				t.Errorf("%s has %q", name, s)
			}
		}
	}
}

// stops is a store whose process stops before an answer is kept.
type stops struct{ idempotency.Store }

func (stops) FinishAnswer(context.Context, *idempotency.Row) error {
	return errors.New("it has stopped")
}

// TestAnswerLost: where the appliance stopped after the change and before the answer was kept, no
// operation is done a second time. The sender hears that it was done.
func TestAnswerLost(t *testing.T) {
	eachDone(t, func(p *pair, route *operation.Route, q request) {
		recorded := p.allowed(route.Operation())
		stopping := p.with(func(o *operation.Options) { o.Answers = stops{o.Answers} })
		if w := q.of(stopping, keyed(route.ID)); w.Code/100 != 2 {
			t.Errorf("%s: %d %s", route.ID, w.Code, w.Body)
		}
		p.same()
		lost := func(where string, c *caller) {
			w := q.of(c, keyed(route.ID))
			if w.Code != http.StatusConflict || code(t, w) != "answer_lost" || !strings.Contains(w.Body.String(), "audit log") || w.Header().Get("Retry-After") != "" {
				t.Errorf("%s, again at %s: %d %s", route.ID, where, w.Code, w.Body)
			}
		}
		lost("the restarted node", p.restarted())
		there := len(p.other.audit.Records)
		if w := q.of(p.other, keyed(route.ID)); w.Code != http.StatusConflict || code(t, w) != "answer_pending" || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s, at the other node at once: %d %s", route.ID, w.Code, w.Body)
		}
		if n := len(p.other.audit.Records) - there; n != 0 {
			t.Errorf("%s: that the request is under way is on record %d times", route.ID, n)
		}
		lost("the other node later", p.other.with(later(3*time.Minute)))
		if n := p.allowed(route.Operation()) - recorded; n != 1 {
			t.Errorf("%s is on record %d times", route.ID, n)
		}
	})
}

// TestFailedAfterTheChange: where a change was made and the request failed all the same, here as
// nothing can be recorded, no node makes it a second time, and each says at once that the answer is
// lost. What makes nothing twice is done again.
func TestFailedAfterTheChange(t *testing.T) {
	eachDone(t, func(p *pair, route *operation.Route, q request) {
		p.audit.Lock()
		p.audit.Failing = errors.New("the disk is full")
		p.audit.Unlock()
		w := q.of(p.caller, keyed(route.ID))
		p.audit.Lock()
		p.audit.Failing = nil
		p.audit.Unlock()
		p.same()
		file := route.ID == "createKeys" || route.ID == "createGrants"
		if !file && (w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "could not be recorded")) {
			t.Errorf("%s: %d %s", route.ID, w.Code, w.Body)
		}
		state := p.state()
		for where, c := range map[string]*caller{"the same node": p.caller, "the restarted node": p.restarted(), "the other node": p.other} {
			w := q.of(c, keyed(route.ID))
			switch {
			case file && (w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"made":0,"there":1,"left":0`)):
				t.Errorf("%s, again at %s: %d %s", route.ID, where, w.Code, w.Body)
			case !file && (w.Code != http.StatusConflict || code(t, w) != "answer_lost" || !strings.Contains(w.Body.String(), "audit log")):
				t.Errorf("%s, again at %s: %d %s", route.ID, where, w.Code, w.Body)
			}
		}
		if !file && q.who == &root && p.state() != state {
			t.Errorf("%s, again, changed something", route.ID)
		}
	})
}

// TestLongRequests: whatever a request with a key does ends before another node calls it lost.
func TestLongRequests(t *testing.T) {
	eachDone(t, func(p *pair, route *operation.Route, q request) {
		var until time.Time
		c := p.with(func(o *operation.Options) {
			still := o.Still
			o.Still = func(ctx context.Context, was identity.Principal) (identity.Principal, error) {
				until, _ = ctx.Deadline()
				return still(ctx, was)
			}
		})
		begun := time.Now()
		if w := q.of(c, keyed(route.ID)); w.Code/100 != 2 {
			t.Errorf("%s: %d %s", route.ID, w.Code, w.Body)
		}
		p.same()
		if left := until.Sub(begun); left < time.Minute || left > 100*time.Second {
			t.Errorf("%s may go on for %s", route.ID, left)
		}
	})
}

// TestSameKeyAtOnce: of two nodes that are sent the same request at once, one does it.
func TestSameKeyAtOnce(t *testing.T) {
	eachDone(t, func(p *pair, route *operation.Route, q request) {
		if route.ID == "confirmTime" { // each node of this test has a clock of its own
			return
		}
		recorded := p.allowed(route.Operation())
		here, there := p.atOnce(q, q, keyed(route.ID))
		if there.Code/100 != 2 || there.Header().Get(operation.ReplayedHeader) != "" {
			t.Errorf("%s: nobody did it: %d %s", route.ID, there.Code, there.Body)
		}
		if here.Code != there.Code || here.Body.String() != there.Body.String() || here.Header().Get(operation.ReplayedHeader) != "true" {
			t.Errorf("%s: %d %s, and the other node %d %s", route.ID, here.Code, here.Body, there.Code, there.Body)
		}
		if n := p.allowed(route.Operation()) - recorded; n != 1 {
			t.Errorf("%s is on record %d times", route.ID, n)
		}
	})
}

// TestSameKeyAtOnceHere: a request whose first sending is still under way at this node is not
// begun a second time.
func TestSameKeyAtOnceHere(t *testing.T) {
	b := newBank(t)
	var again atomic.Int32
	b.api.(*web.API).Recorded = func(context.Context) error {
		if w := b.call(&root, "POST", "/keystores", `{"name": "q"}`, keyed("a")); w.Code == http.StatusConflict && code(t, w) == "answer_pending" && w.Header().Get("Retry-After") == "1" {
			again.Add(1)
		} else {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		return nil
	}
	if w := b.call(&root, "POST", "/keystores", `{"name": "q"}`, keyed("a")); w.Code != http.StatusCreated || again.Load() != 1 {
		t.Errorf("%d %s, %d", w.Code, w.Body, again.Load())
	}
}

// endsWaiting is an audit log that tells when a request that is about to wait asks whether it can be
// recorded.
type endsWaiting struct {
	operation.Audit
	over *func()
}

func (a endsWaiting) Ready() error {
	(*a.over)()
	return a.Audit.Ready()
}

// TestWaitedTooLong: a request whose time is over when its turn comes does nothing and says so, and
// can be sent again; with a key and without.
func TestWaitedTooLong(t *testing.T) {
	for what, key := range map[string]func(*http.Request){"with a key": keyed("a"), "without a key": func(*http.Request) {}} {
		b := newBank(t)
		over := func() {}
		c := b.with(func(o *operation.Options) { o.Audit = endsWaiting{o.Audit, &over} })
		state := b.state()
		w := c.call(&root, "POST", "/keystores", `{"name": "q"}`, key, func(r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			over, *r = cancel, *r.WithContext(ctx)
		})
		last := b.audit.Records[len(b.audit.Records)-1]
		if w.Code != http.StatusServiceUnavailable || code(t, w) != "timeout" || !strings.Contains(w.Body.String(), "nothing was done") || last.Result != audit.Failed || last.Error != "timeout" {
			t.Errorf("%s: %d %s, on record as %s %s", what, w.Code, w.Body, last.Result, last.Error)
		}
		if b.state() != state {
			t.Errorf("%s: something was done", what)
		}
		over = func() {}
		if w := c.call(&root, "POST", "/keystores", `{"name": "q"}`, key); w.Code != http.StatusCreated || w.Header().Get(operation.ReplayedHeader) != "" {
			t.Errorf("%s, again: %d %s", what, w.Code, w.Body)
		}
	}
}

// TestDoneOnceAlone: what only a single appliance does is done once, too.
func TestDoneOnceAlone(t *testing.T) {
	b := newBank(t)
	for _, route := range changes() {
		if notDone[route.ID] != onOne || route.ID == "restore" {
			continue
		}
		q := request{&root, route.Method, b.names.Replace(route.Path), samples[route.ID]}
		switch {
		case strings.HasPrefix(route.ID, "discard"):
			q.path = b.damage(route.ID)
		case route.ID == "takeOverInstallation":
			objects, err := b.bed.Token.DataObjects(t.Context(), hsm.ReachAny)
			if err == nil {
				err = b.bed.Token.DestroyDataObject(t.Context(), objects[0])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		first := q.of(b.caller, keyed(route.ID))
		if first.Code/100 != 2 {
			t.Errorf("%s: %d %s", route.ID, first.Code, first.Body)
			continue
		}
		for _, c := range []*caller{b.caller, b.restarted()} {
			if w := q.of(c, keyed(route.ID)); w.Code != first.Code || w.Body.String() != first.Body.String() || w.Header().Get(operation.ReplayedHeader) != "true" {
				t.Errorf("%s, again: %d %s, and was %d %s", route.ID, w.Code, w.Body, first.Code, first.Body)
			}
		}
	}
}

// TestKeyOfAnother: a key is that of whoever sends it, and the right is looked at each time.
func TestKeyOfAnother(t *testing.T) {
	b := newBank(t)
	q := request{b.scoped("first", *identity.Unlimited()), "POST", "/keystores/p/credentials", "{}"}
	first := q.of(b.caller, keyed("a"))
	other := request{b.scoped("second", *identity.Unlimited()), q.method, q.path, q.body}.of(b.caller, keyed("a"))
	if first.Code != http.StatusCreated || other.Code != http.StatusCreated || first.Body.String() == other.Body.String() || other.Header().Get(operation.ReplayedHeader) != "" {
		t.Fatalf("%d %s, %d %s", first.Code, first.Body, other.Code, other.Body)
	}
	for what, change := range map[string]func(*identity.Principal){
		"role": func(p *identity.Principal) { p.Role = identity.RoleViewer },
		"operation": func(p *identity.Principal) {
			p.Scope = &identity.Scope{KeyStores: all, Operations: []string{"listKeys"}, Networks: all}
		},
		"key store": func(p *identity.Principal) {
			p.Scope = &identity.Scope{KeyStores: []string{"empty"}, Operations: all, Networks: all}
		},
		"network": func(p *identity.Principal) {
			p.Scope = &identity.Scope{KeyStores: all, Operations: all, Networks: []string{"198.51.100.0/24"}}
		},
	} {
		less := *q.who
		change(&less)
		if w := (request{&less, q.method, q.path, q.body}).of(b.caller, keyed("a")); w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "secret_access_key") {
			t.Errorf("with another %s: %d %s", what, w.Code, w.Body)
		}
	}
	if w := q.of(b.caller, keyed("a")); w.Body.String() != first.Body.String() {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestKeyExpires: an answer is kept for 24 hours, and removed from the state after that.
func TestKeyExpires(t *testing.T) {
	b := newBank(t)
	q := request{&root, "POST", "/keystores/p/credentials", "{}"}
	if w := q.of(b.caller, keyed("a")); w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := q.of(b.with(later(24*time.Hour-time.Minute)), keyed("a")); w.Header().Get(operation.ReplayedHeader) != "true" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := q.of(b.with(later(25*time.Hour)), keyed("a")); w.Code != http.StatusCreated || w.Header().Get(operation.ReplayedHeader) != "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, left := range []int{1, 0} {
		if rows := b.query(`SELECT * FROM answers`); len(rows) != left {
			t.Errorf("%d rows are left, want %d", len(rows), left)
		}
		if err := b.with(later(50 * time.Hour)).api.(*web.API).ForgetExpired(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestMalformedKeys: a key that can be guessed, or is none, is refused, and nothing is done.
func TestMalformedKeys(t *testing.T) {
	b := newBank(t)
	state := b.state()
	for _, value := range []string{"", "short", "fifteen-letters", `"fifteen-letters"`, strings.Repeat("a", 256), "a key with spaces in it", `"no end of the quotes`, `"one" "two, three, four"`, "sixteen-lett\x01ers", "sixteen-lettersé", `"sixteen \n letters"`} {
		w := b.call(&root, "POST", "/keystores", `{"name": "q"}`, func(r *http.Request) { r.Header.Set(operation.IdempotencyKeyHeader, value) })
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "16 to 255") {
			t.Errorf("%q: %d %s", value, w.Code, w.Body)
		}
	}
	w := b.call(&root, "POST", "/keystores", `{"name": "q"}`, keyed("a"), func(r *http.Request) { r.Header.Add(operation.IdempotencyKeyHeader, "another-key-of-the-tests") })
	if w.Code != http.StatusBadRequest || b.state() != state {
		t.Errorf("two: %d %s", w.Code, w.Body)
	}
	for _, value := range []string{"sixteen-letters.", `"seventeen \" and \\"`, strings.Repeat("a", 255)} {
		if w := b.call(&root, "POST", "/keystores/p/credentials", `{}`, func(r *http.Request) { r.Header.Set(operation.IdempotencyKeyHeader, value) }); w.Code != http.StatusCreated {
			t.Errorf("%q: %d %s", value, w.Code, w.Body)
		}
	}
	plain := func(r *http.Request) { r.Header.Set(operation.IdempotencyKeyHeader, "sixteen-letters-and-more") }
	quoted := func(r *http.Request) { r.Header.Set(operation.IdempotencyKeyHeader, `"sixteen-letters-and-more"`) }
	first := b.call(&root, "POST", "/keystores/p/credentials", `{}`, plain)
	if w := b.call(&root, "POST", "/keystores/p/credentials", `{}`, quoted); w.Body.String() != first.Body.String() {
		t.Errorf("in quotes: %d %s", w.Code, w.Body)
	}
}

// TestPendingIsKept: that a request waits for another person is an answer as well.
func TestPendingIsKept(t *testing.T) {
	b := newBank(t)
	b.fourEyes("deleteKeyStore")
	q := request{&b.alice, "DELETE", "/keystores/empty", ""}
	first := q.of(b.caller, keyed("a"))
	if w := q.of(b.restarted(), keyed("a")); first.Code != http.StatusAccepted || w.Code != http.StatusAccepted || w.Body.String() != first.Body.String() || w.Header().Get(operation.ReplayedHeader) != "true" {
		t.Errorf("%d %s, %d %s", first.Code, first.Body, w.Code, w.Body)
	}
	if w := q.of(b.caller, keyed("b")); w.Code != http.StatusAccepted || w.Body.String() == first.Body.String() {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestKeysWhileLocked: while the appliance is locked, its process remembers.
func TestKeysWhileLocked(t *testing.T) {
	b := newBank(t)
	b.bed.Appliance.Lock()
	q := request{&root, "POST", "/seal", `{"pin": "NDcxMQ=="}`}
	first := q.of(b.caller, keyed("a"))
	if w := q.of(b.caller, keyed("a")); first.Code != http.StatusOK || w.Body.String() != first.Body.String() || w.Header().Get(operation.ReplayedHeader) != "true" {
		t.Errorf("%d %s, %d %s", first.Code, first.Body, w.Code, w.Body)
	}
	q.body = `{"pin": "NDcxMg=="}`
	if w := q.of(b.caller, keyed("a")); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
