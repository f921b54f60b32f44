package snp

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestLaunches: each launch measurement that is known has the size of SHA-384, in lower case,
// and says of which instance type, with how many vCPUs, and when it was seen.
func TestLaunches(t *testing.T) {
	for m, seen := range launches {
		if b, err := hex.DecodeString(m); err != nil || len(b) != 48 || m != strings.ToLower(m) {
			t.Errorf("%s is no measurement", m)
		}
		if !strings.Contains(seen, "vCPUs") || !strings.Contains(seen, "20") || launchSeen(m) != seen {
			t.Errorf("%s: where it was seen: %q", m, seen)
		}
	}
	if len(launches) < 3 {
		t.Errorf("%d are known", len(launches))
	}
}
