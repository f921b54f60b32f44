package web_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"holdfast/appliance"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// slowHSM is a keyring whose HSM makes no key object until it is told to.
type slowHSM struct {
	appliance.Keyring
	asked, answer chan struct{}
}

func (s slowHSM) Generate(ctx context.Context, v *appliance.KeyVersion, object string) error {
	if v.Version > 1 && object != "" {
		s.asked <- struct{}{}
		<-s.answer
	}
	return s.Keyring.Generate(ctx, v, object)
}

// patience is how long an operation may take that must not wait.
const patience = time.Minute

// soon gives the answer to a request that must not wait.
func (b *bank) soon(what string, ask func() *httptest.ResponseRecorder) *httptest.ResponseRecorder {
	b.t.Helper()
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() { answered <- ask() }()
	select {
	case w := <-answered:
		return w
	case <-time.After(patience):
		b.t.Fatalf("%s waits for the HSM", what)
		return nil
	}
}

// TestUrgentDoesNotWait: while a rotation waits for a slow HSM, each operation that
// takes something out of service is performed, and each proof of presence that such
// an operation may need. What is not urgent waits for its turn. A new operation is
// among them by its urgency.
func TestUrgentDoesNotWait(t *testing.T) {
	hsm := slowHSM{asked: make(chan struct{}), answer: make(chan struct{})}
	b := newBankOn(t, xkstest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { hsm.Keyring = r; return hsm }})
	if _, err := b.bed.Appliance.CreateKey(t.Context(), "p", appliance.NewExternalKey{ID: "slow", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyHSM}); err != nil {
		t.Fatal(err)
	}
	rotated := make(chan *httptest.ResponseRecorder, 1)
	go func() { rotated <- b.call(&root, "POST", "/keystores/p/keys/slow/rotate", "{}") }()
	<-hsm.asked

	// The block is the one that matters most: of the very key, its key store, and all.
	for _, body := range []string{`{"key_store": "p", "key_id": "slow", "reason": "why"}`, `{"key_store": "p", "reason": "why"}`, `{"everything": true, "reason": "why"}`} {
		if w := b.soon("a block", func() *httptest.ResponseRecorder { return b.call(&root, "POST", "/block", body) }); w.Code != http.StatusOK {
			t.Errorf("block %s: %d %s", body, w.Code, w.Body)
		}
	}
	ordinary := make(chan *httptest.ResponseRecorder, 1)
	go func() { ordinary <- b.call(&root, "PUT", "/keystores/p/quota", `{"requests_per_second": 9}`) }()

	performed := 0
	for _, route := range operation.Table() {
		if !route.Mutates() || route.Urgency == operation.Ordinary || route.Urgency == operation.Exclusive || route.ID == "restore" || route.ID == "approve" || route.ID == "performApproved" {
			continue // what is approved waits as it would without
		}
		w := b.soon(route.ID, func() *httptest.ResponseRecorder {
			return b.call(&b.alice, route.Method, b.names.Replace(route.Path), samples[route.ID])
		})
		if w.Code == http.StatusOK {
			performed++
		} else if w.Code >= 500 {
			t.Errorf("%s: %d %s", route.ID, w.Code, w.Body)
		}
	}
	if performed < 15 {
		t.Errorf("only %d were performed", performed)
	}
	select {
	case w := <-ordinary:
		t.Errorf("a change that is not urgent did not wait for its turn: %d %s", w.Code, w.Body)
	default:
	}
	close(hsm.answer)
	// The rotation was decided on a key that was not blocked: it does not undo that.
	if w := <-rotated; w.Code != http.StatusConflict {
		t.Errorf("the rotation: %d %s", w.Code, w.Body)
	}
	if w := <-ordinary; w.Code != http.StatusOK {
		t.Errorf("the change that waited: %d %s", w.Code, w.Body)
	}
	k, err := b.bed.Appliance.ShowKey(t.Context(), "p", "slow")
	if err != nil || k.Blocked.IsZero() || k.CurrentVersion != 1 {
		t.Errorf("the key is %+v: %v", k, err)
	}
}

// TestStopsAreUrgent: what stops somebody or takes something out of service is
// urgent, and nothing that puts it back is.
func TestStopsAreUrgent(t *testing.T) {
	want := map[string]operation.Urgency{"block": operation.Urgent, "unblock": operation.Ordinary, "disableKey": operation.Urgent, "enableKey": operation.Ordinary,
		"deactivateCredential": operation.Urgent, "activateCredential": operation.Ordinary, "deleteCredential": operation.Urgent, "removeGrant": operation.Urgent, "createGrant": operation.Ordinary,
		"disableUser": operation.Urgent, "enableUser": operation.Ordinary, "deleteUser": operation.Urgent, "signOutUser": operation.Urgent, "signOutEverywhere": operation.Urgent,
		"revokeToken": operation.Urgent, "revokeSession": operation.Urgent, "revokeOwnSession": operation.Urgent, "revokeInvitation": operation.Urgent, "reject": operation.Urgent,
		"provePassword": operation.Independent, "provePasskey": operation.Independent, "probeHSMs": operation.Independent, "rotateKey": operation.Ordinary}
	got := map[string]operation.Urgency{}
	for _, route := range operation.Table() {
		if _, ok := want[route.ID]; ok {
			got[route.ID] = route.Urgency
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// TestEffects: the answer of each change that the bank can make has the effect that
// the OpenAPI document says.
func TestEffects(t *testing.T) {
	b := newBank(t)
	d := b.document()
	// What waits for approval is not in effect.
	b.fourEyes("createGrant")
	w := b.call(&b.alice, "POST", "/keystores/p/grants", samples["createGrant"])
	var waits map[string]json.RawMessage
	if err := json.Unmarshal(w.Body.Bytes(), &waits); err != nil || w.Code != http.StatusAccepted || waits["effect"] != nil || waits["change_effect"] != nil {
		t.Errorf("%d %s: %v", w.Code, w.Body, err)
	}
	b.fourEyes()
	seen := 0
	for _, route := range operation.Table() {
		if !route.Changes() || route.BinaryRequest != "" {
			continue
		}
		media := d.Paths[route.Path][map[string]string{"POST": "post", "PUT": "put", "DELETE": "delete"}[route.Method]].Responses[strconv.Itoa(route.Success())].Content["application/json"]
		schema, name := d.schema(media.Schema), "effect"
		if route.ID == "createGrant" { // a grant has an effect of its own: allow or forbid
			name = "change_effect"
		}
		if schema == nil || schema.Properties[name] == nil || d.schema(schema.Properties[name]).Properties["late"] == nil {
			t.Errorf("%s: the document has no effect in its answer", route.ID)
			continue
		}
		w := b.call(&b.alice, route.Method, b.names.Replace(route.Path), samples[route.ID])
		if w.Code != route.Success() {
			continue // refused in this bank; that the answer would have one, package operation asks
		}
		seen++
		var answer map[string]json.RawMessage
		var effect operation.Effect
		err := json.Unmarshal(w.Body.Bytes(), &answer)
		if err == nil {
			err = json.Unmarshal(answer[name], &effect)
		}
		if err != nil || effect.Nodes != 1 || effect.Late == nil || len(effect.Late) != 0 || time.Since(effect.Until) > time.Hour {
			t.Errorf("%s: %s: %v", route.ID, w.Body, err)
		}
		if err := d.validate(&jsonschema.Schema{Ref: media.Schema.Ref}, w.Body.Bytes()); err != nil {
			t.Errorf("%s: %v: %s", route.ID, err, w.Body)
		}
	}
	if seen < 20 {
		t.Errorf("only %d changes were made", seen)
	}
}
