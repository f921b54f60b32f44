package console

import (
	"encoding/json"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// told gives what a page may say of an error. What the log has to say of it is
// logged, with the reference that the page shows.
func (c *console) told(r *http.Request, err error) *fault.Fault {
	return fault.Answer(r.Context(), c.Log, "console", err, "path", r.URL.Path)
}

// message is what a page may say of an error; empty for nil.
func (c *console) message(r *http.Request, err error) string {
	if err == nil {
		return ""
	}
	return c.told(r, err).Message
}

// statusOfPage is the HTTP status of the page that says why not. A form has no
// If-Match whose failure the status of a stale one would be (RFC 9110 section 13.1.1).
func statusOfPage(f *fault.Fault) int {
	if f.Class() == fault.ClassStale {
		return http.StatusConflict
	}
	return f.Code.Entry().Status
}

// titleOf is the title of the page that says why not.
func titleOf(f *fault.Fault) string {
	switch f.Code {
	case fault.NotFound:
		return "Not found"
	case fault.Forbidden:
		return "Your role does not allow that"
	case fault.Locked:
		return "The appliance is locked"
	case fault.Invalid, fault.TooLarge:
		return "That cannot be done"
	case fault.Throttled:
		return "Too often"
	case fault.Timeout:
		return "That took too long"
	}
	switch f.Class() {
	case fault.WrongState:
		return "That cannot be done now"
	case fault.ClassStale:
		return "It has changed meanwhile"
	}
	return "That did not work"
}

// answerJSON answers the page's script.
func (c *console) answerJSON(w http.ResponseWriter, r *http.Request, body any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := c.told(r, err)
		operation.SetRetryAfter(w.Header(), f)
		if f.Code == fault.Throttled {
			w.WriteHeader(http.StatusTooManyRequests)
		} else {
			w.WriteHeader(http.StatusBadRequest)
		}
		body = operation.NewProblem(f)
	}
	_ = json.NewEncoder(w).Encode(body) // the browser is gone if this fails
}
