package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// Client calls other nodes. It implements [fleet.Transport].
type Client struct {
	http            *http.Client
	path, mediaType string
	most            int64 // bytes of an answer
}

// NewClient makes one that sends heartbeats. Connections stay open between calls.
func NewClient() *Client { return newClient(Path, mediaType, fleet.MaxMessage, 4) }

// NewAsker makes one that asks questions ([fleet.Calls]). Its connections are its own, so
// that no heartbeat waits for an answer.
func NewAsker() *Client { return newClient(AskPath, askMediaType, fleet.MaxAnswer, 32) }

// newClient makes one with so many connections to each node.
func newClient(path, mediaType string, most int64, connections int) *Client {
	return &Client{path: path, mediaType: mediaType, most: most, http: &http.Client{
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
			MaxIdleConnsPerHost: connections / 2, MaxConnsPerHost: connections,
			IdleConnTimeout:        30 * time.Second,
			ResponseHeaderTimeout:  6 * time.Second, // an answer is worked out for 5 s at most
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
	if !appliance.ValidNodeAddress(address) {
		return nil, fault.Errorf(fault.Invalid, "the address %.300q of a node is not HOST:PORT", address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+c.path, bytes.NewReader(message))
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "the address %q of a node is none", address)
	}
	request.Header.Set("Content-Type", c.mediaType)
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fault.Wrapf(fault.Unreachable, err, "the node at %s does not answer", address)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, c.most+1))
	switch {
	case err != nil:
		return nil, fault.Wrapf(fault.Unreachable, err, "the node at %s did not answer to the end", address)
	case int64(len(body)) > c.most:
		return nil, fault.Errorf(fault.TooLarge, "the node at %s has answered with more than %d bytes", address, c.most)
	case answer.StatusCode == http.StatusOK && answer.Header.Get("Content-Type") == c.mediaType:
		return body, nil
	}
	if why, err := operation.ReadProblem(bytes.NewReader(body)); err == nil {
		return nil, why
	}
	return nil, fault.Errorf(fault.Unreachable, "what is at %s is no node: it answers with the status %d", address, answer.StatusCode)
}
