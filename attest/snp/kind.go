package snp

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest/appraisal"
	"holdfast/attest/processor"
)

// Name is that of this kind of processor report.
const Name = "sev-snp"

// Section is the name of its part of a policy.
var Section = processor.Section(Name)

// The endorsements that go with a report.
const (
	endorsementVEK = "vek"
	endorsementCRL = "crl"
)

// Kind is SEV-SNP as a kind of processor report.
type Kind struct {
	// Roots are those of a simulated platform; nil trusts AMD alone.
	Roots *Roots
}

var (
	_ processor.Kind    = Kind{}
	_ processor.Revoker = Kind{}
)

// Name implements [processor.Kind].
func (Kind) Name() string { return Name }

// Title implements [processor.Kind].
func (Kind) Title() string { return "SEV-SNP report" }

// Remedy implements [processor.Kind].
func (Kind) Remedy() string {
	return "launch it with SEV-SNP (EC2: CpuOptions AmdSevSnp=enabled, on M6a, C6a or R6a)"
}

// Questions implements [processor.Kind].
func (Kind) Questions() []appraisal.Question { return Questions() }

// ParsePolicy implements [processor.Kind].
func (Kind) ParsePolicy(text []byte) (processor.Policy, error) {
	p := new(Policy)
	return p, json.Unmarshal(text, p, json.RejectUnknownMembers(true))
}

// PolicyOf gives the part of a policy that is about SEV-SNP; nil if it has none.
func PolicyOf(p processor.Policies) *Policy {
	policy, _ := p[Section].(*Policy)
	return policy
}

// Verify implements [processor.Kind].
func (k Kind) Verify(s *appraisal.Sheet, r processor.Report, p processor.Policy, x processor.Expectation) {
	s.Announce(Questions()...)
	policy, ok := p.(*Policy)
	if !ok || policy == nil {
		s.Answer(checkFormat, fmt.Errorf("the policy for it is a %T, not one for SEV-SNP", p))
		return
	}
	e, err := EvidenceOf(r)
	if err != nil {
		s.Answer(checkFormat, err)
		return
	}
	Verify(s, e, *policy, Expectation{ReportData: x.Data, At: x.At, Revocations: x.Revocations, Roots: k.Roots})
}

// ReadRevocations implements [processor.Revoker].
func (k Kind) ReadRevocations(der []byte) (*x509.RevocationList, error) {
	return ReadRevocations(der, k.Roots)
}

// The place of the report data in a report, in bytes (AMD 56860, table 23).
const (
	dataBegins = atData
	dataEnds   = dataBegins + processor.DataSize
)

// Data implements [processor.Kind].
func (Kind) Data(r processor.Report) []byte {
	n := min(len(r.Signed), dataEnds)
	return r.Signed[min(dataBegins, n):n]
}

// Expires implements [processor.Kind]: when the certificate of the key that signed
// the report does.
func (Kind) Expires(r processor.Report) (time.Time, error) {
	c, err := x509.ParseCertificate(r.Endorsements[endorsementVEK])
	if err != nil {
		return time.Time{}, fmt.Errorf("the certificate of the processor's key: %w", err)
	}
	return c.NotAfter.UTC(), nil
}

// NewReport gives the evidence as a processor report.
func NewReport(e Evidence) *processor.Report {
	r := &processor.Report{Kind: Name, Signed: e.Report, Endorsements: map[string][]byte{endorsementVEK: e.VEK}}
	if len(e.CRL) > 0 {
		r.Endorsements[endorsementCRL] = e.CRL
	}
	return r
}

// EvidenceOf gives what is in a processor report of this kind. It refuses reports
// of other kinds, and endorsements that it does not know.
func EvidenceOf(r processor.Report) (Evidence, error) {
	if r.Kind != Name {
		return Evidence{}, fmt.Errorf("the report is of the kind %q, not %q", r.Kind, Name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Endorsements)) {
		if !slices.Contains([]string{endorsementVEK, endorsementCRL}, name) {
			return Evidence{}, fmt.Errorf("the report has an endorsement %.40q; a %s has %q and %q", name, Name, endorsementVEK, endorsementCRL)
		}
	}
	return Evidence{Report: r.Signed, VEK: r.Endorsements[endorsementVEK], CRL: r.Endorsements[endorsementCRL]}, nil
}

// Source makes reports of the machine that it runs on.
type Source struct {
	Provider Provider
	// CRL is AMD's list of revocations (DER), to go with the reports; nil for none.
	CRL []byte
}

var _ processor.Source = Source{}

// Kind implements [processor.Source].
func (Source) Kind() string { return Name }

// Collect implements [processor.Source].
func (s Source) Collect(data [processor.DataSize]byte) (*processor.Report, error) {
	e, err := Collect(s.Provider, data)
	if err != nil {
		return nil, err
	}
	e.CRL = s.CRL
	return NewReport(*e), nil
}
