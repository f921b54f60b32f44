package attest

import (
	"bytes"
	"errors"
	"fmt"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// The checks of the launch file and its owner.
var (
	checkLaunch = appraisal.Question{Code: fault.EvidenceLaunch, Name: "The launch file is the one that was measured, and the one that is expected."}
	checkOwner  = appraisal.Question{Code: fault.EvidenceOwner, Name: "The machine's owner is the one that is expected."}
)

// verifyLaunch checks what the evidence names as launch file and owner. That PCR 15 has
// what the measurements say is for package tpm to check.
func verifyLaunch(s *appraisal.Sheet, e *Evidence, x Expectation) {
	switch err := launchNamed(e); {
	case err != nil:
		s.Answer(checkLaunch, err)
	case x.LaunchDigest != nil:
		s.Answer(checkLaunch, equal(e.LaunchDigest, x.LaunchDigest, "the machine runs by another launch file, or by none"))
	case len(e.LaunchDigest) == 0:
		s.Skip("the machine names no launch file, and none was given to compare with", checkLaunch)
	default:
		s.Pass(checkLaunch, "%x; none was given to compare with", e.LaunchDigest)
	}
	if x.OwnerDigest == nil {
		s.Skip("no owner was given to compare with", checkOwner)
	} else {
		s.Answer(checkOwner, equal(e.OwnerDigest, x.OwnerDigest, "somebody else stands for the machine's launch file, or nobody"))
	}
}

// launchNamed says why the evidence's members about the launch file are not those of one
// machine.
func launchNamed(e *Evidence) error {
	if (len(e.LaunchDigest) == 0) != (len(e.OwnerDigest) == 0) {
		return errors.New("it names a launch file without its owner, or an owner without a launch file")
	}
	if e.TPM == nil {
		return nil
	}
	if measured := e.TPM.Launch(); !bytes.Equal(measured, e.LaunchDigest) {
		return fmt.Errorf("it names the launch file %s, and PCR %d was extended with %s", orNone(e.LaunchDigest), tpm.LaunchPCR, orNone(measured))
	}
	return nil
}

func orNone(digest []byte) string {
	if len(digest) == 0 {
		return "none"
	}
	return short(digest)
}
