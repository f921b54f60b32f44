package xks_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
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

// FuzzStranger sends what anybody may send: no request without a signature is
// answered with anything but an error that blames it.
func FuzzStranger(f *testing.F) {
	b := xkstest.Start(f, xkstest.Options{})
	k := b.NewKeyStore(f, "demo", "/demo", xkstest.Principal)
	b.NewKey(f, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	const body = `{"requestMetadata":{"awsPrincipalArn":"` + xkstest.Principal + `","kmsOperation":"Encrypt","kmsRequestId":"r"},"plaintext":"SGVsbG8=","encryptionAlgorithm":"AES_GCM"}`
	date := time.Now().UTC().Format("20060102T150405Z")
	authorization := "AWS4-HMAC-SHA256 Credential=" + k.AccessKeyID + "/" + date[:8] + "/us-east-1/kms-xks-proxy/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=" + strings.Repeat("0", 64)
	for _, path := range []string{"/demo/kms/xks/v1/keys/k/encrypt", "/demo/kms/xks/v1/health", "/kms/xks/v1/health", "/", "//", "/demo/kms/xks/v1/keys//encrypt", "/demo/kms/xks/v1/keys/%00/metadata"} {
		for _, method := range []string{"POST", "GET", "X"} {
			f.Add(method, path, "", "", "", []byte(nil))
			f.Add(method, path, authorization, date, "application/json", []byte(body))
			f.Add(method, path, strings.Replace(authorization, "/us-east-1/", "//", 1), "", "", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, method, path, authorization, date, contentType string, body []byte) {
		r, err := http.NewRequestWithContext(t.Context(), method, k.URL, bytes.NewReader(body))
		if err != nil {
			return // no request of HTTP
		}
		r.URL.Path, r.RequestURI, r.RemoteAddr = path, path, "192.0.2.1:1234"
		if path == "/healthz" || path == "/readyz" {
			return
		}
		for name, value := range map[string]string{"Authorization": authorization, "X-Amz-Date": date, "Content-Type": contentType} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		b.API.ServeHTTP(w, r)
		if w.Code == http.StatusMethodNotAllowed && method != http.MethodPost {
			return
		}
		checkAnswer(t, path, body, w.Result(), w.Body.Bytes())
		if w.Code != http.StatusUnauthorized && w.Code != http.StatusNotFound {
			t.Fatalf("%s %q %q: answered %d %s", method, path, authorization, w.Code, w.Body)
		}
	})
}

// differing gives b with the bits of difference changed: a fuzzing process has
// other keys than the one that made the seeds, so that ciphertexts among the
// seeds would be strange to it.
func differing(b, difference []byte) []byte {
	b = bytes.Clone(b)
	for i := range min(len(b), len(difference)) {
		b[i] ^= difference[i]
	}
	return b
}

// FuzzDecrypt decrypts ciphertexts that differ from those of a key here, and
// such that are none. Only what is as it was encrypted decrypts.
func FuzzDecrypt(f *testing.F) {
	b := xkstest.Start(f, xkstest.Options{})
	k := b.NewKeyStore(f, "demo", "/demo", xkstest.Principal)
	b.NewKey(f, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(f, "demo", "h", "encrypt,decrypt", appliance.CustodyHSM)
	endpoint, err := b.Appliance.Endpoint("/demo")
	if err != nil {
		f.Fatal(err)
	}
	const plaintext, aad = "Hello", "additional authenticated data"
	sealed := map[string]*appliance.Ciphertext{}
	for _, id := range []string{"k", "h"} {
		session, err := appliancetest.Session(endpoint, k.AccessKeyID, k.SecretAccessKey, id)
		if err != nil {
			f.Fatal(err)
		}
		if sealed[id], err = session.Encrypt(f.Context(), []byte(plaintext), []byte(aad), nil); err != nil {
			f.Fatal(err)
		}
		f.Add(id, true, []byte{}, []byte{}, []byte{}, []byte{}, []byte{}) // as it was
		f.Add(id, true, []byte{1}, []byte{}, []byte{}, []byte{}, []byte{})
		f.Add(id, true, []byte{}, []byte{1}, []byte{}, []byte{}, []byte{})
		f.Add(id, true, []byte{}, []byte{}, []byte{1}, []byte{}, []byte{})
		f.Add(id, true, []byte{}, []byte{}, []byte{}, []byte{0, 0, 0, 0, 2}, []byte{}) // another version
		f.Add(id, true, []byte{}, []byte{}, []byte{}, []byte{3}, []byte{})             // another format
		f.Add(id, true, []byte{}, []byte{}, []byte{}, []byte{}, []byte{1})
		for _, n := range []int{0, 11, 12, 16, 20} { // lengths of IV, tag and metadata
			f.Add(id, false, []byte("Hello"), make([]byte, n), make([]byte, 16), []byte{1, 0, 0, 0, 1}, []byte(aad))
			f.Add(id, false, []byte("Hello"), make([]byte, 12), make([]byte, n), []byte{1, 0, 0, 0, 1}, []byte(aad))
			f.Add(id, false, []byte{}, make([]byte, 12), make([]byte, 16), bytes.Repeat([]byte{1}, n), []byte{})
		}
		f.Add(id, false, make([]byte, 70000), make([]byte, 12), make([]byte, 16), []byte{1, 0, 0, 0, 1}, make([]byte, 70000))
	}
	f.Fuzz(func(t *testing.T, id string, ours bool, ciphertext, iv, tag, metadata, a []byte) {
		if id != "h" {
			id = "k"
		}
		session, err := appliancetest.Session(endpoint, k.AccessKeyID, k.SecretAccessKey, id)
		if err != nil {
			t.Fatal(err)
		}
		c, was := &appliance.Ciphertext{Ciphertext: ciphertext, IV: iv, Tag: tag, Metadata: metadata}, sealed[id]
		if ours {
			c = &appliance.Ciphertext{Ciphertext: differing(was.Ciphertext, ciphertext), IV: differing(was.IV, iv),
				Tag: differing(was.Tag, tag), Metadata: differing(was.Metadata, metadata)}
			a = differing([]byte(aad), a)
		}
		same := bytes.Equal(c.Ciphertext, was.Ciphertext) && bytes.Equal(c.IV, was.IV) && bytes.Equal(c.Tag, was.Tag) &&
			bytes.Equal(c.Metadata, was.Metadata) && string(a) == aad
		got, err := session.Decrypt(t.Context(), c, a)
		switch code := fault.CodeOf(err); {
		case same && (err != nil || string(got) != plaintext):
			t.Fatalf("as it was encrypted: %q, %v", got, err)
		case !same && err == nil:
			t.Fatalf("%x %x %x %x %q decrypts to %q", c.Ciphertext, c.IV, c.Tag, c.Metadata, a, got)
		case !same && code != fault.Ciphertext && (code != fault.TooLarge || len(a) <= appliance.MaxAAD && len(c.Ciphertext) <= appliance.MaxData):
			t.Fatalf("%x %x %x %x: %v", c.Ciphertext, c.IV, c.Tag, c.Metadata, err)
		}
	})
}
