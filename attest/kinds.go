package attest

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/attest/ec2"
	"holdfast/attest/nitro"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// registered are the kinds of processor reports that this program knows. Another
// technology is one package and one more entry here; for machines, its device is
// one more entry in package device.
var registered = func() *Kinds {
	k, err := NewKinds(snp.Kind{})
	if err != nil {
		panic(err) // a test makes them as well
	}
	return k
}()

// Kinds are kinds of processor reports, each once. The functions of this package
// work with all that the program knows; the methods of Kinds are for the simulated
// platform and tests, which have others.
type Kinds struct{ list []processor.Kind }

// NewKinds makes a list of kinds. It refuses one that is there twice, that has the
// name of another technology, or whose checks have the codes of others: a sheet has
// one answer to each code.
func NewKinds(list ...processor.Kind) (*Kinds, error) {
	names, codes := map[string]bool{string(TPM): true, string(NitroTPM): true, "instance": true}, map[fault.Code]string{}
	for of, questions := range map[string][]appraisal.Question{string(TPM): tpm.Questions(), string(NitroTPM): nitro.Questions(), "instance": ec2.Questions(), "evidence": ofWhole()} {
		for _, q := range questions {
			codes[q.Code] = of
		}
	}
	for _, kind := range list {
		name := kind.Name()
		if !processor.ValidName(name) {
			return nil, fmt.Errorf("processor reports: %q cannot be the name of a kind: use up to 32 lower-case letters, digits and single dashes", name)
		}
		if names[name] {
			return nil, fmt.Errorf("processor reports: there are two technologies %q: register each kind once", name)
		}
		names[name] = true
		for _, q := range kind.Questions() {
			if other, ok := codes[q.Code]; ok {
				return nil, fmt.Errorf("processor reports: the check %s is both of %q and of %q: give each a code of its own", q.Code, other, name)
			}
			codes[q.Code] = name
		}
	}
	return &Kinds{slices.Clone(list)}, nil
}

// find gives the kind of that name, or nil.
func (k *Kinds) find(name string) processor.Kind {
	if i := slices.IndexFunc(k.list, func(kind processor.Kind) bool { return kind.Name() == name }); i >= 0 {
		return k.list[i]
	}
	return nil
}

func (k *Kinds) names() (names []string) {
	for _, kind := range k.list {
		names = append(names, kind.Name())
	}
	return names
}

// Remedy says how to get a machine that has the technology; empty for one that is
// not known.
func Remedy(t Technology) string {
	switch t {
	case TPM:
		return "launch it with a TPM 2.0 (EC2: an image with TPM support v2.0)"
	case NitroTPM:
		return "launch it on EC2 from an image with TPM support v2.0, on an instance type with NitroTPM"
	}
	if kind := registered.find(string(t)); kind != nil {
		return kind.Remedy()
	}
	return ""
}

// sections reads the sections of a policy that are about processor reports. A
// section of no known kind is refused: what it asks for would not be asked.
func (k *Kinds) sections() json.Options {
	return json.WithUnmarshalers(json.UnmarshalFromFunc(func(dec *jsontext.Decoder, p *processor.Policy) error {
		section := dec.StackPointer().LastToken()
		text, err := dec.ReadValue()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(k.list, func(kind processor.Kind) bool { return processor.Section(kind.Name()) == section })
		if i < 0 {
			return fmt.Errorf("there is no %.40q in a policy; the processor reports that this program knows are %q", section, k.names())
		}
		if *p, err = k.list[i].ParsePolicy(text); err != nil {
			return fmt.Errorf("%s: %w", section, err)
		}
		return written(text, reflect.TypeOf(*p), "."+section)
	}))
}

// checkReport is asked only of evidence whose report nobody can appraise.
var checkReport = appraisal.Question{Code: fault.EvidenceReport, Name: "The processor report is of a kind that this program and the policy know."}

// verify appraises the report, if the evidence has one, and says of all other
// kinds that there is none. A report that is of no known kind, or of which the
// policy says nothing, fails: what is not checked is not passed over.
func (k *Kinds) verify(s *appraisal.Sheet, r *processor.Report, p *Policy, x processor.Expectation) {
	if r != nil && k.find(r.Kind) == nil {
		s.Answer(checkReport, fmt.Errorf("it is of the kind %.40q, and this program knows %q; use a version of holdfast that knows it", r.Kind, k.names()))
	}
	for _, kind := range k.list {
		if r == nil || r.Kind != kind.Name() {
			s.Skip("the evidence has no "+kind.Title(), kind.Questions()...)
			continue
		}
		s.Announce(kind.Questions()...)
		section := processor.Section(kind.Name())
		if p.Reports[section] == nil {
			s.Answer(checkReport, fmt.Errorf("the evidence has a report of the kind %q, and the policy has no %q, which says what is good; add it", r.Kind, section))
			continue
		}
		kind.Verify(s, *r, p.Reports[section], x)
	}
}

// Expires gives the time after which the evidence's processor report is no longer
// good, as its key's certificate is not. It is zero if there is no report, or if it
// stays good. The roots are those of [Expectation].
func Expires(e *Evidence, roots *Roots) (time.Time, error) {
	if e.Report == nil {
		return time.Time{}, nil
	}
	kind := roots.kinds().find(e.Report.Kind)
	if kind == nil {
		return time.Time{}, fmt.Errorf("evidence: nothing is known of a processor report of the kind %.40q", e.Report.Kind)
	}
	return kind.Expires(*e.Report)
}
