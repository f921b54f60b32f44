package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"

	"holdfast/appliance/fault"
)

// requestSuffix is of the file with the key that waits for its certificate.
const requestSuffix = ".requested"

var dnsName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

const (
	maxNames = 50
	maxChain = 64 << 10 // bytes
)

// Requested says whether a request waits for its certificate.
func (c *Certificate) Requested() bool {
	if s := c.sharedNow(); s != nil {
		return s.requested
	}
	_, err := os.Stat(c.keyFile + requestSuffix)
	return err == nil
}

// Request makes a new key (P-256) beside the one in use, and gives a signing
// request for the DNS names and IP addresses (PKCS#10, PEM). A request before it
// is void. While the nodes share a certificate, they share the new key.
func (c *Certificate) Request(ctx context.Context, names []string) ([]byte, error) {
	if len(names) == 0 || len(names) > maxNames {
		return nil, fault.Errorf(fault.Invalid, "names: give 1 to %d", maxNames)
	}
	dns, ips, err := splitNames(names)
	if err != nil {
		return nil, err
	}
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: dns, IPAddresses: ips}
	if len(r.Subject.CommonName) > 64 { // X.520's limit
		r.Subject.CommonName = ""
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	if c.Shared() {
		err = c.requestShared(ctx, der)
	} else {
		err = replaceFile(c.keyFile+requestSuffix, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	}
	if err != nil {
		return nil, fmt.Errorf("keep the new key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), nil
}

// ValidDNSName says whether a certificate can have the name.
func ValidDNSName(name string) bool { return dnsName.MatchString(name) && len(name) <= 253 }

// splitNames parts DNS names from IP addresses.
func splitNames(names []string) (dns []string, ips []net.IP, err error) {
	for _, n := range names {
		switch ip := net.ParseIP(n); {
		case ip != nil:
			ips = append(ips, ip)
		case ValidDNSName(n):
			dns = append(dns, n)
		default:
			return nil, nil, fault.Errorf(fault.Invalid, "names: %.80q is no DNS name and no IP address", n)
		}
	}
	return dns, ips, nil
}

// Install takes a certificate with those that signed it (PEM), for the key of the
// last request or for the key in use, and serves with it from then on. While the nodes share
// a certificate, all do. The one before is kept ([Certificate.Restore]).
func (c *Certificate) Install(ctx context.Context, chain []byte, accepted Accepted) error {
	if c.Shared() {
		return c.installShared(ctx, chain, accepted)
	}
	leaf, err := c.checkChain(chain, accepted)
	if err != nil {
		return err
	}
	key, requested, err := c.keyOf(chain)
	if err != nil {
		return err
	}
	defer clear(key)
	if err := c.replace(chain, key, requested); err != nil {
		return err
	}
	c.log.Info("the server certificate was replaced", "subject", leaf.Subject.String(), "expires", leaf.NotAfter)
	return nil
}

// CheckInstall gives the error that Install would, and changes nothing.
func (c *Certificate) CheckInstall(ctx context.Context, chain []byte, accepted Accepted) error {
	if c.Shared() {
		b, _, err := c.sharedWith(ctx, chain, accepted)
		if err == nil {
			b.wipe()
		}
		return err
	}
	if _, err := c.checkChain(chain, accepted); err != nil {
		return err
	}
	key, _, err := c.keyOf(chain)
	clear(key)
	return err
}

// keyOf reads the key that the chain is of, and says whether it is that of the last request.
// The caller zeroizes it.
func (c *Certificate) keyOf(chain []byte) (_ []byte, requested bool, _ error) {
	for _, keyFile := range []string{c.keyFile + requestSuffix, c.keyFile} {
		key, err := os.ReadFile(keyFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("read the key: %w", err)
		}
		if _, err := tls.X509KeyPair(chain, key); err != nil {
			clear(key)
			continue // of another key
		}
		return key, keyFile != c.keyFile, nil
	}
	return nil, false, fault.Errorf(fault.Invalid, "certificate chain: it is of another key, neither that of the last request nor the one in use: make a request here, and have that signed")
}

// replace puts both files in place, the certificate first. Between the two the pair
// does not fit, and Get keeps the one before; after a crash there, [Load]
// finds the new key where the request left it.
func (c *Certificate) replace(chain, key []byte, newKey bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.keepPrevious(chain); err != nil {
		return fmt.Errorf("keep the certificate of before: %w", err)
	}
	if err := replaceFile(c.certFile, chain); err != nil {
		return fmt.Errorf("keep the certificate: %w", err)
	}
	if newKey {
		if err := replaceFile(c.keyFile, key); err != nil {
			return fmt.Errorf("keep the key: %w", err)
		}
	}
	v, err := c.stat()
	if err != nil {
		return err
	}
	if newKey {
		_ = os.Remove(c.keyFile + requestSuffix) // of no use any more; the next request replaces it
	}
	return c.load(v)
}

// finish ends a replacement that was cut off: the certificate is of the key of the
// last request.
func (c *Certificate) finish() error {
	chain, err := os.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(c.keyFile + requestSuffix)
	if err != nil {
		return err
	}
	defer clear(key)
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		return err
	}
	return replaceFile(c.keyFile, key)
}

// replaceFile writes a file that its owner alone can read, whole or not at all, and
// durably.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
