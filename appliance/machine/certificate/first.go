package certificate

import (
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
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// firstLifetime is that of a first certificate. Browsers take no longer one.
const firstLifetime = 397 * 24 * time.Hour

// MakeFirst makes a certificate that signs itself, for the DNS names and IP
// addresses, where there is none yet. It takes the key that is there, or makes one
// (P-256). It gives nil if there was a certificate.
func MakeFirst(certFile, keyFile string, names []string, now time.Time) (*x509.Certificate, error) {
	for _, file := range []string{certFile, certFile + previousSuffix} { // [Load] serves with the one before
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	dns, ips, err := splitNames(names)
	if err != nil {
		return nil, err
	}
	for _, file := range []string{certFile, keyFile} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, fmt.Errorf("first certificate: %w", err)
		}
	}
	// The key comes first: with a key and no certificate the next start goes on here.
	made, err := firstKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("first certificate: key: %w", err)
	}
	c, err := signFirst(certFile, keyFile, &x509.Certificate{Subject: pkix.Name{CommonName: "Holdfast"}, DNSNames: dns, IPAddresses: ips,
		NotBefore: now.Add(-time.Hour).UTC(), NotAfter: now.Add(firstLifetime - time.Hour).UTC()})
	if err != nil {
		if made {
			_ = os.Remove(keyFile) // both or neither
		}
		return nil, fmt.Errorf("first certificate: %w", err)
	}
	return c, nil
}

// firstKey makes a key, unless there is one.
func firstKey(file string) (made bool, err error) {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, err
	}
	defer clear(der)
	return true, replaceFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// signFirst signs a certificate of the key in the file by that key.
func signFirst(certFile, keyFile string, c *x509.Certificate) (*x509.Certificate, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is no private key in PEM", keyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	clear(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is a %T; a first certificate is made for ECDSA keys only", keyFile, key)
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails (crypto/rand)
	serial[0] = serial[0]&0x7f | 0x40
	c.SerialNumber = new(big.Int).SetBytes(serial)
	c.KeyUsage, c.ExtKeyUsage, c.BasicConstraintsValid = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, true
	der, err := x509.CreateCertificate(rand.Reader, c, c, &signer.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	if err := replaceFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}
