package keyring_test

import (
	"bytes"
	"testing"

	"holdfast/appliance/fault"
)

// TestPeerKey: the key of a fleet's nodes is that of one log of the installation, and gives nothing that
// matches once it is wiped, or while the keyring is locked.
func TestPeerKey(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	one, err := k.PeerKey("one", "log")
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.PeerKey("one", "log")
	if err != nil {
		t.Fatal(err)
	}
	two, err := k.PeerKey("two", "log")
	if err != nil {
		t.Fatal(err)
	}
	later, err := k.PeerKey("one", "another log")
	if err != nil {
		t.Fatal(err)
	}
	mac := one.MAC([]byte("x"))
	if len(mac) != 32 || !bytes.Equal(mac, again.MAC([]byte("x"))) || bytes.Equal(mac, one.MAC([]byte("y"))) || bytes.Equal(mac, two.MAC([]byte("x"))) || bytes.Equal(mac, later.MAC([]byte("x"))) {
		t.Error("the MAC is not of the installation, its log and the message")
	}
	one.Wipe()
	one.Wipe()
	if bytes.Equal(mac, one.MAC([]byte("x"))) || bytes.Equal(one.MAC([]byte("x")), one.MAC([]byte("x"))) {
		t.Error("a wiped key gives something that matches")
	}
	if !bytes.Equal(mac, again.MAC([]byte("x"))) {
		t.Error("another copy was wiped with it")
	}
	k.Lock()
	_, err = k.PeerKey("one", "log")
	wantCode(t, "locked", err, fault.Locked)
}
