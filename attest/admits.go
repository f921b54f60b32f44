package attest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/attest/processor"
)

// Admits says in sentences, for people, which machines pass the policy: whose word is
// taken, which code and firmware, where, how old, and what is not asked. It says nothing
// of [Policy.Gaps].
func (p *Policy) Admits() []string {
	says := []string{p.admitsTechnologies(), p.admitsCode()}
	for _, t := range p.Require {
		if section := p.Reports[processor.Section(string(t))]; section != nil {
			if teller, ok := section.(processor.Teller); ok {
				says = append(says, teller.Admits()...)
			}
		}
	}
	if slices.Contains(p.Require, NitroTPM) {
		says = append(says, p.Nitro.Admits(p.Instance != nil)...)
	}
	if p.Instance != nil {
		says = append(says, p.Instance.Admits()...)
	}
	return append(says, fmt.Sprintf("Evidence that was asked for with a nonce may be %s old.", span(p.MaxAge())))
}

func (p *Policy) admitsTechnologies() string {
	var needs, free []string
	for _, t := range Technologies() {
		if slices.Contains(p.Require, t) {
			needs = append(needs, string(t))
		} else {
			free = append(free, string(t))
		}
	}
	says := "A machine must prove itself by " + listOf(needs) + "."
	if free != nil {
		says += " It is not asked for " + listOf(free) + "."
	}
	if !slices.ContainsFunc(p.Reports.Kinds(), func(kind string) bool { return slices.Contains(p.Require, Technology(kind)) }) {
		says += " So nothing shows that its memory is encrypted."
	}
	return says
}

func (p *Policy) admitsCode() string {
	if !slices.Contains(p.Require, TPM) || len(p.TPM.References) == 0 {
		return "It may run any code."
	}
	var names []string
	for _, r := range p.TPM.References {
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	return fmt.Sprintf("It must have booted %s, by the values of its PCRs in the bank %s.", oneOf(names), p.TPM.Bank)
}

// listOf writes names with commas and an "and"; oneOf with an "or", and at most a few.
func listOf(names []string) string { return joined(names, "and") }

func oneOf(names []string) string {
	const most = 5
	if n := len(names); n > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("one of %d more", n-most))
	}
	return joined(names, "or")
}

func joined(names []string, word string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

// span writes a time in whole seconds, minutes or hours.
func span(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}
