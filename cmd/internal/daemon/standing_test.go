package daemon_test

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/cmd/internal/consoletest"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// stands is how things stand: the appliance, with the code of why; the key store p with its
// credential, its key in memory and the one that never leaves the HSM; and the key store q.
type stands struct {
	appliance                      appliance.StandingState
	code                           fault.Code
	store, credential, cached, hsm appliance.StandingState
	other                          appliance.StandingState
	// health is what KMS is told of the HSM, by key store; nothing where it gets no answer.
	health map[string][]appliance.HealthStatus
}

// unread is why the rows of key store p are not shown: no key is in memory to verify them, or they do
// not match. Empty if they are.
func (s stands) unread() fault.Code {
	switch {
	case s.nothing():
		return fault.Locked
	case s.store == appliance.StandingOut:
		return fault.Tampered
	}
	return ""
}

// nothing says whether nothing at all serves.
func (s stands) nothing() bool {
	return s.appliance == appliance.StandingLocked || s.appliance == appliance.StandingHeld
}

func allStand(state appliance.StandingState, code fault.Code) stands {
	return stands{state, code, state, state, state, state, state, nil}
}

func healthOf(hsms []appliance.HSMHealth) (list []appliance.HealthStatus) {
	for _, h := range hsms {
		list = append(list, h.Status)
	}
	return list
}

// says are the words of docs/console.md; of what serves, they differ.
var says = map[appliance.StandingState]string{
	appliance.StandingServing: "Serving", appliance.StandingDegraded: "Serving, degraded", appliance.StandingLocked: "Locked",
	appliance.StandingBlocked: "Blocked: everything", appliance.StandingHeld: "Held", appliance.StandingOut: "Out of service", appliance.StandingHSMAway: "HSM away",
}

func saysOf(state appliance.StandingState, serving string) string {
	if state == appliance.StandingServing {
		return serving
	}
	return says[state]
}

// standingSite is a running appliance, or a fleet, with an administrator in a browser, to which
// things happen.
type standingSite struct {
	*site
	nodes []*running
	r     *running // the node that is asked
	a     *admin
	ahead atomic.Int64 // of the clock
	pages []string
	// credential is p's.
	credential string
}

func newStandingSite(t *testing.T) *standingSite {
	t.Helper()
	s := &standingSite{site: consoleSite(t)}
	s.now = func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	s.cfg.HSM.Lease = config.Duration(time.Minute)
	s.r = s.start()
	s.a = s.r.setUp("alice")
	s.nodes = []*running{s.r}
	for range consoletest.Nodes(t) - 1 {
		next := newSiteWith(t, s.token, s.shim)
		next.cfg.State.Database, next.cfg.HSM.Lease, next.now = s.cfg.State.Database, s.cfg.HSM.Lease, s.now
		node := next.start()
		s.nodes = append(s.nodes, node)
		s.r.console.Join(node.Admin.String())
	}
	s.credential = s.r.newKeyStore().AccessKeyID
	s.r.newKey("cached", appliance.CustodyCached, "")
	s.r.newKey("hsm", appliance.CustodyHSM, "")
	s.r.ok("POST", "keystores", operation.NewKeyStore{Name: "q", URIPathPrefix: "/q"}, nil)
	s.r.ok("POST", "keystores/q/credentials", operation.NewCredential{}, nil)
	s.r.ok("POST", "tokens", operation.NewToken{Name: "robot", Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, nil)
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	things := map[string]string{"keystore": "p", "key": "cached", "user": "alice", "seq": "1"}
	for _, pattern := range console.Pages() {
		known := true
		path := parameter.ReplaceAllStringFunc(pattern, func(name string) string {
			thing := things[name[1:len(name)-1]]
			known = known && thing != ""
			return url.PathEscape(thing)
		})
		if known && pattern != "/setup" && pattern != "/prove" && !strings.HasPrefix(pattern, "/signin") {
			s.pages = append(s.pages, path)
		}
	}
	return s
}

// each does something at each node.
func (s *standingSite) each(do func()) {
	s.t.Helper()
	for _, s.r = range s.nodes {
		do()
	}
}

// badge gives that of the header, of the page's head, or of the row of a list with the text.
func (s *standingSite) badge(of string) string {
	s.t.Helper()
	script := fmt.Sprintf(`(document.querySelector("main .head .badge")?.textContent || "").trim() + "#" + [...document.querySelectorAll("main tbody tr")].filter(r => r.querySelector("th")?.textContent.trim().startsWith(%q)).map(r => r.querySelector(".badge").textContent.trim())`, of)
	head, row, _ := strings.Cut(s.a.Value(script), "#")
	return head + row
}

// shown looks at every page.
func (s *standingSite) shown(want stands) {
	s.t.Helper()
	for _, path := range s.pages {
		s.a.Open(path)
		header := s.a.Value(`document.querySelector("#standing .badge")?.textContent.trim() || ""`)
		if header != says[want.appliance] {
			s.t.Errorf("%s: the header says %q, want %q", path, header, says[want.appliance])
		}
		good := s.a.Value(`[...document.querySelectorAll("main .badge.ok")].map(b => b.textContent.trim()).filter(t => ["Serving", "Serves", "Enabled", "Open", "Active"].includes(t)).join()`)
		about := path == "/" || path == "/hsms" || path == "/fleet" || strings.HasPrefix(path, "/keystores")
		if about && want.nothing() && good != "" {
			s.t.Errorf("%s: nothing serves, and it says %q", path, good)
		}
		if strings.HasPrefix(path, "/keystores/p") && want.store == appliance.StandingOut && good != "" {
			s.t.Errorf("%s: the key store is out of service, and it says %q", path, good)
		}
		if path == "/hsms" && want.hsm == appliance.StandingHSMAway && good != "" {
			s.t.Errorf("%s: the HSM is away, and it says %q", path, good)
		}
	}
	for _, p := range []struct{ path, of, want string }{
		{"/keystores", "p", saysOf(want.store, "Serving")},
		{"/keystores", "q", saysOf(want.other, "Serving")},
		{"/keystores/p", "-", saysOf(want.store, "Serving")},
		{"/keystores/p/keys", "cached", saysOf(want.store, "Serving") + saysOf(want.cached, "Enabled")},
		{"/keystores/p/keys", "hsm", saysOf(want.store, "Serving") + saysOf(want.hsm, "Enabled")},
		{"/keystores/p/keys/cached", "-", saysOf(want.cached, "Enabled")},
		{"/keystores/p/keys/hsm", "-", saysOf(want.hsm, "Enabled")},
		{"/keystores/p/credentials", s.credential, saysOf(want.store, "Serving") + saysOf(want.credential, "Active")},
	} {
		if want.unread() != "" && p.path != "/keystores" {
			p.want = "" // the page says why it shows nothing
		}
		if want.hsm == appliance.StandingOut && p.path == "/keystores/p/keys/hsm" {
			p.want = ""
		}
		if s.a.Open(p.path); s.badge(p.of) != p.want {
			s.t.Errorf("%s: of %s it says %q, want %q", p.path, p.of, s.badge(p.of), p.want)
		}
	}
}

// told asks the API of each node for the same.
func (s *standingSite) told(want stands) {
	s.t.Helper()
	s.each(func() { s.toldByNode(want) })
}

func (s *standingSite) toldByNode(want stands) {
	s.t.Helper()
	check := func(what string, st appliance.Standing, state appliance.StandingState) {
		s.t.Helper()
		serves := state == appliance.StandingServing || state == appliance.StandingDegraded
		if st.State != state || st.Serves != serves || st.Says == "" {
			s.t.Errorf("the API says of %s %+v, want %s", what, st, state)
		}
	}
	var status operation.Status
	s.r.ok("GET", "status", nil, &status)
	if check("the appliance", status.Standing, want.appliance); status.Standing.Code != want.code {
		s.t.Errorf("the code is %q, want %q", status.Standing.Code, want.code)
	}
	if want.unread() != "" {
		for _, path := range []string{"keystores/p", "keystores/p/health", "keystores/p/keys", "keystores/p/keys/hsm", "keystores/p/credentials"} {
			if err := s.r.do("GET", path, nil, nil); fault.CodeOf(err) != want.unread() {
				s.t.Errorf("GET %s: %v", path, err)
			}
		}
	}
	states := map[string]appliance.StandingState{"p": want.store, "q": want.other, "cached": want.cached, "hsm": want.hsm}
	var stores operation.List[*appliance.KeyStore]
	s.r.ok("GET", "keystores", nil, &stores)
	for _, ks := range stores.Items {
		check("key store "+ks.Name+" in the list", ks.Standing, states[ks.Name])
	}
	if want.unread() != "" {
		return
	}
	var keys operation.List[*appliance.ExternalKey]
	s.r.ok("GET", "keystores/p/keys", nil, &keys)
	if len(stores.Items) != 2 || len(keys.Items) != 2 {
		s.t.Fatalf("%d key stores, %d keys", len(stores.Items), len(keys.Items))
	}
	for _, ks := range stores.Items {
		var one appliance.KeyStoreDetail
		var health operation.KeyStoreHealth
		s.r.ok("GET", "keystores/"+ks.Name, nil, &one)
		s.r.ok("GET", "keystores/"+ks.Name+"/health", nil, &health)
		check("key store "+ks.Name, one.Standing, states[ks.Name])
		check("the health of key store "+ks.Name, health.Standing, states[ks.Name])
		if health.Serves != health.Standing.Serves {
			s.t.Errorf("key store %s serves %v, and stands %+v", ks.Name, health.Serves, health.Standing)
		}
		if got := fmt.Sprint(healthOf(health.HSMs)); got != fmt.Sprint(want.health[ks.Name]) {
			s.t.Errorf("KMS is told of the HSMs of key store %s %s, want %s", ks.Name, got, want.health[ks.Name])
		}
	}
	for _, k := range keys.Items {
		check("key "+k.ID+" in the list", k.Standing, states[k.ID])
		var one appliance.StoredKey
		if states[k.ID] == appliance.StandingOut {
			if err := s.r.do("GET", "keystores/p/keys/"+k.ID, nil, nil); fault.CodeOf(err) != fault.Tampered {
				s.t.Errorf("GET key %s: %v", k.ID, err)
			}
			continue
		}
		s.r.ok("GET", "keystores/p/keys/"+k.ID, nil, &one)
		check("key "+k.ID, one.Standing, states[k.ID])
	}
	var credentials operation.List[appliance.Credential]
	s.r.ok("GET", "keystores/p/credentials", nil, &credentials)
	check("the credential", credentials.Items[0].Standing, want.credential)
}

// filtered asks each list, in the API and in the console, for each state that its filter knows: it
// finds the rows that show it, and no others, also page by page.
func (s *standingSite) filtered(want stands) {
	s.t.Helper()
	standing := map[string]appliance.Standing{}
	note := func(id string, st appliance.Standing) string { standing[id] = st; return id }
	filtersFind(s, operation.ListKeyStores, "keystores", operation.KeyStorePage{}, func(ks *appliance.KeyStore) string { return note(ks.Name, ks.Standing) }, standing)
	if want.unread() != "" {
		return
	}
	filtersFind(s, operation.ListKeys, "keystores/p/keys", operation.KeyPage{}, func(k *appliance.ExternalKey) string { return note(k.ID, k.Standing) }, standing)
	filtersFind(s, operation.ListCredentials, "keystores/p/credentials", operation.CredentialPage{}, func(c *appliance.Credential) string { return note(c.AccessKeyID, c.Standing) }, standing)
}

// filtersFind does it for one list. Of each row, id gives the ID, and notes the standing.
func filtersFind[In, Item any](s *standingSite, o *operation.Operation[In, operation.List[Item]], path string, _ In, id func(Item) string, standing map[string]appliance.Standing) {
	s.t.Helper()
	list := func(query string) (ids []string, next string) {
		var page operation.List[Item]
		s.r.ok("GET", path+query, nil, &page)
		for _, item := range page.Items {
			ids = append(ids, id(item))
		}
		return ids, page.Next
	}
	all, _ := list("")
	slices.Sort(all)
	shown := map[appliance.StandingState][]string{}
	for _, of := range all {
		shown[standing[of].State] = append(shown[standing[of].State], of)
	}
	states := o.Query[slices.IndexFunc(o.Query, func(q operation.Parameter) bool { return q.Name == "standing" })].Enum
	for state := range shown {
		if !slices.Contains(states, string(state)) {
			s.t.Errorf("%s shows rows that are %s, and its filter does not know it", path, state)
		}
	}
	for _, state := range states {
		var found []string
		for next := "?limit=1&standing=" + state; next != ""; {
			ids, after := list(next)
			found = append(found, ids...)
			if next = ""; after != "" {
				next = "?limit=1&standing=" + state + "&after=" + after
			}
		}
		if want := shown[appliance.StandingState(state)]; !slices.Equal(found, want) {
			s.t.Errorf("%s: of those that are %s the filter finds %q, want %q", path, state, found, want)
		}
	}
	script := `[...document.querySelectorAll("main tbody tr")].map(r => r.querySelector("th").textContent.trim().split(/\s/)[0] + "=" + r.querySelector(".badge").textContent.trim()).sort().join("|")`
	option := `[...document.querySelectorAll("main select[name=standing] option")].map(o => o.value + "=" + o.textContent.trim()).join("\n")`
	s.a.Open("/" + path)
	rows := strings.Split(s.a.Value(script), "|")
	for _, o := range strings.Split(s.a.Value(option), "\n")[1:] {
		state, text, _ := strings.Cut(o, "=")
		var want []string
		for _, row := range rows {
			if _, badge, _ := strings.Cut(row, "="); badge == text || text == "Blocked" && strings.HasPrefix(badge, "Blocked: ") {
				want = append(want, row)
			}
		}
		s.a.Open("/" + path + "?standing=" + state)
		if got := s.a.Value(script); got != strings.Join(want, "|") {
			s.t.Errorf("/%s: the filter %q shows %q, want %q", path, text, got, want)
		}
	}
}

// away takes the HSM away, and has it asked.
func (s *standingSite) away() {
	s.shim.Cut()
	s.each(func() { s.r.ok("POST", "hsms/probe", nil, nil) })
}

// back has the HSM come back, and each node notice it: a node opens it again after a pause of its
// own, and a probe before that finds it away.
func (s *standingSite) back() {
	s.shim.Restore()
	s.each(func() {
		eventually(s.t, func() error {
			if err := s.r.probe("/readyz", 200); err != nil {
				return err
			}
			var status operation.Status
			s.r.ok("POST", "hsms/probe", nil, nil)
			s.r.ok("GET", "status", nil, &status)
			if st := status.Standing; st.State != appliance.StandingServing {
				return fmt.Errorf("the node is %s: %s", st.State, st.Says)
			}
			return nil
		})
	})
}

// TestConsoleSaysWhatIsTrue: whatever takes an appliance, or a part of it, out of service while it
// runs, each page says so, open pages by themselves, and the API says the same, by the filters of
// lists as well; and so after its end. In a fleet each node does.
func TestConsoleSaysWhatIsTrue(t *testing.T) {
	s := newStandingSite(t)
	serving := allStand(appliance.StandingServing, "")
	serving.health = map[string][]appliance.HealthStatus{"p": {appliance.HealthActive}, "q": {appliance.HealthActive}}
	blocked := allStand(appliance.StandingBlocked, "")
	blocked.health = map[string][]appliance.HealthStatus{"p": {appliance.HealthUnavailable}, "q": {appliance.HealthUnavailable}}
	const sessions = "a node that is locked knows no session that began at another"
	damaged := serving
	damaged.hsm = appliance.StandingOut
	for _, c := range []struct {
		name, open string
		begin, end func()
		want       stands
		alone      string // why no fleet is tried
	}{
		{"the HSM is away", "/hsms", s.away, s.back,
			stands{appliance.StandingDegraded, fault.HSMAway, appliance.StandingDegraded, appliance.StandingServing, appliance.StandingServing, appliance.StandingHSMAway, appliance.StandingDegraded,
				map[string][]appliance.HealthStatus{"p": {appliance.HealthUnavailable}, "q": {appliance.HealthDegraded}}}, ""},
		{"locked, as the HSM is away for too long", "/keystores/p/keys", func() {
			s.away()
			s.ahead.Add(int64(time.Duration(s.cfg.HSM.Lease) + time.Minute))
		}, s.back, allStand(appliance.StandingLocked, fault.HSMLease), sessions},
		{"a key store is out of service", "/keystores", func() {
			s.edit(`UPDATE key_stores SET requests_per_second = 7 WHERE name = 'p'`)
			s.r.ok("GET", "state", nil, nil)
		}, func() {
			s.edit(`UPDATE key_stores SET requests_per_second = 0 WHERE name = 'p'`)
			s.r.ok("GET", "state", nil, nil)
		}, stands{appliance.StandingDegraded, fault.KeyStoreOut, appliance.StandingOut, appliance.StandingOut, appliance.StandingOut, appliance.StandingOut, appliance.StandingServing,
			map[string][]appliance.HealthStatus{"q": {appliance.HealthActive}}}, theirMachine},
		{"everything is blocked", "/keystores/p/keys", func() {
			s.r.ok("POST", "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{Everything: true}, Reason: "the test"}, nil)
		}, func() {
			s.r.ok("POST", "unblock", appliance.BlockTarget{Everything: true}, nil)
		}, blocked, ""},
		{"a row of a key does not match its seal", "/", func() {
			s.edit(`UPDATE external_keys SET can_encrypt = 0 WHERE id = 'hsm'`)
			s.r.ok("GET", "keystores/p/keys", nil, nil)
		}, func() {
			s.edit(`UPDATE external_keys SET can_encrypt = 1 WHERE id = 'hsm'`)
			s.r.ok("GET", "state", nil, nil)
		}, damaged, theirMachine},
		{"the state is held", "/", func() {
			s.edit(`DELETE FROM api_tokens`)
			s.r.ok("GET", "state", nil, nil)
		}, func() {
			s.r.ok("POST", "state/accept", operation.AcceptedState{Reason: "the test has edited it"}, nil)
		}, allStand(appliance.StandingHeld, fault.StateChanged), theirMachine},
	} {
		if len(s.nodes) > 1 && c.alone != "" {
			t.Logf("a fleet is not tried while %s: %s", c.name, c.alone)
			continue
		}
		s.a.Open(c.open)
		c.begin()
		s.a.Learns("#standing .badge", says[c.want.appliance])
		s.told(c.want)
		s.shown(c.want)
		s.filtered(c.want)
		s.a.Open(c.open)
		c.end()
		s.a.Learns("#standing .badge", "Serving")
		s.told(serving)
		s.shown(serving)
		s.filtered(serving)
		if t.Failed() {
			t.Fatalf("so it is while %s, or after it", c.name)
		}
	}
}
