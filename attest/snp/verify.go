package snp

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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
	checkChip        = appraisal.Question{Code: fault.SNPChip, Name: "The chip is one that the policy names."}
	checkUnknown     = appraisal.Question{Code: fault.SNPUnknown, Name: "The report says nothing that this program does not know, if the policy asks for that."}
	checkHostData    = appraisal.Question{Code: fault.SNPHostData, Name: "The machine was started with the host data that the policy names."}
)

// Questions are all checks of this package.
func Questions() []appraisal.Question {
	return []appraisal.Question{checkFormat, checkVersion, checkProduct, checkKeyKind, checkChain, checkTime, checkCRL, checkSignature, checkVEK,
		checkCSP, checkChip, checkReportData, checkDebug, checkMigration, checkVMPL, checkTCB, checkFirmware, checkPlatform, checkMeasurement, checkHostData, checkUnknown}
}

// Expectation is what the verifier knows besides the policy.
type Expectation struct {
	// ReportData must be in the report; nil if nothing is known of it.
	ReportData *[64]byte
	// At is the time of the evidence, at which certificates must be valid.
	At time.Time
	// Revocations are AMD's lists of revocations (DER) that the verifier has of its own.
	Revocations [][]byte
	// Roots are those of a simulated platform; nil trusts AMD alone.
	Roots *Roots
}

// Facts are what the report says. They are as true as the checks that passed.
type Facts struct {
	Version uint32 `json:"version"`
	Product string `json:"product"`
	// CPU is the processor's family, model and stepping; empty in reports of version 2.
	CPU       string `json:"cpu,omitempty"`
	SignedBy  string `json:"signed_by"`
	CSPID     string `json:"csp_id,omitempty"`
	Reported  TCB    `json:"reported_tcb"`
	Committed TCB    `json:"committed_tcb"`
	Current   TCB    `json:"current_tcb"`
	Launch    TCB    `json:"launch_tcb"`
	// Floor is what the policy asks of each TCB; absent if it names no floor for the
	// product.
	Floor        *TCB   `json:"minimum_tcb,omitempty"`
	Firmware     string `json:"firmware"`
	GuestPolicy  string `json:"guest_policy"`
	Debug        bool   `json:"debug"`
	PlatformInfo string `json:"platform_info"`
	VMPL         uint32 `json:"vmpl"`
	Measurement  string `json:"measurement"`
	// MeasurementKnown says where the launch measurement was seen; empty if it is in no
	// table of this program.
	MeasurementKnown string    `json:"measurement_known,omitempty"`
	Release          string    `json:"release,omitempty"`
	ReportData       string    `json:"report_data"`
	HostData         string    `json:"host_data"`
	ChipID           string    `json:"chip_id"`
	VEKNotBefore     time.Time `json:"vek_not_before"`
	VEKNotAfter      time.Time `json:"vek_not_after"`
	// Unknown is what was signed and this program does not know.
	Unknown []Unknown `json:"unknown,omitempty"`
	// Lists are the lists of revocations by the root of the report.
	Lists []List `json:"revocation_lists,omitempty"`
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
	s.Answer(checkFormat, nil)
	v.s, v.p, v.x = s, p, x
	v.origin()
	v.guest()
	v.platform()
	v.judgeUnknown()
	s.Fact("sev_snp", v.facts)
}

// report is one that could be read, with the certificate of its key.
type report struct {
	*body
	product *product // nil if it is not known
	vek     *x509.Certificate
	ext     *endorsement
	extErr  error
	crl     *x509.RevocationList
	facts   *Facts

	s *appraisal.Sheet
	p Policy
	x Expectation
}

func parse(e Evidence) (*report, error) {
	if len(e.VEK) == 0 || len(e.VEK) > maxVEK || len(e.CRL) > maxCRL {
		return nil, fmt.Errorf("the key's certificate has %d bytes, of 1 to %d; the CRL %d, of at most %d", len(e.VEK), maxVEK, len(e.CRL), maxCRL)
	}
	b, err := readReport(e.Report)
	if err != nil {
		return nil, err
	}
	v := &report{body: b}
	if v.vek, err = x509.ParseCertificate(e.VEK); err != nil {
		return nil, fmt.Errorf("the key's certificate, which must be in DER: %w", err)
	}
	if len(e.CRL) > 0 {
		if v.crl, err = parseRevocations(e.CRL); err != nil {
			return nil, fmt.Errorf("the CRL: %w", err)
		}
	}
	if v.ext, v.extErr = readEndorsement(v.vek, v.kind); v.extErr == nil {
		v.unknown = append(v.unknown, v.ext.unknown...)
	}
	if v.namesCPU() {
		v.product = productOf(v.cpu)
	} else if v.ext != nil {
		v.product = v.ext.product
	}
	v.facts = v.learn()
	return v, nil
}

func (v *report) learn() *Facts {
	f := &Facts{
		Version: v.version, Product: v.productName(), SignedBy: v.kind.String(), Firmware: v.firmware(atCurrent).String(),
		GuestPolicy: fmt.Sprintf("%#x", v.policy), Debug: v.policy&policyDebugs != 0, PlatformInfo: fmt.Sprintf("%#x", v.body.platform), VMPL: v.vmpl,
		Measurement: hex.EncodeToString(v.field(atMeasurement, atHostData)), ReportData: hex.EncodeToString(v.field(atData, atMeasurement)),
		HostData: hex.EncodeToString(v.field(atHostData, atHostData+32)), ChipID: hex.EncodeToString(v.chipID),
		VEKNotBefore: v.vek.NotBefore.UTC(), VEKNotAfter: v.vek.NotAfter.UTC(),
	}
	f.MeasurementKnown = launchSeen(f.Measurement)
	if v.namesCPU() {
		f.CPU = v.cpu.String()
	}
	if p := v.product; p != nil {
		f.Current, f.Reported = v.tcb(p, "CURRENT_TCB", atCurrentTCB), v.tcb(p, "REPORTED_TCB", atReportedTCB)
		f.Committed, f.Launch = v.tcb(p, "COMMITTED_TCB", atCommittedTCB), v.tcb(p, "LAUNCH_TCB", atLaunchTCB)
		if rest := v.chipID[p.chipID:]; !zero(rest) {
			v.note("CHIP_ID", atChipID+p.chipID, hex.EncodeToString(rest))
		}
		v.chipID = v.chipID[:p.chipID]
		f.ChipID = hex.EncodeToString(v.chipID)
	}
	if v.ext != nil {
		f.CSPID = v.ext.csp
	}
	f.Unknown = v.unknown
	return f
}

// productName is the line's name, or what the report says of the processor.
func (v *report) productName() string {
	switch {
	case v.product != nil:
		return v.product.name
	case v.namesCPU():
		return v.cpu.String()
	}
	return "unknown"
}

// floor gives what the policy asks of the product's TCB.
func (v *report) floor() (TCB, bool) {
	if v.product == nil {
		return TCB{}, false
	}
	floor, ok := v.p.MinimumTCB[v.product.name]
	return floor, ok
}

// origin checks who signed the report.
func (v *report) origin() {
	s := v.s
	if floor, ok := v.floor(); ok {
		v.facts.Floor = &floor
		s.Pass(checkProduct, "%s", v.product.name)
	} else if v.product != nil {
		s.Answer(checkProduct, fmt.Errorf("the policy has no floor (minimum_tcb) for product %q", v.product.name))
	} else if v.namesCPU() {
		s.Answer(checkProduct, fmt.Errorf("this program knows %s; the report is of %s", known(), v.cpu))
	} else {
		s.Answer(checkProduct, fmt.Errorf("this program knows %s; a report of version %d does not name the processor, and the certificate names none of these", known(), v.version))
	}
	v.keyKind()
	v.csp()
	if v.ext == nil {
		s.Answer(checkSignature, fmt.Errorf("the certificate: %w", v.extErr))
	} else {
		s.Answer(checkSignature, v.verify(v.ext.key))
	}
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
	intermediate, root, err := roots.chain(v.productName(), v.kind)
	if err != nil {
		s.Answer(checkChain, err)
		s.Answer(checkTime, fmt.Errorf("the chain is not known: %w", err))
		s.Skip("the chain is not known", checkCRL)
		return
	}
	s.Answer(checkChain, v.checkChain(intermediate, root))
	s.Answer(checkTime, v.checkTime(v.vek, intermediate, root))
	v.revocation(roots, intermediate, root)
}

// keyKind judges the kind of key. One that this program does not know cannot be judged:
// AMD will have said what it vouches for, and this program cannot ask.
func (v *report) keyKind() {
	switch {
	case v.kind == vlek:
		v.s.Pass(checkKeyKind, "VLEK, loaded by the cloud provider")
	case v.kind == vcek && v.p.AllowVCEK:
		v.s.Pass(checkKeyKind, "VCEK, the chip's own, which the policy allows")
	case v.kind == vcek:
		v.s.Answer(checkKeyKind, errors.New("it is signed by a VCEK; the policy accepts a VLEK, for chips' own keys can be forged"))
	case v.kind == nobody:
		v.s.Answer(checkKeyKind, errors.New("it says that nobody signed it"))
	default:
		v.s.Answer(checkKeyKind, fmt.Errorf("it is signed by a kind of key that this program does not know (%d), so it cannot be judged; it knows VCEK and VLEK. Use a newer version of holdfast", uint8(v.kind)))
	}
}

func (v *report) csp() {
	if v.kind != vcek {
		v.s.Skip("a key that the cloud provider loads is of no one chip", checkChip)
	} else if len(v.p.ChipIDs) == 0 {
		v.s.Skip("the policy names no chips", checkChip)
	} else if v.ext == nil || v.extErr != nil {
		v.s.Answer(checkChip, fmt.Errorf("the certificate's extensions: %w", v.extErr))
	} else {
		// The certificate's, not the report's: a host may have reports hide theirs.
		id := hex.EncodeToString(v.ext.hwid)
		v.s.Answer(checkChip, when(!slices.Contains(v.p.ChipIDs, id), fmt.Sprintf("it is %s, which is none of the %d that the policy names", id, len(v.p.ChipIDs))))
	}
	switch {
	case v.kind != vlek:
		v.s.Skip("a chip's own key names no cloud provider", checkCSP)
	case v.extErr != nil:
		v.s.Answer(checkCSP, fmt.Errorf("the certificate's extensions: %w", v.extErr))
	case !slices.Contains(v.p.CSPIDs, v.ext.csp):
		v.s.Answer(checkCSP, fmt.Errorf("it is %q, the policy names %q", v.ext.csp, v.p.CSPIDs))
	default:
		v.s.Pass(checkCSP, "%s", v.ext.csp)
	}
}

// checkVEK holds the certificate's extensions against the report (AMD 57230,
// section 3).
func (v *report) checkVEK() error {
	if v.extErr != nil {
		return fmt.Errorf("the certificate: %w", v.extErr)
	}
	if v.product == nil {
		return fmt.Errorf("it is for %q, and nothing is known of the processor that the report names", v.ext.called)
	}
	if v.ext.product != v.product {
		return fmt.Errorf("the certificate is for product %q, the report says %q", v.ext.called, v.product.name)
	}
	if !v.ext.tcb.Equal(v.facts.Reported) {
		return fmt.Errorf("the certificate is for the TCB %s, the report says %s", v.ext.tcb, v.facts.Reported)
	}
	if v.kind == vcek && len(v.ext.hwid) != v.product.chipID {
		return fmt.Errorf("the certificate names a chip by %d bytes, %s does by %d", len(v.ext.hwid), v.product.name, v.product.chipID)
	}
	if v.kind == vcek && !v.masked && !bytes.Equal(v.ext.hwid, v.chipID) {
		return errors.New("the certificate is for another chip than the report names")
	}
	if v.masked && !zero(v.chipID) {
		return errors.New("the report hides the chip's ID and names one all the same")
	}
	return nil
}

// checkChain verifies the certificates' signatures.
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
	if v.extErr != nil {
		return fmt.Errorf("the certificate: %w", v.extErr)
	}
	return nil
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

// guest checks what the report says of the machine.
func (v *report) guest() {
	s := v.s
	data := v.field(atData, atMeasurement)
	if v.x.ReportData == nil {
		s.Missing("nothing was given to compare the report data with: give an evidence file", checkReportData)
	} else if !bytes.Equal(data, v.x.ReportData[:]) {
		s.Answer(checkReportData, fmt.Errorf("it has %x…, the evidence makes %x…: a part of the evidence was exchanged or is from another time", data[:8], v.x.ReportData[:8]))
	} else {
		s.Answer(checkReportData, nil)
	}
	s.Answer(checkDebug, when(v.policy&policyDebugs != 0, "the guest policy allows it: the host can read all memory"))
	agent := v.field(atMigration, atReportedTCB)
	s.Answer(checkMigration, when(v.policy&policyMigrates != 0 || !allSame(agent, 0, 0xff), "the guest policy allows one, or the report names one"))
	s.Answer(checkVMPL, when(v.vmpl != 0, fmt.Sprintf("it was asked for by VMPL %d", v.vmpl)))

	if len(v.p.Measurements) == 0 {
		s.Skip("the policy names no launch measurement", checkMeasurement)
	} else if i := slices.IndexFunc(v.p.Measurements, func(r Reference) bool { return r.Value == v.facts.Measurement }); i >= 0 {
		v.facts.Release = v.p.Measurements[i].Name
		s.Pass(checkMeasurement, "matches %s", v.p.Measurements[i].Name)
	} else {
		s.Answer(checkMeasurement, fmt.Errorf("%s is none of the %d that the policy names", v.facts.Measurement, len(v.p.Measurements)))
	}
	if v.p.HostData == "" {
		s.Skip("the policy names no host data", checkHostData)
	} else {
		s.Answer(checkHostData, when(v.facts.HostData != v.p.HostData, "it is "+v.facts.HostData))
	}
}

// platform checks what the report says of the host.
func (v *report) platform() {
	s := v.s
	if v.version < v.p.MinimumReportVersion {
		s.Answer(checkVersion, fmt.Errorf("it has version %d, the policy asks for %d", v.version, v.p.MinimumReportVersion))
	} else {
		s.Pass(checkVersion, "version %d", v.version)
	}
	if v.version >= versionWithCPU || v.p.MinimumReportVersion >= versionWithCPU {
		s.Answer(checkPlatform, when(v.body.platform&platformAliases == 0, "the report does not say so (BadRAM, AMD-SB-3015)"))
	} else {
		s.Skip("a report of version 2 cannot show it, and the policy accepts that version", checkPlatform)
	}
	if floor, ok := v.floor(); ok {
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
		s.Answer(checkTCB, fmt.Errorf("the policy has no floor for product %q", v.productName()))
	}
	current, committed := v.firmware(atCurrent), v.firmware(atCommitted)
	order := bytes.Compare(current[:], committed[:])
	switch {
	case v.facts.Current.below(v.facts.Committed) || order < 0:
		s.Answer(checkFirmware, errors.New("it runs older firmware than it is committed to, which cannot be"))
	case v.p.RequireCommittedFirmware && (order != 0 || !bytes.Equal(v.field(atCurrentTCB, atPlatform), v.field(atCommittedTCB, atCurrent))):
		s.Answer(checkFirmware, errors.New("the host may still roll its firmware back, which the policy forbids"))
	default:
		s.Pass(checkFirmware, "firmware %s", v.facts.Firmware)
	}
}

// judgeUnknown says what was signed and is not known. Whether that matters is for the
// policy: new firmware of a host may say something new about it at any time.
func (v *report) judgeUnknown() {
	var all []string
	for _, u := range v.unknown {
		all = append(all, fmt.Sprintf("%s: %s", u.Place, u.Value))
	}
	switch {
	case !v.p.RefuseUnknown && all == nil:
		v.s.Skip("the policy lets reports say what this program does not know; this one says nothing of the kind", checkUnknown)
	case !v.p.RefuseUnknown:
		v.s.Skip("the policy lets reports say what this program does not know; here: "+strings.Join(all, "; "), checkUnknown)
	case all == nil:
		v.s.Answer(checkUnknown, nil)
	default:
		v.s.Answer(checkUnknown, fmt.Errorf("it says %s; use a version of holdfast that knows it, or let the policy pass it (refuse_unknown)", strings.Join(all, "; ")))
	}
}

// when gives an error if something is so.
func when(is bool, why string) error {
	if is {
		return errors.New(why)
	}
	return nil
}

// allSame says whether all bytes are one of the values.
func allSame(b []byte, values ...byte) bool {
	return slices.ContainsFunc(values, func(v byte) bool { return bytes.Count(b, []byte{v}) == len(b) })
}
