package storetest

import (
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// answerOf is a row with another ID, owner and run.
func answerOf(n int, owner, run string) *idempotency.Row {
	r := *oneAnswer
	r.ID, r.Owner, r.Run = ID(n), owner, run
	return &r
}

// testAnswers: rows are those of their run, are counted for their owner, and are gone when they
// have expired.
func testAnswers(t *testing.T, s Engine) {
	ctx := t.Context()
	Wants(t, errorOf(s.Answer(ctx, ID(10))), fault.NotFound, "nothing was answered")
	Must(t, s.CreateAnswer(ctx, oneAnswer))
	Equal(t, Got(s.Answer(ctx, oneAnswer.ID))(t), oneAnswer)
	other := answerOf(10, oneAnswer.Owner, "another")
	other.Answer = []byte("another")
	Wants(t, s.FinishAnswer(ctx, other), fault.Exists, "already")
	Must(t, s.DeleteAnswer(ctx, other.ID, other.Run))
	done := *oneAnswer
	done.Answer = []byte("answer")
	Must(t, s.FinishAnswer(ctx, &done))
	Equal(t, Got(s.Answer(ctx, oneAnswer.ID))(t), &done)
	alone := answerOf(11, oneAnswer.Owner, "alone") // what changes nothing leaves its row with its answer
	alone.Answer = []byte("alone")
	Must(t, s.FinishAnswer(ctx, alone))
	Must(t, s.CreateAnswer(ctx, answerOf(12, "token t", "run")))
	Equal(t, Got(s.AnswersOf(ctx, oneAnswer.Owner, At(2)))(t), idempotency.Total{Answers: 2, Bytes: 11})
	Equal(t, Got(s.AnswersOf(ctx, oneAnswer.Owner, oneAnswer.Expires))(t), idempotency.Total{})
	later := answerOf(13, "token t", "run")
	later.Begun, later.Expires = oneAnswer.Expires, At(119)
	Must(t, s.CreateAnswer(ctx, later))
	Wants(t, errorOf(s.Answer(ctx, oneAnswer.ID)), fault.NotFound, "nothing was answered")
	Equal(t, Got(s.ForgetAnswers(ctx, At(118)))(t), 0)
	Equal(t, Got(s.ForgetAnswers(ctx, At(119)))(t), 1)
}

// testMarks: a change leaves the mark of its request in its own transaction. With the mark of
// another run it is refused; a change that is refused leaves none.
func testMarks(t *testing.T, s Engine) {
	ctx := t.Context()
	m := &idempotency.Mark{Row: oneAnswer}
	marked := idempotency.Marked(ctx, m)
	Must(t, s.NoteTokenObjects(marked, TokenObject("o"))) // which may come to nothing
	Wants(t, s.DeleteKeyStore(marked, ID(1), nil), fault.NotFound, "")
	Wants(t, errorOf(s.Answer(ctx, oneAnswer.ID)), fault.NotFound, "nothing was answered")
	Must(t, s.CreateKeyStore(marked, store))
	Equal(t, Got(s.Answer(ctx, oneAnswer.ID))(t), oneAnswer)
	Must(t, s.CreateCredential(marked, Credential(store, 1))) // of the same request
	other := idempotency.Marked(ctx, &idempotency.Mark{Row: answerOf(10, oneAnswer.Owner, "another")})
	Wants(t, s.CreateCredential(other, Credential(store, 2)), fault.Exists, "request")
	Equal(t, len(Got(s.Credentials(ctx, store.ID))(t)), 1)
	var quiet []appliance.Change
	s.Subscribe(func(c appliance.Change) { quiet = append(quiet, c) })
	done := *oneAnswer
	done.Answer = []byte("answer")
	Must(t, s.FinishAnswer(ctx, &done))
	Equal(t, len(quiet), 0)
}

func errorOf(_ any, err error) error { return err }
