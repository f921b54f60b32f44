package snp

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// product is a line of processors with SEV-SNP, as AMD's key service groups them:
// the chips of a line have the same roots, the same form of TCB and of chip ID.
type product struct {
	name string
	// calls are what certificates call chips of the line, before a dash and the
	// stepping. AMD's key service files Bergamo and Siena under Genoa.
	calls []string
	// models are the CPUs of the line (CPUID function 1, with the extended parts).
	models []models
	// chipID is the length of a chip's ID, in bytes. A report has it at the begin of
	// CHIP_ID.
	chipID int
	// fmc says that the TCB has a level of the FMC.
	fmc bool
	// least is the lowest SNP level at which AMD holds the line for sound, by the
	// bulletin.
	least    uint8
	bulletin string
}

// models are the models of a family, from first to last.
type models struct{ family, first, last uint8 }

// products are all that this program knows (AMD 57230, and the programmer's
// references of the families). The lowest levels are those of AMD's bulletins:
// AMD-SB-3019 (microcode that others sign) has none for Turin, AMD-SB-3020 (the RMP
// while it is made) has.
var products = []*product{
	{name: "Milan", calls: []string{"Milan"}, models: []models{{0x19, 0x00, 0x0f}}, chipID: 64, least: 24, bulletin: "AMD-SB-3019"},
	{name: "Genoa", calls: []string{"Genoa", "Bergamo", "Siena"}, models: []models{{0x19, 0x10, 0x1f}, {0x19, 0xa0, 0xaf}}, chipID: 64, least: 23, bulletin: "AMD-SB-3019"},
	{name: "Turin", calls: []string{"Turin"}, models: []models{{0x1a, 0x00, 0x11}}, chipID: 8, fmc: true, least: 4, bulletin: "AMD-SB-3020"},
}

// Products are the names of the product lines that this program knows.
func Products() (names []string) {
	for _, p := range products {
		names = append(names, p.name)
	}
	return names
}

// known is the list for a sentence.
func known() string { return strings.Join(Products(), ", ") }

// cpu is what a report says of the processor.
type cpu struct{ family, model, stepping uint8 }

func (c cpu) String() string {
	return fmt.Sprintf("family %02Xh model %02Xh stepping %Xh", c.family, c.model, c.stepping)
}

// productOf gives the line of a processor; nil if it is not known.
func productOf(c cpu) *product {
	for _, p := range products {
		if slices.ContainsFunc(p.models, func(m models) bool { return m.family == c.family && m.first <= c.model && c.model <= m.last }) {
			return p
		}
	}
	return nil
}

// productNamed gives the line of that name; nil if it is not known.
func productNamed(name string) *product {
	if i := slices.IndexFunc(products, func(p *product) bool { return p.name == name }); i >= 0 {
		return products[i]
	}
	return nil
}

// productCalled gives the line of which a certificate speaks; nil if it is not known.
// The name may be followed by a stepping, as in Milan-B1.
func productCalled(name string) *product {
	name, _, _ = strings.Cut(name, "-")
	if i := slices.IndexFunc(products, func(p *product) bool { return slices.Contains(p.calls, name) }); i >= 0 {
		return products[i]
	}
	return nil
}

// tcb reads a TCB_VERSION of the line (AMD 56860, section 2.2), and gives the bytes
// of it that have no meaning.
func (p *product) tcb(b [8]byte) (t TCB, reserved [8]byte) {
	if p.fmc {
		t = TCB{FMC: &b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
		copy(reserved[4:7], b[4:7])
		return t, reserved
	}
	t = TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
	copy(reserved[2:6], b[2:6])
	return t, reserved
}

// checkFloor says what is wrong with a floor for the line.
func (p *product) checkFloor(t TCB) error {
	switch {
	case p.fmc && t.FMC == nil:
		return fmt.Errorf(`%s has an FMC, and the floor does not say "fmc"; write it, 0 for any`, p.name)
	case !p.fmc && t.FMC != nil:
		return fmt.Errorf(`%s has no FMC; take "fmc" out`, p.name)
	}
	return nil
}

// checkChipID says what is wrong with a chip's ID, in hexadecimal, for any of the lines.
func checkChipID(id string, lines []*product) error {
	b, err := hex.DecodeString(id)
	if err == nil && id == strings.ToLower(id) && slices.ContainsFunc(lines, func(p *product) bool { return len(b) == p.chipID }) {
		return nil
	}
	var forms []string
	for _, p := range lines {
		forms = append(forms, fmt.Sprintf("%d for %s", 2*p.chipID, p.name))
	}
	return fmt.Errorf("%.150q is not the ID of a chip: give lower-case hexadecimal digits, %s", id, strings.Join(forms, ", "))
}
