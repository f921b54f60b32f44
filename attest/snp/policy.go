package snp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Policy says which evidence is good. The zero value accepts nothing; begin
// with [DefaultPolicy]. What it does not name is not negotiable: debugging and
// migration must be off, and the report must come from VMPL 0.
type Policy struct {
	// AllowVCEK accepts reports signed by a chip's own key. On shared hosts that
	// key can be forged for old chips; on Dedicated Hosts there is no other.
	AllowVCEK bool `json:"allow_vcek"`
	// ChipIDs are the chips whose own keys are accepted, in lower-case hexadecimal, as
	// long as the product line has them. Without any, each chip that AMD has made passes,
	// wherever it stands.
	ChipIDs []string `json:"chip_ids,omitempty"`
	// CSPIDs are the cloud providers, as VLEKs name them, that may vouch for the
	// host.
	CSPIDs []string `json:"csp_ids"`
	// MinimumTCB are the floors by product line, each part of a TCB that the line has; a
	// product without one is refused.
	MinimumTCB map[string]TCB `json:"minimum_tcb"`
	// MinimumReportVersion is 3 or more where it must show that the host checked
	// its memory for aliases (BadRAM, AMD-SB-3015).
	MinimumReportVersion uint32 `json:"minimum_report_version"`
	// RequireCommittedFirmware refuses firmware that the host may still roll
	// back. AWS runs such firmware for a while after each update.
	RequireCommittedFirmware bool `json:"require_committed_firmware"`
	// RequireCRL refuses evidence where the verifier has no list of revocations of AMD's
	// of its own that is in force.
	RequireCRL bool `json:"require_crl"`
	// Measurements are the launch measurements that are known, by name; with none
	// the measurement is not checked.
	Measurements []Reference `json:"measurements,omitempty"`
	// HostData is the HOST_DATA that must be in the report, 64 hexadecimal digits;
	// not checked if empty.
	HostData string `json:"host_data,omitempty"`
	// RefuseUnknown refuses a report that says what this program does not know. It is for
	// who would rather stand still than trust new firmware: an update of the host's may
	// bring such a report at any time.
	RefuseUnknown bool `json:"refuse_unknown,omitempty"`
}

// Reference is a reference value (RFC 9334 section 8.3) with a name for people.
type Reference struct {
	Name string `json:"name"`
	// Value is in hexadecimal, 96 digits.
	Value string `json:"value"`
}

// DefaultPolicy is what EC2 on shared hosts meets.
func DefaultPolicy() Policy {
	return Policy{
		CSPIDs: []string{"CN=cc-us-east-2.amazonaws.com", "CN=cc-eu-west-1.amazonaws.com"},
		MinimumTCB: map[string]TCB{
			"Milan": {Bootloader: 4, TEE: 0, SNP: 29, Microcode: 222},
			"Genoa": {SNP: 23}, // AMD-SB-3019
		},
		MinimumReportVersion: 3,
	}
}

// Validate says what is wrong with the policy, all at once.
func (p Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("policy: sev_snp: "+format, args...))
	}
	if !p.AllowVCEK && len(p.CSPIDs) == 0 {
		bad("csp_ids: name the cloud provider, such as CN=cc-eu-west-1.amazonaws.com; without one and without allow_vcek no report passes")
	}
	if slices.Contains(p.CSPIDs, "") {
		bad("csp_ids: an empty name")
	}
	if len(p.MinimumTCB) == 0 {
		bad("minimum_tcb: name a floor for each product line in use, of %s", known())
	}
	var lines []*product
	for _, name := range slices.Sorted(maps.Keys(p.MinimumTCB)) {
		line := productNamed(name)
		if line == nil {
			bad("minimum_tcb: product %q is not supported; %s are", name, known())
			continue
		}
		lines = append(lines, line)
		if err := line.checkFloor(p.MinimumTCB[name]); err != nil {
			bad("minimum_tcb: %w", err)
		}
	}
	if len(p.ChipIDs) > 0 && !p.AllowVCEK {
		bad("chip_ids: chips are named by keys of their own, which allow_vcek must allow; a cloud provider's key names none")
	}
	for i, id := range p.ChipIDs {
		if err := checkChipID(id, lines); err != nil {
			bad("chip_ids: %w", err)
		}
		if slices.Contains(p.ChipIDs[:i], id) {
			bad("chip_ids: %s is named twice", id)
		}
	}
	if p.MinimumReportVersion < oldestVersion || p.MinimumReportVersion > newestVersion {
		bad("minimum_report_version: %d is not between %d and %d", p.MinimumReportVersion, oldestVersion, newestVersion)
	}
	for _, m := range p.Measurements {
		if b, err := hex.DecodeString(m.Value); err != nil || len(b) != 48 || m.Name == "" || m.Value != strings.ToLower(m.Value) {
			bad("measurements: %q: give a name and 96 lower-case hexadecimal digits", m.Name)
		}
	}
	if b, err := hex.DecodeString(p.HostData); p.HostData != "" && (err != nil || len(b) != 32) {
		bad("host_data: give 64 hexadecimal digits, or nothing")
	}
	return errors.Join(errs...)
}

// Gaps implements [processor.Policy].
func (p Policy) Gaps() (gaps []string) {
	if p.AllowVCEK && len(p.ChipIDs) == 0 {
		gaps = append(gaps, "sev_snp.chip_ids: with allow_vcek and without them any AMD chip in the world passes; name the chips of your hosts")
	}
	for _, name := range slices.Sorted(maps.Keys(p.MinimumTCB)) {
		if line := productNamed(name); line != nil && p.MinimumTCB[name].SNP < line.least {
			gaps = append(gaps, fmt.Sprintf("sev_snp.minimum_tcb: %s passes with firmware of the SNP level %d, and AMD asks for %d (%s): below it the host can read the machine's memory; raise \"snp\"",
				name, p.MinimumTCB[name].SNP, line.least, line.bulletin))
		}
	}
	return gaps
}
