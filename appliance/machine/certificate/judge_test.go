package certificate_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
)

// issued is a certificate that a test has made, with its key.
type issued struct {
	*x509.Certificate
	key crypto.Signer
}

// chain writes certificates one after the other.
func chain(all ...*issued) (text []byte) {
	for _, c := range all {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// issue makes a certificate of the key; by itself if by is nil.
func issue(t *testing.T, by *issued, key crypto.Signer, change func(*x509.Certificate)) *issued {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "xks.example.com"}, DNSNames: []string{"xks.example.com", "console.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &issued{c, key}
}

func isAuthority(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject, c.DNSNames, c.ExtKeyUsage = pkix.Name{CommonName: name}, nil, nil
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	}
}

// judgedSite is a machine that KMS calls by xks.example.com, which the system's authorities are made up for.
type judgedSite struct {
	*certificate.Certificate
	certFile, keyFile string
	log               bytes.Buffer
	public, private   *issued // roots: one that the system knows, and one that it does not
	between, hidden   *issued // what they have signed
	key               crypto.Signer
}

func newJudgedSite(t *testing.T, xksURL, adminURL string) *judgedSite {
	t.Helper()
	dir := t.TempDir()
	s := &judgedSite{certFile: filepath.Join(dir, "c.pem"), keyFile: filepath.Join(dir, "k.pem"), key: newKey(t)}
	s.public, s.private = issue(t, nil, newKey(t), isAuthority("public root")), issue(t, nil, newKey(t), isAuthority("private root"))
	s.between, s.hidden = issue(t, s.public, newKey(t), isAuthority("between")), issue(t, s.private, newKey(t), isAuthority("hidden"))
	s.write(t, chain(issue(t, s.between, s.key, nil), s.between), s.key)
	s.load(t, xksURL, adminURL)
	return s
}

func (s *judgedSite) write(t *testing.T, chain []byte, key crypto.Signer) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.certFile, chain, 0o600), os.WriteFile(s.keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// load starts the machine.
func (s *judgedSite) load(t *testing.T, xksURL, adminURL string) {
	t.Helper()
	var err error
	if s.Certificate, err = certificate.Load(s.certFile, s.keyFile, time.Now, slog.New(slog.NewTextHandler(&s.log, nil))); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.public.Certificate)
	s.TrustAlone(roots)
	s.Open(nobody{}, xksURL, adminURL)
}

// nobody keeps no shared certificate.
type nobody struct{ certificate.Vault }

func (nobody) Locked() bool { return true }

func (s *judgedSite) inUse(t *testing.T) *x509.Certificate {
	t.Helper()
	pair, err := s.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// TestWhatCannotServeKMS: each is refused in one line with what to do, and the one before stays; what is a matter of
// judgement is taken from who says that it is meant, and from nobody else.
func TestWhatCannotServeKMS(t *testing.T) {
	weakRSA, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const never, authority, name = "never", "authority", "name"
	as := func(change func(*x509.Certificate)) func(*judgedSite) []byte {
		return func(s *judgedSite) []byte { return chain(issue(t, s.between, s.key, change), s.between) }
	}
	of := func(key crypto.Signer) func(*judgedSite) []byte {
		return func(s *judgedSite) []byte { return chain(issue(t, s.between, key, nil), s.between) }
	}
	for what, tt := range map[string]struct {
		xks, admin string
		chain      func(*judgedSite) []byte
		unless     string // what is said; empty for nothing, which is needed
		says, do   string
	}{
		"good":                 {chain: as(nil)},
		"good, up to the root": {chain: func(s *judgedSite) []byte { return chain(issue(t, s.between, s.key, nil), s.between, s.public) }},
		"of the root itself":   {chain: func(s *judgedSite) []byte { return chain(issue(t, s.public, s.key, nil)) }},
		"a wildcard": {xks: "https://xks.example.com", chain: as(func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "*.example.com", []string{"*.example.com"}
		})},
		"a leaf alone": {chain: func(s *judgedSite) []byte { return chain(issue(t, s.between, s.key, nil)) }, unless: authority, says: "CN=between", do: "put that certificate behind it"},
		"an intermediate missing": {chain: func(s *judgedSite) []byte {
			return chain(issue(t, issue(t, s.hidden, s.key, isAuthority("second")), s.key, nil), issue(t, s.hidden, s.key, isAuthority("second")))
		}, unless: authority, says: "issued by CN=hidden", do: "put it at the end"},
		"a private authority": {chain: func(s *judgedSite) []byte { return chain(issue(t, s.hidden, s.key, nil), s.hidden, s.private) }, unless: authority, says: "CN=private root", do: "--own-authority"},
		"signs itself":        {chain: func(s *judgedSite) []byte { return chain(issue(t, nil, s.key, nil)) }, unless: authority, says: "it signs itself", do: "--own-authority"},
		"signs itself, of an authority": {chain: func(s *judgedSite) []byte {
			return chain(issue(t, nil, s.key, func(c *x509.Certificate) { c.IsCA = true }))
		}, unless: authority, says: "it signs itself", do: "own_authority"},
		"order":                        {chain: func(s *judgedSite) []byte { return chain(issue(t, s.between, s.key, nil), s.public, s.between) }, unless: never, says: "certificate 1, CN=xks.example.com, is not signed by the one after it", do: "which is CN=between"},
		"another's intermediate":       {chain: func(s *judgedSite) []byte { return chain(issue(t, s.between, s.key, nil), s.hidden) }, unless: never, says: "not signed by the one after it, CN=hidden", do: "put them in order"},
		"the authority first":          {chain: func(s *judgedSite) []byte { return chain(s.between, s.public) }, unless: never, says: "is that of an authority", do: "put the server's first"},
		"an authority's as a server's": {chain: as(func(c *x509.Certificate) { c.IsCA = true }), unless: never, says: "is that of an authority", do: "put the server's first"},
		"expired":                      {chain: as(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), unless: never, says: "certificate 1, CN=xks.example.com, expired at", do: "have a new one signed"},
		"not yet":                      {chain: as(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), unless: never, says: "begins at", do: "look at the clock"},
		"an intermediate expired": {chain: func(s *judgedSite) []byte {
			old := issue(t, s.public, s.key, func(c *x509.Certificate) { isAuthority("old")(c); c.NotAfter = time.Now().Add(-time.Minute) })
			return chain(issue(t, old, s.key, nil), old)
		}, unless: never, says: "certificate 2, CN=old, expired at", do: "have a new one signed"},
		"for clients":      {chain: as(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), unless: never, says: "serverAuth", do: "for a TLS server"},
		"no signatures":    {chain: as(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), unless: never, says: "digitalSignature", do: "for a TLS server"},
		"no names":         {chain: as(func(c *x509.Certificate) { c.DNSNames = nil }), unless: never, says: "it has no names", do: "have it signed for the name"},
		"RSA of 1024 bits": {chain: of(weakRSA), unless: never, says: "an RSA key of 1024 bits", do: "make a new key"},
		"Ed25519":          {chain: of(edwards), unless: never, says: "Ed25519", do: "make a new key, on P-256"},
		"P-224":            {chain: of(small), unless: never, says: "P-224", do: "make a new key, on P-256"},
		"SHA-1": {chain: func(s *judgedSite) []byte {
			old := issue(t, s.public, strong, isAuthority("old"))
			return chain(issue(t, old, s.key, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }), old)
		}, unless: never, says: "is signed with SHA1-RSA", do: "have it signed again"},
		"another key":                 {chain: of(newKey(t)), unless: never, says: "of another key", do: "make a request here"},
		"no certificate":              {chain: func(*judgedSite) []byte { return []byte("hello") }, unless: never, says: "PEM", do: "the server's first"},
		"the endpoint's name missing": {xks: "https://kms.example.com", chain: as(nil), unless: never, says: "it is not for kms.example.com, by which AWS KMS calls (xks.url)", do: "change xks.url first"},
		"the name in use missing": {chain: as(func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "new.example.com", []string{"new.example.com"}
		}), unless: name, says: "it is not for xks.example.com, as the one in use is", do: "--other-name"},
		"another common name":        {xks: "https://xks.example.com", chain: as(func(c *x509.Certificate) { c.Subject.CommonName = "console.example.com" }), unless: name, says: `its common name is "console.example.com"`, do: "--other-name"},
		"no common name":             {chain: as(func(c *x509.Certificate) { c.Subject.CommonName = "" }), unless: name, says: `its common name is ""`, do: "other_name"},
		"the console's name missing": {admin: "https://holdfast.example.com:9443", chain: as(nil), unless: name, says: "it is not for holdfast.example.com, by which browsers", do: "--other-name"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newJudgedSite(t, tt.xks, tt.admin)
			before := s.inUse(t)
			text := tt.chain(s)
			for _, accepted := range []certificate.Accepted{{}, {OwnAuthority: true}, {OtherName: true}, {OwnAuthority: true, OtherName: true}} {
				takes := tt.unless == "" || tt.unless == authority && accepted.OwnAuthority || tt.unless == name && accepted.OtherName
				checked, err := s.CheckInstall(t.Context(), text, accepted), s.Install(t.Context(), text, accepted)
				switch {
				case takes && (err != nil || checked != nil || s.inUse(t).Equal(before)):
					t.Errorf("%+v: %v, %v", accepted, checked, err)
				case !takes && (fault.CodeOf(err) != fault.Invalid || checked == nil || checked.Error() != err.Error() || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.do) || strings.Contains(err.Error(), "\n")):
					t.Errorf("%+v: %v; want %q and %q", accepted, err, tt.says, tt.do)
				case !takes && !s.inUse(t).Equal(before):
					t.Errorf("%+v: it was refused, and is in use", accepted)
				}
				if takes {
					return
				}
			}
		})
	}
}

// TestPreviousCertificate: the one before is kept with its key, comes back, and the one that it replaces is then kept.
func TestPreviousCertificate(t *testing.T) {
	const xks = "https://xks.example.com"
	s := newJudgedSite(t, xks, "")
	if err := s.Restore(t.Context()); fault.CodeOf(err) != fault.NotFound || s.Previous() != nil {
		t.Errorf("nothing was installed yet: %v", err)
	}
	first := s.inUse(t)
	asked, err := s.Request(t.Context(), []string{"xks.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(asked)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	second := issue(t, s.between, publicOnly{request.PublicKey, s.between.key}, nil)
	if err := s.Install(t.Context(), chain(second, s.between), certificate.Accepted{}); err != nil {
		t.Fatal(err)
	}
	serves := func(when string, now, before *x509.Certificate) {
		t.Helper()
		if !s.inUse(t).Equal(now) || s.Previous() == nil || !s.Previous().Equal(before) {
			t.Errorf("%s: in use %v, before %v", when, s.inUse(t).SerialNumber, s.Previous())
		}
		if info, err := os.Stat(s.certFile + ".previous"); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", when, info, err)
		}
	}
	serves("installed", second.Certificate, first)
	if err := s.Install(t.Context(), chain(second, s.between), certificate.Accepted{}); err != nil {
		t.Fatal(err)
	}
	serves("installed again", second.Certificate, first)
	for _, want := range [][2]*x509.Certificate{{first, second.Certificate}, {second.Certificate, first}, {first, second.Certificate}} {
		if err := errors.Join(s.CheckRestore(t.Context()), s.Restore(t.Context())); err != nil {
			t.Fatal(err)
		}
		serves("restored", want[0], want[1])
		s.load(t, xks, "")
		serves("restored, after a start", want[0], want[1])
	}
	// What was refused, or cannot be written, takes nothing away.
	if err := s.Install(t.Context(), chain(second), certificate.Accepted{}); err == nil {
		t.Error("a leaf alone")
	}
	serves("after a refusal", first, second.Certificate)
	s.load(t, "https://other.example.com", "")
	if err := s.Restore(t.Context()); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "other.example.com") {
		t.Errorf("it is not for the endpoint any more: %v", err)
	}
	serves("after a refusal", first, second.Certificate)
}

// publicOnly is a key of which the test has the public part; it signs with another, for a certificate of it.
type publicOnly struct {
	public any
	crypto.Signer
}

func (p publicOnly) Public() crypto.PublicKey { return p.public }

// TestFallsBack: a start with files that cannot be used serves with the certificate of before, says so, and makes no
// other; without one it fails and says so. A start with one that cannot serve KMS says that.
func TestFallsBack(t *testing.T) {
	const xks = "https://xks.example.com"
	for what, spoil := range map[string]func(*testing.T, *judgedSite){
		"no certificate": func(_ *testing.T, s *judgedSite) { _ = os.Remove(s.certFile) },
		"no key":         func(_ *testing.T, s *judgedSite) { _ = os.Remove(s.keyFile) },
		"damaged":        func(_ *testing.T, s *judgedSite) { _ = os.WriteFile(s.certFile, []byte("garbage"), 0o600) },
		"both empty": func(_ *testing.T, s *judgedSite) {
			_ = os.WriteFile(s.certFile, nil, 0o600)
			_ = os.WriteFile(s.keyFile, nil, 0o600)
		},
		"of another key": func(t *testing.T, s *judgedSite) { s.write(t, chain(issue(t, nil, newKey(t), nil)), newKey(t)) },
	} {
		t.Run(what, func(t *testing.T) {
			s := newJudgedSite(t, xks, "")
			spoil(t, s)
			if _, err := certificate.Load(s.certFile, s.keyFile, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "there is no certificate of before") || strings.Contains(err.Error(), "\n") {
				t.Errorf("without one of before: %v", err)
			}
			s = newJudgedSite(t, xks, "")
			first := s.inUse(t)
			if err := s.Install(t.Context(), chain(issue(t, s.between, s.key, nil), s.between), certificate.Accepted{}); err != nil {
				t.Fatal(err)
			}
			spoil(t, s)
			if made, err := certificate.MakeFirst(s.certFile, s.keyFile, []string{"xks.example.com"}, time.Now()); what == "no certificate" && (made != nil || err != nil) {
				t.Errorf("another one is made: %v %v", made, err)
			}
			for range 2 { // and again at the next start
				s.log.Reset()
				s.load(t, xks, "")
				if !s.inUse(t).Equal(first) || !strings.Contains(s.log.String(), "the one before is served with") || !strings.Contains(s.log.String(), "holdfast certificate restore") {
					t.Errorf("it serves with %v:\n%s", s.inUse(t).SerialNumber, s.log.String())
				}
			}
			if err := s.Restore(t.Context()); err != nil || !s.inUse(t).Equal(first) {
				t.Error(err)
			}
			s.log.Reset()
			s.load(t, xks, "")
			if !s.inUse(t).Equal(first) || s.log.Len() != 0 {
				t.Errorf("after it was made permanent:\n%s", s.log.String())
			}
		})
	}
	s := newJudgedSite(t, xks, "")
	s.write(t, chain(issue(t, s.between, s.key, nil)), s.key)
	s.log.Reset()
	s.load(t, xks, "")
	if !strings.Contains(s.log.String(), "cannot serve AWS KMS") || !strings.Contains(s.log.String(), "put that certificate behind it") {
		t.Errorf("a configured file without its intermediate:\n%s", s.log.String())
	}
}

// TestRestoreCutOff: the power is cut after each of the files that a restoration writes; the next start has a pair that
// was in use.
func TestRestoreCutOff(t *testing.T) {
	s := newJudgedSite(t, "", "")
	first, firstKey := s.inUse(t), read(t, s.keyFile)
	asked, err := s.Request(t.Context(), []string{"xks.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(asked)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	second := issue(t, s.between, publicOnly{request.PublicKey, s.between.key}, nil)
	if err := s.Install(t.Context(), chain(second, s.between), certificate.Accepted{}); err != nil {
		t.Fatal(err)
	}
	// The certificate alone is back.
	if err := os.WriteFile(s.certFile, chain(&issued{first, nil}, s.between), 0o600); err != nil {
		t.Fatal(err)
	}
	s.log.Reset()
	s.load(t, "", "")
	if !s.inUse(t).Equal(first) || !strings.Contains(s.log.String(), "was cut off, and is finished now") || !slices.Equal(bytes.TrimSpace(read(t, s.keyFile)), bytes.TrimSpace(firstKey)) {
		t.Errorf("in use %v:\n%s", s.inUse(t).SerialNumber, s.log.String())
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestPreviousShared: of a certificate that nodes share the one before is kept for all, and any node brings it back.
func TestPreviousShared(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	a, b := f.node("a.test", t.TempDir(), false), f.node("b.test", t.TempDir(), false)
	one, oneKey := signed(t, ca, newKey(t), []string{"xks.test", "one.test"}, nil)
	two, twoKey := signed(t, ca, newKey(t), []string{"xks.test", "two.test"}, nil)
	if err := a.Share(t.Context(), one, oneKey, meant); err != nil {
		t.Fatal(err)
	}
	if err := a.Restore(t.Context()); fault.CodeOf(err) != fault.NotFound || a.Previous() != nil {
		t.Errorf("the first that is shared: %v", err)
	}
	for range 2 { // the second time it is the same one
		if err := a.Share(t.Context(), two, twoKey, meant); err != nil {
			t.Fatal(err)
		}
	}
	b.catchUp()
	b.presents("shared", "xks.test two.test")
	for _, want := range []string{"xks.test one.test", "xks.test two.test", "xks.test one.test"} {
		if before := b.Previous(); before == nil || strings.Join(certificate.Names(before), " ") != want {
			t.Errorf("before: %v", before)
		}
		if err := errors.Join(b.CheckRestore(t.Context()), b.Restore(t.Context())); err != nil {
			t.Fatal(err)
		}
		a.catchUp()
		a.presents("restored", want)
		b.presents("restored", want)
	}
	// Also when a request is answered, with its key.
	asked, err := a.Request(t.Context(), []string{"xks.test", "asked.test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Install(t.Context(), append(ca.sign(asked, nil), ca.pem()...), meant); err != nil {
		t.Fatal(err)
	}
	a.presents("installed", "xks.test asked.test")
	if err := a.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.presents("restored", "xks.test one.test")
	b.catchUp()
	b.presents("restored", "xks.test one.test")
}
