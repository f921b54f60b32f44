package xks_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

// pipes is a listener whose connections are pipes in memory, on which the time
// of synctest passes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestKeepAlive: a connection of KMS that is idle for as long as a Network Load
// Balancer keeps it, 350 s, still serves, in both versions of HTTP.
func TestKeepAlive(t *testing.T) {
	b, k := newDemo(t, xkstest.Options{})
	metadata := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	k.OK("/keys/k/metadata", metadata) // from here on the key is in memory

	for version, proto := range map[int]string{1: "HTTP/1.1", 2: "HTTP/2.0"} {
		synctest.Test(t, func(t *testing.T) {
			certificate, roots := appliancetest.Certificate(t, "127.0.0.1") // valid at synctest's time
			server := xks.NewServer(b.API, xks.ServerOptions{
				Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil }})
			l := &pipes{make(chan net.Conn), make(chan struct{})}
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }()

			dialled := 0
			transport := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: version == 2,
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					dialled++
					client, server := net.Pipe()
					l.conns <- server
					return client, nil
				}}
			k := *k
			k.T, k.HTTP = t, &http.Client{Transport: transport}
			for range 3 {
				if a := k.Call("/keys/k/metadata", metadata); a.Status != 200 || a.Proto != proto {
					t.Fatalf("%s: %s %d %s", proto, a.Proto, a.Status, a.Text)
				}
				time.Sleep(355 * time.Second)
			}
			if dialled != 1 {
				t.Errorf("%s: %d connections for three requests 355 s apart, want 1", proto, dialled)
			}
			transport.CloseIdleConnections()
			if err := server.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
}
