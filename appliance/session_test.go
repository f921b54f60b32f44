package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// recordedOutcomes keeps the outcomes that it is given, and fails if the test wants.
type recordedOutcomes struct {
	outcomes []appliance.Outcome
	fails    error
}

func (r *recordedOutcomes) Ready() error { return r.fails }

func (r *recordedOutcomes) RecordOutcome(_ context.Context, o *appliance.Outcome) error {
	r.outcomes = append(r.outcomes, *o)
	return r.fails
}

// asked is a request to a session, of which checks may fail.
type asked struct {
	t         *testing.T
	bed       *appliancetest.Bed
	client    *appliancetest.Client
	operation string
	secret    string
	about     appliance.RequestContext
	data, aad []byte
	sealed    appliance.Ciphertext
	undo      []func()
}

// sessionOperations are all that a session does, by name.
var sessionOperations = map[string]func(a *asked, s *appliance.Session) error{
	"Encrypt": func(a *asked, s *appliance.Session) error {
		c, err := s.Encrypt(ctx, a.data, a.aad, nil)
		return given(c != nil, err)
	},
	"Encrypt, checked": func(a *asked, s *appliance.Session) error {
		c, err := s.Encrypt(ctx, a.data, a.aad, func(*appliance.Ciphertext) {})
		return given(c != nil, err)
	},
	"Decrypt": func(a *asked, s *appliance.Session) error {
		plaintext, err := s.Decrypt(ctx, &a.sealed, a.aad)
		return given(plaintext != nil, err)
	},
	"Attributes": func(_ *asked, s *appliance.Session) error {
		k, err := s.Attributes(ctx)
		return given(k.ID != "", err)
	},
	"Health": func(_ *asked, s *appliance.Session) error {
		hsms, err := s.Health(ctx)
		return given(hsms != nil, err)
	},
}

// given says whether something was given out beside an error, or nothing without one.
func given(something bool, err error) error {
	if something == (err == nil) {
		return err
	}
	return fmt.Errorf("something is given out: %t, with the error %w", something, err)
}

var (
	allOfASession = []string{"Encrypt", "Encrypt, checked", "Decrypt", "Attributes", "Health"}
	ofKeys        = allOfASession[:4]
	ofData        = allOfASession[:3]
)

// sessionChecks are all checks of a session, in their order.
var sessionChecks = []struct {
	name   string
	of     []string
	fail   func(a *asked)
	code   fault.Code
	reason string
}{
	{"authentication", allOfASession, func(a *asked) { a.secret += "x" }, fault.Unauthenticated, "does not match"},
	{"quota", allOfASession, (*asked).useQuota, fault.Throttled, "quota"},
	{"key", ofKeys, func(a *asked) { a.about.Key = "absent" }, fault.NotFound, ""},
	{"grants", ofKeys, func(a *asked) { a.about.Principal = "a stranger" }, fault.Denied, "no grant allows it"},
	{"block of everything", ofData, func(a *asked) { a.block(appliance.BlockTarget{Everything: true}) }, fault.Conflict, "blocked: everything"},
	{"block of the key store", ofData, func(a *asked) { a.block(appliance.BlockTarget{KeyStore: "demo"}) }, fault.Conflict, "blocked: key store demo"},
	{"block of the key", ofData, func(a *asked) {
		for _, key := range []string{"k", "encrypts", "decrypts"} {
			a.block(appliance.BlockTarget{KeyStore: "demo", KeyID: key})
		}
	}, fault.Conflict, "blocked: key "},
	{"state", ofData, (*asked).disable, fault.Conflict, "not enabled"},
	{"usage", ofData, (*asked).otherUsage, fault.KeyUsage, "usage"},
	{"size of the plaintext", []string{"Encrypt", "Encrypt, checked"}, func(a *asked) { a.data = make([]byte, appliance.MaxData+1) }, fault.TooLarge, "the plaintext has"},
	{"size of the ciphertext", []string{"Decrypt"}, func(a *asked) { a.sealed.Ciphertext = make([]byte, appliance.MaxData+1) }, fault.TooLarge, "the ciphertext has"},
	{"size of the AAD", ofData, func(a *asked) { a.aad = make([]byte, appliance.MaxAAD+1) }, fault.TooLarge, "additional authenticated data"},
	{"ciphertext", []string{"Decrypt"}, func(a *asked) { a.sealed.Tag = make([]byte, 16) }, fault.Ciphertext, ""},
}

func (a *asked) useQuota() {
	must(a.bed.Appliance.SetQuota(ctx, "demo", 1))(a.t)
	a.undo = append(a.undo, func() { must(a.bed.Appliance.SetQuota(ctx, "demo", 0))(a.t) })
	other := &asked{t: a.t, bed: a.bed, client: a.client, secret: a.client.SecretAccessKey}
	must(other.open(&appliance.Outcome{}))(a.t)
}

func (a *asked) block(target appliance.BlockTarget) {
	must(a.bed.Appliance.Block(ctx, target, target.String(), "alice"))(a.t)
	a.undo = append(a.undo, func() {
		if err := a.bed.Appliance.Unblock(ctx, target); err != nil {
			a.t.Error(err)
		}
	})
}

func (a *asked) disable() {
	for _, key := range []string{"k", "encrypts", "decrypts"} {
		must(a.bed.Appliance.SetKeyEnabled(ctx, "demo", key, false))(a.t)
		a.undo = append(a.undo, func() { must(a.bed.Appliance.SetKeyEnabled(ctx, "demo", key, true))(a.t) })
	}
}

func (a *asked) otherUsage() {
	if a.about.Key != "absent" {
		a.about.Key = map[string]string{"Encrypt": "decrypts", "Encrypt, checked": "encrypts", "Decrypt": "encrypts"}[a.operation]
	}
}

func (a *asked) open(o *appliance.Outcome) (*appliance.Session, error) {
	e, err := a.bed.Appliance.Endpoint("/demo")
	if err != nil {
		return nil, err
	}
	o.Request = a.about
	return e.Open(appliancetest.Proof(a.client.AccessKeyID, a.secret, "a request"), o)
}

// sessionBed is an appliance with a key of each usage, whose clock stands still.
func sessionBed(t *testing.T, r appliance.Recorder) (*appliancetest.Bed, *appliancetest.Client) {
	now := time.Now()
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Recorder: r, Now: func() time.Time { return now }}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	for id, usage := range map[string]string{"k": "encrypt,decrypt", "encrypts": "encrypt", "decrypts": "decrypt"} {
		b.NewKey(t, "demo", id, usage, appliance.CustodyCached)
	}
	return b, k
}

// ask gives a request that passes all checks.
func ask(t *testing.T, b *appliancetest.Bed, k *appliancetest.Client, operation string) *asked {
	a := &asked{t: t, bed: b, client: k, operation: operation, secret: k.SecretAccessKey,
		about: appliance.RequestContext{Principal: appliancetest.Principal, Key: "k"}, data: []byte("x")}
	if operation == "Decrypt" {
		s := must(a.open(&appliance.Outcome{}))(t)
		a.sealed = *must(s.Encrypt(ctx, a.data, a.aad, nil))(t)
	}
	return a
}

// TestSessionChecks: of each two checks that fail, the first answers, nothing is
// given out, and what was authenticated within its quota is on record, once.
func TestSessionChecks(t *testing.T) {
	records := &recordedOutcomes{}
	b, k := sessionBed(t, records)
	for name, do := range sessionOperations {
		for i, first := range sessionChecks {
			for j, second := range sessionChecks[i:] {
				if !slices.Contains(first.of, name) || !slices.Contains(second.of, name) {
					continue
				}
				a := ask(t, b, k, name)
				first.fail(a)
				if j > 0 {
					second.fail(a)
				}
				records.outcomes = nil
				o := appliance.Outcome{}
				s, err := a.open(&o)
				opened := err == nil
				if opened {
					err = do(a, s)
				}
				if fault.CodeOf(err) != first.code || !strings.Contains(err.Error(), first.reason) {
					t.Errorf("%s, failing %s and %s: %v (%s)", name, first.name, second.name, err, fault.CodeOf(err))
				}
				if want := first.code != fault.Unauthenticated && first.code != fault.Throttled; opened != want {
					t.Errorf("%s, failing %s and %s: the session is open: %t", name, first.name, second.name, opened)
				}
				switch r := records.outcomes; {
				case !opened && len(r) == 0:
				case !opened || len(r) != 1:
					t.Errorf("%s, failing %s and %s: %d records", name, first.name, second.name, len(r))
				case fault.CodeOf(r[0].Err) != first.code || r[0].Request.KeyStore != "demo" || r[0].Credential != k.AccessKeyID || r[0].Result() == appliance.ResultDone:
					t.Errorf("%s, failing %s and %s: recorded %+v", name, first.name, second.name, r[0])
				}
				slices.Reverse(a.undo)
				for _, undo := range a.undo {
					undo()
				}
			}
		}
		a := ask(t, b, k, name)
		records.outcomes = nil
		if err := do(a, must(a.open(&appliance.Outcome{}))(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := records.outcomes; len(r) != 1 || r[0].Result() != appliance.ResultDone {
			t.Errorf("%s: recorded %+v", name, r)
		}
	}
}

// TestSessionServesOnce: the quota counts requests, so one session is one operation,
// whichever comes second.
func TestSessionServesOnce(t *testing.T) {
	records := &recordedOutcomes{}
	b, k := sessionBed(t, records)
	for first := range sessionOperations {
		for second, again := range sessionOperations {
			a := ask(t, b, k, first)
			s := must(a.open(&appliance.Outcome{}))(t)
			if err := sessionOperations[first](a, s); err != nil {
				t.Fatalf("%s: %v", first, err)
			}
			records.outcomes = nil
			wantCode(t, again(a, s), fault.Internal)
			if why := errors.New("refused"); s.Refuse(ctx, why) != why || len(records.outcomes) != 0 {
				t.Errorf("%s after %s: %d more records", second, first, len(records.outcomes))
			}
		}
	}
}

// TestNoSession: values that no request opened do nothing, and nothing opens without
// a proof.
func TestNoSession(t *testing.T) {
	b, k := sessionBed(t, nil)
	for name, do := range sessionOperations {
		wantCode(t, do(ask(t, b, k, name), new(appliance.Session)), fault.Unauthenticated)
	}
	e := must(b.Appliance.Endpoint("/demo"))(t)
	good := appliancetest.Proof(k.AccessKeyID, k.SecretAccessKey, "a request")
	for name, open := range map[string]func(*appliance.Outcome) (*appliance.Session, error){
		"no proof":     func(o *appliance.Outcome) (*appliance.Session, error) { return e.Open(nil, o) },
		"no signature": func(o *appliance.Outcome) (*appliance.Session, error) { return e.Open((*appliance.Signature)(nil), o) },
		"empty":        func(o *appliance.Outcome) (*appliance.Session, error) { return e.Open(&appliance.Signature{}, o) },
		"no endpoint":  func(o *appliance.Outcome) (*appliance.Session, error) { return new(appliance.Endpoint).Open(good, o) },
		"another text": func(o *appliance.Outcome) (*appliance.Session, error) {
			p := *good
			p.StringToSign = []byte("b request")
			return e.Open(&p, o)
		},
		"another scope": func(o *appliance.Outcome) (*appliance.Session, error) {
			p := *good
			p.Region = "eu-west-1"
			return e.Open(&p, o)
		},
	} {
		if s, err := open(&appliance.Outcome{}); s != nil || fault.CodeOf(err) != fault.Unauthenticated {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	must(e.Open(good, &appliance.Outcome{}))(t)
}

// TestLockedSession: a session that is open while the appliance is locked does
// nothing more, and none is opened by an endpoint of before.
func TestLockedSession(t *testing.T) {
	b, k := sessionBed(t, nil)
	open := map[string]*appliance.Session{}
	requests := map[string]*asked{}
	for name := range sessionOperations {
		requests[name] = ask(t, b, k, name)
		open[name] = must(requests[name].open(&appliance.Outcome{}))(t)
	}
	e := must(b.Appliance.Endpoint("/demo"))(t)
	b.Appliance.Lock()
	for name, do := range sessionOperations {
		wantCode(t, do(requests[name], open[name]), fault.Locked)
	}
	_, err := e.Open(appliancetest.Proof(k.AccessKeyID, k.SecretAccessKey, "a request"), &appliance.Outcome{})
	wantCode(t, err, fault.Locked)
}

// TestNotRecordedNotGiven: what cannot be recorded is not given out, by no operation,
// and the appliance is not ready.
func TestNotRecordedNotGiven(t *testing.T) {
	records := &recordedOutcomes{}
	b, k := sessionBed(t, records)
	for name, do := range sessionOperations {
		for _, tt := range []struct {
			fails error
			code  fault.Code
		}{
			{errors.New("the disk is full"), fault.Internal},
			{fmt.Errorf("busy: %w", context.DeadlineExceeded), fault.Timeout},
		} {
			records.fails = nil
			a := ask(t, b, k, name)
			records.fails = tt.fails
			o := appliance.Outcome{}
			s := must(a.open(&o))(t)
			err := do(a, s)
			wantCode(t, err, tt.code)
			if !errors.Is(err, appliance.ErrNotRecorded) || !errors.Is(err, tt.fails) || o.Result() != appliance.ResultFailed {
				t.Errorf("%s: %v; outcome %s", name, err, o.Result())
			}
		}
	}
	why := errors.New("cannot be read")
	if err := must(ask(t, b, k, "Health").open(&appliance.Outcome{}))(t).Refuse(ctx, why); !errors.Is(err, appliance.ErrNotRecorded) {
		t.Errorf("a refusal that cannot be recorded: %v", err)
	}
	if ready, _ := b.Appliance.Ready(ctx); ready {
		t.Error("it is ready though nothing can be recorded")
	}
	records.fails = nil
	if ready, note := b.Appliance.Ready(ctx); !ready || note != "" {
		t.Error("it is not ready")
	}
}

// TestTestGrantsDecidesAsASession does.
func TestTestGrantsDecidesAsASession(t *testing.T) {
	records := &recordedOutcomes{}
	b, k := sessionBed(t, records)
	must(b.Appliance.AddGrant(ctx, "demo", forbid("arn:aws:iam::123456789012:user/Mallory")))(t)
	must(b.Appliance.AddGrant(ctx, "demo", appliance.Grant{Principal: "arn:aws:iam::123456789012:user/Mallory", Operations: allOperations}))(t)
	for _, principal := range []string{appliancetest.Principal, "arn:aws:iam::123456789012:user/Mallory", "a stranger"} {
		for _, op := range allOperations {
			a := ask(t, b, k, string(op))
			a.about.Principal = principal
			o := appliance.Outcome{}
			do := map[appliance.Operation]string{appliance.OpEncrypt: "Encrypt", appliance.OpDecrypt: "Decrypt", appliance.OpGetAttributes: "Attributes"}[op]
			err := sessionOperations[do](a, must(a.open(&o))(t))
			d := must(b.Appliance.TestGrants(ctx, "demo", "k", appliance.RequestContext{Principal: principal, Operation: op}))(t)
			denied := fault.CodeOf(err) == fault.Denied
			if d.Allowed == denied || !slices.Equal(d.Policies, o.Policies) {
				t.Errorf("%s by %s: TestGrants says %s, a session %v by %v", op, principal, d, err, o.Policies)
			}
		}
	}
}

// limited is a front end with limits of its own.
type limited appliance.Limits

func (limited) Words(*appliance.Outcome) appliance.Words { return appliance.Words{} }
func (l limited) Limits() appliance.Limits               { return appliance.Limits(l) }

// TestLimitsOfSize: a front end's limits hold, and none is above the domain's.
func TestLimitsOfSize(t *testing.T) {
	b, k := sessionBed(t, nil)
	for _, tt := range []struct {
		limits    limited
		data, aad int // the most
	}{
		{limited{}, appliance.MaxData, appliance.MaxAAD},
		{limited{Data: -1, AAD: -1}, appliance.MaxData, appliance.MaxAAD},
		{limited{Data: 1 << 30, AAD: 1 << 30}, appliance.MaxData, appliance.MaxAAD},
		{limited{Data: 4300, AAD: 8192}, 4300, 8192},
		{limited{AAD: 1}, appliance.MaxData, 1},
	} {
		for _, over := range []struct{ data, aad int }{{0, 0}, {1, 0}, {0, 1}} {
			a := ask(t, b, k, "Encrypt")
			a.data, a.aad = make([]byte, tt.data+over.data), make([]byte, tt.aad+over.aad)
			err := sessionOperations["Encrypt"](a, must(a.open(&appliance.Outcome{Protocol: tt.limits}))(t))
			if want := over.data+over.aad > 0; want != (fault.CodeOf(err) == fault.TooLarge) || !want && err != nil {
				t.Errorf("limits %+v, %d and %d bytes: %v", tt.limits, len(a.data), len(a.aad), err)
			}
		}
	}
}
