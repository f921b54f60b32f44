package seal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
)

// Object is a secret that a TPM keeps: a [*Blob], which opens by the publisher's signature,
// or a [*Gated], which needs the owner's as well.
type Object interface {
	// Open gives the secret if the machine is in a state that was signed by those who must,
	// and what it was released to, for people. The caller zeroizes the secret. Errors:
	// [*fault.Fault] if trying again would not help; with fault.SealOwner if the object is
	// another owner's, has none and should, or has one and should not.
	Open(dev TPM, by Signed) (secret []byte, to string, err error)
	// Encode gives the file.
	Encode() ([]byte, error)
	// Proof is the TPM's of how the secret was made.
	Proof() *tpm.Creation

	blobs() []*Blob // what is in the TPM, the secret last
	validate() error
}

// Signers are those by whose signatures a secret opens.
type Signers struct {
	// Publisher makes the release. Owner owns the machine; nil if nobody besides the
	// publisher is asked.
	Publisher, Owner *ecdsa.PublicKey
}

// Seal seals the secret, at most [MaxSecret] bytes, to the signers for the use: [Seal] or
// [SealGated].
func (s Signers) Seal(dev TPM, use Use, secret []byte) (Object, error) {
	if s.Owner == nil {
		return Seal(dev, s.Publisher, use, secret)
	}
	return SealGated(dev, s.Publisher, s.Owner, use, secret)
}

// Check says why a secret that is sealed to the signers now would not open now, by what
// they have signed: nobody has signed the state that the machine is in, or it was revoked.
// It asks the TPM for its PCRs and its counters, and makes none. Errors: [*fault.Fault].
func (s Signers) Check(dev TPM, use Use, by Signed) error {
	err := dev.Do(func(t transport.TPM) error {
		if _, err := chosenBefore(t, s.Publisher, wanted{Publisher, use}, by.Authorizations); err != nil || s.Owner == nil {
			return err
		}
		_, err := chosenBefore(t, s.Owner, wanted{Owner, use}, by.Approvals)
		return err
	})
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return f
	}
	return err
}

// Signed is what the signers have signed, and who the owner is.
type Signed struct {
	// Authorizations are the publisher's.
	Authorizations []Authorization
	// Owner is the owner's key now; nil on a machine that has no owner. Approvals are what
	// it has signed; Successions lead to it from former keys, in any order.
	Owner       *ecdsa.PublicKey
	Approvals   []Authorization
	Successions []Succession
}

// Open implements [Object].
func (b *Blob) Open(dev TPM, by Signed) (secret []byte, to string, err error) {
	if by.Owner != nil {
		return nil, "", fault.Errorf(fault.SealOwner, "the %s was sealed without the signature of this machine's owner, so that the publisher alone could open it", b.Use)
	}
	return Unseal(dev, b, by.Authorizations)
}

// Open implements [Object].
func (g *Gated) Open(dev TPM, by Signed) (secret []byte, to string, err error) {
	if by.Owner == nil {
		return nil, "", fault.Errorf(fault.SealOwner, "the %s was sealed to an owner, and this machine has none: it runs without a launch file", g.Secret.Use)
	}
	successions, err := g.successions(by)
	if err != nil {
		return nil, "", err
	}
	secret, names, err := g.Unseal(dev, by.Authorizations, by.Approvals, successions...)
	if err != nil {
		return nil, "", err
	}
	return secret, fmt.Sprintf("%s, approved by the owner as %s", names[0], names[1]), nil
}

// successions gives the way from the owner's key that the secret is sealed to, to the
// owner's now.
func (g *Gated) successions(by Signed) ([]Succession, error) {
	sealedTo, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Gate.SigningKey)
	if err != nil {
		return nil, fault.Wrapf(fault.SealFile, err, "the owner's key of the sealed blob is none")
	}
	way, err := Way(sealedTo, by.Owner, g.Gate.Use, by.Successions)
	if err != nil {
		return nil, fault.Wrapf(fault.SealOwner, err, "the %s was sealed to another owner", g.Gate.Use)
	}
	return way, nil
}

// Way gives those of the successions for the use, in order, that lead from a former
// owner's key to one; none if it is the same. Errors: there is no way of signatures that
// verify.
func Way(former, owner *ecdsa.PublicKey, use Use, all []Succession) ([]Succession, error) {
	type reached struct {
		key *ecdsa.PublicKey
		way []Succession
	}
	used := make([]bool, len(all)) // so that a circle ends
	for at := []reached{{former, nil}}; len(at) > 0; at = at[1:] {
		from := at[0]
		if from.key.Equal(owner) {
			return from.way, nil
		}
		for i := range all {
			if used[i] || all[i].Use != use {
				continue
			}
			next, err := all[i].Verify(from.key)
			if err != nil {
				continue // another key's
			}
			used[i] = true
			at = append(at, reached{next, append(from.way[:len(from.way):len(from.way)], all[i])})
		}
	}
	from, err1 := KeyID(former)
	to, err2 := KeyID(owner)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("it is sealed to the key %s, and no succession leads from it to the owner's key %s", from, to)
}

// Verify says whether the former key has signed the succession, and gives the next key.
func (s *Succession) Verify(former *ecdsa.PublicKey) (next *ecdsa.PublicKey, err error) {
	if next, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), s.Next); err != nil {
		return nil, fmt.Errorf("the next owner's key: %w", err)
	}
	digest, err := s.digest(next)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(former, digest, s.Signature) {
		return nil, fault.Errorf(fault.SealSignature, "the succession is not signed by the former key")
	}
	return next, nil
}

// Proof implements [Object].
func (b *Blob) Proof() *tpm.Creation { return b.Made }

// Proof implements [Object].
func (g *Gated) Proof() *tpm.Creation { return g.Secret.Made }

func (b *Blob) blobs() []*Blob  { return []*Blob{b} }
func (g *Gated) blobs() []*Blob { return []*Blob{&g.Gate, &g.Secret} }

// ParseObject reads the file of a sealed secret, gated or not, as [ParseBlob] does.
// Errors: [ErrBound], of a secret that is sealed to a state volume as well.
func ParseObject(text []byte) (Object, error) {
	if formatOf(text) != GatedFormat {
		b, err := ParseBlob(text)
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	var f gatedFile
	if err := decode(text, MaxBlobFile, &f); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return &f.Gated, nil
}

type gatedFile struct {
	Format string `json:"format"`
	Gated
}

func (g *Gated) validate() error {
	if err := g.Gate.validate(); err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	if err := g.Secret.validate(); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	if g.Gate.Use != g.Secret.Use {
		return fmt.Errorf("the gate is for the %s, and the secret for the %s", g.Gate.Use, g.Secret.Use)
	}
	return nil
}

// Encode gives the file of the gated secret.
func (g *Gated) Encode() ([]byte, error) {
	if err := g.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	text, err := encode(gatedFile{GatedFormat, *g}, MaxBlobFile)
	if err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return text, nil
}
