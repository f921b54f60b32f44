package fault

import (
	"net/http"
	"slices"
)

// Class says what a caller can do about a failure.
type Class string

// The classes.
const (
	// Refused: it is not allowed, or what was given is not acceptable. The same again
	// fails again.
	Refused Class = "refused"
	// TryAgain: the same again may succeed, as something is busy or away.
	TryAgain Class = "try again"
	// ClassStale: it was decided on a state that has changed since. Read it again.
	ClassStale Class = "stale"
	// WrongState: the state of the thing forbids it. Something else must be done first.
	WrongState Class = "wrong state"
	// ClassInternal: the product, or something that it depends on, failed. The log has
	// the cause.
	ClassInternal Class = "internal"
)

// Classes gives all classes.
func Classes() []Class { return []Class{Refused, TryAgain, ClassStale, WrongState, ClassInternal} }

// Entry is what the registry has of a code.
type Entry struct {
	Code  Code
	Class Class
	// Title is one sentence: what happened.
	Title string
	// Do is what to do. Commands stand between backquotes.
	Do string
	// Status is the HTTP status, Exit the exit code of a command.
	Status, Exit int
	// XKS is the error name of the XKS specification; empty where AWS KMS cannot see
	// the code.
	XKS string
}

// statusOf is the HTTP status of codes that have no other.
var statusOf = map[Class]int{
	Refused:       http.StatusForbidden,
	TryAgain:      http.StatusServiceUnavailable,
	ClassStale:    http.StatusPreconditionFailed,
	WrongState:    http.StatusConflict,
	ClassInternal: http.StatusInternalServerError,
}

// failedExit is the exit code of a command that was refused or failed, for codes
// that have no other.
const failedExit = 1

// chapters are the tables, in the order of the document.
var chapters = []struct {
	name  string
	codes []Entry
}{
	{"The admin API and the domain", apiCodes},
	{"The boot", bootCodes},
	{"The launch file", launchCodes},
	{"The state volume", volumeCodes},
	{"The state", stateCodes},
	{"What the TPM has sealed", sealCodes},
	{"The count of changes in the TPM", anchorCodes},
	{"A fleet and its database", fleetCodes},
	{"The broker", brokerCodes},
	{"Checks of the evidence as a whole", evidenceCodes},
	{"What a verifier has of its own", endorsementCodes},
	{"Checks of the SEV-SNP report", snpCodes},
	{"Checks of the TPM's quote", tpmCodes},
	{"Checks of the NitroTPM document", nitroCodes},
	{"Checks of EC2's instance identity document", instanceCodes},
	{"The audit log", auditCodes},
}

var registry = func() map[Code]Entry {
	m := map[Code]Entry{}
	for _, c := range chapters {
		for i := range c.codes {
			e := &c.codes[i]
			if e.Status == 0 {
				e.Status = statusOf[e.Class]
			}
			if e.Exit == 0 {
				e.Exit = failedExit
			}
			m[e.Code] = *e
		}
	}
	return m
}()

// Entry gives what the registry has of the code. Of a code that is not in it, such
// as one of another release, it gives what is known: that it was refused.
func (c Code) Entry() Entry {
	if e, ok := registry[c]; ok {
		return e
	}
	return Entry{Code: c, Class: Refused, Title: "A code that this release does not know.",
		Do: "Look it up in the documentation of the release that gave it.", Status: http.StatusForbidden, Exit: failedExit}
}

// Registered says whether the code is in the registry.
func (c Code) Registered() bool {
	_, ok := registry[c]
	return ok
}

// All gives the registry, in the order of the document.
func All() []Entry {
	var all []Entry
	for _, c := range chapters {
		all = append(all, slices.Clone(c.codes)...)
	}
	return all
}
