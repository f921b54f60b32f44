package xks

import (
	"bytes"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// complaints tells in the log why connections came to nothing where somebody can mend it: each kind once a
// minute, as a wrong setting makes every connection fail.
type complaints struct {
	log                *slog.Logger
	certificate, proxy rate.Sometimes
}

// complainEvery bounds the lines of one kind.
const complainEvery = time.Minute

func newComplaints(log *slog.Logger) *complaints {
	return &complaints{log: log, certificate: rate.Sometimes{Interval: complainEvery}, proxy: rate.Sometimes{Interval: complainEvery}}
}

// Write takes what net/http has to say. It is for debugging, but for a client certificate that was refused.
func (c *complaints) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	reason, ok := strings.CutPrefix(text, "http: TLS handshake error from ")
	if ok && (strings.Contains(reason, "failed to verify certificate") || strings.Contains(reason, "client certificate")) {
		remote, why, _ := strings.Cut(reason, ": ")
		c.certificate.Do(func() {
			c.log.Warn("a client certificate was refused, and its connection ended: KMS presents one of xks.client_names under Amazon's authorities, so see xks.client_ca, or leave it out; such lines come once a minute at most", "remote", remote, "error", why)
		})
	}
	c.log.Debug(text)
	return len(line), nil
}

// The beginnings of the PROXY protocol, version 1 and 2, as far as they tell it from all else
// (haproxy.org, proxy-protocol.txt, sections 2.1 and 2.2). No record of TLS begins so.
var proxyHeaders = [][]byte{[]byte("PROXY "), []byte("\r\n\r\n\x00\r\nQUIT\n")[:6]}

// heads is how many bytes tell what a connection begins with.
const heads = 6

// proxied tells of a connection that begins with the PROXY protocol.
func (c *complaints) proxied(head []byte, remote string) {
	for i, header := range proxyHeaders {
		if bytes.Equal(head, header) {
			c.proxy.Do(func() {
				c.log.Error("a connection begins with the PROXY protocol and not with TLS, so it fails: the load balancer adds it, and Holdfast does not take it. Switch it off: proxy_protocol_v2.enabled=false on the target group; such lines come once a minute at most",
					"version", i+1, "remote", remote)
			})
		}
	}
}
