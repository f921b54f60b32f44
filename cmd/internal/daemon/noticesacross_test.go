package daemon_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/identity"
	"holdfast/appliance/notice"
	"holdfast/cmd/internal/consoletest"
	"holdfast/web/operation"
)

// posted are the notices that nodes have posted to a webhook.
type posted struct {
	mu  sync.Mutex
	all []string
}

func (p *posted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Type notice.Event
		Data notice.Request
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, fmt.Sprintf("%s %s by %s, decided by %q", body.Type, body.Data.ID, body.Data.AskedBy, body.Data.DecidedBy))
}

// told waits until so many notices came, and no node has another to send.
func (p *posted) told(t *testing.T, nodes []*running, n int) []string {
	t.Helper()
	var all []string
	eventually(t, func() error {
		p.mu.Lock()
		all = slices.Clone(p.all)
		p.mu.Unlock()
		for _, r := range nodes {
			if text := r.scrape(); !strings.Contains(text, "\nholdfast_notices_waiting 0\n") {
				return fmt.Errorf("notices wait at %s", r.Admin.String())
			}
		}
		if len(all) < n {
			return fmt.Errorf("there came %q", all)
		}
		return nil
	})
	return all
}

// TestConsoleApprovalAcrossNodes: what waits at one node of a fleet, the open page of a person at
// another shows at once; they decide there, and the open page of the one who asked learns of it.
// Each is told by one notice of one node.
func TestConsoleApprovalAcrossNodes(t *testing.T) {
	hook := &posted{}
	server := httptest.NewTLSServer(hook)
	t.Cleanup(server.Close)
	notified := func(s *site) {
		dir := t.TempDir()
		w := config.Webhook{URL: server.URL + "/hook", SecretFile: filepath.Join(dir, "secret"), CA: filepath.Join(dir, "ca.pem")}
		s.replace(w.SecretFile, []byte("whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32))))
		s.replace(w.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
		s.cfg.Notify.Webhook = w
	}
	a, b := twoNodes(t, notified)
	const apart = "each person is at a node of their own"
	a.s.alone, b.s.alone = apart, apart
	p := &pair{t: t, running: a, alice: a.setUp("alice")}
	var i operation.CreatedInvitation
	a.ok("POST", "invitations", operation.NewInvitation{Name: "bob", Role: identity.RoleAdministrator}, &i)
	window := consoletest.Alone(t, "", b.Admin.String(), apart).Browser()
	window.Open("/invitation/" + i.Token)
	p.bob = enrolled(t, window, "bob")
	a.ok("POST", "keystores", operation.NewKeyStore{Name: "p", URIPathPrefix: "/p"}, nil)
	a.ok("PUT", "settings", operation.Settings{FourEyes: []string{operation.SetQuota.ID}}, nil)

	const waits, state = `nav a[href="/approvals"] .count`, `main .head .badge`
	decide := func(button, shown string, event notice.Event) {
		t.Helper()
		before := len(hook.told(t, []*running{a, b}, 0))
		p.bob.Open("/approvals")
		request := p.ask(&operation.SetQuota.Route, asked{page: "/keystores/p", fields: []string{"requests_per_second", "5"}})
		var seen operation.ApprovalDetail
		if b.ok("GET", "approvals/"+request.ID, nil, &seen); seen.State != request.State || seen.RequestedBy != "alice" {
			t.Errorf("the other node has %+v", seen.Request)
		}
		p.bob.Learns(waits, "1") // the page was open before
		p.bob.Has(operation.SetQuota.Words, "alice")
		p.bob.Open("/approvals/" + request.ID)
		p.bob.Fill(button, "reason", "bob has looked")
		p.prove(p.bob)
		p.alice.Learns(state, shown) // the page of the request is open since she asked
		p.alice.Has("bob has looked")
		p.alice.Learns(waits, "")
		want := []string{fmt.Sprintf("%s %s by alice, decided by %q", notice.Asked, request.ID, ""), fmt.Sprintf("%s %s by alice, decided by %q", event, request.ID, "bob")}
		if all := hook.told(t, []*running{a, b}, before+2); !slices.Equal(slices.Sorted(slices.Values(all[before:])), slices.Sorted(slices.Values(want))) {
			t.Errorf("people were told %q, want %q", all[before:], want)
		}
	}
	decide("Reject", "Rejected", notice.Rejected)
	decide("Approve", "Approved, done", notice.Approved)
}
