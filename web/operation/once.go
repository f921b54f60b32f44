package operation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net/http"
	"reflect"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

const (
	// IdempotencyKeyHeader is the header of a request that is done once, however often it is sent.
	IdempotencyKeyHeader = "Idempotency-Key"
	// ReplayedHeader is the header of an answer that was given before to the same request.
	ReplayedHeader = "Idempotent-Replayed"
	// KeptHeader is the header of all answers of an appliance that keeps idempotency keys, at each
	// node. A change may be sent again only where that is known.
	KeptHeader = "Holdfast-Idempotency-Keys"
)

// Answered is what an operation gave to a request with an idempotency key, as the API writes it.
type Answered struct {
	*idempotency.Answer
	// Replayed says that it was given before, and that nothing was done now.
	Replayed bool

	// gave and refused are what the operation gave, if it was performed now.
	gave    any
	refused error
}

// ErrDoneBefore is the error of [Operation.Do] for a request that was done before, with the same
// idempotency key: nothing was done now.
var ErrDoneBefore = errors.New("it was done before, by a request with the same idempotency key")

// now is what the operation gave in this process; ErrDoneBefore if it was performed before.
func (a *Answered) now() (any, error) {
	switch {
	case !a.Replayed:
		return a.gave, a.refused
	case a.Code != "":
		return nil, a.Refusal()
	}
	return nil, ErrDoneBefore
}

// Refusal is the error that was answered; nil if none was.
func (a *Answered) Refusal() error {
	if a.Code == "" {
		return nil
	}
	return fault.Errorf(a.Code, "%s", a.Message)
}

// once performs an operation unless its request was performed before, which is answered as it
// was then. That the caller may perform it was looked at before.
func (p *performance) once(ctx context.Context) (any, error) {
	body, err := p.whole()
	if err != nil {
		return nil, err
	}
	defer clear(body)
	upload := p.route.upload(p.in)
	run, err := p.answers.Begin(ctx, idempotency.Asked{
		Owner: p.owner(), Key: p.IdempotencyKey, Node: p.Node(), Body: body,
		What: appliance.Binding{Purpose: "request", Fields: []string{p.route.Method, p.route.path(p.in), p.Reason, p.Revision}},
		Here: upload != nil, Ahead: p.route.Outside, Resumes: p.route.inSteps(),
	})
	if err != nil {
		if fault.CodeOf(err) != fault.AnswerPending { // which is asked for time and again
			p.unusable(ctx, err)
		}
		return nil, err
	}
	defer run.End()
	ctx, cancel := run.Within(ctx)
	defer cancel()
	var read hash.Hash
	if upload != nil {
		read = sha256.New()
		upload = io.TeeReader(upload, read)
		p.in = p.route.withUpload(p.in, upload)
	}
	if run.Kept != nil {
		if err := replayed(upload, read, run.Kept); err != nil {
			p.unusable(ctx, err)
			return nil, err
		}
		return &Answered{Answer: run.Kept, Replayed: true}, nil
	}
	p.run = run
	done, refused := p.now(ctx)
	given, err := p.given(done, refused)
	if err != nil {
		before, err := run.Settled(ctx, err)
		if before != nil {
			return &Answered{Answer: before, Replayed: true}, nil
		}
		return nil, err
	}
	if upload != nil {
		if _, err := io.Copy(io.Discard, upload); err != nil {
			return nil, err
		}
		given.Digest = read.Sum(nil)
	}
	if s, ok := Gave(done).(stoppable); ok && s.stopped() {
		run.Left(ctx)
		return &Answered{given, false, done, refused}, nil
	}
	kept, err := run.Finish(ctx, given)
	if err != nil {
		return nil, err
	}
	return &Answered{kept, kept != given, done, refused}, nil
}

// stoppable is an answer that says whether something that may pass has stopped the operation. That
// is not kept: what is sent again goes on.
type stoppable interface{ stopped() bool }

// whole is all that the body of the request says: in JSON without the secret, and after a zero byte,
// which JSON has not, the secret. Encoders of JSON keep copies of what they write.
func (p *performance) whole() ([]byte, error) {
	in, secret := p.route.apartFrom(p.in)
	text, err := p.route.encode(in)
	if err != nil {
		return nil, err
	}
	return slices.Concat(text, []byte{0}, secret), nil
}

// shownAgain records that a secret is shown once more: an answer of before is given again. What shows
// none is no event.
func (p *performance) shownAgain(ctx context.Context, a *idempotency.Answer) error {
	if !p.route.ShowsSecret() || a.Code != "" || a.Status == http.StatusAccepted || !showsSecret(p.route, a.Body) {
		return nil
	}
	rec := p.record(audit.Allowed, nil)
	rec.Operation, rec.Action, rec.Detail = replayOf+rec.Operation, replayWords+rec.Action, a.Location
	return p.write(ctx, rec)
}

// showsSecret says whether an answer of the route has a secret. That of a request for approval has
// the one of the operation that was performed, if that shows any.
func showsSecret(r *Route, answer []byte) bool {
	if r.answer != reflect.TypeFor[ApprovalDetail]() {
		return true
	}
	var d struct {
		Operation string          `json:"operation"`
		Result    json.RawMessage `json:"result"`
	}
	if json.Unmarshal(answer, &d) != nil {
		return true
	}
	return d.Result != nil && slices.ContainsFunc(table, func(of *Route) bool { return of.ID == d.Operation && of.ShowsSecret() })
}

// forgetEvery is how often answers are looked for that have expired.
const forgetEvery = 10 * time.Minute

// ForgetAnswers removes what was answered to requests with an idempotency key and has expired,
// from time to time until the context ends. A request that comes meanwhile gets none of it.
func (p *Performer) ForgetAnswers(ctx context.Context) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := p.ForgetExpired(ctx); err != nil { // such as locked: the next time
				p.Log.Debug("expired answers were not removed", "error", err)
			}
		}
	}
}

// KeepsAnswers says whether a request with an idempotency key is done once, at whichever node it is
// sent again, also after a restart.
func (p *Performer) KeepsAnswers() bool { return p.answers.Keeps() }

// ForgetExpired removes what has expired by now.
func (p *Performer) ForgetExpired(ctx context.Context) error { return p.answers.Forget(ctx) }

// replayed reads the file of a request that was answered before: it must be the same.
func replayed(upload io.Reader, read hash.Hash, a *idempotency.Answer) error {
	if upload == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, upload); err != nil {
		return err
	}
	if !bytes.Equal(read.Sum(nil), a.Digest) {
		return fault.Errorf(fault.KeyReused, "another file was sent with this idempotency key: use a new key for each request")
	}
	return nil
}

// given is the answer of the API to what an operation gave; its error, if it was refused.
func (p *performance) given(done any, err error) (*idempotency.Answer, error) {
	a := &idempotency.Answer{Status: p.route.Success()}
	if waits, ok := errors.AsType[*Pending](err); ok {
		a.Status, a.Location, done, err = http.StatusAccepted, LocationOf(waits), waits.Detail(), nil
	}
	if err != nil {
		return nil, err
	}
	if a.Body, err = json.Marshal(done); err != nil {
		return nil, err
	}
	if a.Location == "" {
		a.Location = p.route.Location(p.path, done)
	}
	return a, nil
}

// marked gives the context in which the operation makes its changes.
func (p *performance) marked(ctx context.Context) context.Context {
	if p.run == nil {
		return ctx
	}
	return p.run.Marked(ctx)
}

// owner names whose idempotency keys the caller's are. At the Unix socket they are the system
// user's: each command is another process.
func (p *performance) owner() string {
	switch who := p.Who; {
	case who.Token != "":
		return "token " + who.Token
	case who.UserID != "":
		return "user " + who.UserID
	default:
		return "local " + cmp.Or(who.Local, who.Name)
	}
}

// Detail is the request as the API shows it.
func (p *Pending) Detail() ApprovalDetail {
	return ApprovalDetail{Request: p.Request, Body: p.Request.Body, TakesSecret: len(p.Request.Secret) > 0}
}

// upload gives the file that an input has; nil if it has none.
func (r *Route) upload(in any) io.Reader {
	for _, f := range r.fields {
		if f.in == inBody {
			upload, _ := reflect.ValueOf(in).FieldByIndex(f.index).Interface().(io.Reader)
			return upload
		}
	}
	return nil
}

// withUpload gives the input with another file.
func (r *Route) withUpload(in any, upload io.Reader) any {
	v := reflect.New(r.input).Elem()
	v.Set(reflect.ValueOf(in))
	for _, f := range r.fields {
		if f.in == inBody {
			v.FieldByIndex(f.index).Set(reflect.ValueOf(&upload).Elem())
		}
	}
	return v.Interface()
}
