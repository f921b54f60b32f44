package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// Client calls other nodes. It implements [fleet.Transport].
type Client struct{ http *http.Client }

// NewClient makes one. Connections stay open between calls.
func NewClient() *Client {
	return &Client{&http.Client{
		Timeout: 10 * time.Second, // a call's context ends it before
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
			// The certificate is not verified: each node may have its own, and a name
			// proves nothing here. TLS keeps messages from being read along the way. What
			// makes them true is their MAC, under a key of the installation, which binds
			// each answer to its call and to both nodes. So whoever stands between two
			// nodes can withhold messages and nothing else.
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
			TLSHandshakeTimeout: 2 * time.Second,
			MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4,
			IdleConnTimeout:        30 * time.Second,
			ResponseHeaderTimeout:  5 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call implements [fleet.Transport]. Errors: what the other node answers, as a fault;
// fault.Unreachable.
func (c *Client) Call(ctx context.Context, address string, message []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+Path, bytes.NewReader(message))
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "the address %q of a node is none", address)
	}
	request.Header.Set("Content-Type", mediaType)
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fault.Wrapf(fault.Unreachable, err, "the node at %s does not answer", address)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, fleet.MaxMessage+1))
	switch {
	case err != nil:
		return nil, fault.Wrapf(fault.Unreachable, err, "the node at %s did not answer to the end", address)
	case len(body) > fleet.MaxMessage:
		return nil, fault.Errorf(fault.TooLarge, "the node at %s has answered with more than %d bytes", address, fleet.MaxMessage)
	case answer.StatusCode == http.StatusOK && answer.Header.Get("Content-Type") == mediaType:
		return body, nil
	}
	if why, err := operation.ReadProblem(bytes.NewReader(body)); err == nil {
		return nil, why
	}
	return nil, fault.Errorf(fault.Unreachable, "what is at %s is no node: it answers with the status %d", address, answer.StatusCode)
}
