package identity_test

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
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/identity"
)

// provider is an OpenID provider of the test's own: it vouches for whatever claims
// it is told, once per code, and checks PKCE.
type provider struct {
	*httptest.Server
	t         *testing.T
	key       *rsa.PrivateKey
	claims    map[string]any
	challenge string
	forge     bool // sign with another key
	// info is what the endpoint UserInfo tells; nil for an ID token that has all claims.
	info map[string]any
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{t: t}
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
		return p.info
	})
	answer("/token", func(r *http.Request) any {
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != p.challenge || r.FormValue("code") != "good" {
			return map[string]any{"error": "invalid_grant"}
		}
		return map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.token()}
	})
	return p
}

// token signs the claims (RFC 7515).
func (p *provider) token() string {
	key := p.key
	if p.forge {
		key, _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	payload, err := json.Marshal(p.claims)
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

// TestOIDC: a user whom the provider vouches for signs in, and nobody else does.
func TestOIDC(t *testing.T) {
	p := newProvider(t)
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
	})
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	if _, err := d.BindOIDC(ctx, root, a.id, "Alice@Example.com"); err != nil {
		t.Fatal(err)
	}
	good := func() map[string]any {
		return map[string]any{"iss": p.URL, "aud": "console", "sub": "1234", "email": "alice@example.com", "email_verified": true,
			"iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix()}
	}
	try := func(change func(map[string]any), code string) error {
		t.Helper()
		d.pass(time.Minute) // for the limit of attempts
		to, state, err := d.BeginOIDC(ctx)
		if err != nil {
			t.Fatal(err)
		}
		q, err := url.Parse(to)
		if err != nil || !strings.HasPrefix(to, p.URL+"/auth?") || q.Query().Get("redirect_uri") != "https://console.test/signin/oidc" || q.Query().Get("code_challenge_method") != "S256" {
			t.Fatalf("%s: %v", to, err)
		}
		p.challenge, p.claims = q.Query().Get("code_challenge"), good()
		p.claims["nonce"] = q.Query().Get("nonce")
		if change != nil {
			change(p.claims)
		}
		in, err := d.FinishOIDC(ctx, state, code, from)
		if err == nil && in.Principal.UserID != a.id {
			t.Errorf("signed in as %+v", in.Principal)
		}
		if _, again := d.FinishOIDC(ctx, state, code, from); again != identity.ErrProof {
			t.Errorf("the state once more: %v", again)
		}
		return err
	}
	if err := try(nil, "good"); err != nil {
		t.Fatalf("vouched for: %v; %s", err, d.log.String())
	}
	set := func(name string, v any) func(map[string]any) { return func(m map[string]any) { m[name] = v } }
	for name, change := range map[string]func(map[string]any){
		"nonce": set("nonce", "other"), "audience": set("aud", "another"), "issuer": set("iss", "https://evil.test"), "expired": set("exp", 1),
		"not verified": set("email_verified", false), "no e-mail": set("email", ""), "nobody's e-mail": set("email", "eve@example.com"),
		"another person, same e-mail": set("sub", "5678"),
		"forged":                      func(map[string]any) { p.forge = true },
	} {
		if err := try(change, "good"); err != identity.ErrProof {
			t.Errorf("%s: %v", name, err)
		}
		p.forge = false
	}
	// Where the ID token has no claims of scopes, the provider's endpoint has them, for this user.
	thin := func(m map[string]any) { delete(m, "email"); delete(m, "email_verified") }
	for name, tt := range map[string]struct {
		info map[string]any
		want error
	}{
		"told apart":        {map[string]any{"sub": "1234", "email": "alice@example.com", "email_verified": true}, nil},
		"of another user":   {map[string]any{"sub": "5678", "email": "alice@example.com", "email_verified": true}, identity.ErrProof},
		"not verified":      {map[string]any{"sub": "1234", "email": "alice@example.com"}, identity.ErrProof},
		"verified, as text": {map[string]any{"sub": "1234", "email": "alice@example.com", "email_verified": "yes"}, identity.ErrProof},
		"nothing":           {map[string]any{}, identity.ErrProof},
	} {
		p.info = tt.info
		if err := try(thin, "good"); err != tt.want {
			t.Errorf("UserInfo %s: %v; %s", name, err, d.log.String())
		}
	}
	if err := try(nil, "bad"); err != identity.ErrProof {
		t.Errorf("a wrong code: %v", err)
	}
	if _, err := d.FinishOIDC(ctx, "made up", "good", from); err != identity.ErrProof {
		t.Errorf("a state made up: %v", err)
	}
	if _, err := d.SetDisabled(ctx, d.enrol("b", identity.RoleAdministrator).id, false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetDisabled(ctx, a.id, true); err != nil {
		t.Fatal(err)
	}
	if err := try(nil, "good"); err != identity.ErrProof {
		t.Errorf("disabled: %v", err)
	}
}
