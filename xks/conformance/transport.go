package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"time"
)

const (
	contentSource  = "spec: API content type"
	slowSource     = "good practice: who is slow does not hold what KMS needs"
	mutualSource   = "spec: Authentication"
	expirySoon     = 30 * 24 * time.Hour
	maxHeaderFlood = 8 << 20
)

var needClientCert = need{"a client certificate", func(t *Target) string {
	if t.ClientCert == nil {
		return ""
	}
	return "given"
}}

// tlsChecks are about the connection before HTTP.
var tlsChecks = []check{
	{id: "tls/version", rule: "TLS 1.2 or later is negotiated.", source: contentSource,
		run: func(_ context.Context, s *session) verdict {
			if s.firstTLS.Version < tls.VersionTLS12 {
				return fail("%s", tls.VersionName(s.firstTLS.Version))
			}
			return pass("%s", tls.VersionName(s.firstTLS.Version))
		}},
	{id: "tls/old-versions", rule: "TLS 1.0 and 1.1 are refused.", source: contentSource, run: checkOldTLS},
	{id: "tls/suites", rule: "At least one of the specification's four cipher suites is supported.", source: contentSource, run: checkSuites},
	{id: "tls/key-exchange", rule: "The post-quantum key exchange X25519MLKEM768 is negotiated with a client that offers it.", source: "good practice: what is recorded today is not to be read later",
		run: func(_ context.Context, s *session) verdict {
			if s.firstTLS.CurveID != tls.X25519MLKEM768 {
				return warn("%v", s.firstTLS.CurveID)
			}
			return pass("%v", s.firstTLS.CurveID)
		}},
	{id: "tls/certificate-name", rule: "The certificate's subject common name is the endpoint's name, which KMS demands.", source: "AWS KMS Developer Guide: external key store proxy, XKS_PROXY_INVALID_TLS_CONFIGURATION", run: checkCommonName},
	{id: "tls/certificate-expiry", rule: "The certificate is good for another 30 days.", source: "AWS KMS Developer Guide: XksProxyCertificateDaysToExpire",
		run: func(_ context.Context, s *session) verdict {
			left := time.Until(s.firstTLS.PeerCertificates[0].NotAfter)
			if left < expirySoon {
				return warn("%d days left", int(left.Hours()/24))
			}
			return pass("%d days left", int(left.Hours()/24))
		}},
	{id: "tls/client-certificate-required", rule: "A proxy that authenticates KMS by certificate refuses a client without one: in the handshake, or each call by 401.", source: mutualSource, needs: needClientCert,
		run: func(ctx context.Context, s *session) verdict {
			return s.stranger(ctx, nil)
		}},
	{id: "tls/client-certificate-other", rule: "A proxy that authenticates KMS by certificate refuses one with another name or of another authority.", source: mutualSource, needs: needClientCert,
		run: func(ctx context.Context, s *session) verdict {
			other, err := selfSigned(s.target.ClientCert)
			if err != nil {
				return notRun("%v", err)
			}
			return s.stranger(ctx, other)
		}},
}

// httpChecks are about HTTP below the API.
var httpChecks = []check{
	{id: "http/slow-body", rule: "A body that arrives byte by byte is cut off in bounded time.", source: slowSource, slow: true,
		run: func(ctx context.Context, s *session) verdict { return s.slowly(ctx, false) }},
	{id: "http/slow-headers", rule: "Headers that arrive byte by byte are cut off in bounded time.", source: slowSource, slow: true,
		run: func(ctx context.Context, s *session) verdict { return s.slowly(ctx, true) }},
	{id: "http/1.1", rule: "HTTP/1.1 is spoken.", source: contentSource,
		run: func(ctx context.Context, s *session) verdict { return s.speaks(ctx, s.http1, "HTTP/1.1") }},
	{id: "http/2", rule: "HTTP/2 is spoken, if it is offered in the TLS handshake.", source: contentSource,
		run: func(ctx context.Context, s *session) verdict {
			if s.firstTLS.NegotiatedProtocol != "h2" {
				return notRun("the proxy does not offer HTTP/2")
			}
			return s.speaks(ctx, s.http2, "HTTP/2.0")
		}},
	{id: "http/same-answers", rule: "The answers do not depend on the version of HTTP.", source: contentSource, run: checkSameAnswers},
	{id: "http/keep-alive", rule: "Connections are kept open for further requests.", source: "AWS KMS Developer Guide: a handshake per request does not fit into 250 ms", run: checkKeepAlive},
	{id: "http/garbage", rule: "What is not HTTP is answered 4xx or the connection is closed, and the proxy goes on serving.", source: "RFC 9112 section 3", run: checkGarbage},
	{id: "http/two-lengths", rule: "A request with two different Content-Lengths is answered 4xx or the connection is closed.", source: "RFC 9112 section 6.3", run: checkTwoLengths},
	{id: "http/endless-headers", rule: "Headers without end are refused (4xx) or the connection is closed.", source: "good practice: headers are bounded", run: checkEndlessHeaders},
	{id: "http/unauthenticated-body", rule: "A body without end and without a good signature is not read to the end before it is refused.", source: "good practice: who is not authenticated cannot make the proxy work", run: checkUnauthenticatedBody},
}

func checkOldTLS(ctx context.Context, s *session) verdict {
	return each([]uint16{tls.VersionTLS10, tls.VersionTLS11}, func(version uint16) verdict {
		c := s.tlsConfig()
		c.MinVersion, c.MaxVersion = version, version
		// All suites, so that it is the version that is refused.
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			c.CipherSuites = append(c.CipherSuites, suite.ID)
		}
		conn, err := s.dial(ctx, c)
		if err != nil {
			return pass("refused")
		}
		_ = conn.Close()
		return fail("%s is negotiated", tls.VersionName(version))
	})
}

// specSuites: spec, API content type.
var specSuites = []uint16{tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}

// checkSuites offers one suite at a time.
func checkSuites(ctx context.Context, s *session) verdict {
	var supported []string
	for _, suite := range specSuites {
		if s.takesSuite(ctx, suite) {
			supported = append(supported, tls.CipherSuiteName(suite))
		}
	}
	if len(supported) == 0 {
		return fail("none of them")
	}
	return pass("%s", strings.Join(supported, ", "))
}

// takesSuite offers a single suite and looks at the first answer alone, since
// crypto/tls does not let a client choose the suites of TLS 1.3.
func (s *session) takesSuite(ctx context.Context, suite uint16) bool {
	ctx, cancel := context.WithTimeout(ctx, s.target.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	c := s.tlsConfig()
	if slices.ContainsFunc(tls.CipherSuites(), func(known *tls.CipherSuite) bool {
		return known.ID == suite && slices.Contains(known.SupportedVersions, tls.VersionTLS13)
	}) {
		c.MinVersion = tls.VersionTLS13
	} else {
		c.MaxVersion = tls.VersionTLS12
	}
	probe := &suiteProbe{Conn: conn, suite: suite}
	_ = tls.Client(probe, c).HandshakeContext(ctx) // it fails, as the hello is not the one that was made
	return probe.chosen()
}

// suiteProbe is a connection that changes the cipher suites in the client's
// hello and keeps the server's.
type suiteProbe struct {
	net.Conn
	suite  uint16
	sent   bool
	answer []byte
}

// Places in a TLS record with a hello (RFC 8446 sections 4.1 and 5.1): the
// record's header, the message's, the version and the random; then the session
// ID; then, from the server, the suite, and from the client, a list of them.
const (
	recordHeader  = 5
	sessionIDAt   = recordHeader + 4 + 2 + 32
	serverHello   = 2
	handshakeType = 22
	grease        = 0x0a0a // a suite that nobody has (RFC 8701)
)

// Write passes the hello with all suites but the one made unknown.
func (p *suiteProbe) Write(b []byte) (int, error) {
	if p.sent || len(b) <= sessionIDAt {
		return p.Conn.Write(b)
	}
	p.sent = true
	hello := bytes.Clone(b)
	list := sessionIDAt + 1 + int(hello[sessionIDAt])
	if list+2 > len(hello) {
		return p.Conn.Write(b)
	}
	suites := hello[list+2:]
	suites = suites[:min(len(suites), int(binary.BigEndian.Uint16(hello[list:])))]
	for i := 0; i+2 <= len(suites); i += 2 {
		if i == 0 {
			binary.BigEndian.PutUint16(suites, p.suite)
		} else {
			binary.BigEndian.PutUint16(suites[i:], grease)
		}
	}
	return p.Conn.Write(hello)
}

// Read keeps the beginning of what the server says.
func (p *suiteProbe) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if len(p.answer) < 512 {
		p.answer = append(p.answer, b[:n]...)
	}
	return n, err
}

// chosen says whether the server's hello names the suite.
func (p *suiteProbe) chosen() bool {
	a := p.answer
	if len(a) <= sessionIDAt || a[0] != handshakeType || a[recordHeader] != serverHello {
		return false
	}
	at := sessionIDAt + 1 + int(a[sessionIDAt])
	return at+2 <= len(a) && binary.BigEndian.Uint16(a[at:]) == p.suite
}

func checkCommonName(_ context.Context, s *session) verdict {
	host := s.endpoint.Hostname()
	if net.ParseIP(host) != nil {
		return notRun("the target is an address, not a name")
	}
	name := s.firstTLS.PeerCertificates[0].Subject.CommonName
	// A wildcard stands for one label.
	_, domain, _ := strings.Cut(host, ".")
	if !strings.EqualFold(name, host) && !strings.EqualFold(name, "*."+domain) {
		return warn("the common name is %q", name)
	}
	return pass("%s", name)
}

// selfSigned is a certificate with the name of another and of no authority.
func selfSigned(like *tls.Certificate) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(like.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the client certificate cannot be read: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: leaf.Subject.CommonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// stranger connects with another certificate, or none, and must get nowhere. In
// TLS 1.3 the client learns of the refusal only when it reads.
func (s *session) stranger(ctx context.Context, certificate *tls.Certificate) verdict {
	config := s.tlsConfig("http/1.1")
	config.Certificates = nil
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return certificate, nil // even if it is not of the authorities asked for
	}
	conn, err := s.dial(ctx, config)
	if err != nil {
		return pass("refused")
	}
	c := s.honestCall()
	a := s.exchange(ctx, conn, append(s.head(ctx, c, fmt.Sprintf("Content-Length: %d", len(c.body))), c.body...))
	switch {
	case a.status == 0 && reason(a.lost) != "timed out":
		return pass("refused")
	case certificate == nil && a.status == http.StatusUnauthorized: // a probe of a load balancer needs the connection
		return pass("%d", a.status)
	}
	return fail("%v", a)
}

// speaks demands a good answer by one version of HTTP.
func (s *session) speaks(ctx context.Context, client *http.Client, proto string) verdict {
	c := s.call(getKeyMetadata, s.target.KeyID, s.request(getKeyMetadata))
	c.client = client
	a := s.send(ctx, c)
	// Whether the answer is the right one is for other checks, but 505 is about
	// the version.
	if a.status == 0 || a.status >= 500 || a.proto != proto {
		return fail("%v %s", a, a.proto)
	}
	return pass("%v %s", a, a.proto)
}

// checkSameAnswers compares one answer of each kind.
func checkSameAnswers(ctx context.Context, s *session) verdict {
	if s.firstTLS.NegotiatedProtocol != "h2" {
		return notRun("the proxy does not offer HTTP/2")
	}
	id := s.target.KeyID
	calls := []struct {
		what   string
		op     operation
		key    string
		body   any
		change func(*call)
	}{
		{"health", getHealthStatus, "", s.request(getHealthStatus), nil},
		{"metadata", getKeyMetadata, id, s.request(getKeyMetadata), nil},
		{"encrypt", encrypt, id, s.body(encrypt), nil},
		{"unknown key", encrypt, unknownKey(), s.body(encrypt), nil},
		{"bad ciphertext", decrypt, id, s.body(decrypt), nil},
		{"not JSON", encrypt, id, []byte("not JSON"), nil},
		{"bad signature", encrypt, id, s.body(encrypt), func(c *call) { c.secret += "x" }},
		{"unknown path", encrypt, id, s.body(encrypt), func(c *call) { c.path += "/x" }},
		{"PUT", encrypt, id, s.body(encrypt), func(c *call) { c.method = http.MethodPut }},
	}
	for _, call := range calls {
		var seen [2]string
		for i, client := range []*http.Client{s.http1, s.http2} {
			c := s.call(call.op, call.key, call.body)
			c.client = client
			if call.change != nil {
				call.change(&c)
			}
			a := s.send(ctx, c)
			if a.status == 0 {
				return fail("%s: %v", call.what, a)
			}
			seen[i] = fmt.Sprint(a, " with ", strings.Join(slices.Sorted(maps.Keys(a.fields)), ", "))
		}
		if seen[0] != seen[1] {
			return fail("%s: %s by HTTP/1.1, %s by HTTP/2", call.what, seen[0], seen[1])
		}
	}
	return pass("%d kinds of answers compared", len(calls))
}

func checkKeepAlive(ctx context.Context, s *session) verdict {
	client := s.client(false)
	defer client.CloseIdleConnections()
	reused := false
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	for range 2 {
		c := s.call(getHealthStatus, "", s.request(getHealthStatus))
		c.client = client
		if a := s.send(traced, c); a.status == 0 {
			return fail("%v", a)
		}
	}
	if !reused {
		return warn("the connection was closed after one request")
	}
	return pass("kept open")
}

// head is the head of an honestly signed HTTP/1.1 request with another
// Content-Length line.
func (s *session) head(ctx context.Context, c call, length string) []byte {
	r, err := s.sign(ctx, c)
	if err != nil {
		return nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", r.Method, r.URL.RequestURI(), r.Host, length)
	_ = r.Header.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// exchange writes to a connection, waits for an answer, and closes it.
func (s *session) exchange(ctx context.Context, conn net.Conn, request []byte) answer {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(s.target.Timeout))
	if _, err := conn.Write(request); err != nil {
		return answer{lost: err}
	}
	return readAnswer(conn)
}

func readAnswer(conn io.Reader) answer {
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), nil)
	if err != nil {
		return answer{lost: err}
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && len(body) == 0 {
		body = nil // the status says enough
	}
	return newAnswer(resp, body, 0)
}

// refusedHTTP is the verdict on a request that no HTTP server may take: 4xx, 501
// or 505, or a closed connection.
func refusedHTTP(a answer) verdict {
	switch {
	case a.status >= 400 && a.status < 500, a.status == http.StatusNotImplemented, a.status == http.StatusHTTPVersionNotSupported:
		return pass("%d", a.status)
	case a.status != 0:
		return fail("%v", a)
	case reason(a.lost) == "timed out":
		return fail("neither an answer nor the end of the connection")
	}
	return pass("connection closed")
}

// raw sends bytes on a connection of their own.
func (s *session) raw(ctx context.Context, request []byte) (answer, error) {
	conn, err := s.dial(ctx, s.tlsConfig("http/1.1"))
	if err != nil {
		return answer{}, err
	}
	return s.exchange(ctx, conn, request), nil
}

func checkGarbage(ctx context.Context, s *session) verdict {
	// No line may be such that a server waits for more.
	garbage := []string{"THIS IS NOT HTTP\r\n\r\n", "\x00\x01\x02\x03\xff\xfe\r\n\r\n", "POST\r\n\r\n", "POST /health HTTP/9.9\r\nHost: x\r\n\r\n",
		"POST " + s.path(getHealthStatus, "") + " HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n"}
	v := each(garbage, func(g string) verdict {
		a, err := s.raw(ctx, []byte(g))
		if err != nil {
			return fail("%s", reason(err))
		}
		return refusedHTTP(a)
	})
	if v.outcome != Pass {
		return v
	}
	if a := s.ask(ctx, getHealthStatus, "", s.request(getHealthStatus)); a.status == 0 {
		return fail("after that: %v", a)
	}
	return v
}

func checkTwoLengths(ctx context.Context, s *session) verdict {
	c := s.honestCall()
	n := len(c.body)
	request := append(s.head(ctx, c, fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d", n, n+5)), c.body...)
	a, err := s.raw(ctx, append(request, "     "...))
	if err != nil {
		return fail("%s", reason(err))
	}
	return refusedHTTP(a)
}

// flood writes to a connection until there is an answer, it is closed, or the
// limit is reached. The verdict is the HTTP one, or a failure.
func (s *session) flood(ctx context.Context, head, chunk []byte, limit int) verdict {
	conn, err := s.dial(ctx, s.tlsConfig("http/1.1"))
	if err != nil {
		return fail("%s", reason(err))
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	answered := make(chan answer, 1)
	go func() { answered <- readAnswer(conn) }()
	// The reader ends with the connection.
	defer func() { _ = conn.Close(); <-answered }()

	_ = conn.SetDeadline(time.Now().Add(4 * s.target.Timeout))
	_, err = conn.Write(head)
	written := 0
	for err == nil && written < limit && len(answered) == 0 {
		var n int
		n, err = conn.Write(chunk)
		written += n
	}
	patience := time.NewTimer(s.limits.patience)
	defer patience.Stop()
	select {
	case a := <-answered:
		answered <- a
		v := refusedHTTP(a)
		v.detail += fmt.Sprintf(" after %d KiB at most", written>>10)
		return v
	case <-patience.C:
		return fail("still open after %d KiB, and no answer", written>>10)
	case <-ctx.Done():
		return fail("interrupted")
	}
}

func checkEndlessHeaders(ctx context.Context, s *session) verdict {
	c := s.honestCall()
	head := bytes.TrimSuffix(s.head(ctx, c, fmt.Sprintf("Content-Length: %d", len(c.body))), []byte("\r\n"))
	line := "X-Holdfast-Check: " + strings.Repeat("a", 1000) + "\r\n"
	return s.flood(ctx, head, []byte(strings.Repeat(line, 32)), min(s.limits.flood, maxHeaderFlood))
}

func checkUnauthenticatedBody(ctx context.Context, s *session) verdict {
	c := s.honestCall()
	c.secret += "x"
	spaces := bytes.Repeat([]byte(" "), 32<<10)
	head := s.head(ctx, c, fmt.Sprintf("Content-Length: %d", 4*s.limits.flood))
	if v := s.flood(ctx, head, spaces, s.limits.flood); v.outcome != Pass {
		return v
	}
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(spaces), spaces)
	return s.flood(ctx, s.head(ctx, c, "Transfer-Encoding: chunked"), chunk, s.limits.flood).at("chunked")
}

// slowly sends an honest request byte by byte, from the headers on or the body
// alone, and waits to be cut off.
func (s *session) slowly(ctx context.Context, headers bool) verdict {
	conn, err := s.dial(ctx, s.tlsConfig("http/1.1"))
	if err != nil {
		return fail("%s", reason(err))
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c := s.honestCall()
	head := s.head(ctx, c, "Content-Length: 4096") // as KMS might send
	drip := append(head, bytes.Repeat([]byte(" "), int(s.limits.slow/s.limits.interval)+1)...)
	if !headers {
		if _, err := conn.Write(head); err != nil {
			_ = conn.Close()
			return fail("%s", reason(err))
		}
		drip = drip[len(head):]
	}
	begin := time.Now()
	answered := make(chan answer, 1)
	go func() { answered <- readAnswer(conn) }()
	defer func() { _ = conn.Close(); <-answered }()
	_ = conn.SetWriteDeadline(begin.Add(s.limits.slow + s.target.Timeout))
	tick := time.NewTicker(s.limits.interval)
	defer tick.Stop()
	for _, b := range drip {
		select {
		case a := <-answered:
			answered <- a
			if a.ok() {
				return fail("%v", a)
			}
			return pass("%v after %v", a, time.Since(begin).Round(100*time.Millisecond))
		case <-ctx.Done():
			return fail("interrupted")
		case <-tick.C:
		}
		if time.Since(begin) > s.limits.slow {
			break
		}
		// A failure to write shows in the answer, or the lack of one.
		_, _ = conn.Write([]byte{b})
	}
	return fail("still open after %v", s.limits.slow)
}
