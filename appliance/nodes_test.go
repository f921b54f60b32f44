package appliance_test

import (
	"strings"
	"testing"

	"holdfast/appliance"
)

// TestValidNodeAddress: a node is called at HOST:PORT, and at nothing that a URL takes for
// more, or that fills the memory.
func TestValidNodeAddress(t *testing.T) {
	for _, good := range []string{"node.example:8443", "10.0.0.1:443", "[2001:db8::1]:9443", "localhost:1", "n_1:65535", strings.Repeat("a", 250) + ":65535"} {
		if !appliance.ValidNodeAddress(good) {
			t.Errorf("%s is refused", good)
		}
	}
	for _, bad := range []string{"", ":8443", "node", "node:", "node:0", "node:65536", "node:https", "node:08443", "node:+1", "user@node:1", "node:1/path", "node/path:1", "node?x:1", "node#x:1", "no de:1",
		"node\n:1", "n\u00f6de:1", "[fe80::1%eth0]:1", "fe80::1:1", "[node:1", "%6e:1", strings.Repeat("a", 255) + ":1", strings.Repeat("a.", 1<<20) + ":1"} {
		if appliance.ValidNodeAddress(bad) {
			t.Errorf("%.100q is accepted", bad)
		}
	}
}
