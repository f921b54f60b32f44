package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"holdfast/appliance"
)

// Client calls the admin API over the appliance's Unix socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of the socket; it connects with the first call.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Do calls a route, such as "GET" "keystores/demo/keys", with body as JSON
// unless nil, and decodes the answer into result unless nil. The API's own
// refusals come back as [*appliance.Error].
func (c *Client) Do(ctx context.Context, method, route string, body, result any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var in io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		defer clear(encoded) // it may hold key material
		in = bytes.NewReader(encoded)
	}
	return c.call(ctx, method, route, in, func(answer io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
		if err != nil || result == nil {
			return err
		}
		return json.Unmarshal(text, result)
	})
}

// Download gets what a route streams, such as "backup", into w.
func (c *Client) Download(ctx context.Context, route string, w io.Writer) error {
	return c.call(ctx, http.MethodGet, route, nil, func(answer io.Reader) error {
		_, err := io.Copy(w, answer)
		return err
	})
}

// Upload streams r to a route, such as "restore", and decodes the answer into
// result.
func (c *Client) Upload(ctx context.Context, route string, r io.Reader, result any) error {
	return c.call(ctx, http.MethodPost, route, r, func(answer io.Reader) error {
		return json.NewDecoder(io.LimitReader(answer, maxAnswer)).Decode(result)
	})
}

// call sends a request and has take read the answer, if it is no refusal.
func (c *Client) call(ctx context.Context, method, route string, in io.Reader, take func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://holdfast/api/v1/"+route, in)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("admin socket %s: permission denied: run this as the user that the appliance runs as", c.socket)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("admin socket %s: no appliance listens there: start one, or name its socket with --socket or HOLDFAST_SOCKET", c.socket)
	case err != nil:
		return fmt.Errorf("admin socket %s: %w", c.socket, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var f Failure
		if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&f); err != nil || f.Code == "" {
			return fmt.Errorf("admin socket %s: answered %s", c.socket, res.Status)
		}
		return &appliance.Error{Code: f.Code, Message: f.Message}
	}
	if err := take(res.Body); err != nil {
		return fmt.Errorf("admin socket %s: %w", c.socket, err)
	}
	return nil
}

// Route joins the parts of a route, each escaped.
func Route(parts ...string) string {
	out := ""
	for i, p := range parts {
		if i > 0 {
			out += "/"
		}
		out += url.PathEscape(p)
	}
	return out
}
