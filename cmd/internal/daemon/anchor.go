package daemon

import (
	"holdfast/attest"
	"holdfast/attest/tpm/counter"
)

// stateAnchor gives the anchor of the state that the machine's TPM has or can have;
// nil if it has no TPM. It makes nothing.
func stateAnchor(c *attest.Collector) (*counter.Anchor, error) {
	if c == nil || c.TPM == nil {
		return nil, nil
	}
	return counter.NewAnchor(c.TPM)
}
