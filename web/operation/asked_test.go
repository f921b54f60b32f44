package operation

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// secretMembers are the members of inputs that are in no record.
var secretMembers = []string{"file", "ceremony", "chain", "code", "material", "password", "pin", "private_key", "response", "secret", "secret_access_key"}

// attempt is a way in which an operation is not performed.
type attempt struct {
	who        identity.Principal
	unreadable error
	result     audit.Result
	read       bool // the input was
}

var attempts = map[string]attempt{
	"failed":     {admin, nil, audit.Failed, true},
	"denied":     {identity.Principal{Name: "nobody", Role: "none"}, nil, audit.Denied, false},
	"unreadable": {admin, invalid("no"), audit.Failed, false},
}

// record has the attempt made, and gives what is on record of it; nil for nothing.
func (a attempt) record(t *testing.T, r *Route, in any) *audit.Record {
	t.Helper()
	p, log := quiet()
	stub := *r
	stub.subject = func(context.Context, *Caller, any) any { return nil }
	stub.run = func(context.Context, *Caller, any) (any, error) {
		return reflect.New(r.answer).Elem().Interface(), errors.New("it failed")
	}
	_, err := stub.Perform(t.Context(), p.As(a.who, "192.0.2.7:1"), Request{Path: r.fields.of(in), Read: func() (any, error) { return in, a.unreadable }})
	if err == nil {
		t.Errorf("%s: it was done", r.ID)
	}
	if len(log.records) == 0 {
		return nil
	}
	return log.records[len(log.records)-1]
}

// TestFailuresSayWhatWasAsked: the record of each operation that failed, was denied or
// could not be read has each parameter and member of what was read, and no secret. A
// new operation, and a new member, are among them by themselves.
func TestFailuresSayWhatWasAsked(t *testing.T) {
	for _, r := range Table() {
		for name, a := range attempts {
			if name != "denied" && !r.Mutates() && (!r.Recorded || name == "unreadable") {
				continue
			}
			rec := a.record(t, r, input(r))
			if rec == nil || rec.Result != a.result {
				t.Errorf("%s %s: recorded %+v", r.ID, name, rec)
				continue
			}
			want := map[string]bool{}
			for _, f := range r.fields {
				if f.in == inPathOf || f.in == inQuery && a.read && !reflect.ValueOf(input(r)).FieldByIndex(f.index).IsZero() {
					want[f.Name] = true
				}
			}
			for _, m := range members(r.input) {
				if a.read && !slices.Contains(secretMembers, m.name) {
					want[m.name] = true
				}
			}
			got := map[string]any{}
			if len(rec.Asked) > 0 {
				if err := json.Unmarshal(rec.Asked, &got); err != nil {
					t.Errorf("%s %s: %s: %v", r.ID, name, rec.Asked, err)
				}
			}
			for member, value := range got {
				if !want[member] {
					t.Errorf("%s %s: %q is on record as %v", r.ID, name, member, value)
				}
			}
			for member := range want {
				if v, there := got[member]; !there || v == "" || v == nil {
					t.Errorf("%s %s: %q is not on record", r.ID, name, member)
				}
			}
		}
	}
}

// TestSecretsOfInputs: what sounds like a secret is one that no record has, and each of
// those that no record has is known here.
func TestSecretsOfInputs(t *testing.T) {
	sounds := regexp.MustCompile(`(?i)secret|password|\bpin\b|code|material|response|private|chain`)
	seen := map[string]bool{}
	for _, r := range Table() {
		for _, m := range members(r.input) {
			left := unrecorded(r.input.FieldByIndex(m.index))
			if left != slices.Contains(secretMembers, m.name) || sounds.MatchString(m.name) && !left {
				t.Errorf("%s: %q is left out of records: %t", r.ID, m.name, left)
			}
			seen[m.name] = seen[m.name] || left
		}
	}
	for _, name := range secretMembers {
		if !seen[name] {
			t.Errorf("no input has %q", name)
		}
	}
}

// TestTokenInPlaceOfItsID: a token that was given where its ID belongs is not on record.
func TestTokenInPlaceOfItsID(t *testing.T) {
	token := identity.TokenPrefix + "c2VjcmV0"
	for name, a := range attempts {
		rec := a.record(t, &RevokeToken.Route, TokenName{Token: token})
		if line, err := rec.AppendJSON(nil); err != nil || strings.Contains(string(line), token) || !strings.Contains(string(line), identity.TokenPrefix+"...") {
			t.Errorf("%s: %s: %v", name, line, err)
		}
	}
}

// TestLongNames: names of any length make no record that the log cannot take, and are
// on record whole.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("ä", 50_000)
	for _, r := range Table() {
		if !r.Mutates() {
			continue
		}
		in := reflect.New(r.input).Elem()
		in.Set(reflect.ValueOf(input(r)))
		named := false
		for _, m := range members(r.input) {
			if m.of.Kind() == reflect.String && !slices.Contains(secretMembers, m.name) {
				in.FieldByIndex(m.index).SetString(long)
				named = true
			}
		}
		if !named {
			continue
		}
		p, log := quiet()
		err := performed(t, p, r, in.Interface(), nothing, errors.New("it failed"))
		if err == nil || len(log.records) < 2 {
			t.Errorf("%s: %v, %d records", r.ID, err, len(log.records))
		}
		whole := ""
		for _, rec := range log.records {
			if line, err := rec.AppendJSON(nil); err != nil || len(line) > audit.MaxLine {
				t.Errorf("%s: a record of %d bytes: %v", r.ID, len(line), err)
			}
			var part string
			if strings.HasPrefix(rec.Operation, "part of ") && json.Unmarshal(rec.After, &part) == nil {
				whole += part
			}
		}
		if !strings.Contains(whole, long) {
			t.Errorf("%s: the name is not on record", r.ID)
		}
	}
}

// brokenSettings cannot be read.
type brokenSettings struct{ approval.Settings }

func (brokenSettings) Setting(context.Context, string) (string, error) {
	return "", fault.Errorf(fault.Internal, "the disk does not answer")
}

// TestUnknownApprovalIsOnRecord: an operation that is not performed, as nobody can tell
// whether it needs approval, is on record.
func TestUnknownApprovalIsOnRecord(t *testing.T) {
	for _, r := range Table() {
		if !r.Guards().FourEyes {
			continue
		}
		p, log := quiet()
		p.Settings = brokenSettings{}
		if err := performed(t, p, r, input(r), nothing, nil); fault.CodeOf(err) != fault.Internal || len(log.records) != 1 || log.records[0].Error != string(fault.Internal) || len(log.records[0].Asked) == 0 && len(r.asked(input(r), r.fields.of(input(r)))) > 0 {
			t.Errorf("%s: %v, %d records", r.ID, err, len(log.records))
		}
	}
}
