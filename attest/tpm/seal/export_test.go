package seal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// AskTPM asks the TPM for the secret, without what this program checks before: what the
// TPM refuses, it refuses whatever the program is.
func AskTPM(dev TPM, blob *Blob, a *Authorization) (secret []byte, err error) {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), blob.SigningKey)
	if err != nil {
		return nil, err
	}
	err = dev.Do(func(t transport.TPM) error {
		secret, err = unseal(t, blob, key, a)
		return err
	})
	return secret, err
}

// AskGated asks the TPM for the secret, without what this program checks before.
func (g *Gated) AskGated(dev TPM, authorization, approval Authorization) (secret []byte, err error) {
	publisher, err1 := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Secret.SigningKey)
	owner, err2 := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Gate.SigningKey)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	o := &opening{Gated: g, publisher: publisher, owners: []*ecdsa.PublicKey{owner}, authorization: &authorization, approval: &approval}
	err = dev.Do(func(t transport.TPM) error {
		secret, err = o.unseal(t)
		return err
	})
	return secret, err
}

// AskByPassword asks the TPM for the secret by the publisher's authorization and the
// gate's password, which is empty.
func (g *Gated) AskByPassword(dev TPM, a Authorization) (secret []byte, err error) {
	publisher, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), g.Secret.SigningKey)
	if err != nil {
		return nil, err
	}
	err = dev.Do(func(t transport.TPM) error {
		var gate, sealed tpm2.NamedHandle
		var session tpm2.Session
		err := withSRK(t, nil, func(s *srk) (err error) {
			if gate, err = s.load(t, g.Gate.Public, g.Gate.Private); err != nil {
				return err
			}
			if sealed, err = s.load(t, g.Secret.Public, g.Secret.Private); err != nil {
				return err
			}
			session, err = s.policySession(t)
			return err
		})
		if err != nil {
			return err
		}
		defer flush(t, gate.Handle)
		defer flush(t, sealed.Handle)
		defer flush(t, session.Handle())
		if err := satisfy(t, session, publisher, &a); err != nil {
			return err
		}
		_, err = tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: gate.Handle, Name: gate.Name, Auth: tpm2.PasswordAuth(nil)}, PolicySession: session.Handle()}.Execute(t)
		return err
	})
	return secret, err
}

// Two are the policies of two TPM2_PolicyAuthorize in a row: as a TPM finds it, and as
// go-tpm's calculator does.
func Two(dev TPM, first, second *ecdsa.PublicKey, use Use) (inTPM, calculated []byte, err error) {
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, nil, err
	}
	err = dev.Do(func(t transport.TPM) error {
		session, closeSession, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
		if err != nil {
			return err
		}
		defer func() { _ = closeSession() }()
		for _, key := range []*ecdsa.PublicKey{first, second} {
			public, err := signerPublic(key)
			if err != nil {
				return err
			}
			name, err := tpm2.ObjectName(&public)
			if err != nil {
				return err
			}
			command := tpm2.PolicyAuthorize{PolicySession: session.Handle(), KeySign: *name, PolicyRef: tpm2.TPM2BDigest{Buffer: reference(Publisher, use)},
				CheckTicket: tpm2.TPMTTKVerified{Tag: tpm2.TPMSTVerified, Hierarchy: tpm2.TPMRHOwner}}
			if _, err := command.Execute(t); err != nil {
				return err
			}
			if err := command.Update(calculator); err != nil {
				return err
			}
		}
		rsp, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t)
		if err != nil {
			return err
		}
		inTPM = rsp.PolicyDigest.Buffer
		return nil
	})
	return inTPM, calculator.Hash().Digest, err
}

// SealUnder seals the secret under any policy.
func SealUnder(dev TPM, key *ecdsa.PublicKey, policy, secret []byte) (*Blob, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	b := &Blob{SigningKey: point}
	return b, dev.Do(func(t transport.TPM) error { return b.make(t, sealedPublic(policy), secret) })
}
