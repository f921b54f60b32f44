package snp

import "fmt"

// TCB is a version of the platform's trusted computing base: security patch
// levels (AMD 56860, section 2.2). Each counts for itself.
type TCB struct {
	// FMC is the level of the first code that can be changed. Turin has it; nil for
	// the product lines before.
	FMC        *uint8 `json:"fmc,omitempty"`
	Bootloader uint8  `json:"bootloader"`
	TEE        uint8  `json:"tee"`
	SNP        uint8  `json:"snp"`
	Microcode  uint8  `json:"microcode"`
}

func (t TCB) String() string {
	s := fmt.Sprintf("bootloader %d, TEE %d, SNP %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != nil {
		s = fmt.Sprintf("FMC %d, ", *t.FMC) + s
	}
	return s
}

// fmc is the level of the FMC; 0 for none, which is below any other.
func (t TCB) fmc() uint8 {
	if t.FMC == nil {
		return 0
	}
	return *t.FMC
}

// Equal says whether all parts are the same.
func (t TCB) Equal(o TCB) bool { return !t.below(o) && !o.below(t) && (t.FMC == nil) == (o.FMC == nil) }

// below says whether any part is lower than the floor's.
func (t TCB) below(floor TCB) bool {
	return t.fmc() < floor.fmc() || t.Bootloader < floor.Bootloader || t.TEE < floor.TEE || t.SNP < floor.SNP || t.Microcode < floor.Microcode
}

// raised gives the higher of each part.
func (t TCB) raised(o TCB) TCB {
	r := TCB{FMC: t.FMC, Bootloader: max(t.Bootloader, o.Bootloader), TEE: max(t.TEE, o.TEE), SNP: max(t.SNP, o.SNP), Microcode: max(t.Microcode, o.Microcode)}
	if o.FMC != nil {
		r.FMC = new(max(t.fmc(), *o.FMC))
	}
	return r
}
