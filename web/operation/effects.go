package operation

import (
	"reflect"
	"strings"
)

// Effects say what an operation can do to the people and services that rely on the
// appliance. An entry of the table states them; its [Guards] are derived from them, so that no
// operation is guarded by an opinion of its own.
type Effects uint16

// The effects. [ShowsSecret] and [TakesSecret] are derived from the types of answer and input;
// no entry states them.
const (
	// StopsService operations can have requests of KMS refused that were answered before.
	StopsService Effects = 1 << iota
	// EndsBlock operations put back into service what was blocked in an emergency.
	EndsBlock
	// GivesAccess operations let a caller of KMS, or a user, do what they could not.
	GivesAccess
	// TakesAccess operations take that away.
	TakesAccess
	// Destroys operations remove something for good.
	Destroys
	// Decides operations change who decides: users, roles, tokens, or whose state counts.
	Decides
	// SetsGuards operations change which operations ask for a second person.
	SetsGuards
	// Identifies operations change what the appliance shows itself by: its certificate.
	Identifies
	// Leaves operations give what is stored out of the appliance.
	Leaves
	// EndsWarning operations have a user warned of something no more.
	EndsWarning
	// ShowsSecret operations answer with a secret, once.
	ShowsSecret
	// TakesSecret operations are given a secret, such as the material of a key.
	TakesSecret

	allEffects = iota
)

// effectWords say each effect in words, in the order of the constants.
var effectWords = [allEffects]string{"stops service", "ends a block", "gives access", "takes access away", "destroys", "changes who decides", "changes the guards",
	"changes the appliance's certificate", "data leaves the appliance", "ends a warning", "shows a secret", "takes a secret"}

// Words are the effects in words, in the order of the constants.
func (e Effects) Words() (words []string) {
	for i, w := range effectWords {
		if e&(1<<i) != 0 {
			words = append(words, w)
		}
	}
	return words
}

func (e Effects) String() string { return strings.Join(e.Words(), ", ") }

// Can says whether at least one of the effects is among them.
func (e Effects) Can(some Effects) bool { return e&some != 0 }

// Can gives all effects of the operation: those that its entry states, and those that follow
// from its types.
func (r *Route) Can() Effects {
	e := r.Effects
	if r.ShowsSecret() && r.Changes() && r.answer != reflect.TypeFor[ApprovalDetail]() { // which may carry another operation's
		e |= ShowsSecret
	}
	if r.secretMember != nil && r.Changes() && r.input.FieldByIndex(r.secretMember.index).Tag.Get(againTag) == "" {
		e |= TakesSecret
	}
	return e
}

// Guards are what an operation asks of its caller before it is done.
type Guards struct {
	// Presence: a caller in a session needs a proof, not older than [PresenceTime], that they
	// are present. The bearer of an API token is never present, and needs none.
	Presence bool
	// FourEyes: administrators may choose that it needs a second person's approval.
	FourEyes bool
	// WithAny: it needs a second person as soon as any operation does.
	WithAny bool
	// Confirmed: a mistake is costly, so that a person types the name of the thing first, in the
	// console and at a terminal; if the entry says ConfirmedIf, of those inputs.
	Confirmed bool
}

// Guards derives what the operation asks for from what it can do.
func (r *Route) Guards() Guards {
	e := r.Can()
	return Guards{
		Presence: e != 0,
		// What only takes access away can be given back, and must not wait for a second person.
		FourEyes:  e&^TakesAccess != 0 && r.Alone == "",
		WithAny:   e.Can(SetsGuards),
		Confirmed: e.Can(StopsService|EndsBlock|Destroys) || e.Can(TakesAccess) && e.Can(Decides) || r.ConfirmedIf != "",
	}
}

// Reasons why an operation is done without a second person ([Route.Alone]), of several.
const (
	ownAccount  = "it changes one's own account, which nobody else may decide about"
	secondPart  = "it is the second person's part, or what follows it"
	failingNode = "a node that fails is taken out of service at once, and the others go on serving"
)
