// Package xkstest runs a whole appliance for tests: a bed of package appliancetest on
// a SoftHSM2 token, and the XKS endpoint over HTTPS on a port of its own. It is for
// tests of what KMS sees; those of the domain use appliancetest. Nothing in it is a
// double but the clock, if a test wants one.
package xkstest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/xks"
	"holdfast/xks/sigv4"
)

// Options change what Start does by default.
type Options struct {
	// Token is the token to use; a fresh one if its Module is empty.
	Token hsm.Config
	// Dir, Locked, Appliance, Keyring and Store are those of [appliancetest.Options].
	Dir       string
	Locked    fault.Code
	Appliance appliance.Options
	Keyring   func(appliance.Keyring) appliance.Keyring
	Store     func(appliance.Store) appliance.Store
	// XKS and Server are passed on; what the bed itself sets is overridden.
	XKS    xks.Options
	Server xks.ServerOptions
}

// Bed is a running appliance.
type Bed struct {
	*appliancetest.Bed
	API *xks.API
	// Config opens the token again.
	Config hsm.Config
	// URL is https://127.0.0.1:PORT.
	URL string
	// Certificate is the server's, signed by itself; Roots verify it.
	Certificate *x509.Certificate
	Roots       *x509.CertPool

	stop func()
}

// Start runs an appliance until the test ends.
func Start(t testing.TB, o Options) *Bed {
	t.Helper()
	b := &Bed{Config: o.Token}
	if b.Config.Module == "" {
		b.Config = hsmtest.New(t)
	}
	b.Bed = appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(b.Config), Dir: o.Dir, Locked: o.Locked, Appliance: o.Appliance, Keyring: o.Keyring, Store: o.Store})
	o.XKS.KeyStores, o.XKS.Log, o.XKS.Model = b.Appliance, b.Logger, "Holdfast test"
	if o.XKS.Timeout == 0 {
		o.XKS.Timeout = 20 * time.Second // the race detector and a busy machine are slow
	}
	if o.Appliance.Now != nil {
		o.XKS.SigV4.Now = o.Appliance.Now
	}
	b.API = xks.New(o.XKS)
	certificate, roots := appliancetest.Certificate(t, "127.0.0.1")
	b.Certificate, b.Roots = certificate.Leaf, roots
	if o.Server.Certificate == nil {
		o.Server.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	o.Server.Log = b.Logger
	b.serve(t, xks.NewServer(b.API, o.Server))
	t.Cleanup(b.Stop)
	return b
}

// serve runs the server until the bed is stopped.
func (b *Bed) serve(t testing.TB, server *xks.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.URL = "https://" + l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	b.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		wg.Wait()
		b.Bed.Stop()
	})
}

// Stop ends the appliance cleanly; the state remains for another Start.
func (b *Bed) Stop() { b.stop() }

// HTTP gives a client of the endpoint, of HTTP version 1 or 2.
func (b *Bed) HTTP(version int) *http.Client {
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: version == 2}
	return &http.Client{Transport: t, Timeout: time.Minute}
}

// NewKeyStore makes a key store as [appliancetest.Bed.NewKeyStore] does, and gives a
// KMS for it.
func (b *Bed) NewKeyStore(t testing.TB, name, prefix, principal string) *KMS {
	t.Helper()
	c := b.Bed.NewKeyStore(t, name, prefix, principal)
	return &KMS{T: t, HTTP: b.HTTP(1), URL: b.URL + prefix, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
		Service: "kms-xks-proxy", Region: "us-east-1"}
}

// SigV4 rules that accept one more service, as a configuration may.
func SigV4(services ...string) sigv4.Verifier { return sigv4.Verifier{Services: services} }
