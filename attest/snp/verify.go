package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
)

// The checks.
var (
	checkFormat      = appraisal.Question{Code: fault.SNPFormat, Name: "The SEV-SNP report and the certificate of its key are well-formed."}
	checkVersion     = appraisal.Question{Code: fault.SNPVersion, Name: "The report's version is recent enough to show all that the policy asks for."}
	checkProduct     = appraisal.Question{Code: fault.SNPProduct, Name: "The processor is of a product line that the policy names."}
	checkKeyKind     = appraisal.Question{Code: fault.SNPKeyKind, Name: "The report is signed by a kind of key that the policy accepts."}
	checkChain       = appraisal.Question{Code: fault.SNPChain, Name: "The certificate of the key was issued by AMD: its chain ends at AMD's root."}
	checkTime        = appraisal.Question{Code: fault.SNPTime, Name: "All certificates of the chain were valid at the time of the evidence."}
	checkCRL         = appraisal.Question{Code: fault.SNPCRL, Name: "AMD has not revoked the issuer of the certificate."}
	checkSignature   = appraisal.Question{Code: fault.SNPSignature, Name: "The report is signed by the key of the certificate, and unchanged since."}
	checkVEK         = appraisal.Question{Code: fault.SNPVEK, Name: "The certificate was issued for the platform and the firmware that the report names."}
	checkCSP         = appraisal.Question{Code: fault.SNPCSPID, Name: "The cloud provider that vouches for the host is one that the policy names."}
	checkReportData  = appraisal.Question{Code: fault.SNPReportData, Name: "The report was made for this evidence: its report data bind the nonce, the keys and the policy."}
	checkDebug       = appraisal.Question{Code: fault.SNPDebug, Name: "The host cannot read the machine's memory by debugging it."}
	checkMigration   = appraisal.Question{Code: fault.SNPMigration, Name: "No migration agent can move the machine's memory elsewhere."}
	checkVMPL        = appraisal.Question{Code: fault.SNPVMPL, Name: "The report was asked for by the most privileged level of the guest."}
	checkTCB         = appraisal.Question{Code: fault.SNPTCB, Name: "The platform's firmware and microcode are as recent as the policy asks, now, committed and at launch."}
	checkFirmware    = appraisal.Question{Code: fault.SNPFirmware, Name: "The platform does not run older firmware than it is committed to."}
	checkPlatform    = appraisal.Question{Code: fault.SNPPlatform, Name: "The host has checked that no two addresses are the same memory."}
	checkMeasurement = appraisal.Question{Code: fault.SNPMeasurement, Name: "The machine was started with firmware that is known."}
	checkHostData    = appraisal.Question{Code: fault.SNPHostData, Name: "The machine was started with the host data that the policy names."}
)

// Questions are all checks of this package.
func Questions() []appraisal.Question {
	return []appraisal.Question{checkFormat, checkVersion, checkProduct, checkKeyKind, checkChain, checkTime, checkCRL, checkSignature, checkVEK,
		checkCSP, checkReportData, checkDebug, checkMigration, checkVMPL, checkTCB, checkFirmware, checkPlatform, checkMeasurement, checkHostData}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// ReportData must be in the report; nil if nothing is known of it.
	ReportData *[64]byte
	// At is the time of the evidence, at which certificates must be valid.
	At time.Time
	// Roots are those of a simulated platform; nil trusts AMD alone.
	Roots *Roots
}

// Facts are what the report says. They are as true as the checks that passed.
type Facts struct {
	Version      uint32    `json:"version"`
	Product      string    `json:"product"`
	SignedBy     string    `json:"signed_by"`
	CSPID        string    `json:"csp_id,omitempty"`
	Reported     TCB       `json:"reported_tcb"`
	Committed    TCB       `json:"committed_tcb"`
	Current      TCB       `json:"current_tcb"`
	Launch       TCB       `json:"launch_tcb"`
	Firmware     string    `json:"firmware"`
	GuestPolicy  string    `json:"guest_policy"`
	Debug        bool      `json:"debug"`
	PlatformInfo string    `json:"platform_info"`
	VMPL         uint32    `json:"vmpl"`
	Measurement  string    `json:"measurement"`
	Release      string    `json:"release,omitempty"`
	ReportData   string    `json:"report_data"`
	HostData     string    `json:"host_data"`
	ChipID       string    `json:"chip_id"`
	VEKNotBefore time.Time `json:"vek_not_before"`
	VEKNotAfter  time.Time `json:"vek_not_after"`
}

// Verify runs all checks, each whatever the others say, and writes them and the
// facts to the sheet.
func Verify(s *appraisal.Sheet, e Evidence, p Policy, x Expectation) {
	s.Announce(Questions()...)
	v, err := parse(e)
	if err != nil {
		s.Answer(checkFormat, err)
		return
	}
	// The library works on bytes of whoever made the evidence: should it panic,
	// the evidence is refused and what was not answered stays so.
	defer func() {
		if r := recover(); r != nil {
			s.Answer(checkFormat, fmt.Errorf("reading it failed: %v", r))
		}
	}()
	s.Answer(checkFormat, nil)
	v.s, v.p, v.x = s, p, x
	v.origin()
	v.guest()
	v.platform()
	s.Fact("sev_snp", v.facts)
}

// report is one that could be read.
type report struct {
	*pb.Report
	raw    []byte
	vek    *x509.Certificate
	crl    *x509.RevocationList
	kind   abi.ReportSigner
	masked bool // the chip's ID is
	line   string
	guestP abi.SnpPolicy
	info   abi.SnpPlatformInfo
	ext    *kds.Extensions
	extErr error
	facts  *Facts

	s *appraisal.Sheet
	p Policy
	x Expectation
}

func parse(e Evidence) (v *report, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("reading it failed: %v", r)
		}
	}()
	if len(e.Report) != reportBytes {
		return nil, fmt.Errorf("the report has %d bytes, not %d", len(e.Report), reportBytes)
	}
	if len(e.VEK) == 0 || len(e.VEK) > maxVEK || len(e.CRL) > maxCRL {
		return nil, fmt.Errorf("the key's certificate has %d bytes, of 1 to %d; the CRL %d, of at most %d", len(e.VEK), maxVEK, len(e.CRL), maxCRL)
	}
	v = &report{raw: e.Report}
	if v.Report, err = abi.ReportToProto(e.Report); err != nil {
		return nil, fmt.Errorf("the report: %w", err)
	}
	// All bytes must be of known meaning: what the library reads and writes again
	// must be what came.
	if again, err := abi.ReportToAbiBytes(v.Report); err != nil || !bytes.Equal(again, e.Report) {
		return nil, errors.New("the report has bytes that its version does not define")
	}
	if v.vek, err = x509.ParseCertificate(e.VEK); err != nil {
		return nil, fmt.Errorf("the key's certificate, which must be in DER: %w", err)
	}
	if len(e.CRL) > 0 {
		if v.crl, err = x509.ParseRevocationList(e.CRL); err != nil {
			return nil, fmt.Errorf("the CRL, which must be in DER: %w", err)
		}
	}
	signer, err := abi.ParseSignerInfo(v.SignerInfo)
	if err != nil {
		return nil, fmt.Errorf("the report: %w", err)
	}
	v.kind, v.masked = signer.SigningKey, signer.MaskChipKey
	if v.guestP, err = abi.ParseSnpPolicy(v.Policy); err != nil {
		return nil, fmt.Errorf("the report's guest policy: %w", err)
	}
	if v.info, err = abi.ParseSnpPlatformInfo(v.PlatformInfo); err != nil {
		return nil, fmt.Errorf("the report's platform information: %w", err)
	}
	v.ext, v.extErr = kds.CertificateExtensions(v.vek, v.kind)
	v.line = v.productLine()
	v.facts = v.learn()
	return v, nil
}

// productLine is what the report says, or before version 3 the certificate.
func (v *report) productLine() string {
	if v.Cpuid1EaxFms != 0 {
		return kds.ProductLineFromFms(v.Cpuid1EaxFms)
	}
	if v.ext != nil {
		return kds.ProductLineOfProductName(v.ext.ProductName)
	}
	return "unknown"
}

func (v *report) learn() *Facts {
	f := &Facts{
		Version: v.Version, Product: v.line, SignedBy: v.kind.String(),
		Reported: tcbOf(v.ReportedTcb), Committed: tcbOf(v.CommittedTcb), Current: tcbOf(v.CurrentTcb), Launch: tcbOf(v.LaunchTcb),
		Firmware:    fmt.Sprintf("%d.%d.%d", v.CurrentMajor, v.CurrentMinor, v.CurrentBuild),
		GuestPolicy: fmt.Sprintf("%#x", v.Policy), Debug: v.guestP.Debug, PlatformInfo: fmt.Sprintf("%#x", v.PlatformInfo), VMPL: v.Vmpl,
		Measurement: hex.EncodeToString(v.Measurement), ReportData: hex.EncodeToString(v.ReportData),
		HostData: hex.EncodeToString(v.HostData), ChipID: hex.EncodeToString(v.ChipId),
		VEKNotBefore: v.vek.NotBefore.UTC(), VEKNotAfter: v.vek.NotAfter.UTC(),
	}
	if v.ext != nil {
		f.CSPID = v.ext.CspID
	}
	return f
}

// origin checks who signed the report.
func (v *report) origin() {
	s := v.s
	_, known := v.p.MinimumTCB[v.line]
	switch {
	case v.line != "Milan" && v.line != "Genoa":
		s.Answer(checkProduct, fmt.Errorf("unsupported product %q; this program knows Milan and Genoa", v.line))
	case !known:
		s.Answer(checkProduct, fmt.Errorf("the policy has no floor (minimum_tcb) for product %q", v.line))
	default:
		s.Pass(checkProduct, "%s", v.line)
	}
	switch {
	case v.kind == abi.VlekReportSigner:
		s.Pass(checkKeyKind, "VLEK, loaded by the cloud provider")
	case v.kind == abi.VcekReportSigner && v.p.AllowVCEK:
		s.Pass(checkKeyKind, "VCEK, the chip's own, which the policy allows")
	default:
		s.Answer(checkKeyKind, fmt.Errorf("it is signed by a %v; the policy accepts a VLEK, for chips' own keys can be forged", v.kind))
	}
	v.csp()
	s.Answer(checkSignature, verify.SnpProtoReportSignature(v.Report, v.vek))
	s.Answer(checkVEK, v.checkVEK())

	roots := v.x.Roots
	if roots == nil {
		amd, err := amdRoots()
		if err != nil {
			s.Answer(checkChain, err)
			return
		}
		roots = amd
	}
	intermediate, root, err := roots.chain(v.line, v.kind)
	if err != nil {
		s.Answer(checkChain, err)
		s.Answer(checkTime, fmt.Errorf("the chain is not known: %w", err))
		s.Skip("the chain is not known", checkCRL)
		return
	}
	s.Answer(checkChain, v.checkChain(intermediate, root))
	s.Answer(checkTime, v.checkTime(v.vek, intermediate, root))
	v.revocation(intermediate, root)
}

func (v *report) csp() {
	switch {
	case v.kind != abi.VlekReportSigner:
		v.s.Skip("a chip's own key names no cloud provider", checkCSP)
	case v.ext == nil:
		v.s.Answer(checkCSP, fmt.Errorf("the certificate's extensions: %w", v.extErr))
	case !slices.Contains(v.p.CSPIDs, v.ext.CspID):
		v.s.Answer(checkCSP, fmt.Errorf("it is %q, the policy names %q", v.ext.CspID, v.p.CSPIDs))
	default:
		v.s.Pass(checkCSP, "%s", v.ext.CspID)
	}
}

// checkVEK holds the certificate's extensions against the report (AMD 57230,
// section 3).
func (v *report) checkVEK() error {
	if v.ext == nil {
		return fmt.Errorf("the certificate's extensions: %w", v.extErr)
	}
	key, ok := v.vek.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return errors.New("the certificate's key is not on the curve P-384")
	}
	if certified := tcbOf(uint64(v.ext.TCBVersion)); certified != tcbOf(v.ReportedTcb) {
		return fmt.Errorf("the certificate is for the TCB %s, the report says %s", certified, tcbOf(v.ReportedTcb))
	}
	if line := kds.ProductLineOfProductName(v.ext.ProductName); line != v.line {
		return fmt.Errorf("the certificate is for product %q, the report says %q", line, v.line)
	}
	zero := make([]byte, len(v.ChipId))
	if v.kind == abi.VcekReportSigner && !v.masked && !bytes.Equal(v.ext.HWID, v.ChipId) {
		return errors.New("the certificate is for another chip than the report names")
	}
	if v.masked && !bytes.Equal(v.ChipId, zero) {
		return errors.New("the report hides the chip's ID and names one all the same")
	}
	return nil
}

// checkChain verifies the certificates' signatures, and has the library verify
// the whole once more by its own rules.
func (v *report) checkChain(intermediate, root *x509.Certificate) error {
	if err := v.vek.CheckSignatureFrom(intermediate); err != nil {
		return fmt.Errorf("the key's certificate is not signed by %q: %w", intermediate.Subject.CommonName, err)
	}
	if err := intermediate.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("%q is not signed by %q: %w", intermediate.Subject.CommonName, root.Subject.CommonName, err)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the root %q is not signed by itself: %w", root.Subject.CommonName, err)
	}
	if v.ext == nil {
		return fmt.Errorf("the certificate's extensions: %w", v.extErr)
	}
	product, err := kds.ParseProductLine(v.line)
	if err != nil {
		return err
	}
	certs := trust.ProductCerts{Ark: root, Ask: intermediate, Asvk: intermediate}
	chain := &pb.CertificateChain{VcekCert: v.vek.Raw, AskCert: intermediate.Raw, ArkCert: root.Raw}
	if v.kind == abi.VlekReportSigner {
		chain = &pb.CertificateChain{VlekCert: v.vek.Raw, AskCert: intermediate.Raw, ArkCert: root.Raw}
	}
	// The library is to check the chain at a time at which it is valid, if there
	// is one: times are answered by checkTime alone.
	now := v.vek.NotBefore
	for _, c := range []*x509.Certificate{intermediate, root} {
		if c.NotBefore.After(now) {
			now = c.NotBefore
		}
	}
	err = verify.SnpAttestation(&pb.Attestation{Report: v.Report, CertificateChain: chain, Product: product}, &verify.Options{
		DisableCertFetching: true, Now: now, Product: product,
		TrustedRoots: map[string][]*trust.AMDRootCerts{v.line: {{Product: v.line, ProductLine: v.line, ProductCerts: &certs}}},
	})
	if err != nil && verify.SnpProtoReportSignature(v.Report, v.vek) != nil {
		return nil // it is the signature, which has its own answer
	}
	return err
}

func (v *report) checkTime(certs ...*x509.Certificate) error {
	for _, c := range certs {
		if v.x.At.Before(c.NotBefore) || v.x.At.After(c.NotAfter) {
			return fmt.Errorf("%q is valid from %s to %s, the evidence is of %s", c.Subject.CommonName,
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), v.x.At.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// revocation checks the intermediate against the CRL. AMD revokes no leaves:
// a higher TCB takes their place.
func (v *report) revocation(intermediate, root *x509.Certificate) {
	if v.crl == nil {
		if v.p.RequireCRL {
			v.s.Answer(checkCRL, errors.New("the evidence has no list of revocations, which the policy requires"))
		} else {
			v.s.Skip("the evidence has no list of revocations", checkCRL)
		}
		return
	}
	v.s.Answer(checkCRL, func() error {
		if err := v.crl.CheckSignatureFrom(root); err != nil {
			return fmt.Errorf("the list is not signed by %q: %w", root.Subject.CommonName, err)
		}
		if v.x.At.Before(v.crl.ThisUpdate) || (!v.crl.NextUpdate.IsZero() && v.x.At.After(v.crl.NextUpdate)) {
			return fmt.Errorf("the list is of %s, good until %s; the evidence is of %s",
				v.crl.ThisUpdate.UTC().Format(time.RFC3339), v.crl.NextUpdate.UTC().Format(time.RFC3339), v.x.At.UTC().Format(time.RFC3339))
		}
		for _, r := range v.crl.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(intermediate.SerialNumber) == 0 || r.SerialNumber.Cmp(v.vek.SerialNumber) == 0 {
				return fmt.Errorf("serial number %s was revoked at %s", r.SerialNumber, r.RevocationTime.UTC().Format(time.RFC3339))
			}
		}
		return nil
	}())
}

// guest checks what the report says of the machine.
func (v *report) guest() {
	s := v.s
	if v.x.ReportData == nil {
		s.Missing("nothing was given to compare the report data with: give an evidence file", checkReportData)
	} else if !bytes.Equal(v.ReportData, v.x.ReportData[:]) {
		s.Answer(checkReportData, fmt.Errorf("it has %x…, the evidence makes %x…: a part of the evidence was exchanged or is from another time", v.ReportData[:8], v.x.ReportData[:8]))
	} else {
		s.Answer(checkReportData, nil)
	}
	s.Answer(checkDebug, when(v.guestP.Debug, "the guest policy allows it: the host can read all memory"))
	s.Answer(checkMigration, when(v.guestP.MigrateMA || !allZero(v.ReportIdMa, 0xff), "the guest policy allows one, or the report names one"))
	s.Answer(checkVMPL, when(v.Vmpl != 0, fmt.Sprintf("it was asked for by VMPL %d", v.Vmpl)))

	if len(v.p.Measurements) == 0 {
		s.Skip("the policy names no launch measurement", checkMeasurement)
	} else if i := slices.IndexFunc(v.p.Measurements, func(r Reference) bool { return r.Value == hex.EncodeToString(v.Measurement) }); i >= 0 {
		v.facts.Release = v.p.Measurements[i].Name
		s.Pass(checkMeasurement, "matches %s", v.p.Measurements[i].Name)
	} else {
		s.Answer(checkMeasurement, fmt.Errorf("%x is none of the %d that the policy names", v.Measurement, len(v.p.Measurements)))
	}
	if v.p.HostData == "" {
		s.Skip("the policy names no host data", checkHostData)
	} else {
		s.Answer(checkHostData, when(hex.EncodeToString(v.HostData) != v.p.HostData, fmt.Sprintf("it is %x", v.HostData)))
	}
}

// platform checks what the report says of the host.
func (v *report) platform() {
	s := v.s
	if v.Version < v.p.MinimumReportVersion {
		s.Answer(checkVersion, fmt.Errorf("it has version %d, the policy asks for %d", v.Version, v.p.MinimumReportVersion))
	} else {
		s.Pass(checkVersion, "version %d", v.Version)
	}
	if v.Version >= 3 || v.p.MinimumReportVersion >= 3 {
		s.Answer(checkPlatform, when(!v.info.AliasCheckComplete, "the report does not say so (BadRAM, AMD-SB-3015)"))
	} else {
		s.Skip("a report of version 2 cannot show it, and the policy accepts that version", checkPlatform)
	}
	if floor, ok := v.p.MinimumTCB[v.line]; ok {
		var err error
		for _, t := range []struct {
			name string
			tcb  TCB
		}{{"reported", v.facts.Reported}, {"committed", v.facts.Committed}, {"launch", v.facts.Launch}} {
			if t.tcb.below(floor) {
				err = errors.Join(err, fmt.Errorf("%s: %s, the policy asks for %s", t.name, t.tcb, floor))
			}
		}
		s.Answer(checkTCB, err)
	} else {
		s.Answer(checkTCB, fmt.Errorf("the policy has no floor for product %q", v.line))
	}
	current := uint64(v.CurrentMajor)<<16 | uint64(v.CurrentMinor)<<8 | uint64(v.CurrentBuild)
	committed := uint64(v.CommittedMajor)<<16 | uint64(v.CommittedMinor)<<8 | uint64(v.CommittedBuild)
	switch {
	case v.facts.Current.below(v.facts.Committed) || current < committed:
		s.Answer(checkFirmware, errors.New("it runs older firmware than it is committed to, which cannot be"))
	case v.p.RequireCommittedFirmware && (v.CurrentTcb != v.CommittedTcb || current != committed):
		s.Answer(checkFirmware, errors.New("the host may still roll its firmware back, which the policy forbids"))
	default:
		s.Pass(checkFirmware, "firmware %s", v.facts.Firmware)
	}
}

// when gives an error if something is so.
func when(is bool, why string) error {
	if is {
		return errors.New(why)
	}
	return nil
}

// allZero says whether all bytes are 0, or all are the other value.
func allZero(b []byte, or byte) bool {
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return len(b) == 0 || b[0] == 0 || b[0] == or
}
