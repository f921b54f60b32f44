package boot

import (
	"bytes"
	"context"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

const (
	// lookEvery is how often it is looked whether keys serve.
	lookEvery = time.Second
	// renewAgain is the pause after evidence could not be renewed.
	renewAgain = time.Minute
	// beforeExpiry is how long before the processor's certificate expires evidence
	// is renewed, so that the report is signed under a new one.
	beforeExpiry = 10 * time.Minute
)

// watch goes between serving, degraded and locked as things are, and renews
// evidence, also when the TLS key is another one, until ctx ends.
func (b *Boot) watch(ctx context.Context) {
	state, f := b.o.Condition()
	b.enter(ctx, state, f)
	renewed := b.o.Now()
	next := b.plan(renewed)
	var stale *fault.Fault // why evidence could not be renewed
	for b.o.Wait(ctx, lookEvery) == nil {
		now := b.o.Now()
		if !now.Before(next) || stale == nil && b.keyReplaced() || b.renewal.CompareAndSwap(true, false) {
			if stale = b.renew(ctx); stale == nil {
				renewed, next = now, b.plan(now)
			} else {
				next = b.planAt(now.Add(renewAgain))
			}
		}
		if stale != nil && now.Sub(renewed) > b.o.Lease {
			b.o.Lock()
			b.enter(ctx, progress.Locked, fault.Wrapf(fault.AttestationLease, stale, "evidence could not be renewed for longer than %s: all keys are wiped; correct what is wrong and restart the machine", b.o.Lease))
			<-ctx.Done()
			return
		}
		state, f := b.o.Condition()
		if state == progress.Serving && stale != nil {
			state, f = progress.Degraded, stale
		}
		b.follow(ctx, state, f)
	}
}

// keyReplaced says whether the machine serves with another TLS key than that of the newest
// evidence.
func (b *Boot) keyReplaced() bool {
	key, err := b.o.TLSKey()
	return err == nil && !bytes.Equal(key, b.tlsKey)
}

// Renew has a machine that serves make its evidence again at the next look, and appraise it
// by the policy that there is then.
func (b *Boot) Renew() { b.renewal.Store(true) }

// follow enters the state if it is another, or has another reason.
func (b *Boot) follow(ctx context.Context, state progress.State, f *fault.Fault) {
	now := b.Status()
	code := ""
	if f != nil {
		code = f.Codes()
	}
	if now.State != state || now.Code != code {
		b.enter(ctx, state, f)
	}
}

// renew makes fresh evidence and appraises it, under the policy that there is
// now.
func (b *Boot) renew(ctx context.Context) *fault.Fault {
	began := b.o.Now()
	policy, err := b.o.Policy()
	if err != nil {
		err = UnusablePolicy(err)
	} else {
		err = b.adopt(ctx, policy)
	}
	if err == nil {
		_, err = b.collect(ctx)
	}
	if err == nil {
		_, err = b.appraise(ctx)
	}
	if err != nil {
		f := faultOf(err)
		b.o.Log.Error("evidence could not be renewed; keys serve on for a limited time", "code", f.Codes(), "reason", f.Reason(), "lease", b.o.Lease)
		return f
	}
	b.o.Log.Info("evidence was renewed", "took", b.o.Now().Sub(began))
	return nil
}

// plan says when evidence that was made at that time is renewed.
func (b *Boot) plan(made time.Time) time.Time {
	next := made.Add(b.o.Every)
	b.mu.Lock()
	expires := b.status.Attestation.KeyExpires
	b.mu.Unlock()
	if !expires.IsZero() && expires.Add(-beforeExpiry).Before(next) {
		next = expires.Add(-beforeExpiry)
		if soonest := made.Add(renewAgain); next.Before(soonest) {
			next = soonest // it is not to spin when no new certificate comes
		}
	}
	return b.planAt(next)
}

func (b *Boot) planAt(next time.Time) time.Time {
	b.set(func(s *progress.Status) {
		if s.Attestation != nil {
			s.Attestation.Next = next.UTC()
		}
	})
	return next
}
