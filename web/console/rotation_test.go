package console

import (
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
)

// TestRotation: the old credential is out of use when the new one signs, and it has
// not for a while; not before, and not because nobody asks anything.
func TestRotation(t *testing.T) {
	now := time.Now()
	made := func(id string, active bool, used time.Duration) *appliance.Credential {
		c := &appliance.Credential{AccessKeyID: id, Active: active}
		if used > 0 {
			c.LastUsedAt = now.Add(-used)
		}
		return c
	}
	for _, tt := range []struct {
		name        string
		credentials []*appliance.Credential
		older       string
		safe, ended bool
	}{
		{"none", nil, "", false, false},
		{"one", []*appliance.Credential{made("new", true, time.Minute)}, "", false, false},
		{"the new one is not used", []*appliance.Credential{made("new", true, 0), made("old", true, time.Hour)}, "old", false, false},
		{"both are used", []*appliance.Credential{made("new", true, time.Minute), made("old", true, 2*time.Minute)}, "old", false, false},
		{"the old one is used again", []*appliance.Credential{made("new", true, time.Hour), made("old", true, 20*time.Minute)}, "old", false, false},
		{"the old one is quiet", []*appliance.Credential{made("new", true, time.Minute), made("old", true, rotationQuiet)}, "old", true, false},
		{"neither was ever used", []*appliance.Credential{made("new", true, 0), made("old", true, 0)}, "old", false, false},
		{"the old one is deactivated", []*appliance.Credential{made("new", true, time.Minute), made("old", false, time.Hour)}, "", false, true},
		{"three", []*appliance.Credential{made("new", true, time.Minute), made("old", true, time.Hour), made("oldest", true, 2*time.Minute)}, "oldest", false, false},
	} {
		r := rotationOf(tt.credentials, now)
		older := ""
		if r.older != nil {
			older = r.older.AccessKeyID
		}
		if older != tt.older || r.safe != tt.safe || r.ended != tt.ended {
			t.Errorf("%s: old %q, safe %v, ended %v", tt.name, older, r.safe, r.ended)
		}
		if tt.older != "" && !strings.Contains(r.command(), "AccessKeyId=new,") {
			t.Errorf("%s: %s", tt.name, r.command())
		}
	}
}
