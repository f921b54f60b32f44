package ownership

import (
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/launch"
	"holdfast/attest/owner"
)

// given is what the launch document is called that is to be installed.
const given = "the request"

// Check says why a launch document must not be the one of the next start, and writes
// nothing: its owner has not signed it, or is another than this machine's; it is older than
// the one that the machine has, had or keeps for its next start; or this image does not take
// what it sets. It gives what the document is. Errors: [*fault.Fault] with the code that the
// next start would be locked with; fault.Conflict where no launch file is taken.
func (m Machine) Check(document []byte) (Owned, error) {
	if !m.Image.Launch.Required {
		return Owned{}, notAsked()
	}
	if m.Closed {
		return Owned{}, fault.Errorf(fault.Conflict, "the state volume is not open, and it has what this machine remembers of its owner; open it first")
	}
	known, err := m.recall()
	if err != nil {
		return Owned{}, unusable(err, given)
	}
	o, err := m.open(document, given, known, m.place)
	if err != nil {
		return Owned{}, unusable(err, given)
	}
	if kept := m.kept(known); kept != nil {
		if err := kept.ID().CheckNext(o.Launch.ID()); err != nil {
			return Owned{}, fault.Errorf(fault.LaunchVersion, "the launch file is refused: %s", err)
		}
	}
	return o, nil
}

// Preview gives the configuration that this machine would start with by a launch file, signed or
// not, and writes nothing. Errors: fault.LaunchFile if the machine cannot use it, fault.Conflict
// where no launch file is taken.
func (m Machine) Preview(file []byte) (*config.Config, error) {
	if !m.Image.Launch.Required {
		return nil, notAsked()
	}
	f, err := launch.Parse("launch file", file)
	if err != nil {
		return nil, unusable(err, given)
	}
	c, err := m.apply(f, m.place)
	if err != nil {
		return nil, unusable(err, given)
	}
	return c, nil
}

func notAsked() *fault.Fault {
	return fault.Errorf(fault.Conflict, "this image asks for no launch file: what it sets stands in its configuration")
}

// place says where a certificate would be, and writes none.
func (m Machine) place(name string, _ []byte) (string, error) {
	return m.Image.LaunchCertificate(name), nil
}

// Install has the document be the one of the next start, if [Machine.Check] has nothing
// against it. The machine remembers it when it has taken it.
func (m Machine) Install(document []byte) (Owned, error) {
	o, err := m.Check(document)
	if err != nil {
		return o, err
	}
	if err := m.Write(m.stored(), document); err != nil {
		return Owned{}, fault.Wrapf(fault.Internal, err, "%s cannot be written", m.stored())
	}
	return o, nil
}

// Next is what the next start would find in the folder; its Why says why that would not
// count. It is empty if nothing is there.
func (m Machine) Next() Owned {
	document, err := readFile(m.stored())
	if err != nil {
		return Owned{}
	}
	known, err := m.recall()
	if err != nil {
		return Owned{Why: unusable(err, m.stored())}
	}
	o, err := m.open(document, m.stored(), known, m.place)
	if err != nil {
		return Owned{Why: unusable(err, m.stored())}
	}
	return o
}

// kept is the launch file in the folder, if it is one that this machine would take; nil
// otherwise: what is damaged there, or a stranger's, gives way to any that counts.
func (m Machine) kept(known *memory) *owner.Launch {
	document, err := readFile(m.stored())
	if err != nil {
		return nil
	}
	l, _, err := owner.ParseDocument(document)
	if err != nil || known.mayReplace(l, m.stored()) != nil {
		return nil
	}
	return l
}
