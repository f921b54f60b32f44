package main

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/kmsload"
	"holdfast/web"
	"holdfast/web/operation"
)

// The things that the first start makes.
const (
	demoKeyStore = "demo"
	demoPrefix   = "/demo"
	demoKey      = "demo-key"
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

// place is where an appliance or a fleet is reached: by KMS and by browsers, as URLs, and
// by the command line.
type place struct{ xks, console, socket string }

// tour makes the demonstration key store at the first start, acts as KMS once and
// tells what can be done next.
func tour(ctx context.Context, p *platform, a daemon.Addresses, setup string) error {
	d, err := p.prepareTour(ctx, place{xks: "https://" + localhost(a.XKS), console: "https://" + consoleHost(a), socket: a.Socket}, setup)
	if err != nil {
		return err
	}
	if err := actAsKMS(ctx, d, "Acting as KMS, over HTTPS:"); err != nil {
		p.tellChanged(err)
	}
	p.tellWays(d, "", p.path("holdfast.log"))
	return nil
}

// prepareTour makes the demonstration key store at the first start, and writes what another
// program needs to act as KMS.
func (p *platform) prepareTour(ctx context.Context, at place, setup string) (devFile, error) {
	pin, err := p.pin()
	if err != nil {
		return devFile{}, err
	}
	defer clear(pin)
	credential, err := demoCredential(pin)
	if err != nil {
		return devFile{}, err
	}
	if err := prepareOnce(ctx, p.path("demo-made"), credential, web.NewClient(at.socket)); err != nil {
		return devFile{}, err
	}
	d := devFile{
		XKSURL: at.xks, URIPathPrefix: demoPrefix,
		AccessKeyID: credential.AccessKeyID, SecretAccessKey: credential.SecretAccessKey,
		KeyID: demoKey, CACert: p.caFile(), AdminSocket: at.socket, PID: os.Getpid(),
		ConsoleURL: at.console, SetupCode: setup,
	}
	return d, writeJSONFile(p.path("dev.json"), d)
}

// tellChanged says that the demonstration is not as it was made.
func (p *platform) tellChanged(err error) {
	fmt.Printf("  %v\n  The demonstration key store does not answer as it did when it was made: it was changed since.\n  What was removed stays removed; delete %s to begin again.\n", err, p.dir)
}

// tellWays says by which ways one can go on. More are lines of the table.
func (p *platform) tellWays(d devFile, more, log string) {
	fmt.Printf(`
XKS endpoint    %s%s%s
console         %s%s
command line    bin/holdfast --socket %s status
%sstate           %s (delete it to start over), log in %s

Act as KMS yourself:

curl --cacert %s --aws-sigv4 aws:amz:%s:%s --user %s:%s \
  -H 'Content-Type: application/json' \
  -d '{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1234abcd","kmsOperation":"Encrypt","kmsRequestId":"by-hand"},"plaintext":"SGVsbG8gV29ybGQh","encryptionAlgorithm":"AES_GCM"}' \
  %s%s%s/keys/%s/encrypt

Serving. Ctrl-C stops.
`, d.XKSURL, d.URIPathPrefix, appliance.XKSPath, d.ConsoleURL, setupLine(d.SetupCode), d.AdminSocket, more, p.dir, log,
		d.CACert, kmsload.Region, kmsload.Service, d.AccessKeyID, d.SecretAccessKey, d.XKSURL, d.URIPathPrefix, appliance.XKSPath, d.KeyID)
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
	var grants operation.List[*appliance.Grant]
	if err := client.Do(ctx, http.MethodGet, web.Path("keystores", demoKeyStore, "grants"), nil, &grants); err != nil || len(grants.Items) > 0 {
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

// roots are those that the certificate of the demonstration is signed under.
func (d devFile) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(d.CACert)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool, nil
}

// client makes a KMS that calls the XKS endpoint of that host, "https://HOST:PORT".
func (d devFile) client(host string, roots *x509.CertPool, timeout time.Duration) *kmsload.Client {
	return kmsload.New(host+d.URIPathPrefix+appliance.XKSPath, d.AccessKeyID, d.SecretAccessKey, roots, timeout)
}

// actAsKMS calls the four operations as KMS does, through the network, signed
// by the AWS SDK's own signer.
func actAsKMS(ctx context.Context, d devFile, heading string) error {
	roots, err := d.roots()
	if err != nil {
		return err
	}
	k := d.client(d.XKSURL, roots, 10*time.Second)
	defer k.HTTP.CloseIdleConnections() // they would hold up a shutdown
	const request = "first-steps"
	plaintext := []byte("Hello World!")
	aad := []byte("project=nile,department=marketing")
	fmt.Println(heading)

	described := func(operation string) map[string]any {
		return map[string]any{"requestMetadata": kmsload.Metadata(operation, request)}
	}
	if _, err := step("GetHealthStatus")(k.Call(ctx, "/health", described("Encrypt"))); err != nil {
		return err
	}
	if _, err := step("GetKeyMetadata")(k.Call(ctx, "/keys/"+d.KeyID+"/metadata", described("DescribeKey"))); err != nil {
		return err
	}
	sealed, err := step("Encrypt with CDIV")(k.Encrypt(ctx, d.KeyID, request, plaintext, aad))
	if err != nil {
		return err
	}
	opened, err := step("Decrypt")(k.Decrypt(ctx, d.KeyID, request, sealed, aad))
	if err != nil {
		return err
	}
	if !bytes.Equal(opened.Plaintext, plaintext) {
		return errors.New("decrypt gave another plaintext than was encrypted")
	}
	return nil
}

// step prints an answer to KMS, and names it in an error.
func step(name string) func(*kmsload.Answer, error) (*kmsload.Answer, error) {
	return func(a *kmsload.Answer, err error) (*kmsload.Answer, error) {
		if err != nil {
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
		showStep(name, a.Took, detail)
		return a, nil
	}
}

// showStep prints a line of a table: what took how long, and what it showed.
func showStep(name string, took time.Duration, detail string) {
	fmt.Printf("  %-18s %8.2f ms   %s\n", name, float64(took.Microseconds())/1000, detail)
}
