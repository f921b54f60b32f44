package release_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/owner"
	"holdfast/attest/release"
	"holdfast/attest/snp"
)

// TestTaker: a credential is taken once, within a minute, from the owner, and only with the
// evidence that the machine gave for its challenge.
func TestTaker(t *testing.T) {
	key := func(seed byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	}
	public := key(1).Public().(ed25519.PublicKey)
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	challenge := func(by *release.Taker, nonce byte) *release.Challenge {
		t.Helper()
		c, err := by.Challenge(t.Context(), now, bytes.Repeat([]byte{nonce}, 32), func(_ context.Context, nonce, releaseKey []byte) (*attest.Evidence, error) {
			return &attest.Evidence{Format: attest.Format, Created: now, Nonce: nonce, TLSKey: []byte("key"), ReleaseKey: releaseKey, Report: snp.NewReport(snp.Evidence{Report: []byte("r"), VEK: []byte("v")})}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		text, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if c, _, err = release.ParseChallenge(text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	give := func(c *release.Challenge, by ed25519.PrivateKey) []byte {
		t.Helper()
		text, err := release.Give(c, []byte("the PIN"), []byte("approvals"), by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	this, other := release.NewTaker(), release.NewTaker()
	c := challenge(this, 1)
	good := give(c, key(1))
	if bytes.Contains(good, []byte("the PIN")) {
		t.Error("what is sent has the PIN")
	}
	// The key of another nonce's evidence, under this one's ticket.
	mixed := &release.Challenge{Evidence: challenge(this, 2).Evidence, Ticket: c.Ticket}
	// The longest PIN and approvals fit.
	longest, err := release.Give(c, make([]byte, 128), make([]byte, owner.MaxApprovals), key(1))
	if err != nil || len(longest) > owner.MaxPIN {
		t.Errorf("the longest has %d bytes, of %d: %v", len(longest), owner.MaxPIN, err)
	}
	if _, err := release.Give(c, []byte("the PIN"), make([]byte, owner.MaxApprovals+1), key(1)); err == nil {
		t.Error("longer approvals are sent")
	}
	// What opens for another key, under the right ticket, nonce and evidence.
	var given map[string]any
	payload := must(owner.OpenPIN(good, public))(t)
	if err := json.Unmarshal(payload, &given); err != nil {
		t.Fatal(err)
	}
	theirs := map[string]any{}
	if err := json.Unmarshal(must(owner.OpenPIN(give(challenge(other, 1), key(1)), public))(t), &theirs); err != nil {
		t.Fatal(err)
	}
	given["sealed"] = theirs["sealed"]
	garbled := must(json.Marshal(given))(t)
	for name, tt := range map[string]struct {
		by   *release.Taker
		at   time.Duration
		text []byte
		code fault.Code
	}{
		"another machine":       {other, 0, good, fault.PINChallenge},
		"another owner":         {this, 0, give(c, key(2)), fault.PINOwner},
		"after two minutes":     {this, 2 * time.Minute, good, fault.PINChallenge},
		"before it was given":   {this, -time.Second, good, fault.PINChallenge},
		"other evidence":        {this, 0, give(mixed, key(1)), fault.PINChallenge},
		"another's evidence":    {this, 0, give(&release.Challenge{Evidence: challenge(other, 1).Evidence, Ticket: c.Ticket}, key(1)), fault.PINChallenge},
		"another's key":         {this, 0, must(owner.SignPIN(garbled, key(1)))(t), fault.PINKey},
		"nothing":               {this, 0, nil, fault.Invalid},
		"something else signed": {this, 0, must(owner.SignPIN([]byte("{}"), key(1)))(t), fault.Invalid},
	} {
		if got, _, err := tt.by.Take(now.Add(tt.at), tt.text, public); got != nil || fault.CodeOf(err) != tt.code {
			t.Errorf("%s: got %q, %v; want %s", name, got, err, tt.code)
		}
	}
	got, approvals, err := this.Take(now.Add(30*time.Second), good, public)
	if err != nil || string(got) != "the PIN" || string(approvals) != "approvals" {
		t.Errorf("got %q, %q, %v", got, approvals, err)
	}
	if got, _, err := this.Take(now.Add(31*time.Second), good, public); got != nil || fault.CodeOf(err) != fault.PINChallenge {
		t.Errorf("a second time: %q, %v", got, err)
	}
	// The same challenge again, given anew: the ticket is used.
	if got, _, err := this.Take(now.Add(31*time.Second), give(c, key(1)), public); got != nil || fault.CodeOf(err) != fault.PINChallenge {
		t.Errorf("by a used ticket: %q, %v", got, err)
	}
}

func must(text []byte, err error) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// FuzzTake: nothing that is not the owner's is taken, and nothing makes it panic.
func FuzzTake(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signed, err := owner.SignPIN([]byte(`{"format":"holdfast-pin/v1","ticket":"","nonce":"","evidence_sha256":"","sealed":""}`), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	taker := release.NewTaker()
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, _, err := taker.Take(time.Now(), text, key.Public().(ed25519.PublicKey)); err == nil {
			t.Errorf("taken: %q", got)
		}
	})
}
