// Package passkeytest is an authenticator in software, for tests: users enrol and sign in by its
// passkeys, as they do in a browser. A passkey takes a signature where a password takes argon2id,
// so that tests of other things than passwords have their users enrol by it.
package passkeytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"testing"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"

	"holdfast/appliance/identity"
)

// Authenticator has one passkey (WebAuthn Level 3 section 6), and verifies its user.
type Authenticator struct {
	t      testing.TB
	origin string
	key    *ecdsa.PrivateKey
	id     []byte
	user   string // the handle
	count  uint32
}

// New makes one for the console at an origin, such as "https://console.test".
func New(t testing.TB, origin string) *Authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &Authenticator{t: t, origin: origin, key: key, id: id}
}

// Enrol accepts an invitation by a new passkey, "laptop". It gives the session that begins, and the
// authenticator for more.
func Enrol(t testing.TB, users *identity.Directory, invitation string, from identity.Client) (identity.SignedIn, *Authenticator) {
	t.Helper()
	a := New(t, users.URL)
	c, err := users.BeginEnrolPasskey(t.Context(), invitation, from)
	if err != nil {
		t.Fatal(err)
	}
	in, err := users.FinishEnrolPasskey(t.Context(), invitation, c.ID, "laptop", a.Create(c), from)
	if err != nil {
		t.Fatal(err)
	}
	return in, a
}

// SignIn begins another session of the user.
func (a *Authenticator) SignIn(users *identity.Directory, from identity.Client) identity.SignedIn {
	a.t.Helper()
	c, err := users.BeginPasskey(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	in, err := users.FinishPasskey(a.t.Context(), c.ID, a.Get(c), from)
	if err != nil {
		a.t.Fatal(err)
	}
	return in
}

var b64 = base64.RawURLEncoding.EncodeToString

// data is the authenticator's data (section 6.1): present, verified, and with a new key.
func (a *Authenticator) data(flags byte, more ...byte) []byte {
	a.t.Helper()
	u, err := url.Parse(a.origin)
	if err != nil {
		a.t.Fatal(err)
	}
	party := sha256.Sum256([]byte(u.Hostname()))
	a.count++
	out := append(party[:], flags)
	return append(binary.BigEndian.AppendUint32(out, a.count), more...)
}

func (a *Authenticator) clientData(kind, challenge string) []byte {
	text, _ := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": a.origin, "crossOrigin": false})
	return text
}

type options struct {
	PublicKey struct {
		Challenge string `json:"challenge"`
		User      struct {
			ID string `json:"id"`
		} `json:"user"`
	} `json:"publicKey"`
}

func (a *Authenticator) options(c identity.Ceremony) options {
	a.t.Helper()
	var o options
	if err := json.Unmarshal(c.Options, &o); err != nil {
		a.t.Fatal(err)
	}
	return o
}

// Create answers navigator.credentials.create, in JSON (PublicKeyCredential.toJSON).
func (a *Authenticator) Create(c identity.Ceremony) []byte {
	a.t.Helper()
	o := a.options(c)
	handle, err := base64.RawURLEncoding.DecodeString(o.PublicKey.User.ID)
	if err != nil {
		a.t.Fatal(err)
	}
	a.user = string(handle)
	key, err := webauthncbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: a.key.X.FillBytes(make([]byte, 32)), -3: a.key.Y.FillBytes(make([]byte, 32))})
	if err != nil {
		a.t.Fatal(err)
	}
	attested := append(make([]byte, 16), 0, byte(len(a.id)))
	attested = append(append(attested, a.id...), key...)
	object, err := webauthncbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": a.data(0x45, attested...)})
	if err != nil {
		a.t.Fatal(err)
	}
	return a.answer(map[string]any{"attestationObject": b64(object), "clientDataJSON": b64(a.clientData("webauthn.create", o.PublicKey.Challenge))})
}

// Get answers navigator.credentials.get, likewise.
func (a *Authenticator) Get(c identity.Ceremony) []byte {
	a.t.Helper()
	client := a.clientData("webauthn.get", a.options(c).PublicKey.Challenge)
	data := a.data(0x05)
	hash := sha256.Sum256(client)
	sum := sha256.Sum256(append(data[:len(data):len(data)], hash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return a.answer(map[string]any{"authenticatorData": b64(data), "clientDataJSON": b64(client), "signature": b64(signature), "userHandle": b64([]byte(a.user))})
}

func (a *Authenticator) answer(response map[string]any) []byte {
	a.t.Helper()
	text, err := json.Marshal(map[string]any{"id": b64(a.id), "rawId": b64(a.id), "type": "public-key", "response": response})
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}
