package xks

import (
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// errorName is an error of the specification's table "Error codes".
type errorName string

const (
	validationException           errorName = "ValidationException"
	invalidStateException         errorName = "InvalidStateException"
	invalidCiphertextException    errorName = "InvalidCiphertextException"
	invalidKeyUsageException      errorName = "InvalidKeyUsageException"
	authenticationFailedException errorName = "AuthenticationFailedException"
	accessDeniedException         errorName = "AccessDeniedException"
	keyNotFoundException          errorName = "KeyNotFoundException"
	invalidURIPathException       errorName = "InvalidUriPathException"
	throttlingException           errorName = "ThrottlingException"
	unsupportedOperationException errorName = "UnsupportedOperationException"
	dependencyTimeoutException    errorName = "DependencyTimeoutException"
	internalException             errorName = "InternalException"
)

// statusOf is the HTTP status code of each error, from the same table.
var statusOf = map[errorName]int{
	validationException:           http.StatusBadRequest,
	invalidStateException:         http.StatusBadRequest,
	invalidCiphertextException:    http.StatusBadRequest,
	invalidKeyUsageException:      http.StatusBadRequest,
	authenticationFailedException: http.StatusUnauthorized,
	accessDeniedException:         http.StatusForbidden,
	keyNotFoundException:          http.StatusNotFound,
	invalidURIPathException:       http.StatusNotFound,
	throttlingException:           http.StatusTooManyRequests,
	unsupportedOperationException: http.StatusNotImplemented,
	dependencyTimeoutException:    http.StatusServiceUnavailable,
	internalException:             http.StatusInternalServerError,
}

// raised are the codes of the errors that this package raises itself.
var raised = map[errorName]fault.Code{
	validationException:           fault.Invalid,
	authenticationFailedException: fault.Unauthenticated,
	invalidURIPathException:       fault.NotFound,
	unsupportedOperationException: fault.TooLarge,
	internalException:             fault.Internal,
}

// apiError is an error as the caller sees it, with its cause for the log.
type apiError struct {
	name    errorName
	status  int    // if not statusOf[name]
	message string // for the caller
	// reference, in the message and in the log's line, joins the two; empty if the
	// message says all.
	reference string
	cause     error // for the log alone
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.message + ": " + e.cause.Error()
	}
	return e.message
}

func (e *apiError) statusCode() int {
	if e.status != 0 {
		return e.status
	}
	return statusOf[e.name]
}

// Unwrap gives what the error is to the domain, so that an outcome counts it right.
func (e *apiError) Unwrap() error {
	if _, ok := errors.AsType[*fault.Fault](e.cause); ok {
		return e.cause
	}
	return &fault.Fault{Code: raised[e.name], Message: e.message, Err: e.cause}
}

func fail(name errorName, message string) *apiError { return &apiError{name: name, message: message} }

// unfulfilled is what the caller learns of most internal errors.
const unfulfilled = "the request could not be fulfilled"

// failed is an internal error: the caller learns a reference, which finds the line
// of the log with the cause.
func failed(what string, cause error) *apiError {
	reference := fault.NewReference()
	return &apiError{name: internalException, reference: reference, cause: cause,
		message: what + "; the appliance's log says why, in the line with reference=" + reference}
}

func authenticationFailed(cause error) error {
	return &apiError{name: authenticationFailedException, message: messages[authenticationFailedException], cause: cause}
}

// messages are what the caller learns of the domain's errors, by their name. Of any
// other it learns that a parameter is not supported.
var messages = map[errorName]string{
	authenticationFailedException: "the request could not be authenticated by its signature",
	keyNotFoundException:          "the external key does not exist",
	invalidStateException:         "the external key is not enabled",
	accessDeniedException:         "no grant allows the operation",
	invalidKeyUsageException:      "the external key does not support the operation",
	invalidCiphertextException:    "the ciphertext, its metadata, initialization vector, authentication tag or additional authenticated data are not as they were encrypted",
	throttlingException:           "the request rate exceeds the key store's quota",
	dependencyTimeoutException:    "a part that the appliance depends on did not answer in time",
}

// nameOf gives the specification's name of any error, and the HTTP status.
func nameOf(err error) (errorName, int) {
	if own, ok := err.(*apiError); ok {
		return own.name, own.statusCode()
	}
	name := errorName(fault.CodeOf(err).Entry().XKS)
	if name == "" {
		name = internalException
	}
	return name, statusOf[name]
}

// answerTo puts any error into the specification's terms: one of this package as it
// is, one of the domain by the name that the registry has for its code. It is the one
// place that does. What is of no concern to the caller stays in the log. Call it once
// for each answer: it may make a reference.
func answerTo(err error) *apiError {
	if own, ok := err.(*apiError); ok {
		return own
	}
	name, _ := nameOf(err)
	f, ok := errors.AsType[*fault.Fault](err)
	switch {
	case ok && f.Code == fault.Locked:
		return &apiError{name: internalException, message: f.Message, cause: err}
	case name == internalException && errors.Is(err, appliance.ErrNotRecorded):
		return failed(f.Message, err)
	case name == internalException:
		return failed(unfulfilled, err)
	case ok && f.Code == fault.TooLarge:
		return &apiError{name: name, message: f.Message, cause: err}
	}
	message, ok := messages[name]
	if !ok {
		message = "a parameter of the request is not supported"
	}
	return &apiError{name: name, message: message, cause: err}
}

// errorBody is the body of an error answer (spec, Error codes).
type errorBody struct {
	ErrorName    errorName `json:"errorName"`
	ErrorMessage string    `json:"errorMessage,omitempty"`
}

// maxErrorMessage is one less than 512 (spec, Error codes).
const maxErrorMessage = 511

// body is the body of the answer.
func (e *apiError) body() []byte {
	body, _ := json.Marshal(errorBody{e.name, printable(e.message)}) // two strings always encode
	return body
}

// printable keeps to printable ASCII and the permitted length.
func printable(s string) string {
	if len(s) <= maxErrorMessage && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return s
	}
	b := []byte(s)
	if len(b) > maxErrorMessage {
		b = b[:maxErrorMessage]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
