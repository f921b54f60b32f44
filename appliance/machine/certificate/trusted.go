package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"time"
)

// judged is whether the certificate of a pair is trusted.
type judged struct {
	pair    *tls.Certificate
	at      time.Time
	trusted bool
}

// judgeEvery is how often the certificate in use is verified again: it may expire.
const judgeEvery = time.Minute

// Trusted says whether browsers can be expected to take the certificate in use for the host: it
// is for that name, and verifies under an authority of the system, or under the last certificate
// of the chain that was installed with it, which is an authority of the organization's own. A
// certificate that signs itself is not trusted.
func (c *Certificate) Trusted(host string) bool {
	pair, err := c.Get(nil)
	if err != nil || pair.Leaf == nil || pair.Leaf.VerifyHostname(host) != nil {
		return false
	}
	now := c.now()
	j := c.judged.Load()
	if j == nil || j.pair != pair || now.Sub(j.at) >= judgeEvery || now.Before(j.at) {
		j = &judged{pair, now, verifies(pair, nil, now)}
		c.judged.Store(j)
	}
	return j.trusted
}

// verifies says whether a chain leads to one of the roots, the system's if nil, or ends with an
// authority of its own.
func verifies(pair *tls.Certificate, roots *x509.CertPool, now time.Time) bool {
	if bytes.Equal(pair.Leaf.RawIssuer, pair.Leaf.RawSubject) && pair.Leaf.CheckSignature(pair.Leaf.SignatureAlgorithm, pair.Leaf.RawTBSCertificate, pair.Leaf.Signature) == nil {
		return false // also if the system trusts it: browsers elsewhere do not
	}
	between := x509.NewCertPool()
	own := x509.NewCertPool()
	for i, der := range pair.Certificate[1:] {
		parent, err := x509.ParseCertificate(der)
		if err != nil {
			return false
		}
		between.AddCert(parent)
		if last := i == len(pair.Certificate)-2; last && parent.IsCA {
			own.AddCert(parent)
		}
	}
	for _, r := range []*x509.CertPool{own, roots} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: r, Intermediates: between, CurrentTime: now}); err == nil {
			return true
		}
	}
	return false
}
