package fault

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"log/slog"
	"slices"
	"strings"
)

// referenceChars makes references of 10 characters: 50 bits, enough that no two
// lines of a log share one.
const referenceChars = 10

// NewReference makes a random reference: 10 characters of a-z and 2-7.
func NewReference() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:])[:referenceChars])
}

// Answer turns an error into what a caller may be told: a Fault without its cause.
// Where the class is [ClassInternal], the answer has a new Reference, also in its
// Message, and the error is logged in one line with that reference and the
// attributes; where says in the line who answers. An error that has a reference was
// logged when it got that.
func Answer(ctx context.Context, log *slog.Logger, where string, err error, attrs ...any) *Fault {
	f := &Fault{Code: Internal}
	if known, ok := errors.AsType[*Fault](err); ok {
		f = &Fault{Code: known.Code, Also: known.Also, Message: known.Message, Reference: known.Reference, RetryAfter: known.RetryAfter}
	}
	if f.Class() != ClassInternal || f.Reference != "" {
		return f
	}
	f.Reference = NewReference()
	f.Message = referTo(f.Message, f.Reference)
	log.ErrorContext(ctx, where, append(slices.Clone(attrs), "reference", f.Reference, "error", err)...)
	return f
}

// referTo says in a message where the cause is.
func referTo(message, reference string) string {
	if message == "" {
		message = "internal error"
	}
	return message + "; the log says why, in the line with reference=" + reference
}
