package audit_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

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
	full.Error, full.Actor, full.Detail = "AccessDeniedException", "alice", "a\"b\\c\x00\x1f\b\f\n\r\t\x7f<>&\u2028\u2029\xff\xed\xa0\x80é日😀"
	full.Policies = []string{"", "a,b", "\""}
	checkEncoding(t, full)
	checkEncoding(t, &audit.Record{Kind: audit.KindBoot, Time: at})
	checkEncoding(t, &audit.Record{Kind: audit.KindAdmin, Time: time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), DurationUS: -5, Version: 1<<64 - 1})

	for name, r := range map[string]*audit.Record{
		"kind":   {Kind: "x"},
		"result": {Kind: audit.KindXKS, Result: "x"},
		"seq":    {Kind: audit.KindXKS, Seq: -1},
		"before": {Kind: audit.KindXKS, Before: json.RawMessage("{")},
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
			r.Before, r.After = json.RawMessage(raw), json.RawMessage(raw)
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

// FuzzVerify lets Verify, Open and the proofs read a log of foreign bytes.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 6)
	segment := segments(f, dir)[0]
	whole, checkpoints, tree := read(f, segment), read(f, dir+"/checkpoints"), read(f, dir+"/tree")
	f.Add(whole, checkpoints, tree)
	f.Add(whole[:len(whole)-3], checkpoints[:200], tree[:40])
	f.Add([]byte("{\"seq\":0,\"time\":\"\n"), []byte("holdfast-audit/x\n\n— \n\n"), []byte{})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		dir := t.TempDir()
		write(t, dir+"/00000000000000000000.jsonl", a)
		write(t, dir+"/checkpoints", b)
		write(t, dir+"/tree", c)
		r, err := verify(dir, audit.VerifyOptions{})
		if err == nil && r.Newest.Size == 6 && !bytes.HasPrefix(a, whole) {
			t.Fatalf("a changed log was taken for good: %+v", r)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("%q is not one line", err)
		}
		_, _ = audit.InclusionProof(dir, 2)
		_, _, _ = audit.NewReader(dir).Search(t.Context(), audit.Query{})
		if l, err := audit.Open(dir, options()); err == nil {
			must(t, l.Close())
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 4)
	notes := read(f, dir+"/checkpoints")
	f.Add(notes[:len(notes)-1])
	f.Add([]byte("holdfast-audit/x\n-1\nAAAA\nholdfast 0 x\n\n— a b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := audit.OpenCheckpoint(b, verifiers())
		if err == nil && (c.LogID != "test" || c.Size > 4) {
			t.Fatalf("%+v", c)
		}
	})
}

func FuzzCheckInclusion(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 8)
	f.Add(got(audit.InclusionProof(dir, 5))(f))
	f.Add([]byte(`{"format":"holdfast-audit-proof/1","seq":-1,"tree_size":9223372036854775807}`))
	line := strings.Split(string(read(f, segments(f, dir)[0])), "\n")[5]
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := audit.CheckInclusion(b, verifiers())
		if err != nil {
			return
		}
		if in.Record.Seq == 5 && string(got(in.Record.AppendJSON(nil))(t)) != line {
			t.Fatalf("%s was proved", b)
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
