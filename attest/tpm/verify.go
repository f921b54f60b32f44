package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
)

// The checks of a TPM's evidence.
var (
	checkFormat       = appraisal.Question{Code: fault.TPMFormat, Name: "The TPM's evidence is well-formed."}
	checkAK           = appraisal.Question{Code: fault.TPMAK, Name: "The attestation key can sign nothing but what its TPM says, and cannot leave it."}
	checkQuoteType    = appraisal.Question{Code: fault.TPMQuoteType, Name: "What was signed is a quote, made by a TPM."}
	checkSignature    = appraisal.Question{Code: fault.TPMSignature, Name: "The quote is signed by the attestation key."}
	checkNonce        = appraisal.Question{Code: fault.TPMNonce, Name: "The quote was made for this evidence."}
	checkBank         = appraisal.Question{Code: fault.TPMBank, Name: "The quote has the bank of PCRs that the policy asks for, and no weak one."}
	checkPCRs         = appraisal.Question{Code: fault.TPMPCRs, Name: "The PCR values are the quoted ones, with all that the policy requires."}
	checkLogFormat    = appraisal.Question{Code: fault.TPMLogFormat, Name: "The event log is well-formed, and has the policy's bank."}
	checkLogEmpty     = appraisal.Question{Code: fault.TPMLogEmpty, Name: "The event log has events."}
	checkLogReplay    = appraisal.Question{Code: fault.TPMLogReplay, Name: "The event log replays to the quoted PCRs."}
	checkLogPCR       = appraisal.Question{Code: fault.TPMLogPCR, Name: "The event log has events of every PCR that was extended."}
	checkLogSeparator = appraisal.Question{Code: fault.TPMLogSeparator, Name: "The event log shows where firmware ends and the operating system begins."}
	checkMeasurements = appraisal.Question{Code: fault.TPMMeasurements, Name: "The application's PCR is what its measurements come to."}
	checkStateVolume  = appraisal.Question{Code: fault.TPMVolume, Name: "The state volume's PCR has its identity alone, or shows that there is none."}
	checkLaunch       = appraisal.Question{Code: fault.TPMLaunch, Name: "The launch file's PCR has its digest alone, or shows that there is none."}
	checkReference    = appraisal.Question{Code: fault.TPMReference, Name: "The PCRs are those of a known release."}
)

// Questions are all that [Verify] answers.
func Questions() []appraisal.Question {
	return []appraisal.Question{checkFormat, checkAK, checkQuoteType, checkSignature, checkNonce, checkBank, checkPCRs,
		checkLogFormat, checkLogEmpty, checkLogReplay, checkLogPCR, checkLogSeparator, checkMeasurements, checkStateVolume, checkLaunch, checkReference}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// QualifyingData is what the quote must have been made for; nil if it does
	// not matter.
	QualifyingData []byte
	// Partial says that the evidence is a quote and a log alone, as other tools give
	// them: then nothing need explain [ApplicationPCR], unless the policy requires it.
	Partial bool
}

// Verify appraises the evidence under the policy, and records the answers to all
// [Questions] and the fact "tpm". A check runs whatever others say, unless what
// it would look at cannot be read or is not what was quoted. It needs neither a
// TPM nor a network.
func Verify(s *appraisal.Sheet, e Evidence, p Policy, x Expectation) {
	s.Announce(Questions()...)
	f := &facts{}
	s.Fact("tpm", f)
	v, err := read(e)
	if !s.Answer(checkFormat, err) {
		return
	}
	f.ofEvidence(e, v)

	key, err := akKey(v.ak)
	if s.Answer(checkAK, errors.Join(checkAttributes(v.ak.ObjectAttributes), err)); err == nil {
		s.Answer(checkSignature, verifySignature(key, e.Quote, v.signature))
	}
	if !s.Answer(checkQuoteType, v.notQuote) {
		return
	}
	f.ofQuote(v.attest)
	if x.QualifyingData == nil {
		s.Missing("no qualifying data was given to compare with, or the quote is not one of Holdfast's over the other documents: it may be an old one; give an evidence file", checkNonce)
	} else {
		s.Answer(checkNonce, compareNonce(v.attest.ExtraData.Buffer, x.QualifyingData))
	}
	b, err := quotedBank(v.quote.PCRSelect, p.Bank)
	if !s.Answer(checkBank, err) {
		return
	}
	if err := checkValues(e.PCRs, v.quote); err != nil {
		s.Answer(checkPCRs, err)
		return
	}
	quoted := e.PCRs[b.name]
	f.Bank, f.PCRs = b.name, quoted
	if s.Answer(checkPCRs, checkRequired(quoted, p.RequiredPCRs)) {
		s.Pass(checkPCRs, "%s %v", b.name, slices.Sorted(maps.Keys(quoted)))
	}
	events, logErr := verifyLog(s, e.EventLog, b, quoted, p.RequiredPCRs)
	f.ofLog(events, b.hash, quoted, p)
	// A list that was taken out shows, whatever the policy requires.
	stripped := !zero(quoted[ApplicationPCR]) && !x.Partial
	for _, o := range singles {
		*f.single(o.pcr) = o.verify(s, e, events, b, x.Partial)
	}
	list := slices.DeleteFunc(slices.Clone(e.Measurements), func(m Measurement) bool { return isSingle(m.PCR) })
	switch {
	case len(list) == 0 && !slices.Contains(p.RequiredPCRs, ApplicationPCR) && !stripped:
		s.Skip(fmt.Sprintf("there are no measurements, and the policy does not require PCR %d", ApplicationPCR), checkMeasurements)
	case logErr != nil: // the log might have events of this PCR
	case s.Answer(checkMeasurements, compareMeasurements(list, events, b, quoted)):
		s.Pass(checkMeasurements, "%d measurements", len(list))
	}
	f.Measurements, f.Capped = e.Measurements, e.Capped()
	f.Reference = verifyReference(s, e.ReferenceValues(b.name), p.References)
}

// QuotedFor says whether the quote was made for that qualifying data. It checks nothing
// else.
func (e *Evidence) QuotedFor(data []byte) bool {
	v, err := read(*e)
	return err == nil && v.notQuote == nil && bytes.Equal(v.attest.ExtraData.Buffer, data)
}

// parsed is the evidence's structures.
type parsed struct {
	ak        *tpm2.TPMTPublic
	signature *tpm2.TPMTSignature
	notQuote  error // why the rest is nil
	attest    *tpm2.TPMSAttest
	quote     *tpm2.TPMSQuoteInfo
}

// read reads the evidence but for the event log, within the limits.
func read(e Evidence) (*parsed, error) {
	for _, l := range []struct {
		name      string
		size, max int
	}{
		{"the attestation key", len(e.AK), maxPublic}, {"the quote", len(e.Quote), maxAttest}, {"the signature", len(e.Signature), maxSignature},
	} {
		if l.size == 0 || l.size > l.max {
			return nil, fmt.Errorf("%s has %d bytes, not 1 to %d", l.name, l.size, l.max)
		}
	}
	if n := len(e.EKCertificate); n > maxCertificate {
		return nil, fmt.Errorf("the endorsement key's certificate has %d bytes, of which it may have %d", n, maxCertificate)
	}
	if n := len(e.Measurements); n > MaxMeasurements {
		return nil, fmt.Errorf("there are %d measurements, of which there may be %d", n, MaxMeasurements)
	}
	for i, m := range e.Measurements {
		if err := m.validate(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(e.Measurements[:i], func(o Measurement) bool { return o.Name == m.Name }) {
			return nil, fmt.Errorf("measurement %s is there twice", m.Name)
		}
	}
	var v parsed
	var err error
	if v.ak, err = parse[tpm2.TPMTPublic](e.AK); err != nil {
		return nil, fmt.Errorf("the attestation key is no TPMT_PUBLIC: %w", err)
	}
	if v.signature, err = parse[tpm2.TPMTSignature](e.Signature); err != nil {
		return nil, fmt.Errorf("the signature is no TPMT_SIGNATURE: %w", err)
	}
	if v.notQuote = quoteType(e.Quote); v.notQuote != nil {
		return &v, nil
	}
	if v.attest, err = parse[tpm2.TPMSAttest](e.Quote); err != nil {
		return nil, fmt.Errorf("the quote is no TPMS_ATTEST: %w", err)
	}
	if v.quote, err = v.attest.Attested.Quote(); err != nil {
		return nil, fmt.Errorf("the quote is no TPMS_QUOTE_INFO: %w", err)
	}
	return &v, nil
}

// quoteType checks that a TPMS_ATTEST begins as a quote does (TPM 2.0 Part 2,
// section 10.12.12). Only a restricted key keeps others from signing these
// bytes.
func quoteType(attest []byte) error {
	const (
		magic = 0xff544347 // TPM_GENERATED_VALUE: ff "TCG"
		quote = uint16(tpm2.TPMSTAttestQuote)
	)
	if len(attest) < 6 {
		return fmt.Errorf("what was signed has %d bytes, too few for a quote", len(attest))
	}
	if m := binary.BigEndian.Uint32(attest); m != magic {
		return fmt.Errorf("what was signed begins with %#08x, not %#08x: no TPM made it", m, uint32(magic))
	}
	if t := binary.BigEndian.Uint16(attest[4:]); t != quote {
		return fmt.Errorf("what was signed is of type %#04x, not the %#04x of a quote: the TPM said something else", t, quote)
	}
	return nil
}

// checkAttributes checks what the TPM itself enforces for the key (TPM 2.0 Part
// 2, section 8.3). Without "restricted" it would sign anything, such as a quote
// that somebody made up.
func checkAttributes(a tpm2.TPMAObject) error {
	var wrong []string
	for _, need := range []struct {
		name string
		set  bool
	}{
		{"restricted", a.Restricted}, {"sign", a.SignEncrypt}, {"fixedTPM", a.FixedTPM}, {"fixedParent", a.FixedParent}, {"sensitiveDataOrigin", a.SensitiveDataOrigin},
	} {
		if !need.set {
			wrong = append(wrong, "not "+need.name)
		}
	}
	if a.Decrypt {
		wrong = append(wrong, "decrypt")
	}
	if wrong != nil {
		return fmt.Errorf("the attestation key is %s: it is none, and its signature proves nothing about a TPM", strings.Join(wrong, ", "))
	}
	return nil
}

// akKey gives the key of the two kinds that are accepted: P-256 for ECDSA with
// SHA-256, and RSA of 2048 to 4096 bits for RSASSA with SHA-256.
func akKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	wrong := errors.New("the attestation key is neither for ECDSA on P-256 nor for RSASSA of 2048 to 4096 bits, with SHA-256")
	switch public.Type {
	case tpm2.TPMAlgECC:
		parms, err := public.Parameters.ECCDetail()
		if err != nil {
			return nil, wrong
		}
		scheme, err := parms.Scheme.Details.ECDSA()
		if err != nil || scheme.HashAlg != tpm2.TPMAlgSHA256 || parms.CurveID != tpm2.TPMECCNistP256 {
			return nil, wrong
		}
		key, err := point(public)
		if err != nil {
			return nil, wrong
		}
		return key, nil
	case tpm2.TPMAlgRSA:
		parms, err := public.Parameters.RSADetail()
		if err != nil {
			return nil, wrong
		}
		scheme, err := parms.Scheme.Details.RSASSA()
		if err != nil || scheme.HashAlg != tpm2.TPMAlgSHA256 {
			return nil, wrong
		}
		unique, err := public.Unique.RSA()
		if err != nil {
			return nil, wrong
		}
		const exponent = 65537
		n := new(big.Int).SetBytes(unique.Buffer)
		if bits := n.BitLen(); bits < 2048 || bits > 4096 || n.Bit(0) == 0 || (parms.Exponent != 0 && parms.Exponent != exponent) {
			return nil, wrong
		}
		return &rsa.PublicKey{N: n, E: exponent}, nil
	}
	return nil, wrong
}

func verifySignature(key crypto.PublicKey, attest []byte, signature *tpm2.TPMTSignature) error {
	digest := sum(crypto.SHA256, attest)
	good := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if sig, err := signature.Signature.ECDSA(); err == nil && sig.Hash == tpm2.TPMAlgSHA256 {
			good = ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer))
		}
	case *rsa.PublicKey:
		if sig, err := signature.Signature.RSASSA(); err == nil && sig.Hash == tpm2.TPMAlgSHA256 {
			good = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, sig.Sig.Buffer) == nil
		}
	}
	if !good {
		return errors.New("the quote was changed, or signed by another key or algorithm than the attestation key's")
	}
	return nil
}

func compareNonce(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the qualifying data is %x, not %x: the quote was made for something else, or is shown again", got, want)
	}
	return nil
}

// quotedBank gives the policy's bank, if the quote has it and no unknown one.
func quotedBank(list tpm2.TPMLPCRSelection, want string) (*bank, error) {
	b, err := findBank(want)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list.PCRSelections {
		q := bankOf(s.Hash)
		switch {
		case s.Hash == tpm2.TPMAlgSHA1:
			return nil, errors.New("the quote has the bank SHA-1, which proves nothing, as it has collisions; quote sha256 or sha384")
		case q == nil:
			return nil, fmt.Errorf("the quote has the bank %#04x, which is unsupported; quote sha256 or sha384", uint16(s.Hash))
		case slices.Contains(names, q.name):
			return nil, fmt.Errorf("the quote has the bank %s twice", q.name)
		}
		names = append(names, q.name)
	}
	if !slices.Contains(names, want) {
		return nil, fmt.Errorf("the quote has the banks %v, and the policy asks for %s", names, want)
	}
	return b, nil
}

// checkValues checks that the values are those that the quote is about, no more
// and no fewer.
func checkValues(values PCRs, quote *tpm2.TPMSQuoteInfo) error {
	more := len(values) - len(quote.PCRSelect.PCRSelections)
	for _, s := range quote.PCRSelect.PCRSelections {
		more += len(values[bankOf(s.Hash).name]) - len(indices(s))
	}
	digest, err := values.digest(quote.PCRSelect, crypto.SHA256)
	switch {
	case err != nil:
		return err
	case more != 0:
		return errors.New("there are values of PCRs that were not quoted")
	case !bytes.Equal(digest, quote.PCRDigest.Buffer):
		return fmt.Errorf("the values hash to %s, and %s was quoted: they were changed", short(digest), short(quote.PCRDigest.Buffer))
	}
	return nil
}

// checkRequired checks that the required PCRs were quoted, and that none has a
// value that shows that nobody measured.
func checkRequired(quoted map[int]Hex, required []int) error {
	var wrong []string
	for _, n := range required {
		if _, ok := quoted[n]; !ok {
			wrong = append(wrong, fmt.Sprintf("PCR %d is required and was not quoted", n))
		}
	}
	for _, n := range slices.Sorted(maps.Keys(quoted)) {
		switch {
		case n < 8 && zero(quoted[n]):
			wrong = append(wrong, fmt.Sprintf("PCR %d is zero: the firmware has not measured", n))
		case n <= lastStaticPCR && ones(quoted[n]):
			wrong = append(wrong, fmt.Sprintf("PCR %d is all ones, which no measurement gives", n))
		}
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// verifyLog checks the firmware's event log, and gives its events, or why there
// are none.
func verifyLog(s *appraisal.Sheet, raw []byte, b *bank, quoted map[int]Hex, required []int) ([]event, error) {
	empty := errors.New("there is no event log, or no event in it: nothing explains the PCRs; read it from " + DefaultEventLog)
	if len(raw) == 0 {
		s.Answer(checkLogEmpty, empty)
		return nil, empty
	}
	events, err := parseLog(raw, b)
	if !s.Answer(checkLogFormat, err) {
		return nil, err
	}
	if len(events) == 0 {
		s.Answer(checkLogEmpty, empty)
		return nil, empty
	}
	s.Pass(checkLogEmpty, "%d events", len(events))
	replayed := replay(events, b.hash)
	if same, err := checkReplay(replayed, quoted); s.Answer(checkLogReplay, err) {
		s.Pass(checkLogReplay, "PCRs %v", same)
	}
	s.Answer(checkLogPCR, checkCoverage(replayed, quoted, required))
	s.Answer(checkLogSeparator, checkSeparators(events, b.hash))
	return events, nil
}

func compareMeasurements(list []Measurement, events []event, b *bank, quoted map[int]Hex) error {
	value, ok := quoted[ApplicationPCR]
	switch {
	case len(list) == 0 && ok && !zero(value):
		return fmt.Errorf("PCR %d was extended, and the evidence lists no measurement: the list was taken out, or something else has extended it", ApplicationPCR)
	case len(list) == 0:
		return fmt.Errorf("nothing was measured into PCR %d: what runs is not known", ApplicationPCR)
	case !ok:
		return fmt.Errorf("there are measurements, and PCR %d was not quoted", ApplicationPCR)
	case slices.ContainsFunc(events, func(e event) bool { return e.PCR == ApplicationPCR }):
		return fmt.Errorf("firmware or a boot loader has extended PCR %d, which is the application's; boot Holdfast's image directly", ApplicationPCR)
	}
	for _, m := range list {
		if m.PCR != ApplicationPCR {
			return fmt.Errorf("measurement %s is of PCR %d, not %d", m.Name, m.PCR, ApplicationPCR)
		}
	}
	if got := replayMeasurements(list, b.hash); !bytes.Equal(got, value) {
		return fmt.Errorf("PCR %d replays to %s, and %s was quoted: a measurement was dropped, edited or moved, or something else has extended it", ApplicationPCR, short(got), short(value))
	}
	return nil
}

// verifyReference gives the name of the reference that the values, those of
// [Evidence.ReferenceValues], match.
func verifyReference(s *appraisal.Sheet, values map[int]Hex, references []Reference) string {
	if len(references) == 0 {
		s.Missing("the policy has no reference values, so nobody knows which code has these PCRs: give a policy that has a release's (--policy; holdfast policy predict, holdfast policy reference)", checkReference)
		return ""
	}
	var nearest string
	fewest := maxPCR + 2
	for _, r := range references {
		different := r.differences(values)
		if len(different) == 0 && len(r.PCRs) > 0 {
			s.Pass(checkReference, "matches %s", r.Name)
			return r.Name
		}
		if len(different) < fewest {
			fewest, nearest = len(different), fmt.Sprintf("nearest is %q, but for %s", r.Name, strings.Join(different, ", "))
		}
	}
	s.Answer(checkReference, fmt.Errorf("the PCRs match none of %d references; %s", len(references), nearest))
	return ""
}

func (r Reference) differences(values map[int]Hex) []string {
	var different []string
	for _, n := range slices.Sorted(maps.Keys(r.PCRs)) {
		switch value, ok := values[n]; {
		case !ok:
			different = append(different, fmt.Sprintf("PCR %d (not quoted)", n))
		case !bytes.Equal(value, r.PCRs[n]):
			different = append(different, fmt.Sprintf("PCR %d (is %s, reference %s)", n, short(value), short(r.PCRs[n])))
		}
	}
	return different
}

// facts are what the evidence says, for people and programs.
type facts struct {
	AK              string        `json:"ak_sha256,omitempty"` // of the TPMT_PUBLIC
	EKCertificate   string        `json:"ek_certificate_sha256,omitempty"`
	FirmwareVersion string        `json:"firmware_version,omitempty"` // the maker's own numbering
	Clock           uint64        `json:"clock_ms"`                   // powered time since the owner was cleared
	ResetCount      uint32        `json:"reset_count"`                // power cycles
	RestartCount    uint32        `json:"restart_count"`              // resumptions since
	Safe            bool          `json:"clock_safe"`                 // whether the clock never went back
	QualifyingData  Hex           `json:"qualifying_data,omitempty"`
	Bank            string        `json:"bank,omitempty"`
	PCRs            map[int]Hex   `json:"pcrs,omitempty"`
	Reference       string        `json:"reference,omitempty"`
	Measurements    []Measurement `json:"measurements,omitempty"`
	StateVolume     string        `json:"state_volume,omitempty"` // its identity, or "none"
	Launch          string        `json:"launch,omitempty"`       // its SHA-256, or "none"
	Capped          bool          `json:"capped"`
	EventCount      int           `json:"event_count"`
	Events          []eventFact   `json:"events,omitempty"` // at most 200, of the PCRs that identify software
	// UnjudgedCount are the events that have no part in the verdict; UnjudgedEvents are the
	// first 200 of them.
	UnjudgedCount  int         `json:"unjudged_event_count"`
	UnjudgedEvents []eventFact `json:"unjudged_events,omitempty"`
}

type eventFact struct {
	PCR    int    `json:"pcr"`
	Type   string `json:"type"` // as the log says; not measured
	Digest Hex    `json:"digest"`
	Text   string `json:"text,omitempty"` // measured
	// Why it has no part in the verdict: "not quoted", so that nothing proves it, or "not
	// compared", as the policy asks for no value of its PCR.
	Why string `json:"why,omitempty"`
}

// single is the fact about a PCR that has one event.
func (f *facts) single(pcr int) *string {
	if pcr == LaunchPCR {
		return &f.Launch
	}
	return &f.StateVolume
}

func (f *facts) ofEvidence(e Evidence, v *parsed) {
	f.AK = Hex(sum(crypto.SHA256, e.AK)).String()
	if len(e.EKCertificate) > 0 {
		f.EKCertificate = Hex(sum(crypto.SHA256, e.EKCertificate)).String()
	}
}

func (f *facts) ofQuote(a *tpm2.TPMSAttest) {
	f.FirmwareVersion = fmt.Sprintf("%#016x", a.FirmwareVersion)
	f.Clock, f.ResetCount, f.RestartCount, f.Safe = a.ClockInfo.Clock, a.ClockInfo.ResetCount, a.ClockInfo.RestartCount, bool(a.ClockInfo.Safe)
	f.QualifyingData = a.ExtraData.Buffer
}

// mostEvents is how many events of a kind the facts list.
const mostEvents = 200

// ofLog lists the events of the PCRs that identify software, and those that the verdict
// does not rest upon: of PCRs that were not quoted, and of those that the policy neither
// requires nor has a value of.
func (f *facts) ofLog(events []event, h crypto.Hash, quoted map[int]Hex, p Policy) {
	f.EventCount = len(events)
	for _, e := range events {
		fact := eventFact{PCR: e.PCR, Type: e.Type.TCGString(), Digest: e.Digest, Text: e.text(h)}
		if (e.PCR == 4 || e.PCR >= 7) && len(f.Events) < mostEvents {
			f.Events = append(f.Events, fact)
		}
		if _, ok := quoted[e.PCR]; !ok {
			fact.Why = "not quoted"
		} else if !p.compares(e.PCR) {
			fact.Why = "not compared"
		}
		if fact.Why == "" {
			continue
		}
		f.UnjudgedCount++
		if len(f.UnjudgedEvents) < mostEvents {
			f.UnjudgedEvents = append(f.UnjudgedEvents, fact)
		}
	}
}
