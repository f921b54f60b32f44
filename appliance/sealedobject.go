package appliance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"

	"holdfast/appliance/fault"
)

// ObjectPurpose says what a sealed object in the HSM's token is for.
type ObjectPurpose string

// The purposes.
const (
	// ObjectInstallation: it names the owner of an installation ([InstallationObject]).
	ObjectInstallation ObjectPurpose = "installation"
	// ObjectPosition: it says how far the log of a fleet goes at least.
	ObjectPosition ObjectPurpose = "position"
	// ObjectReliance: it says that a node of a fleet may be serving by what is in the token.
	ObjectReliance ObjectPurpose = "reliance"
)

// Reach says how many HSMs of a cluster an operation with sealed objects must reach. A
// single HSM is all there are.
type Reach int

// The reaches.
const (
	// ReachAny: at least one.
	ReachAny Reach = iota
	// ReachMost: more than half of those that are configured. Of two such operations at
	// least one HSM has seen both, so the second sees what the first has written.
	ReachMost
)

// SealedObject is a data object of Holdfast in the HSM's token (CKO_DATA). It is sealed
// under the state key of its installation: who has a session in the token and not the rows
// cannot make one that counts, also with the PIN. Who has the PIN can remove it.
type SealedObject struct {
	Purpose      ObjectPurpose
	Installation string
	// Fields are what it says, in the order that its purpose gives them.
	Fields []string
	Seal   []byte

	// Label and Value are the object's, as it is in the token.
	Label string
	Value []byte
}

// Binding names the object with all that it says.
func (o *SealedObject) Binding() Binding {
	return Binding{Purpose: string(o.Purpose) + "-object", Fields: append([]string{o.Installation}, o.Fields...)}
}

// MaxTokenLabel is the length of the labels of all objects that Holdfast makes in the token,
// in bytes, but for the master key's and the probe key's, which are shorter. Some HSMs take no
// more than 32. One less leaves room for the NUL of a library in C, and has a sealed label differ
// in its length from a sealed key ([CachedMaterial]).
const MaxTokenLabel = 31

// NewTokenLabel gives a label of that length for a new object in the token: how it begins, and
// random small letters and digits, each of five bits. Upper and lower case make no difference:
// some HSMs search for labels without.
func NewTokenLabel(begins string) string {
	return begins + strings.ToLower(rand.Text())[:max(MaxTokenLabel-len(begins), 0)]
}

// NewSealedObject seals an object for the token. Each has a label of its own, so an object
// that was removed never comes back, also if two calls overtake each other in the HSM.
func NewSealedObject(ring Keyring, purpose ObjectPurpose, installation string, fields ...string) (*SealedObject, error) {
	o := &SealedObject{Purpose: purpose, Installation: installation, Fields: fields, Label: NewTokenLabel("holdfast-" + string(purpose) + "-")}
	var err error
	if o.Seal, err = ring.Seal(o.Binding(), nil); err != nil {
		return nil, err
	}
	o.Value, err = json.Marshal(o.stored())
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the %s object cannot be written", purpose)
	}
	return o, nil
}

// storedObject is the value of an object in the token. An installation object has names
// for its fields and no purpose, as earlier releases wrote it.
type storedObject struct {
	Purpose      ObjectPurpose `json:"purpose,omitempty"`
	Installation string        `json:"installation"`
	Fields       []string      `json:"fields,omitempty"`
	Incarnation  string        `json:"incarnation,omitempty"`
	Epoch        uint64        `json:"epoch,omitempty"`
	Start        uint64        `json:"start,omitempty"`
	Run          string        `json:"run,omitempty"`
	Seal         []byte        `json:"seal"`
}

func (o *SealedObject) stored() storedObject {
	s := storedObject{Purpose: o.Purpose, Installation: o.Installation, Fields: o.Fields, Seal: o.Seal}
	if o.Purpose == ObjectInstallation {
		i := readInstallationObject(o)
		s.Purpose, s.Fields, s.Incarnation, s.Epoch, s.Start, s.Run = "", nil, i.Incarnation, i.Epoch, i.Start, i.Run
	}
	return s
}

// ParseSealedObject reads an object as it is in the token; nobody has looked at its seal.
// One that cannot be read is an installation object that says nothing: a trace of an
// installation all the same.
func ParseSealedObject(label string, value []byte) *SealedObject {
	var s storedObject
	if err := json.Unmarshal(value, &s); err != nil {
		s = storedObject{}
	}
	o := &SealedObject{Purpose: s.Purpose, Installation: s.Installation, Fields: s.Fields, Seal: s.Seal, Label: label, Value: value}
	if s.Purpose == "" || s.Purpose == ObjectInstallation {
		i := InstallationObject{Incarnation: s.Incarnation, Epoch: s.Epoch, Start: s.Start, Run: s.Run}
		o.Purpose, o.Fields = ObjectInstallation, i.fields()
	}
	return o
}

// ReadSealedObjects gives the objects of an installation that have one of the purposes and
// match their seal. One that does not match counts for nothing, and tell is called with it.
func ReadSealedObjects(ctx context.Context, ring Keyring, installation string, reach Reach, tell func(*SealedObject), purposes ...ObjectPurpose) (all []*SealedObject, err error) {
	found, err := ring.SealedObjects(ctx, reach)
	if err != nil {
		return nil, err
	}
	for _, o := range found {
		if o.Installation != installation || !slices.Contains(purposes, o.Purpose) {
			continue
		}
		switch err := ring.Verify(o.Binding(), o.Seal); fault.CodeOf(err) {
		case "":
			all = append(all, o)
		case fault.Tampered:
			tell(o)
		default:
			return nil, err
		}
	}
	return all, nil
}

// TellUnsealed says in a log that an object counts for nothing.
func TellUnsealed(log *slog.Logger, o *SealedObject) {
	log.Error("a data object in the HSM does not match its seal, and counts for nothing", "purpose", string(o.Purpose), "object", o.Label)
}
