package attest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/attest/processor"
	"holdfast/attest/tpm"
)

// Collector makes evidence of the machine that it runs on (RFC 9334 section
// 3.1, attesting environment). A technology that is nil is one that the machine
// does not have.
type Collector struct {
	// Software is the version of the appliance.
	Software string
	// PolicyDigest is the SHA-256 of the policy in force; nil without one.
	PolicyDigest []byte

	// LaunchDigest and OwnerDigest are named in the evidence; see [Evidence]. Nil
	// without a launch file and an owner.
	LaunchDigest, OwnerDigest []byte

	// Report gives the processor's report.
	Report processor.Source
	// TPM is with the firmware's event log and what Holdfast has measured.
	TPM          *tpm.Device
	EventLog     []byte
	Measurements []tpm.Measurement
	// Nitro asks the NitroTPM for a document with the user data and the nonce.
	Nitro func(userData, nonce []byte) ([]byte, error)
	// Instance gives EC2's signed identity of the instance, at most ec2.MaxDocument bytes; nil
	// where there is none, or it cannot be had now. It is asked only while the policy in
	// force asks for it, since it tells everybody the account.
	Instance func(ctx context.Context) []byte
	// AuditKey is named in the evidence; see [Evidence].
	AuditKey []byte
	// State, if given, gives the head of the state that is served; nil if none is.
	State func(ctx context.Context) *State
	// Now is the clock; time.Now if nil.
	Now func() time.Time

	mu   sync.Mutex // the hardware does one thing at a time
	asks bool       // whether the policy in force asks for the instance's identity
}

// Measure extends [tpm.ApplicationPCR] with the SHA-256 of something that the
// appliance is made of, and has further evidence tell it.
func (c *Collector) Measure(name string, digest []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := tpm.Measurement{PCR: tpm.ApplicationPCR, Name: name, Digest: digest}
	if err := c.TPM.Measure(m); err != nil {
		return err
	}
	c.Measurements = append(c.Measurements, m)
	return nil
}

// MeasureLaunch extends [tpm.LaunchPCR] with the SHA-256 of the machine's launch file,
// if there is a TPM, and has further evidence name it and the SHA-256 of its owner's key.
// Errors: [tpm.ErrExtended], if something has extended that PCR already.
func (c *Collector) MeasureLaunch(digest, owner []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.TPM != nil {
		m := tpm.Launch(digest)
		if err := c.TPM.MeasureFirst(m); err != nil {
			return err
		}
		c.Measurements = append(c.Measurements, m)
	}
	c.LaunchDigest, c.OwnerDigest = digest, owner
	return nil
}

// Cap extends [tpm.ApplicationPCR] for the last time: whatever was sealed to its
// value stays so until the machine is restarted. It does nothing if it did that
// already.
func (c *Collector) Cap() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (&tpm.Evidence{Measurements: c.Measurements}).Capped() {
		return nil
	}
	m, err := c.TPM.Cap()
	if err != nil {
		return err
	}
	c.Measurements = append(c.Measurements, m)
	return nil
}

// Technologies are those that the machine has.
func (c *Collector) Technologies() []Technology {
	var t []Technology
	if c.Report != nil {
		t = append(t, Technology(c.Report.Kind()))
	}
	if c.TPM != nil {
		t = append(t, TPM)
	}
	if c.Nitro != nil {
		t = append(t, NitroTPM)
	}
	return t
}

// SetPolicy says which policy is in force from now on.
func (c *Collector) SetPolicy(p *SignedPolicy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.PolicyDigest, c.asks = p.Digest, p.Instance != nil
}

// Collect makes evidence for a verifier's nonce, [MinNonce] to [MaxNonce] bytes.
// tlsKey is the machine's TLS key (DER SubjectPublicKeyInfo); releaseKey is nil
// unless a credential is asked for.
func (c *Collector) Collect(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*Evidence, error) {
	if len(nonce) < MinNonce || len(nonce) > MaxNonce {
		return nil, fmt.Errorf("evidence: a nonce of %d bytes; use %d to %d", len(nonce), MinNonce, MaxNonce)
	}
	if len(tlsKey) == 0 {
		return nil, errors.New("evidence: there is no TLS key to name")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	e := &Evidence{Format: Format, Created: now().UTC().Truncate(time.Millisecond), Software: c.Software,
		Nonce: nonce, TLSKey: tlsKey, ReleaseKey: releaseKey, PolicyDigest: c.PolicyDigest, AuditKey: c.AuditKey,
		LaunchDigest: c.LaunchDigest, OwnerDigest: c.OwnerDigest}
	if c.State != nil && releaseKey == nil { // before a credential is there, nothing is served
		e.State = c.State(ctx)
	}
	if c.Instance != nil && c.asks {
		e.Instance = c.Instance(ctx)
	}
	if c.Report != nil {
		e.Report = &processor.Report{Kind: c.Report.Kind()} // which is bound as well
	}
	if c.TPM != nil {
		identity, err := c.TPM.Identify() // which goes into what the others sign
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		e.TPM = identity
	}
	binding := e.Binding()
	if c.Report != nil {
		if err := e.collectReport(c.Report, binding); err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
	}
	if c.Nitro != nil {
		var err error
		if e.Nitro, err = c.Nitro(binding[:], nonce); err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
	}
	if c.TPM != nil {
		quoted, err := c.TPM.Complete(*e.TPM, e.QuoteData(), c.EventLog, slices.Clone(c.Measurements))
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		e.TPM = quoted
	}
	return e, nil
}

// collectReport has the processor sign the binding, as the kind that is in it.
func (e *Evidence) collectReport(source processor.Source, binding [64]byte) error {
	r, err := source.Collect(binding)
	if err != nil {
		return err
	}
	if r.Kind != e.Report.Kind {
		return fmt.Errorf("the processor gave a report of the kind %.40q, not %q", r.Kind, e.Report.Kind)
	}
	e.Report = r
	return nil
}
