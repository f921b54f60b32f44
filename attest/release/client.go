package release

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// FromBroker releases a credential from a broker.
type FromBroker struct {
	// URL is the broker's, https://HOST:PORT, Pin its key ([Pin]).
	URL, Pin string
	// Machine is the name under which the broker has the credential.
	Machine string
	// Collect makes evidence with a nonce and two keys: that of the TLS
	// connection and the one that the credential is to be encrypted to.
	Collect func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error)
	// Timeout bounds a call; 20 s if zero.
	Timeout time.Duration
}

// Release asks the broker, once. Its keys live as long as the call, so that a
// recording of it is of no use to anybody. Errors: a [*fault.Fault], with the
// broker's code if the broker refuses, or else fault.BrokerUnreachable.
func (b *FromBroker) Release(ctx context.Context) (credential []byte, to string, err error) {
	credential, to, err = b.release(ctx)
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, "", refused
	}
	if err != nil {
		return nil, "", fault.Wrapf(fault.BrokerUnreachable, err, "the broker %s has released nothing", b.URL)
	}
	return credential, to, nil
}

func (b *FromBroker) release(ctx context.Context) (credential []byte, to string, err error) {
	key, err := kem().GenerateKey()
	if err != nil {
		return nil, "", fmt.Errorf("release key: %w", err)
	}
	var answer releaseAnswer
	nonce, err := b.ask(ctx, "/v1/release", key.PublicKey().Bytes(), &answer)
	if err != nil {
		return nil, "", err
	}
	credential, err = hpke.Open(key, kdf(), aead(), info(b.Machine, nonce), answer.Sealed)
	if err != nil {
		return nil, "", fmt.Errorf("broker %s: what it released does not open: %w", b.URL, err)
	}
	return credential, "the broker's policy", nil
}

// State tells the broker the state that the evidence names, if it names one, and gives the
// newest that the broker knows of this machine; nil if none. Errors are those of Release.
// A broker of an earlier release answers fault.BrokerRequest.
func (b *FromBroker) State(ctx context.Context) (*KnownState, error) {
	var answer stateAnswer
	_, err := b.ask(ctx, "/v1/state", nil, &answer)
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, refused
	}
	if err != nil {
		return nil, fault.Wrapf(fault.BrokerUnreachable, err, "the broker %s does not say which state it knows", b.URL)
	}
	return answer.State, nil
}

// ask shows the broker evidence for its nonce, over a connection of its own.
func (b *FromBroker) ask(ctx context.Context, path string, releaseKey []byte, into any) (nonce []byte, err error) {
	certificate, spki, err := connectionKey()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: b.tlsConfig(certificate)}
	defer transport.CloseIdleConnections()
	timeout := b.Timeout
	if timeout <= 0 {
		timeout = 20 * time.Second
	}
	client := &http.Client{Transport: transport, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

	var given nonceAnswer
	if err := b.post(ctx, client, "/v1/nonce", struct{}{}, &given); err != nil {
		return nil, err
	}
	if len(given.Nonce) != nonceBytes {
		return nil, fmt.Errorf("broker %s: a nonce of %d bytes, not %d", b.URL, len(given.Nonce), nonceBytes)
	}
	evidence, err := b.Collect(ctx, given.Nonce, spki, releaseKey)
	if err != nil {
		return nil, err
	}
	text, err := evidence.Encode()
	if err != nil {
		return nil, err
	}
	return given.Nonce, b.post(ctx, client, path, releaseRequest{b.Machine, text}, into)
}

// connectionKey makes a key and a certificate for one connection.
func connectionKey() (*tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, leaf.RawSubjectPublicKeyInfo, nil
}

func (b *FromBroker) tlsConfig(certificate *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the pin is checked instead, below
		Certificates:       []tls.Certificate{*certificate},
		VerifyConnection: func(s tls.ConnectionState) error {
			c, err := peer(&s)
			if err != nil {
				return err
			}
			if got := Pin(c); got != b.Pin {
				return fault.Errorf(fault.BrokerPIN, "broker %s has the key %s, and %s is pinned: another server answers there, or the broker has a new key", b.URL, got, b.Pin)
			}
			return nil
		},
	}
}

func (b *FromBroker) post(ctx context.Context, client *http.Client, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.URL+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxMessage+1))
	if err != nil || len(answer) > maxMessage {
		return fmt.Errorf("broker %s: %w", b.URL, errors.Join(err, errors.New("its answer cannot be read")))
	}
	if res.StatusCode == http.StatusOK {
		if err := decode(answer, into); err != nil {
			return fmt.Errorf("broker %s: its answer is not understood: %w", b.URL, err)
		}
		return nil
	}
	var e errorAnswer
	if err := decode(answer, &e); err != nil || e.Code == "" {
		return fmt.Errorf("broker %s: it answers %s", b.URL, res.Status)
	}
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("broker %s: %s: %s", b.URL, e.Code, e.Reason)
	}
	return fault.Decoded(e.Code, "the broker refuses: "+e.Reason)
}
