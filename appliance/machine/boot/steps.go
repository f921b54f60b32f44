package boot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// probe reads the policy and finds the hardware. Without a policy it finds what
// evidence can be made with all the same.
func (b *Boot) probe(ctx context.Context) (string, error) {
	policy, policyErr := b.o.Policy()
	if policyErr != nil {
		policy = &attest.SignedPolicy{Policy: attest.Policy{Require: []attest.Technology{attest.SEVSNP, attest.TPM}}}
	}
	c, err := b.o.Probe(ctx, &policy.Policy)
	if c != nil {
		c.Software = b.o.Software
		b.mu.Lock()
		b.collector = c
		b.mu.Unlock()
	}
	switch {
	case policyErr != nil:
		return "", UnusablePolicy(policyErr)
	case errors.As(err, new(*fault.Fault)):
		return "", err
	case err != nil:
		return "", fault.Wrapf(fault.Platform, err, "the machine's hardware cannot be used")
	}
	found := c.Technologies()
	for _, t := range policy.Require {
		if !slices.Contains(found, t) {
			return "", fault.Errorf(fault.Platform, "the policy requires %s, and this machine has %s; %s", t, listed(found), attest.Remedy(t))
		}
	}
	if b.o.Ignored != nil {
		if f := b.o.Ignored(); f != nil {
			b.record(ctx, progress.Step{State: string(progress.Probe), Began: b.o.Now(), Code: f.Codes(), Reason: f.Reason()})
		}
	}
	return listed(found), b.adopt(ctx, policy)
}

// UnusablePolicy is why there is no policy to appraise by.
func UnusablePolicy(err error) *fault.Fault {
	f := fault.Wrapf(fault.PolicyFile, err, "the appraisal policy cannot be used")
	if errors.Is(err, attest.ErrUnproven) {
		f.Code = fault.PolicyUnproven
	}
	return f
}

func listed(found []attest.Technology) string {
	if len(found) == 0 {
		return "none of the technologies"
	}
	var names []string
	for _, t := range found {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

// adopt puts a policy in force, unless there was a newer one.
func (b *Boot) adopt(ctx context.Context, policy *attest.SignedPolicy) error {
	if b.policy != nil && bytes.Equal(policy.Digest, b.policy.Digest) {
		return nil
	}
	revoked, err := b.o.Revoked(b.collector)
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the TPM does not tell which policies are revoked")
	}
	if policy.Version < revoked {
		return fault.Errorf(fault.PolicyVersion, "the policy %q has version %d, and this machine's TPM has revoked all below %d; install a newer signed policy", policy.Name, policy.Version, revoked)
	}
	highest, err := b.o.Journal.RaisePolicyVersion(ctx, policy.ID())
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the database does not tell which policy there was before")
	}
	if err := highest.CheckNext(policy.ID()); err != nil {
		return fault.Errorf(fault.PolicyVersion, "the policy %q is refused: %s", policy.Name, err)
	}
	b.mu.Lock()
	b.policy = policy
	b.mu.Unlock()
	b.collector.SetPolicy(policy)
	return nil
}

// measure extends the PCR with what the appliance is made of.
func (b *Boot) measure(ctx context.Context) (string, error) {
	c := b.collector
	if c.TPM == nil {
		return "there is no TPM to measure into", b.measureLaunch(ctx)
	}
	values, err := c.TPM.ReadPCRs("sha256", []int{tpm.ApplicationPCR})
	if err != nil {
		return "", fault.Wrapf(fault.Measure, err, "the TPM does not tell its PCRs")
	}
	if v := values[tpm.ApplicationPCR]; !bytes.Equal(v, make([]byte, len(v))) {
		b.capped = b.isCapped(v)
		return "", fault.Errorf(fault.MeasuredTwice, "PCR %d was extended already since the machine was started: Holdfast ran before, or something else uses it; restart the machine", tpm.ApplicationPCR)
	}
	if err := b.measureLaunch(ctx); err != nil {
		return "", err
	}
	var names []string
	if b.o.Launch != nil {
		names = append(names, "launch file")
	}
	for _, p := range b.o.Parts {
		digest, err := p.Digest()
		if err == nil {
			err = c.Measure(p.Name, digest)
		}
		if f, ok := errors.AsType[*fault.Fault](err); ok {
			return "", f
		}
		if err != nil {
			return "", fault.Wrapf(fault.Measure, err, "%s cannot be measured", p.Name)
		}
		names = append(names, p.Name)
	}
	return strings.Join(names, ", "), nil
}

// isCapped says whether a SHA-256 value of the PCR is that of this appliance's own
// measurements and the cap: that of one which serves, or has served.
func (b *Boot) isCapped(value []byte) bool {
	var list []tpm.Measurement
	for _, p := range b.o.Parts {
		digest, err := p.Digest()
		if err != nil {
			return false
		}
		list = append(list, tpm.Measurement{PCR: tpm.ApplicationPCR, Name: p.Name, Digest: digest})
	}
	capped, err := tpm.Replay("sha256", append(list, tpm.Cap()))
	return err == nil && bytes.Equal(capped, value)
}

// shut caps the PCR where a boot ends that does not come to serving: what the TPM
// has not released to it, it releases to no later process either. It gives the
// boot's failure, with the cap's if there was one.
func (b *Boot) shut(f *fault.Fault) *fault.Fault {
	if b.collector == nil || b.collector.TPM == nil || b.capped {
		return f
	}
	err := b.collector.Cap()
	if err == nil {
		b.o.Log.Info("the TPM is capped: until the machine is restarted it releases nothing", "pcr", tpm.ApplicationPCR)
		return f
	}
	const reason = "the PCR could not be capped, so the TPM may release the PIN or the state volume's key to another process; restart the machine"
	b.o.Log.Error(reason, "code", fault.CapFailed, "pcr", tpm.ApplicationPCR, "error", err)
	both := fault.Wrapf(f.Code, err, "%s; and %s", f.Reason(), reason)
	if both.Also = f.Also; f.Code != fault.CapFailed {
		both.Also = append(slices.Clone(f.Also), fault.CapFailed)
	}
	return both
}

// nonceBytes is the size of the nonces for the appliance's own appraisal.
const nonceBytes = 32

// collect makes evidence.
func (b *Boot) collect(ctx context.Context) (string, error) {
	b.nonce = make([]byte, nonceBytes)
	_, _ = rand.Read(b.nonce) // never fails (crypto/rand)
	key, err := b.o.TLSKey()
	b.tlsKey = key
	if err == nil {
		b.evidence, err = b.collector.Collect(ctx, b.nonce, key, nil)
	}
	if err != nil {
		return "", fault.Wrapf(fault.Collect, err, "no evidence could be made")
	}
	return listed(b.collector.Technologies()), nil
}

// appraise checks the evidence as any verifier would.
func (b *Boot) appraise(ctx context.Context) (string, error) {
	key, err := b.o.TLSKey()
	if err != nil {
		return "", fault.Wrapf(fault.Collect, err, "the TLS key cannot be read")
	}
	if b.evidence == nil || !bytes.Equal(key, b.tlsKey) { // the key was replaced meanwhile
		if _, err := b.collect(ctx); err != nil {
			return "", err
		}
	}
	if err := b.endorse(ctx); err != nil {
		return "", err
	}
	now := b.o.Now()
	verdict := attest.Verify(b.evidence, &b.policy.Policy, attest.Expectation{At: now, Nonce: b.nonce, TLSKey: b.tlsKey, PolicyDigest: b.policy.Digest, Signed: b.policy, Endorsements: b.own, Roots: b.o.Roots})
	refused := b.policy.Accept(verdict)
	a := &progress.Attestation{Time: now.UTC(), Result: verdict.Result, Accepted: refused == nil, Policy: b.policy.Name, Version: b.policy.Version, KeyExpires: b.keyExpires()}
	for _, c := range verdict.Checks {
		if c.Code == string(fault.TPMReference) && c.Result == appraisal.Pass {
			a.Reference = c.Detail
		}
	}
	if u := b.policy.Forced(); u.Words != "" {
		a.Unproven = u.Words
		b.o.Log.Warn("the policy does not prove which code runs", "policy", b.policy.Name, "version", b.policy.Version, "unproven", u.Words, "because", strings.Join(u.Because, "; "))
	}
	b.set(func(s *progress.Status) { s.Attestation = a })
	if refused != nil {
		// What only the clock refuses is of class fault.TryAgain: it may pass with fresh
		// evidence, when the clock is set.
		f := fault.Decoded(cmp.Or(verdict.Against(), string(fault.Appraise)), "the evidence does not meet the policy")
		f.Err = refused
		b.evidence = nil
		return "", f
	}
	return a.Reference, nil
}

// keyExpires is when the evidence's processor report is no longer good, as the
// certificate of the key that signed it is not.
func (b *Boot) keyExpires() time.Time {
	expires, err := attest.Expires(b.evidence, b.o.Roots)
	if err != nil {
		return time.Time{} // the appraisal says so
	}
	return expires
}

// release gets the credential and closes the door behind it.
func (b *Boot) release(ctx context.Context) (string, error) {
	if b.o.Measured != nil {
		if err := b.o.Measured(ctx, b.collector, b.policy.ID()); err != nil {
			return "", err
		}
	}
	credential, to, err := b.o.Release.Release(ctx, b.collector)
	if err != nil {
		return "", err
	}
	if b.collector.TPM != nil {
		if err := b.collector.Cap(); err != nil {
			clear(credential)
			return "", fault.Wrapf(fault.CapFailed, err, "the PCR could not be capped, so that others could get the credential")
		}
	}
	b.credential = credential
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given != "" {
		to += "; " + b.given
	}
	return "released to " + to, nil
}

// unlock opens the HSM and the keys.
func (b *Boot) unlock(ctx context.Context) (string, error) {
	if err := b.o.Unlock(ctx, b.credential); err != nil {
		return "", b.putAside(err)
	}
	clear(b.credential)
	b.credential = nil
	if b.o.Unlocked != nil {
		b.o.Unlocked(ctx)
	}
	return "", nil
}

// putAside puts a sealed credential aside that the HSM says is wrong: no later start tries it again, and HSMs
// lock after a few wrong ones. It gives the failure of the unlock with what became of that.
func (b *Boot) putAside(err error) error {
	s, ok := b.o.Release.(*SealedRelease)
	if !ok || b.o.WrongPIN == nil || !b.o.WrongPIN(err) {
		return err
	}
	f := faultOf(err)
	aside := "the sealed PIN was put aside, so no start tries it again: restart the machine, which then waits for another one, and give it with " + s.command()
	if why := s.putAside(); why != nil {
		aside = "the sealed PIN could not be put aside (" + why.Error() + "), so each start of the machine tries it once more: give another one before, with " + s.command()
	}
	return &fault.Fault{Code: f.Code, Also: f.Also, Message: f.Reason() + "; " + aside}
}
