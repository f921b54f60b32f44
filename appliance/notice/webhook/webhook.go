// Package webhook posts notices, and messages of other programs, signed as Standard Webhooks
// has it.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/notice"
)

// Config says where notices are posted. The address comes from the configuration file alone, so
// that nobody has the appliance call another one.
type Config struct {
	// URL is https://HOST/PATH.
	URL string
	// Secret signs; [ParseSecret] reads one.
	Secret []byte
	// Roots are the authorities that sign the server's certificate; the system's if nil.
	Roots *x509.CertPool
	// Option is where the URL is configured, for errors: notify.webhook.url if empty.
	Option string
}

// secretPrefix begins a secret as Standard Webhooks writes one.
const secretPrefix = "whsec_"

// ParseSecret reads the secret of a webhook: "whsec_" and 24 to 64 bytes in Base64
// (Standard Webhooks, "Symmetric signatures").
func ParseSecret(text []byte) ([]byte, error) {
	encoded, ok := bytes.CutPrefix(bytes.TrimSpace(text), []byte(secretPrefix))
	secret, err := base64.StdEncoding.DecodeString(string(encoded))
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, errors.New("it is not " + secretPrefix + " and 24 to 64 bytes in Base64: make one with echo " + secretPrefix + "$(openssl rand -base64 32)")
	}
	return secret, nil
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 4 << 10

// New makes a sender that posts.
func New(w Config) (notice.Sender, error) {
	p, err := NewPoster(w)
	if err != nil {
		return nil, err
	}
	return &sender{p}, nil
}

// Poster posts messages. Its methods may be called concurrently.
type Poster struct {
	w    Config
	http *http.Client
}

// NewPoster makes one.
func NewPoster(w Config) (*Poster, error) {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("the webhook's URL %q: give https://HOST/PATH", w.URL)
	}
	if len(w.Secret) == 0 {
		return nil, errors.New("the webhook has no secret")
	}
	w.Option = cmp.Or(w.Option, "notify.webhook.url")
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.Roots}, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10}
	return &Poster{w, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Message is what is posted.
type Message struct {
	// ID is the same each time that it is sent: a receiver can tell a repetition by it.
	ID   string
	Type string
	At   time.Time
	// Data is written as JSON.
	Data any
}

type sender struct{ *Poster }

func (*sender) Way() string     { return "webhook" }
func (*sender) Addressed() bool { return false }

// payload is the body of a post (Standard Webhooks, "Payload structure").
type payload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      any       `json:"data"`
}

// Send implements [notice.Sender].
func (s *sender) Send(ctx context.Context, n notice.Notice, _ string) error {
	m := Message{ID: n.ID, Type: string(n.Event), At: n.At, Data: n.Request}
	switch n.Event {
	case notice.Test:
		m.Data = map[string]string{"sent_by": n.Request.AskedBy}
	case notice.RecoveryCode:
		m.Data = n.Recovery
	}
	return s.Post(ctx, m)
}

// Post posts the message once. The error is a [*notice.Refused] if another try would come to
// the same.
func (p *Poster) Post(ctx context.Context, m Message) error {
	body, err := json.Marshal(payload{Type: m.Type, Timestamp: m.At.UTC(), Data: m.Data})
	if err != nil {
		return &notice.Refused{Err: err}
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, p.w.URL, bytes.NewReader(body))
	if err != nil {
		return &notice.Refused{Err: err}
	}
	at := strconv.FormatInt(time.Now().Unix(), 10) // of this try: receivers refuse what is old
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("User-Agent", "holdfast")
	q.Header.Set("Webhook-Id", m.ID)
	q.Header.Set("Webhook-Timestamp", at)
	q.Header.Set("Webhook-Signature", sign(p.w.Secret, m.ID, at, body))
	res, err := p.http.Do(q)
	if err != nil {
		if about, ok := errors.AsType[*url.Error](err); ok {
			err = about.Err // without the address, whose path may be a secret of the receiver
		}
		return fmt.Errorf("the webhook does not answer: %w", err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // the status says enough
	switch status := res.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooEarly || status == http.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("the webhook answers %.80q", res.Status)
	case status >= 300 && status < 400:
		return &notice.Refused{Err: fmt.Errorf("the webhook answers %.80q, and a redirect is not followed: put the address where it leads into %s", res.Status, p.w.Option)}
	default:
		return &notice.Refused{Err: fmt.Errorf("the webhook answers %.80q", res.Status)}
	}
}

// sign gives the value of Webhook-Signature: HMAC-SHA256 of ID, time and body (Standard Webhooks,
// "Signature scheme").
func sign(secret []byte, id, at string, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(strings.Join([]string{id, at, string(body)}, ".")))
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}
