package xks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm/hsmtest"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

// newDemo runs an appliance with a key store "demo" and a key "k".
func newDemo(t *testing.T, o xkstest.Options) (*xkstest.Bed, *xkstest.KMS) {
	t.Helper()
	b := xkstest.Start(t, o)
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	return b, k
}

// TestFourOperations: over HTTP/1.1 and HTTP/2, signed by the AWS SDK and by
// curl, in both custodies, with every usage.
func TestFourOperations(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		for _, usage := range []string{"encrypt,decrypt", "encrypt", "decrypt", "none"} {
			b.NewKey(t, "demo", string(custody)+"-"+strings.ReplaceAll(usage, ",", "-"), usage, custody)
		}
	}
	for version := 1; version <= 2; version++ {
		for client, c := range map[string]*http.Client{"sdk": b.HTTP(version), "curl": curlClient(t, b, k, version)} {
			k := *k
			k.HTTP = c
			if got := k.Call("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}).Proto; got != fmt.Sprintf("HTTP/%d.%d", version, 2-version) {
				t.Fatalf("HTTP version %d speaks %s", version, got)
			}
			for _, custody := range []string{"cached", "hsm"} {
				t.Run(fmt.Sprintf("%s/http%d/%s", client, version, custody), func(t *testing.T) {
					operations(t, &k, custody)
				})
			}
		}
	}
}

func operations(t *testing.T, k *xkstest.KMS, custody string) {
	metadata := xkstest.Body{"requestMetadata": xkstest.Metadata()}

	h := k.OK("/health", metadata)
	if h["xksProxyFleetSize"] != float64(1) || h["xksProxyVendor"] == "" || h["xksProxyModel"] == "" || h["ekmVendor"] == "" {
		t.Errorf("health: %v", h)
	}
	details := h["ekmFleetDetails"].([]any)
	if d := details[0].(map[string]any); len(details) != 1 || d["id"] == "" || d["model"] == "" || d["healthStatus"] != "ACTIVE" {
		t.Errorf("health: %v", details)
	}

	for usage, want := range map[string]string{"encrypt-decrypt": "[ENCRYPT DECRYPT]", "encrypt": "[ENCRYPT]", "decrypt": "[DECRYPT]", "none": "[]"} {
		m := k.OK("/keys/"+custody+"-"+usage+"/metadata", metadata)
		if m["keySpec"] != "AES_256" || m["keyStatus"] != "ENABLED" || fmt.Sprint(m["keyUsage"]) != want {
			t.Errorf("metadata of %s: %v", usage, m)
		}
	}

	const plaintext = "Hello World!"
	aad := []byte("project=nile,department=marketing")
	both, encryptOnly, decryptOnly, none := "/keys/"+custody+"-encrypt-decrypt", "/keys/"+custody+"-encrypt", "/keys/"+custody+"-decrypt", "/keys/"+custody+"-none"
	body := xkstest.EncryptBody(plaintext).With("additionalAuthenticatedData", aad).With("ciphertextDataIntegrityValueAlgorithm", "SHA_256")
	sealed := k.OK(both+"/encrypt", body)
	if len(sealed.Bytes(t, "ciphertext")) != len(plaintext) || len(sealed.Bytes(t, "initializationVector")) != 12 ||
		len(sealed.Bytes(t, "authenticationTag")) != 16 || len(sealed.Bytes(t, "ciphertextMetadata")) > 20 {
		t.Errorf("encrypt: %v", sealed)
	}
	if want := cdiv(t, aad, sealed); !bytes.Equal(sealed.Bytes(t, "ciphertextDataIntegrityValue"), want) {
		t.Errorf("CDIV %v, want %x", sealed["ciphertextDataIntegrityValue"], want)
	}
	if again := k.OK(both+"/encrypt", body); again["initializationVector"] == sealed["initializationVector"] {
		t.Error("two encryptions have one IV")
	}
	opened := k.OK(both+"/decrypt", xkstest.DecryptBody(sealed).With("additionalAuthenticatedData", aad))
	if string(opened.Bytes(t, "plaintext")) != plaintext {
		t.Errorf("decrypt: %v", opened)
	}
	if _, ok := k.OK(both+"/encrypt", xkstest.EncryptBody(plaintext))["ciphertextDataIntegrityValue"]; ok {
		t.Error("a CDIV that was not asked for")
	}

	plain := xkstest.EncryptBody(plaintext)
	onlyEncrypted := k.OK(encryptOnly+"/encrypt", plain)
	k.Fails(encryptOnly+"/encrypt", body, 400, "InvalidKeyUsageException") // CDIV needs decryption
	k.Fails(encryptOnly+"/decrypt", xkstest.DecryptBody(onlyEncrypted), 400, "InvalidKeyUsageException")
	k.Fails(decryptOnly+"/encrypt", plain, 400, "InvalidKeyUsageException")
	k.Fails(decryptOnly+"/decrypt", xkstest.DecryptBody(sealed), 400, "InvalidCiphertextException")
	k.Fails(none+"/encrypt", plain, 400, "InvalidKeyUsageException")
	k.Fails(none+"/decrypt", xkstest.DecryptBody(sealed), 400, "InvalidKeyUsageException")
}

// TestDecryptOnlyKeyDecrypts: with a key imported twice under two usages.
func TestDecryptOnlyKeyDecrypts(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	material := bytes.Repeat([]byte{7}, 32)
	for id, u := range map[string]appliance.Usage{"one-way": {Encrypt: true}, "other-way": {Decrypt: true}} {
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			_, err := b.Appliance.CreateKey(context.Background(), "demo",
				appliance.NewExternalKey{ID: id + "-" + string(custody), Usage: u, Custody: custody, Material: bytes.Clone(material)})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	sealed := k.OK("/keys/one-way-cached/encrypt", xkstest.EncryptBody("there"))
	for _, key := range []string{"other-way-cached", "other-way-hsm"} {
		if got := k.OK("/keys/"+key+"/decrypt", xkstest.DecryptBody(sealed)).Bytes(t, "plaintext"); string(got) != "there" {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// TestLimits: what every proxy must take is taken, all at once, and what is
// more is refused as unsupported (spec, Encrypt).
func TestLimits(t *testing.T) {
	_, k := newDemo(t, xkstest.Options{})
	arn := "arn:aws:iam::123456789012:user/" + strings.Repeat("x", 2048-31)
	plaintext := strings.Repeat("p", 4300)
	aad := bytes.Repeat([]byte("a"), 8192)
	m := xkstest.Metadata().With("kmsKeyArn", arn)
	body := xkstest.EncryptBody(plaintext).With("additionalAuthenticatedData", aad).With("requestMetadata", m).With("ciphertextDataIntegrityValueAlgorithm", "SHA_256")
	sealed := k.OK("/keys/k/encrypt", body)
	opened := k.OK("/keys/k/decrypt", xkstest.DecryptBody(sealed).With("additionalAuthenticatedData", aad).With("requestMetadata", m))
	if string(opened.Bytes(t, "plaintext")) != plaintext {
		t.Error("another plaintext came back")
	}

	k.Fails("/keys/k/encrypt", xkstest.EncryptBody(plaintext+"p"), 501, "UnsupportedOperationException")
	k.Fails("/keys/k/encrypt", body.With("additionalAuthenticatedData", append(aad, 'a')), 501, "UnsupportedOperationException")
	k.Fails("/keys/k/decrypt", xkstest.DecryptBody(sealed).With("ciphertext", make([]byte, 4301)), 501, "UnsupportedOperationException")
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody(strings.Repeat("p", 1<<20)), 501, "UnsupportedOperationException")
}

// TestDecryptRefuses: every change of any part.
func TestDecryptRefuses(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	b.NewKey(t, "demo", "other", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "in-token", "encrypt,decrypt", appliance.CustodyHSM)
	for _, key := range []string{"k", "in-token"} {
		t.Run(key, func(t *testing.T) {
			path := "/keys/" + key + "/decrypt"
			aad := []byte("context")
			sealed := k.OK("/keys/"+key+"/encrypt", xkstest.EncryptBody("secret text").With("additionalAuthenticatedData", aad))
			good := xkstest.DecryptBody(sealed).With("additionalAuthenticatedData", aad)
			k.OK(path, good)
			ct, tag, iv, md := sealed.Bytes(t, "ciphertext"), sealed.Bytes(t, "authenticationTag"), sealed.Bytes(t, "initializationVector"), sealed.Bytes(t, "ciphertextMetadata")
			flip := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
			const invalid = "InvalidCiphertextException"
			tests := map[string]struct {
				body xkstest.Body
				want string
			}{
				"ciphertext changed":          {good.With("ciphertext", flip(ct)), invalid},
				"tag changed":                 {good.With("authenticationTag", flip(tag)), invalid},
				"IV changed":                  {good.With("initializationVector", flip(iv)), invalid},
				"AAD changed":                 {good.With("additionalAuthenticatedData", flip(aad)), invalid},
				"AAD missing":                 {good.With("additionalAuthenticatedData", nil), invalid},
				"metadata missing":            {good.With("ciphertextMetadata", nil), invalid},
				"metadata of another version": {good.With("ciphertextMetadata", append(bytes.Clone(md[:4]), 2)), invalid},
				"metadata of another format":  {good.With("ciphertextMetadata", append([]byte{9}, md[1:]...)), invalid},
				"metadata moved to AAD":       {good.With("ciphertextMetadata", nil).With("additionalAuthenticatedData", append(bytes.Clone(aad), md...)), invalid},
				"metadata longer":             {good.With("ciphertextMetadata", append(bytes.Clone(md), 0)), invalid},
				"metadata of 21 bytes":        {good.With("ciphertextMetadata", make([]byte, 21)), "ValidationException"},
				"tag of 15 bytes":             {good.With("authenticationTag", tag[:15]), invalid},
				"tag of 12 bytes":             {good.With("authenticationTag", tag[:12]), invalid},
				"tag of 17 bytes":             {good.With("authenticationTag", append(bytes.Clone(tag), 0)), invalid},
				"tag empty":                   {good.With("authenticationTag", []byte{}), invalid},
				"boundary moved left":         {good.With("ciphertext", ct[:len(ct)-1]).With("authenticationTag", append([]byte{ct[len(ct)-1]}, tag...)), invalid},
				"boundary moved right":        {good.With("ciphertext", append(bytes.Clone(ct), tag[0])).With("authenticationTag", tag[1:]), invalid},
				"IV of 11 bytes":              {good.With("initializationVector", iv[:11]), invalid},
				"IV of 13 bytes":              {good.With("initializationVector", append(bytes.Clone(iv), 0)), invalid},
				"IV of 16 bytes":              {good.With("initializationVector", append(bytes.Clone(iv), 0, 0, 0, 0)), invalid},
				"IV empty":                    {good.With("initializationVector", []byte{}), invalid},
			}
			for name, tt := range tests {
				t.Run(name, func(t *testing.T) {
					k := *k
					k.T = t
					k.Fails(path, tt.body, 400, tt.want)
				})
			}
			k.Fails("/keys/other/decrypt", good, 400, invalid)
		})
	}
}

// TestValidation: requests that are not of the form.
func TestValidation(t *testing.T) {
	_, k := newDemo(t, xkstest.Options{})
	encrypt := xkstest.EncryptBody("x")
	decrypt := xkstest.DecryptBody(k.OK("/keys/k/encrypt", encrypt))
	type test struct {
		path string
		body any
	}
	tests := map[string]test{}
	for name, t := range map[string]struct {
		path   string
		body   xkstest.Body
		needed []string
	}{
		"encrypt":  {"/keys/k/encrypt", encrypt, []string{"awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"}},
		"decrypt":  {"/keys/k/decrypt", decrypt, []string{"awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"}},
		"metadata": {"/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}, []string{"awsPrincipalArn", "kmsOperation", "kmsRequestId"}},
		"health":   {"/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, []string{"kmsOperation", "kmsRequestId"}},
	} {
		tests[name+" without requestMetadata"] = test{t.path, t.body.With("requestMetadata", nil)}
		tests[name+" with empty requestMetadata"] = test{t.path, t.body.With("requestMetadata", xkstest.Body{})}
		tests[name+" with requestMetadata of another type"] = test{t.path, t.body.With("requestMetadata", "yes")}
		tests[name+" without body"] = test{t.path, ""}
		tests[name+" with another JSON type"] = test{t.path, "[]"}
		tests[name+" with null"] = test{t.path, "null"}
		tests[name+" that is not JSON"] = test{t.path, "{"}
		tests[name+" with more behind it"] = test{t.path, `{"requestMetadata":{}} {}`}
		for _, field := range t.needed {
			tests[name+" without "+field] = test{t.path, t.body.With("requestMetadata", xkstest.Metadata().With(field, nil))}
			tests[name+" with a number for "+field] = test{t.path, t.body.With("requestMetadata", xkstest.Metadata().With(field, 7))}
		}
	}
	for field := range encrypt {
		if field != "requestMetadata" {
			tests["encrypt without "+field] = test{"/keys/k/encrypt", encrypt.With(field, nil)}
			tests["encrypt with a number for "+field] = test{"/keys/k/encrypt", encrypt.With(field, 7)}
		}
	}
	for field := range decrypt {
		if field != "requestMetadata" && field != "ciphertextMetadata" {
			tests["decrypt without "+field] = test{"/keys/k/decrypt", decrypt.With(field, nil)}
		}
		if field != "requestMetadata" {
			tests["decrypt with a number for "+field] = test{"/keys/k/decrypt", decrypt.With(field, 7)}
		}
	}
	for what, text := range map[string]string{"no Base64": "!!!!", "no padding": "SGVsbG8", "the URL alphabet": "__--", "a line break": "SGVs\nbG8=", "loose bits": "SGVsbG9="} {
		tests["plaintext with "+what] = test{"/keys/k/encrypt", encrypt.With("plaintext", text)}
		tests["AAD with "+what] = test{"/keys/k/encrypt", encrypt.With("additionalAuthenticatedData", text)}
	}
	tests["other algorithm"] = test{"/keys/k/encrypt", encrypt.With("encryptionAlgorithm", "AES_CBC")}
	tests["other algorithm for decryption"] = test{"/keys/k/decrypt", decrypt.With("encryptionAlgorithm", "AES_CBC")}
	tests["other CDIV algorithm"] = test{"/keys/k/encrypt", encrypt.With("ciphertextDataIntegrityValueAlgorithm", "SHA_1")}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := *k
			k.T = t
			k.Fails(tt.path, tt.body, 400, "ValidationException")
		})
	}
}

// TestTolerates: what KMS may send that the specification does not know yet.
func TestTolerates(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{XKS: xks.Options{LogAll: true}})
	for name, m := range map[string]xkstest.Body{
		"unknown field":               xkstest.Metadata().With("awsSourceIdentity", "x").With("kmsRecipientAttestationPCR0", []string{"a"}),
		"unknown operation":           xkstest.Metadata().With("kmsOperation", "BulkEncrypt"),
		"odd request ID":              xkstest.Metadata().With("kmsRequestId", "not a UUID \u00e4 \"quoted\"\n"),
		"empty request ID":            xkstest.Metadata().With("kmsRequestId", ""),
		"VPC and service":             xkstest.Metadata().With("awsSourceVpc", "vpc-1").With("awsSourceVpce", "vpce-1").With("kmsViaService", "ebs"),
		"no kmsKeyArn":                xkstest.Metadata().With("kmsKeyArn", nil),
		"null where it may be absent": xkstest.Metadata().With("kmsViaService", nil),
	} {
		t.Run(name, func(t *testing.T) {
			k := *k
			k.T = t
			k.OK("/keys/k/metadata", xkstest.Body{"requestMetadata": m, "futureField": true})
		})
	}
	if !strings.Contains(b.Log.String(), `kms_request_id="not a UUID ä \"quoted\"\n"`) {
		t.Error("the request ID is not in the log, escaped")
	}
	k.OK("/keys/k/encrypt", strings.Replace(`{"requestMetadata":{"awsPrincipalArn":"@","kmsKeyArn":"a","kmsOperation":"o","kmsRequestId":"r"},"plaintext":"\/\/\/\/","encryptionAlgorithm":"AES_GCM"}`, "@", xkstest.Principal, 1))
}

// TestRouting: 404 and 405, from every layer in JSON.
func TestRouting(t *testing.T) {
	_, k := newDemo(t, xkstest.Options{})
	body := xkstest.EncryptBody("x")
	do := func(method, url string) xkstest.Answer {
		r, err := http.NewRequest(method, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		k.Sign(r, "{}")
		return k.Do(r)
	}
	base := k.URL + "/kms/xks/v1"
	for _, path := range []string{"/health", "/keys/k/metadata", "/keys/k/encrypt", "/keys/k/decrypt"} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			a := do(method, base+path)
			if a.Status != 405 || a.ErrorName() == "" || a.Header.Get("Allow") != "POST" || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %d %v %s", method, path, a.Status, a.Header, a.Text)
			}
		}
	}
	host := strings.TrimSuffix(k.URL, "/demo")
	for _, url := range []string{
		host + "/", host + "/demo", host + "/kms/xks/v1/health", host + "/unknown/kms/xks/v1/health", host + "/demo/more/kms/xks/v1/health",
		base, base + "/", base + "/health/", base + "/other", base + "/keys/k", base + "/keys/k/", base + "/keys/k/wrap", base + "/keys//encrypt",
		base + "/keys/k%2Fx/encrypt", base + "/keys/a%20b/encrypt", base + "//keys/k/encrypt", base + "/keys/" + strings.Repeat("x", 129) + "/encrypt",
		host + "/demo/kms/xks/v2/health", host + "/DEMO/kms/xks/v1/health", base + "/keys/k/../k/encrypt",
		base + "/keys/%2e%2e/encrypt", base + "/keys/%2E/encrypt", base + "/keys/%6b/encrypt", base + "/keys/k%2e/encrypt", base + "/keys/k%00/encrypt",
		base + "/%6beys/k/encrypt", base + "/keys/k/%65ncrypt", host + "/%64emo/kms/xks/v1/health", base + "/keys/k;v=1/encrypt", base + "/keys/%ef%bd%8b/encrypt", base + "/keys/k%c2%ad/encrypt",
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			if a := do(method, url); a.Status != 404 || a.ErrorName() != "InvalidUriPathException" || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %d %s", method, url, a.Status, a.Text)
			}
		}
	}
	for _, id := range []string{"absent", "k.", "k..", "..k", ".", "..", "...", "K"} {
		k.Fails("/keys/"+id+"/encrypt", body, 404, "KeyNotFoundException")
	}
	k.Fails("/keys/absent/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 404, "KeyNotFoundException")
}

// TestAuthentication: each flaw gives the same answer, whatever it is.
func TestAuthentication(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	other := b.NewKeyStore(t, "other", "/other", "")
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	requests := map[string]func() *http.Request{
		"wrong secret": func() *http.Request { k := *k; k.SecretAccessKey += "x"; return k.Request("/health", body) },
		"unknown access key ID": func() *http.Request {
			k := *k
			k.AccessKeyID = "AAAAAAAAAAAAAAAAAAAAAAAA"
			return k.Request("/health", body)
		},
		"credential of another key store": func() *http.Request {
			k := *k
			k.AccessKeyID, k.SecretAccessKey = other.AccessKeyID, other.SecretAccessKey
			return k.Request("/health", body)
		},
		"service of the seed": func() *http.Request { k := *k; k.Service = "xks-kms"; return k.Request("/health", body) },
		"expired": func() *http.Request {
			k := *k
			k.Now = func() time.Time { return time.Now().Add(-6 * time.Minute) }
			return k.Request("/health", body)
		},
		"from the future": func() *http.Request {
			k := *k
			k.Now = func() time.Time { return time.Now().Add(6 * time.Minute) }
			return k.Request("/health", body)
		},
		"unsigned": func() *http.Request {
			r := k.Request("/health", body)
			r.Header.Del("Authorization")
			return r
		},
		"signature of another body": func() *http.Request {
			r := k.Request("/health", body)
			r.Header.Set("Authorization", k.Request("/health", "{}").Header.Get("Authorization"))
			return r
		},
		"signature of another path": func() *http.Request {
			r := k.Request("/keys/k/metadata", body)
			r.Header.Set("Authorization", k.Request("/health", body).Header.Get("Authorization"))
			return r
		},
		"query string": func() *http.Request {
			r := k.Request("/health", body)
			r.URL.RawQuery = "x=1"
			return r
		},
	}
	message := ""
	for name, request := range requests {
		a := k.Do(request())
		if a.Status != 401 || a.ErrorName() != "AuthenticationFailedException" {
			t.Errorf("%s: %d %s", name, a.Status, a.Text)
			continue
		}
		if message == "" {
			message = a.Text
		}
		if a.Text != message {
			t.Errorf("%s: the answer differs: %s", name, a.Text)
		}
	}
	if log := b.Log.String(); !strings.Contains(log, "clock_skew=-6m0s") && !strings.Contains(log, "clock_skew=-6m1s") {
		t.Error("the log does not tell the skew of an expired request")
	}
	// Any Region goes, as it comes from the scope, and four minutes are no matter.
	k.Region = "ap-southeast-7"
	for _, skew := range []time.Duration{-4 * time.Minute, 4 * time.Minute} {
		k.Now = func() time.Time { return time.Now().Add(skew) }
		k.OK("/health", body)
	}
}

// TestRegionsAndServices: what may be configured.
func TestRegionsAndServices(t *testing.T) {
	v := xkstest.SigV4("xks-kms")
	v.Regions = []string{"us-east-1"}
	_, k := newDemo(t, xkstest.Options{XKS: xks.Options{SigV4: v}})
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	k.OK("/health", body)
	k.Service = "xks-kms"
	k.OK("/health", body)
	k.Region = "eu-west-1"
	k.Fails("/health", body, 401, "AuthenticationFailedException")
}

// TestCredentialRotation: several are live, changes act at once, and the last
// use of each is known.
func TestCredentialRotation(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	ctx := context.Background()
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	second, secret, err := b.Appliance.CreateCredential(ctx, "demo", appliance.NewCredential{})
	if err != nil {
		t.Fatal(err)
	}
	next := *k
	next.AccessKeyID, next.SecretAccessKey = second.AccessKeyID, secret
	lastUsed := func(id string) time.Time {
		credentials, err := b.Appliance.Credentials(ctx, "demo")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range credentials {
			if c.AccessKeyID == id {
				return c.LastUsedAt
			}
		}
		t.Fatalf("no credential %s", id)
		return time.Time{}
	}
	k.OK("/health", body)
	if !lastUsed(next.AccessKeyID).IsZero() || lastUsed(k.AccessKeyID).IsZero() {
		t.Error("the last uses are wrong")
	}
	next.OK("/health", body)
	k.OK("/health", body)
	if lastUsed(next.AccessKeyID).IsZero() {
		t.Error("the last use of the second credential is not known")
	}
	if _, err := b.Appliance.SetCredentialActive(ctx, "demo", k.AccessKeyID, false); err != nil {
		t.Fatal(err)
	}
	k.Fails("/health", body, 401, "AuthenticationFailedException")
	next.OK("/health", body)
	if _, err := b.Appliance.SetCredentialActive(ctx, "demo", k.AccessKeyID, true); err != nil {
		t.Fatal(err)
	}
	k.OK("/health", body)
	if err := b.Appliance.DeleteCredential(ctx, "demo", k.AccessKeyID); err != nil {
		t.Fatal(err)
	}
	k.Fails("/health", body, 401, "AuthenticationFailedException")
	next.OK("/health", body)
}

// TestGrants: default deny, exact principals, on a key or a key store, each
// operation alone; health is exempt.
func TestGrants(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "", "") // no prefix, no grant
	ctx := context.Background()
	const alice = "arn:aws:iam::123456789012:user/alice"
	b.NewKey(t, "demo", "one", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "two", "encrypt,decrypt", appliance.CustodyCached)
	as := func(principal string, body xkstest.Body) xkstest.Body {
		return body.With("requestMetadata", xkstest.Metadata().With("awsPrincipalArn", principal))
	}
	encrypt, metadata := xkstest.EncryptBody("x"), xkstest.Body{}
	denied := func(path string, body xkstest.Body) {
		t.Helper()
		k.Fails(path, body, 403, "AccessDeniedException")
	}
	denied("/keys/one/encrypt", as(alice, encrypt))
	denied("/keys/one/metadata", as(alice, metadata))
	k.OK("/health", as(alice, metadata))

	grant := func(key, principal string, ops ...appliance.Operation) *appliance.Grant {
		t.Helper()
		g, err := b.Appliance.AddGrant(ctx, "demo", appliance.Grant{KeyID: key, Principal: principal, Operations: ops})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	onKey := grant("one", alice, appliance.OpEncrypt)
	sealed := k.OK("/keys/one/encrypt", as(alice, encrypt))
	denied("/keys/two/encrypt", as(alice, encrypt))
	denied("/keys/one/encrypt", as(alice+"2", encrypt))
	denied("/keys/one/encrypt", as(strings.Replace(alice, "alice", "Alice", 1), encrypt))
	denied("/keys/one/metadata", as(alice, metadata))
	denied("/keys/one/decrypt", as(alice, xkstest.DecryptBody(sealed)))

	grant("", alice, appliance.OpDecrypt)
	k.OK("/keys/one/decrypt", as(alice, xkstest.DecryptBody(sealed)))
	grant("", "dynamodb.amazonaws.com", appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes)
	k.OK("/keys/two/encrypt", as("dynamodb.amazonaws.com", encrypt))
	grant("two", appliance.AnyPrincipal, appliance.OpGetAttributes)
	k.OK("/keys/two/metadata", as("AWS Internal", metadata))
	denied("/keys/one/metadata", as("AWS Internal", metadata))

	if err := b.Appliance.RemoveGrant(ctx, "demo", onKey.ID); err != nil {
		t.Fatal(err)
	}
	denied("/keys/one/encrypt", as(alice, encrypt))
}

// TestRequestContext: each field of requestMetadata reaches the decision, the
// log says which policy decided, and the caller does not learn it.
func TestRequestContext(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{XKS: xks.Options{LogAll: true}})
	k := b.NewKeyStore(t, "demo", "", xkstest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	const arn = "arn:aws:kms:eu-west-1:210987654321:key/1"
	for field, tt := range map[string]struct {
		value string
		c     appliance.Conditions
	}{
		"awsSourceVpc":    {"vpc-1", appliance.Conditions{SourceVPCs: []string{"vpc-1"}}},
		"awsSourceVpce":   {"vpce-1", appliance.Conditions{SourceVPCEs: []string{"vpce-?"}}},
		"kmsViaService":   {"ebs", appliance.Conditions{ViaServices: []string{"e*"}}},
		"kmsOperation":    {"ReEncrypt", appliance.Conditions{KMSOperations: []string{"Re*"}}},
		"kmsKeyArn":       {arn, appliance.Conditions{KMSKeyARNs: []string{arn}, KMSKeyRegions: []string{"eu-*"}, KMSKeyAccounts: []string{"210987654321"}}},
		"awsPrincipalArn": {"arn:aws:iam::210987654321:role/x", appliance.Conditions{CallingAccounts: []string{"210987654321"}}},
	} {
		body := xkstest.EncryptBody("x").With("requestMetadata", xkstest.Metadata().With(field, tt.value))
		all, err := b.Appliance.AddGrant(context.Background(), "demo", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}})
		if err != nil {
			t.Fatal(err)
		}
		k.OK("/keys/k/encrypt", body)
		g, err := b.Appliance.AddGrant(context.Background(), "demo", appliance.Grant{Effect: appliance.EffectForbid, Principal: "*", Conditions: tt.c,
			Operations: []appliance.Operation{appliance.OpEncrypt}})
		if err != nil {
			t.Fatal(err)
		}
		a := k.Call("/keys/k/encrypt", body)
		if a.Status != 403 || a.Text != `{"errorName":"AccessDeniedException","errorMessage":"no grant allows the operation"}` {
			t.Errorf("%s: got %d %s", field, a.Status, a.Text)
		}
		for _, part := range []string{"policies=" + g.ID, "forbidden by " + g.ID, `policies=[0-9a-f,]*` + all.ID} {
			if !regexp.MustCompile(part).MatchString(b.Log.String()) {
				t.Errorf("%s: the log lacks %q", field, part)
			}
		}
		k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
		if err := errors.Join(b.Appliance.RemoveGrant(context.Background(), "demo", g.ID), b.Appliance.RemoveGrant(context.Background(), "demo", all.ID)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeyStates: disabled, pending deletion and blocked, at once and back.
func TestKeyStates(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	ctx := context.Background()
	metadata := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	serves := func(yes bool) {
		t.Helper()
		if !yes {
			k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 400, "InvalidStateException")
			k.Fails("/keys/k/decrypt", xkstest.DecryptBody(sealed), 400, "InvalidStateException")
		} else {
			k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
			k.OK("/keys/k/decrypt", xkstest.DecryptBody(sealed))
		}
		if got := k.OK("/keys/k/metadata", metadata)["keyStatus"]; (got == "ENABLED") != yes {
			t.Errorf("keyStatus %v", got)
		}
	}
	must := func(_ *appliance.ExternalKey, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	serves(true)
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "k", false))
	serves(false)
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "k", true))
	serves(true)
	must(b.Appliance.ScheduleDeletion(ctx, "demo", "k", 7))
	serves(false)
	must(b.Appliance.CancelDeletion(ctx, "demo", "k"))
	serves(false)
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "k", true))
	serves(true)
	for _, target := range []appliance.BlockTarget{{KeyStore: "demo", KeyID: "k"}, {KeyStore: "demo"}, {Everything: true}} {
		if _, err := b.Appliance.Block(ctx, target, "a test", "alice"); err != nil {
			t.Fatal(err)
		}
		serves(false)
		if err := b.Appliance.Unblock(ctx, target); err != nil {
			t.Fatal(err)
		}
		serves(true)
	}
}

// TestSuspendedDeletion: KMS is told that a key is disabled whose deletion a restore has
// suspended.
func TestSuspendedDeletion(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	ctx := t.Context()
	if _, err := b.Appliance.ScheduleDeletion(ctx, "demo", "k", 7); err != nil {
		t.Fatal(err)
	}
	made, err := b.Appliance.Backup(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	var backup bytes.Buffer
	if _, err := made.WriteTo(&backup); err != nil {
		t.Fatal(err)
	}
	restored := xkstest.Start(t, xkstest.Options{Token: b.Config, Locked: fault.StateMissing})
	if _, err := restored.Appliance.Restore(ctx, &backup, appliance.Restoration{}); err != nil {
		t.Fatal(err)
	}
	k.URL, k.HTTP = strings.Replace(k.URL, b.URL, restored.URL, 1), restored.HTTP(1)
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 400, "InvalidStateException")
	if got := k.OK("/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})["keyStatus"]; got != "DISABLED" {
		t.Errorf("keyStatus %v", got)
	}
}

// TestOneKeyForAllFrontEnds: what a session encrypts for another front end, KMS has
// decrypted here, and the other way round.
func TestOneKeyForAllFrontEnds(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	other := &appliancetest.Client{T: t, Appliance: b.Appliance, URIPathPrefix: strings.TrimPrefix(k.URL, b.URL), AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey}
	c := other.OK(appliancetest.Encrypt("k", "secret")).Ciphertext
	body := xkstest.DecryptBody(xkstest.Body{"ciphertext": c.Ciphertext, "ciphertextMetadata": c.Metadata, "initializationVector": c.IV, "authenticationTag": c.Tag})
	if got := k.OK("/keys/k/decrypt", body).Bytes(t, "plaintext"); string(got) != "secret" {
		t.Errorf("KMS has decrypted %q", got)
	}
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("of KMS"))
	c = &appliance.Ciphertext{Ciphertext: sealed.Bytes(t, "ciphertext"), Metadata: sealed.Bytes(t, "ciphertextMetadata"),
		IV: sealed.Bytes(t, "initializationVector"), Tag: sealed.Bytes(t, "authenticationTag")}
	if got := other.OK(appliancetest.Decrypt("k", c)).Plaintext; got != "of KMS" {
		t.Errorf("the other has decrypted %q", got)
	}
}

// TestQuota: beyond it 429, in JSON; another key store is not touched.
func TestQuota(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: frozen()}})
	ctx := context.Background()
	if _, err := b.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "small", URIPathPrefix: "/small", RequestsPerSecond: 3}); err != nil {
		t.Fatal(err)
	}
	c, secret, err := b.Appliance.CreateCredential(ctx, "small", appliance.NewCredential{})
	if err != nil {
		t.Fatal(err)
	}
	big := b.NewKeyStore(t, "big", "/big", "")
	small := *big
	small.URL, small.AccessKeyID, small.SecretAccessKey = b.URL+"/small", c.AccessKeyID, secret
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	forged := small
	forged.SecretAccessKey += "x"
	for range 5 {
		forged.Fails("/health", body, 401, "AuthenticationFailedException") // takes nothing of the quota
	}
	for range 3 {
		small.OK("/health", body)
	}
	small.Fails("/health", body, 429, "ThrottlingException")
	big.OK("/health", body)
}

// frozen gives a clock that stands still.
func frozen() func() time.Time {
	at := time.Now()
	return func() time.Time { return at }
}

// panicking makes the API meet a bug in the domain, while a key is unlocked.
type panicking struct{ appliance.Keyring }

func (panicking) Unlock(*appliance.KeyVersion) (appliance.UnlockedKey, error) {
	panic("a bug with a secret")
}

func TestPanicIsAnswered(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { return panicking{r} }})
	a := k.Call("/keys/k/encrypt", xkstest.EncryptBody("x"))
	if a.Status != 500 || a.ErrorName() != "InternalException" || strings.Contains(a.Text, "bug") {
		t.Errorf("%d %s", a.Status, a.Text)
	}
	if !strings.Contains(b.Log.String(), "a bug with a secret") {
		t.Error("the log does not tell of the panic")
	}
	k.OK("/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}) // it lives on
}

func TestLocked(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	b.Appliance.Lock()
	k.Fails("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 500, "InternalException")
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503} {
		if res, err := k.HTTP.Get(b.URL + path); err != nil || res.StatusCode != want {
			t.Errorf("%s: %v %v", path, res, err)
		}
	}
}

func TestLoadBalancerChecks(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	for _, path := range []string{"/healthz", "/readyz"} {
		r, _ := http.NewRequest(http.MethodGet, b.URL+path, nil)
		if a := k.Do(r); a.Status != 200 || a.Text != "ok\n" {
			t.Errorf("%s: %d %q", path, a.Status, a.Text)
		}
	}
}

// TestErrorAnswers: the form that the specification asks for, also where a
// message might quote what came in.
func TestErrorAnswers(t *testing.T) {
	_, k := newDemo(t, xkstest.Options{})
	for _, a := range []xkstest.Answer{
		k.Call("/keys/absent/encrypt", xkstest.EncryptBody("x")),
		k.Call("/keys/k/encrypt", `{"requestMetadata":{"awsPrincipalArn":{"\u00e4\n":1}}}`),
		k.Call("/keys/k/encrypt", strings.Repeat("ä", 3000)),
	} {
		message, _ := a.Body["errorMessage"].(string)
		if a.ErrorName() == "" || message == "" || len(message) >= 512 {
			t.Errorf("%d %s", a.Status, a.Text)
		}
		for _, c := range message {
			if c < ' ' || c > '~' {
				t.Errorf("the message %q is not printable ASCII", message)
			}
		}
	}
}

// TestNothingSecretInTheLog, however requests end.
func TestNothingSecretInTheLog(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{XKS: xks.Options{LogAll: true}})
	const secret = "a plaintext that nobody may see"
	encoded := base64.StdEncoding.EncodeToString([]byte(secret))
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody(secret))
	k.OK("/keys/k/decrypt", xkstest.DecryptBody(sealed))
	k.Call("/keys/k/encrypt", xkstest.EncryptBody(secret).With("plaintext", encoded+"!"))
	k.Call("/keys/k/encrypt", xkstest.EncryptBody(secret).With("encryptionAlgorithm", "x"))
	k.Call("/keys/k/encrypt", `{"plaintext":"`+encoded+`",`)
	k.Call("/keys/absent/encrypt", xkstest.EncryptBody(secret))
	log := b.Log.String()
	for _, s := range []string{secret, encoded, encoded[:20], k.SecretAccessKey, string(b.Config.PIN)} {
		if strings.Contains(log, s) {
			t.Errorf("the log has %q", s)
		}
	}
	if !strings.Contains(log, "kms_request_id=4112f4d6-db54-4af4-ae30-c55a22a8dfae") {
		t.Error("the log lacks the request ID")
	}
}

// TestWhoHasALine: a request that was performed has a line only where all have; one that
// was refused or failed always has, with its ID and what became of it.
func TestWhoHasALine(t *testing.T) {
	for _, all := range []bool{false, true} {
		b, k := newDemo(t, xkstest.Options{XKS: xks.Options{LogAll: all}})
		sealed := xkstest.DecryptBody(k.OK("/keys/k/encrypt", xkstest.EncryptBody("x")))
		about, stranger := xkstest.Metadata(), xkstest.Metadata().With("awsPrincipalArn", "a stranger")
		for i, c := range []struct {
			path    string
			body    xkstest.Body
			about   xkstest.Body
			refused bool
		}{
			{"/keys/k/encrypt", xkstest.EncryptBody("x"), about, false},
			{"/keys/k/decrypt", sealed, about, false},
			{"/keys/k/metadata", xkstest.Body{}, about, false},
			{"/health", xkstest.Body{}, about, false},
			{"/keys/absent/metadata", xkstest.Body{}, about, true},
			{"/keys/k/encrypt", xkstest.EncryptBody("x"), stranger, true},
			{"/keys/k/decrypt", sealed.With("authenticationTag", make([]byte, 16)), about, true},
		} {
			id, before := fmt.Sprintf("request-%d", i), len(b.Log.String())
			a := k.Call(c.path, c.body.With("requestMetadata", c.about.With("kmsRequestId", id)))
			if c.refused == (a.Status == http.StatusOK) {
				t.Fatalf("%s: %d %s", c.path, a.Status, a.Text)
			}
			line := fmt.Sprintf(`status=%d .* kms_request_id=%s `, a.Status, id)
			if has := regexp.MustCompile(line).MatchString(b.Log.String()[before:]); has != (all || c.refused) {
				t.Errorf("%s, answered %d, where all have a line %v: has one %v", c.path, a.Status, all, has)
			}
		}
		unknown := *k
		unknown.SecretAccessKey += "x"
		unknown.Fails("/health", xkstest.Body{"requestMetadata": about}, 401, "AuthenticationFailedException")
		if !strings.Contains(b.Log.String(), "error_name=AuthenticationFailedException") {
			t.Error("a stranger has no line")
		}
	}
}

func TestMain(m *testing.M) { hsmtest.Main(m) }
