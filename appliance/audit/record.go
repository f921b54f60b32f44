package audit

import (
	"bytes"
	"encoding/json"
	"holdfast/appliance/fault"
	"strconv"
	"time"
	"unicode/utf8"
)

// Kind says what a record is about.
type Kind string

// The kinds.
const (
	KindXKS   Kind = "xks"   // a request of AWS KMS
	KindAdmin Kind = "admin" // an administrator's operation
	KindBoot  Kind = "boot"  // a step of a boot
	KindLease Kind = "lease" // a lease that was taken, renewed or lost
	KindAudit Kind = "audit" // the log itself: retention, recovery
	KindFleet Kind = "fleet" // nodes that come and go, and the heads of their logs
)

// Result says how an operation ended.
type Result string

// The results.
const (
	Allowed Result = "allowed"
	Denied  Result = "denied"
	Failed  Result = "failed"
)

// Record is one operation. Empty fields are left out of its line, but for Seq,
// Time and Kind.
type Record struct {
	// Seq is the record's place in the log, from 0. The log sets it.
	Seq int64 `json:"seq" jsonschema:"The number of the record in its log, from 0."`
	// Time is the wall clock's, in UTC, to within a second. The order of the records is
	// that of Seq: where the time goes back, a record [ClockStepped] says so. The log sets
	// it.
	Time         time.Time       `json:"time" jsonschema:"When it was recorded, by the wall clock. The order of the records is that of seq."`
	Kind         Kind            `json:"kind" jsonschema:"What kind of record it is."`
	Operation    string          `json:"operation,omitempty" jsonschema:"What was done: the operation of the XKS API, or the method and route of the admin API."`
	Result       Result          `json:"result,omitempty" jsonschema:"Whether it was allowed, denied, or failed."`
	Error        string          `json:"error,omitempty" jsonschema:"The code of the error, or its name in the XKS API; absent if it succeeded."` // an error's name or code
	KeyStore     string          `json:"key_store,omitempty" jsonschema:"The name of the key store that it is about."`
	Key          string          `json:"key,omitempty" jsonschema:"The external key that it is about."`
	Version      uint64          `json:"version,omitempty" jsonschema:"The version of the key that was used."`
	Principal    string          `json:"principal,omitempty" jsonschema:"The principal's ARN, as KMS sent it (awsPrincipalArn)."`
	KMSRequestID string          `json:"kms_request_id,omitempty" jsonschema:"The ID of the request in KMS (kmsRequestId)."`
	KMSKeyARN    string          `json:"kms_key_arn,omitempty" jsonschema:"The ARN of the KMS key (kmsKeyArn)."`
	KMSOperation string          `json:"kms_operation,omitempty" jsonschema:"The KMS API call behind the request (kmsOperation)."`
	ViaService   string          `json:"via_service,omitempty" jsonschema:"The AWS service that called KMS (kmsViaService)."`
	SourceVPC    string          `json:"source_vpc,omitempty" jsonschema:"The VPC from which KMS was called (awsSourceVpc)."`
	SourceVPCE   string          `json:"source_vpce,omitempty" jsonschema:"The VPC endpoint through which KMS was called (awsSourceVpce)."`
	Policies     []string        `json:"policies,omitempty" jsonschema:"The IDs of the grants and policies that decided."` // what decided: grants, policies
	Actor        string          `json:"actor,omitempty" jsonschema:"Who did it: the name of a user, a token, or root on the machine."`
	Session      string          `json:"session,omitempty" jsonschema:"The ID of the session of the console by which an administrator came."`
	Token        string          `json:"token,omitempty" jsonschema:"The ID of the API token by which it was done."`
	RequestID    string          `json:"request_id,omitempty" jsonschema:"The ID of the request by which it was done: the header Request-Id of its answer."`
	ApprovedBy   string          `json:"approved_by,omitempty" jsonschema:"The name of the second person, who approved it."`
	Approval     string          `json:"approval,omitempty" jsonschema:"The ID of the request for approval."`
	Reason       string          `json:"reason,omitempty" jsonschema:"Why it was done, as the person who asked for it says."`
	ApprovalWhy  string          `json:"approval_reason,omitempty" jsonschema:"Why it was approved, as the second person says."`
	Action       string          `json:"action,omitempty" jsonschema:"What an administrator did, in the words of the button." example:"Disable key"`
	ObjectKind   string          `json:"object_kind,omitempty" jsonschema:"The kind of what it was done to." example:"key"`
	ObjectID     string          `json:"object_id,omitempty" jsonschema:"The ID of what it was done to, or its name if it has no ID."`
	Object       string          `json:"object,omitempty" jsonschema:"What it was done to, in words." example:"key ledger in key store payments"`
	Asked        json.RawMessage `json:"asked,omitempty" any:"true" jsonschema:"What was asked for, without secrets, of what failed or was denied."` // what was asked for, without secrets: of what failed or was denied
	Before       json.RawMessage `json:"before,omitempty" any:"true" jsonschema:"What the thing was before the change."`
	After        json.RawMessage `json:"after,omitempty" any:"true" jsonschema:"What the thing was after the change."`
	DurationUS   int64           `json:"duration_us,omitempty" jsonschema:"How long it took, in microseconds."`
	Remote       string          `json:"remote,omitempty" jsonschema:"The address that the request came from."`
	Detail       string          `json:"detail,omitempty" jsonschema:"More in words, such as the session or token, and who approved."`
}

// ClockStepped is the operation of the records, of the kind audit, by which the log says
// that the clock was set: before and after have the field time. Before is the time that it
// would be, after the time that the clock says. No other record has a time before that of
// the record before it.
const ClockStepped = "ClockStepped"

// clockSteppedStart is how such a record begins, behind number and time.
const clockSteppedStart = `,"kind":"audit","operation":"` + ClockStepped + `","result":"allowed"`

// MaxLine is the longest line of a record, in bytes.
const MaxLine = 64 << 10

// MaxSeq keeps the arithmetic of trees far from the end of int64.
const MaxSeq = 1 << 48

// timeWidth is the width of each time in a line.
const timeWidth = len("2006-01-02T15:04:05.000000Z")

// AppendJSON appends the record's line, without the newline. It is what
// encoding/json makes of a Record without escaping HTML, but for the time, which
// has six digits after the point always.
func (r *Record) AppendJSON(b []byte) ([]byte, error) {
	if err := r.Check(); err != nil {
		return b, err
	}
	return r.AppendLine(b, r.Seq, r.Time), nil
}

// MarshalJSON gives the record's line.
func (r Record) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil) }

// Check finds what would make a line that cannot be read.
func (r *Record) Check() error {
	switch r.Kind {
	case KindXKS, KindAdmin, KindBoot, KindLease, KindAudit, KindFleet:
	default:
		return fault.Errorf(fault.Invalid, "a record has the kind %q; give xks, admin, boot, lease, audit or fleet", string(r.Kind))
	}
	switch r.Result {
	case "", Allowed, Denied, Failed:
	default:
		return fault.Errorf(fault.Invalid, "a record has the result %q; give allowed, denied or failed", string(r.Result))
	}
	if r.Seq < 0 || r.Seq > MaxSeq {
		return fault.Errorf(fault.Invalid, "a record has the number %d", r.Seq)
	}
	if y := r.Time.UTC().Year(); y < 0 || y > 9999 {
		return fault.Errorf(fault.Invalid, "a record is of the year %d", y)
	}
	for _, value := range []json.RawMessage{r.Asked, r.Before, r.After} {
		if len(value) > 0 && !json.Valid(value) {
			return fault.Errorf(fault.Invalid, "asked, before or after of a record is not JSON")
		}
	}
	return nil
}

// AppendLine appends the line of a record that was checked ([Record.Check]) and gets
// that number and time, without the newline.
func (r *Record) AppendLine(b []byte, seq int64, t time.Time) []byte {
	return r.appendRest(appendStart(b, seq, t))
}

// appendStart appends what only the log knows: number and time. The rest does
// not depend on it, so that it can be made before.
func appendStart(b []byte, seq int64, t time.Time) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = appendTime(b, t)
	return append(b, '"')
}

func (r *Record) appendRest(b []byte) []byte {
	b = append(b, `,"kind":`...)
	b = appendString(b, string(r.Kind))
	b = appendField(b, `,"operation":`, r.Operation)
	b = appendField(b, `,"result":`, string(r.Result))
	b = appendField(b, `,"error":`, r.Error)
	b = appendField(b, `,"key_store":`, r.KeyStore)
	b = appendField(b, `,"key":`, r.Key)
	if r.Version != 0 {
		b = append(b, `,"version":`...)
		b = strconv.AppendUint(b, r.Version, 10)
	}
	b = appendField(b, `,"principal":`, r.Principal)
	b = appendField(b, `,"kms_request_id":`, r.KMSRequestID)
	b = appendField(b, `,"kms_key_arn":`, r.KMSKeyARN)
	b = appendField(b, `,"kms_operation":`, r.KMSOperation)
	b = appendField(b, `,"via_service":`, r.ViaService)
	b = appendField(b, `,"source_vpc":`, r.SourceVPC)
	b = appendField(b, `,"source_vpce":`, r.SourceVPCE)
	b = appendList(b, `,"policies":`, r.Policies)
	b = appendField(b, `,"actor":`, r.Actor)
	b = appendField(b, `,"session":`, r.Session)
	b = appendField(b, `,"token":`, r.Token)
	b = appendField(b, `,"request_id":`, r.RequestID)
	b = appendField(b, `,"approved_by":`, r.ApprovedBy)
	b = appendField(b, `,"approval":`, r.Approval)
	b = appendField(b, `,"reason":`, r.Reason)
	b = appendField(b, `,"approval_reason":`, r.ApprovalWhy)
	b = appendField(b, `,"action":`, r.Action)
	b = appendField(b, `,"object_kind":`, r.ObjectKind)
	b = appendField(b, `,"object_id":`, r.ObjectID)
	b = appendField(b, `,"object":`, r.Object)
	b = appendRaw(b, `,"asked":`, r.Asked)
	b = appendRaw(b, `,"before":`, r.Before)
	b = appendRaw(b, `,"after":`, r.After)
	if r.DurationUS != 0 {
		b = append(b, `,"duration_us":`...)
		b = strconv.AppendInt(b, r.DurationUS, 10)
	}
	b = appendField(b, `,"remote":`, r.Remote)
	b = appendField(b, `,"detail":`, r.Detail)
	return append(b, '}')
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

func appendList(b []byte, name string, values []string) []byte {
	if len(values) == 0 {
		return b
	}
	b = append(b, name...)
	for i, v := range values {
		if i == 0 {
			b = append(b, '[')
		} else {
			b = append(b, ',')
		}
		b = appendString(b, v)
	}
	return append(b, ']')
}

// appendRaw appends JSON without its white space: a line has no newline.
func appendRaw(b []byte, name string, value json.RawMessage) []byte {
	if len(value) == 0 {
		return b
	}
	out := bytes.NewBuffer(append(b, name...))
	_ = json.Compact(out, value) // check has seen that it is valid
	return out.Bytes()
}

// appendTime is t in UTC as RFC 3339 with microseconds. time.AppendFormat
// takes three times as long.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append2(append2(b, year/100), year%100)
	b = append2(append(b, '-'), int(month))
	b = append2(append(b, '-'), day)
	b = append2(append(b, 'T'), hour)
	b = append2(append(b, ':'), minute)
	b = append2(append(b, ':'), second)
	us := t.Nanosecond() / 1000
	b = append2(append(b, '.'), us/10000)
	b = append2(append2(b, us/100%100), us%100)
	return append(b, 'Z')
}

func append2(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// plain are the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. What is no UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		size := 1
		var escaped string
		switch {
		case c == '"':
			escaped = `\"`
		case c == '\\':
			escaped = `\\`
		case c == '\b':
			escaped = `\b`
		case c == '\f':
			escaped = `\f`
		case c == '\n':
			escaped = `\n`
		case c == '\r':
			escaped = `\r`
		case c == '\t':
			escaped = `\t`
		case c < 0x20:
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
			start = i
			continue
		default:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				escaped = `\ufffd`
			case r == '\u2028':
				escaped = `\u2028`
			case r == '\u2029':
				escaped = `\u2029`
			default:
				i += size
				continue
			}
		}
		b = append(append(b, s[start:i]...), escaped...)
		i += size
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// ParseRecord reads a line, without its newline. Fields that it does not know
// are passed over: a later version may have added them.
func ParseRecord(line []byte) (*Record, error) {
	if len(line) > MaxLine {
		return nil, fault.Errorf(fault.AuditMalformed, "a line of %d bytes is no record", len(line))
	}
	if _, err := ParseStart(line); err != nil {
		return nil, err
	}
	// The fields alone: a type without methods.
	type fields Record
	var f fields
	if err := json.Unmarshal(line, &f); err != nil {
		return nil, fault.Wrapf(fault.AuditMalformed, err, "a line is no record")
	}
	return (*Record)(&f), nil
}

// start is what each line begins with.
type Start struct {
	Seq  int64
	Time []byte // of the width timeWidth; orders as bytes
	Rest []byte // from `,"kind":` on
}

// ParseStart reads the fields that the log sets. They stand first, in one form.
func ParseStart(line []byte) (s Start, err error) {
	malformed := func() (Start, error) {
		return Start{}, fault.Errorf(fault.AuditMalformed, "a line does not begin with the number and the time of a record")
	}
	b, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	if !ok {
		return malformed()
	}
	digits := 0
	for digits < len(b) && digits < 16 && b[digits] >= '0' && b[digits] <= '9' {
		s.Seq = s.Seq*10 + int64(b[digits]-'0')
		digits++
	}
	if digits == 0 || b[0] == '0' && digits > 1 || s.Seq > MaxSeq {
		return malformed()
	}
	if b, ok = bytes.CutPrefix(b[digits:], []byte(`,"time":"`)); !ok || len(b) < timeWidth+1 || b[timeWidth] != '"' {
		return malformed()
	}
	s.Time, s.Rest = b[:timeWidth], b[timeWidth+1:]
	if !isTime(s.Time) || line[len(line)-1] != '}' || !bytes.HasPrefix(s.Rest, []byte(`,"kind":"`)) {
		return malformed()
	}
	return s, nil
}

func isTime(b []byte) bool {
	for i, p := range []byte("0000-00-00T00:00:00.000000Z") {
		if p == '0' && (b[i] < '0' || b[i] > '9') || p != '0' && b[i] != p {
			return false
		}
	}
	return true
}

// fields calls f with the name and the raw value of each field of a line, and
// says whether the line could be read to its end. It allocates nothing, and
// takes a tenth of the time of encoding/json.
func fields(line []byte, f func(name, value []byte)) bool {
	if len(line) < 2 || line[0] != '{' {
		return false
	}
	for i := 1; ; {
		nameEnd := valueEnd(line, i)
		if nameEnd < i+2 || line[i] != '"' || nameEnd >= len(line) || line[nameEnd] != ':' {
			return false
		}
		end := valueEnd(line, nameEnd+1)
		if end < 0 || end >= len(line) {
			return false
		}
		f(line[i+1:nameEnd-1], line[nameEnd+1:end])
		switch line[end] {
		case ',':
			i = end + 1
		case '}':
			return end == len(line)-1
		default:
			return false
		}
	}
}

// valueEnd gives where the JSON value that begins at i ends; -1 if nowhere.
func valueEnd(b []byte, i int) int {
	if i < len(b) && b[i] == '"' {
		return stringEnd(b, i)
	}
	for depth := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = stringEnd(b, i) - 1; i < 0 {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}

// stringEnd gives the place after the string that begins at i; -1 if it has no
// end.
func stringEnd(b []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}
