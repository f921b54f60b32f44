package ec2

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
)

// The checks of an instance identity document.
var (
	checkThere     = appraisal.Question{Code: fault.InstanceMissing, Name: "The evidence has the instance identity document that the policy asks for."}
	checkFormat    = appraisal.Question{Code: fault.InstanceFormat, Name: "The instance identity document is well-formed."}
	checkSignature = appraisal.Question{Code: fault.InstanceSignature, Name: "The instance identity document is signed by a certificate that the policy has."}
	checkBond      = appraisal.Question{Code: fault.InstanceOther, Name: "The instance identity document is of the instance that the NitroTPM document names."}
	checkAccount   = appraisal.Question{Code: fault.InstanceAccount, Name: "The instance is of an account that the policy names."}
	checkRegion    = appraisal.Question{Code: fault.InstanceRegion, Name: "The instance runs in a Region that the policy names."}
	checkImage     = appraisal.Question{Code: fault.InstanceImage, Name: "The instance was launched from an image that the policy names."}
	checkOwner     = appraisal.Question{Code: fault.InstanceOwner, Name: "The instance's launch file is of an owner that the policy names."}
)

// Questions are all that [Verify] answers.
func Questions() []appraisal.Question {
	return []appraisal.Question{checkThere, checkFormat, checkSignature, checkBond, checkAccount, checkRegion, checkImage, checkOwner}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// Instance is the one that the NitroTPM document names; empty without such a document.
	Instance string
	// Owner is the SHA-256 of the key by which the launch file is signed; nil without one.
	Owner []byte
}

// Verify appraises the document under the policy, and records the answers to all
// [Questions]. Each check runs whatever others say, but for a document that cannot be read.
// The fact "instance" is there only if AWS has signed it, and for this machine.
func Verify(s *appraisal.Sheet, document []byte, p *Policy, x Expectation) {
	s.Announce(Questions()...)
	if len(document) == 0 {
		s.Answer(checkThere, errors.New("it has none: the machine must be an EC2 instance whose metadata service can be asked (instance.metadata), and its own policy must have the section \"instance\""))
		return
	}
	s.Answer(checkThere, nil)
	p.checkLists(s, x)
	d, err := Parse(document)
	if !s.Answer(checkFormat, err) {
		return
	}
	by, err := d.signer(p)
	signed := s.Answer(checkSignature, err)
	if signed && known[fingerprint(by.Raw)] == "" {
		s.Pass(checkSignature, "by the certificate with the SHA-256 %s, which the policy has and this program does not know", fingerprint(by.Raw))
	}
	if tied := s.Answer(checkBond, d.of(x.Instance)); signed && tied {
		s.Fact("instance", d.facts(by))
	}
	s.Answer(checkAccount, oneOf("the account", d.Account, p.Accounts))
	if len(p.Regions) > 0 {
		s.Answer(checkRegion, oneOf("the Region", d.Region, p.Regions))
	}
	if len(p.Images) > 0 {
		s.Answer(checkImage, oneOf("the image", d.Image, p.Images))
	}
}

// checkLists answers what does not depend on the document.
func (p *Policy) checkLists(s *appraisal.Sheet, x Expectation) {
	for _, l := range []struct {
		list  []string
		what  string
		check appraisal.Question
	}{{p.Regions, "Regions", checkRegion}, {p.Images, "images", checkImage}, {p.Owners, "owners", checkOwner}} {
		if len(l.list) == 0 {
			s.Skip("the policy names no "+l.what+" in the section \"instance\"", l.check)
		}
	}
	if len(p.Owners) > 0 {
		s.Answer(checkOwner, oneOf("the owner", hex.EncodeToString(x.Owner), p.Owners))
	}
}

// signer gives the policy's certificate that the document is signed by. One that is known
// counts for its own Region alone.
func (d *Document) signer(p *Policy) (*x509.Certificate, error) {
	var why error
	for _, der := range p.Certificates {
		c, err := parseCertificate(der)
		if err == nil {
			err = d.signedBy(c)
		}
		if err != nil {
			why = err
			continue
		}
		if of := known[fingerprint(der)]; of != "" && of != d.Region {
			return nil, fmt.Errorf("it is of the Region %q, and signed by AWS's certificate of %s", d.Region, of)
		}
		return c, nil
	}
	return nil, fmt.Errorf("none of the policy's %d certificates has signed it (the last: %w): it was changed, or the certificate of its Region %q lacks in the policy", len(p.Certificates), why, d.Region)
}

// of says why the document is not of the instance.
func (d *Document) of(instance string) error {
	switch {
	case instance == "":
		return errors.New("the evidence has no NitroTPM document that names an instance, and anybody who was on the instance may have the identity document")
	case instance != d.ID:
		return fmt.Errorf("it is of %s, and the NitroTPM document of %s: it was taken from another machine", d.ID, instance)
	}
	return nil
}

func oneOf(what, is string, list []string) error {
	if slices.Contains(list, is) {
		return nil
	}
	return fmt.Errorf("%s is %q, and the policy names %q", what, is, list)
}

// facts are what the document says, for people and programs.
type facts struct {
	Instance
	Pending       string `json:"pending,omitempty"`
	Certificate   string `json:"certificate_sha256"`
	CertificateOf string `json:"certificate_of,omitempty"`
}

func (d *Document) facts(by *x509.Certificate) facts {
	f := facts{Instance: d.Instance, Certificate: fingerprint(by.Raw), CertificateOf: known[fingerprint(by.Raw)]}
	if !d.Pending.IsZero() {
		f.Pending = d.Pending.Format(time.RFC3339)
	}
	return f
}
