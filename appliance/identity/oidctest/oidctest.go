// Package oidctest is an OpenID provider for tests.
package oidctest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Provider is an OpenID provider on this machine: it vouches for whatever claims it is told, for
// the code "good", and checks PKCE.
type Provider struct {
	*httptest.Server
	t   testing.TB
	key *rsa.PrivateKey
	// Claims are those of the ID token, Challenge that of PKCE (RFC 7636) in the request.
	Claims    map[string]any
	Challenge string
	Forge     bool // sign with another key
	// Info is what the endpoint UserInfo tells; nil for an ID token that has all claims.
	Info map[string]any
}

// New starts one, which ends with the test.
func New(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{t: t}
	var err error
	if p.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	answer := func(path string, body func(r *http.Request) any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body(r))
		})
	}
	answer("/.well-known/openid-configuration", func(*http.Request) any {
		return map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys", "userinfo_endpoint": p.URL + "/userinfo",
			"id_token_signing_alg_values_supported": []string{"RS256"}}
	})
	answer("/keys", func(*http.Request) any {
		b64 := base64.RawURLEncoding.EncodeToString
		return map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": b64(p.key.N.Bytes()), "e": b64(big.NewInt(int64(p.key.E)).Bytes())}}}
	})
	answer("/userinfo", func(r *http.Request) any {
		if r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("UserInfo was asked by %q", r.Header.Get("Authorization"))
		}
		return p.Info
	})
	answer("/token", func(r *http.Request) any {
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != p.Challenge || r.FormValue("code") != "good" {
			return map[string]any{"error": "invalid_grant"}
		}
		return map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.token()}
	})
	return p
}

// token signs the claims (RFC 7515).
func (p *Provider) token() string {
	key := p.key
	if p.Forge {
		key, _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	payload, err := json.Marshal(p.Claims)
	if err != nil {
		p.t.Error(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(payload)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		p.t.Error(err)
	}
	return signed + "." + b64(signature)
}
