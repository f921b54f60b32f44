package xks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerOptions are the settings of a [Server]. Certificate is needed.
type ServerOptions struct {
	// Certificate gives the server's certificate at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs and ClientNames, if ClientCAs is given, demand of each XKS call a client
	// certificate that chains to one of the CAs and whose subject common name is
	// one of the names, such as cks.kms.eu-west-1.amazonaws.com (spec,
	// Authentication). A connection without one may ask /healthz and /readyz alone; one
	// with another is refused.
	ClientCAs   *x509.CertPool
	ClientNames []string
	// MaxConnections bounds the open connections. Default [DefaultMaxConnections].
	MaxConnections int
	// AuthenticateWithin is how long a connection may stay open without one
	// authenticated request. Default 30 s.
	AuthenticateWithin time.Duration
	// ReadTimeout is how long a request, headers and body, may take to arrive.
	// Default 5 s.
	ReadTimeout time.Duration
	// Log gets what net/http has to say, and why connections come to nothing.
	Log *slog.Logger
}

// Server serves the API over HTTPS, HTTP/1.1 and HTTP/2, and keeps slow and
// idle strangers from holding what KMS needs.
type Server struct {
	http      http.Server
	strangers *strangers
}

// The time limits of a connection.
const (
	defaultReadTimeout = 5 * time.Second
	writeTimeout       = 15 * time.Second
	// idleTimeout is longer than the 350 s after which a Network Load Balancer
	// forgets an idle connection, so that it is not this side that closes first.
	idleTimeout = 400 * time.Second
	// maxHeaderBytes is several times what KMS sends.
	maxHeaderBytes = 16 << 10
)

// NewServer makes a server for the handler.
func NewServer(handler http.Handler, o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = defaultReadTimeout
	}
	complaints := newComplaints(o.Log)
	s := &Server{strangers: newStrangers(o.MaxConnections, o.AuthenticateWithin, complaints.proxied)}
	if o.ClientCAs != nil {
		handler = demandCertificate(handler)
	}
	s.http = http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig(o),
		ReadTimeout:       o.ReadTimeout,
		ReadHeaderTimeout: o.ReadTimeout, // the same, so that it is set once for each request
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(complaints, "", 0),
		ConnContext:       s.strangers.connContext,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250},
	}
	return s
}

// Serve serves on the listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.ServeTLS(s.strangers.listen(l), "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops to accept, waits for the requests under way until ctx ends,
// and closes all connections.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	return err
}

// tlsConfig is TLS as the specification has it ("API content type"): 1.2 or
// later; of the suites of TLS 1.2 those with forward secrecy and AES-256-GCM.
// The post-quantum key exchange comes first, for those who offer it.
func tlsConfig(o ServerOptions) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: o.Certificate,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			// HTTP/2 demands that this one is supported (RFC 9113 section 9.2.2).
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		NextProtos:       []string{"h2", "http/1.1"},
		// An answer goes out in one record. Small ones are for browsers, which show a page
		// before it has come whole, and each would be a write of its own.
		DynamicRecordSizingDisabled: true,
	}
	if o.ClientCAs != nil {
		askForCertificate(c, o)
	}
	return c
}
