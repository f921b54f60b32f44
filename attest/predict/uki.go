package predict

import (
	"bytes"
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// unified are the sections that systemd-stub 257 measures into PCR 11, in its
// order (systemd 257, src/fundamental/uki.h and src/boot/stub.c). It measures those
// that are there, and not .pcrsig; .linux must be.
var unified = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"}

// chosen are the sections of which the stub takes some and not others, by the boot
// option (.profile, and all that follow it) or by the machine.
var chosen = []string{".profile", ".dtbauto", ".hwids"}

// stub is what the stub says of itself in its section .sdmagic. Others measure
// other sections, and later ones load the kernel without the firmware.
const stub = "#### LoaderInfo: systemd-stub 257"

// uki is a unified kernel image.
type uki struct {
	pe       *peFile
	sections map[string][]byte // the measured ones
	kernel   *peFile           // the section .linux
}

func parseUKI(raw []byte) (*uki, error) {
	p, err := parsePE(raw)
	if err != nil {
		return nil, err
	}
	if err := p.checkMemory(); err != nil {
		return nil, err
	}
	u := &uki{pe: p, sections: map[string][]byte{}}
	magic, err := p.find(".sdmagic")
	if err != nil {
		return nil, err
	}
	if version, ok := bytes.CutPrefix(magic, []byte(stub)); !ok || len(version) == 0 || (version[0] != '.' && version[0] != ' ') {
		return nil, fmt.Errorf("its stub is not systemd-stub 257, whose measurements are known, but %.60q; build it with that one", magic)
	}
	for _, name := range chosen {
		if slices.ContainsFunc(p.sections, func(s section) bool { return s.called(name) }) {
			return nil, fmt.Errorf("it has a section %s, so that the machine and its boot option say what the stub measures; build it without", name)
		}
	}
	for _, name := range unified {
		content, err := p.find(name)
		if err != nil {
			return nil, err
		}
		if len(content) > 0 {
			u.sections[name] = content
		}
	}
	if u.sections[".linux"] == nil {
		return nil, errors.New("it has no section .linux: it is no unified kernel image")
	}
	if u.kernel, err = parsePE(u.sections[".linux"]); err != nil {
		return nil, fmt.Errorf("its section .linux: %w", err)
	}
	return u, nil
}

// called is whether the stub takes the section's name for that one: it compares up to
// the first zero byte.
func (s section) called(name string) bool {
	until, _, _ := strings.Cut(s.name, "\x00")
	return until == name
}

// find gives the content of the section of that name, or nil.
func (p *peFile) find(name string) ([]byte, error) {
	var found []byte
	count := 0
	for _, s := range p.sections {
		if !s.called(name) {
			continue
		}
		if count++; count > 1 {
			return nil, fmt.Errorf("which section the stub takes for %s is not certain, as there are two", name)
		}
		if s.memory > s.size {
			return nil, fmt.Errorf("its section %s has %d bytes in memory and %d in the file; build it again", s.name, s.memory, s.size)
		}
		found = s.content
	}
	return found, nil
}

// checkMemory checks that no section lies over another in memory, where the stub
// measures them.
func (p *peFile) checkMemory() error {
	byAddress := slices.SortedStableFunc(slices.Values(p.sections), func(a, b section) int { return cmp.Compare(a.address, b.address) })
	for i, s := range byAddress[1:] {
		if before := byAddress[i]; before.address+before.memory > s.address {
			return fmt.Errorf("its sections %.8q and %.8q overlap in memory; give them other addresses", before.name, s.name)
		}
	}
	return nil
}

// pcr4 is what firmware measures of the programs that it loads (PFP section
// 3.3.4.5, "PCR[4] - Boot Manager Code and Boot Attempts"). Without Secure Boot the
// stub has firmware load the kernel, which measures it too; with Secure Boot, it
// must circumvent the firmware's check, and with it the measurement.
func (u *uki) pcr4(h crypto.Hash, secureBoot bool) []byte {
	c := newChain(h)
	c.measure([]byte("Calling EFI Application from Boot Option"))
	c.measure(separator)
	c.extend(u.pe.authenticode(h))
	if !secureBoot {
		c.extend(u.kernel.authenticode(h))
	}
	return c.value
}

// pcr11 is what the stub measures of its own sections: for each its name with a
// zero byte, then its content.
func (u *uki) pcr11(h crypto.Hash) []byte {
	c := newChain(h)
	for _, name := range unified {
		if content, ok := u.sections[name]; ok {
			c.measure([]byte(name + "\x00"))
			c.measure(content)
		}
	}
	return c.value
}

// separator is the event between firmware and what comes after it (PFP section
// 3.3.2.2).
var separator = []byte{0, 0, 0, 0}

// chain is a PCR.
type chain struct {
	hash  crypto.Hash
	value []byte
}

func newChain(h crypto.Hash) *chain { return &chain{h, make([]byte, h.Size())} }

// measure extends the PCR with the hash of the data.
func (c *chain) measure(data []byte) { c.extend(sum(c.hash, data)) }

func (c *chain) extend(digest []byte) { c.value = sum(c.hash, c.value, digest) }

func sum(h crypto.Hash, parts ...[]byte) []byte {
	w := h.New()
	for _, p := range parts {
		w.Write(p)
	}
	return w.Sum(nil)
}
