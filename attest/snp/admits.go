package snp

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Admits implements [holdfast/attest/processor.Teller].
func (p Policy) Admits() []string {
	signed := "Its report must be signed by a key that one of these cloud providers has loaded (VLEK): " + strings.Join(p.CSPIDs, ", ") + "."
	switch {
	case p.AllowVCEK && len(p.CSPIDs) == 0:
		signed = "Its report must be signed by the processor's own key (VCEK)."
	case p.AllowVCEK:
		signed = strings.TrimSuffix(signed, ".") + "; or by the processor's own key (VCEK)."
	}
	if p.AllowVCEK && len(p.ChipIDs) == 0 {
		signed += " That may be any chip that AMD has made."
	} else if p.AllowVCEK {
		signed += fmt.Sprintf(" That must be one of %d chips that the policy names.", len(p.ChipIDs))
	}
	var floors []string
	for _, line := range slices.Sorted(maps.Keys(p.MinimumTCB)) {
		floors = append(floors, line+" from "+p.MinimumTCB[line].String())
	}
	says := []string{signed, "The processor must be of " + strings.Join(floors, ", or ") + " (security patch levels)."}
	if len(p.Measurements) == 0 {
		says = append(says, "It may have been started with any firmware of the cloud's: no launch measurement is asked for.")
	} else {
		var names []string
		for _, m := range p.Measurements {
			names = append(names, fmt.Sprintf("%q", m.Name))
		}
		says = append(says, "It must have been started with the firmware of "+strings.Join(names, " or ")+".")
	}
	if p.HostData != "" {
		says = append(says, "Its host data must be "+p.HostData+".")
	}
	if !p.RequireCRL {
		says = append(says, "No list of AMD's revocations is asked for.")
	}
	if !p.RefuseUnknown {
		says = append(says, "Its report may say things that this program does not know.")
	}
	if !p.RequireCommittedFirmware {
		says = append(says, "The host may still roll its firmware back.")
	}
	if p.MinimumReportVersion < 3 {
		says = append(says, "It need not show that the host has checked its memory for aliases (BadRAM).")
	}
	return says
}
