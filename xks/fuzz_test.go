package xks_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// statusCodes is the specification's table "Error codes".
var statusCodes = map[string]int{
	"ValidationException": 400, "InvalidStateException": 400, "InvalidCiphertextException": 400, "InvalidKeyUsageException": 400,
	"AuthenticationFailedException": 401, "AccessDeniedException": 403, "KeyNotFoundException": 404, "InvalidUriPathException": 404,
	"UnsupportedOperationException": 501,
}

// checkAnswer holds an answer against what every answer to foreign bytes must
// be: success, or an error that blames the request.
func checkAnswer(t *testing.T, path string, body []byte, r *http.Response, text []byte) {
	t.Helper()
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%q %q: the answer %q is no JSON object", path, body, text)
	}
	if r.StatusCode == http.StatusOK {
		return
	}
	name, _ := answer["errorName"].(string)
	if want, ok := statusCodes[name]; !ok || r.StatusCode != want {
		t.Fatalf("%q %q: answered %d %s", path, body, r.StatusCode, text)
	}
	message, _ := answer["errorMessage"].(string)
	if len(message) >= 512 || strings.ContainsFunc(message, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Fatalf("%q %q: the message %q is not short printable ASCII", path, body, message)
	}
}

// FuzzRequest sends signed requests of any path and body: those of a client
// with a credential, whose bytes are as foreign as a stranger's.
func FuzzRequest(f *testing.F) {
	b := xkstest.Start(f, xkstest.Options{})
	k := b.NewKeyStore(f, "demo", "/demo", xkstest.Principal)
	b.NewKey(f, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	add := func(path string, body xkstest.Body) {
		text, err := json.Marshal(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, text)
	}
	encrypt := xkstest.EncryptBody("Hello").With("additionalAuthenticatedData", []byte("aad")).With("ciphertextDataIntegrityValueAlgorithm", "SHA_256")
	sealed := k.OK("/keys/k/encrypt", encrypt)
	add("/demo/kms/xks/v1/keys/k/encrypt", encrypt)
	add("/demo/kms/xks/v1/keys/k/decrypt", xkstest.DecryptBody(sealed))
	add("/demo/kms/xks/v1/keys/k/decrypt", xkstest.DecryptBody(sealed).With("ciphertextMetadata", []byte{1, 0, 0, 0, 9}).With("initializationVector", make([]byte, 16)))
	add("/demo/kms/xks/v1/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	add("/demo/kms/xks/v1/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	f.Add("//kms/xks/v1/keys/%2e%2e/encrypt", []byte(`{"plaintext":"\u0000"}`))

	f.Fuzz(func(t *testing.T, path string, body []byte) {
		u, err := url.Parse(k.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = path
		if !strings.HasPrefix(path, "/") {
			u.Path = "/" + path
		}
		if u.Path == "/healthz" || u.Path == "/readyz" {
			return
		}
		r := httptest.NewRequest(http.MethodPost, u.String(), bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		k := *k
		k.T = t
		k.Sign(r, string(body))
		w := httptest.NewRecorder()
		b.API.ServeHTTP(w, r)
		checkAnswer(t, u.Path, body, w.Result(), w.Body.Bytes())
	})
}

// FuzzDecrypt decrypts what no key here has encrypted, but for the seed.
func FuzzDecrypt(f *testing.F) {
	b := xkstest.Start(f, xkstest.Options{})
	b.NewKeyStore(f, "demo", "/demo", xkstest.Principal)
	b.NewKey(f, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(f, "demo", "h", "encrypt,decrypt", appliance.CustodyHSM)
	endpoint, err := b.Appliance.Endpoint("/demo")
	if err != nil {
		f.Fatal(err)
	}
	const plaintext = "Hello"
	for _, id := range []string{"k", "h"} {
		key, err := endpoint.Key(f.Context(), id)
		if err != nil {
			f.Fatal(err)
		}
		c, err := key.Encrypt(f.Context(), []byte(plaintext), []byte("aad"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(id, c.Ciphertext, c.IV, c.Tag, c.Metadata, []byte("aad"))
	}
	f.Fuzz(func(t *testing.T, id string, ciphertext, iv, tag, metadata, aad []byte) {
		if id != "h" {
			id = "k"
		}
		key, err := endpoint.Key(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		c := &appliance.Ciphertext{Ciphertext: ciphertext, IV: iv, Tag: tag, Metadata: metadata}
		got, err := key.Decrypt(t.Context(), c, aad)
		switch code := appliance.CodeOf(err); {
		case err == nil && string(got) == plaintext && string(aad) == "aad":
		case err == nil:
			t.Fatalf("%x %x %x %x %q decrypts to %q", ciphertext, iv, tag, metadata, aad, got)
		case code != appliance.CodeCiphertext && code != appliance.CodeTooLarge:
			t.Fatalf("%x %x %x %x: %v", ciphertext, iv, tag, metadata, err)
		}
	})
}
