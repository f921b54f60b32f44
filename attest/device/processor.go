package device

import (
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/client"

	"holdfast/attest/processor"
	"holdfast/attest/snp"
)

// sources open the device of one kind of processor report each, in the order in
// which they are tried.
var sources = []func() (processor.Source, error){sevGuest}

// openProcessor gives the source of this machine's processor reports. Errors: why each
// of the kinds is not to be had.
func openProcessor() (processor.Source, error) {
	var errs []error
	for _, open := range sources {
		s, err := open()
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// sevGuest opens configfs-tsm, or /dev/sev-guest with kernels before 6.7.
func sevGuest() (processor.Source, error) {
	p, err := client.GetLeveledQuoteProvider()
	if err != nil {
		return nil, fmt.Errorf("this machine gives no SEV-SNP report: %w; is it a confidential VM (EC2: AmdSevSnp=enabled at launch), with the sev-guest module loaded?", err)
	}
	return snp.Source{Provider: p}, nil
}
