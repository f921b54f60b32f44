package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/web/operation"
)

// Client calls the admin API.
type Client struct {
	// where names the appliance in errors, base comes before [operation.Prefix].
	where, base string
	token       string
	http        http.Client
	// Reason says why, for the person who approves what needs one; empty for none.
	Reason string
	// seen is the newest change that an answer was made after: behind a balancer the next
	// request may go to another node.
	seen atomic.Uint64
}

// NewClient makes a client of the appliance's Unix socket; it connects with the
// first call.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{where: "admin socket " + socket, base: "http://holdfast", http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// NewRemoteClient makes a client of an appliance elsewhere, "https://HOST:PORT",
// with an API token. Roots are those that its certificate is signed under; nil for
// the system's.
func NewRemoteClient(server, token string, roots *x509.CertPool) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("server %q: give the console's address, such as https://holdfast.example.com:9443", server)
	}
	return &Client{where: server, base: "https://" + u.Host, token: token, http: http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Proxy: http.ProxyFromEnvironment},
		// A token is for the server that was named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Do calls a route, such as "GET" "keystores/demo/keys", with body as JSON
// unless nil, and decodes the answer into result unless nil. The API's own
// refusals come back as [*fault.Fault]; [*operation.Pending] if it waits for approval.
func (c *Client) Do(ctx context.Context, method, path string, body, result any) error {
	return c.DoIfMatch(ctx, method, path, "", body, result)
}

// DoIfMatch is Do, refused with [fault.Stale] unless what it changes has the
// revision; an empty one matches all.
func (c *Client) DoIfMatch(ctx context.Context, method, path, revision string, body, result any) error {
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
	return c.call(ctx, operation.Sending{Method: method, Path: path, Revision: revision, Body: in, BodyType: operation.MediaType}, func(answer *http.Response) error {
		text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
		if err != nil || result == nil {
			return err
		}
		return json.Unmarshal(text, result)
	})
}

// Download gets what a route streams, such as "backup", into w.
func (c *Client) Download(ctx context.Context, path string, w io.Writer) error {
	return c.call(ctx, operation.Sending{Method: http.MethodGet, Path: path}, func(answer *http.Response) error {
		_, err := io.Copy(w, answer.Body)
		return err
	})
}

// Backup gets a backup into w, and gives what is in it: the report names the first
// damaged rows. Approval is the ID of the request by which a second person has approved it;
// empty if none was asked.
func (c *Client) Backup(ctx context.Context, approval string, w io.Writer) (*appliance.BackupReport, error) {
	report := &appliance.BackupReport{}
	path := strings.TrimPrefix(operation.Backup.Path, "/")
	if approval != "" {
		path += "?" + url.Values{"approval": {approval}}.Encode()
	}
	return report, c.call(ctx, operation.Sending{Method: operation.Backup.Method, Path: path}, func(answer *http.Response) error {
		text, err := base64.StdEncoding.DecodeString(answer.Header.Get(operation.ReportHeader))
		if err == nil {
			err = json.Unmarshal(text, report)
		}
		if err != nil {
			return fmt.Errorf("the answer does not say what is in the backup (header %s); use a holdfast of the appliance's version: %w", operation.ReportHeader, err)
		}
		_, err = io.Copy(w, answer.Body)
		return err
	})
}

// Upload streams r to a route, such as "restore", and decodes the answer into
// result.
func (c *Client) Upload(ctx context.Context, path string, r io.Reader, result any) error {
	return c.call(ctx, operation.Sending{Method: http.MethodPost, Path: path, Body: r}, func(answer *http.Response) error {
		return json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(result)
	})
}

// Send implements [operation.Client].
func (c *Client) Send(ctx context.Context, s operation.Sending, take func(answer io.Reader) error) error {
	return c.call(ctx, s, func(answer *http.Response) error { return take(answer.Body) })
}

// call sends a request and has take read the answer, if it is no refusal.
func (c *Client) call(ctx context.Context, s operation.Sending, take func(*http.Response) error) error {
	req, err := http.NewRequestWithContext(ctx, s.Method, c.base+operation.Prefix+"/"+s.Path, s.Body)
	if err != nil {
		return err
	}
	if s.Revision != "" {
		req.Header.Set("If-Match", s.Revision)
	}
	if s.Body != nil && s.BodyType != "" {
		req.Header.Set("Content-Type", s.BodyType)
	}
	if c.Reason != "" {
		req.Header.Set(operation.ReasonHeader, url.PathEscape(c.Reason))
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if n := c.seen.Load(); n > 0 {
		req.Header.Set(PositionHeader, strconv.FormatUint(n, 10))
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: permission denied: run this as the user that the appliance runs as", c.where)
	case c.token == "" && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return fmt.Errorf("%s: no appliance listens there: start one, or name its socket with --socket or HOLDFAST_SOCKET", c.where)
	case err != nil:
		return fmt.Errorf("%s: %w", c.where, errors.Unwrap(err))
	}
	if n, err := strconv.ParseUint(res.Header.Get(PositionHeader), 10, 64); err == nil {
		c.seen.Store(max(n, c.seen.Load()))
	}
	defer res.Body.Close()
	body := io.LimitReader(res.Body, maxAnswer)
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated:
		if err := take(res); err != nil {
			return fmt.Errorf("%s: %w", c.where, err)
		}
		return nil
	case http.StatusAccepted:
		p := &operation.Pending{Request: &approval.Request{}}
		if err := json.NewDecoder(body).Decode(p.Request); err != nil {
			return fmt.Errorf("%s: %w", c.where, err)
		}
		return p
	}
	f, err := readProblem(body)
	if err != nil {
		return fmt.Errorf("%s: answered %s", c.where, res.Status)
	}
	return f
}

// Path joins the parts of a route's path, each escaped.
func Path(parts ...string) string {
	out := ""
	for i, p := range parts {
		if i > 0 {
			out += "/"
		}
		out += url.PathEscape(p)
	}
	return out
}
