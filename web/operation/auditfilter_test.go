package operation

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// TestFilterRefusesTypos: a value that is not there, and in no record, is refused with what was
// meant; what was deleted is found in the records.
func TestFilterRefusesTypos(t *testing.T) {
	known := Known{Actors: []string{"alice", "token robot"}, Objects: []string{"alice", "user alice"}, Tokens: []string{"robot"}, KeyStores: []string{"payments"}, Keys: []string{"ledger"}}
	now := time.Now()
	for name, tt := range map[string]struct {
		f    AuditFilter
		says string // empty if it is good
	}{
		"operation":             {AuditFilter{Operation: "Disabel key"}, `did you mean "Disable key"?`},
		"operation by words":    {AuditFilter{Operation: "Disable key"}, ""},
		"in small letters":      {AuditFilter{Operation: "disable key"}, ""},
		"operation by ID":       {AuditFilter{Operation: "disableKey"}, ""},
		"words of a variant":    {AuditFilter{Operation: "Block key store"}, ""},
		"actor":                 {AuditFilter{Actor: "alcie"}, `did you mean "alice"?`},
		"actor who is":          {AuditFilter{Actor: "alice"}, ""},
		"actor, deleted":        {AuditFilter{Actor: "carol"}, ""},
		"object":                {AuditFilter{Object: "alicia"}, `did you mean "alice"?`},
		"object, deleted":       {AuditFilter{Object: "carol"}, ""},
		"token":                 {AuditFilter{Token: "robto"}, `did you mean "robot"?`},
		"key store":             {AuditFilter{KeyStore: "paymets"}, `did you mean "payments"?`},
		"key store, deleted":    {AuditFilter{KeyStore: "carol"}, ""},
		"key":                   {AuditFilter{KeyStore: "payments", Key: "leger"}, `did you mean "ledger"?`},
		"key alone":             {AuditFilter{Key: "ledger"}, "give key_store too"},
		"life of nothing":       {AuditFilter{Life: true}, "give key_store too"},
		"error":                 {AuditFilter{Error: "forbiden"}, `did you mean "forbidden"?`},
		"error that is":         {AuditFilter{Error: "forbidden"}, ""},
		"address":               {AuditFilter{Address: "192.0.2"}, "give an IP address such as"},
		"address that is one":   {AuditFilter{Address: "192.0.2.7"}, ""},
		"address of IPv6":       {AuditFilter{Address: "2001:db8::1"}, ""},
		"times that are turned": {AuditFilter{From: now, To: now.Add(-time.Hour)}, "is not before"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.f.Check(t.Context(), known, func(_ context.Context, q audit.Query) (bool, error) {
				return q.Actor == "carol" || q.KeyStore == "carol" || len(q.Objects) > 0 && q.Objects[1] == "user carol", nil
			})
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("it is refused: %v", err)
			case tt.says != "" && (fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("it says %v, not %q", err, tt.says)
			}
		})
	}
}

// TestOldRecordsHaveWords: records of earlier releases are shown in the words of this one; an
// operation that is unknown is shown as it is.
func TestOldRecordsHaveWords(t *testing.T) {
	old := func(operation, keyStore, key string) *audit.Record {
		return &audit.Record{Kind: audit.KindAdmin, Operation: operation, KeyStore: keyStore, Key: key, Actor: "alice", Detail: "session 4d048b0d4dde8790, approved by bob"}
	}
	for _, tt := range []struct {
		r    *audit.Record
		want string
	}{
		{old("POST keystores/{keystore}/keys", "p", "k"), "Create key"},
		{old("POST block", "", ""), "Block everything"},
		{old("POST block", "p", ""), "Block key store"},
		{old("POST unblock", "p", "k"), "Unblock key"},
		{old("ask for approval of DELETE keystores/{keystore}", "p", ""), "Ask for approval: Delete key store"},
		{old("part of "+SetPolicy.Operation(), "p", ""), "Part of: Set Cedar policies"},
		{old("POST what/there/was", "", ""), "POST what/there/was"},
		{old("sign in", "", ""), "sign in"},
		{&audit.Record{Kind: audit.KindXKS, Operation: "Encrypt"}, "Encrypt"},
		{&audit.Record{Kind: audit.KindAdmin, Operation: "POST block", Action: "Block key", Actor: "alice", Session: "4d048b0d4dde8790", ApprovedBy: "bob"}, "Block key"},
	} {
		if got := ActionOf(tt.r); got != tt.want {
			t.Errorf("%s is shown as %q, not %q", tt.r.Operation, got, tt.want)
		}
		if tt.r.Kind == audit.KindAdmin && (WayOf(tt.r) != "session 4d048b0d" || ApproverOf(tt.r) != "bob" || DetailOf(tt.r) != "") {
			t.Errorf("%s: %q, %q, %q", tt.r.Operation, WayOf(tt.r), ApproverOf(tt.r), DetailOf(tt.r))
		}
	}
	if way := WayOf(&audit.Record{Kind: audit.KindAdmin, Actor: "local uid 0 pid 71"}); way != "socket" {
		t.Errorf("root came by %q", way)
	}
}

// TestRecordNamesItsObject: a record says what was done to what, and by whom, in members.
func TestRecordNamesItsObject(t *testing.T) {
	for name, tt := range map[string]struct {
		route   *Route
		subject any
		want    audit.Record
	}{
		"grant": {&RemoveGrant.Route, &appliance.Grant{ID: "g1", KeyID: "ledger", Principal: "arn:aws:iam::123456789012:role/app", Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}},
			audit.Record{Action: "Remove grant", ObjectKind: "grant", ObjectID: "g1", Object: "grant to arn:aws:iam::123456789012:role/app: Encrypt, Decrypt", Key: "ledger"}},
		"user":                      {&DisableUser.Route, &identity.User{ID: "u1", Name: "carol"}, audit.Record{Action: "Disable user", ObjectKind: "user", ObjectID: "u1", Object: "user carol"}},
		"token":                     {&RevokeToken.Route, identity.Token{ID: "t1", Name: "robot"}, audit.Record{Action: "Revoke API token", ObjectKind: "API token", ObjectID: "t1", Object: "API token robot"}},
		"credential":                {&DeactivateCredential.Route, &appliance.Credential{AccessKeyID: "AKIA"}, audit.Record{Action: "Deactivate credential", ObjectKind: "credential", ObjectID: "AKIA", Object: "credential AKIA"}},
		"key, which its body names": {&CreateKey.Route, nil, audit.Record{Action: "Create key", ObjectKind: "key", ObjectID: "a b/ä", Object: "key a b/ä", Key: "a b/ä"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, log := quiet()
			if err := performed(t, p, tt.route, input(tt.route), func() any { return tt.subject }, nil); err != nil {
				t.Fatal(err)
			}
			r := log.records[0]
			if r.Action != tt.want.Action || r.ObjectKind != tt.want.ObjectKind || r.ObjectID != tt.want.ObjectID || r.Object != tt.want.Object || tt.want.Key != "" && r.Key != tt.want.Key {
				t.Errorf("%+v", r)
			}
		})
	}
}
