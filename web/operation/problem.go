package operation

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"holdfast/appliance/fault"
)

// MediaType is the media type of bodies and answers that are no file.
const MediaType = "application/json"

// ProblemType is the media type of every answer that is not 2xx (RFC 9457).
const ProblemType = "application/problem+json"

// CodesPath is the page with all codes. A problem's type is a part of it.
const CodesPath = "/codes"

// Problem is the body of every answer that is not 2xx: problem details (RFC 9457).
type Problem struct {
	// Type is the place of the code on the page of all codes, relative to the
	// appliance's address.
	Type string `json:"type" jsonschema:"The place of the code on the page of all codes, relative to the appliance's address." example:"/codes#not_found"`
	// Title is the registry's sentence for the code.
	Title string `json:"title" jsonschema:"What the code means, in a sentence that is the same each time."`
	// Status is the HTTP status.
	Status int `json:"status" jsonschema:"The HTTP status of the answer." example:"404"`
	// Detail says in one line what went wrong this time. Message is the same, for
	// programs that know no problem details.
	Detail  string     `json:"detail" jsonschema:"What went wrong this time, in one line."`
	Message string     `json:"message" jsonschema:"The same as detail, for programs that know no problem details."`
	Code    fault.Code `json:"code" jsonschema:"The stable code of the problem." example:"not_found"`
	// WhatToDo is the registry's advice for the code.
	WhatToDo string `json:"what_to_do" jsonschema:"What the reader can do about it."`
	// RequestID is that of the header Request-Id.
	RequestID string `json:"request_id,omitempty" jsonschema:"The ID of the request, as in the header Request-Id."`
	// Reference finds the line of the appliance's log that has the cause.
	Reference string `json:"reference,omitempty" jsonschema:"What finds the line of the appliance's log that has the cause; only of an internal error."`
}

// NewProblem describes a fault.
func NewProblem(f *fault.Fault) Problem {
	e := f.Code.Entry()
	return Problem{Type: CodesPath + "#" + string(f.Code), Title: e.Title, Status: e.Status, Detail: f.Message, Message: f.Message,
		Code: f.Code, WhatToDo: e.Do, Reference: f.Reference}
}

// SetRetryAfter says in the header of an answer when to try again, in seconds (RFC 9110 section
// 10.2.3), as far as the fault has it.
func SetRetryAfter(h http.Header, f *fault.Fault) {
	if f.RetryAfter > 0 {
		h.Set(retryHeader, strconv.Itoa(int((f.RetryAfter+time.Second-1)/time.Second)))
	}
}

// Fault gives what the problem describes, as a client has it.
func (p Problem) Fault() *fault.Fault {
	return &fault.Fault{Code: p.Code, Message: p.Message, Reference: p.Reference}
}

// ReadProblem reads the body of a failure. Another body, such as of a proxy in
// between, is an error.
func ReadProblem(body io.Reader) (*fault.Fault, error) {
	var p Problem
	if err := json.NewDecoder(body).Decode(&p); err != nil {
		return nil, err
	}
	if p.Code == "" {
		return nil, fmt.Errorf("it has no code")
	}
	return p.Fault(), nil
}
