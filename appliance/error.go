package appliance

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an [Error] is. The faces of the product map it
// to their own terms: xks to the specification's error names, web to HTTP
// status codes, the command line to exit codes.
type Code string

// The codes, and when an operation returns each.
const (
	// CodeInvalid: an argument is malformed or out of range.
	CodeInvalid Code = "invalid"
	// CodeNotFound: the named thing does not exist.
	CodeNotFound Code = "not_found"
	// CodeExists: a thing of that name exists already.
	CodeExists Code = "exists"
	// CodeConflict: the thing exists, but its state forbids the operation.
	CodeConflict Code = "conflict"
	// CodeUnauthenticated: it is not proven who asks.
	CodeUnauthenticated Code = "unauthenticated"
	// CodeForbidden: an administrator's role does not allow it.
	CodeForbidden Code = "forbidden"
	// CodeDenied: no grant allows the operation.
	CodeDenied Code = "denied"
	// CodeKeyUsage: the key's usage does not include the operation.
	CodeKeyUsage Code = "key_usage"
	// CodeCiphertext: the ciphertext does not authenticate.
	CodeCiphertext Code = "ciphertext"
	// CodeThrottled: the key store's quota is used up.
	CodeThrottled Code = "throttled"
	// CodeTooLarge: a value exceeds what this implementation supports.
	CodeTooLarge Code = "too_large"
	// CodeTimeout: the HSM or the database did not answer in time.
	CodeTimeout Code = "timeout"
	// CodeLocked: the keyring is locked; no key can be used.
	CodeLocked Code = "locked"
	// CodeTampered: a stored row does not match its seal.
	CodeTampered Code = "tampered"
	// CodeGone: the HSM is there and has no key object for a key version in its
	// custody.
	CodeGone Code = "gone"
	// CodeInternal: anything else.
	CodeInternal Code = "internal"
)

// Error is the one error type that leaves this package.
type Error struct {
	// Code is the kind of failure.
	Code Code
	// Message is one printable line that may be shown to the caller.
	Message string
	// Err is the cause, for the log alone; nil if there is none.
	Err error
}

// Error gives the message and the cause. It is for logs: show a caller only
// the Message.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of the code, with a message and no cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// wrapf makes an Error of the code, with a message and a cause.
func wrapf(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// CodeOf gives the code of the first [*Error] in the chain of err,
// [CodeInternal] when there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
