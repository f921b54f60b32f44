package hsm

import (
	"errors"
	"fmt"

	"holdfast/hsm/wire"
)

// The errors that callers act on; test for them with [errors.Is].
var (
	// ErrUnavailable: the token is lost and is being opened anew.
	ErrUnavailable error = wire.Lost
	// ErrPINRefused: the token did not take the PIN. It is not tried again.
	ErrPINRefused error = wire.PINRefused
	// ErrPINWrong: the token was given the PIN, and says that it is another. It is ErrPINRefused as well.
	ErrPINWrong error = wire.PINWrong
	// ErrNotFound: there is no such module, token or key object. An operation with a
	// key gives it only if the token is there and has no such key object: from a
	// token that is away comes [ErrUnavailable], and never both.
	ErrNotFound error = wire.NotFound
	// ErrOwnKey: the key object is the token's master key or probe key, which is
	// never destroyed.
	ErrOwnKey = errors.New("the master key and the probe key are never destroyed")
	// ErrExists: there is a key object of that label already.
	ErrExists error = wire.Exists
	// ErrAmbiguous: two tokens or key objects have the label.
	ErrAmbiguous error = wire.Ambiguous
	// ErrNoDataObjects: the token does not let its user make data objects (CKO_DATA).
	ErrNoDataObjects error = wire.NoDataObjects
	// ErrNoMechanism: the token lacks a mechanism that is needed.
	ErrNoMechanism error = wire.NoMechanism
	// ErrDecrypt: the ciphertext does not authenticate.
	ErrDecrypt error = wire.NotAuthentic
	// ErrClosed: the token was closed.
	ErrClosed = errors.New("the token is closed")
)

// Error is a failure that the PKCS#11 module reported. Reach it with [errors.As].
type Error = wire.Error

// away gives the error of a token that could not be opened. The cause remains as
// text alone: what was not found while the token was opened, such as the token
// itself, must not be taken for a key object that is not there.
func away(why error) error {
	if errors.Is(why, ErrUnavailable) {
		return why
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, why)
}
