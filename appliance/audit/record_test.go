package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func got[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// code gives the code of an error of the package; "" if it is none.
func code(err error) fault.Code {
	if e, ok := errors.AsType[*fault.Fault](err); ok {
		return e.Code
	}
	return ""
}

// record is one as a request of KMS makes it.
func record(i int) *audit.Record {
	return &audit.Record{
		Kind: audit.KindXKS, Operation: "Encrypt", Result: audit.Allowed,
		KeyStore: "demo", Key: fmt.Sprintf("key-%d", i%1000), Version: 3,
		Principal:    fmt.Sprintf("arn:aws:iam::123456789012:role/app-%d", i%100),
		KMSRequestID: fmt.Sprintf("4112f4d6-db54-4af4-ae30-%012d", i),
		KMSKeyARN:    "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		KMSOperation: "GenerateDataKey", ViaService: "s3", SourceVPC: "s3", SourceVPCE: "s3", Policies: []string{"grant-1"},
		DurationUS: 412, Remote: "192.0.2.1:4711",
	}
}

// plainRecord is a Record without its methods: what encoding/json makes of it is
// what AppendJSON has to make.
type plainRecord audit.Record

func standard(t testing.TB, r *audit.Record) []byte {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	p := plainRecord(*r)
	p.Time = time.Time{}
	must(t, e.Encode(p))
	at := `"time":"` + r.Time.UTC().Format("2006-01-02T15:04:05.000000Z") + `"`
	return bytes.Replace(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte(`"time":"0001-01-01T00:00:00Z"`), []byte(at), 1)
}

// checkEncoding compares with encoding/json, and reads the line again.
func checkEncoding(t *testing.T, r *audit.Record) {
	t.Helper()
	line, err := r.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := standard(t, r); !bytes.Equal(line, want) {
		t.Fatalf("got  %s\nwant %s", line, want)
	}
	if bytes.ContainsAny(line, "\n\r") {
		t.Fatalf("%q is not one line", line)
	}
	if len(line) > audit.MaxLine {
		return
	}
	back := got(audit.ParseRecord(line))(t)
	again := got(audit.ParseRecord(got(back.AppendJSON(nil))(t)))(t)
	if !reflect.DeepEqual(again, back) {
		t.Fatalf("read again:\n%+v\n%+v", again, back)
	}
}

func TestEncoding(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 8, 7, 6_054_321, time.FixedZone("", 3600))
	full := record(1)
	full.Seq, full.Time = 12345678901, at
	full.Before, full.After = json.RawMessage("{ \"a\" :\n [1, \"\u2028<\"] }"), json.RawMessage(`null`)
	full.Asked = json.RawMessage(`{"key_id":"k"}`)
	full.Error, full.Actor, full.Detail = "AccessDeniedException", "alice", "a\"b\\c\x00\x1f\b\f\n\r\t\x7f<>&\u2028\u2029\xff\xed\xa0\x80é日😀"
	full.RequestID = "r"
	full.Session, full.Token, full.ApprovedBy, full.Approval, full.Reason, full.ApprovalWhy = "s", "t", "bob", "a", "why", "because"
	full.Action, full.ObjectKind, full.ObjectID, full.Object = "Remove grant", "grant", "g", "grant to * for Encrypt"
	full.Policies = []string{"", "a,b", "\""}
	checkEncoding(t, full)
	checkEncoding(t, &audit.Record{Kind: audit.KindBoot, Time: at})
	checkEncoding(t, &audit.Record{Kind: audit.KindAdmin, Time: time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), DurationUS: -5, Version: 1<<64 - 1})

	for name, r := range map[string]*audit.Record{
		"kind":   {Kind: "x"},
		"result": {Kind: audit.KindXKS, Result: "x"},
		"seq":    {Kind: audit.KindXKS, Seq: -1},
		"asked":  {Kind: audit.KindXKS, Asked: json.RawMessage("{")},
		"before": {Kind: audit.KindXKS, Before: json.RawMessage("{")},
		"after":  {Kind: audit.KindXKS, After: json.RawMessage("{")},
		"year":   {Kind: audit.KindXKS, Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, err := r.AppendJSON(nil); code(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Every field of the type has its place in the line.
	v := reflect.ValueOf(*full)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not tested", v.Type().Field(i).Name)
		}
	}
}

func FuzzEncoding(f *testing.F) {
	f.Add("Encrypt", "a\"\\\n\u2028\xff", "{\"a\":[1, 2]}", int64(0), uint64(7))
	f.Add("", "", "", int64(1<<40), uint64(0))
	f.Fuzz(func(t *testing.T, a, b, raw string, us int64, version uint64) {
		r := &audit.Record{Kind: audit.KindXKS, Seq: us & (1<<40 - 1), Time: time.UnixMicro(us & (1<<55 - 1)), Operation: a, Error: b, Key: a, KeyStore: b,
			Policies: []string{a, b}, Version: version, DurationUS: us, Detail: a + b}
		if json.Valid([]byte(raw)) {
			r.Asked, r.Before, r.After = json.RawMessage(raw), json.RawMessage(raw), json.RawMessage(raw)
		}
		checkEncoding(t, r)
	})
}

func FuzzParseRecord(f *testing.F) {
	r := record(1)
	r.Before = json.RawMessage(`{"a":["}",{"b":"\\\""}]}`)
	f.Add(got(r.AppendJSON(nil))(f))
	f.Add([]byte(`{"seq":0,"time":"2026-11-23T09:08:07.006054Z","kind":"xks"}`))
	f.Add([]byte(`{"seq":0,"time":"2026-11-23T09:08:07.006054Z","kind":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := audit.ParseRecord(line)
		if err != nil {
			if code(err) != fault.AuditMalformed {
				t.Fatal(err)
			}
			return
		}
		if !json.Valid(line) || r.Seq < 0 {
			t.Fatalf("%q was read", line)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	r := record(1)
	r.Time = time.Now()
	buf := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = r.AppendJSON(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}
