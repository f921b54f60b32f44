// Package fault has the one type of error that leaves the packages of the
// product, and the codes that say what kind of failure it is. It imports nothing
// of the product, so every package may use it.
//
// The front ends map a code to their own terms: xks to the specification's error
// names, web to HTTP status codes, the command line to exit codes.
package fault

import (
	"errors"
	"fmt"
)

// Code says what kind of failure a [Fault] is.
type Code string

// The codes, and when an operation returns each.
const (
	// Invalid: an argument is malformed or out of range.
	Invalid Code = "invalid"
	// NotFound: the named thing does not exist.
	NotFound Code = "not_found"
	// Exists: a thing of that name exists already.
	Exists Code = "exists"
	// Conflict: the thing exists, but its state forbids the operation.
	Conflict Code = "conflict"
	// Unauthenticated: it is not proven who asks.
	Unauthenticated Code = "unauthenticated"
	// Forbidden: an administrator's role does not allow it.
	Forbidden Code = "forbidden"
	// Denied: no grant allows the operation.
	Denied Code = "denied"
	// KeyUsage: the key's usage does not include the operation.
	KeyUsage Code = "key_usage"
	// Ciphertext: the ciphertext does not authenticate.
	Ciphertext Code = "ciphertext"
	// Throttled: the key store's quota is used up.
	Throttled Code = "throttled"
	// TooLarge: a value exceeds what this implementation supports.
	TooLarge Code = "too_large"
	// Timeout: the HSM or the database did not answer in time.
	Timeout Code = "timeout"
	// Locked: the keyring is locked; no key can be used.
	Locked Code = "locked"
	// Tampered: a stored row does not match its seal.
	Tampered Code = "tampered"
	// Gone: the HSM is there and has no key object for a key version in its
	// custody.
	Gone Code = "gone"
	// Internal: anything else.
	Internal Code = "internal"
)

// Fault is an error with a code.
type Fault struct {
	// Code is the kind of failure.
	Code Code
	// Message is one printable line that may be shown to the caller.
	Message string
	// Err is the cause, for the log alone; nil if there is none.
	Err error
}

// Error gives the message and the cause. It is for logs: show a caller only
// the Message.
func (e *Fault) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Fault) Unwrap() error { return e.Err }

// Errorf makes a Fault of the code, with a message and no cause.
func Errorf(code Code, format string, args ...any) *Fault {
	return &Fault{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrapf makes a Fault of the code, with a message and a cause.
func Wrapf(code Code, cause error, format string, args ...any) *Fault {
	return &Fault{Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// CodeOf gives the code of the first [*Fault] in the chain of err,
// [Internal] when there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Fault
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
