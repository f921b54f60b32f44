package snp

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"holdfast/attest/processor"
)

// maxCRL is the size of the largest list of revocations, in bytes.
const maxCRL = processor.MaxRevocations

// Whose a list of revocations is.
const (
	ofVerifier = "verifier"
	ofMachine  = "machine"
)

// List is a list of revocations, as a fact.
type List struct {
	// From says whose it is: the verifier's own, or the machine's, which is judged.
	From   string `json:"from"`
	Issuer string `json:"issuer"`
	// ThisUpdate is when AMD made it; NextUpdate until when it is in force, zero if it
	// does not say.
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update,omitzero"`
	// Age is how old it is, in days, at the time of the appraisal.
	Age int `json:"age_days"`
	// InForce says whether it is in force then.
	InForce bool `json:"in_force"`

	crl *x509.RevocationList
}

// newList describes a list.
func newList(crl *x509.RevocationList, from string, at time.Time) List {
	return List{From: from, Issuer: crl.Issuer.CommonName, ThisUpdate: crl.ThisUpdate.UTC(), NextUpdate: crl.NextUpdate.UTC(), crl: crl,
		Age: int(at.Sub(crl.ThisUpdate).Hours() / 24), InForce: !at.Before(crl.ThisUpdate) && !at.After(crl.NextUpdate)}
}

// revoked gives when one of the certificates was revoked, as the list has it.
func (l List) revoked(certs ...*x509.Certificate) (serial *big.Int, at time.Time, ok bool) {
	for _, r := range l.crl.RevokedCertificateEntries {
		for _, c := range certs {
			if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return r.SerialNumber, r.RevocationTime.UTC(), true
			}
		}
	}
	return nil, time.Time{}, false
}

// ErrRevocations says that a list of revocations is none, or is not AMD's.
var ErrRevocations = errors.New("the list of revocations cannot be used")

// ReadRevocations reads a list of revocations (DER) that a verifier is given, and
// verifies that a root signed it; nil roots stand for AMD's. Errors: [ErrRevocations].
func ReadRevocations(der []byte, roots *Roots) (*x509.RevocationList, error) {
	crl, err := parseRevocations(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	if roots == nil {
		if roots, err = amdRoots(); err != nil {
			return nil, err
		}
	}
	if roots.signed(crl) == "" {
		return nil, fmt.Errorf("%w: it is by %.80q, and no root of AMD's for %s signed it; download AMD's own from kdsintf.amd.com", ErrRevocations, crl.Issuer.CommonName, known())
	}
	return crl, nil
}

func parseRevocations(der []byte) (*x509.RevocationList, error) {
	if len(der) == 0 || len(der) > maxCRL {
		return nil, fmt.Errorf("it has %d bytes, of 1 to %d", len(der), maxCRL)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("it must be in DER: %w", err)
	}
	return crl, nil
}

// signed gives the product line whose root signed the list; empty if none did.
func (r *Roots) signed(crl *x509.RevocationList) string {
	for line, certs := range r.byLine {
		if certs.Ark != nil && crl.CheckSignatureFrom(certs.Ark) == nil {
			return line
		}
	}
	return ""
}

// revocation checks the certificates against all lists that there are. One that
// revokes counts however old it is, and from whomever, if the root signed it. That
// nothing is revoked, only a list of the verifier's own can show: the machine would
// bring one that suits it. AMD revokes no leaves: a higher TCB takes their place.
func (v *report) revocation(roots *Roots, intermediate, root *x509.Certificate) {
	lists, err := v.lists(roots, root)
	v.facts.Lists = lists
	if err != nil {
		v.s.Answer(checkCRL, err)
		return
	}
	for _, l := range lists {
		if serial, at, ok := l.revoked(v.vek, intermediate, root); ok {
			v.s.Answer(checkCRL, fmt.Errorf("serial number %s was revoked at %s, by the %s's list of %s", serial, at.Format(time.RFC3339), l.From, day(l.ThisUpdate)))
			return
		}
	}
	own := slices.DeleteFunc(slices.Clone(lists), func(l List) bool { return l.From != ofVerifier })
	slices.SortFunc(own, func(a, b List) int { return b.ThisUpdate.Compare(a.ThisUpdate) })
	switch {
	case len(own) > 0 && own[0].InForce:
		v.s.Pass(checkCRL, "the verifier's own list, of %s, %d days old", day(own[0].ThisUpdate), own[0].Age)
	case len(own) > 0:
		v.unproven(fmt.Sprintf("the newest list of the verifier's own is of %s, in force until %s, and the evidence is of %s; download AMD's present one", day(own[0].ThisUpdate), until(own[0].NextUpdate), day(v.x.At)))
	case len(lists) > 0:
		v.unproven(fmt.Sprintf("no list of revocations of the verifier's own was given; the machine's, of %s, does not name the issuer", day(lists[0].ThisUpdate)))
	default:
		v.unproven("no list of revocations was given")
	}
}

// unproven answers where no list in force shows that nothing is revoked: what the
// policy requires fails, and does not apply where it does not.
func (v *report) unproven(why string) {
	if v.p.RequireCRL {
		v.s.Answer(checkCRL, fmt.Errorf("%s; the policy requires one of the verifier's own, in force", why))
	} else {
		v.s.Skip(why, checkCRL)
	}
}

// lists gives the lists that are by the root, the verifier's own first. One of the
// verifier's own that is by the root of another product line says nothing here; one by
// no root is an error, as is a list of the machine's by another root.
func (v *report) lists(roots *Roots, root *x509.Certificate) (lists []List, err error) {
	for _, der := range v.x.Revocations {
		crl, err := ReadRevocations(der, roots)
		if err != nil {
			return lists, fmt.Errorf("one of the verifier's own: %w", err)
		}
		if crl.CheckSignatureFrom(root) == nil {
			lists = append(lists, newList(crl, ofVerifier, v.x.At))
		}
	}
	if v.crl == nil {
		return lists, nil
	}
	if err := v.crl.CheckSignatureFrom(root); err != nil {
		return lists, fmt.Errorf("the machine's list is not signed by %q: %w", root.Subject.CommonName, err)
	}
	return append(lists, newList(v.crl, ofMachine, v.x.At)), nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// until says until when a list is in force.
func until(t time.Time) string {
	if t.IsZero() {
		return "no time that it names"
	}
	return day(t)
}
