package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"time"
)

// Client sends requests to the API of an appliance.
type Client interface {
	// Send sends a request and has take read the answer, if it is no refusal. The
	// API's own refusals come back as [*fault.Fault]; [*Pending] if the operation
	// waits for approval.
	Send(ctx context.Context, s Sending, take func(answer io.Reader) error) error
}

// Sending is a request of a client.
type Sending struct {
	// Path is what follows [Prefix] and a slash, with the query.
	Method, Path string
	// Revision is for If-Match; empty for none.
	Revision string
	// Body is nil if there is none. BodyType is its media type; empty to leave that out.
	Body     io.Reader
	BodyType string
}

// callTime bounds a call that sends and takes no file.
const callTime = time.Minute

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Call has a server perform the operation. Secrets in the input are zeroized.
// Errors: what [Operation.Do] gives there, or that the server cannot be reached.
func (o *Operation[In, Out]) Call(ctx context.Context, c Client, in In) (Done[Out], error) {
	return o.CallIfMatch(ctx, c, "", in)
}

// CallIfMatch is Call, refused with [fault.Stale] unless the subject has the revision.
func (o *Operation[In, Out]) CallIfMatch(ctx context.Context, c Client, revision string, in In) (done Done[Out], err error) {
	if o.BinaryAnswer != "" {
		return done, fmt.Errorf("operation %s: its answer is a stream; use Download", o.ID)
	}
	err = o.send(ctx, c, revision, in, func(answer io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &done)
	})
	return done, err
}

// Download has a server perform an operation whose answer is a stream, into w.
func (o *Operation[In, Out]) Download(ctx context.Context, c Client, in In, w io.Writer) error {
	return o.send(ctx, c, "", in, func(answer io.Reader) error {
		_, err := io.Copy(w, answer)
		return err
	})
}

func (o *Operation[In, Out]) send(ctx context.Context, c Client, revision string, in In, take func(io.Reader) error) error {
	defer wipe(reflect.ValueOf(in))
	if err := o.fields.valid(in); err != nil {
		return err
	}
	s := Sending{Method: o.Method, Path: o.path(in)[1:], Revision: revision, BodyType: o.BodyType()}
	for _, f := range o.fields {
		if f.in == inBody {
			s.Body, _ = reflect.ValueOf(in).FieldByIndex(f.index).Interface().(io.Reader)
		}
	}
	if !o.Long() {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, callTime)
		defer cancel()
	}
	body, err := o.encode(in)
	if err != nil {
		return err
	}
	defer clear(body) // it may hold a secret
	if body != nil {
		s.Body = bytes.NewReader(body)
	}
	return c.Send(ctx, s, take)
}
