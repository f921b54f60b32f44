package nitro

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Bank is the one whose PCRs the documents have.
const Bank = "sha384"

// Policy says which documents are good.
type Policy struct {
	// MaxAgeSeconds is by how much the signed time and the evidence's may
	// differ, in either direction.
	MaxAgeSeconds int `json:"max_age_seconds"`
	// ComparePCRs are those that both the document and the TPM's quote must
	// have. Whatever else both have must be equal as well.
	ComparePCRs []int `json:"compare_pcrs"`
	// Regions and Instances (i-…) are those whose documents are good; all are if
	// empty. They are as AWS names them in the certificates.
	Regions   []string `json:"regions,omitempty"`
	Instances []string `json:"instances,omitempty"`
}

// DefaultPolicy compares the PCRs that identify software: the boot loader (4),
// Secure Boot (7), the unified kernel image (11) and its command line (12).
func DefaultPolicy() Policy {
	return Policy{MaxAgeSeconds: 300, ComparePCRs: []int{4, 7, 11, 12}}
}

// MaxAge is by how much the signed time and the evidence's may differ.
func (p Policy) MaxAge() time.Duration { return time.Duration(p.MaxAgeSeconds) * time.Second }

var (
	regionName = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
)

// Validate says what is wrong with the policy, all at once.
func (p Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("policy: nitrotpm."+format, args...)) }
	if p.MaxAgeSeconds < 1 || p.MaxAgeSeconds > 24*3600 {
		bad("max_age_seconds: %d is not 1 to 86400", p.MaxAgeSeconds)
	}
	if len(p.ComparePCRs) == 0 {
		bad("compare_pcrs: name at least one, or the document and the quote may be of different machines")
	}
	for i, n := range p.ComparePCRs {
		if n < 0 || n > maxPCR || slices.Contains(p.ComparePCRs[:i], n) {
			bad("compare_pcrs: %d is not 0 to %d, or is named twice", n, maxPCR)
		}
	}
	for _, r := range p.Regions {
		if !regionName.MatchString(r) {
			bad("regions: %q is not the name of a Region, such as us-east-2", r)
		}
	}
	for _, i := range p.Instances {
		if !instanceID.MatchString(i) {
			bad("instances: %q is not an instance ID, such as i-0123456789abcdef0", i)
		}
	}
	return errors.Join(errs...)
}
