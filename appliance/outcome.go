package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// OpHealth is the operation that asks for the state of the HSMs. It concerns no
// key, so no grant allows or forbids it.
const OpHealth Operation = "GetHealth"

// Outcome is one request and its result, in no protocol's words. The audit log,
// metrics, traces and the line in the log are made from it. A front end makes one
// per request, also for those that it refuses itself.
type Outcome struct {
	// The front end fills in what it knows, before it opens a session and before it
	// calls an operation.

	// Protocol is the front end.
	Protocol Protocol
	// Request is what the request is about. The domain sets KeyStore and Time, and
	// the Operation that it performs.
	Request RequestContext
	// RequestID is the caller's name of the request; empty if it gives none.
	RequestID string
	// Remote is the caller's network address.
	Remote string
	// Credential is the ID of the credential that the request claims to be from. The
	// domain sets it to the one that is proven.
	Credential string
	// Dated says whether the request says when it was made, Skew how far that is from
	// the clock: negative if it was in the past.
	Dated bool
	Skew  time.Duration
	// Began is when the request came, Took how long it took so far.
	Began time.Time
	Took  time.Duration

	// The domain fills in the rest.

	// KeyVersion is the version of the key that was used; 0 for none.
	KeyVersion uint32
	// Policies are the IDs of those that decided whether the request is allowed.
	Policies []string
	// Err is why the request was not performed; nil if it was. A front end sets it
	// for what it refuses itself.
	Err error
}

// Result is how a request ended.
type Result string

// The results.
const (
	// ResultDone: the request was performed.
	ResultDone Result = "done"
	// ResultDenied: no grant allows it, or a policy forbids it.
	ResultDenied Result = "denied"
	// ResultRefused: the caller has to change something before the request can
	// succeed.
	ResultRefused Result = "refused"
	// ResultFailed: the appliance could not do its work.
	ResultFailed Result = "failed"
)

// Result says how the request ended.
func (o *Outcome) Result() Result {
	switch fault.CodeOf(o.Err) {
	case "":
		return ResultDone
	case fault.Denied:
		return ResultDenied
	case fault.Invalid, fault.NotFound, fault.Conflict, fault.Unauthenticated, fault.KeyUsage, fault.Ciphertext, fault.Throttled, fault.TooLarge:
		return ResultRefused
	}
	return ResultFailed
}

// Words gives the outcome in the words of its front end.
func (o *Outcome) Words() Words {
	if o.Protocol == nil {
		return Words{Operation: string(o.Request.Operation), Error: string(fault.CodeOf(o.Err))}
	}
	return o.Protocol.Words(o)
}

// Protocol is what the domain has to know of a front end.
type Protocol interface {
	// Words says an outcome in the words of the protocol.
	Words(o *Outcome) Words
	// Limits are the sizes that the protocol permits.
	Limits() Limits
}

// Words are an outcome as a protocol says it: for those who compare what the
// appliance tells with what the caller saw.
type Words struct {
	// Protocol is the kind of record in the audit log, such as "xks".
	Protocol string
	// Operation is the protocol's name of the operation; empty if the request names
	// none.
	Operation string
	// Error is the name of the error that the caller was told; empty for none.
	Error string
	// Status is the number of the result that the caller was told, as HTTP's 200.
	Status int
}

// Limits are sizes in bytes. One that is 0 is the domain's own, and none is more
// than that.
type Limits struct {
	// Data is the longest plaintext or ciphertext. The domain's own is [MaxData].
	Data int
	// AAD is the longest additional authenticated data. The domain's own is [MaxAAD].
	AAD int
}

// Recorder records requests, durably.
type Recorder interface {
	// RecordOutcome returns when the record is durable. The outcome is valid until
	// then.
	RecordOutcome(ctx context.Context, o *Outcome) error
	// Ready says why nothing can be recorded; nil if something can.
	Ready() error
}
