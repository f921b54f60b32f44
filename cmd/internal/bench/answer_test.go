package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// answerWith serves each connection the same bytes after each request, in pieces of a length, and closes it after the
// requests if they are given.
func answerWith(t *testing.T, answer string, piece, requests int) *generator {
	certificates, trust := certificateOf(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go answerRequests(c, answer, piece, requests)
		}
	}()
	g, err := connect(t.Context(), l.Addr().String(), trust, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	if err := g.connections[0].setDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return g
}

func answerRequests(c net.Conn, answer string, piece, requests int) {
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 0; requests == 0 || n < requests; n++ {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		for some := range slices.Chunk([]byte(answer), piece) {
			if _, err := c.Write(some); err != nil {
				return
			}
		}
	}
}

// certificateOf gives a certificate for 127.0.0.1, and how to trust it.
func certificateOf(t *testing.T) ([]tls.Certificate, *tls.Config) {
	s := &site{dir: t.TempDir()}
	if err := s.makeCertificate(); err != nil {
		t.Fatal(err)
	}
	c, err := tls.LoadX509KeyPair(s.certificateFile(), s.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{c}, s.trust
}

// TestAnswers: whatever a server may send as HTTP/1.1 is read, however it is cut.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", maxAnswer)
	for _, c := range []struct{ name, text, body, fails string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\nok", "ok", ""},
		{"small letters", "HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok", "ok", ""},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "ok", ""},
		{"nothing", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", ""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\nA;x=y\r\nkkkkkkkkkk\r\n0\r\n\r\n", "okkkkkkkkkk", ""},
		{"trailer", "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", "ok", ""},
		{"provisional", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", ""},
		{"refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nkeys", "", `answered 403: "keys"`},
		{"refused in chunks", "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", "", `answered 500: "no"`},
		{"negative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "", "Content-Length"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", "", "Content-Length"},
		{"too long", "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", "", "longer than"},
		{"head too long", "HTTP/1.1 200 OK\r\nX: " + long, "", "longer than"},
		{"chunk too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", "", "longer than"},
		{"no chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "", "chunk of the size"},
		{"chunk longer than it says", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n", "", "chunk that is longer"},
		{"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "", "Transfer-Encoding"},
		{"no colon", "HTTP/1.1 200 OK\r\nnothing\r\n\r\n", "", "without a colon"},
		{"other protocol", "SSH-2.0-x\r\n", "", "not HTTP/1.1"},
	} {
		for _, piece := range []int{1, 7, len(c.text)} {
			if piece == 1 && len(c.text) > maxAnswer {
				continue
			}
			g := answerWith(t, c.text, piece, 0)
			for range 2 { // the connection goes on
				body, err := g.connections[0].exchange(request)
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Errorf("%s, in pieces of %d: %q, %v", c.name, piece, body, err)
					}
					break
				}
				if err != nil || string(body) != c.body {
					t.Errorf("%s, in pieces of %d: %q, %v", c.name, piece, body, err)
				}
			}
		}
	}
}

// TestAnswerLongerThanItSays: two answers to one request are one too many.
func TestAnswerLongerThanItSays(t *testing.T) {
	g := answerWith(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", 100, 0)
	if body, err := g.connections[0].exchange(request); err == nil || !strings.Contains(err.Error(), "1 bytes longer") {
		t.Errorf("%q, %v", body, err)
	}
}

// TestServerCloses: a server that closes its connections is called over new ones.
func TestServerCloses(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\n\r\nok",
	} {
		c := answerWith(t, text, 100, 1).connections[0]
		for range 3 {
			if body, err := c.exchange(request); err != nil || string(body) != "ok" {
				t.Errorf("%q: %q, %v", text, body, err)
			}
		}
		if c.redials != 2 {
			t.Errorf("%q: %d new connections for three requests", text, c.redials)
		}
	}
	c := answerWith(t, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", 100, 1).connections[0]
	if body, err := c.exchange(request); err == nil || err.Error() != io.ErrUnexpectedEOF.Error() {
		t.Errorf("half an answer: %q, %v", body, err)
	}
}

// TestExchangeAllocates nothing: what the generator does is missing to the server.
func TestExchangeAllocates(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		c := &connection{buf: make([]byte, maxAnswer)}
		c.to = copy(c.buf, text)
		// The first lines are in the buffer already, as after one read.
		if n := testing.AllocsPerRun(100, func() {
			h, err := c.head()
			if err == nil {
				_, err = c.body(h)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.to = copy(c.buf, text)
		}); n > 0 {
			t.Errorf("%q: %.0f allocations", text, n)
		}
	}
}
