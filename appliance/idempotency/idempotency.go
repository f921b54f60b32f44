// Package idempotency has a request done once, however often it is sent: a client whose
// connection broke sends it again with the same idempotency key, and gets the same answer. The
// header is the one of the IETF's draft-ietf-httpapi-idempotency-key-header.
//
// It guarantees, for 24 hours:
//
//   - Of all requests of one principal with one key, on all nodes, one makes a change. The mark
//     that it was made is in the transaction of the change itself ([Marked]).
//   - Who sends the same again gets the answer that was given; who sends another request with the
//     key is refused.
//   - A change whose answer was not kept, as the appliance stopped between the two, is not made
//     again: the sender hears that it was made.
//
// Nothing of the request, and neither key nor answer, can be read in the database. The answer is
// sealed under a key that is derived from the secret that all unlocked nodes share and from the
// idempotency key, so that not even a node can open it without the request.
//
// While the appliance is locked, or its state is held, the process alone remembers.
package idempotency

import (
	"context"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

const (
	// Lifetime is how long an answer is kept.
	Lifetime = 24 * time.Hour
	// MinKey and MaxKey are how many characters a key has: fewer can be guessed.
	MinKey, MaxKey = 16, 255
	// MaxAnswers and MaxBytes are how many answers, and bytes of them as they are stored, are
	// kept for a principal at once.
	MaxAnswers, MaxBytes = 4096, 16 << 20
	// maxAnswer is how many bytes an answer has that is kept; of a longer one it is kept that it
	// was given.
	maxAnswer = 256 << 10
	// longest is how long another node may work on a request. One that has no answer after that
	// has lost it.
	longest = 2 * time.Minute
	// mostTime is how long a request may go on that all nodes know of ([Run.Within]). What is
	// left up to longest is for the step at hand, which ends in any case, and for clocks that
	// differ.
	mostTime = 90 * time.Second
)

// Row is what the state has of a request with a key.
type Row struct {
	// ID is a keyed hash of principal and key, hexadecimal.
	ID string
	// Owner is the principal: the kind, and the ID.
	Owner string
	// Request is a keyed hash of all that was asked.
	Request []byte
	// Run names the performance of the request, and Node the node that works on it; empty for an
	// appliance on its own.
	Run, Node      string
	Begun, Expires time.Time
	Answer         []byte // sealed; nil until there is one
}

// Total is what is kept for a principal.
type Total struct {
	Answers int
	Bytes   int64
}

// Store keeps rows. Errors are [*fault.Fault] with the codes named, fault.Timeout or
// fault.Internal.
type Store interface {
	// KeepsAnswers says whether all nodes have the rows: not while some of the fleet have a schema
	// without them.
	KeepsAnswers() bool
	// Answer gives the row with the ID; fault.NotFound.
	Answer(ctx context.Context, id string) (*Row, error)
	// AnswersOf counts what is kept for a principal and has not expired.
	AnswersOf(ctx context.Context, owner string, now time.Time) (Total, error)
	// CreateAnswer adds a row, and removes those that had expired when it was begun.
	// fault.Exists if there is one with the ID.
	CreateAnswer(ctx context.Context, r *Row) error
	// FinishAnswer gives the row of that run its answer, or adds it with the answer if there is
	// none. fault.Exists if the row is of another run.
	FinishAnswer(ctx context.Context, r *Row) error
	// DeleteAnswer removes the row of that run; it is no error if there is none.
	DeleteAnswer(ctx context.Context, id, run string) error
	// ForgetAnswers removes the rows that have expired, and says how many.
	ForgetAnswers(ctx context.Context, now time.Time) (int, error)
}

// Mark has the next change that is made in its context leave the row of the request, in the
// change's own transaction. One that follows belongs to the same request.
type Mark struct {
	Row             *Row
	made, overtaken atomic.Bool
}

// Made says that the row is durable with a change.
func (m *Mark) Made() { m.made.Store(true) }

// Overtaken says that there is a row of another run, and that no change was made.
func (m *Mark) Overtaken() { m.overtaken.Store(true) }

type markKey struct{}

// Marked gives a context whose changes leave the mark.
func Marked(ctx context.Context, m *Mark) context.Context {
	return context.WithValue(ctx, markKey{}, m)
}

// Unmarked gives a context whose changes leave none: what is written in it changes nothing that
// the request asks for.
func Unmarked(ctx context.Context) context.Context {
	return context.WithValue(ctx, markKey{}, (*Mark)(nil))
}

// MarkOf gives the mark that changes in the context leave; nil for none.
func MarkOf(ctx context.Context) *Mark {
	m, _ := ctx.Value(markKey{}).(*Mark)
	return m
}

// errRunning is the error of a request while another with its key is under way.
func errRunning() error {
	return fault.Errorf(fault.AnswerPending, "a request with this idempotency key is under way: wait, and send it again with the same key")
}
