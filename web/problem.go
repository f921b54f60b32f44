package web

import (
	"encoding/json"
	"io"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// Problem is the body of every answer that is not 2xx: problem details (RFC 9457).
type Problem = operation.Problem

// CodesPath is the page with all codes. A problem's type is a part of it.
const CodesPath = operation.CodesPath

// NewProblem describes a fault.
func NewProblem(f *fault.Fault) Problem { return operation.NewProblem(f) }

func readProblem(body io.Reader) (*fault.Fault, error) { return operation.ReadProblem(body) }

// fail answers with why not.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, fault.Answer(r.Context(), a.Log, "admin", err, "method", r.Method, "path", r.URL.Path))
}

func writeProblem(w http.ResponseWriter, f *fault.Fault) {
	p := NewProblem(f)
	writeBody(w, p.Status, operation.ProblemType, p)
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
