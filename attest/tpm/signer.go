package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Signer signs with a key that never leaves the TPM: ECDSA on P-256 with
// SHA-256. Unlike the attestation key it signs whatever it is given, so that its
// signature says no more than that somebody used this TPM. It implements
// [crypto.Signer].
type Signer struct {
	d        *Device
	template tpm2.TPMTPublic
	public   *ecdsa.PublicKey
}

// CreateSigner gives the TPM's signing key of that name. It is derived from the
// owner's seed and the name, so it is the same after every boot, until the owner
// is cleared.
func (d *Device) CreateSigner(name string) (*Signer, error) {
	unique := sha256.Sum256([]byte("holdfast-signer/v1 " + name))
	s := &Signer{d: d, template: tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       akTemplate.Parameters,
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique[:]}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}}),
	}}
	err := d.Do(func(t transport.TPM) error {
		return s.with(t, func(_ tpm2.NamedHandle, public *tpm2.TPMTPublic) (err error) {
			s.public, err = point(public)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return s, nil
}

func (s *Signer) with(t transport.TPM, f func(key tpm2.NamedHandle, public *tpm2.TPMTPublic) error) error {
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(s.template)}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary, signing key: %w", err)
	}
	defer flush(t, key.ObjectHandle)
	public, err := key.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	return f(tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, public)
}

// point is the public key of an ECC key on P-256.
func point(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	unique, err := public.Unique.ECC()
	if err != nil || len(unique.X.Buffer) > 32 || len(unique.Y.Buffer) > 32 {
		return nil, errors.New("the key is no point on P-256")
	}
	uncompressed := make([]byte, 1+32+32)
	uncompressed[0] = 4
	copy(uncompressed[33-len(unique.X.Buffer):], unique.X.Buffer)
	copy(uncompressed[65-len(unique.Y.Buffer):], unique.Y.Buffer)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
}

// Public gives the public key, an [*ecdsa.PublicKey].
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest. The signature is ASN.1 DER (RFC 3279 section
// 2.2.3). The random source is the TPM's own.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("tpm: the signing key signs digests of SHA-256")
	}
	err = s.d.Do(func(t transport.TPM) error {
		return s.with(t, func(key tpm2.NamedHandle, _ *tpm2.TPMTPublic) error {
			rsp, err := tpm2.Sign{
				KeyHandle:  tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
				Digest:     tpm2.TPM2BDigest{Buffer: digest},
				InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
			}.Execute(t)
			if err != nil {
				return fmt.Errorf("TPM2_Sign: %w", err)
			}
			sig, err := rsp.Signature.Signature.ECDSA()
			if err != nil {
				return fmt.Errorf("TPM2_Sign: %w", err)
			}
			signature, err = asn1.Marshal(struct{ R, S *big.Int }{
				new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer)})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return signature, nil
}
