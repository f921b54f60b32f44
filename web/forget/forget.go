// Package forget answers requests that carry a secret, such as the material of a key,
// so that no copy of the request stays in the buffers of package http and package tls.
package forget

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"
	"unsafe"

	"holdfast/appliance/keyring/scrub"
)

// Answer calls f, which reads the request and writes the answer, and ends the
// connection with it: its buffers are zeroized, where the request still stands in
// clear. The request must have come by HTTP/1; of HTTP/2, where the connection belongs to
// several requests, nothing can be zeroized, and the answer is given as any other.
func Answer(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter)) {
	held := &answer{header: w.Header(), status: http.StatusOK}
	f(held)
	drain(w, r)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(held.status)
		_, _ = w.Write(held.body.Bytes()) // the caller is gone if this fails
		return
	}
	defer conn.Close()
	overwrite(buffered.Reader)
	if c, ok := conn.(*tls.Conn); ok {
		overwriteRecord(c)
	}
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	if err := held.write(conn, r); err == nil {
		linger(conn)
	}
}

// drain reads what f has left of the request's body, if it is not long: the kernel would
// reset a connection that is closed before, and the client might lose the answer. A client
// that waits to be told to send its body is not told so.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime)) // a writer without one has none
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, lingerBytes))
}

// answerTime is how long the client may take to read the answer.
const answerTime = 10 * time.Second

// answer is one that is held back until the connection is taken over.
type answer struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if !a.wrote {
		a.status, a.wrote = status, true
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.wrote = true
	return a.body.Write(p)
}

func (a *answer) write(w io.Writer, r *http.Request) error {
	a.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if a.header.Get("Content-Type") == "" && a.body.Len() > 0 {
		a.header.Set("Content-Type", http.DetectContentType(a.body.Bytes())) // as package http does
	}
	return (&http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Request: r, Close: true,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()),
	}).Write(w)
}

// overwrite fills the reader's buffer with zeros. What was in it and not read was no part
// of the request.
func overwrite(r *bufio.Reader) {
	r.Reset(zeros{})
	_, _ = r.Peek(r.Size()) // zeros have no end
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// linger has the client see the end of the answer before the connection is closed: what
// it sent meanwhile would otherwise make the kernel reset the connection.
func linger(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, lingerBytes))
	}
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// overwriteRecord zeroizes the last records that were received: package tls decrypts in
// place and keeps the buffer until the next one. Nobody reads from the connection any
// more.
func overwriteRecord(c *tls.Conn) {
	if f := reflect.ValueOf(c).Elem().FieldByName("rawInput"); f.IsValid() {
		scrub.Erase(reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Interface())
	}
}
