package xks

import (
	"errors"
	"net/http"

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

// meanings are the HTTP status code of each error, from the same table, and the
// code of those that this package raises itself.
var meanings = map[errorName]struct {
	status int
	code   fault.Code
}{
	validationException:           {http.StatusBadRequest, fault.Invalid},
	invalidStateException:         {http.StatusBadRequest, fault.Conflict},
	invalidCiphertextException:    {http.StatusBadRequest, fault.Ciphertext},
	invalidKeyUsageException:      {http.StatusBadRequest, fault.KeyUsage},
	authenticationFailedException: {http.StatusUnauthorized, fault.Unauthenticated},
	accessDeniedException:         {http.StatusForbidden, fault.Denied},
	keyNotFoundException:          {http.StatusNotFound, fault.NotFound},
	invalidURIPathException:       {http.StatusNotFound, fault.NotFound},
	throttlingException:           {http.StatusTooManyRequests, fault.Throttled},
	unsupportedOperationException: {http.StatusNotImplemented, fault.TooLarge},
	dependencyTimeoutException:    {http.StatusServiceUnavailable, fault.Timeout},
	internalException:             {http.StatusInternalServerError, fault.Internal},
}

// apiError is an error as the caller sees it, with its cause for the log.
type apiError struct {
	name    errorName
	status  int    // if not that of its name
	message string // for the caller
	cause   error  // for the log alone
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
	return meanings[e.name].status
}

// Unwrap gives what the error is to the domain, so that an outcome counts it right.
func (e *apiError) Unwrap() error {
	if of := (*fault.Fault)(nil); errors.As(e.cause, &of) {
		return e.cause
	}
	return &fault.Fault{Code: meanings[e.name].code, Message: e.message, Err: e.cause}
}

func fail(name errorName, message string) *apiError { return &apiError{name: name, message: message} }

// The answers of which the caller learns nothing more.
const errInternal = "the request could not be fulfilled; the appliance's log says why"

const errUnauthenticated = "the request could not be authenticated by its signature"

func authenticationFailed(cause error) error {
	return &apiError{name: authenticationFailedException, message: errUnauthenticated, cause: cause}
}

// known are the domain's codes of which the caller learns something, with what.
var known = map[fault.Code]struct {
	name    errorName
	message string
}{
	fault.Unauthenticated: {authenticationFailedException, errUnauthenticated},
	fault.Throttled:       {throttlingException, "the request rate exceeds the key store's quota"},
	fault.Invalid:         {validationException, "a parameter of the request is not supported"},
	fault.NotFound:        {keyNotFoundException, "the external key does not exist"},
	fault.Denied:          {accessDeniedException, "no grant allows the operation"},
	fault.Conflict:        {invalidStateException, "the external key is not enabled"},
	fault.KeyUsage:        {invalidKeyUsageException, "the external key does not support the operation"},
	fault.Ciphertext:      {invalidCiphertextException, "the ciphertext, its metadata, initialization vector, authentication tag or additional authenticated data are not as they were encrypted"},
	fault.Timeout:         {dependencyTimeoutException, "a part that the appliance depends on did not answer in time"},
}

// answerTo puts any error into the specification's terms: one of this package as it
// is, one of the domain by its code. It is the one place that does. What is of no
// concern to the caller stays in the log.
func answerTo(err error) *apiError {
	if own, ok := err.(*apiError); ok {
		return own
	}
	e := &apiError{name: internalException, message: errInternal, cause: err}
	of := (*fault.Fault)(nil)
	if !errors.As(err, &of) {
		return e
	}
	if k, ok := known[of.Code]; ok {
		e.name, e.message = k.name, k.message
		return e
	}
	switch {
	case of.Code == fault.TooLarge:
		e.name, e.message = unsupportedOperationException, of.Message
	case of.Code == fault.Locked, errors.Is(err, appliance.ErrNotRecorded):
		e.message = of.Message
	}
	return e
}

// errorBody is the body of an error answer (spec, Error codes).
type errorBody struct {
	ErrorName    errorName `json:"errorName"`
	ErrorMessage string    `json:"errorMessage,omitempty"`
}

// maxErrorMessage is one less than 512 (spec, Error codes).
const maxErrorMessage = 511

// write answers with the error.
func (e *apiError) write(w http.ResponseWriter) {
	body, _ := json.Marshal(errorBody{e.name, printable(e.message)}) // two strings always encode
	writeJSON(w, e.statusCode(), body)
}

// printable keeps to printable ASCII and the permitted length.
func printable(s string) string {
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

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = jsonContentType
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone if this fails
}

var jsonContentType = []string{"application/json"}
