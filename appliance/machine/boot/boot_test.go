package boot_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/sqlite"
	"holdfast/attest"
	"holdfast/attest/simulation"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

// clock is one that the test moves. A boot that waits is let go by it.
type clock struct {
	t *testing.T

	mu  sync.Mutex
	now time.Time

	waiting chan time.Duration // a boot has begun to wait
	tick    chan struct{}      // it goes on
}

func newClock(t *testing.T) *clock {
	return &clock{t: t, now: time.Now(), waiting: make(chan time.Duration), tick: make(chan struct{})}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Wait implements [boot.Options.Wait].
func (c *clock) Wait(ctx context.Context, d time.Duration) error {
	select {
	case c.waiting <- d:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.tick:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waits gives the pause that the boot waits for.
func (c *clock) waits() time.Duration {
	c.t.Helper()
	select {
	case d := <-c.waiting:
		return d
	case <-time.After(time.Minute):
		c.t.Fatal("the boot does not wait")
		return 0
	}
}

// pass lets time pass and has the boot that waits look around once.
func (c *clock) pass(d time.Duration) {
	c.t.Helper()
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
	c.tick <- struct{}{}
	c.waits()
}

// site is a boot on a simulated machine, with what it depends on in the test's
// hands.
type site struct {
	*clock
	machine *simulation.Platform
	options boot.Options
	boot    *boot.Boot
	changed chan progress.Status
	store   *sqlite.DB
	log     appliancetest.Log

	mu        sync.Mutex
	policy    attest.Policy
	policyErr error
	condition progress.State
	failures  []error // of Release, then of Unlock; nil ones succeed
	unlocks   [][]byte
	unlocked  []string // what came of it, in order
	locked    bool
}

const credential = "the PIN of the HSM"

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{clock: newClock(t), condition: progress.Serving, changed: make(chan progress.Status, 1000)}
	dir, err := filepath.Abs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if s.machine, err = simulation.Boot(filepath.Join(dir, "m"), s.Now, swtpm.Component{Name: ".linux", Content: []byte("kernel")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.machine.Close() })
	if s.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.store.Close() })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.policy = s.machine.Policy()
	s.options = boot.Options{
		Log: slog.New(slog.NewTextHandler(&s.log, nil)), Now: s.Now, Wait: s.Wait, Journal: s.store.Machine(), Software: "test",
		Probe: func(context.Context, *attest.Policy) (*attest.Collector, error) { return s.machine.Collector(), nil },
		Policy: func() (*attest.SignedPolicy, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.policyErr != nil {
				return nil, s.policyErr
			}
			text, err := attest.SignPolicy(&s.policy, key)
			if err != nil {
				return nil, err
			}
			return attest.OpenPolicy(text, key.Public().(ed25519.PublicKey))
		},
		Revoked: func(*attest.Collector) (uint64, error) { return 0, nil },
		Parts:   []parts.Part{parts.Content("configuration", []byte("a = 1"))},
		TLSKey:  func() ([]byte, error) { return []byte("a TLS key"), nil },
		Release: s,
		Unlock: func(_ context.Context, c []byte) error {
			if err := s.next(); err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.unlocks = append(s.unlocks, c)
			s.unlocked = append(s.unlocked, "unlock")
			if string(c) != credential {
				t.Errorf("unlocked with %q", c)
			}
			return nil
		},
		Condition: func() (progress.State, *fault.Fault) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.condition == progress.Serving {
				return progress.Serving, nil
			}
			return s.condition, fault.Errorf(fault.HSMAway, "the HSM is away")
		},
		Lock: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.locked = true
		},
		Changed: func(status progress.Status) { s.changed <- status },
		Roots:   s.machine.Roots(),
	}
	s.reference()
	return s
}

// reference has the policy know what the machine has booted, and what it will measure.
func (s *site) reference() {
	s.t.Helper()
	values, err := s.machine.TPM.ReadPCRs(s.policy.TPM.Bank, []int{4, 7, 11, 12, 13})
	if err != nil {
		s.t.Fatal(err)
	}
	r := tpm.Reference{Name: "release 1", PCRs: map[int]tpm.Hex{}}
	for n, value := range values {
		r.PCRs[n] = value
	}
	if r.PCRs[tpm.ApplicationPCR], err = tpm.Replay(s.policy.TPM.Bank, s.measures()); err != nil {
		s.t.Fatal(err)
	}
	s.policy.TPM.References = []tpm.Reference{r}
}

// Release implements [boot.Releaser].
func (s *site) Release(context.Context, *attest.Collector) ([]byte, string, error) {
	if err := s.next(); err != nil {
		return nil, "", err
	}
	return []byte(credential), "whoever asks", nil
}

func (s *site) next() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) > 0 {
		err, s.failures = s.failures[0], s.failures[1:]
	}
	return err
}

// change changes what the boot depends on.
func (s *site) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// start begins the boot, which ends with the test.
func (s *site) start() {
	s.boot = boot.New(s.options)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.boot.Run(ctx)
	}()
	s.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// is compares the present state.
func (s *site) is(state progress.State, code fault.Code) progress.Status {
	s.t.Helper()
	got := s.boot.Status()
	if got.State != state || got.Code != string(code) {
		s.t.Fatalf("it is %s %s (%s), want %s %s", got.State, got.Code, got.Reason, state, code)
	}
	return got
}

// comesTo waits for the state.
func (s *site) comesTo(state progress.State) progress.Status {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case status := <-s.changed:
			if status.State == state {
				return status
			}
		case <-deadline:
			s.t.Fatalf("it does not come to %s", state)
		}
	}
}

// locks waits until the boot is locked.
func (s *site) locks(code fault.Code) progress.Status {
	s.t.Helper()
	s.comesTo(progress.Locked)
	status := s.is(progress.Locked, code)
	s.change(func() {
		if !s.locked {
			s.t.Error("the keys were not wiped")
		}
	})
	return status
}

// TestServing: all states, in order, each timed, logged and stored.
func TestServing(t *testing.T) {
	s := newSite(t)
	s.options.Now = nil // really timed
	s.start()
	s.waits()
	status := s.is(progress.Serving, "")
	want := []progress.State{progress.Probe, progress.Measure, progress.Collect, progress.Appraise, progress.Release, progress.Unlock, progress.Serving}
	stored, err := s.store.Machine().BootSteps(t.Context(), 100)
	if err != nil || len(stored) != len(want) || len(status.Steps) != len(want) {
		t.Fatalf("%d steps are stored, %d told: %v", len(stored), len(status.Steps), err)
	}
	for i, w := range want {
		step := status.Steps[i]
		if step.State != string(w) || step.Seq != i+1 || (step.Took == 0) != (w == progress.Serving) || step.Code != "" {
			t.Errorf("step %d is %+v, want %s", i, step, w)
		}
		if !strings.Contains(s.log.String(), "msg=boot state="+string(w)) {
			t.Errorf("the log has no %s", w)
		}
	}
	if len(s.unlocks) != 1 || strings.Trim(string(s.unlocks[0]), "\x00") != "" {
		t.Errorf("the credential was not zeroized: %q", s.unlocks)
	}
	if strings.Contains(s.log.String(), credential) {
		t.Error("the credential is in the log")
	}

	// The evidence of one that serves tells that it is capped, for whoever asks.
	nonce := []byte("a verifier's nonce")
	e, err := s.boot.Evidence(t.Context(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(e.TPM.Measurements); n != 2 || e.TPM.Measurements[1].Name != "cap" {
		t.Errorf("measurements: %+v", e.TPM.Measurements)
	}
	verdict := attest.Verify(e, &s.policy, attest.Expectation{Nonce: nonce, TLSKey: []byte("a TLS key"), Roots: s.machine.Roots()})
	if err := verdict.Err(); err != nil {
		t.Error(err)
	}
}

// TestTwice: a second start in the same boot of the machine gets nothing.
func TestTwice(t *testing.T) {
	s := newSite(t)
	s.start()
	s.waits()
	s.is(progress.Serving, "")
	first := len(s.unlocks)
	again := boot.New(s.options)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		again.Run(ctx)
	}()
	s.comesTo(progress.Serving)
	s.comesTo(progress.Locked) // that is the second
	cancel()
	<-ended
	if code := fault.Code(again.Status().Code); code != fault.MeasuredTwice || len(s.unlocks) != first {
		t.Errorf("the second start: %s", code)
	}
	s.pass(2 * time.Hour) // the first can still prove what it is
	s.is(progress.Serving, "")
}

// TestRefused: what is wrong before the release ends locked, and the credential
// is not even asked for.
func TestRefused(t *testing.T) {
	for code, wrong := range map[string]func(s *site){
		string(fault.PolicyFile): func(s *site) { s.policyErr = errors.New("a broken file") },
		string(fault.PolicyVersion): func(s *site) {
			if _, err := s.store.Machine().RaisePolicyVersion(t.Context(), attest.SignedID{Version: 2}); err != nil {
				t.Fatal(err)
			}
		},
		string(fault.PolicyVersion) + "  ": func(s *site) { // another policy of the same version
			if _, err := s.store.Machine().RaisePolicyVersion(t.Context(), attest.SignedID{Version: 1, Digest: bytes.Repeat([]byte{1}, 32)}); err != nil {
				t.Fatal(err)
			}
		},
		string(fault.PolicyVersion) + " ": func(s *site) {
			s.options.Revoked = func(*attest.Collector) (uint64, error) { return 2, nil }
		},
		string(fault.Platform): func(s *site) {
			s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) {
				c := s.machine.Collector()
				c.Report = nil
				return c, nil
			}
		},
		string(fault.Platform) + " ": func(s *site) {
			s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) {
				return nil, errors.New("a broken device")
			}
		},
		string(fault.Platform) + "  ": func(s *site) { // a NitroTPM that is reached for nothing but its document is no TPM
			s.policy.Require, s.policy.Unproven = []attest.Technology{attest.TPM}, "a test"
			s.options.Probe = func(context.Context, *attest.Policy) (*attest.Collector, error) {
				c := s.machine.Collector()
				c.Report, c.TPM = nil, nil
				return c, nil
			}
		},
		string(fault.Measure): func(s *site) {
			s.options.Parts = append(s.options.Parts, parts.File("pkcs11-module", "/nowhere", parts.OpenFile))
		},
		string(fault.Collect): func(s *site) { s.options.TLSKey = func() ([]byte, error) { return nil, errors.New("no key") } },
		"E_SNP_TCB":           func(s *site) { snp.PolicyOf(s.policy.Reports).MinimumTCB["Milan"] = snp.TCB{SNP: 29, Microcode: 255} },
		"E_SNP_CHAIN":         func(s *site) { s.options.Roots = nil },
	} {
		t.Run(code, func(t *testing.T) {
			s := newSite(t)
			wrong(s)
			s.start()
			status := s.comesTo(progress.Locked)
			if !strings.Contains(status.Code, strings.TrimSpace(code)) || status.Reason == "" || strings.Contains(status.Reason, "\n") {
				t.Errorf("got %s: %q", status.Code, status.Reason)
			}
			for _, step := range status.Steps {
				if step.State == string(progress.Release) || step.State == string(progress.Unlock) {
					t.Errorf("it came to %s", step.State)
				}
			}
			if len(s.unlocks) != 0 || !strings.Contains(s.log.String(), "state=locked") {
				t.Error("it was unlocked, or the log does not say that it is locked")
			}
		})
	}
}

// TestNoRelease: what is known to be wrong before the boot is its end, but what
// the machine measures is told first; and no PIN is taken.
func TestNoRelease(t *testing.T) {
	s := newSite(t)
	s.options.Release = boot.NoRelease{Why: fault.Errorf(fault.StateVolume, "the volume is not there")}
	s.start()
	status := s.locks("E_STATE_VOLUME")
	if n := len(status.Steps); n != 6 || status.Steps[4].State != string(progress.Release) || status.Attestation == nil || len(s.unlocks) != 0 {
		t.Errorf("%+v", status)
	}
	err := s.boot.Seal(t.Context(), []byte("4711"))
	if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "no PIN is taken: E_STATE_VOLUME: the volume is not there") {
		t.Error(err)
	}

	s = newSite(t) // whatever comes before comes first
	s.options.Release = boot.NoRelease{Why: fault.Errorf(fault.StateVolume, "the volume is not there")}
	s.options.Roots = nil
	s.start()
	if status := s.comesTo(progress.Locked); !strings.Contains(status.Code, "E_SNP_CHAIN") {
		t.Errorf("%+v", status)
	}
}

// TestAgain: what may pass is tried again, ever more slowly; what cannot, is
// not.
func TestAgain(t *testing.T) {
	s := newSite(t)
	away := fault.Errorf(fault.BrokerUnreachable, "connection refused")
	s.failures = []error{away, away, fault.Errorf(fault.SealMissing, "not yet"), nil, // of the release
		fault.Errorf(fault.HSMToken, "away"), fault.Errorf(fault.HSMPIN, "the PIN is wrong")} // of unlocking
	s.start()
	for i, want := range []struct {
		code  fault.Code
		pause time.Duration
	}{{"E_BROKER_UNREACHABLE", time.Second}, {"E_BROKER_UNREACHABLE", 2 * time.Second}, {"E_SEAL_MISSING", 4 * time.Second}} {
		if i > 0 {
			s.tick <- struct{}{}
		}
		if d := s.waits(); d != want.pause {
			t.Errorf("a pause of %s, want %s", d, want.pause)
		}
		s.is(progress.Release, want.code)
	}
	s.boot.Wake() // somebody has mended it
	s.waits()
	s.is(progress.Unlock, "E_HSM_TOKEN")
	s.tick <- struct{}{}
	s.locks("E_HSM_PIN")
	if len(s.unlocks) != 0 {
		t.Error("it was unlocked")
	}
}

// TestClock: evidence that is refused only for the time is made anew, when the
// clock has been set.
func TestClock(t *testing.T) {
	s := newSite(t)
	right := s.now
	s.now = right.AddDate(-2, 0, 0) // certificates were not valid then
	s.start()
	if d := s.waits(); d != time.Second {
		t.Errorf("a pause of %s", d)
	}
	s.is(progress.Appraise, "E_SNP_TIME")
	s.clock.mu.Lock()
	s.now = right
	s.clock.mu.Unlock()
	s.tick <- struct{}{}
	s.waits()
	s.is(progress.Serving, "")
}

// TestRenewal: evidence is renewed every hour, and before the certificate of the
// processor's key expires.
func TestRenewal(t *testing.T) {
	s := newSite(t)
	s.options.Every = time.Hour
	s.start()
	s.waits()
	first := s.is(progress.Serving, "").Attestation
	if first == nil || first.Result != "pass" || first.KeyExpires.IsZero() || !first.Next.Equal(first.Time.Add(time.Hour)) {
		t.Fatalf("the attestation is %+v", first)
	}
	s.pass(59 * time.Minute)
	if a := s.is(progress.Serving, "").Attestation; !a.Time.Equal(first.Time) {
		t.Errorf("evidence was renewed at %s already", a.Time)
	}
	s.pass(2 * time.Minute)
	renewed := s.is(progress.Serving, "").Attestation
	if !renewed.Time.After(first.Time) {
		t.Error("evidence was not renewed after an hour")
	}

	// The certificate's end comes nearer than an hour.
	s.pass(renewed.KeyExpires.Add(-30 * time.Minute).Sub(s.Now()))
	near := s.is(progress.Serving, "").Attestation
	if want := near.KeyExpires.Add(-10 * time.Minute); !near.Next.Equal(want) {
		t.Errorf("the next renewal is at %s, want %s", near.Next, want)
	}
	s.pass(21 * time.Minute)
	if a := s.boot.Status().Attestation; !a.Time.After(near.Time) {
		t.Error("evidence was not renewed before the certificate expired")
	}
	s.pass(20 * time.Minute) // it did expire
	if status := s.boot.Status(); status.State != progress.Degraded || !strings.Contains(status.Code, "E_SNP") {
		t.Errorf("with an expired certificate it is %s %s", status.State, status.Code)
	}
}

// TestTLSKeyReplaced: when the machine serves with another TLS key, evidence is renewed at once;
// if it cannot be, it is tried again after a pause.
func TestTLSKeyReplaced(t *testing.T) {
	s := newSite(t)
	s.options.Every, s.options.Lease = time.Hour, 3*time.Hour
	key := "its own key"
	s.options.TLSKey = func() ([]byte, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return []byte(key), nil
	}
	s.start()
	s.waits()
	first := s.is(progress.Serving, "").Attestation
	s.pass(time.Second)
	if a := s.is(progress.Serving, "").Attestation; !a.Time.Equal(first.Time) {
		t.Error("evidence was renewed though nothing changed")
	}
	s.change(func() { key = "a key that all nodes share" })
	s.pass(time.Second)
	renewed := s.is(progress.Serving, "").Attestation
	if !renewed.Time.After(first.Time) {
		t.Error("evidence was not renewed for another key")
	}
	s.change(func() { key, s.policyErr = "its own key", errors.New("a broken file") })
	s.pass(time.Second)
	s.is(progress.Degraded, fault.PolicyFile)
	s.change(func() { s.policyErr = nil })
	s.pass(time.Second)
	s.is(progress.Degraded, fault.PolicyFile)
	s.pass(time.Minute)
	if a := s.is(progress.Serving, "").Attestation; !a.Time.After(renewed.Time) {
		t.Error("evidence was not renewed for the key of before")
	}
}

// TestTLSKeyReplacedBetween: a key that is replaced after evidence was collected and before it is
// appraised is in the evidence.
func TestTLSKeyReplacedBetween(t *testing.T) {
	s := newSite(t)
	asked := 0
	s.options.TLSKey = func() ([]byte, error) {
		if asked++; asked == 1 {
			return []byte("the key before"), nil
		}
		return []byte("the key after"), nil
	}
	s.start()
	s.waits()
	s.is(progress.Serving, "")
}

// TestDegraded: evidence that cannot be renewed degrades, at last for good; and
// it recovers if it is renewed before.
func TestDegraded(t *testing.T) {
	s := newSite(t)
	s.options.Every, s.options.Lease = time.Hour, 3*time.Hour
	s.start()
	s.waits()
	s.change(func() { s.policyErr = errors.New("a broken file") })
	s.pass(time.Hour)
	s.is(progress.Degraded, fault.PolicyFile)
	s.change(func() { s.policyErr = nil })
	s.pass(time.Minute)
	s.is(progress.Serving, "")

	// Something extends a PCR behind the log's back.
	if err := s.machine.TPM.Extend(11, []byte("something else")); err != nil {
		t.Fatal(err)
	}
	s.pass(time.Hour)
	s.is(progress.Degraded, "E_TPM_LOG_REPLAY,E_TPM_REFERENCE")
	s.pass(time.Hour)
	s.is(progress.Degraded, "E_TPM_LOG_REPLAY,E_TPM_REFERENCE")
	s.change(func() {
		if s.locked {
			t.Error("it is locked before its time")
		}
	})
	s.clock.mu.Lock()
	s.now = s.now.Add(2 * time.Hour)
	s.clock.mu.Unlock()
	s.tick <- struct{}{}
	if status := s.locks(fault.AttestationLease); !strings.Contains(status.Reason, "E_TPM_LOG_REPLAY") && !strings.Contains(status.Reason, "PCR 11") {
		t.Errorf("the reason is %q", status.Reason)
	}
}

// TestCondition: it follows how the keys serve.
func TestCondition(t *testing.T) {
	s := newSite(t)
	s.start()
	s.waits()
	for _, state := range []progress.State{progress.Degraded, progress.Locked, progress.Serving} {
		s.change(func() { s.condition = state })
		s.pass(time.Second)
		code := "E_HSM_AWAY"
		if state == progress.Serving {
			code = ""
		}
		s.is(state, fault.Code(code))
	}
	steps := s.boot.Status().Steps
	var states []string
	for _, step := range steps[6:] {
		states = append(states, step.State)
	}
	if got := strings.Join(states, " "); got != "serving degraded locked serving" {
		t.Errorf("the steps are %s", got)
	}
}

var _ boot.Journal = (*sqlite.Machine)(nil)

// TestUnlockedHasNoCredential: what a boot waits for once it is unlocked does not keep the
// credential in memory, and comes before the first look at the condition.
func TestUnlockedHasNoCredential(t *testing.T) {
	s := newSite(t)
	condition := s.options.Condition
	s.options.Condition = func() (progress.State, *fault.Fault) {
		s.change(func() { s.unlocked = append(s.unlocked, "condition") })
		return condition()
	}
	s.options.Unlocked = func(context.Context) {
		s.change(func() {
			if strings.Trim(string(s.unlocks[0]), "\x00") != "" {
				t.Error("the credential is in memory")
			}
			s.unlocked = append(s.unlocked, "wait")
		})
	}
	s.failures = []error{nil, fault.Errorf(fault.HSMAway, "the HSM is away")} // of the first unlock
	s.start()
	s.pass(s.waits())
	s.is(progress.Serving, "")
	s.change(func() {
		if got := strings.Join(s.unlocked, ", "); got != "unlock, wait, condition" {
			t.Error(got)
		}
	})
}
