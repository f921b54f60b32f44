package xks_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/xks/xkstest"
)

// maxPlaintext is the longest plaintext of the specification (Encrypt).
const maxPlaintext = 4300

// records is a connection that counts the TLS records which come in.
type records struct {
	net.Conn
	n    int
	head []byte // of the record, as far as it is there
	rest int    // of the record
}

func (c *records) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for in := b[:n]; len(in) > 0; {
		if c.rest > 0 {
			skip := min(c.rest, len(in))
			c.rest, in = c.rest-skip, in[skip:]
			continue
		}
		c.head, in = append(c.head, in[0]), in[1:]
		if len(c.head) == 5 { // type, version, length
			c.rest, c.head = int(c.head[3])<<8|int(c.head[4]), c.head[:0]
			c.n++
		}
	}
	return n, err
}

// raw is a connection by HTTP/1.1 of which the bytes are looked at.
type raw struct {
	t       *testing.T
	records *records
	tls     *tls.Conn
	in      *bufio.Reader
}

func dialRaw(t *testing.T, b *xkstest.Bed) *raw {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(b.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := &raw{t: t, records: &records{Conn: c}}
	r.tls = tls.Client(r.records, &tls.Config{RootCAs: b.Roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}})
	r.in = bufio.NewReaderSize(r.tls, 64<<10)
	if err := r.tls.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return r
}

// ask sends a request, and gives status and body of the answer, which must say its length
// and be in one record if head and body fit into the 4096 bytes that net/http gathers.
func (r *raw) ask(q *http.Request) (status string, body []byte) {
	r.t.Helper()
	if err := q.Write(r.tls); err != nil {
		r.t.Fatal(err)
	}
	before, length, all := r.records.n, -1, 0
	for first := true; ; first = false {
		line, err := r.in.ReadString('\n')
		if err != nil {
			r.t.Fatal(err)
		}
		all += len(line)
		if first {
			status = strings.Fields(line)[1]
			before = min(before, r.records.n-1)
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "Content-Length":
			if length, err = strconv.Atoi(value); err != nil {
				r.t.Fatal(err)
			}
		case "Transfer-Encoding":
			r.t.Errorf("%s %s: the answer has %q", q.Method, q.URL.Path, line)
		}
	}
	if length < 0 {
		r.t.Fatalf("%s %s: the answer %s does not say its length", q.Method, q.URL.Path, status)
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(r.in, body); err != nil {
		r.t.Fatal(err)
	}
	if all += length; r.in.Buffered() > 0 {
		r.t.Errorf("%s %s: %d bytes come after the answer", q.Method, q.URL.Path, r.in.Buffered())
	}
	if n := r.records.n - before; n > 1+all/4096 {
		r.t.Errorf("%s %s: an answer of %d bytes comes in %d records", q.Method, q.URL.Path, all, n)
	}
	return status, body
}

// TestEachAnswerSaysItsLength: answers of all operations, of errors and of probes, whatever
// their size, by HTTP/1.1 and by HTTP/2.
func TestEachAnswerSaysItsLength(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	conn := dialRaw(t, b)
	_, _ = conn.ask(k.Request("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})) // the tickets of TLS 1.3 are behind it
	two := *k
	two.HTTP = b.HTTP(2)
	ask := func(version int, want, path string, body any) xkstest.Body {
		t.Helper()
		var status string
		var text []byte
		if version == 1 {
			status, text = conn.ask(k.Request(path, body))
		} else {
			a := two.Call(path, body)
			status, text = fmt.Sprint(a.Status), []byte(a.Text)
			if got := a.Header.Get("Content-Length"); a.Proto != "HTTP/2.0" || got != strconv.Itoa(len(a.Text)) {
				t.Fatalf("%s by %s: an answer of %d bytes says that it has %q", path, a.Proto, len(a.Text), got)
			}
		}
		if status != want {
			t.Fatalf("%s: answered %s %s", path, status, text)
		}
		out := xkstest.Body{}
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	about := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	for version := 1; version <= 2; version++ {
		for n := 1; n <= maxPlaintext; n += 41 + 2*version {
			plaintext := bytes.Repeat([]byte{'x'}, n)
			sealed := ask(version, "200", "/keys/k/encrypt", xkstest.EncryptBody(string(plaintext)))
			if got := ask(version, "200", "/keys/k/decrypt", xkstest.DecryptBody(sealed)).Bytes(t, "plaintext"); !bytes.Equal(got, plaintext) {
				t.Fatalf("%d bytes come back as %d", n, len(got))
			}
		}
		sealed := ask(version, "200", "/keys/k/encrypt", xkstest.EncryptBody(strings.Repeat("x", maxPlaintext)))
		ask(version, "200", "/keys/k/decrypt", xkstest.DecryptBody(sealed))
		ask(version, "200", "/keys/k/metadata", about)
		ask(version, "200", "/health", about)
		ask(version, "501", "/keys/k/encrypt", xkstest.EncryptBody(strings.Repeat("x", maxPlaintext+1)))
		ask(version, "404", "/keys/absent/encrypt", xkstest.EncryptBody("x"))
		ask(version, "400", "/keys/k/encrypt", "{")
		ask(version, "400", "/keys/k/decrypt", xkstest.DecryptBody(sealed).With("authenticationTag", make([]byte, 16)))
	}
	for path, want := range map[string]string{"/healthz": "200", "/readyz": "200"} {
		q, err := http.NewRequest(http.MethodGet, b.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, text := conn.ask(q); status != want {
			t.Errorf("%s: answered %s %s", path, status, text)
		}
	}
}
