package boot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/release"
)

// faultOf gives err as a fault; an error that is none was not foreseen.
func faultOf(err error) *fault.Fault {
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return f
	}
	return fault.Wrapf(fault.BootInternal, err, "an unforeseen error")
}

// Releaser gives the HSM's credential to a machine that may have it:
// [*SealedRelease], [*BrokerRelease] and [NoRelease].
type Releaser interface {
	// Release asks once. It gives the credential, which the caller zeroizes, and
	// says what it was released to. Errors: a [*fault.Fault], and the boot asks again if
	// its class is fault.TryAgain.
	Release(ctx context.Context, c *attest.Collector) (credential []byte, to string, err error)
}

// Options are what a boot works with. All but Log, Now, Wait, Roots and the
// times are needed.
type Options struct {
	Log *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Wait waits for so long, or until ctx ends; a timer if nil.
	Wait func(ctx context.Context, d time.Duration) error

	Journal Journal
	// Software is the version that evidence tells.
	Software string
	// Probe gives the hardware of this machine, as far as the policy needs it. With an
	// error it gives what it has found all the same, so that a TPM is capped.
	Probe func(ctx context.Context, p *attest.Policy) (*attest.Collector, error)
	// Policy reads the appraisal policy.
	Policy func() (*attest.SignedPolicy, error)
	// Ignored, if given, says which file of policies is there and does not count; nil if
	// each does. It is a step of the boot, which goes on.
	Ignored func() *fault.Fault
	// Endorsements, if given, reads what the appliance has of its own besides the policy.
	// Errors: [*fault.Fault].
	Endorsements func() (attest.Endorsements, error)
	// Revoked gives the version below which policies are revoked by this machine's
	// TPM; 0 if there are none.
	Revoked func(c *attest.Collector) (uint64, error)
	// Launch is measured first; nil on an image that asks for no launch file.
	Launch *Launch
	// Parts are measured, in this order.
	Parts []parts.Part
	// TLSKey gives the key that administrators see now (DER SubjectPublicKeyInfo). When it
	// becomes another one, evidence is renewed.
	TLSKey func() ([]byte, error)
	// Measured, if given, is called before each attempt at the release, when the machine
	// has been appraised by the policy and the TPM is not capped yet. With an
	// error nothing is released.
	Measured func(ctx context.Context, c *attest.Collector, policy attest.SignedID) error
	// Release is asked for the HSM's credential.
	Release Releaser
	// Unlock opens HSM and keys with the credential, once.
	Unlock func(ctx context.Context, credential []byte) error
	// WrongPIN, if given, says of an error of Unlock that the HSM was given the credential and says that it is
	// wrong: a sealed one is put aside then.
	WrongPIN func(error) bool
	// Unlocked, if given, is called once it is unlocked and the credential is cleared, before
	// the first look at the condition.
	Unlocked func(ctx context.Context)
	// Condition says whether keys serve while it is unlocked: [Serving],
	// [Degraded] or [Locked], and why.
	Condition func() (progress.State, *fault.Fault)
	// Lock wipes all keys, for good.
	Lock func()
	// Changed, if given, is called when the boot has come to [Serving], [Degraded]
	// or [Locked], or waits for another attempt.
	Changed func(progress.Status)

	// Roots are those of a simulated platform; nil trusts the manufacturers.
	Roots *attest.Roots
	// Every is how often evidence is renewed; [DefaultEvery] if zero.
	Every time.Duration
	// Lease is how long keys serve when evidence cannot be renewed; [DefaultLease] if zero.
	Lease time.Duration
}

// The defaults of [Options].
const (
	DefaultEvery = time.Hour
	DefaultLease = 24 * time.Hour
)

// Boot is one boot of the appliance. Its methods may be called concurrently.
type Boot struct {
	o    Options
	id   string
	wake chan struct{} // ends a pause between attempts
	// renewal says that evidence is to be renewed now.
	renewal atomic.Bool

	// Of the goroutine of Run.
	seq        int
	policy     *attest.SignedPolicy
	own        attest.Endorsements
	evidence   *attest.Evidence
	tlsKey     []byte // that the evidence was collected with
	nonce      []byte
	credential []byte
	// capped says that the PCR was capped when this boot began, by a process before.
	capped bool

	// taker takes a PIN from the machine's owner; giving is held while it does.
	taker  *release.Taker
	giving sync.Mutex

	mu        sync.Mutex
	collector *attest.Collector
	status    progress.Status
	given     string // who gave the PIN in this boot, for people; empty if nobody did
}

// New makes a boot that has not begun.
func New(o Options) *Boot {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	if o.Every <= 0 {
		o.Every = DefaultEvery
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	b := &Boot{o: o, id: hex.EncodeToString(id[:]), wake: make(chan struct{}, 1), taker: release.NewTaker()}
	b.status = progress.Status{Boot: b.id, State: progress.Probe, Since: b.o.Now().UTC()}
	if s, ok := o.Release.(*SealedRelease); ok && s.Owned != nil {
		b.status.Owner = attest.KeyID(s.Owned.PolicyKey)
	}
	return b
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// The pauses between attempts at a state.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// Run boots, and then watches over what serves, until ctx ends. Whatever fails
// leaves the appliance locked, with Run going on. A boot that does not come to
// serving, also because ctx ends, leaves the TPM capped.
func (b *Boot) Run(ctx context.Context) {
	defer func() { clear(b.credential) }()
	for _, step := range []struct {
		state progress.State
		do    func(context.Context) (reason string, err error)
	}{
		{progress.Probe, b.probe}, {progress.Measure, b.measure}, {progress.Collect, b.collect}, {progress.Appraise, b.appraise}, {progress.Release, b.release}, {progress.Unlock, b.unlock},
	} {
		if f := b.step(ctx, step.state, step.do); f != nil {
			clear(b.credential)
			f = b.shut(f)
			if ctx.Err() == nil {
				b.o.Lock()
				b.enter(ctx, progress.Locked, f)
				<-ctx.Done()
			}
			return
		}
	}
	b.watch(ctx)
}

// step does what a state is for, again and again as long as that may help.
func (b *Boot) step(ctx context.Context, state progress.State, do func(context.Context) (string, error)) *fault.Fault {
	began := b.o.Now()
	b.set(func(s *progress.Status) { s.State, s.Since, s.Code, s.Reason = state, began.UTC(), "", "" })
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		reason, err := do(ctx)
		if err == nil {
			b.record(ctx, progress.Step{State: string(state), Began: began, Took: b.o.Now().Sub(began), Reason: reason})
			return nil
		}
		f := faultOf(err)
		if again := f.Class() == fault.TryAgain || errors.As(err, new(awaitsPIN)); !again || ctx.Err() != nil {
			b.record(ctx, progress.Step{State: string(state), Began: began, Took: b.o.Now().Sub(began), Code: f.Codes(), Reason: f.Reason()})
			return f
		}
		b.o.Log.Error("locked: a state of the boot failed and is tried again", "state", state, "code", f.Codes(), "reason", f.Reason(), "pause", pause)
		b.set(func(s *progress.Status) { s.Code, s.Reason = f.Codes(), f.Reason() })
		b.changed()
		b.pause(ctx, pause)
	}
}

// pause waits, until [Boot.Wake] is called at most.
func (b *Boot) pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.o.Wait(ctx, d)
	}()
	select {
	case <-ended:
	case <-b.wake:
		cancel()
		<-ended
	}
}

// Wake has a state that waits for its next attempt make it now.
func (b *Boot) Wake() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// enter goes to a state without an end of its own.
func (b *Boot) enter(ctx context.Context, state progress.State, f *fault.Fault) {
	now := b.o.Now()
	step := progress.Step{State: string(state), Began: now}
	if f != nil {
		step.Code, step.Reason = f.Codes(), f.Reason()
	}
	b.set(func(s *progress.Status) {
		s.State, s.Since, s.Code, s.Reason = state, now.UTC(), step.Code, step.Reason
	})
	b.record(ctx, step)
	b.changed()
}

func (b *Boot) changed() {
	if b.o.Changed != nil {
		b.o.Changed(b.Status())
	}
}

// record logs a step and stores it. That it cannot be stored does not hold the
// boot up: the log has it.
func (b *Boot) record(ctx context.Context, s progress.Step) {
	b.seq++
	s.Boot, s.Seq, s.Began = b.id, b.seq, s.Began.UTC().Truncate(time.Millisecond)
	level := slog.LevelInfo
	if s.Code != "" {
		level = slog.LevelError
	}
	b.o.Log.Log(ctx, level, "boot", "state", s.State, "took", s.Took.Round(time.Microsecond), "code", s.Code, "reason", s.Reason)
	b.set(func(status *progress.Status) { status.Steps = append(status.Steps, s) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := b.o.Journal.RecordBootStep(ctx, s); err != nil {
		b.o.Log.Error("a state of the boot could not be stored", "state", s.State, "error", err)
	}
}

// keptSteps bounds the steps that a status tells.
const keptSteps = 100

func (b *Boot) set(change func(*progress.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.status)
	if n := len(b.status.Steps); n > keptSteps {
		b.status.Steps = append([]progress.Step(nil), b.status.Steps[n-keptSteps:]...)
	}
}

// Status gives the present status.
func (b *Boot) Status() progress.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Steps = append([]progress.Step{}, s.Steps...)
	if s.Attestation != nil {
		a := *s.Attestation
		s.Attestation = &a
	}
	return s
}

// Evidence makes fresh evidence for a verifier's nonce ([attest.MinNonce] to
// [attest.MaxNonce] bytes), in every state. Errors: [ErrNoPlatform]; or what the
// hardware says.
func (b *Boot) Evidence(ctx context.Context, nonce []byte) (*attest.Evidence, error) {
	e, _, err := b.fresh(ctx, nonce, nil)
	return e, err
}

// Appraise makes fresh evidence and checks it as any verifier would, under the
// policy in force, or the default policy while there is none. Errors are those of
// [Boot.Evidence]; evidence that fails is none.
func (b *Boot) Appraise(ctx context.Context, nonce []byte) (*attest.Evidence, *appraisal.Verdict, error) {
	e, key, err := b.fresh(ctx, nonce, nil)
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	signed, own := b.policy, b.own
	b.mu.Unlock()
	x := attest.Expectation{At: b.o.Now(), Nonce: nonce, TLSKey: key, Endorsements: own, Roots: b.o.Roots}
	if signed == nil {
		policy := attest.DefaultPolicy()
		return e, attest.Verify(e, &policy, x), nil
	}
	x.Signed, x.PolicyDigest = signed, signed.Digest
	return e, attest.Verify(e, &signed.Policy, x), nil
}

// fresh makes evidence that names the release key, if there is one, and gives the TLS key
// that it names.
func (b *Boot) fresh(ctx context.Context, nonce, releaseKey []byte) (*attest.Evidence, []byte, error) {
	b.mu.Lock()
	c := b.collector
	b.mu.Unlock()
	if c == nil || len(c.Technologies()) == 0 {
		return nil, nil, progress.ErrNoPlatform
	}
	key, err := b.o.TLSKey()
	if err != nil {
		return nil, nil, err
	}
	e, err := c.Collect(ctx, nonce, key, releaseKey)
	return e, key, err
}
