package main

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/daemon"
	"holdfast/web"
	"holdfast/web/operation"
)

// The things that the first start makes.
const (
	demoKeyStore = "demo"
	demoPrefix   = "/demo"
	demoKey      = "demo-key"
	demoRegion   = "us-east-1"
	demoService  = "kms-xks-proxy"
)

// devFile is dev.json: what another program needs to act as KMS.
type devFile struct {
	XKSURL          string `json:"xks_url"`
	URIPathPrefix   string `json:"uri_path_prefix"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	KeyID           string `json:"key_id"`
	CACert          string `json:"ca_cert"`
	AdminSocket     string `json:"admin_socket"`
	PID             int    `json:"pid"`
	ConsoleURL      string `json:"console_url"`
	// SetupCode admits the first administrator; empty if there is one.
	SetupCode string `json:"setup_code,omitempty"`
}

// tour makes the demonstration key store at the first start, acts as KMS once and
// tells what can be done next.
func tour(ctx context.Context, p *platform, a daemon.Addresses, setup string) error {
	client := web.NewClient(a.Socket)
	pin, err := p.pin()
	if err != nil {
		return err
	}
	defer clear(pin)
	credential, err := demoCredential(pin)
	if err != nil {
		return err
	}
	if err := prepareOnce(ctx, p.path("demo-made"), credential, client); err != nil {
		return err
	}
	d := devFile{
		XKSURL: "https://" + localhost(a.XKS), URIPathPrefix: demoPrefix,
		AccessKeyID: credential.AccessKeyID, SecretAccessKey: credential.SecretAccessKey,
		KeyID: demoKey, CACert: p.caFile(), AdminSocket: a.Socket, PID: os.Getpid(),
		ConsoleURL: "https://" + consoleHost(a), SetupCode: setup,
	}
	if err := writeJSONFile(p.path("dev.json"), d); err != nil {
		return err
	}
	if err := actAsKMS(ctx, d); err != nil {
		fmt.Printf("  %v\n  The demonstration key store does not answer as it did when it was made: it was changed since.\n  What was removed stays removed; delete %s to begin again.\n", err, p.dir)
	}
	fmt.Printf(`
XKS endpoint    %s%s%s
console         https://%s%s
command line    bin/holdfast --socket %s status
state           %s (delete it to start over), log in %s

Act as KMS yourself:

curl --cacert %s --aws-sigv4 aws:amz:%s:%s --user %s:%s \
  -H 'Content-Type: application/json' \
  -d '{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1234abcd","kmsOperation":"Encrypt","kmsRequestId":"by-hand"},"plaintext":"SGVsbG8gV29ybGQh","encryptionAlgorithm":"AES_GCM"}' \
  %s%s%s/keys/%s/encrypt

Serving. Ctrl-C stops.
`, d.XKSURL, d.URIPathPrefix, appliance.XKSPath, consoleHost(a), setupLine(setup), a.Socket, p.dir, p.path("holdfast.log"),
		d.CACert, demoRegion, demoService, d.AccessKeyID, d.SecretAccessKey, d.XKSURL, d.URIPathPrefix, appliance.XKSPath, d.KeyID)
	return nil
}

// localhost gives the address with the name that the certificate has.
func localhost(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		host = "localhost"
		if ip.IsLoopback() && ip.To4() != nil {
			host = ip.String() // localhost may be ::1
		}
	}
	return net.JoinHostPort(host, port)
}

// prepareOnce prepares the demonstration at the first start, which the file
// remembers: what somebody has removed since does not come back.
func prepareOnce(ctx context.Context, made string, credential operation.NewCredential, client *web.Client) error {
	if _, err := os.Stat(made); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := prepareDemo(ctx, credential, client); err != nil {
		return err
	}
	return os.WriteFile(made, nil, 0o600)
}

// prepareDemo makes key store, credential, grant and key, each if it is
// missing.
func prepareDemo(ctx context.Context, credential operation.NewCredential, client *web.Client) error {
	post := func(body any, route ...string) error {
		err := client.Do(ctx, http.MethodPost, web.Path(route...), body, nil)
		if fault.CodeOf(err) == fault.Exists {
			return nil
		}
		return err
	}
	both := appliance.Usage{Encrypt: true, Decrypt: true}
	if err := errors.Join(
		post(operation.NewKeyStore{Name: demoKeyStore, URIPathPrefix: demoPrefix}, "keystores"),
		post(credential, "keystores", demoKeyStore, "credentials"),
		post(operation.NewKey{ID: demoKey, Usage: both, Custody: appliance.CustodyCached}, "keystores", demoKeyStore, "keys"),
	); err != nil {
		return err
	}
	var grants []*appliance.Grant
	if err := client.Do(ctx, http.MethodGet, web.Path("keystores", demoKeyStore, "grants"), nil, &grants); err != nil || len(grants) > 0 {
		return err
	}
	return post(operation.NewGrant{Principal: appliance.AnyPrincipal,
		Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}},
		"keystores", demoKeyStore, "grants")
}

// demoCredential derives the credential from the token's PIN. So it is the same
// at each start, and rests in no file while the appliance is down.
func demoCredential(pin []byte) (operation.NewCredential, error) {
	const idBytes = 15 // 24 characters
	raw, err := hkdf.Key(sha256.New, pin, nil, "holdfast-dev demo credential", idBytes+sha256.Size)
	if err != nil {
		return operation.NewCredential{}, err
	}
	defer clear(raw)
	return operation.NewCredential{
		AccessKeyID:     base32.StdEncoding.EncodeToString(raw[:idBytes]),
		SecretAccessKey: base64.StdEncoding.EncodeToString(raw[idBytes:]),
	}, nil
}

// writeJSONFile writes a file that only its owner may read, whole or not at
// all.
func writeJSONFile(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// actAsKMS calls the four operations as KMS does, through the network, signed
// by the AWS SDK's own signer.
func actAsKMS(ctx context.Context, d devFile) error {
	pem, err := os.ReadFile(d.CACert)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	k := &kms{d: d, http: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}}

	defer k.http.CloseIdleConnections() // they would hold up a shutdown

	metadata := map[string]string{
		"awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
		"kmsKeyArn":       "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		"kmsOperation":    "Encrypt", "kmsRequestId": "first-steps",
	}
	plaintext := []byte("Hello World!")
	aad := []byte("project=nile,department=marketing")
	fmt.Println("Acting as KMS, over HTTPS:")

	if _, err := k.call(ctx, "GetHealthStatus", "/health", map[string]any{"requestMetadata": metadata}); err != nil {
		return err
	}
	key := "/keys/" + d.KeyID
	if _, err := k.call(ctx, "GetKeyMetadata", key+"/metadata", map[string]any{"requestMetadata": metadata}); err != nil {
		return err
	}
	sealed, err := k.call(ctx, "Encrypt with CDIV", key+"/encrypt", map[string]any{
		"requestMetadata": metadata, "plaintext": plaintext, "additionalAuthenticatedData": aad,
		"encryptionAlgorithm": "AES_GCM", "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
	})
	if err != nil {
		return err
	}
	metadata["kmsOperation"] = "Decrypt"
	opened, err := k.call(ctx, "Decrypt", key+"/decrypt", map[string]any{
		"requestMetadata": metadata, "ciphertext": sealed.Ciphertext, "ciphertextMetadata": sealed.CiphertextMetadata,
		"initializationVector": sealed.InitializationVector, "authenticationTag": sealed.AuthenticationTag,
		"additionalAuthenticatedData": aad, "encryptionAlgorithm": "AES_GCM",
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(opened.Plaintext, plaintext) {
		return errors.New("decrypt gave another plaintext than was encrypted")
	}
	return nil
}

// kms is a client as KMS is one.
type kms struct {
	d    devFile
	http http.Client
}

// kmsAnswer has the fields of all answers that are used here.
type kmsAnswer struct {
	Ciphertext, CiphertextMetadata, InitializationVector, AuthenticationTag, Plaintext []byte
	KeySpec, KeyStatus                                                                 string
	EKMFleetDetails                                                                    []struct{ HealthStatus string }
}

func (k *kms) call(ctx context.Context, name, path string, body any) (*kmsAnswer, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.d.XKSURL+k.d.URIPathPrefix+appliance.XKSPath+path, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256(payload)
	credentials := aws.Credentials{AccessKeyID: k.d.AccessKeyID, SecretAccessKey: k.d.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(hash[:]), demoService, demoRegion, time.Now()); err != nil {
		return nil, err
	}
	begin := time.Now()
	res, err := k.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(begin)
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s %s", name, res.Status, answer)
	}
	var a kmsAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	detail := ""
	switch {
	case len(a.EKMFleetDetails) > 0:
		detail = "HSM " + a.EKMFleetDetails[0].HealthStatus
	case a.KeySpec != "":
		detail = a.KeySpec + " " + a.KeyStatus
	case a.Ciphertext != nil:
		detail = fmt.Sprintf("%d bytes of ciphertext", len(a.Ciphertext))
	case a.Plaintext != nil:
		detail = "the plaintext is back"
	}
	fmt.Printf("  %-18s %8.2f ms   %s\n", name, float64(took.Microseconds())/1000, detail)
	return &a, nil
}
