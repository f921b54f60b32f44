package conformance

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"sync"
)

// statusOf is the specification's table "Error codes".
var statusOf = map[string]int{
	"ValidationException":           400,
	"InvalidStateException":         400,
	"InvalidCiphertextException":    400,
	"InvalidKeyUsageException":      400,
	"AuthenticationFailedException": 401,
	"AccessDeniedException":         403,
	"KeyNotFoundException":          404,
	"InvalidUriPathException":       404,
	"ThrottlingException":           429,
	"UnsupportedOperationException": 501,
	"DependencyTimeoutException":    503,
	"InternalException":             500,
}

// errorChecks are about all error answers of the run; each rule is one of the
// faults that observations look for.
var errorChecks = []check{
	{id: faultContentType, rule: "Every answer has the content type application/json.", source: "spec: API content type", run: observed},
	{id: faultJSON, rule: "Every error answer is one JSON object.", source: "spec: Error codes", run: observed},
	{id: faultName, rule: "Every error answer has an errorName of the specification's table.", source: "spec: Error codes", run: observed},
	{id: faultStatus, rule: "Every errorName comes with the status code that the table gives it.", source: "spec: Error codes", run: observed},
	{id: faultMessage, rule: "An errorMessage is shorter than 512 characters of printable ASCII.", source: "spec: Error codes", run: observed},
}

const (
	faultContentType = "http/content-type"
	faultJSON        = "errors/json"
	faultName        = "errors/name"
	faultStatus      = "errors/status"
	faultMessage     = "errors/message"
)

// maxErrorMessage is one less than 512 (spec, Error codes).
const maxErrorMessage = 511

// observed provokes one error in each layer of a proxy, and then judges these
// and all other answers of the run.
func observed(ctx context.Context, s *session) verdict {
	id := s.target.KeyID
	unsigned := s.honestCall()
	unsigned.secret += "x"
	s.during("bad signature").send(ctx, unsigned)
	nowhere := s.honestCall()
	nowhere.path = s.prefix + xksPath + "/nowhere"
	s.during("unknown path").send(ctx, nowhere)
	s.during("unknown key").ask(ctx, getKeyMetadata, unknownKey(), s.request(getKeyMetadata))
	s.during("not JSON").ask(ctx, encrypt, id, []byte("not JSON"))
	s.during("success").ask(ctx, getKeyMetadata, id, s.request(getKeyMetadata))
	return s.seen.verdict(s.checkID)
}

// observations are what all answers of a run have shown.
type observations struct {
	mu       sync.Mutex
	answers  int
	errors   int
	faults   map[string][]string // by the ID of the check, each as it was seen
	messages map[string]string   // of a failed authentication: by errorMessage, the first check that saw it
}

// record looks at an answer to a request of a check.
func (o *observations) record(during, method string, a answer) {
	if a.status == 0 || method == http.MethodHead {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	fault := func(id, format string, args ...any) {
		if o.faults == nil {
			o.faults = map[string][]string{}
		}
		o.faults[id] = append(o.faults[id], during+": "+fmt.Sprintf(format, args...))
	}
	o.answers++
	if t, _, err := mime.ParseMediaType(a.header.Get("Content-Type")); err != nil || t != jsonType {
		fault(faultContentType, "%d with another content type", a.status)
	}
	// 405 is not in the table; check method/get-json looks at it.
	if a.status < 300 || a.status == http.StatusMethodNotAllowed {
		return
	}
	o.errors++
	if a.fields == nil {
		fault(faultJSON, "%v", a)
		return
	}
	if status, known := statusOf[a.errorName()]; !known {
		fault(faultName, "%v", a)
	} else if status != a.status {
		fault(faultStatus, "%v instead of %d", a, status)
	}
	message, isString := a.fields["errorMessage"].(string)
	if _, present := a.fields["errorMessage"]; present && (!isString || !printable(message) || len(message) > maxErrorMessage) {
		fault(faultMessage, "%v with %d bytes of errorMessage", a, len(message))
	}
	if a.status == http.StatusUnauthorized {
		if o.messages == nil {
			o.messages = map[string]string{}
		}
		if _, seen := o.messages[message]; !seen {
			o.messages[message] = during
		}
	}
}

// printable: spec, Error codes: 0x20 to 0x7e.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// verdict is on one kind of fault.
func (o *observations) verdict(id string) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.faults[id]; len(f) > 1 {
		return fail("%s (and %d more)", f[0], len(f)-1)
	} else if len(f) == 1 {
		return fail("%s", f[0])
	}
	return pass("%d answers, %d of them errors", o.answers, o.errors)
}

// oneMessage demands that no two failed authentications were explained
// differently. The messages themselves stay out of the result.
func (o *observations) oneMessage() verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.messages) < 2 {
		return pass("one errorMessage for all")
	}
	first, second := "", ""
	for _, during := range o.messages {
		if first == "" || during < first {
			first, second = during, first
		} else if second == "" || during < second {
			second = during
		}
	}
	return fail("%d different messages, as for %s and %s", len(o.messages), first, second)
}
