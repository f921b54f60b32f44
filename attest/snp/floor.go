package snp

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// Floor is a floor of a product line that takes effect at a time.
type Floor struct {
	// Product is the line, such as Milan.
	Product string `json:"product"`
	// From is when the floor takes effect.
	From time.Time `json:"from"`
	// TCB is the floor, each part of it.
	TCB *TCB `json:"minimum_tcb"`
}

// Validate says what is wrong with it.
func (f Floor) Validate() error {
	line := productNamed(f.Product)
	switch {
	case line == nil:
		return fmt.Errorf("product %q is not supported; %s are", f.Product, known())
	case f.From.IsZero():
		return fmt.Errorf("%s: from: write the time at which the floor takes effect, such as 2026-12-01T00:00:00Z", f.Product)
	case f.TCB == nil:
		return errors.New(f.Product + ": minimum_tcb: write the floor")
	}
	return line.checkFloor(*f.TCB)
}

// Raise gives the policy with the floors that are in effect at the time: of each part the
// higher counts. A product line that the policy has no floor for stays refused.
func (p *Policy) Raise(floors []Floor, at time.Time) *Policy {
	raised := *p
	raised.MinimumTCB = maps.Clone(p.MinimumTCB)
	for _, f := range floors {
		if floor, named := raised.MinimumTCB[f.Product]; named && f.TCB != nil && !at.Before(f.From) {
			raised.MinimumTCB[f.Product] = floor.raised(*f.TCB)
		}
	}
	return &raised
}
