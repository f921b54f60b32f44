package console_test

import (
	"fmt"
	"html"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

var pageLink = regexp.MustCompile(`rel="(next|prev)" href="([^"]*)"`)

// linksOf are the links to other pages of a list, by their relation.
func linksOf(page string) map[string]string {
	links := map[string]string{}
	for _, m := range pageLink.FindAllStringSubmatch(page, -1) {
		links[m[1]] = html.UnescapeString(m[2])
	}
	return links
}

// TestListOfNodes: so is the list of a fleet's nodes, and a node behind the first page can be drained.
func TestListOfNodes(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	fleet := &fleetOfTwo{}
	for i := range 120 {
		state := appliance.NodeServing
		if i == 119 {
			state = appliance.NodeDrained
		}
		fleet.nodes = append(fleet.nodes, appliance.NodeStatus{Node: appliance.Node{ID: fmt.Sprintf("%032x", i), Address: fmt.Sprintf("node-%03d.test:7443", i), State: state}, Heard: true, Serves: true})
	}
	for _, p := range r.performers {
		p.Fleet = fleet
	}
	open := func(path string) string {
		t.Helper()
		w := admin.do(http.MethodGet, path, nil, nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d", path, w.Code)
		}
		return w.Body.String()
	}
	address := regexp.MustCompile(`node-(\d{3})\.test`)
	next := regexp.MustCompile(`href="(/fleet\?[^"]*after=[^"]*)"[^>]*>Next page`)
	var seen []string
	for at := "/fleet?sort=address"; at != ""; {
		page := open(at)
		for _, m := range address.FindAllStringSubmatch(page, -1) {
			seen = append(seen, m[1])
		}
		at = ""
		if m := next.FindStringSubmatch(page); m != nil {
			at = html.UnescapeString(m[1])
		}
	}
	if len(seen) != 120 || !slices.IsSorted(seen) {
		t.Errorf("the pages have %d nodes: %v", len(seen), seen)
	}
	last := open("/fleet?standing=drained")
	if n := len(address.FindAllString(last, -1)); n != 1 || !strings.Contains(last, "node-119.test") || !strings.Contains(last, `action="/do/drainNode"`) {
		t.Errorf("the filter by state leaves %d", n)
	}
	if page := open("/fleet?node=NODE-007"); strings.Contains(page, "node-008") || !strings.Contains(page, "node-007") {
		t.Error("the filter by address does not leave the one node")
	}
	if page := open("/fleet?node=nobody"); !strings.Contains(page, "The filter leaves none") {
		t.Error("a filter that leaves none does not say so")
	}
}

// TestListOfGrants: a long list comes in pages that lead to each other and miss nothing; it is
// filtered and sorted by the page's address; and what is misspelt there is refused.
func TestListOfGrants(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	if _, err := r.Appliance.CreateKeyStore(t.Context(), appliance.KeyStore{Name: "bank", URIPathPrefix: "/bank"}); err != nil {
		t.Fatal(err)
	}
	const n = 120
	long := strings.Repeat("x", 150)
	for i := range n {
		if _, err := r.Appliance.AddGrant(t.Context(), "bank", appliance.Grant{Force: true, Principal: fmt.Sprintf("arn:aws:iam::123456789012:role/%s-%03d", long, i), Operations: []appliance.Operation{appliance.OpEncrypt}}); err != nil {
			t.Fatal(err)
		}
	}
	open := func(path string) string {
		t.Helper()
		w := admin.do(http.MethodGet, path, nil, nil)
		if w.Code != http.StatusOK || w.Body.Len() > 300_000 {
			t.Fatalf("%s: %d, %d bytes", path, w.Code, w.Body.Len())
		}
		return w.Body.String()
	}
	principal := regexp.MustCompile(`role/x+-(\d{3})</code>`)
	var seen []string
	at := "/keystores/bank/grants?sort=principal"
	first := at
	for i := 0; at != ""; i++ {
		page := open(at)
		if want := fmt.Sprintf("%d–%d of %d", i*50+1, min(n, i*50+50), n); !strings.Contains(page, want) {
			t.Errorf("%s does not say %s", at, want)
		}
		if !strings.Contains(page, `aria-sort="ascending"`) {
			t.Errorf("%s does not say how it is sorted", at)
		}
		for _, m := range principal.FindAllStringSubmatch(page, -1) {
			seen = append(seen, m[1])
		}
		if i == 1 {
			if back := linksOf(page)["prev"]; back != first {
				t.Errorf("the page before the second is %q, want %q", back, first)
			}
		}
		at = linksOf(page)["next"]
	}
	if len(seen) != n {
		t.Errorf("%d grants were shown", len(seen))
	}
	for i, s := range seen {
		if s != fmt.Sprintf("%03d", i) {
			t.Fatalf("grant %d is %s", i, s)
		}
	}
	if page := open("/keystores/bank/grants?principal=X-042"); len(principal.FindAllString(page, -1)) != 1 || !strings.Contains(page, `value="X-042"`) {
		t.Error("the filter does not leave the one grant, or is not in its form")
	}
	if page := open("/keystores/bank/grants?effect=forbid"); !strings.Contains(page, "The filter leaves none") {
		t.Error("a filter that leaves none does not say so")
	}
	for _, wrong := range []string{"sort=colour", "effect=maybe", "after=x"} {
		if w := admin.do(http.MethodGet, "/keystores/bank/grants?"+wrong, nil, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", wrong, w.Code)
		}
	}
}

// TestListOfKeysTurnsBack: from each page of a list that is read in parts one comes back to the
// one before, in each order, up to the first.
func TestListOfKeysTurnsBack(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	if _, err := r.Appliance.CreateKeyStore(t.Context(), appliance.KeyStore{Name: "bank", URIPathPrefix: "/bank"}); err != nil {
		t.Fatal(err)
	}
	const n, size = 100, 20 // the last page is full
	keys := make([]appliance.NewExternalKey, n)
	for i := range keys {
		keys[i] = appliance.NewExternalKey{ID: fmt.Sprintf("key-%03d", i), Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached}
	}
	if _, err := r.Appliance.CreateKeys(t.Context(), "bank", keys); err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`<code>(key-\d{3})</code></a>`)
	for _, order := range []string{"id", "-id", "created", "-created"} {
		path := fmt.Sprintf("/keystores/bank/keys?limit=%d&sort=%s", size, order)
		var there []string // the first key of each page
		open := func(at string) (key string, links map[string]string) {
			t.Helper()
			page := admin.do(http.MethodGet, at, nil, nil).Body.String()
			ids := id.FindAllStringSubmatch(page, -1)
			if len(ids) != size {
				t.Fatalf("%s has %d keys", at, len(ids))
			}
			return ids[0][1], linksOf(page)
		}
		at := path
		for {
			key, links := open(at)
			if there = append(there, key); links["next"] == "" {
				break
			}
			at = links["next"]
		}
		if len(there) != n/size {
			t.Errorf("%s: %d pages", order, len(there))
		}
		for i := len(there) - 1; i >= 0; i-- {
			key, links := open(at)
			if key != there[i] {
				t.Fatalf("%s: page %d begins with %s on the way back, and with %s before", order, i+1, key, there[i])
			}
			if (links["prev"] == "") != (i == 0) {
				t.Fatalf("%s: the page before page %d is %q", order, i+1, links["prev"])
			}
			at = links["prev"]
		}
	}
}
