package operation

import (
	"context"
	"testing"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// chosenSettings have all operations need a second person, and fail by a code.
type chosenSettings struct {
	approval.Settings
	value string
	code  fault.Code
}

func (s chosenSettings) Setting(context.Context, string) (string, error) {
	if s.code == "" {
		return s.value, nil
	}
	return s.value, fault.Errorf(s.code, "a test")
}

// held is a domain whose state is held.
type held struct{ notHeld }

func (held) Held() error { return fault.Errorf(fault.StateRolledBack, "a test") }

// TestEmergencyNeedsOnePerson: while the appliance is locked, or its state is held, nobody can
// approve, so one person does what can be done then. Of what can need a second person that is to
// block, and to give the machine what others have signed. While everything is blocked people approve as ever.
func TestEmergencyNeedsOnePerson(t *testing.T) {
	all := `{"operations":["` + Block.ID + `"`
	for _, r := range table {
		if r.Guards().FourEyes && r != Block.Entry() {
			all += `,"` + r.ID + `"`
		}
	}
	all += "]}"
	p, _ := quiet()
	somebody := identity.Principal{Name: "alice", UserID: "u", Role: identity.RoleAdministrator, Session: "s"}
	for name, state := range map[string]struct {
		code  fault.Code
		held  bool
		alone bool
	}{"serving, or blocked": {}, "locked": {code: fault.Locked, alone: true}, "held": {held: true, alone: true}} {
		p.Settings = chosenSettings{value: all, code: state.code}
		p.Domain = notHeld{}
		if state.held {
			p.Domain = held{}
		}
		for _, r := range table {
			if !r.Guards().FourEyes {
				continue
			}
			needs, err := p.As(somebody, "").NeedsApproval(t.Context(), r)
			alone := err == nil && !needs
			if want := state.alone && (r == Block.Entry() || r == InstallPolicy.Entry() || r == InstallLaunch.Entry()); alone != want {
				t.Errorf("%s, %s: one person does it alone: %t, want %t (%v)", name, r.ID, alone, want, err)
			}
		}
	}
	// What was chosen was changed in the database: everything needs two.
	p.Domain, p.Settings = notHeld{}, chosenSettings{value: `{"operations":[]}`, code: fault.Tampered}
	if needs, err := p.As(somebody, "").NeedsApproval(t.Context(), Block.Entry()); err != nil || !needs {
		t.Errorf("a setting that does not match its seal: %t, %v", needs, err)
	}
}
