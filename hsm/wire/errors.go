package wire

import (
	"encoding/json"
	"errors"
	"slices"
)

// Class is what callers act on in an error. It is the error itself, for [errors.Is].
type Class string

// Error implements error.
func (c Class) Error() string { return string(c) }

// The classes.
const (
	// Lost: the token does not work any more in this process.
	Lost Class = "the token is not available"
	// PINRefused: the token did not take the PIN.
	PINRefused Class = "the token refuses the PIN"
	// PINWrong: the token was given the PIN, and says that it is another.
	PINWrong Class = "the PIN is wrong"
	// NotFound: there is no such module, token or object.
	NotFound Class = "not found in the token"
	// Exists: there is an object of that label already.
	Exists Class = "exists in the token already"
	// Ambiguous: two tokens or key objects have the label.
	Ambiguous Class = "ambiguous"
	// NoDataObjects: the token does not take data objects.
	NoDataObjects Class = "the token does not take data objects (CKO_DATA)"
	// NotAuthentic: the ciphertext does not authenticate.
	NotAuthentic Class = "the ciphertext does not authenticate"
	// NoMechanism: the token lacks a mechanism that is needed.
	NoMechanism Class = "the token lacks a mechanism that is needed"
	// NotBegun: the call waited for a session until its time was over.
	NotBegun Class = "no session is free"
)

var classes = []Class{Lost, PINRefused, PINWrong, NotFound, Exists, Ambiguous, NoDataObjects, NotAuthentic, NoMechanism, NotBegun}

// Error is a failure that the PKCS#11 module reported. Reach it with [errors.As].
type Error struct {
	// Op is the PKCS#11 function, such as C_Encrypt.
	Op string `json:"function"`
	// Name and Code are the return value, such as CKR_DEVICE_REMOVED, 0x32
	// (PKCS#11 v2.40 base specification, section 5.1).
	Name string `json:"name"`
	Code uint   `json:"code"`
}

func (e *Error) Error() string { return e.Op + ": " + e.Name }

// failure is an error of the other side.
type failure struct {
	Text    string  `json:"text"`
	Classes []Class `json:"classes,omitempty"`
	Value   *Error  `json:"return_value,omitempty"`
}

func (f *failure) Error() string { return f.Text }

// Is implements what [errors.Is] looks at.
func (f *failure) Is(target error) bool {
	c, ok := target.(Class)
	return ok && slices.Contains(f.Classes, c)
}

// As implements what [errors.As] looks at.
func (f *failure) As(target any) bool {
	e, ok := target.(**Error)
	if ok && f.Value != nil {
		*e = f.Value
	}
	return ok && f.Value != nil
}

// failed gives the message of an error.
func failed(err error) Message {
	f := failure{Text: err.Error()}
	for _, c := range classes {
		if errors.Is(err, c) {
			f.Classes = append(f.Classes, c)
		}
	}
	f.Value, _ = errors.AsType[*Error](err)
	text, err := json.Marshal(f)
	if err != nil { // it is text and numbers
		panic(err)
	}
	return Message{Kind: byte(Failed), Fields: [][]byte{text}}
}

// failureOf reads the error of an answer.
func failureOf(m Message) error {
	f := &failure{}
	if len(m.Fields) != 1 || json.Unmarshal(m.Fields[0], f) != nil || f.Text == "" {
		return &Broken{Err: ErrFrame}
	}
	return f
}
