package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
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
	// IdempotencyKey has the changes of this client be those of another one with the same key,
	// that sent the same: the first change has it, and those that follow the key with their
	// number. Empty for a fresh key for each.
	IdempotencyKey string
	// changes counts those that were sent.
	changes atomic.Uint64
	// seen is the newest change that an answer was made after: behind a balancer the next
	// request may go to another node.
	seen atomic.Uint64
	// keeps says whether the newest answer was of an appliance that keeps idempotency keys.
	keeps atomic.Bool
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

// key gives the idempotency key of the next change, and whether it was chosen here.
func (c *Client) key() (key string, fresh bool) {
	n := c.changes.Add(1)
	switch {
	case c.IdempotencyKey == "":
		return rand.Text(), true
	case n == 1:
		return c.IdempotencyKey, false
	}
	return c.IdempotencyKey + "-" + strconv.FormatUint(n, 10), false
}

// call sends a request and has take read the answer, if it is no refusal. A change has an
// idempotency key: if the connection breaks after it was sent, it is sent once more, and is done
// once. It is not sent again where the appliance is not known to keep such keys.
func (c *Client) call(ctx context.Context, what operation.Sending, take func(*http.Response) error) error {
	s := sending{Sending: what, take: take}
	fresh := false
	if s.Method != http.MethodGet {
		s.key, fresh = c.key()
	}
	for broken := false; ; {
		unknown, err := c.send(ctx, s)
		again := s.key != "" && s.rewind() && ctx.Err() == nil
		switch {
		case again && fault.CodeOf(err) == fault.AnswerPending: // of the sending that was broken off, or of another program
			select {
			case <-time.After(pendingTime):
			case <-ctx.Done():
				return err
			}
		case again && fault.CodeOf(err) == fault.KeysExhausted && fresh: // nothing was done
			s.key = ""
		case again && unknown && !broken && c.kept(ctx):
			broken = true
		case unknown && s.Method != http.MethodGet:
			return fmt.Errorf("%w; nobody here knows whether the change was made: look at what it was to change, and at the audit log (holdfast audit search), before you send it again", err)
		default:
			return err
		}
	}
}

// kept says whether the appliance is known to keep idempotency keys, at all nodes: by the newest
// answer, or by one that is asked for now. An older release would make the change twice.
func (c *Client) kept(ctx context.Context) bool {
	if !c.keeps.Load() {
		ask := sending{Sending: operation.Sending{Method: operation.ShowStatus.Method, Path: strings.TrimPrefix(operation.ShowStatus.Path, "/")}, take: func(*http.Response) error { return nil }}
		_, _ = c.send(ctx, ask) // a refusal says it as well; an error leaves it unknown
	}
	return c.keeps.Load()
}

// pendingTime is how long to wait while the same request is under way.
const pendingTime = time.Second

// sending is a request that may be sent more than once.
type sending struct {
	operation.Sending
	key  string
	take func(*http.Response) error
}

// rewind has the body sent from its begin, and says whether it can.
func (s *sending) rewind() bool {
	body, ok := s.Body.(*bytes.Reader)
	if ok {
		_, _ = body.Seek(0, io.SeekStart) // never fails there
	}
	return ok || s.Body == nil
}

// watched is the body of an answer, and says whether it broke off.
type watched struct {
	io.ReadCloser
	broke *bool
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	*w.broke = *w.broke || err != nil && err != io.EOF //nolint:errorlint // the very value ends a body that is whole
	return n, err
}

// keyHeader is the header of the idempotency key. It is in lower case, which means the same to a
// server: net/http sends a request that has the header in its usual spelling again by itself when a
// connection breaks that was used before, whatever the server is.
var keyHeader = strings.ToLower(operation.IdempotencyKeyHeader)

// send sends a request once. Unknown says that the connection was made and broke, so that nobody
// knows what became of the request.
func (c *Client) send(ctx context.Context, s sending) (unknown bool, err error) {
	connected := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { unknown = true }})
	req, err := http.NewRequestWithContext(connected, s.Method, c.base+operation.Prefix+"/"+s.Path, s.Body)
	if err != nil {
		return false, err
	}
	contentType := ""
	if s.Body != nil {
		contentType = s.BodyType
	}
	for name, value := range map[string]string{"If-Match": s.Revision, "Content-Type": contentType, keyHeader: s.key, operation.ReasonHeader: url.PathEscape(c.Reason)} {
		if value != "" {
			req.Header[name] = []string{value}
		}
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
		return false, fmt.Errorf("%s: permission denied: run this as the user that the appliance runs as", c.where)
	case c.token == "" && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return false, fmt.Errorf("%s: no appliance listens there: start one, or name its socket with --socket or HOLDFAST_SOCKET", c.where)
	case err != nil:
		return unknown, fmt.Errorf("%s: %w", c.where, errors.Unwrap(err))
	}
	c.keeps.Store(res.Header.Get(operation.KeptHeader) != "")
	unknown = false
	res.Body = &watched{res.Body, &unknown}
	defer res.Body.Close()
	if n, err := strconv.ParseUint(res.Header.Get(PositionHeader), 10, 64); err == nil {
		c.seen.Store(max(n, c.seen.Load()))
	}
	err = c.took(res, s.take)
	return unknown, err
}

// took has an answer read.
func (c *Client) took(res *http.Response, take func(*http.Response) error) error {
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
