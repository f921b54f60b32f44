package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"
)

// connection is one TLS connection that speaks HTTP/1.1. It reads what any
// server may answer, in one buffer and without allocations: net/http would cost
// the generator more than some servers need for the request.
type connection struct {
	dial     func() (*tls.Conn, error)
	deadline time.Time
	buf      []byte
	// to is where what was read of the answer ends in buf.
	to int
	// ended is whether the server has said that it closes the connection.
	ended bool
	// redials counts how often it was opened once more, because the server had closed it.
	redials int

	mu  sync.Mutex // guards tls from being closed while it is replaced
	tls *tls.Conn
}

// maxAnswer is several times the longest answer of the XKS API to what is sent
// here.
const maxAnswer = 16 << 10

// answered is the error of an answer that is not 200.
type answered struct {
	status int
	body   string
}

func (a *answered) Error() string { return fmt.Sprintf("answered %d: %.200q", a.status, a.body) }

// exchange sends a request and gives the body of the answer, which must be 200.
// The body is valid until the next call.
func (c *connection) exchange(request []byte) ([]byte, error) {
	if c.ended {
		if err := c.redial(); err != nil {
			return nil, err
		}
	}
	if _, err := c.tls.Write(request); err != nil {
		return nil, err
	}
	c.to = 0
	h, err := c.head()
	if err != nil {
		return nil, err
	}
	c.ended = h.closes
	body, err := c.body(h)
	if err != nil {
		return nil, err
	}
	if h.status != 200 {
		return nil, &answered{h.status, string(body)}
	}
	return body, nil
}

func (c *connection) redial() error {
	t, err := c.dial()
	if err != nil {
		return err
	}
	if err := t.SetDeadline(c.deadline); err != nil {
		return err
	}
	c.redials++
	c.ended = false
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.tls.Close() // the server has closed it already
	c.tls = t
	return nil
}

// setDeadline says until when exchanges may last, also those over a connection that is opened later.
func (c *connection) setDeadline(t time.Time) error {
	c.deadline = t
	return c.tls.SetDeadline(t)
}

// cut closes the TCP connection at any time: whoever waits on it wakes up.
func (c *connection) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.tls.NetConn().Close() // it may be closed already
}

// fill reads more of the answer.
func (c *connection) fill() error {
	if c.to == len(c.buf) {
		return fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	n, err := c.tls.Read(c.buf[c.to:])
	c.to += n
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// has reads until the answer has so many bytes.
func (c *connection) has(n int) error {
	for c.to < n {
		if err := c.fill(); err != nil {
			return err
		}
	}
	return nil
}

// line gives where the line ends that begins at from, and where the next one begins.
func (c *connection) line(from int) (end, next int, err error) {
	for seen := from; ; {
		if i := bytes.IndexByte(c.buf[seen:c.to], '\n'); i >= 0 {
			end = seen + i
			next = end + 1
			if end > from && c.buf[end-1] == '\r' {
				end--
			}
			return end, next, nil
		}
		seen = c.to
		if err := c.fill(); err != nil {
			return 0, 0, err
		}
	}
}

// head is what matters of the head of an answer.
type head struct {
	size    int // where the body begins
	status  int
	length  int // of the body; -1 if it is not told
	chunked bool
	// closes is whether the connection ends with the answer.
	closes bool
}

// head reads the head of an answer, after those that are only provisional.
func (c *connection) head() (head, error) {
	for at := 0; ; {
		h, err := c.headAt(at)
		if err != nil || h.status >= 200 {
			return h, err
		}
		at = h.size
	}
}

func (c *connection) headAt(at int) (head, error) {
	h := head{length: -1}
	end, next, err := c.line(at)
	if err != nil {
		return h, err
	}
	if err := h.statusLine(c.buf[at:end]); err != nil {
		return h, err
	}
	for {
		at = next
		if end, next, err = c.line(at); err != nil {
			return h, err
		}
		if end == at {
			h.size = next
			return h, nil
		}
		if err := h.field(c.buf[at:end]); err != nil {
			return h, err
		}
	}
}

func (h *head) statusLine(line []byte) error {
	const least = len("HTTP/1.1 200")
	if len(line) < least || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' || len(line) > least && line[least] != ' ' {
		return fmt.Errorf("answered %.40q, which is not HTTP/1.1", line)
	}
	status, err := strconv.ParseUint(string(line[9:least]), 10, 16)
	if err != nil || status < 100 {
		return fmt.Errorf("answered %.40q, which is not HTTP/1.1", line)
	}
	h.status, h.closes = int(status), line[7] == '0'
	return nil
}

var (
	contentLength    = []byte("Content-Length")
	transferEncoding = []byte("Transfer-Encoding")
	connectionField  = []byte("Connection")
)

func (h *head) field(line []byte) error {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return fmt.Errorf("the answer has the header line %.40q without a colon", line)
	}
	name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
	switch {
	case bytes.EqualFold(name, contentLength):
		n, err := strconv.ParseUint(string(value), 10, 31)
		if err != nil || h.length >= 0 && h.length != int(n) {
			return fmt.Errorf("the answer's Content-Length is %.40q", value)
		}
		h.length = int(n)
	case bytes.EqualFold(name, transferEncoding):
		if !bytes.EqualFold(value, []byte("chunked")) {
			return fmt.Errorf("the answer's Transfer-Encoding is %.40q", value)
		}
		h.chunked = true
	case bytes.EqualFold(name, connectionField) && bytes.EqualFold(value, []byte("close")):
		h.closes = true
	}
	return nil
}

// body reads the body behind the head.
func (c *connection) body(h head) ([]byte, error) {
	end := h.size + h.length
	switch {
	case h.chunked:
		return c.chunks(h.size)
	case h.length >= 0:
		if end > len(c.buf) {
			return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
		}
		if err := c.has(end); err != nil {
			return nil, err
		}
		return c.buf[h.size:end], c.nothingBehind(end)
	}
	// It ends where the connection does.
	c.ended = true
	for {
		if err := c.fill(); errors.Is(err, io.ErrUnexpectedEOF) {
			return c.buf[h.size:c.to], nil
		} else if err != nil {
			return nil, err
		}
	}
}

// nothingBehind refuses what follows an answer: one request was sent.
func (c *connection) nothingBehind(end int) error {
	if c.to > end {
		return fmt.Errorf("the answer is %d bytes longer than it says", c.to-end)
	}
	return nil
}

// chunks reads a chunked body that begins at a place, and puts its chunks together there.
func (c *connection) chunks(begin int) ([]byte, error) {
	for at, body := begin, begin; ; {
		end, next, err := c.line(at)
		if err != nil {
			return nil, err
		}
		digits, _, _ := bytes.Cut(c.buf[at:end], []byte(";"))
		size, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("the answer has a chunk of the size %.20q", digits)
		}
		if size == 0 {
			for end > at { // the trailer ends with an empty line
				at = next
				if end, next, err = c.line(at); err != nil {
					return nil, err
				}
			}
			return c.buf[begin:body], c.nothingBehind(next)
		}
		if size > math.MaxInt32 || next+int(size) > len(c.buf) {
			return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
		}
		if err := c.has(next + int(size)); err != nil {
			return nil, err
		}
		body += copy(c.buf[body:], c.buf[next:next+int(size)])
		at = next + int(size)
		if end, next, err = c.line(at); err != nil {
			return nil, err
		} else if end != at {
			return nil, errors.New("the answer has a chunk that is longer than it says")
		}
		at = next
	}
}
