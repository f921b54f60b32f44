package conformance

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy is an XKS proxy with keys in memory that keeps to the specification,
// apart from the defects it is told to have.
type proxy struct {
	defects map[string]bool

	mu        sync.Mutex
	signature map[string]bool // that were good once
	created   map[string]bool
}

func (p *proxy) has(defect string) bool { return p.defects[defect] }

const (
	testAccessKey = "AKIAHOLDFASTTESTTEST"
	testSecret    = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	testDenied    = "arn:aws:iam::123456789012:user/mallory"
	testPrefix    = "/tenant_1"
	testMaxBody   = 256 << 10
)

// usage of the keys: encrypt, decrypt, enabled.
var testKeys = map[string][3]bool{
	"both": {true, true, true}, "encrypt-only": {true, false, true}, "decrypt-only": {false, true, true},
	"none": {false, false, true}, "disabled": {true, true, false},
}

// problem is an error answer.
type problem struct {
	name, message string
	status        int
}

func (p *proxy) problem(name string) *problem {
	return &problem{name: name, message: "no", status: statusOf[name]}
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.has("slow") {
		time.Sleep(kmsTimeout + 10*time.Millisecond)
	}
	if p.has("closes") {
		w.Header().Set("Connection", "close")
	}
	if p.has("clock") {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
	}
	fields, bad := p.serve(w, r)
	status := http.StatusOK
	if bad != nil {
		if status = bad.status; p.has("all-400") {
			status = 400
		}
		fields = map[string]any{"errorName": bad.name, "errorMessage": bad.message}
	}
	contentType := jsonType
	if p.has("text-plain") {
		contentType = "text/plain"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	switch {
	case bad != nil && (p.has("errors-not-json") || (status == 405 && p.has("plain-405"))):
		_, _ = io.WriteString(w, "error")
	default:
		if bad != nil && p.has("own-names") {
			fields["errorName"] = "OwnException"
		}
		if bad != nil && p.has("long-message") {
			fields["errorMessage"] = strings.Repeat("m", 512)
		}
		_ = json.NewEncoder(w).Encode(fields)
	}
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) (map[string]any, *problem) {
	if p.has("no-http1") && r.ProtoMajor == 1 || p.has("no-http2") && r.ProtoMajor == 2 {
		return nil, p.problem("InternalException")
	}
	path := r.URL.Path
	if p.has("any-prefix") {
		path = testPrefix + path[max(0, strings.Index(path, xksPath)):]
	}
	rest, ok := strings.CutPrefix(path, testPrefix+xksPath+"/")
	word, key := rest, ""
	if parts := strings.Split(rest, "/"); len(parts) == 3 && parts[0] == "keys" {
		key, word = parts[1], parts[2]
		ok = ok && slices.Contains([]string{"metadata", "encrypt", "decrypt"}, word) && regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`).MatchString(key)
		if p.has("redirects") && key == "" {
			return nil, &problem{status: http.StatusMovedPermanently}
		}
		if p.has("any-case") && strings.ToLower(word) == "encrypt" {
			word, ok = "encrypt", true
		}
	} else if word != "health" {
		ok = false
		if p.has("any-path") {
			word, ok = "health", true
		}
	}
	if !ok {
		return nil, p.problem(invalidURIPath)
	}
	if r.Method != http.MethodPost {
		switch {
		case p.has("get-allowed") && r.Method == http.MethodGet:
			return map[string]any{}, nil
		case p.has("put-allowed"):
		default:
			return nil, &problem{unsupportedOperation, "POST only", http.StatusMethodNotAllowed}
		}
	}
	if r.ContentLength > testMaxBody && !p.has("unbounded") {
		w.Header().Set("Connection", "close")
		return nil, p.problem(unsupportedOperation)
	}
	limit := int64(testMaxBody)
	if p.has("unbounded") || p.has("unbounded-chunks") {
		limit = 1 << 40
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, p.problem(validationException)
	}
	if !p.has("health-unsigned") || word != "health" {
		if err := p.authenticate(r, body); err != nil {
			bad := p.problem(authenticationFailed)
			if p.has("explains") {
				bad.message = err.Error()
			}
			return nil, bad
		}
	}
	if p.has("small-body") && len(body) > 20000 {
		return nil, p.problem(unsupportedOperation)
	}
	return p.operate(r, word, key, body)
}

var testAuthorization = regexp.MustCompile(`^(AWS4-[A-Z0-9-]+) Credential=(\w+)/(\d{8})/([a-z0-9-]+)/([a-z-]+)/(\w+), SignedHeaders=([a-z0-9;-]*), Signature=([0-9a-fA-F]+)$`)

// authenticate verifies the signature with the arithmetic of forgery, which
// for honest requests is so compared with AWS's signer.
func (p *proxy) authenticate(r *http.Request, body []byte) error {
	if p.has("refuses-all") {
		return fmt.Errorf("no")
	}
	h := r.Header.Get("Authorization")
	if h == "" && p.has("no-authorization") {
		return nil
	}
	m := testAuthorization.FindStringSubmatch(h)
	if m == nil {
		if p.has("lenient-authorization") {
			return nil
		}
		return fmt.Errorf("malformed")
	}
	signed := strings.Split(m[7], ";")
	if m[7] == "" {
		signed = nil
	}
	sent := scope{m[3], m[4], m[5], m[6]}
	signature := m[8]
	if p.has("any-hex-case") {
		signature = strings.ToLower(signature)
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(stampLayout, stamp)
	skew := time.Since(at)
	limit := 5 * time.Minute
	if p.has("strict-clock") {
		limit = time.Minute
	}
	for _, rule := range []struct {
		broken bool
		defect string
	}{
		{m[1] != algorithm, "any-algorithm"},
		{m[2] != testAccessKey, "any-access-key"},
		{m[4] != "us-east-1" && p.has("one-region"), ""},
		{sent.service != service, "any-service"},
		{sent.terminator != terminator, "any-terminator"},
		{err == nil && sent.date != at.Format(dateLayout), "any-scope-date"},
		{err != nil, "any-date"},
		{err == nil && skew > limit, "never-expires"},
		{err == nil && skew < -limit, "takes-future"},
		{!slices.Contains(signed, "host"), "host-unsigned"},
		{!slices.Contains(signed, "x-amz-date"), "date-unsigned"},
		{p.has("two-headers-only") && len(signed) > 2, ""},
		{len(signature) != 64, "short-signatures"},
	} {
		if rule.broken && !p.has(rule.defect) {
			return fmt.Errorf("rule for %s", rule.defect)
		}
	}
	if p.has("any-date") && err != nil || p.has("any-signature") {
		return nil
	}
	derived := sent
	if p.has("constant-scope") {
		sent = scope{at.Format(dateLayout), sent.region, service, terminator}
		derived = sent
	}
	if p.has("scope-as-text") {
		derived = scope{at.Format(dateLayout), sent.region, service, terminator}
	}
	if p.has("replay") && p.known(signature, false) {
		return nil
	}
	if p.has("trims-body") {
		body = bytes.TrimSpace(body)
	}
	// What a defective proxy does not look at may be anything: it is tried.
	methods, paths, queries, stamps := []string{r.Method}, []string{r.URL.EscapedPath()}, []string{r.URL.RawQuery}, []string{stamp}
	checks := []string{r.Header.Get("X-Holdfast-Check")}
	if p.has("method-unsigned") {
		methods = append(methods, http.MethodPut)
	}
	if p.has("path-unsigned") {
		paths = append(paths, testPrefix+xksPath+"/keys/both/metadata", testPrefix+xksPath+"/keys/another-key/encrypt")
	}
	if p.has("query-unsigned") {
		queries = append(queries, "")
	}
	if p.has("date-not-in-text") {
		stamps = append(stamps, at.Add(time.Minute).Format(stampLayout))
	}
	if p.has("headers-unsigned") {
		checks = append(checks, "one")
	}
	f := forgery{accessKeyID: m[2], secret: testSecret, signed: signed, scope: sent, derived: derived}
	for _, method := range methods {
		for _, path := range paths {
			for _, query := range queries {
				for _, f.stamp = range stamps {
					for _, check := range checks {
						c := r.Clone(r.Context())
						c.Method, c.URL.RawQuery = method, query
						c.URL.Path = strings.ReplaceAll(path, "%", "%25") // escaped once more, as AWS's signer does
						c.Header.Set("X-Amz-Date", f.stamp)
						c.Header.Set("X-Holdfast-Check", strings.Join(strings.Fields(check), " "))
						if query != "" {
							c.URL.Path += "?" // anything: no query is right
						}
						want := f.authorization(c, body)
						want = want[strings.LastIndex(want, "=")+1:]
						if want == signature || p.has("short-signatures") && strings.HasPrefix(want+"00", signature) {
							p.known(signature, true)
							return nil
						}
					}
				}
			}
		}
	}
	return fmt.Errorf("signature")
}

func (p *proxy) known(signature string, add bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if add {
		if p.signature == nil {
			p.signature = map[string]bool{}
		}
		p.signature[signature] = true
	}
	return p.signature[signature]
}

func (p *proxy) operate(r *http.Request, word, keyID string, body []byte) (map[string]any, *problem) {
	invalid := p.problem(validationException)
	d := json.NewDecoder(bytes.NewReader(body))
	var in map[string]any
	err := d.Decode(&in)
	if _, after := d.Token(); err != nil || in == nil || after != io.EOF {
		switch {
		case p.has("json-500"):
			return nil, p.problem("InternalException")
		case !p.has("lenient-json"):
			return nil, invalid
		}
	}
	if in == nil {
		in = map[string]any{"requestMetadata": map[string]any{"kmsRequestId": "", "kmsOperation": "x", "awsPrincipalArn": "x", "kmsKeyArn": "x"},
			"plaintext": "", "encryptionAlgorithm": algorithmGCM, "ciphertext": "", "initializationVector": "", "authenticationTag": ""}
	}
	m, _ := in["requestMetadata"].(map[string]any)
	op := operations[slices.IndexFunc(operations, func(o operation) bool { return o.word == word })]
	if !p.has("lenient-metadata") {
		if m == nil {
			return nil, invalid
		}
		for _, field := range requiredMetadata[op] {
			if _, ok := m[field].(string); !ok {
				return nil, invalid
			}
		}
	}
	if p.has("strict-metadata") && m["sourceIdentity"] != nil || p.has("no-optional") && m["awsSourceVpc"] != nil ||
		p.has("known-operations") && strings.HasPrefix(m["kmsOperation"].(string), "Bulk") ||
		p.has("uuid-only") && len(m["kmsRequestId"].(string)) != 36 ||
		p.has("arn-only") && word != "health" && !strings.HasPrefix(m["awsPrincipalArn"].(string), "arn:") ||
		p.has("short-arn") && m["kmsKeyArn"] != nil && len(m["kmsKeyArn"].(string)) > 1024 {
		return nil, invalid
	}
	for _, field := range requiredFields[op] {
		if _, ok := in[field].(string); !ok && !p.has("lenient-fields") {
			return nil, invalid
		}
	}
	if a, ok := in["encryptionAlgorithm"].(string); ok && a != algorithmGCM && !p.has("any-cipher") {
		return nil, invalid
	}
	principal, _ := m["awsPrincipalArn"].(string)
	denied := principal == testDenied || p.has("denies-all")
	if word == "health" {
		if p.has("health-granted") && denied {
			return nil, p.problem(accessDenied)
		}
		return p.health()
	}
	usage, exists := testKeys[keyID]
	if !exists {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.has("creates-keys") && (word == "metadata" || p.created[keyID]) {
			p.created = map[string]bool{keyID: true}
			usage = testKeys["both"]
		} else if p.has("http2-differs") && r.ProtoMajor == 2 {
			return nil, invalid
		} else {
			return nil, p.problem(keyNotFound)
		}
	}
	if denied && !p.has("no-grants") {
		return nil, p.problem(accessDenied)
	}
	if word == "metadata" {
		return p.metadata(usage), nil
	}
	cdiv, wantsCDIV := in["ciphertextDataIntegrityValueAlgorithm"]
	if wantsCDIV && cdiv != algorithmCDIV && !p.has("any-cipher") {
		return nil, invalid
	}
	needs := [2]bool{word == "encrypt", word == "decrypt" || wantsCDIV && !p.has("cdiv-unchecked")}
	if !usage[2] && !p.has("serves-disabled") {
		return nil, p.problem(invalidState)
	}
	if (needs[0] && !usage[0] || needs[1] && !usage[1]) && !p.has("any-usage") {
		return nil, p.problem(invalidKeyUsage)
	}
	values := map[string][]byte{}
	for _, field := range []string{"plaintext", "additionalAuthenticatedData", "ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"} {
		text, ok := in[field].(string)
		if _, present := in[field]; present && !ok && !p.has("lenient-fields") {
			return nil, invalid
		}
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			switch {
			case p.has("takes-base64url"):
				b, _ = base64.URLEncoding.DecodeString(text)
			case p.has("lenient-base64"):
				b = []byte(text)
			default:
				return nil, invalid
			}
		}
		if ok {
			values[field] = b
		}
	}
	if bad := p.limits(values); bad != nil {
		return nil, bad
	}
	if word == "encrypt" {
		return p.encrypt(keyID, values, wantsCDIV), nil
	}
	return p.decrypt(keyID, values)
}

func (p *proxy) limits(values map[string][]byte) *problem {
	plaintext, aad := len(values["plaintext"]), len(values["additionalAuthenticatedData"])
	tooMuch := p.problem(unsupportedOperation)
	if p.has("over-is-invalid") {
		tooMuch = p.problem("InternalException")
	}
	switch {
	case p.has("unbounded"):
		return nil
	case plaintext > maxPlaintext, aad > maxAAD,
		p.has("small-plaintext") && plaintext > 4096, p.has("small-aad") && aad > 4096:
		return tooMuch
	}
	return nil
}

func (p *proxy) health() (map[string]any, *problem) {
	if p.has("health-fails") {
		return nil, p.problem("InternalException")
	}
	manager := map[string]any{"id": "1", "model": "memory", "healthStatus": "ACTIVE"}
	out := map[string]any{"xksProxyFleetSize": 1, "xksProxyVendor": "test", "xksProxyModel": "test", "ekmVendor": "test", "ekmFleetDetails": []any{manager}}
	if p.has("fleet-of-none") {
		out["xksProxyFleetSize"] = 0
	}
	if p.has("fleet-as-text") {
		out["xksProxyFleetSize"] = "1"
	}
	if p.has("no-vendor") {
		delete(out, "ekmVendor")
	}
	if p.has("no-managers") {
		out["ekmFleetDetails"] = []any{}
	}
	if p.has("same-ids") {
		out["ekmFleetDetails"] = []any{manager, manager}
	}
	if p.has("own-status") {
		manager["healthStatus"] = "OK"
	}
	if p.has("unavailable") {
		manager["healthStatus"] = "UNAVAILABLE"
	}
	return out, nil
}

func (p *proxy) metadata(usage [3]bool) map[string]any {
	list := []string{}
	if usage[0] || p.has("lists-both") {
		list = append(list, "ENCRYPT")
	}
	if (usage[1] || p.has("lists-both")) && !p.has("lists-one") {
		list = append(list, "DECRYPT")
	}
	out := map[string]any{"keySpec": "AES_256", "keyUsage": list, "keyStatus": "ENABLED"}
	if !usage[2] && !p.has("always-enabled") {
		out["keyStatus"] = "DISABLED"
	}
	if p.has("own-spec") {
		out["keySpec"] = "AES-256"
	}
	if p.has("own-key-status") {
		out["keyStatus"] = "Enabled"
	}
	return out
}

func (p *proxy) block(keyID string) cipher.Block {
	if p.has("one-key") {
		keyID = ""
	}
	key := sha256.Sum256([]byte(keyID))
	b, _ := aes.NewCipher(key[:])
	return b
}

// frame joins AAD and metadata (spec, Encrypt, response 2).
func (p *proxy) frame(aad, metadata []byte) []byte {
	if p.has("ignores-aad") {
		aad = nil
	}
	if p.has("ignores-metadata") {
		metadata = nil
	}
	if p.has("unframed") {
		return append(bytes.Clone(aad), metadata...)
	}
	out := []byte{byte(len(aad) >> 8), byte(len(aad))}
	out = append(append(out, aad...), byte(len(metadata)))
	return append(out, metadata...)
}

func (p *proxy) encrypt(keyID string, v map[string][]byte, cdiv bool) map[string]any {
	iv := make([]byte, 12)
	switch {
	case p.has("constant-iv"):
	case p.has("long-iv"):
		iv = random(24)
	default:
		iv = random(12)
	}
	gcm, _ := cipher.NewGCMWithNonceSize(p.block(keyID), len(iv))
	metadata := []byte{1, 0, 0, 7}
	if p.has("long-metadata") {
		metadata = make([]byte, 21)
	}
	aad := v["additionalAuthenticatedData"]
	joined := gcm.Seal(nil, iv, v["plaintext"], p.frame(aad, metadata))
	n := len(v["plaintext"])
	c := sealed{ciphertext: joined[:n], tag: joined[n:], iv: iv, metadata: metadata}
	switch {
	case p.has("tag-appended"):
		c.ciphertext = joined
	case p.has("short-tag"):
		c.tag = c.tag[:12]
	}
	out := map[string]any{"ciphertext": c.ciphertext, "initializationVector": c.iv, "authenticationTag": c.tag, "ciphertextMetadata": c.metadata}
	if cdiv && !p.has("no-cdiv") {
		if p.has("cdiv-without-aad") {
			aad = nil
		}
		if p.has("cdiv-framed") {
			aad = p.frame(aad, nil)
		}
		out["ciphertextDataIntegrityValue"] = integrityValue(c, aad)
	}
	if p.has("no-iv-field") {
		delete(out, "initializationVector")
	}
	if p.has("sends-base64url") {
		out["ciphertext"] = base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, n))
	}
	return out
}

func (p *proxy) decrypt(keyID string, v map[string][]byte) (map[string]any, *problem) {
	bad := p.problem(invalidCiphertext)
	iv, ciphertext, tag, metadata := v["initializationVector"], v["ciphertext"], v["authenticationTag"], v["ciphertextMetadata"]
	if p.has("cuts-metadata") {
		metadata = metadata[:min(4, len(metadata))]
	}
	if p.has("joins-iv") {
		joined := append(bytes.Clone(iv), ciphertext...)
		iv, ciphertext = joined[:12], joined[12:]
	}
	if p.has("joins-tag") {
		joined := append(bytes.Clone(ciphertext), tag...)
		ciphertext, tag = joined[:max(0, len(joined)-16)], joined[max(0, len(joined)-16):]
	}
	if p.has("cuts-iv") {
		iv = append(bytes.Clone(iv), make([]byte, 12)...)[:12]
	}
	if p.has("cuts-tag") {
		tag = tag[:min(16, len(tag))]
	}
	if len(iv) != 12 || len(metadata) > maxMetadata {
		return nil, bad
	}
	block := p.block(keyID)
	gcm, _ := cipher.NewGCM(block)
	plaintext := make([]byte, len(ciphertext))
	cipher.NewCTR(block, append(bytes.Clone(iv), 0, 0, 0, 2)).XORKeyStream(plaintext, ciphertext)
	want := gcm.Seal(nil, iv, plaintext, p.frame(v["additionalAuthenticatedData"], metadata))[len(plaintext):]
	if p.has("short-tags-taken") && len(tag) < len(want) {
		want = want[:len(tag)]
	}
	if subtle.ConstantTimeCompare(want, tag) != 1 && !p.has("no-integrity") {
		return nil, bad
	}
	if p.has("reverses") {
		slices.Reverse(plaintext)
	}
	return map[string]any{"plaintext": plaintext}, nil
}

// authority makes certificates for both sides.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{pool: x509.NewCertPool()}
	c := a.issue(t, "test authority", time.Hour)
	var err error
	if a.certificate, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	a.key = c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.certificate)
	return a
}

// issue makes a certificate; the first one is the authority's own.
func (a *authority) issue(t *testing.T, name string, life time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := a.certificate, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// start serves a proxy with the defects and gives a target for it.
func start(t *testing.T, defects ...string) Target {
	t.Helper()
	p := &proxy{defects: map[string]bool{}}
	for _, d := range defects {
		p.defects[d] = true
	}
	ca := newAuthority(t)
	name, life := "localhost", 365*24*time.Hour
	if p.has("other-name") {
		name = "proxy.test"
	}
	if p.has("expires-soon") {
		life = 24 * time.Hour
	}
	server := httptest.NewUnstartedServer(p)
	server.EnableHTTP2 = !p.has("http1-only")
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, name, life)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	// In the way of what a real server has, and short, for the tests' sake.
	if !p.has("patient") {
		server.Config.ReadTimeout = time.Second
	}
	if p.has("unbounded") || p.has("unbounded-chunks") {
		server.Config.ReadTimeout = 0
	}
	if p.has("endless-headers") {
		server.Config.MaxHeaderBytes = 1 << 30
	}
	if p.has("tls-1.1") {
		server.TLS.MinVersion = tls.VersionTLS10
		server.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	}
	if p.has("classic-key-exchange") {
		server.TLS.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	if p.has("aes-128-only") {
		server.TLS.MaxVersion = tls.VersionTLS12
		server.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	}
	target := Target{
		AccessKeyID: testAccessKey, SecretAccessKey: testSecret, KeyID: "both", RootCAs: ca.pool,
		EncryptOnlyKeyID: "encrypt-only", DecryptOnlyKeyID: "decrypt-only", NoUsageKeyID: "none", DisabledKeyID: "disabled",
		DeniedPrincipal: testDenied, Timeout: 3 * time.Second,
		Load: LoadPlan{Rate: 50, Duration: 200 * time.Millisecond, Connections: 2},
	}
	if p.has("mutual") || p.has("mutual-unchecked") || p.has("mutual-optional") {
		client := ca.issue(t, "cks.kms.us-east-1.amazonaws.com", time.Hour)
		target.ClientCert = &client
		server.TLS.ClientCAs, server.TLS.ClientAuth = ca.pool, tls.RequireAndVerifyClientCert
		if p.has("mutual-unchecked") {
			server.TLS.ClientAuth = tls.RequireAnyClientCert
		}
		if p.has("mutual-optional") {
			server.TLS.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	if p.has("sloppy-http") {
		serveSloppily(t, server)
	} else {
		server.StartTLS()
		t.Cleanup(server.Close)
	}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	target.URL = "https://localhost:" + port + testPrefix + xksPath
	return target
}

// serveSloppily answers whatever ends in an empty line with success.
func serveSloppily(t *testing.T, server *httptest.Server) {
	l := tls.NewListener(server.Listener, server.TLS)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
				var got []byte
				b := make([]byte, 4096)
				for !bytes.Contains(got, []byte("\r\n\r\n")) {
					n, err := conn.Read(b)
					if err != nil {
						return
					}
					got = append(got, b[:n]...)
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
				_ = conn.(*tls.Conn).CloseWrite()
				_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); open.Wait() })
}
