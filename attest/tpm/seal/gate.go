package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/counter"
)

// LaunchPCR has one event, the digest of the machine's launch file. It is its owner's:
// the publisher's authorizations do not name it, the owner's do.
const LaunchPCR = tpm.LaunchPCR

// Gated is a secret that two signers guard: the TPM gives it to a machine whose state
// both have signed, each with a version that its own counter has not passed. Either may
// sign the next release, and nothing is sealed again.
//
// The last TPM2_PolicyAuthorize of a session replaces what came before, so that two in a
// row are no AND: whoever signs last opens the object alone. So the owner's is the policy
// of an object of its own, the gate, which nothing opens but that policy, and the
// secret's policy is TPM2_PolicyAuthorize(publisher), then TPM2_PolicySecret(gate).
type Gated struct {
	// Gate is the gate, whose SigningKey is the owner's; Secret the secret, whose
	// SigningKey is the publisher's.
	Gate   Blob `json:"gate"`
	Secret Blob `json:"secret"`
}

// Approve signs the owner's authorization. It must name [LaunchPCR]: what the owner has
// chosen is in it.
func Approve(owner *ecdsa.PrivateKey, a Authorization) (*Authorization, error) {
	a.By = Owner
	return Authorize(owner, a)
}

// Succession puts another owner's key in the place of one, by that one's signature: what
// it approves counts as if the former key had. The former key still counts, until the
// secret is sealed to the next one.
type Succession struct {
	// Next is the next owner's key: a point on P-256, uncompressed, 65 bytes.
	Next []byte `json:"next"`
	// Use is what for.
	Use Use `json:"use,omitempty"`
	// Signature is by the former key: an ASN.1 DER ECDSA signature over SHA-256.
	Signature []byte `json:"signature"`
}

// Succeed signs that the next owner's key counts as the former one, for the use.
func Succeed(former *ecdsa.PrivateKey, next *ecdsa.PublicKey, use Use) (*Succession, error) {
	if _, err := signerPublic(&former.PublicKey); err != nil {
		return nil, err
	}
	point, err := next.Bytes()
	if err != nil {
		return nil, err
	}
	s := &Succession{Next: point, Use: use}
	digest, err := s.digest(next)
	if err != nil {
		return nil, err
	}
	if s.Signature, err = former.Sign(nil, digest, crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign the succession: %w", err)
	}
	return s, nil
}

// digest is what is signed: that the policy "whatever the next key approves" is approved.
func (s *Succession) digest(next *ecdsa.PublicKey) ([]byte, error) {
	policy, err := authorizedBy(next, reference(Owner, s.Use))
	if err != nil {
		return nil, err
	}
	d := sha256.Sum256(append(policy, reference(Owner, s.Use)...))
	return d[:], nil
}

// SealGated seals the secret, at most [MaxSecret] bytes, to both keys for the use. It
// makes the counters of both if there are none.
func SealGated(dev TPM, publisher, owner *ecdsa.PublicKey, use Use, secret []byte) (*Gated, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("seal: a secret of %d bytes; a TPM takes 1 to %d", len(secret), MaxSecret)
	}
	if publisher.Equal(owner) {
		return nil, errors.New("seal: publisher and owner have the same key, which would be one signer for both; give the owner a key of their own")
	}
	g := &Gated{Gate: Blob{Use: use}, Secret: Blob{Use: use}}
	for key, b := range map[*ecdsa.PublicKey]*Blob{owner: &g.Gate, publisher: &g.Secret} {
		var err error
		if b.SigningKey, err = key.Bytes(); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
	}
	gate, err := gatePublic(owner, use)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	err = dev.Do(func(t transport.TPM) error {
		for _, by := range []Signer{Publisher, Owner} {
			if _, err := by.counter().Make(t); err != nil {
				return err
			}
		}
		// What is in the gate is nobody's secret: it opens nothing, it is asked to authorize.
		if err := g.Gate.make(t, gate, []byte("holdfast-gate/v1")); err != nil {
			return err
		}
		name, err := g.Gate.name()
		if err != nil {
			return err
		}
		policy, err := gatedPolicy(publisher, use, name)
		if err != nil {
			return err
		}
		return g.Secret.make(t, sealedPublic(policy), secret)
	})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return g, nil
}

// gatePublic is the gate: without a password, its policy is whatever the owner approves,
// and then TPM2_PolicyAuthValue, without which a session authorizes no TPM2_PolicySecret
// (TPM 2.0 Part 3, section 23.4). Its authValue is empty.
func gatePublic(owner *ecdsa.PublicKey, use Use) (tpm2.TPMTPublic, error) {
	policy, err := authorizedBy(owner, reference(Owner, use), tpm2.PolicyAuthValue{})
	return sealedPublic(policy), err
}

// gatedPolicy is the secret's policy: whatever the publisher approves for the use, and the
// gate.
func gatedPolicy(publisher *ecdsa.PublicKey, use Use, gate tpm2.TPM2BName) ([]byte, error) {
	return authorizedBy(publisher, reference(Publisher, use), tpm2.PolicySecret{AuthHandle: tpm2.NamedHandle{Name: gate}})
}

// authorizedBy is the policy "whatever the key approves for the reference", and then the
// commands. TPM2_PolicyAuthorize begins anew, which go-tpm's calculator does not know: so
// it is always the first of a calculator of its own.
func authorizedBy(key *ecdsa.PublicKey, reference []byte, then ...tpm2.PolicyCommand) ([]byte, error) {
	public, err := signerPublic(key)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, err
	}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	commands := append([]tpm2.PolicyCommand{tpm2.PolicyAuthorize{KeySign: *name, PolicyRef: tpm2.TPM2BDigest{Buffer: reference}}}, then...)
	for _, c := range commands {
		if err := c.Update(calculator); err != nil {
			return nil, err
		}
	}
	return calculator.Hash().Digest, nil
}

// name is the object's.
func (b *Blob) name() (tpm2.TPM2BName, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](b.Public)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return *name, nil
}

// Unseal gives the secret if the publisher has authorized and the owner has approved the
// state that the machine is in, and the names of both signatures. successions lead from
// the owner's key that the secret is sealed to to the one that has approved; none if it is
// the same. The caller zeroizes the secret. Errors: [*fault.Fault], if trying again would
// not help; [ErrExtended].
func (g *Gated) Unseal(dev TPM, authorizations, approvals []Authorization, successions ...Succession) (secret []byte, names [2]string, err error) {
	publisher, err1 := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Secret.SigningKey)
	owner, err2 := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Gate.SigningKey)
	if err := errors.Join(err1, err2); err != nil {
		return nil, names, fault.Wrapf(fault.SealFile, err, "a signing key of the sealed blob is none")
	}
	o := &opening{Gated: g, publisher: publisher, owners: []*ecdsa.PublicKey{owner}, successions: successions}
	for _, s := range successions {
		next, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), s.Next)
		if err != nil {
			return nil, names, fault.Wrapf(fault.SealSignature, err, "the next owner's key is none")
		}
		o.owners = append(o.owners, next)
	}
	err = dev.Do(func(t transport.TPM) error {
		if err := g.check(t, publisher, owner); err != nil {
			return err
		}
		return unextended(func() (err error) {
			if o.authorization, err = chooseOf(t, publisher, Publisher, g.Secret.Use, authorizations); err != nil {
				return err
			}
			if o.approval, err = chooseOf(t, o.owners[len(o.owners)-1], Owner, g.Secret.Use, approvals); err != nil {
				return err
			}
			names = [2]string{o.authorization.Name, o.approval.Name}
			secret, err = o.unseal(t)
			return err
		})
	})
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, [2]string{}, refused
	}
	if err != nil {
		return nil, [2]string{}, fmt.Errorf("unseal: %w", err)
	}
	return secret, names, nil
}

// check says whether gate and secret are what this program makes, for these keys, and were
// made by this TPM.
func (g *Gated) check(t transport.TPM, publisher, owner *ecdsa.PublicKey) error {
	gate, err := gatePublic(owner, g.Gate.Use)
	if err != nil {
		return err
	}
	name, err := g.Gate.name()
	if err != nil {
		return fault.Wrapf(fault.SealTPM, err, "the gate is damaged")
	}
	policy, err := gatedPolicy(publisher, g.Secret.Use, name)
	if err != nil {
		return err
	}
	if g.Gate.Use != g.Secret.Use {
		return fault.Errorf(fault.SealMade, "the gate is for the %s, and the secret for the %s", g.Gate.Use, g.Secret.Use)
	}
	if err := g.Gate.made(t, gate); err != nil {
		return err
	}
	return g.Secret.made(t, sealedPublic(policy))
}

// chooseOf is choose among what the signer has signed.
func chooseOf(t transport.TPM, key *ecdsa.PublicKey, by Signer, use Use, all []Authorization) (*Authorization, error) {
	if _, err := by.counter().Read(t); errors.Is(err, counter.ErrNone) {
		return nil, fault.Errorf(fault.SealTPM, "this TPM has no counter of the %s's: the secret was sealed by another, or its owner was cleared", by)
	}
	return chosenBefore(t, key, wanted{by, use}, all)
}

// chosenBefore is chooseOf, also before anything was sealed in this TPM.
func chosenBefore(t transport.TPM, key *ecdsa.PublicKey, want wanted, all []Authorization) (*Authorization, error) {
	value, err := want.By.counter().Read(t)
	if err != nil && !errors.Is(err, counter.ErrNone) {
		return nil, err
	}
	a, err := choose(t, key, want, value, all)
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		code := f.Code
		if want.By == Owner && code == fault.SealPCRs {
			code = fault.SealApproval
		}
		return nil, fault.Wrapf(code, f, "the %s has not authorized this", want.By)
	}
	return a, err
}

// ApproveRelease signs the owner's authorization for each of the publisher's for the
// credential: the same state of a machine, and the launch file of that digest (SHA-256) in
// [LaunchPCR]. version is for the owner's counter. The publisher's authorizations for
// other uses need none. It verifies no signature of the publisher.
func ApproveRelease(owner *ecdsa.PrivateKey, authorizations []Authorization, launch []byte, version uint64) ([]Authorization, error) {
	var all []Authorization
	for _, a := range authorizations {
		if a.By != Publisher || a.Use != Credential {
			continue
		}
		value, err := tpm.LaunchValue(a.Bank, launch)
		if err != nil {
			return nil, fmt.Errorf("approve %q: %w", a.Name, err)
		}
		if theirs, ok := a.PCRs[LaunchPCR]; ok && !bytes.Equal(theirs, value) {
			return nil, fmt.Errorf("approve %q: the publisher has signed PCR %d as %x, which is not the launch file's: no machine with that file could be in this state", a.Name, LaunchPCR, []byte(theirs))
		}
		approval := Authorization{Name: a.Name, Use: a.Use, Bank: a.Bank, PCRs: maps.Clone(a.PCRs), Version: version}
		approval.PCRs[LaunchPCR] = value
		signed, err := Approve(owner, approval)
		if err != nil {
			return nil, fmt.Errorf("approve: %w", err)
		}
		all = append(all, *signed)
	}
	if len(all) == 0 {
		return nil, errors.New("approve: there is no authorization of the publisher's for the credential, so there is nothing to approve")
	}
	return all, nil
}

// opening is one attempt.
type opening struct {
	*Gated
	publisher     *ecdsa.PublicKey
	owners        []*ecdsa.PublicKey // from the one that is sealed to, to the last
	successions   []Succession
	authorization *Authorization
	approval      *Authorization
}

// unseal loads both objects and begins the sessions; then the storage root key must go, as
// there is room for three, and the signing keys come.
func (o *opening) unseal(t transport.TPM) (secret []byte, err error) {
	var gate, sealed tpm2.NamedHandle
	var main, approving tpm2.Session
	defer func() {
		for _, h := range []tpm2.TPMHandle{gate.Handle, sealed.Handle} {
			if h != 0 {
				flush(t, h)
			}
		}
		for _, s := range []tpm2.Session{main, approving} {
			if s != nil {
				flush(t, s.Handle())
			}
		}
	}()
	err = withSRK(t, o.Secret.Parent, func(s *srk) (err error) {
		if gate, err = s.load(t, o.Gate.Public, o.Gate.Private); err != nil {
			return err
		}
		if sealed, err = s.load(t, o.Secret.Public, o.Secret.Private); err != nil {
			return err
		}
		if main, err = s.policySession(t); err != nil {
			return err
		}
		approving, err = s.policySession(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := satisfy(t, main, o.publisher, o.authorization); err != nil {
		return nil, err
	}
	if err := o.approve(t, approving); err != nil {
		return nil, err
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: gate.Handle, Name: gate.Name, Auth: approving},
		PolicySession: main.Handle(),
	}.Execute(t)
	if err != nil {
		return nil, fault.Wrapf(fault.SealPCRs, err, "the TPM does not take the owner's approval")
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: sealed.Handle, Name: sealed.Name, Auth: main}}.Execute(t)
	if err != nil {
		return nil, fault.Wrapf(fault.SealPCRs, err, "the TPM refuses the secret")
	}
	return rsp.OutData.Buffer, nil
}

// approve has the TPM check the owner's approval, and each succession from the key that
// has signed it back to the one that the secret is sealed to.
func (o *opening) approve(t transport.TPM, session tpm2.Session) error {
	last := len(o.owners) - 1
	if err := satisfy(t, session, o.owners[last], o.approval); err != nil {
		return err
	}
	for i := last; i > 0; i-- {
		s, former := &o.successions[i-1], o.owners[i-1]
		digest, err := s.digest(o.owners[i])
		if err != nil {
			return err
		}
		approved, err := authorizedBy(o.owners[i], reference(Owner, s.Use))
		if err != nil {
			return err
		}
		if err := authorized(t, session, former, signature{"the succession of the owner's key", approved, reference(Owner, s.Use), digest, s.Signature}); err != nil {
			return err
		}
	}
	if _, err := (tpm2.PolicyAuthValue{PolicySession: session.Handle()}).Execute(t); err != nil {
		return fmt.Errorf("TPM2_PolicyAuthValue: %w", err)
	}
	return nil
}

// policySession begins a policy session that is salted to the storage root key and
// encrypts what the TPM answers. It is flushed by its handle.
func (s *srk) policySession(t transport.TPM) (tpm2.Session, error) {
	session, _, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Salted(s.handle, s.public), tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, fmt.Errorf("policy session: %w", err)
	}
	return session, nil
}

// RevokeApprovals has this TPM refuse all of the owner's approvals of a version below, for
// good, as [Revoke] does with the publisher's authorizations.
func RevokeApprovals(dev TPM, below uint64) error { return revoke(dev, Owner.counter(), below) }

// CheckRevokeApprovals gives the error that RevokeApprovals would, as [CheckRevoke] does.
func CheckRevokeApprovals(dev TPM, below uint64) error {
	return checkRevoke(dev, Owner.counter(), below)
}
