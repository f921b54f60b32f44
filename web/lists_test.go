package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web"
	"holdfast/web/operation"
)

// aList is what any list of the API looks like.
type aList struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
	Total int               `json:"total"`
}

// listOf says whether an answer is a list: it has items.
func listOf(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == "items" {
			return true
		}
	}
	return false
}

// lists are all operations that give one.
func lists(t *testing.T) (all []*operation.Route) {
	t.Helper()
	for _, r := range operation.Table() {
		if listOf(r.Answer()) {
			all = append(all, r)
		}
	}
	if len(all) < 12 {
		t.Fatalf("only %d operations give a list", len(all))
	}
	return all
}

// TestListsAreAlike: no operation answers with a bare list; each that gives a list takes
// limit, to 1000, and after, and gives items and next.
func TestListsAreAlike(t *testing.T) {
	for _, r := range operation.Table() {
		answer := r.Answer()
		if answer.Kind() == reflect.Slice && answer != reflect.TypeFor[json.RawMessage]() {
			t.Errorf("%s answers with a bare list, %s", r.ID, answer)
		}
		for _, p := range r.Query {
			if (p.Name == "limit" || p.Name == "after" || p.Name == "cursor") && !listOf(answer) {
				t.Errorf("%s takes %s, and gives no list", r.ID, p.Name)
			}
		}
	}
	for _, r := range lists(t) {
		takes := map[string]operation.Parameter{}
		for _, p := range r.Query {
			takes[p.Name] = p
		}
		if l := takes["limit"]; l.Type != "integer" || l.Least != 1 || l.Most != 1000 {
			t.Errorf("%s: its limit is %+v", r.ID, l)
		}
		if takes["after"].Type != "string" {
			t.Errorf("%s has no after", r.ID)
		}
		if s, ok := takes["sort"]; ok && (len(s.Enum) < 2 || !slices.Contains(s.Enum, "id")) {
			t.Errorf("%s: its orders are %v", r.ID, s.Enum)
		}
	}
}

// filled is an appliance with three entries and more in each list.
func filled(t *testing.T) *people {
	t.Helper()
	p := newPeople(t, "bob", "carol")
	p.enrolByPassword("alice")
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	for i := range 4 {
		p.want(p.call(&root, "POST", "/keystores", fmt.Sprintf(`{"name": "s%d", "uri_path_prefix": "/s%d"}`, i, i)), 201)
		p.want(p.call(&root, "POST", "/keystores/p/keys", fmt.Sprintf(`{"id": "k%d", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`, i)), 201)
		p.want(p.call(&root, "POST", "/keystores/p/grants", fmt.Sprintf(`{"principal": "arn:aws:iam::12345678901%d:role/a", "operations": ["Encrypt"]}`, i)), 201)
		p.want(p.call(&root, "POST", "/keystores/p/credentials", `{}`), 201)
		p.want(p.call(&root, "POST", "/tokens", fmt.Sprintf(`{"name": "t%d", "role": "viewer", "days": 3, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`, i)), 201)
		p.want(p.call(&root, "POST", "/invitations", fmt.Sprintf(`{"name": "guest%d", "role": "viewer"}`, i)), 201)
	}
	alice := p.account("alice")
	codes, err := p.users.NewRecoveryCodes(t.Context(), alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range codes[:3] {
		if _, err := p.users.SignInPassword(t.Context(), "alice", "a sentence long enough", code, identity.Client{Address: "192.0.2.2:1"}); err != nil {
			t.Fatal(err)
		}
	}
	machine := p.api.(*web.API).Journal.(*journal).Machine
	for i := range 3 {
		if err := machine.RecordBootStep(t.Context(), progress.Step{Boot: "b", Seq: i + 1, State: "x", Began: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	p.api.(*web.API).Fleet = nodes{}
	p.fourEyes("deleteKeyStore")
	for i := range 4 {
		p.ask(p.user("alice"), "DELETE", fmt.Sprintf("/keystores/s%d", i), "")
	}
	return p
}

// nodes is a fleet of three that nobody changes.
type nodes struct{ operation.Fleet }

func (nodes) Settle(context.Context) appliance.Settled { return appliance.Settled{Nodes: 3, Of: 3} }
func (nodes) FleetStatus() appliance.FleetStatus {
	s := appliance.FleetStatus{Node: strings.Repeat("1", 32)}
	for i, state := range []appliance.NodeState{appliance.NodeServing, appliance.NodeDrained, appliance.NodeServing} {
		s.Nodes = append(s.Nodes, appliance.NodeStatus{Node: appliance.Node{ID: strings.Repeat(fmt.Sprint(i+1), 32), Address: fmt.Sprintf("10.0.0.%d:7443", 9-i), State: state}, Heard: true, Serves: true, Version: "1"})
	}
	return s
}

// few are the lists that have one entry here, and why.
var few = map[string]string{"probeHSMs": "there is one HSM"}

// ask gives a page of a list.
func (p *people) page(r *operation.Route, query url.Values) (int, *aList, string) {
	p.t.Helper()
	path := strings.NewReplacer("{keystore}", "p").Replace(r.Path)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	w := p.call(p.user("alice"), r.Method, path, "")
	var l aList
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || l.Items == nil {
			p.t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
	}
	return w.Code, &l, w.Body.String()
}

// changing are the members that differ each time that somebody looks.
var changing = regexp.MustCompile(`"(last_seen_at|probed_at|took_ns|memory_bytes)":("[^"]*"|\d+)`)

func texts(l *aList) (all []string) {
	for _, i := range l.Items {
		all = append(all, changing.ReplaceAllString(string(i), ""))
	}
	return all
}

// TestListsPage: of each list, in each order, the pages of one entry are together the same as
// the page of all, once each; an unknown cursor is refused, and so is one of another list or
// order.
func TestListsPage(t *testing.T) {
	p := filled(t)
	var foreign string
	for _, r := range lists(t) {
		orders := []string{""}
		for _, q := range r.Query {
			if q.Name == "sort" {
				orders = append(orders, q.Enum...)
			}
		}
		for _, order := range orders {
			query := func(limit, after string) url.Values {
				v := url.Values{"limit": {limit}}
				for name, value := range map[string]string{"sort": order, "after": after} {
					if value != "" {
						v.Set(name, value)
					}
				}
				return v
			}
			status, whole, text := p.page(r, query("1000", ""))
			if status != http.StatusOK || whole.Next != "" || len(whole.Items) < 3 && few[r.ID] == "" {
				t.Errorf("%s %s: %d %s", r.ID, order, status, text)
				continue
			}
			if order == "" && whole.Total != 0 && whole.Total != len(whole.Items) {
				t.Errorf("%s: %d in all, and %d are there", r.ID, whole.Total, len(whole.Items))
			}
			var single []string
			after, last := "", foreign
			for {
				status, one, text := p.page(r, query("1", after))
				if status != http.StatusOK || len(one.Items) != 1 {
					t.Fatalf("%s %s, after %q: %d %s", r.ID, order, after, status, text)
				}
				single = append(single, texts(one)...)
				if after = one.Next; after == "" {
					break
				}
				if len(single) > len(whole.Items)+100 {
					t.Fatalf("%s %s does not end", r.ID, order)
				}
				if foreign != "" {
					if status, _, text := p.page(r, query("1", foreign)); status != http.StatusBadRequest || !strings.Contains(text, "not a cursor of this list") {
						t.Errorf("%s %s, with a cursor of another list: %d %s", r.ID, order, status, text)
					}
				}
				last = after
			}
			foreign = last
			if want := texts(whole); !slices.Equal(single, want) {
				t.Errorf("%s %s, one by one:\n%s\nat once:\n%s", r.ID, order, strings.Join(single, "\n"), strings.Join(want, "\n"))
			}
			for _, made := range []string{"x", "a", strings.Repeat("A", 40)} {
				if status, _, _ := p.page(r, query("1", made)); status != http.StatusBadRequest {
					t.Errorf("%s with the cursor %q: %d", r.ID, made, status)
				}
			}
		}
		for _, wrong := range []url.Values{{"limit": {"0"}}, {"limit": {"1001"}}, {"sort": {"nonsense"}}, {"after": {""}}} {
			if status, _, text := p.page(r, wrong); status != http.StatusBadRequest {
				t.Errorf("%s?%s: %d %s", r.ID, wrong.Encode(), status, text)
			}
		}
	}
}

// TestCursorSurvives: a cursor goes on where it was though the entry that it names is gone,
// and what is added meanwhile neither hides an entry nor shows one twice.
func TestCursorSurvives(t *testing.T) {
	p := filled(t)
	type entry struct{ ID, Name string }
	for _, tt := range []struct {
		list, remove string
		add          string
	}{
		{"listTokens", "", `{"name": "t1a", "role": "viewer", "days": 3, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`},
		{"listGrants", "/keystores/p/grants/", `{"principal": "*", "operations": ["Encrypt"]}`},
		{"listInvitations", "/invitations/", `{"name": "another", "role": "viewer"}`},
		{"listSessions", "/sessions/", ""},
	} {
		r := lists(t)[slices.IndexFunc(lists(t), func(r *operation.Route) bool { return r.ID == tt.list })]
		_, whole, _ := p.page(r, nil)
		var all []entry
		for _, i := range whole.Items {
			var e entry
			if err := json.Unmarshal(i, &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		_, first, _ := p.page(r, url.Values{"limit": {"2"}})
		if tt.remove != "" {
			p.want(p.call(&root, "DELETE", tt.remove+all[1].ID, ""), 200)
		}
		if tt.add != "" {
			p.want(p.call(&root, "POST", strings.NewReplacer("{keystore}", "p").Replace(r.Path), tt.add), 201)
		}
		_, rest, _ := p.page(r, url.Values{"after": {first.Next}})
		var ids []string
		for _, i := range rest.Items {
			var e entry
			if err := json.Unmarshal(i, &e); err != nil {
				t.Fatal(err)
			}
			if e.ID == all[0].ID || e.ID == all[1].ID {
				t.Errorf("%s: %s comes twice", tt.list, e.ID)
			}
			ids = append(ids, e.ID)
		}
		for _, e := range all[2:] {
			if !slices.Contains(ids, e.ID) {
				t.Errorf("%s: %s is left out", tt.list, e.ID)
			}
		}
	}
}
