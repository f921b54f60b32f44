package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"

	"holdfast/appliance/identity"
)

// authenticator is a passkey in software (WebAuthn Level 3 section 6).
type authenticator struct {
	t     *testing.T
	key   *ecdsa.PrivateKey
	id    []byte
	user  string // the handle
	count uint32
}

func newAuthenticator(t *testing.T) *authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &authenticator{t: t, key: key, id: id}
}

var b64 = base64.RawURLEncoding.EncodeToString

// data is the authenticator's data (section 6.1): present, verified, and with a new key.
func (a *authenticator) data(flags byte, more ...byte) []byte {
	party := sha256.Sum256([]byte("console.test"))
	a.count++
	out := append(party[:], flags)
	return append(binary.BigEndian.AppendUint32(out, a.count), more...)
}

func clientData(kind, challenge string) []byte {
	text, _ := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": "https://console.test", "crossOrigin": false})
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

func (a *authenticator) options(c identity.Ceremony) options {
	a.t.Helper()
	var o options
	if err := json.Unmarshal(c.Options, &o); err != nil {
		a.t.Fatal(err)
	}
	return o
}

// create answers navigator.credentials.create.
func (a *authenticator) create(c identity.Ceremony) []byte {
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
	return a.answer(map[string]any{"attestationObject": b64(object), "clientDataJSON": b64(clientData("webauthn.create", o.PublicKey.Challenge))})
}

// get answers navigator.credentials.get.
func (a *authenticator) get(c identity.Ceremony) []byte {
	a.t.Helper()
	client := clientData("webauthn.get", a.options(c).PublicKey.Challenge)
	data := a.data(0x05)
	hash := sha256.Sum256(client)
	sum := sha256.Sum256(append(data[:len(data):len(data)], hash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return a.answer(map[string]any{"authenticatorData": b64(data), "clientDataJSON": b64(client), "signature": b64(signature), "userHandle": b64([]byte(a.user))})
}

func (a *authenticator) answer(response map[string]any) []byte {
	a.t.Helper()
	text, err := json.Marshal(map[string]any{"id": b64(a.id), "rawId": b64(a.id), "type": "public-key", "response": response})
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}
