package attest

import (
	"bytes"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/attest/ec2"
	"holdfast/attest/nitro"
	"holdfast/attest/processor"
	"holdfast/attest/tpm"
)

// Parts are documents without an evidence file around them, as other tools give
// them.
type Parts struct {
	Report *processor.Report
	Nitro  []byte
	TPM    *tpm.Evidence
}

// checkParts is asked of two documents and of three.
var checkParts = appraisal.Question{Code: fault.EvidenceParts, Name: "The documents are about one machine: each pair of them is tied by bytes that both have signed."}

// onlyInFile is missing from all documents that have no evidence file around them.
const onlyInFile = "single documents do not say where it would be: give an evidence file"

// VerifyParts appraises documents for themselves. What ties them to a nonce and
// to keys is not known here, so the verdict is never better than incomplete.
// Documents that nothing ties to each other are not taken for one machine's. A zero
// time stands for the NitroTPM document's own if there is one, or else for now. Of the
// expectation the time and the signed policy count.
func VerifyParts(d Parts, p *Policy, x Expectation, now time.Time) *appraisal.Verdict {
	var s appraisal.Sheet
	document, at := d.document(), x.At
	switch {
	case !at.IsZero():
	case document != nil:
		at = document.Time
	default:
		at = now
	}
	s.Fact("appraised_at", stamp(at))
	s.Missing(onlyInFile, checkNonce, checkTLSKey, checkTime)
	verifyRequired(&s, p, d.technologies(), false)
	quoted := d.quoted(document)
	d.verifyBonds(&s, document, quoted)
	if d.Report != nil {
		registered.verify(&s, d.Report, raise(&s, p, x.Recovery, at), processor.Expectation{At: at, Revocations: x.Revocations})
	}
	if d.TPM != nil {
		tpm.Verify(&s, *d.TPM, p.TPM, tpm.Expectation{QualifyingData: quoted, Partial: true})
	}
	if d.Nitro != nil {
		nx := nitro.Expectation{At: at}
		if d.TPM != nil {
			nx.PCRs = d.TPM.Bank(nitro.Bank)
		}
		nitro.Verify(&s, d.Nitro, p.Nitro, nx)
	}
	if p.Instance != nil {
		s.Missing(onlyInFile, ec2.Questions()...)
	}
	verifyPolicy(&s, p, Expectation{Signed: x.Signed})
	return s.Verdict()
}

// document reads the NitroTPM's; nil if there is none, or none that can be read, of
// which nitro.Verify says what is wrong with it.
func (d Parts) document() *nitro.Document {
	if d.Nitro == nil {
		return nil
	}
	document, err := nitro.Parse(d.Nitro)
	if err != nil {
		return nil
	}
	return document
}

func (d Parts) technologies() []Technology {
	return (&Evidence{Report: d.Report, TPM: d.TPM, Nitro: d.Nitro}).Technologies()
}

// data are the bytes that the machine placed in its report; nil without one of a known
// kind.
func (d Parts) data() []byte {
	if d.Report == nil {
		return nil
	}
	kind := registered.find(d.Report.Kind)
	if kind == nil {
		return nil
	}
	return kind.Data(*d.Report)
}

// chosen gives the bytes if they can be a binding; nil if there are more or fewer, or
// if they are all alike: what nobody has chosen ties nothing.
func chosen(data []byte) []byte {
	if len(data) != processor.DataSize || bytes.Count(data, data[:1]) == len(data) {
		return nil
	}
	return data
}

// quoted is what the quote was made for if it is one of Holdfast's, over a binding
// and the other documents; nil if it is not shown to be.
func (d Parts) quoted(document *nitro.Document) []byte {
	if d.TPM == nil || (d.Report == nil && document == nil) {
		return nil
	}
	data := d.data()
	if d.Report == nil {
		data = document.UserData
	}
	binding := chosen(data)
	if binding == nil {
		return nil
	}
	for _, format := range []string{quoteFormat, quoteFormatV1} {
		if data := quoteData(format, [64]byte(binding), d.Report, d.Nitro); d.TPM.QuotedFor(data) {
			return data
		}
	}
	return nil
}

// verifyBonds says which documents are tied to each other. A bond that is shown to be
// broken fails; one that is not shown is missing.
func (d Parts) verifyBonds(s *appraisal.Sheet, document *nitro.Document, quoted []byte) {
	if len(d.technologies()) < 2 {
		s.Skip("there is one document alone", checkParts)
		return
	}
	var loose []string
	if d.Report != nil && d.Nitro != nil {
		switch data := d.data(); {
		case document == nil:
			loose = append(loose, "the processor report and the NitroTPM document, which cannot be read")
		case !bytes.Equal(data, document.UserData):
			s.Answer(checkParts, equal(data, document.UserData, "they are of different machines or times"))
			return
		case chosen(data) == nil:
			loose = append(loose, "the processor report and the NitroTPM document, in which nobody has placed any bytes")
		}
	}
	if d.TPM != nil && quoted == nil {
		loose = append(loose, "the TPM quote and the others: it was not made over them, and may be of any machine")
	}
	if loose != nil {
		s.Missing("no bond is shown between "+strings.Join(loose, "; and between ")+": give an evidence file (holdfast attest evidence), which ties all of them", checkParts)
		return
	}
	s.Answer(checkParts, nil)
}
