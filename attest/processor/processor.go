// Package processor is the slot of evidence for what a machine's processor says
// about it: the report of a trusted execution environment (TEE), such as AMD
// SEV-SNP. A kind of report is one package that implements [Kind], for verifiers,
// and [Source], for machines; it is registered in package attest (kinds.go).
//
// Evidence has one report at most. What a report of each kind has in common is
// here: signed bytes, in which the machine could place 64 bytes of its own, and
// endorsements of the key that signed them.
package processor

import (
	"crypto/x509"
	"regexp"
	"strings"
	"time"

	"holdfast/attest/appraisal"
)

// DataSize is how many bytes of its own a machine places in a report.
const DataSize = 64

// Report is what evidence carries. Nothing in it is true before its kind's Verify
// has passed.
type Report struct {
	// Kind is the [Kind.Name] of the kind that it is of.
	Kind string `json:"kind"`
	// Signed is what the processor signed, with the signature.
	Signed []byte `json:"signed"`
	// Endorsements are what others signed about the processor and its key (RFC 9334
	// section 4.1): certificates and lists of revocations. Their names are the kind's,
	// and it refuses others.
	Endorsements map[string][]byte `json:"endorsements,omitempty"`
}

// Policy is what an appraisal policy asks of one kind of report.
type Policy interface {
	// Validate says what is wrong with it, all at once.
	Validate() error
	// Gaps says, one sentence each, why a report that passes may be of a machine that
	// nobody meant: of any chip in the world, or with firmware that is known to be broken.
	Gaps() []string
}

// Teller is a Policy that can say in sentences, for people, which machines pass it.
type Teller interface {
	// Admits gives whole sentences about the machine.
	Admits() []string
}

// Policies are the parts of an appraisal policy that are about reports, by
// [Section].
type Policies map[string]Policy

// Section is the name of a kind's part of a policy, and of the fact that its
// report gives: the kind's name, with underscores.
func Section(kind string) string { return strings.ReplaceAll(kind, "-", "_") }

// Kinds are the names of the kinds that the policies are about, in no order.
func (p Policies) Kinds() (names []string) {
	for section := range p {
		names = append(names, strings.ReplaceAll(section, "_", "-"))
	}
	return names
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// Data must be in the report; nil if nothing is known of it.
	Data *[DataSize]byte
	// At is the time of the evidence, at which certificates must be valid.
	At time.Time
	// Revocations are lists of revocations of the verifier's own, as their makers sign
	// them. Those of other makers than the report's are passed over.
	Revocations [][]byte
}

// MaxRevocations is the size of the largest list of revocations, in bytes.
const MaxRevocations = 1 << 20

// Kind is one kind of report, for those who check it. It needs neither hardware
// nor a network.
type Kind interface {
	// Name is the kind's, such as "sev-snp": letters, digits and dashes. It stands
	// in evidence and in policies, so it never changes.
	Name() string
	// Title names a report of the kind for people, such as "SEV-SNP report".
	Title() string
	// Remedy says how to get a machine that gives such reports.
	Remedy() string
	// Questions are all that Verify answers. The code of one that fails while a clock
	// is not set, and of no other, ends in _TIME.
	Questions() []appraisal.Question
	// ParsePolicy reads the kind's section of a policy file, one JSON value, strictly.
	ParsePolicy(text []byte) (Policy, error)
	// Verify appraises the report under a policy that ParsePolicy gave, and records
	// the answers and the fact [Section]. It refuses a policy of another kind.
	Verify(s *appraisal.Sheet, r Report, p Policy, x Expectation)
	// Data gives the bytes that the machine placed in the report, unchecked; nil or
	// fewer than [DataSize] if it is too short.
	Data(r Report) []byte
	// Expires gives the time after which the report's key is no longer good, so that
	// the machine makes evidence in time. Zero if it stays good.
	Expires(r Report) (time.Time, error)
}

// Revoker is a kind whose maker publishes lists of revocations.
type Revoker interface {
	// ReadRevocations reads a list (DER) and verifies that the maker signed it. It need not
	// be in force.
	ReadRevocations(der []byte) (*x509.RevocationList, error)
}

// Source makes reports of the machine that it runs on.
type Source interface {
	// Kind is the [Kind.Name] of its reports.
	Kind() string
	// Collect asks the processor for a report with the data in it.
	Collect(data [DataSize]byte) (*Report, error)
}

var name = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// maxName is the length of the longest name of a kind, in bytes.
const maxName = 32

// ValidName says whether a kind can have the name.
func ValidName(s string) bool { return len(s) <= maxName && name.MatchString(s) }
