package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The fixed words of the protocol (spec, API operations and Appendix A).
const (
	xksPath   = "/kms/xks/v1"
	service   = "kms-xks-proxy"
	jsonType  = "application/json"
	userAgent = "holdfast-check"
)

// maxAnswer bounds what is read of an answer. The longest that is permitted, a
// plaintext of 4300 bytes in Base64, is far shorter.
const maxAnswer = 1 << 20

// operation is one of the four of the API.
type operation struct {
	name string // the specification's
	word string // the end of its URI, and its name in the IDs of checks
	kms  string // a KMS operation that leads to it
}

var (
	getHealthStatus = operation{"GetHealthStatus", "health", "KmsHealthCheck"}
	getKeyMetadata  = operation{"GetKeyMetadata", "metadata", "CreateKey"}
	encrypt         = operation{"Encrypt", "encrypt", "GenerateDataKey"}
	decrypt         = operation{"Decrypt", "decrypt", "Decrypt"}

	operations = []operation{getHealthStatus, getKeyMetadata, encrypt, decrypt}
)

// session is the client's side of one run.
type session struct {
	target   Target
	limits   limits
	endpoint *url.URL // scheme and host
	prefix   string   // the URI path prefix, before /kms/xks/v1
	http1    *http.Client
	http2    *http.Client
	signer   *v4.Signer
	firstTLS *tls.ConnectionState // of the first connection
	checkID  string               // of the check that is under way
	*findings
}

// findings are what a run gathers beside its results.
type findings struct {
	seen    observations
	latency []Latency
	load    *Load
}

var hostForm = regexp.MustCompile(`^[^\s/?#@]+$`)

// newSession fills the target's defaults and checks that it makes sense.
func newSession(t Target, l limits) (*session, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "https" || !hostForm.MatchString(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: the URL must be https://host[:port][/prefix]", ErrTarget)
	}
	for _, field := range []struct{ name, value string }{
		{"access key ID", t.AccessKeyID}, {"secret access key", t.SecretAccessKey}, {"key ID", t.KeyID}} {
		if field.value == "" {
			return nil, fmt.Errorf("%w: the %s is missing", ErrTarget, field.name)
		}
	}
	setDefault(&t.Region, "us-east-1")
	setDefault(&t.Principal, "arn:aws:iam::123456789012:user/holdfast-check")
	setDefault(&t.Timeout, 5*time.Second)
	setDefault(&t.Load.Duration, 5*time.Second)
	setDefault(&t.Load.Connections, 32)
	s := &session{target: t, limits: l, signer: v4.NewSigner(), findings: &findings{},
		// KMS calls port 443 alone and its Host header has no port then.
		endpoint: &url.URL{Scheme: "https", Host: strings.TrimSuffix(u.Host, ":443")},
		prefix:   strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), xksPath),
	}
	s.http1, s.http2 = s.client(false), s.client(true)
	return s, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// client speaks one version of HTTP alone.
func (s *session) client(http2 bool) *http.Client {
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	return &http.Client{
		Timeout: s.target.Timeout,
		Transport: &http.Transport{
			TLSClientConfig:     s.tlsConfig(),
			Protocols:           &p,
			DisableCompression:  true,
			MaxIdleConnsPerHost: s.target.Load.Connections,
			IdleConnTimeout:     time.Minute,
		},
		// An answer that sends KMS elsewhere is an answer to be judged.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *session) tlsConfig(protocols ...string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.target.RootCAs,
		ServerName: s.endpoint.Hostname(), NextProtos: protocols}
	if s.target.ClientCert != nil {
		c.Certificates = []tls.Certificate{*s.target.ClientCert}
	}
	return c
}

// during is the session with the ID of the check under way.
func (s *session) during(id string) *session {
	c := *s
	c.checkID = id
	return &c
}

func (s *session) close() {
	s.http1.CloseIdleConnections()
	s.http2.CloseIdleConnections()
}

func (s *session) url() string { return s.endpoint.String() + s.prefix + xksPath }

// address is where to dial.
func (s *session) address() string {
	if s.endpoint.Port() == "" {
		return net.JoinHostPort(s.endpoint.Hostname(), "443")
	}
	return s.endpoint.Host
}

// dial opens a TLS connection, for what net/http would not do. ctx bounds the
// handshake; closing is the caller's.
func (s *session) dial(ctx context.Context, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.target.Timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.address())
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// connect opens a first connection, which shows whether there is a proxy at all.
func (s *session) connect(ctx context.Context) error {
	conn, err := s.dial(ctx, s.tlsConfig("h2", "http/1.1"))
	if err != nil {
		hint := ""
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			hint = " (is the certificate's CA among the trusted ones?)"
		}
		return fmt.Errorf("%w: %s: %w%s", ErrConnect, s.address(), err, hint)
	}
	state := conn.ConnectionState()
	s.firstTLS = &state
	return conn.Close()
}

// object is a JSON object in the making.
type object map[string]any

// with is the object with one more field.
func (o object) with(field string, value any) object {
	c := maps.Clone(o)
	c[field] = value
	return c
}

// without is the object less a field.
func (o object) without(field string) object {
	c := maps.Clone(o)
	delete(c, field)
	return c
}

// metadata is the object with its requestMetadata changed.
func (o object) metadata(change func(object) object) object {
	return o.with("requestMetadata", change(o["requestMetadata"].(object)))
}

// request is the requestMetadata that an operation requires, to which the
// operation's own fields are to be added.
func (s *session) request(op operation) object {
	m := object{"kmsRequestId": requestID(), "kmsOperation": op.kms}
	if op != getHealthStatus {
		m["awsPrincipalArn"] = s.target.Principal
	}
	if op == encrypt || op == decrypt {
		m["kmsKeyArn"] = "arn:aws:kms:" + s.target.Region + ":123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	}
	return object{"requestMetadata": m}
}

// requestID is a fresh one of the form that KMS usually sends.
func requestID() string {
	b := random(16)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// path is the path of an operation's URI.
func (s *session) path(op operation, keyID string) string {
	if op == getHealthStatus {
		return s.prefix + xksPath + "/health"
	}
	return s.prefix + xksPath + "/keys/" + keyID + "/" + op.word
}

// call is one request: what is signed, how, and what becomes of it afterwards.
type call struct {
	method, path string
	body         []byte
	header       http.Header // signed besides host and x-amz-date

	accessKeyID, secret, region, service string
	at                                   time.Time

	forge  func(*forgery)      // not nil: signed by a forgery, changed so
	tamper func(*http.Request) // not nil: changes the signed request
	sent   []byte              // not nil: goes instead of the body that is signed
	client *http.Client
}

// call is an honest call, to be changed at will. The body is an object, or
// bytes to be sent as they are.
func (s *session) call(op operation, keyID string, body any) call {
	return call{method: http.MethodPost, path: s.path(op, keyID), body: encode(body),
		accessKeyID: s.target.AccessKeyID, secret: s.target.SecretAccessKey,
		region: s.target.Region, service: service, at: time.Now(), client: s.http1}
}

func encode(body any) []byte {
	if b, ok := body.([]byte); ok {
		return b
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // only objects of this package come here, and they encode
	}
	return b
}

// ask makes an honest call.
func (s *session) ask(ctx context.Context, op operation, keyID string, body any) answer {
	return s.send(ctx, s.call(op, keyID, body))
}

// send makes a call. A proxy that is throttling is given time, since no check
// is about its quota.
func (s *session) send(ctx context.Context, c call) answer {
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		a := s.sendOnce(ctx, c)
		if a.status != http.StatusTooManyRequests || wait > 2*time.Second {
			s.seen.record(s.checkID, c.method, a)
			return a
		}
		select {
		case <-ctx.Done():
			return answer{lost: ctx.Err()}
		case <-time.After(wait):
		}
	}
}

// sendOnce makes a call, once, and observes nothing.
func (s *session) sendOnce(ctx context.Context, c call) answer {
	r, err := s.sign(ctx, c)
	if err != nil {
		return answer{lost: err}
	}
	begin := time.Now()
	resp, err := c.client.Do(r)
	if err != nil {
		return answer{lost: err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{lost: err}
	}
	return newAnswer(resp, body, time.Since(begin)) // if it is longer, it is no JSON
}

// sign makes the request of a call. Like KMS it signs host and x-amz-date
// (spec, Appendix A), and what else the call says.
func (s *session) sign(ctx context.Context, c call) (*http.Request, error) {
	u := *s.endpoint
	u.Path = c.path
	sent := c.body
	if c.sent != nil {
		sent = c.sent
	}
	r, err := http.NewRequestWithContext(ctx, c.method, u.String(), bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if c.forge != nil {
		f := newForgery(c)
		c.forge(&f)
		r.Header.Set("X-Amz-Date", f.stamp)
		r.Header.Set("Authorization", f.authorization(r, c.body))
	} else {
		// The signer signs all headers that it finds, so it finds a bare request.
		bare := &http.Request{Method: c.method, URL: r.URL, Host: r.Host, Header: c.header.Clone()}
		if bare.Header == nil {
			bare.Header = http.Header{}
		}
		hash := sha256.Sum256(c.body)
		signer := s.signer
		if c.secret != s.target.SecretAccessKey {
			// The signer keeps derived keys, by access key ID and not by secret.
			signer = v4.NewSigner()
		}
		err := signer.SignHTTP(ctx, aws.Credentials{AccessKeyID: c.accessKeyID, SecretAccessKey: c.secret},
			bare, hex.EncodeToString(hash[:]), c.service, c.region, c.at.UTC())
		if err != nil {
			return nil, err
		}
		r.Header = bare.Header
	}
	if r.Header.Get("Content-Type") == "" && len(sent) > 0 {
		r.Header.Set("Content-Type", jsonType)
	}
	r.Header.Set("User-Agent", userAgent)
	if c.tamper != nil {
		c.tamper(r)
	}
	return r, nil
}

// answer is what came back.
type answer struct {
	status int // 0 if nothing came
	proto  string
	header http.Header
	fields map[string]any // of the body; nil if that is not one JSON object
	lost   error          // why nothing came
	took   time.Duration
}

func newAnswer(resp *http.Response, body []byte, took time.Duration) answer {
	a := answer{status: resp.StatusCode, proto: resp.Proto, header: resp.Header, took: took}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&a.fields) != nil {
		a.fields = nil
	} else if _, err := d.Token(); err != io.EOF {
		a.fields = nil
	}
	return a
}

func (a answer) ok() bool { return a.status == http.StatusOK && a.fields != nil }

func (a answer) errorName() string {
	name, _ := a.fields["errorName"].(string)
	return name
}

var nameForm = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// String is the status and the error's name, and nothing that may be secret.
func (a answer) String() string {
	switch {
	case a.lost != nil:
		return "no answer: " + reason(a.lost)
	case a.errorName() == "" && a.fields != nil:
		return fmt.Sprint(a.status)
	case a.fields == nil:
		return fmt.Sprint(a.status, ", not a JSON object")
	case !nameForm.MatchString(a.errorName()):
		return fmt.Sprint(a.status, " and a malformed errorName")
	}
	return fmt.Sprint(a.status, " ", a.errorName())
}

// reason is why a connection failed, in a few words and without the URL.
func reason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "timed out"
	}
	if u, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return u.Error()
	}
	return err.Error()
}

// wantOK demands a success.
func wantOK(a answer) verdict {
	if !a.ok() {
		return fail("%v instead of 200", a)
	}
	return pass("%v", a)
}

// wantError demands one of the named errors with the status the table gives it.
func wantError(a answer, names ...string) verdict {
	if name := a.errorName(); slices.Contains(names, name) && a.status == statusOf[name] {
		return pass("%v", a)
	}
	wanted := make([]string, len(names))
	for i, name := range names {
		wanted[i] = fmt.Sprint(statusOf[name], " ", name)
	}
	return fail("%v instead of %s", a, strings.Join(wanted, " or "))
}

// at adds where it was seen to a verdict that is not a pass.
func (v verdict) at(where string) verdict {
	if v.outcome != Pass {
		v.detail = where + ": " + v.detail
	}
	return v
}

// each tries several things and gives the first verdict that is not a pass, or
// else the last.
func each[T any](things []T, try func(T) verdict) verdict {
	v := notRun("there was nothing to try")
	for _, thing := range things {
		if v = try(thing); v.outcome != Pass {
			return v
		}
	}
	return v
}
