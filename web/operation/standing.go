package operation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

// Standings are the operations of the domain on what serves.
type Standings interface {
	// Standing gives that of the appliance, Standings that of each key store by its name.
	Standing() appliance.Standing
	Standings() map[string]appliance.Standing
}

// Standing gives the standing of the appliance, with what is known of its boot.
func (p *Performer) Standing() appliance.Standing {
	return standingOf(p.Domain.Standing(), p.Boot.Status())
}

// standingOf adds to a standing what the boot knows of it: how far a boot is that has not come to
// serve, why it is locked, and that evidence could not be renewed. What serves is not in question.
func standingOf(s appliance.Standing, boot progress.Status) appliance.Standing {
	switch {
	case s.State == appliance.StandingLocked && !boot.Serves() && boot.State != progress.Locked:
		s.State, s.Code, s.Says = appliance.StandingStarting, fault.Code(boot.Code), fmt.Sprintf("the boot is in the state %s", boot.State)
		if boot.Reason != "" {
			s.Says += ", which is tried again: " + boot.Reason
		}
	case s.State == appliance.StandingLocked && boot.Code != "":
		s.Code, s.Says = fault.Code(boot.Code), "the appliance is locked: "+boot.Reason
	case s.State == appliance.StandingServing && boot.Code != "":
		s.State, s.Code, s.Says = appliance.StandingDegraded, fault.Code(boot.Code), boot.Reason
	}
	return s
}

// Mark is what of a standing tells one from another. How long an HSM took, which its sentence may
// say, is not in it.
type Mark struct {
	Serves  bool
	State   appliance.StandingState
	Decides appliance.Decider
	Code    fault.Code
	Block   appliance.Block
}

// MarkOf gives that of a standing.
func MarkOf(s appliance.Standing) Mark {
	return Mark{s.Serves, s.State, s.Decides, s.Code, s.Block}
}

// Digest names how everything stands: the appliance, each key store, and what else is given. It
// is another one when one of these changes, and the same on every node that sees the same.
func (p *Performer) Digest(also ...any) string {
	stores := map[string]Mark{}
	for name, s := range p.Domain.Standings() {
		stores[name] = MarkOf(s)
	}
	boot := p.Boot.Status()
	text, err := json.Marshal([]any{MarkOf(p.Standing()), stores, boot.State, boot.Code, also})
	if err != nil {
		return "" // never the same as another
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
