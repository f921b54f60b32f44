package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// TestSystemRoots: an authority of the system is enough, and a certificate that signs itself is
// never one that browsers take, even if the system knows it.
func TestSystemRoots(t *testing.T) {
	now := time.Now()
	issue := func(name string, ca bool, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: ca, BasicConstraintsValid: true, DNSNames: []string{"console.test"}}
		c.Subject.CommonName = name
		if by == nil {
			by, byKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, byKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	root, rootKey := issue("root", true, nil, nil)
	between, betweenKey := issue("between", true, root, rootKey)
	leaf, _ := issue("leaf", false, between, betweenKey)
	alone, _ := issue("alone", true, nil, nil)
	pair := func(all ...*x509.Certificate) *tls.Certificate {
		p := &tls.Certificate{Leaf: all[0]}
		for _, c := range all {
			p.Certificate = append(p.Certificate, c.Raw)
		}
		return p
	}
	pool := func(all ...*x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		for _, c := range all {
			p.AddCert(c)
		}
		return p
	}
	for name, tt := range map[string]struct {
		pair  *tls.Certificate
		roots *x509.CertPool
		want  bool
	}{
		"under a root of the system":        {pair(leaf, between), pool(root), true},
		"the authority in between missing":  {pair(leaf), pool(root), false},
		"its own authority":                 {pair(leaf, between), pool(), true},
		"its own authority, up to the root": {pair(leaf, between, root), pool(), true},
		"another's authority":               {pair(leaf, root), pool(), false},
		"signs itself":                      {pair(alone), pool(), false},
		"signs itself, twice":               {pair(alone, alone), pool(), false},
		"signs itself, the system knows it": {pair(alone), pool(alone), false},
	} {
		if got := verifies(tt.pair, tt.roots, now); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
