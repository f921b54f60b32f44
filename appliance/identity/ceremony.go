package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// ceremonyTime is how long a ceremony may take.
const ceremonyTime = 5 * time.Minute

// Ceremony is one that a browser has to go on with.
type Ceremony struct {
	// ID goes back with the answer. It has all that this side has to know, sealed: any
	// unlocked node takes it.
	ID string `json:"ceremony" jsonschema:"The ceremony. Send it back with the authenticator's answer."`
	// Options are for navigator.credentials.create or get, as JSON (WebAuthn Level 3
	// section 5.1.8 and 5.1.9), with the member publicKey.
	Options json.RawMessage `json:"options" jsonschema:"What to give navigator.credentials.create or get, as JSON (WebAuthn Level 3), with the member publicKey."`
}

// ceremony is what the browser carries, sealed, from the beginning to the end. Which are
// set depends on its kind.
type ceremony struct {
	ID       string                `json:"id"` // by which it is used up
	Expires  time.Time             `json:"expires"`
	Passkey  *webauthn.SessionData `json:"passkey,omitempty"`
	Nonce    string                `json:"nonce,omitempty"`    // of OIDC
	Verifier string                `json:"verifier,omitempty"` // PKCE's

	ofProcess bool // no other node can open it
}

// ceremonyBinding says what a ceremony is for, and whose it is.
func ceremonyBinding(purpose string) appliance.Binding {
	return appliance.Binding{Purpose: "ceremony", Fields: []string{purpose}}
}

// beginCeremony seals one for the browser.
func (d *Directory) beginCeremony(purpose string, c ceremony) (string, error) {
	c.ID, c.Expires = newID(), d.stamp().Add(ceremonyTime)
	text, err := json.Marshal(&c)
	if err != nil {
		return "", err
	}
	sealed, err := d.rows.carry(ceremonyBinding(purpose), text)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// openCeremony opens one with that purpose, and says whether it could. Before what it proves
// counts, it must be used up ([Directory.useCeremony]): until then anybody may try, as what is
// not right uses nothing up.
func (d *Directory) openCeremony(id, purpose string) (*ceremony, bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		return nil, false
	}
	text, ofProcess, err := d.rows.carried(ceremonyBinding(purpose), sealed)
	if err != nil {
		return nil, false
	}
	c := &ceremony{}
	if json.Unmarshal(text, c) != nil || !d.Now().Before(c.Expires) {
		return nil, false
	}
	c.ofProcess = ofProcess
	return c, true
}

// useCeremony uses one up, on all nodes. fault.Exists if that was done before.
func (d *Directory) useCeremony(ctx context.Context, c *ceremony) error {
	return d.rows.spend(ctx, Spent{ID: "ceremony " + c.ID, At: d.stamp(), ExpiresAt: c.Expires}, c.ofProcess)
}

// usedBefore says whether an error is that of a ceremony that was used before.
func usedBefore(err error) bool { return fault.CodeOf(err) == fault.Exists }
