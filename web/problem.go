package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"holdfast/appliance/fault"
)

// problemType is the media type of every answer that is not 2xx (RFC 9457).
const problemType = "application/problem+json"

// CodesPath is the page with all codes. A problem's type is a part of it.
const CodesPath = "/codes"

// Problem is the body of every answer that is not 2xx: problem details (RFC 9457).
type Problem struct {
	// Type is the place of the code on the page of all codes, relative to the
	// appliance's address.
	Type string `json:"type"`
	// Title is the registry's sentence for the code.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail says in one line what went wrong this time. Message is the same, for
	// programs that know no problem details.
	Detail  string     `json:"detail"`
	Message string     `json:"message"`
	Code    fault.Code `json:"code"`
	// WhatToDo is the registry's advice for the code.
	WhatToDo string `json:"what_to_do"`
	// Reference finds the line of the appliance's log that has the cause.
	Reference string `json:"reference,omitempty"`
}

// NewProblem describes a fault.
func NewProblem(f *fault.Fault) Problem {
	e := f.Code.Entry()
	return Problem{Type: CodesPath + "#" + string(f.Code), Title: e.Title, Status: e.Status, Detail: f.Message, Message: f.Message,
		Code: f.Code, WhatToDo: e.Do, Reference: f.Reference}
}

// Fault gives what the problem describes, as a client has it.
func (p Problem) Fault() *fault.Fault {
	return &fault.Fault{Code: p.Code, Message: p.Message, Reference: p.Reference}
}

// readProblem reads the body of a failure. Another body, such as of a proxy in
// between, is an error.
func readProblem(body io.Reader) (*fault.Fault, error) {
	var p Problem
	if err := json.NewDecoder(body).Decode(&p); err != nil {
		return nil, err
	}
	if p.Code == "" {
		return nil, fmt.Errorf("it has no code")
	}
	return p.Fault(), nil
}

// fail answers with why not.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, fault.Answer(r.Context(), a.Log, "admin", err, "method", r.Method, "path", r.URL.Path))
}

// message is what a caller may be told of an error that is not the answer's own.
func (a *API) message(ctx context.Context, err error) string {
	return fault.Answer(ctx, a.Log, "admin", err).Message
}

func writeProblem(w http.ResponseWriter, f *fault.Fault) {
	p := NewProblem(f)
	writeBody(w, p.Status, problemType, p)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	writeBody(w, status, "application/json", body)
}

func writeBody(w http.ResponseWriter, status int, mediaType string, body any) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}
