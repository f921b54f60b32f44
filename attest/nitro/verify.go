package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/veraison/go-cose"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
)

// AWSRoot is the SHA-256 of the certificate (DER) of AWS's root, in
// hexadecimal, as AWS publishes it in the EC2 and Nitro Enclaves User Guides.
// The certificate itself is the first of every document's bundle.
const AWSRoot = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// The checks of a NitroTPM document.
var (
	checkFormat    = appraisal.Question{Code: fault.NitroFormat, Name: "The NitroTPM document is well-formed."}
	checkDigest    = appraisal.Question{Code: fault.NitroDigest, Name: "The NitroTPM document's PCRs are SHA-384."}
	checkRoot      = appraisal.Question{Code: fault.NitroRoot, Name: "The NitroTPM document's root is AWS's, or the one that was given."}
	checkChain     = appraisal.Question{Code: fault.NitroChain, Name: "The NitroTPM document's certificates lead from its root to its signer."}
	checkTime      = appraisal.Question{Code: fault.NitroTime, Name: "The NitroTPM document was signed when its certificates were valid, and when the evidence was made."}
	checkSignature = appraisal.Question{Code: fault.NitroSignature, Name: "The NitroTPM document is signed by its signer."}
	checkUserData  = appraisal.Question{Code: fault.NitroUserData, Name: "The NitroTPM document was made for this evidence."}
	checkNonce     = appraisal.Question{Code: fault.NitroNonce, Name: "The NitroTPM document has the nonce that was asked for."}
	checkPCRs      = appraisal.Question{Code: fault.NitroPCRs, Name: "The NitroTPM document's PCRs are the ones in the TPM's quote."}
	checkInstance  = appraisal.Question{Code: fault.NitroInstance, Name: "The NitroTPM document is of a Region and an instance that the policy names."}
)

// Questions are all that [Verify] answers.
func Questions() []appraisal.Question {
	return []appraisal.Question{checkFormat, checkDigest, checkRoot, checkChain, checkTime, checkSignature, checkUserData, checkNonce, checkPCRs, checkInstance}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// At is when the evidence was made.
	At time.Time
	// UserData and Nonce are what the document must have; nil if they do not
	// matter.
	UserData, Nonce []byte
	// PCRs are the SHA-384 values in the TPM's quote, by index; nil if there is
	// none.
	PCRs map[int][]byte
	// Root is the SHA-256 of the certificate (DER) that is trusted instead of
	// AWS's, of a simulated platform; nil trusts [AWSRoot].
	Root []byte
}

// Verify appraises the document under the policy, and records the answers to
// all [Questions] and the fact "nitro". Each check runs whatever others say,
// but for a document that cannot be read. It needs neither network nor
// hardware.
func Verify(s *appraisal.Sheet, document []byte, p Policy, x Expectation) {
	s.Announce(Questions()...)
	d, err := Parse(document)
	if !s.Answer(checkFormat, err) {
		return
	}
	s.Fact("nitro", d.facts(x.Root))
	s.Answer(checkDigest, d.checkDigest())
	if s.Answer(checkRoot, d.checkRoot(x.Root)) && simulated(x.Root) {
		s.Pass(checkRoot, "a simulated root, as asked for: AWS vouches for nothing here")
	}
	s.Answer(checkChain, d.checkChain())
	if s.Answer(checkTime, d.checkTime(x.At, p.MaxAge())) {
		s.Pass(checkTime, "signed at %s", stamp(d.Time))
	}
	s.Answer(checkSignature, d.checkSignature())

	if x.UserData == nil {
		s.Missing("no user data was given to compare with: give an evidence file", checkUserData)
	} else {
		s.Answer(checkUserData, equal("user_data", d.UserData, x.UserData))
	}
	if x.Nonce == nil {
		s.Missing("no nonce was given to compare with: give an evidence file", checkNonce)
	} else {
		s.Answer(checkNonce, equal("nonce", d.Nonce, x.Nonce))
	}
	if x.PCRs == nil {
		s.Missing("there is no TPM quote with SHA-384 PCRs to compare with: give one, with its event log", checkPCRs)
	} else if same, err := d.comparePCRs(p.ComparePCRs, x.PCRs); s.Answer(checkPCRs, err) {
		s.Pass(checkPCRs, "equal: %v", same)
	}
	if len(p.Regions) == 0 && len(p.Instances) == 0 {
		s.Skip("the policy names neither Regions nor instances", checkInstance)
	} else {
		s.Answer(checkInstance, d.checkInstance(p))
	}
}

func (d *Document) checkDigest() error {
	if d.Digest != digestName {
		return fmt.Errorf("the digest is %q, and this program compares %s alone", d.Digest, digestName)
	}
	for _, i := range slices.Sorted(maps.Keys(d.PCRs)) {
		if n := len(d.PCRs[i]); n != pcrSize {
			return fmt.Errorf("PCR %d has %d bytes, not the %d of %s", i, n, pcrSize, digestName)
		}
	}
	return nil
}

func (d *Document) checkRoot(want []byte) error {
	whose := "the simulated root that was given"
	if want == nil {
		want, whose = awsRoot, "AWS's root"
	}
	if got := sha256.Sum256(d.CABundle[0].Raw); !bytes.Equal(got[:], want) {
		return fmt.Errorf("the bundle begins with %q, SHA-256 %x, which is not %s (%x): the document does not come from there", d.CABundle[0].Subject, got, whose, want)
	}
	return nil
}

var awsRoot = func() []byte {
	b, err := hex.DecodeString(AWSRoot)
	if err != nil {
		panic(err)
	}
	return b
}()

// simulated is whether the root that was given is another than AWS's.
func simulated(root []byte) bool { return root != nil && !bytes.Equal(root, awsRoot) }

// chain is all certificates, from the root down to the signer's.
func (d *Document) chain() []*x509.Certificate {
	return append(slices.Clone(d.CABundle), d.Certificate)
}

// checkChain checks that each certificate issues the next (RFC 5280 section 6:
// signature, name, CA, path length, key usage, critical extensions), the first
// one itself, that there is none besides, and that all have P-384 keys. It does
// so at the latest beginning of their validity; the signed time is checkTime's.
func (d *Document) checkChain() error {
	chain := d.chain()
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[0])
	var at time.Time
	for i, c := range chain {
		if k, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P384() || c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return fmt.Errorf("the certificate of %q must have a P-384 key and an ECDSA signature with SHA-384", c.Subject)
		}
		if i < len(chain)-1 {
			if c.KeyUsage&x509.KeyUsageCertSign == 0 {
				return fmt.Errorf("the certificate of %q is not one for signing certificates", c.Subject)
			}
			intermediates.AddCert(c)
		}
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	if err := chain[0].CheckSignatureFrom(chain[0]); err != nil {
		return fmt.Errorf("%q, the first of the bundle, is no root: %w", chain[0].Subject, err)
	}
	if d.Certificate.IsCA || d.Certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("the certificate of %q is not one for signing documents", d.Certificate.Subject)
	}
	found, err := d.Certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("the certificates do not lead to the bundle's root: %w", err)
	}
	slices.Reverse(chain)
	if !slices.ContainsFunc(found, func(f []*x509.Certificate) bool { return slices.EqualFunc(f, chain, (*x509.Certificate).Equal) }) {
		return errors.New("the bundle is not the chain from the root to the signer, in this order and with nothing besides")
	}
	return nil
}

func (d *Document) checkTime(at time.Time, maxAge time.Duration) error {
	var errs []error
	for _, c := range d.chain() {
		if d.Time.Before(c.NotBefore) || d.Time.After(c.NotAfter) {
			errs = append(errs, fmt.Errorf("signed at %s, when the certificate of %q was not valid (%s to %s)", stamp(d.Time), c.Subject, stamp(c.NotBefore), stamp(c.NotAfter)))
		}
	}
	switch apart := at.Sub(d.Time).Abs(); {
	case at.IsZero():
		errs = append(errs, errors.New("the time of the evidence is not known, so the document may be an old one"))
	case apart > maxAge:
		errs = append(errs, fmt.Errorf("signed at %s, which is %s from the evidence's %s; the policy allows %s", stamp(d.Time), apart.Round(time.Second), stamp(at), maxAge))
	}
	return errors.Join(errs...)
}

func (d *Document) checkSignature() error {
	if k, ok := d.Certificate.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P384() {
		return errors.New("the signer's key is not on P-384")
	}
	v, err := cose.NewVerifier(cose.AlgorithmES384, d.Certificate.PublicKey)
	if err == nil {
		err = d.signed.Verify(nil, v)
	}
	if err != nil {
		return fmt.Errorf("the document was changed, or signed by another key or algorithm than the certificate's (ES384): %w", err)
	}
	return nil
}

func equal(name string, got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is %x, not %x: the document was made for something else, or is shown again", name, got, want)
	}
	return nil
}

// comparePCRs gives the PCRs that are equal: all that both have, at least those
// that are needed.
func (d *Document) comparePCRs(need []int, quoted map[int][]byte) (same []int, err error) {
	var differ, missing []int
	for _, i := range slices.Sorted(maps.Keys(d.PCRs)) {
		switch value, ok := quoted[i]; {
		case !ok:
		case bytes.Equal(value, d.PCRs[i]):
			same = append(same, i)
		default:
			differ = append(differ, i)
		}
	}
	for _, i := range need {
		if !slices.Contains(same, i) && !slices.Contains(differ, i) {
			missing = append(missing, i)
		}
	}
	switch {
	case differ != nil:
		return nil, fmt.Errorf("PCRs %v differ between the document and the quote: they are of different machines or moments", differ)
	case missing != nil:
		return nil, fmt.Errorf("PCRs %v are not both in the document and in the quote's SHA-384 bank; quote them", missing)
	case same == nil:
		return nil, errors.New("the document and the quote have no PCR in common; quote the SHA-384 bank")
	}
	return same, nil
}

func (d *Document) checkInstance(p Policy) error {
	if r := d.region(); len(p.Regions) > 0 && !slices.Contains(p.Regions, r) {
		return fmt.Errorf("the Region is %q, and the policy names %v", r, p.Regions)
	}
	if i := d.Instance(); len(p.Instances) > 0 && !slices.Contains(p.Instances, i) {
		return fmt.Errorf("the instance is %q, and the policy names %v", i, p.Instances)
	}
	return nil
}

// domain ends the names of AWS's issuers; before it is the Region:
// e908f63d67d7f628.us-east-2.aws.nitro-enclaves.
const domain = ".aws.nitro-enclaves"

// region is where AWS's issuers say that they are; empty if they do not say so
// with one voice.
func (d *Document) region() (region string) {
	for i, c := range d.CABundle[1:] {
		name, ok := strings.CutSuffix(c.Subject.CommonName, domain)
		r := name[strings.LastIndexByte(name, '.')+1:]
		if !ok || (i > 0 && r != region) {
			return ""
		}
		region = r
	}
	return region
}

// instance is the ID of the instance; empty if the signer's issuer, which is
// the instance's own, names another.
func (d *Document) Instance() string {
	id, _, _ := strings.Cut(d.ModuleID, "-tpm")
	if !strings.HasPrefix(d.Certificate.Issuer.CommonName, id+".") {
		return ""
	}
	return id
}

// facts are what the document says, for people and programs.
type facts struct {
	ModuleID     string            `json:"module_id"`
	Timestamp    string            `json:"timestamp"`
	Region       string            `json:"region,omitempty"`
	PCRs         map[string]string `json:"pcrs"`
	Certificates []certFacts       `json:"certificates"` // from the root down
	RootSHA256   string            `json:"root_sha256"`
	Simulated    bool              `json:"simulated,omitempty"`
	UserData     string            `json:"user_data,omitempty"`
	Nonce        string            `json:"nonce,omitempty"`
	PublicKey    string            `json:"public_key_sha256,omitempty"`
}

type certFacts struct {
	Subject   string `json:"subject"`
	NotBefore string `json:"not_before"`
	NotAfter  string `json:"not_after"`
}

func (d *Document) facts(root []byte) facts {
	f := facts{
		ModuleID: d.ModuleID, Timestamp: d.Time.Format("2006-01-02T15:04:05.000Z07:00"), Region: d.region(), PCRs: map[string]string{},
		RootSHA256: sha256Hex(d.CABundle[0].Raw), Simulated: simulated(root),
		UserData: hex.EncodeToString(d.UserData), Nonce: hex.EncodeToString(d.Nonce),
	}
	for i, value := range d.PCRs {
		f.PCRs[fmt.Sprint(i)] = hex.EncodeToString(value)
	}
	for _, c := range d.chain() {
		f.Certificates = append(f.Certificates, certFacts{c.Subject.String(), stamp(c.NotBefore), stamp(c.NotAfter)})
	}
	if d.PublicKey != nil {
		f.PublicKey = sha256Hex(d.PublicKey)
	}
	return f
}

func sha256Hex(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
