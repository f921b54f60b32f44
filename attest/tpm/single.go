package tpm

import (
	"bytes"
	"fmt"
	"slices"

	"holdfast/attest/appraisal"
)

// single is a PCR that has one event, or none on a machine that lacks what it is for.
type single struct {
	pcr      int
	name     string // of the measurement
	what     string // it is for, with its article
	question appraisal.Question
}

// singles are the PCRs that have one event.
var singles = []single{
	{StateVolumePCR, stateVolumeName, "state volume", checkStateVolume},
	{LaunchPCR, launchName, "launch file", checkLaunch},
}

// isSingle says whether a PCR has one event, which a measurement explains.
func isSingle(pcr int) bool {
	return slices.ContainsFunc(singles, func(o single) bool { return o.pcr == pcr })
}

// verify checks what the evidence says of the PCR, and gives the digest that was measured,
// or "none" if the PCR shows that nothing was; empty if it shows neither.
func (o single) verify(s *appraisal.Sheet, e Evidence, events []event, b *bank, partial bool) string {
	value, ok := e.PCRs[b.name][o.pcr]
	events = slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.PCR != o.pcr })
	list := of(o.pcr, e.Measurements)
	if len(list) > 0 {
		if s.Answer(o.question, o.compare(list, events, b, value)) {
			s.Pass(o.question, "%s", list[0].Digest)
			return list[0].Digest.String()
		}
		return ""
	}
	switch {
	case !ok && !partial:
		s.Missing(fmt.Sprintf("PCR %d was not quoted, so it is not shown whether the machine has a %s; quote it", o.pcr, o.what), o.question)
	case ok && zero(value):
		s.Pass(o.question, "PCR %d is zero: no %s", o.pcr, o.what)
		return "none"
	case len(events) > 0 && bytes.Equal(replay(events, b.hash)[o.pcr], value):
		s.Pass(o.question, "PCR %d has what a boot loader measured, and no %s", o.pcr, o.what)
		return "none"
	case partial:
		s.Skip(fmt.Sprintf("a quote and a log alone do not say which %s was measured", o.what), o.question)
	default:
		s.Answer(o.question, fmt.Errorf("PCR %d was extended, and neither the evidence nor the event log says with what: the %s's measurement was taken out, or something else has extended it", o.pcr, o.what))
	}
	return ""
}

func (o single) compare(list []Measurement, events []event, b *bank, value Hex) error {
	switch {
	case len(list) > 1:
		return fmt.Errorf("there are %d measurements of PCR %d, which has one, of the %s", len(list), o.pcr, o.what)
	case list[0].Name != o.name:
		return fmt.Errorf("measurement %s is of PCR %d, which has the %s alone", list[0].Name, o.pcr, o.what)
	case value == nil:
		return fmt.Errorf("a %s was measured, and PCR %d was not quoted", o.what, o.pcr)
	case len(events) > 0:
		return fmt.Errorf("firmware or a boot loader has extended PCR %d, which is the %s's; boot Holdfast's image directly", o.pcr, o.what)
	}
	if got := replayMeasurements(list, b.hash); !bytes.Equal(got, value) {
		return fmt.Errorf("PCR %d replays to %s, and %s was quoted: the %s is another, or something has extended the PCR before or after it", o.pcr, short(got), short(value), o.what)
	}
	return nil
}
