package web

import (
	"context"
	"net/http"
	"reflect"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/identity"
)

// Prefix is where the admin API is, before the path of each [Route].
const Prefix = "/api/v1"

// Route is one operation of the admin API. The table of all of them ([Routes])
// is what the router, the OpenAPI document and the tests are made from.
type Route struct {
	Method string
	// Path is what follows [Prefix], with parameters in braces.
	Path string
	// ID names the operation: in the OpenAPI document, the audit log and settings.
	ID      string
	Summary string
	// Capability is what the caller's role must have.
	Capability identity.Capability
	// Dangerous operations of a session need a proof, not older than [PresenceTime],
	// that the user is present. The bearer of an API token is never present, and
	// needs none.
	Dangerous bool
	// Approvable operations may be chosen to need a second person's approval.
	Approvable bool
	// WhileLocked operations may be done by a user whose row nobody can verify, as the
	// appliance is locked: to look, to give the PIN and to block. Whoever can write to
	// the database could have made that user.
	WhileLocked bool
	// Query are the parameters after the path's.
	Query []Parameter
	// Binary is the media type of a request's or an answer's body that is not JSON.
	BinaryRequest, BinaryAnswer string

	handler
}

// Mutates says whether the operation changes anything.
func (r *Route) Mutates() bool { return r.Method != http.MethodGet }

// ShowsSecret says whether the answer has something that is shown once.
func (r *Route) ShowsSecret() bool {
	return r.answer != nil && r.answer.Implements(reflect.TypeFor[secret]())
}

// handler is what an operation does, and the types of its bodies; nil for none.
type handler struct {
	request, answer reflect.Type
	// check gives the error that run would, as far as that is known before, and
	// changes nothing. What can be filed for approval has one.
	check func(c *call) error
	// run does it and gives the answer's body.
	run func(c *call) (any, error)
	// stream does it and writes the answer itself, once nothing can fail any more.
	stream func(c *call) error
}

// nothing is the body of requests and answers that have none.
type nothing struct{}

// does makes a handler of an operation on JSON.
func does[In, Out any](do func(c *call, in In) (Out, error)) handler {
	h := handler{request: reflect.TypeFor[In](), answer: reflect.TypeFor[Out]()}
	if h.request == reflect.TypeFor[nothing]() {
		h.request = nil
	}
	h.run = func(c *call) (any, error) {
		out, err := do(c, c.in.(In))
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	return h
}

// checked adds to the handler of an operation what is checked before the operation
// is filed for approval.
func checked[In any](h handler, check func(c *call, in In) error) handler {
	h.check = func(c *call) error { return check(c, c.in.(In)) }
	return h
}

// gives makes a handler of an operation that reads no body.
func gives[Out any](do func(c *call) (Out, error)) handler {
	return does(func(c *call, _ nothing) (Out, error) { return do(c) })
}

// lists makes a handler of an operation that gives a list, in JSON one though it
// be empty.
func lists[T any](do func(c *call) ([]T, error)) handler {
	return gives(func(c *call) ([]T, error) {
		items, err := do(c)
		if items == nil {
			items = []T{}
		}
		return items, err
	})
}

// takes makes a handler of an operation that reads the body itself.
func takes[Out any](do func(c *call) (Out, error)) handler {
	return handler{answer: reflect.TypeFor[Out](), run: func(c *call) (any, error) { return do(c) }}
}

// streams makes a handler of an operation that writes its answer itself.
func streams(do func(c *call) error) handler { return handler{stream: do} }

// call is one request to the API by somebody who may make it.
type call struct {
	*http.Request
	api   *API
	route *Route
	w     http.ResponseWriter
	who   identity.Principal
	// body is the request's, and in what it says; revision is that of If-Match.
	body     []byte
	in       any
	revision string
}

func (c *call) ctx() context.Context { return c.Context() }

// param gives a parameter of the path.
func (c *call) param(name string) string { return chi.URLParam(c.Request, name) }

func (c *call) keyStore() string { return c.param("keystore") }
func (c *call) key() string      { return c.param("key") }
