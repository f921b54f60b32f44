package snp

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
)

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

// UnmarshalJSON reads a TCB of which each part is written: a floor that leaves one out
// would let every level of it pass. Only "fmc" may be left out, as not every product
// line has one: that is for the policy to say.
func (t *TCB) UnmarshalJSON(text []byte) error {
	var read struct {
		FMC        *uint8 `json:"fmc"`
		Bootloader *uint8 `json:"bootloader"`
		TEE        *uint8 `json:"tee"`
		SNP        *uint8 `json:"snp"`
		Microcode  *uint8 `json:"microcode"`
	}
	if err := json.Unmarshal(text, &read, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	var missing []string
	for _, part := range []struct {
		name string
		from *uint8
		to   *uint8
	}{{"bootloader", read.Bootloader, &t.Bootloader}, {"tee", read.TEE, &t.TEE}, {"snp", read.SNP, &t.SNP}, {"microcode", read.Microcode, &t.Microcode}} {
		if part.from == nil {
			missing = append(missing, fmt.Sprintf("%q", part.name))
			continue
		}
		*part.to = *part.from
	}
	if t.FMC = read.FMC; missing != nil {
		return errors.New("a TCB without " + strings.Join(missing, ", ") + ": write each part, 0 for any level")
	}
	return nil
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
