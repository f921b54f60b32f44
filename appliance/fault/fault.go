// Package fault has the one type of error that leaves the packages of the
// product, and the registry of all codes. It imports nothing of the product, so
// every package may use it.
//
// A code stands in the registry once, with its class, a sentence, what to do, the
// HTTP status, the exit code and the XKS error name. Packages raise codes by the
// constants of this package and declare none of their own; a test reads the whole
// source and asks for that. docs/codes.md is made from the registry.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code says what kind of failure a [Fault] is. Codes are stable: programs may rely
// on them.
type Code string

// Fault is an error with a code.
type Fault struct {
	// Code is the kind of failure.
	Code Code
	// Also are further codes, where several things are wrong at once.
	Also []Code
	// Message is one printable line that may be shown to the caller.
	Message string
	// Reference finds the line of the log that has the cause; empty if there is none.
	Reference string
	// RetryAfter is how long to wait before another attempt; zero if that is not known.
	RetryAfter time.Duration
	// Err is the cause, for the log alone; nil if there is none.
	Err error
}

// Error gives the codes, the message and the cause. It is for logs: show a caller
// only the Message.
func (f *Fault) Error() string { return f.Codes() + ": " + f.Reason() }

// Reason gives the message and the cause, without the code: for places that show
// the code beside it.
func (f *Fault) Reason() string {
	switch cause := f.Err.(type) {
	case nil:
		return f.Message
	case *Fault:
		return f.Message + ": " + cause.Reason()
	default:
		return f.Message + ": " + cause.Error()
	}
}

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Codes gives all codes, with commas between.
func (f *Fault) Codes() string {
	all := string(f.Code)
	for _, c := range f.Also {
		all += "," + string(c)
	}
	return all
}

// Class gives the class. Of several codes each must be of [TryAgain] for the whole
// to be so; otherwise the first code that is not decides.
func (f *Fault) Class() Class {
	for _, c := range append([]Code{f.Code}, f.Also...) {
		if class := c.Entry().Class; class != TryAgain {
			return class
		}
	}
	return TryAgain
}

// Errorf makes a Fault of the code, with a message and no cause.
func Errorf(code Code, format string, args ...any) *Fault {
	return &Fault{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrapf makes a Fault of the code, with a message and a cause.
func Wrapf(code Code, cause error, format string, args ...any) *Fault {
	return &Fault{Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// Decoded makes a Fault of what another process told: its codes, with commas
// between, and its message.
func Decoded(codes, message string) *Fault {
	f := &Fault{Message: message}
	for i, c := range strings.Split(codes, ",") {
		if i == 0 {
			f.Code = Code(c)
		} else {
			f.Also = append(f.Also, Code(c))
		}
	}
	return f
}

// CodeOf gives the code of the first [*Fault] in the chain of err,
// [Internal] when there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var f *Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return Internal
}

// ClassOf gives the class of err: that of the first [*Fault] in its chain,
// [ClassInternal] when there is none, and "" for nil.
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	var f *Fault
	if errors.As(err, &f) {
		return f.Class()
	}
	return ClassInternal
}

// ReasonOf gives what is wrong without the code: the Reason of a [*Fault], or what
// another error says.
func ReasonOf(err error) string {
	if f, ok := err.(*Fault); ok {
		return f.Reason()
	}
	return err.Error()
}
