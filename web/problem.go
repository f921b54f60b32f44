package web

import (
	"cmp"
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
	writeProblem(w, fault.Answer(r.Context(), a.Log, "admin", err, "method", r.Method, "path", r.URL.Path, "request", w.Header().Get(operation.RequestIDHeader)))
}

// retryAfter says after how many seconds to try again what is answered with a status, and
// retryCode what is answered with a code that is not like others of its status.
var (
	retryAfter = map[int]string{http.StatusTooManyRequests: "1", http.StatusServiceUnavailable: "5"}
	retryCode  = map[fault.Code]string{fault.AnswerPending: "1", fault.KeysExhausted: "3600"}
)

func writeProblem(w http.ResponseWriter, f *fault.Fault) {
	p := NewProblem(f)
	p.RequestID = w.Header().Get(operation.RequestIDHeader)
	operation.SetRetryAfter(w.Header(), f)
	if after := cmp.Or(retryCode[p.Code], retryAfter[p.Status]); after != "" && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", after)
	}
	writeBody(w, p.Status, operation.ProblemType, p)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	writeBody(w, status, operation.MediaType, body)
}

func writeBody(w http.ResponseWriter, status int, mediaType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // what is answered can be written: tests ask for each
	}
	writeText(w, status, mediaType, append(text, '\n'))
}

func writeText(w http.ResponseWriter, status int, mediaType string, text []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the caller is gone if this fails
}
