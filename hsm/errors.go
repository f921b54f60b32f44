package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// The errors that callers act on; test for them with [errors.Is].
var (
	// ErrUnavailable: the token is lost and is being opened anew.
	ErrUnavailable = errors.New("the token is not available")
	// ErrPINRefused: the token did not take the PIN. It is not tried again.
	ErrPINRefused = errors.New("the token refuses the PIN")
	// ErrNotFound: there is no such module, token or key object. An operation with a
	// key gives it only if the token is there and has no such key object: from a
	// token that is away comes [ErrUnavailable], and never both.
	ErrNotFound = errors.New("not found in the token")
	// ErrOwnKey: the key object is the token's master key or probe key, which is
	// never destroyed.
	ErrOwnKey = errors.New("the master key and the probe key are never destroyed")
	// ErrExists: there is a key object of that label already.
	ErrExists = errors.New("exists in the token already")
	// ErrAmbiguous: two tokens or key objects have the label.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrNoDataObjects: the token does not let its user make data objects (CKO_DATA).
	ErrNoDataObjects = errors.New("the token does not take data objects (CKO_DATA)")
	// ErrDecrypt: the ciphertext does not authenticate.
	ErrDecrypt = errors.New("the ciphertext does not authenticate")
	// errUnclear is [ErrDecrypt], or a failure of the token: its return value says both.
	errUnclear = fmt.Errorf("%w, or the token has failed", ErrDecrypt)
	// ErrClosed: the token was closed.
	ErrClosed = errors.New("the token is closed")
)

// Error is a failure that the PKCS#11 module reported. Reach it with
// [errors.As].
type Error struct {
	// Op is the PKCS#11 function, such as C_Encrypt.
	Op string
	// Name and Code are the return value, such as CKR_DEVICE_REMOVED, 0x32
	// (PKCS#11 v2.40 base specification, section 5.1).
	Name string
	Code uint
	Err  error
}

func (e *Error) Error() string { return e.Op + ": " + e.Name }

// Unwrap gives the error of the PKCS#11 binding.
func (e *Error) Unwrap() error { return e.Err }

// away gives the error of a token that could not be opened. The cause remains as
// text alone: what was not found while the token was opened, such as the token
// itself, must not be taken for a key object that is not there.
func away(why error) error {
	if errors.Is(why, ErrUnavailable) {
		return why
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, why)
}

// wrap gives an error of the binding its function and its CKR_ name; other
// errors pass with the function's name.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var p pkcs11.Error
	if !errors.As(err, &p) {
		return fmt.Errorf("%s: %w", op, err)
	}
	name := p.Error()
	if i := strings.LastIndex(name, ": "); i >= 0 && name[i+2:] != "" {
		name = name[i+2:]
	} else {
		name = fmt.Sprintf("CKR_VENDOR_DEFINED 0x%X", uint(p))
	}
	return &Error{Op: op, Name: name, Code: uint(p), Err: err}
}

// code gives the return value in the chain of err; false if there is none.
func code(err error) (uint, bool) {
	var p pkcs11.Error
	if errors.As(err, &p) {
		return uint(p), true
	}
	return 0, false
}

func codeIn(err error, codes ...uint) bool {
	got, ok := code(err)
	if !ok {
		return false
	}
	for _, c := range codes {
		if got == c {
			return true
		}
	}
	return false
}

// sessionLost: the session is gone, and maybe more.
func sessionLost(err error) bool {
	return codeIn(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED)
}

// tokenLost: the token must be opened anew.
func tokenLost(err error) bool {
	return codeIn(err, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_DEVICE_ERROR)
}

// handleStale: the key object's handle is not valid any more.
func handleStale(err error) bool {
	return codeIn(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID)
}

// dataRefused: the token takes no such object, now or later.
func dataRefused(err error) bool {
	return codeIn(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_ACTION_PROHIBITED, pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID,
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TOKEN_WRITE_PROTECTED)
}

// pinRefused: another attempt with the same PIN can only do harm.
func pinRefused(err error) bool {
	return codeIn(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_INVALID,
		pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_USER_PIN_NOT_INITIALIZED)
}
