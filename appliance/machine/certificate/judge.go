package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Accepted is what somebody has said of a certificate that AWS KMS would most likely not take: that it is
// meant all the same, for a test, say. What KMS can take in no case is refused whatever is said.
type Accepted struct {
	// OwnAuthority takes one that no public authority has signed, as far as this machine knows.
	OwnAuthority bool
	// OtherName takes one that lacks a name by which this machine is called now, or whose common name is
	// not the endpoint's.
	OtherName bool
}

// How somebody says so.
const (
	sayAuthority = "say so: own_authority in the API, --own-authority of the command, the box in the console"
	sayName      = "say so: other_name in the API, --other-name of the command, the box in the console"
)

func refused(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, "certificate chain: "+format, args...)
}

// checkChain says what is wrong with a chain, the leaf first, that is to replace the one in use. Errors:
// [fault.Invalid], in one line with what to do.
func (c *Certificate) checkChain(chain []byte, accepted Accepted) (*x509.Certificate, error) {
	list, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	return list[0], c.judge(list, accepted)
}

// judge says what is wrong with a chain.
func (c *Certificate) judge(list []*x509.Certificate, accepted Accepted) error {
	leaf := list[0]
	for _, check := range []func() error{
		func() error { return checkStrength(list) },
		func() error { return checkOrder(list) },
		func() error { return checkTime(list, c.now()) },
		func() error { return checkLeaf(list) },
		func() error { return c.checkNames(leaf) },
		func() error { return c.checkAuthority(list, accepted) },
		func() error { return c.checkServed(leaf, accepted) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func parseChain(chain []byte) (list []*x509.Certificate, err error) {
	if len(chain) > maxChain {
		return nil, refused("it has more than %d bytes; leave out what did not sign it", maxChain)
	}
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 || len(list) == 0 {
				return nil, refused("give certificates in PEM and nothing else, the server's first")
			}
			return list, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != certificateBlock || err != nil {
			return nil, refused("block %d is no certificate; give certificates in PEM and nothing else, the server's first", len(list)+1)
		}
		list = append(list, cert)
	}
}

// signsItself says whether a certificate is signed by its own key.
func signsItself(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// The signatures that no public authority makes any more.
var weakSignatures = []x509.SignatureAlgorithm{x509.UnknownSignatureAlgorithm, x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1}

// minRSA is the least that public authorities sign, in bits (CA/Browser Forum, Baseline Requirements, 6.1.5).
const minRSA = 2048

// checkStrength looks at keys and signatures. The authority's own signature at the end counts for nothing.
func checkStrength(list []*x509.Certificate) error {
	for i, c := range list {
		if slices.Contains(weakSignatures, c.SignatureAlgorithm) && !bytes.Equal(c.RawIssuer, c.RawSubject) {
			return refused("certificate %d, %s, is signed with %s, which nobody trusts any more: have it signed again, with SHA-256 or better", i+1, c.Subject, c.SignatureAlgorithm)
		}
		switch key := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if bits := key.N.BitLen(); bits < minRSA {
				return refused("certificate %d, %s, has an RSA key of %d bits: make a new key, of %d bits or on P-256", i+1, c.Subject, bits, minRSA)
			}
		case *ecdsa.PublicKey:
			if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
				return refused("certificate %d, %s, has a key on the curve %s: make a new key, on P-256 or P-384", i+1, c.Subject, key.Curve.Params().Name)
			}
		default:
			return refused("certificate %d, %s, has a key of the kind %s, and the cipher suites of AWS KMS are for RSA and ECDSA: make a new key, on P-256", i+1, c.Subject, c.PublicKeyAlgorithm)
		}
	}
	return nil
}

func checkOrder(list []*x509.Certificate) error {
	for i := range len(list) - 1 {
		if child, parent := list[i], list[i+1]; child.CheckSignatureFrom(parent) != nil {
			return refused("certificate %d, %s, is not signed by the one after it, %s: put them in order, the server's first, and after each the one that signed it, which is %s", i+1, child.Subject, parent.Subject, child.Issuer)
		}
	}
	return nil
}

func checkTime(list []*x509.Certificate, now time.Time) error {
	for i, c := range list {
		switch {
		case now.After(c.NotAfter):
			return refused("certificate %d, %s, expired at %s: have a new one signed", i+1, c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(c.NotBefore):
			return refused("certificate %d, %s, begins at %s, and it is %s here: wait, or look at the clock", i+1, c.Subject, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// checkLeaf says whether the first one is a server's.
func checkLeaf(list []*x509.Certificate) error {
	leaf := list[0]
	switch usages := leaf.ExtKeyUsage; {
	case leaf.IsCA && (len(list) > 1 || !signsItself(leaf)):
		return refused("the first one, %s, is that of an authority: put the server's first", leaf.Subject)
	case len(leaf.DNSNames)+len(leaf.IPAddresses) == 0:
		return refused("it has no names (subjectAltName): have it signed for the name that AWS KMS calls")
	case len(usages)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(usages, x509.ExtKeyUsageServerAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny):
		return refused("it is not for servers (extended key usage serverAuth): have one signed for a TLS server")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refused("its key is not for signatures (key usage digitalSignature), which TLS needs: have one signed for a TLS server")
	}
	return nil
}

// checkNames says whether it has the name that KMS is told to call.
func (c *Certificate) checkNames(leaf *x509.Certificate) error {
	if c.endpoint != "" && leaf.VerifyHostname(c.endpoint) != nil {
		return refused("it is not for %s, by which AWS KMS calls (xks.url): it is for %s. Have it signed for that name, or change xks.url first", c.endpoint, strings.Join(Names(leaf), ", "))
	}
	return nil
}

// checkAuthority says whether KMS can be expected to find its way to a public authority: by the system's, which are
// nearly those of KMS's own list.
func (c *Certificate) checkAuthority(list []*x509.Certificate, accepted Accepted) error {
	leaf, last := list[0], list[len(list)-1]
	between := x509.NewCertPool()
	for _, parent := range list[1:] {
		between.AddCert(parent)
	}
	alone := len(list) == 1
	if self := alone && signsItself(leaf); !self {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, CurrentTime: c.now()}); err == nil {
			return nil
		}
		if alone && !accepted.OwnAuthority {
			return refused("the one that signed it is missing, %s: put that certificate behind it, from the authority that sent yours, which has it as intermediate or chain. If it is a private authority, which AWS KMS does not take, "+sayAuthority, leaf.Issuer)
		}
	} else if !accepted.OwnAuthority {
		return refused("it signs itself, and AWS KMS takes none but of a public authority. If it is meant, for a test, " + sayAuthority)
	}
	if accepted.OwnAuthority {
		return nil
	}
	return refused("no public authority that this machine knows has signed its last one, %s, issued by %s: if an intermediate is missing put it at the end. If it is a private authority, which AWS KMS does not take, "+sayAuthority, last.Subject, last.Issuer)
}

// checkServed says whether it has the names by which the machine is called now.
func (c *Certificate) checkServed(leaf *x509.Certificate, accepted Accepted) error {
	if accepted.OtherName {
		return nil
	}
	endpoint := c.endpoint
	if endpoint == "" {
		if pair, err := c.Get(nil); err == nil && pair.Leaf != nil && !signsItself(pair.Leaf) {
			endpoint = endpointOf(pair.Leaf)
		}
		if endpoint != "" && leaf.VerifyHostname(endpoint) != nil {
			return refused("it is not for %s, as the one in use is: key stores that AWS KMS calls by that name would fail. Have it signed for that name too; or if it is meant, "+sayName, endpoint)
		}
	}
	if endpoint == "" {
		endpoint = endpointOf(leaf)
	}
	if endpoint != "" && appliance.CheckXKSEndpoint("https://"+endpoint) == nil && !isCommonName(leaf.Subject.CommonName, endpoint) {
		return refused("its common name is %q, and AWS KMS wants it to be the endpoint's, %s: have it signed with that; or if it is meant, "+sayName, leaf.Subject.CommonName, endpoint)
	}
	for _, host := range c.hosts {
		if leaf.VerifyHostname(host) != nil {
			return refused("it is not for %s, by which browsers open the console (admin.url): have it signed for that name too; or if it is meant, "+sayName, host)
		}
	}
	return nil
}

// endpointOf gives the first name of a certificate that KMS can call; empty if there is none.
func endpointOf(leaf *x509.Certificate) string {
	i := slices.IndexFunc(leaf.DNSNames, func(name string) bool { return appliance.CheckXKSEndpoint("https://"+name) == nil })
	if i < 0 {
		return ""
	}
	return leaf.DNSNames[i]
}

// isCommonName says whether a common name is a host's, of which a wildcard stands for the first label.
func isCommonName(name, host string) bool {
	_, domain, _ := strings.Cut(host, ".")
	return strings.EqualFold(name, host) || strings.EqualFold(name, "*."+domain)
}
