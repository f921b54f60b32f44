package operation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// performed performs a route with that input, its functions replaced.
func performed(t *testing.T, p *Performer, r *Route, in any, subject func() any, failure error) error {
	t.Helper()
	stub := *r
	stub.subject = func(context.Context, *Caller, any) any { return subject() }
	stub.run = func(context.Context, *Caller, any) (any, error) { return filled(r.answer).Interface(), failure }
	_, err := stub.Perform(t.Context(), p.As(admin, "192.0.2.7:1234"), Request{Path: r.fields.of(in), Read: func() (any, error) { return in, nil }})
	return err
}

func nothing() any { return nil }

// names gives what an input says of key store and key: by the names of its members.
func names(r *Route, v reflect.Value, into *[2]string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type.Kind() == reflect.Struct && f.IsExported() {
			names(r, v.Field(i), into)
			continue
		}
		member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch path := f.Tag.Get("path"); {
		case path == "keystore", member == "key_store", r.Path == "/keystores" && member == "name":
			into[0] = v.Field(i).String()
		case path == "key", member == "key_id", strings.HasSuffix(r.Path, "/keys") && member == "id":
			into[1] = v.Field(i).String()
		}
	}
}

// TestEveryRecordNames: the record of each operation that changes something, whether it
// was done or failed, has the key store and the key that its path or its body names, the
// actor and the address. A new operation is among them by itself.
func TestEveryRecordNames(t *testing.T) {
	named := 0
	for _, r := range Table() {
		if !r.Mutates() && !r.Recorded {
			continue
		}
		for _, failure := range []error{nil, errors.New("it failed")} {
			p, log := quiet()
			in := input(r)
			var want [2]string
			names(r, reflect.ValueOf(in), &want)
			if want != [2]string{} {
				named++
			}
			_ = performed(t, p, r, in, nothing, failure)
			if len(log.records) == 0 {
				t.Errorf("%s: nothing is recorded", r.ID)
				continue
			}
			got := log.records[len(log.records)-1]
			if got.KeyStore != want[0] || got.Key != want[1] || got.Actor != admin.Name || got.Remote != "192.0.2.7:1234" {
				t.Errorf("%s: the record is of %q/%q by %q from %q, want %q", r.ID, got.KeyStore, got.Key, got.Actor, got.Remote, want)
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d records name something", named)
	}
}

// TestReserved: while the log takes ordinary records no more, what takes out of service,
// what saves the state, and what must come before them are done and recorded; nothing
// else is.
func TestReserved(t *testing.T) {
	full := fault.Errorf(fault.AuditNoSpace, "the disk is full")
	goes := map[string]bool{"block": true, "disableKey": true, "backup": true, "exportAudit": true, "removeGrant": true, "deactivateCredential": true,
		"revokeSession": true, "revokeToken": true, "disableUser": true, "provePassword": true, "scheduleKeyDeletion": true, "approve": true, "performApproved": true, "reject": true, "createKey": false, "unblock": false, "createGrant": false, "enableKey": false, "setPolicy": false}
	seen := 0
	for _, r := range Table() {
		if !r.Mutates() && !r.Recorded {
			continue
		}
		p, log := quiet()
		log.notReady = full
		err := performed(t, p, r, input(r), nothing, nil)
		done := r.Urgency == Urgent || r.Recorded || r.WhileLocked || r.restricts(input(r))
		if want, listed := goes[r.ID]; listed {
			seen++
			if want != done {
				t.Errorf("%s: reserved %v, want %v", r.ID, done, want)
			}
		}
		if done && (err != nil || len(log.records) != 1) || !done && (fault.CodeOf(err) != fault.AuditNoSpace || len(log.records) != 0) {
			t.Errorf("%s: %v, %d records", r.ID, err, len(log.records))
		}
	}
	if seen != len(goes) {
		t.Errorf("%d of the operations are in the table, want %d", seen, len(goes))
	}
}

// TestLongSubjects: what is too long for a record stands whole in records before it, of
// which each fits; what is too long for those has its digest.
func TestLongSubjects(t *testing.T) {
	for name, cedar := range map[string]string{
		"padding":    strings.Repeat("// padding\n", 4000) + `permit(principal, action, resource);`,
		"quotes":     strings.Repeat(`"\`, 40<<10),
		"other text": strings.Repeat("ä\u2028<&>\x01", 10<<10),
		"short":      "permit",
		"too long":   strings.Repeat("x", maxInParts+1),
	} {
		p, log := quiet()
		subjects := []any{&Policy{"forbid"}, &Policy{cedar}}
		next := func() any { s := subjects[0]; subjects = subjects[1:]; return s }
		if err := performed(t, p, &SetPolicy.Route, input(&SetPolicy.Route), next, nil); err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(&Policy{cedar})
		if err != nil {
			t.Fatal(err)
		}
		last := log.records[len(log.records)-1]
		if len(want) <= maxSubject {
			if string(last.After) != string(want) {
				t.Errorf("%s: recorded %s", name, last.After)
			}
			continue
		}
		var about inParts
		if err := json.Unmarshal(last.After, &about); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var whole string
		for _, r := range log.records {
			if line, err := r.AppendJSON(nil); err != nil || len(line) > audit.MaxLine {
				t.Errorf("%s: a record of %d bytes: %v", name, len(line), err)
			}
			if !strings.HasPrefix(r.Operation, "part of ") {
				continue
			}
			var part string
			if err := json.Unmarshal(r.After, &part); err != nil || !strings.Contains(r.Detail, about.SHA256) || r.KeyStore != last.KeyStore {
				t.Errorf("%s: the part %s of %q: %v", name, r.Detail, r.KeyStore, err)
			}
			whole += part
		}
		sum := sha256.Sum256(want)
		if about.SHA256 != hex.EncodeToString(sum[:]) || about.Bytes != len(want) || about.Parts != len(log.records)-1 {
			t.Errorf("%s: %+v", name, about)
		}
		if name != "too long" && whole != string(want) {
			t.Errorf("%s: the parts have %d bytes, want %d", name, len(whole), len(want))
		}
	}
}

// TestNameTried: the record of a failed sign-in has the name that was tried, bounded and
// without control characters.
func TestNameTried(t *testing.T) {
	for tried, want := range map[string]string{
		"":                         "",
		"alice":                    `name tried: "alice"`,
		"\x1b[2J\u202ebob":         `name tried: "\x1b[2J\u202ebob"`,
		strings.Repeat("ä", 10000): `name tried: "` + strings.Repeat("ä", maxTried) + `"`,
	} {
		p, log := quiet()
		if err := p.Event(t.Context(), "sign in", "", tried, "192.0.2.7", fault.Errorf(fault.Unauthenticated, "no")); err != nil {
			t.Fatal(err)
		}
		if r := log.records[0]; r.Detail != want || r.Result != audit.Denied || r.Remote != "192.0.2.7" {
			t.Errorf("%q: %+v", tried, r)
		}
	}
}

// TestStrangersFillNoAuditLog: attempts that were not looked at have no record, of the others there is
// a bounded number, and what is recorded next says how many have none. Who is let in is on record.
func TestStrangersFillNoAuditLog(t *testing.T) {
	now := time.Now()
	p, log := quiet()
	p.Now = func() time.Time { return now }
	fail := func(code fault.Code) {
		t.Helper()
		if err := p.Event(t.Context(), "sign in by password", "", "alice", "192.0.2.7", fault.Errorf(code, "no")); err != nil {
			t.Fatal(err)
		}
	}
	fail(fault.Unauthenticated)
	for range 300 {
		fail(fault.Throttled)
	}
	if len(log.records) != 1 {
		t.Errorf("%d records of attempts that were not looked at", len(log.records)-1)
	}
	now = now.Add(time.Minute)
	fail(fault.Unauthenticated)
	if r := log.records[1]; r.Detail != `name tried: "alice"; refused before and not recorded: 300` {
		t.Errorf("%+v", r)
	}
	for range 5000 { // from as many addresses
		fail(fault.Unauthenticated)
	}
	if n := len(log.records); n > 102 {
		t.Errorf("%d records of strangers within no time", n)
	}
	if err := p.Event(t.Context(), "sign in by password", "alice", "", "192.0.2.8", nil); err != nil || log.records[len(log.records)-1].Actor != "alice" {
		t.Errorf("who is let in: %v %+v", err, log.records[len(log.records)-1])
	}
	now = now.Add(time.Second)
	before := len(log.records)
	fail(fault.Unauthenticated)
	if r := log.records[len(log.records)-1]; len(log.records) != before+1 || !strings.Contains(r.Detail, "not recorded: 49") {
		t.Errorf("a second later: %+v", r)
	}
}

// TestGrantNamesItsKey: the removal of a grant is found by the grant's key.
func TestGrantNamesItsKey(t *testing.T) {
	p, log := quiet()
	subject := func() any { return &appliance.Grant{ID: "g", KeyID: "ledger"} }
	if err := performed(t, p, &RemoveGrant.Route, input(&RemoveGrant.Route), subject, nil); err != nil || log.records[0].Key != "ledger" {
		t.Errorf("%v: %+v", err, log.records)
	}
}

// TestReservedByInput: of operations that restrict with some inputs and allow with others,
// those that restrict are done while the log takes ordinary records no more.
func TestReservedByInput(t *testing.T) {
	for _, tt := range []struct {
		route *Route
		in    any
		done  bool
	}{
		{&CreateGrant.Route, NewGrant{KeyStoreName: KeyStoreName{"ks"}, Effect: appliance.EffectForbid}, true},
		{&CreateGrant.Route, NewGrant{KeyStoreName: KeyStoreName{"ks"}, Effect: appliance.EffectAllow}, false},
		{&CreateGrant.Route, NewGrant{KeyStoreName: KeyStoreName{"ks"}}, false},
		{&SetRole.Route, RoleChange{UserName: UserName{"u"}, Role: identity.RoleViewer}, true},
		{&SetRole.Route, RoleChange{UserName: UserName{"u"}, Role: identity.RoleAuditor}, false},
		{&SetRole.Route, RoleChange{UserName: UserName{"u"}, Role: identity.RoleAdministrator}, false},
	} {
		p, log := quiet()
		log.notReady = fault.Errorf(fault.AuditNoSpace, "the disk is full")
		err := performed(t, p, tt.route, tt.in, nothing, nil)
		if tt.done && (err != nil || len(log.records) != 1) || !tt.done && fault.CodeOf(err) != fault.AuditNoSpace {
			t.Errorf("%s %+v: %v, %d records", tt.route.ID, tt.in, err, len(log.records))
		}
	}
}
