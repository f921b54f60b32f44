package attest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/attest/ec2"
	"holdfast/attest/nitro"
	"holdfast/attest/processor"
	"holdfast/attest/tpm"
)

// The checks of the evidence as a whole.
var (
	checkNonce   = appraisal.Question{Code: fault.EvidenceNonce, Name: "The evidence was made for this verifier: it has the nonce that was asked for."}
	checkTLSKey  = appraisal.Question{Code: fault.EvidenceTLSKey, Name: "The TLS key in the evidence is the one the machine uses."}
	checkTime    = appraisal.Question{Code: fault.EvidenceTime, Name: "The evidence is as recent as the policy asks."}
	checkRequire = appraisal.Question{Code: fault.EvidenceRequired, Name: "The evidence has all technologies that the policy requires."}
	checkPolicy  = appraisal.Question{Code: fault.EvidencePolicy, Name: "The machine has the policy that the evidence is appraised under."}
	checkProof   = appraisal.Question{Code: fault.PolicyUnproven, Name: "The policy proves which code runs: no machine with other code passes it."}
	// Of evidence that fails it: Parse gives no such evidence.
	checkEvidence = appraisal.Question{Code: fault.EvidenceFormat, Name: "The evidence is well-formed."}
	// Of evidence to which a secret is released.
	checkUncapped = appraisal.Question{Code: fault.BrokerCapped, Name: "The machine may have a secret: since it was started it has had none, and it has not locked itself."}
)

// ofWhole are all questions about evidence as a whole.
func ofWhole() []appraisal.Question {
	return []appraisal.Question{checkNonce, checkTLSKey, checkTime, checkRequire, checkPolicy, checkProof, checkEvidence, checkUncapped, checkReport, checkParts, checkLaunch, checkOwner}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// At is the time of the appraisal. If zero, it is now where a nonce is given, and
	// else the evidence's own, for evidence that is kept.
	At time.Time
	// Nonce is the one that was asked for; nil if nobody asked. Evidence that was made
	// for a nonce is no older than the policy's MaxAge.
	Nonce []byte
	// TLSKey is the key of the connection over which the evidence came (DER
	// SubjectPublicKeyInfo); nil if it came otherwise.
	TLSKey []byte
	// PolicyDigest is the SHA-256 of the policy's text; nil if it does not
	// matter which policy the machine has.
	PolicyDigest []byte
	// LaunchDigest is the SHA-256 of the launch file that the machine must run by,
	// OwnerDigest that of its owner's key, as [Evidence] has them; nil if it does not
	// matter which.
	LaunchDigest, OwnerDigest []byte
	// Release asks that a secret may be released to the machine: the policy proves
	// the code or is forced, and the application's PCR is explained and not capped.
	Release bool
	// Endorsements are what the verifier has of its own.
	Endorsements
	// Signed is the signed policy that the policy is the content of, whose digest and
	// signer the verdict names; nil for one that nobody has signed.
	Signed *SignedPolicy
	// Roots are those of a simulated platform. Nil trusts the manufacturers
	// alone.
	Roots *Roots
}

// Roots are what is trusted instead of the manufacturers' roots. Nothing but
// the simulated platform and tests has others.
type Roots struct {
	// Kinds are the processor reports that are taken, each kind with roots of its
	// own; nil stands for all that the program knows, with their makers' roots.
	Kinds *Kinds
	Nitro []byte // the SHA-256 of the root certificate
}

func (r *Roots) kinds() *Kinds {
	if r == nil || r.Kinds == nil {
		return registered
	}
	return r.Kinds
}

// What is missing where the caller has not given it, and how holdfast verify is given it.
const (
	noNonce  = "no nonce was given to compare with, so the evidence may be an old one: ask for evidence with one of your own, and give it (--nonce)"
	noTLSKey = "no TLS key was given to compare with, so another machine may answer under this one's name: give the certificate that the machine showed you (--tls-cert)"
	noTime   = "without a nonce the time is the evidence's own word: ask for evidence with a nonce of your own, and give it (--nonce)"
)

// maxSkew is by how much the clocks of the machine and of its hardware's maker
// may differ.
const maxSkew = 5 * time.Minute

// Verify appraises the evidence under the policy (RFC 9334 section 7). Every
// check runs, whatever others say. It needs neither network nor hardware.
func Verify(e *Evidence, p *Policy, x Expectation) *appraisal.Verdict {
	var s appraisal.Sheet
	at := x.At
	switch {
	case !at.IsZero():
	case x.Nonce != nil:
		at = time.Now()
	default:
		at = e.Created
	}
	if err := e.check(); err != nil {
		s.Answer(checkEvidence, err) // a file of it would not be read
	}
	s.Fact("evidence", facts(e))
	s.Fact("appraised_at", at.UTC().Format(time.RFC3339))
	verifyWhole(&s, e, p, x, at)
	verifyPolicy(&s, p, x)
	verifyLaunch(&s, e, x)
	ofTPM, ofNitro := p.TPM, p.Nitro
	// Whatever the policy asks for, the cap and the state volume must show for a release,
	// and in the genuine TPM; so must what references name of them.
	if x.Release {
		s.Answer(checkUncapped, uncapped(e))
		ofTPM.RequiredPCRs = withOwn(ofTPM.RequiredPCRs)
	}
	if x.Release || len(p.TPM.References) > 0 {
		ofNitro.ComparePCRs = withOwn(ofNitro.ComparePCRs)
	}

	binding := e.Binding()
	x.Roots.kinds().verify(&s, e.Report, raise(&s, p, x.Recovery, at), processor.Expectation{Data: &binding, At: at, Revocations: x.Revocations})
	if e.TPM != nil {
		tpm.Verify(&s, *e.TPM, ofTPM, tpm.Expectation{QualifyingData: e.QuoteData()})
	} else {
		s.Skip("the evidence has no TPM quote", tpm.Questions()...)
	}
	if e.Nitro != nil {
		// AWS's time is held against the machine's; how old both may be is checkTime.
		nx := nitro.Expectation{At: e.Created, UserData: binding[:], Nonce: e.Nonce}
		if x.Roots != nil {
			nx.Root = x.Roots.Nitro
		}
		if e.TPM != nil {
			nx.PCRs = e.TPM.Bank(nitro.Bank)
		}
		nitro.Verify(&s, e.Nitro, ofNitro, nx)
	} else {
		s.Skip("the evidence has no NitroTPM document", nitro.Questions()...)
	}
	verifyInstance(&s, e, p)
	return s.Verdict()
}

// verifyInstance checks what EC2 says of the instance that the NitroTPM document names, if
// the policy asks. Whether that document is good is for other checks to say, and the verdict
// needs both. Where the policy does not ask, nothing is told of it.
func verifyInstance(s *appraisal.Sheet, e *Evidence, p *Policy) {
	if p.Instance == nil {
		return
	}
	x := ec2.Expectation{Owner: e.OwnerDigest}
	if e.Nitro != nil {
		if d, err := nitro.Parse(e.Nitro); err == nil {
			x.Instance = d.Instance()
		}
	}
	ec2.Verify(s, e.Instance, p.Instance, x)
}

// withOwn gives the PCRs, with those among them that Holdfast extends.
func withOwn(pcrs []int) []int {
	for _, n := range []int{tpm.StateVolumePCR, tpm.ApplicationPCR, tpm.LaunchPCR} {
		if !slices.Contains(pcrs, n) {
			pcrs = append(slices.Clone(pcrs), n)
		}
	}
	return pcrs
}

// uncapped says why a machine may not have a secret in this start of it. That the
// measurements are all that there are is for the check of the PCR to say.
func uncapped(e *Evidence) error {
	switch {
	case e.TPM == nil:
		return fmt.Errorf("the evidence has no TPM quote, so it does not show whether PCR %d is capped; ask with one", tpm.ApplicationPCR)
	case e.TPM.Capped():
		return fmt.Errorf("PCR %d is capped: since the machine was started it has had its secret, or has locked itself; restart the machine, and it can ask again", tpm.ApplicationPCR)
	}
	return nil
}

// verifyPolicy names the policy, and says whether a verdict under it proves the code.
func verifyPolicy(s *appraisal.Sheet, p *Policy, x Expectation) {
	gaps := p.Gaps()
	s.Under(p.under(x.Signed, gaps))
	switch err := p.CheckProof(); {
	case err != nil && x.Release:
		s.Answer(checkProof, err)
	case len(gaps) == 0:
		s.Answer(checkProof, err)
	case p.Unproven != "":
		s.Missing(p.Forced().String(), checkProof)
	default:
		s.Missing("it does not: "+strings.Join(gaps, "; "), checkProof)
	}
}

// under names the policy. It is signed only if it is the signed one itself, not a
// changed copy. The digest of another is that of the text that would be signed.
func (p *Policy) under(signed *SignedPolicy, gaps []string) appraisal.Under {
	u := appraisal.Under{Name: p.Name, Version: p.Version, Signer: appraisal.Unsigned, Unproven: p.Unproven, UnprovenBecause: gaps}
	if signed != nil && p == &signed.Policy {
		u.Signer, u.Digest = signed.Signer, hex.EncodeToString(signed.Digest)
	} else if text, err := p.MarshalJSON(); err == nil { // what cannot be written has no digest
		u.Digest = hex.EncodeToString(digest(text))
	}
	return u
}

func verifyWhole(s *appraisal.Sheet, e *Evidence, p *Policy, x Expectation, at time.Time) {
	if x.Nonce == nil {
		s.Missing(noNonce, checkNonce)
	} else {
		s.Answer(checkNonce, equal(e.Nonce, x.Nonce, "the evidence was made for another request, or is an old one that is shown again"))
	}
	if x.TLSKey == nil {
		s.Missing(noTLSKey, checkTLSKey)
	} else {
		s.Answer(checkTLSKey, equal(e.TLSKey, x.TLSKey, "whoever holds this connection is not the machine that the evidence is about"))
	}
	age := at.Sub(e.Created)
	switch {
	case age < -maxSkew:
		s.Answer(checkTime, fmt.Errorf("it says that it was made at %s, which is after %s: is a clock wrong?", stamp(e.Created), stamp(at)))
	case x.Nonce == nil:
		s.Missing(noTime, checkTime)
	case age > p.MaxAge():
		s.Answer(checkTime, fmt.Errorf("at %s it was %s old; the policy allows %s", stamp(at), age.Round(time.Second), p.MaxAge()))
	default:
		s.Pass(checkTime, "made at %s", stamp(e.Created))
	}
	verifyRequired(s, p, e.Technologies(), true)
	if x.PolicyDigest == nil {
		s.Skip("it was not asked which policy the machine has", checkPolicy)
	} else {
		s.Answer(checkPolicy, equal(e.PolicyDigest, x.PolicyDigest, "the machine has another policy"))
	}
}

// verifyRequired holds the technologies that there are against the policy's. What lacks
// fails in evidence, which is all that the machine has given, and is missing from single
// documents, of which the caller may have more.
func verifyRequired(s *appraisal.Sheet, p *Policy, has []Technology, all bool) {
	var lacks []Technology
	for _, t := range p.Require {
		if !slices.Contains(has, t) {
			lacks = append(lacks, t)
		}
	}
	switch {
	case lacks == nil:
		s.Pass(checkRequire, "%v", has)
	case all:
		s.Answer(checkRequire, fmt.Errorf("the policy requires %v, which the evidence lacks", lacks))
	default:
		s.Missing(fmt.Sprintf("the policy requires %v, and no such document was given", lacks), checkRequire)
	}
}

// equal compares what is not secret.
func equal(got, want []byte, meaning string) error {
	if bytes.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("it has %s, expected is %s: %s", short(got), short(want), meaning)
}

func short(b []byte) string {
	if len(b) > 12 {
		return fmt.Sprintf("%x… (%d bytes)", b[:12], len(b))
	}
	return strconv.Quote(fmt.Sprintf("%x", b))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Technologies are those that the evidence has, or claims to.
func (e *Evidence) Technologies() []Technology {
	var t []Technology
	if e.Report != nil {
		t = append(t, Technology(e.Report.Kind))
	}
	if e.TPM != nil {
		t = append(t, TPM)
	}
	if e.Nitro != nil {
		t = append(t, NitroTPM)
	}
	return t
}

func facts(e *Evidence) map[string]any {
	f := map[string]any{
		"created":        stamp(e.Created),
		"software":       e.Software,
		"nonce":          fmt.Sprintf("%x", e.Nonce),
		"tls_key_sha256": fmt.Sprintf("%x", digest(e.TLSKey)),
		"binding":        fmt.Sprintf("%x", e.Binding()),
	}
	if len(e.AuditKey) > 0 {
		f["audit_key_sha256"] = fmt.Sprintf("%x", digest(e.AuditKey))
	}
	if s := e.State; s != nil {
		f["state"] = map[string]any{"number": s.Sequence, "digest": fmt.Sprintf("%x", s.Digest), "at": stamp(s.At), "anchored": s.Anchored}
	}
	if len(e.PolicyDigest) > 0 {
		f["policy_sha256"] = fmt.Sprintf("%x", e.PolicyDigest)
	}
	if len(e.LaunchDigest) > 0 {
		f["launch_sha256"] = fmt.Sprintf("%x", e.LaunchDigest)
	}
	if len(e.OwnerDigest) > 0 {
		f["owner_sha256"] = fmt.Sprintf("%x", e.OwnerDigest)
	}
	return f
}
