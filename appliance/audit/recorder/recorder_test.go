package recorder_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

func newRecorder(t *testing.T) *recorder.Recorder {
	r := recorder.New(recorder.Options{Dir: t.TempDir(), LogID: func() (string, error) { return "the-log", nil },
		Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.Close)
	return r
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// all gives the records of a kind, the oldest first.
func all(t *testing.T, r *recorder.Recorder, kind audit.Kind) []*audit.Record {
	t.Helper()
	records, _, err := r.Search(t.Context(), audit.Query{Kind: kind, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(records)
	return records
}

// words is a front end's.
type words struct{}

func (words) Limits() appliance.Limits { return appliance.Limits{} }

func (words) Words(o *appliance.Outcome) appliance.Words {
	w := appliance.Words{Protocol: "xks", Operation: "its " + string(o.Request.Operation), Status: 9}
	if o.Err != nil {
		w.Error = "ItsName"
	}
	return w
}

// TestBeforeOpen: steps of the boot wait for the log, nothing else does, and all that
// reads says that there is no log yet.
func TestBeforeOpen(t *testing.T) {
	r := newRecorder(t)
	steps := []progress.Step{{Boot: "b", State: "probe"}, {Boot: "b", State: "measure", Took: time.Millisecond}}
	for _, s := range steps {
		if err := r.RecordBootStep(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"Ready":         r.Ready(),
		"Record":        r.Record(t.Context(), &audit.Record{Kind: audit.KindAdmin}),
		"RecordOutcome": r.RecordOutcome(t.Context(), &appliance.Outcome{Protocol: words{}}),
		"Checkpoint":    second(r.Checkpoint()),
		"Export":        r.Export(t.Context(), audit.Query{}, io.Discard, "jsonl"),
		"Proof":         second(r.Proof(t.Context(), 0)),
		"Verify":        second(r.Verify(t.Context(), nil)),
	} {
		if fault.CodeOf(err) != fault.Locked {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := r.Search(t.Context(), audit.Query{}); fault.CodeOf(err) != fault.Locked || r.Status() != nil {
		t.Errorf("Search: %v; status %v", err, r.Status())
	}
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(newKey(t)); err != nil { // a state that is tried again
		t.Fatal(err)
	}
	if err := errors.Join(r.Ready(), r.RecordBootStep(t.Context(), progress.Step{Boot: "b", State: "collect", Code: string(fault.HSMPIN), Reason: "why"})); err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, b := range all(t, r, audit.KindBoot) {
		told = append(told, fmt.Sprintf("%s %s %s %s %s %d", b.Operation, b.Result, b.Error, b.Detail, b.Actor, b.DurationUS))
	}
	if want := []string{"probe allowed   boot b 0", "measure allowed   boot b 1000", "collect failed " + string(fault.HSMPIN) + " why boot b 0"}; !slices.Equal(told, want) {
		t.Errorf("recorded %q, want %q", told, want)
	}
	if report, err := r.Verify(t.Context(), nil); err != nil {
		t.Errorf("%v: %+v", err, report)
	}
}

func second[T any](_ T, err error) error { return err }

// TestLeaseSteps: what is about the lease on the HSM is of a kind of its own.
func TestLeaseSteps(t *testing.T) {
	r := newRecorder(t)
	for _, code := range []string{string(fault.HSMAway), string(fault.HSMLease), string(fault.HSMPIN), ""} {
		if err := r.RecordBootStep(t.Context(), progress.Step{State: "degraded", Code: code}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	if lease, boot := all(t, r, audit.KindLease), all(t, r, audit.KindBoot); len(lease) != 2 || lease[0].Error != string(fault.HSMAway) || lease[1].Error != string(fault.HSMLease) || len(boot) != 2 {
		t.Errorf("%d about the lease, %d about the boot", len(lease), len(boot))
	}
}

// TestOpenFails: a log that cannot be opened leaves the recorder as it was.
func TestOpenFails(t *testing.T) {
	broken := errors.New("no ID")
	id := func() (string, error) { return "", broken }
	r := recorder.New(recorder.Options{Dir: t.TempDir(), LogID: func() (string, error) { return id() }, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.Close)
	if err := r.RecordBootStep(t.Context(), progress.Step{State: "probe"}); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(newKey(t)); !errors.Is(err, broken) || fault.CodeOf(r.Ready()) != fault.Locked {
		t.Errorf("%v; %v", err, r.Ready())
	}
	id = func() (string, error) { return "the-log", nil }
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, r, audit.KindBoot)); n != 1 {
		t.Errorf("%d steps are recorded", n)
	}
}

// TestRequests: every field of an outcome that a record has, in the front end's
// words; and the result of each code.
func TestRequests(t *testing.T) {
	r := newRecorder(t)
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	o := appliance.Outcome{Protocol: words{}, RequestID: "id", Remote: "192.0.2.1:5", Credential: "AKIA", Dated: true, Skew: time.Second,
		Took: 1500 * time.Microsecond, KeyVersion: 3, Policies: []string{"p", "q"},
		Request: appliance.RequestContext{Principal: "alice", Operation: appliance.OpEncrypt, KMSOperation: "ReEncrypt", ViaService: "s3",
			SourceVPC: "vpc", SourceVPCE: "vpce", KMSKeyARN: "arn", KeyStore: "bank", Key: "k"}}
	results := map[fault.Code]audit.Result{"": audit.Allowed, fault.Denied: audit.Denied, fault.Invalid: audit.Failed, fault.NotFound: audit.Failed,
		fault.Conflict: audit.Failed, fault.Ciphertext: audit.Failed, fault.Timeout: audit.Failed, fault.Tampered: audit.Failed, fault.Internal: audit.Failed}
	var order []fault.Code
	for code := range results {
		o.Err = nil
		if code != "" {
			o.Err = fault.Errorf(code, "not so")
		}
		if err := r.RecordOutcome(t.Context(), &o); err != nil {
			t.Fatal(err)
		}
		order = append(order, code)
	}
	for i, got := range all(t, r, audit.KindXKS) {
		want := &audit.Record{Seq: got.Seq, Time: got.Time, Kind: audit.KindXKS, Operation: "its Encrypt", Result: results[order[i]], Error: "ItsName",
			KeyStore: "bank", Key: "k", Version: 3, Principal: "alice", KMSRequestID: "id", KMSKeyARN: "arn", KMSOperation: "ReEncrypt", ViaService: "s3", SourceVPC: "vpc", SourceVPCE: "vpce",
			Policies: []string{"p", "q"}, Actor: "AKIA", DurationUS: 1500, Remote: "192.0.2.1:5"}
		if order[i] == "" {
			want.Error = ""
		}
		gotLine, err := got.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		wantLine, err := want.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(gotLine) != string(wantLine) {
			t.Errorf("%q: recorded %s\nwant %s", order[i], gotLine, wantLine)
		}
	}
}

// TestWholeRequest: each text of what a decision is about, and of the request, is on
// record. A new one is among them by itself.
func TestWholeRequest(t *testing.T) {
	r := newRecorder(t)
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	o := appliance.Outcome{Protocol: words{}}
	var want []string
	for _, v := range []reflect.Value{reflect.ValueOf(&o).Elem(), reflect.ValueOf(&o.Request).Elem()} {
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.String {
				f.SetString("<" + v.Type().Field(i).Name + ">")
				want = append(want, f.String())
			}
		}
	}
	if err := r.RecordOutcome(t.Context(), &o); err != nil {
		t.Fatal(err)
	}
	line, err := all(t, r, audit.KindXKS)[0].AppendJSON(nil)
	if err != nil || len(want) < 10 {
		t.Fatal(want, err)
	}
	for _, text := range want {
		if !strings.Contains(string(line), text) {
			t.Errorf("%s is not on record", text)
		}
	}
}

// TestWorkIsRecorded: what the appliance does by itself is on record with key store and
// key, by which it is found.
func TestWorkIsRecorded(t *testing.T) {
	r := newRecorder(t)
	if err := r.Open(newKey(t)); err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"delete key":         r.KeyDeleted(t.Context(), "bank", "ledger"),
		"rotate key":         r.KeyRotated(t.Context(), "bank", "ledger", 2),
		"destroy key object": r.ObjectDestroyed(t.Context(), "bank", &appliance.TokenObject{Label: "the-label", KeyID: "ledger", Version: 2}),
	} {
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := r.Search(t.Context(), audit.Query{KeyStore: "bank", Key: "ledger", Limit: 10})
		if err != nil || !slices.ContainsFunc(found, func(r *audit.Record) bool { return r.Operation == want && r.Actor != "" && r.Result == audit.Allowed }) {
			t.Errorf("%s: %v, %+v", want, err, found)
		}
	}
}
