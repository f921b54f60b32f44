// Package instance asks an EC2 instance's metadata service (IMDS) who the instance
// is, and for the user data that whoever launched it gave. It takes session tokens
// (IMDSv2) and never asks without one.
//
// Nothing of it is proven, and user data come from outside: nothing that is
// attested or released depends on them.
package instance

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"time"

	"holdfast/attest/ec2"
)

// DefaultURL is where the service is (EC2 User Guide, "Access instance metadata").
const DefaultURL = "http://169.254.169.254"

const (
	// maxAnswer bounds what is read of an answer; user data have at most that.
	maxAnswer = 16 << 10
	// timeout bounds each of the two requests that an answer takes.
	timeout = time.Second
	// tokenSeconds is how long a token is good for: for one question.
	tokenSeconds = "10"
)

// ErrNone says that the service has no such thing.
var ErrNone = errors.New("there is none")

// Metadata is the service.
type Metadata struct {
	url  string
	http *http.Client
}

// NewMetadata makes a client of the service at a URL; of [DefaultURL] if it is
// empty. No proxy is used and no redirect followed.
func NewMetadata(url string) *Metadata {
	if url == "" {
		url = DefaultURL
	}
	return &Metadata{url, &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: timeout}).DialContext, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxAnswer},
	}}
}

// UserData gives the user data. Errors: [ErrNone].
func (m *Metadata) UserData(ctx context.Context) ([]byte, error) {
	return m.get(ctx, "/latest/user-data")
}

// Identity gives the instance's identity. Errors: [ErrNone].
func (m *Metadata) Identity(ctx context.Context) (*Identity, error) {
	text, err := m.get(ctx, "/latest/dynamic/instance-identity/document")
	if err != nil {
		return nil, err
	}
	return ec2.ParseInstance(text)
}

// Signed gives the instance's identity as EC2 has signed it: a PKCS#7 SignedData by RSA-2048,
// which package attest/ec2 reads. Errors: [ErrNone].
func (m *Metadata) Signed(ctx context.Context) ([]byte, error) {
	text, err := m.get(ctx, "/latest/dynamic/instance-identity/rsa2048")
	if err != nil {
		return nil, err
	}
	// The lines of a PEM file without its first and last (EC2 User Guide).
	der, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
	if err != nil {
		return nil, fmt.Errorf("instance metadata: the signed identity is not in Base64: %w", err)
	}
	if _, err := ec2.Parse(der); err != nil {
		return nil, fmt.Errorf("instance metadata: %w", err)
	}
	return der, nil
}

var token = regexp.MustCompile(`^[A-Za-z0-9+/=_.-]{1,512}$`)

func (m *Metadata) get(ctx context.Context, path string) ([]byte, error) {
	answer, err := m.do(ctx, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", tokenSeconds)
	if err != nil {
		return nil, fmt.Errorf("instance metadata: token: %w", err)
	}
	answer = bytes.TrimSpace(answer)
	if !token.Match(answer) {
		return nil, errors.New("instance metadata: token: what was given is none")
	}
	answer, err = m.do(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", string(answer))
	if err != nil {
		return nil, fmt.Errorf("instance metadata: %s: %w", path, err)
	}
	return answer, nil
}

func (m *Metadata) do(ctx context.Context, method, path, header, value string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, m.url+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(header, value)
	response, err := m.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return nil, ErrNone
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d", response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return text, err
}
