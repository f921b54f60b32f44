// Package seal keeps a secret in a TPM, which gives it out only while its PCRs
// have values that somebody has signed, and while that signature is not
// revoked. Nothing that runs on the machine can talk its way around it: the TPM
// itself compares.
//
// The secret is an object under the storage root key whose policy is
// TPM2_PolicyAuthorize with a signing key (TPM 2.0 Part 3, section 23.16). What
// that key signs, an [Authorization], is TPM2_PolicyPCR over the reference
// values, then TPM2_PolicyNV: an NV counter must not have passed the
// authorization's version. So an update needs a newly signed authorization and
// no new sealing, and raising the counter revokes the old ones for good: a
// counter never goes back, not even when it is undefined and made again.
//
// The TPM certifies how each object was made ([tpm.Creation]), and what it has not
// certified is not used. A [Bound] secret needs the state volume's key as well; a [Gated]
// one the signature of the machine's owner beside the publisher's.
package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/counter"
)

// TPM gives the use of a TPM.
type TPM interface {
	Do(func(transport.TPM) error) error
}

// MaxSecret is the size of the largest secret, in bytes (TPM 2.0 Part 2,
// MAX_SYM_DATA).
const MaxSecret = 128

// The banks whose values a policy may name.
var banks = map[string]tpm2.TPMIAlgHash{"sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384}

// Use is what a secret is for. A TPM gives a secret of one use to no
// authorization of another: the use is the policy reference of
// TPM2_PolicyAuthorize, which is signed and part of the sealed object's policy.
type Use string

// The uses. The HSM's credential is given to a machine that has measured what it
// is made of, the key of the state volume to one that has measured nothing yet:
// both are signed for the same release, and neither opens the other.
const (
	Credential  Use = ""
	StateVolume Use = "state-volume"
)

// String names the use for people.
func (u Use) String() string {
	if u == Credential {
		return "credential"
	}
	return string(u)
}

// Signer says on whose behalf something is signed. What one signs is none of the other's,
// also if both had the same key: it is part of the policy reference.
type Signer string

// The signers: who makes the release, and who owns the machine that runs it. See [Gated].
const (
	Publisher Signer = ""
	Owner     Signer = "owner"
)

// String names the signer for people.
func (s Signer) String() string {
	if s == Publisher {
		return "publisher"
	}
	return string(s)
}

// counter is the one by which the signer's authorizations are revoked.
func (s Signer) counter() counter.Index {
	if s == Owner {
		return counter.Approvals
	}
	return counter.Revocation
}

// reference is the policy reference of TPM2_PolicyAuthorize: by whom, and for what.
func reference(by Signer, use Use) []byte {
	if by == Publisher {
		return []byte(use)
	}
	return []byte(string(by) + "/" + string(use))
}

// Authorization is signed leave for a machine whose PCRs have these values.
type Authorization struct {
	// Name says whose values they are, as in "release 1.2.0".
	Name string `json:"name"`
	// By says who signs. An owner's authorization names [LaunchPCR].
	By Signer `json:"by,omitempty"`
	// Use is what may be unsealed.
	Use Use `json:"use,omitempty"`
	// Bank is sha256 or sha384, PCRs are the values by index.
	Bank string          `json:"bank"`
	PCRs map[int]tpm.Hex `json:"pcrs"`
	// Version is how far the counter may be.
	Version uint64 `json:"version"`
	// Signature is by the signing key: an ASN.1 DER ECDSA signature over SHA-256.
	Signature []byte `json:"signature"`
}

// Authorize signs an authorization with the key, ECDSA on P-256. It needs no
// TPM. The same authorization gets the same signature (RFC 6979), so that an image
// that carries it can be built again to the same bytes.
func Authorize(key *ecdsa.PrivateKey, a Authorization) (*Authorization, error) {
	if _, err := signerPublic(&key.PublicKey); err != nil {
		return nil, err
	}
	if err := a.checkSigner(); err != nil {
		return nil, fmt.Errorf("authorization %q: %w", a.Name, err)
	}
	digest, err := a.digest()
	if err != nil {
		return nil, err
	}
	if a.Signature, err = key.Sign(nil, digest, crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign the authorization %q: %w", a.Name, err)
	}
	return &a, nil
}

// AuthorizeReferences signs two authorizations for each reference of the policy,
// with the version: one for the HSM's credential, and one for the key of the
// state volume, which the machine needs before it measures itself: for it,
// [tpm.ApplicationPCR] must still be zero.
func AuthorizeReferences(key *ecdsa.PrivateKey, p tpm.Policy, version uint64) ([]Authorization, error) {
	if len(p.References) == 0 {
		return nil, errors.New("authorizations: the policy has no tpm.references, so there is no state of a machine to authorize; add a release's with holdfast policy reference")
	}
	var all []Authorization
	for _, r := range p.References {
		if _, ok := r.PCRs[tpm.ApplicationPCR]; !ok {
			return nil, fmt.Errorf("authorizations: the reference %q has no PCR %d: without it, what Holdfast measured would not matter, and the cap would not stop a second unsealing in the same boot; make it anew with holdfast policy reference --replace", r.Name, tpm.ApplicationPCR)
		}
		unmeasured := maps.Clone(r.PCRs)
		unmeasured[tpm.ApplicationPCR] = make(tpm.Hex, len(r.PCRs[tpm.ApplicationPCR]))
		for _, a := range []Authorization{
			{Name: r.Name, Use: Credential, PCRs: r.PCRs},
			{Name: r.Name, Use: StateVolume, PCRs: unmeasured},
		} {
			a.Bank, a.Version = p.Bank, version
			signed, err := Authorize(key, a)
			if err != nil {
				return nil, fmt.Errorf("authorizations: %w", err)
			}
			all = append(all, *signed)
		}
	}
	return all, nil
}

// KeyID names a signing key: the first 8 bytes of the SHA-256 of its point, in
// hexadecimal.
func KeyID(key *ecdsa.PublicKey) (string, error) {
	if _, err := signerPublic(key); err != nil {
		return "", err
	}
	point, err := key.Bytes()
	if err != nil {
		return "", err
	}
	d := sha256.Sum256(point)
	return hex.EncodeToString(d[:8]), nil
}

// Verify says whether the authorization is signed by the key.
func (a *Authorization) Verify(key *ecdsa.PublicKey) error {
	digest, err := a.digest()
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key, digest, a.Signature) {
		return fault.Errorf(fault.SealSignature, "the authorization %q is not signed by the key that the secret is sealed to", a.Name)
	}
	return nil
}

// digest is what is signed: the approved policy, and the use as policy reference
// (Part 3 section 23.16: aHash).
func (a *Authorization) digest() ([]byte, error) {
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	d := sha256.Sum256(append(policy, reference(a.By, a.Use)...))
	return d[:], nil
}

// policy is the digest of the policy that is approved.
func (a *Authorization) policy() ([]byte, error) {
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	pcr, err := a.policyPCR(nil)
	if err != nil {
		return nil, err
	}
	if err := pcr.Update(calculator); err != nil {
		return nil, fmt.Errorf("authorization %q: %w", a.Name, err)
	}
	if err := a.policyNV(nil).Update(calculator); err != nil {
		return nil, fmt.Errorf("authorization %q: %w", a.Name, err)
	}
	return calculator.Hash().Digest, nil
}

func (a *Authorization) selection() (tpm2.TPMLPCRSelection, []int, error) {
	hash, ok := banks[a.Bank]
	if !ok || len(a.PCRs) == 0 {
		return tpm2.TPMLPCRSelection{}, nil, fmt.Errorf("authorization %q: bank %q with %d PCRs; name sha256 or sha384 and at least one PCR", a.Name, a.Bank, len(a.PCRs))
	}
	h, err := hash.Hash()
	if err != nil {
		return tpm2.TPMLPCRSelection{}, nil, err
	}
	indices := slices.Sorted(maps.Keys(a.PCRs))
	selected := make([]uint, 0, len(indices))
	for _, i := range indices {
		if i < 0 || i > 23 || len(a.PCRs[i]) != h.Size() {
			return tpm2.TPMLPCRSelection{}, nil, fmt.Errorf("authorization %q: PCR %d with %d bytes; PCRs are 0 to 23, with %d bytes in bank %s", a.Name, i, len(a.PCRs[i]), h.Size(), a.Bank)
		}
		selected = append(selected, uint(i))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: hash, PCRSelect: tpm2.PCClientCompatible.PCRs(selected...)}}}, indices, nil
}

func (a *Authorization) policyPCR(session tpm2.Session) (tpm2.PolicyPCR, error) {
	selection, indices, err := a.selection()
	if err != nil {
		return tpm2.PolicyPCR{}, err
	}
	h := sha256.New()
	for _, i := range indices {
		h.Write(a.PCRs[i])
	}
	cmd := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}, Pcrs: selection}
	if session != nil {
		cmd.PolicySession = session.Handle()
	}
	return cmd, nil
}

// policyNV asks that the counter is not greater than the version.
func (a *Authorization) policyNV(session tpm2.Session) tpm2.PolicyNV {
	index := a.By.counter()
	revoked := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: index.Name()}
	cmd := tpm2.PolicyNV{AuthHandle: revoked, NVIndex: revoked,
		OperandB:  tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, a.Version)},
		Operation: tpm2.TPMEOUnsignedLE}
	if session != nil {
		cmd.PolicySession = session.Handle()
	}
	return cmd
}

// signerPublic is the signing key as the TPM loads it.
func signerPublic(key *ecdsa.PublicKey) (tpm2.TPMTPublic, error) {
	if key.Curve != elliptic.P256() {
		return tpm2.TPMTPublic{}, errors.New("the key that signs authorizations must be on the curve P-256")
	}
	point, err := key.Bytes() // uncompressed: 4, X, Y
	if err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("the key that signs authorizations: %w", err)
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}),
	}, nil
}

// Blob is a sealed secret. It is of no use to anybody but the TPM that made it.
type Blob struct {
	// Public and Private are the object (TPM2B_PUBLIC's and TPM2B_PRIVATE's
	// contents), Parent is the name of the storage root key.
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
	Parent  []byte `json:"parent"`
	// SigningKey is who may authorize: a point on P-256, uncompressed, 65 bytes.
	SigningKey []byte `json:"signing_key"`
	// Use is what for.
	Use Use `json:"use,omitempty"`
	// Made proves that this TPM made the object, under Parent.
	Made *tpm.Creation `json:"made"`
}

// made says why the proof of how the object was made does not hold. The TPM is this
// machine's.
func (b *Blob) made(t transport.TPM, want tpm2.TPMTPublic) error {
	if b.Made == nil {
		return fault.Errorf(fault.SealMade, "nothing proves how the sealed object was made")
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](b.Public)
	if err != nil {
		return fault.Wrapf(fault.SealTPM, err, "the sealed object is damaged")
	}
	want.Unique = public.Unique
	if !bytes.Equal(tpm2.Marshal(want), b.Public) {
		return fault.Errorf(fault.SealMade, "the sealed object is of another kind, or for another key or use, than this program makes")
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return fault.Wrapf(fault.SealTPM, err, "the sealed object is damaged")
	}
	if err := b.Made.Verify(*name, tpm2.TPM2BName{Buffer: b.Parent}); err != nil {
		return fault.Wrapf(fault.SealMade, err, "it is not proved how the sealed object was made")
	}
	ak, err := tpm.AttestationKey(t)
	if err != nil {
		return err
	}
	if !bytes.Equal(ak, b.Made.AK) {
		return anotherTPM()
	}
	return nil
}

// MadeBy gives that of the authorizations by which the machine was authorized to have the
// secret when it was sealed: the PCRs were those, as the TPM has certified. It checks
// neither the signatures of the authorizations nor the certificate, which [Unseal] does.
// Errors: [*fault.Fault] with fault.SealMade, if there is none.
func MadeBy(b *Blob, authorizations []Authorization) (*Authorization, error) {
	refusal := fault.Errorf(fault.SealMade, "the machine was in no authorized state when the %s was sealed", b.Use)
	for i := range authorizations {
		a := &authorizations[i]
		if a.Use != b.Use || b.Made == nil || len(a.PCRs) == 0 {
			continue
		}
		var different []string
		for _, n := range slices.Sorted(maps.Keys(a.PCRs)) {
			if got := b.Made.PCRs[a.Bank][n]; !bytes.Equal(got, a.PCRs[n]) {
				different = append(different, fmt.Sprintf("PCR %d (was %x…, authorized %x…)", n, []byte(got[:min(8, len(got))]), []byte(a.PCRs[n][:min(8, len(a.PCRs[n]))])))
			}
		}
		if len(different) == 0 {
			return a, nil
		}
		refusal = fault.Errorf(fault.SealMade, "the machine was in no authorized state when the %s was sealed; compared with %q, it was %s", b.Use, a.Name, list(different))
	}
	return nil, refusal
}

func anotherTPM() error {
	return fault.Errorf(fault.SealTPM, "this is not the TPM that the secret was sealed by, or its owner was cleared")
}

// sealedPublic is the public area of what is sealed under the policy.
func sealedPublic(policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		// Without UserWithAuth there is no password: only the policy opens it.
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull}}),
	}
}

// make has the TPM make the object with the secret, under the storage root key, and
// certify that it did.
func (b *Blob) make(t transport.TPM, public tpm2.TPMTPublic, secret []byte) error {
	var parent []byte
	create := func(pcrs tpm2.TPMLPCRSelection) (rsp *tpm2.CreateResponse, err error) {
		err = withSRK(t, parent, func(srk *srk) error {
			parent = srk.name.Buffer
			rsp, err = tpm2.Create{
				ParentHandle: tpm2.AuthHandle{Handle: srk.handle, Name: srk.name,
					Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptIn), tpm2.Salted(srk.handle, srk.public))},
				InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
					Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
				InPublic: tpm2.New2B(public), CreationPCR: pcrs,
			}.Execute(t)
			if err != nil {
				return fmt.Errorf("TPM2_Create: %w", err)
			}
			return nil
		})
		return rsp, err
	}
	load := func(made *tpm2.CreateResponse) (object tpm2.NamedHandle, err error) {
		err = withSRK(t, parent, func(srk *srk) error {
			object, err = srk.load(t, made.OutPublic.Bytes(), made.OutPrivate.Buffer)
			return err
		})
		return object, err
	}
	made, proof, err := tpm.Create(t, create, load)
	if err != nil {
		return err
	}
	b.Public, b.Private, b.Parent, b.Made = made.OutPublic.Bytes(), made.OutPrivate.Buffer, parent, proof
	return nil
}

// Seal puts the secret, at most [MaxSecret] bytes, under the authorizations of
// the key for the use. It makes the counter if there is none.
func Seal(dev TPM, key *ecdsa.PublicKey, use Use, secret []byte) (*Blob, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("seal: a secret of %d bytes; a TPM takes 1 to %d", len(secret), MaxSecret)
	}
	policy, err := authorizedBy(key, reference(Publisher, use))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	blob := &Blob{SigningKey: point, Use: use}
	err = dev.Do(func(t transport.TPM) error {
		if _, err := counter.Revocation.Make(t); err != nil {
			return err
		}
		return blob.make(t, sealedPublic(policy), secret)
	})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return blob, nil
}

// srk is the storage root key, for as long as it is loaded.
type srk struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// withSRK gives f the storage root key. If the Name of one is given, it must be that:
// what only says that it is, such as something between this machine and its TPM that
// gives a public key of its own, gets no session, which it could then listen to.
func withSRK(t transport.TPM, parent []byte, f func(*srk) error) error {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary, storage root key: %w", err)
	}
	defer flush(t, rsp.ObjectHandle)
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	expected := tpm2.ECCSRKTemplate
	expected.Unique = public.Unique
	switch {
	case !bytes.Equal(tpm2.Marshal(expected), tpm2.Marshal(*public)):
		return fault.Errorf(fault.SealTPM, "the TPM gives a storage root key of another kind than was asked for; something may stand between this machine and its TPM")
	case parent != nil && !bytes.Equal(name.Buffer, parent):
		return anotherTPM()
	case !bytes.Equal(name.Buffer, rsp.Name.Buffer):
		return fault.Errorf(fault.SealTPM, "the storage root key is not the one that its name says; something may stand between this machine and its TPM")
	}
	return f(&srk{rsp.ObjectHandle, *name, *public})
}

// load loads an object, which stays when the key is flushed.
func (s *srk) load(t transport.TPM, public, private []byte) (tpm2.NamedHandle, error) {
	object, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: s.handle, Name: s.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](public),
	}.Execute(t)
	if err != nil {
		return tpm2.NamedHandle{}, fault.Wrapf(fault.SealTPM, err, "the TPM does not load the sealed blob: it is damaged, or another TPM's")
	}
	return tpm2.NamedHandle{Handle: object.ObjectHandle, Name: object.Name}, nil
}

func flush(t transport.TPM, h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t) }

// maxRevoke bounds by how much one call of Revoke counts: TPMs wear.
const maxRevoke = 1000

// Revoke has this TPM refuse all authorizations of a version below, for good.
// It does nothing if that is so already.
func Revoke(dev TPM, below uint64) error { return revoke(dev, Publisher.counter(), below) }

func revoke(dev TPM, index counter.Index, below uint64) error {
	return dev.Do(func(t transport.TPM) error {
		value, err := index.Make(t)
		if err != nil {
			return fmt.Errorf("revoke: %w", err)
		}
		if err := near(value, below); err != nil {
			return err
		}
		for ; value < below; value++ {
			if err := index.Increment(t); err != nil {
				return fmt.Errorf("revoke: %w", err)
			}
		}
		return nil
	})
}

// CheckRevoke gives the error that Revoke would, as far as reading the counter
// tells, and counts nothing.
func CheckRevoke(dev TPM, below uint64) error { return checkRevoke(dev, Publisher.counter(), below) }

func checkRevoke(dev TPM, index counter.Index, below uint64) error {
	value, err := readCounter(dev, index)
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return near(value, below)
}

func near(value, below uint64) error {
	if value < below && below-value > maxRevoke {
		return fmt.Errorf("revoke: from %d to %d are more than %d steps: is the version right?", value, below, maxRevoke)
	}
	return nil
}

// Counter gives the version below which authorizations are refused; 0 for a TPM
// on which nothing was sealed yet.
func Counter(dev TPM) (value uint64, err error) { return readCounter(dev, counter.Revocation) }

func readCounter(dev TPM, index counter.Index) (value uint64, err error) {
	err = dev.Do(func(t transport.TPM) (err error) {
		value, err = index.Read(t)
		if errors.Is(err, counter.ErrNone) {
			return nil
		}
		return err
	})
	return value, err
}

// Unseal gives the secret if the machine is in a state that one of the
// authorizations allows, and the name of that one. The caller zeroizes the
// secret. Errors: [*fault.Fault], if trying again would not help; [ErrExtended].
func Unseal(dev TPM, blob *Blob, authorizations []Authorization) (secret []byte, name string, err error) {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), blob.SigningKey)
	if err != nil {
		return nil, "", fmt.Errorf("unseal: the sealed blob's signing key: %w", err)
	}
	err = dev.Do(func(t transport.TPM) error {
		value, err := counter.Revocation.Read(t)
		if errors.Is(err, counter.ErrNone) {
			return fault.Errorf(fault.SealTPM, "this TPM has no counter: the secret was sealed by another, or its owner was cleared")
		}
		if err != nil {
			return err
		}
		policy, err := authorizedBy(key, reference(Publisher, blob.Use))
		if err != nil {
			return err
		}
		made := blob.made(t, sealedPublic(policy))
		return unextended(func() error {
			a, err := choose(t, key, wanted{Publisher, blob.Use}, value, authorizations)
			if err != nil {
				return err
			}
			if made != nil {
				return made
			}
			name = a.Name
			secret, err = unseal(t, blob, key, a)
			return err
		})
	})
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return nil, "", refused
	}
	if err != nil {
		return nil, "", fmt.Errorf("unseal: %w", err)
	}
	return secret, name, nil
}

// wanted says of what signatures are looked for: by whom, and for what.
type wanted struct {
	By  Signer
	Use Use
}

// choose finds the authorization for the state that the machine is in. The TPM
// decides for itself afterwards: this is for a reason that people understand.
func choose(t transport.TPM, key *ecdsa.PublicKey, want wanted, revoked uint64, authorizations []Authorization) (*Authorization, error) {
	var refusal error = fault.Errorf(fault.SealPCRs, "no state of a machine is authorized to have the %s", want.Use)
	fewest := 25
	for i := range authorizations {
		a := &authorizations[i]
		if a.By != want.By {
			continue
		}
		if err := a.Verify(key); err != nil {
			return nil, err
		}
		if a.Use != want.Use {
			continue
		}
		different, err := compare(t, a)
		if err != nil {
			return nil, err
		}
		switch {
		case len(different) == 0 && a.Version < revoked: // a newer one may follow
			fewest = -1
			refusal = fault.Errorf(fault.SealRevoked, "the authorization %q has version %d, and all below %d are revoked; install a newer signed policy", a.Name, a.Version, revoked)
		case len(different) == 0:
			return a, nil
		case len(different) < fewest:
			fewest = len(different)
			refusal = fault.Errorf(fault.SealPCRs, "the machine is in no state that was authorized; nearest is %q, but for %s", a.Name, list(different))
		}
	}
	return nil, refusal
}

func list(different []string) string {
	var b bytes.Buffer
	for i, d := range different {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d)
	}
	return b.String()
}

// compare says which PCRs have another value than the authorization's.
func compare(t transport.TPM, a *Authorization) ([]string, error) {
	var different []string
	for _, i := range slices.Sorted(maps.Keys(a.PCRs)) {
		one := Authorization{Name: a.Name, Bank: a.Bank, PCRs: map[int]tpm.Hex{i: a.PCRs[i]}}
		selection, _, err := one.selection()
		if err != nil {
			return nil, err
		}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("TPM2_PCR_Read, PCR %d: %w", i, err)
		}
		if len(rsp.PCRValues.Digests) != 1 {
			return nil, fault.Errorf(fault.SealPCRs, "the TPM has no bank %s", a.Bank)
		}
		if got := rsp.PCRValues.Digests[0].Buffer; !bytes.Equal(got, a.PCRs[i]) {
			different = append(different, fmt.Sprintf("PCR %d (is %x…, authorized %x…)", i, got[:8], []byte(a.PCRs[i][:8])))
		}
	}
	return different, nil
}

func unseal(t transport.TPM, blob *Blob, key *ecdsa.PublicKey, a *Authorization) (secret []byte, err error) {
	err = withSRK(t, blob.Parent, func(srk *srk) error {
		object, err := srk.load(t, blob.Public, blob.Private)
		if err != nil {
			return err
		}
		defer flush(t, object.Handle)

		session, err := srk.policySession(t)
		if err != nil {
			return err
		}
		defer flush(t, session.Handle())
		if err := satisfy(t, session, key, a); err != nil {
			return err
		}
		rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.Handle, Name: object.Name, Auth: session}}.Execute(t)
		if err != nil {
			return fault.Wrapf(fault.SealPCRs, err, "the TPM refuses the secret")
		}
		secret = rsp.OutData.Buffer
		return nil
	})
	return secret, err
}

// satisfy has the TPM itself check the authorization.
func satisfy(t transport.TPM, session tpm2.Session, key *ecdsa.PublicKey, a *Authorization) error {
	pcr, err := a.policyPCR(session)
	if err != nil {
		return err
	}
	if _, err := pcr.Execute(t); err != nil {
		return fault.Wrapf(fault.SealPCRs, err, "the TPM finds other PCR values than authorized")
	}
	nv, index := a.policyNV(session), a.By.counter()
	nv.AuthHandle = tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: index.Name(), Auth: tpm2.PasswordAuth(nil)}
	if _, err := nv.Execute(t); err != nil {
		return fault.Wrapf(fault.SealRevoked, err, "the TPM's counter has passed version %d", a.Version)
	}
	approved, err := a.policy()
	if err != nil {
		return err
	}
	digest, err := a.digest()
	if err != nil {
		return err
	}
	return authorized(t, session, key, signature{fmt.Sprintf("the authorization %q", a.Name), approved, reference(a.By, a.Use), digest, a.Signature})
}

// signature is what a key has signed for TPM2_PolicyAuthorize.
type signature struct {
	name                string // for people
	approved, reference []byte // policy, and its reference
	digest, der         []byte // what was signed, and the signature
}

// authorized has the TPM check the signature, and that the session has come to the policy
// that is approved by it.
func authorized(t transport.TPM, session tpm2.Session, key *ecdsa.PublicKey, s signature) error {
	ticket, name, err := s.verifyInTPM(t, key)
	if err != nil {
		return err
	}
	if _, err := (tpm2.PolicyAuthorize{PolicySession: session.Handle(), ApprovedPolicy: tpm2.TPM2BDigest{Buffer: s.approved}, PolicyRef: tpm2.TPM2BDigest{Buffer: s.reference}, KeySign: *name, CheckTicket: *ticket}).Execute(t); err != nil {
		return fault.Wrapf(fault.SealPCRs, err, "the TPM's state is not what was authorized")
	}
	return nil
}

// verifyInTPM has the TPM verify the signature, of which it gives a ticket.
func (s signature) verifyInTPM(t transport.TPM, key *ecdsa.PublicKey) (*tpm2.TPMTTKVerified, *tpm2.TPM2BName, error) {
	public, err := signerPublic(key)
	if err != nil {
		return nil, nil, err
	}
	loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHOwner}.Execute(t)
	if err != nil {
		return nil, nil, fmt.Errorf("TPM2_LoadExternal, signing key: %w", err)
	}
	defer flush(t, loaded.ObjectHandle)
	r, v, err := parseSignature(s.der)
	if err != nil {
		return nil, nil, fault.Wrapf(fault.SealSignature, err, "%s has no signature", s.name)
	}
	rsp, err := tpm2.VerifySignature{KeyHandle: loaded.ObjectHandle, Digest: tpm2.TPM2BDigest{Buffer: s.digest},
		Signature: tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))}, SignatureS: tpm2.TPM2BECCParameter{Buffer: v.FillBytes(make([]byte, 32))}})},
	}.Execute(t)
	if err != nil {
		return nil, nil, fault.Wrapf(fault.SealSignature, err, "the TPM refuses the signature of %s", s.name)
	}
	return &rsp.Validation, &loaded.Name, nil
}

func parseSignature(der []byte) (r, s *big.Int, err error) {
	var sig struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &sig)
	if err != nil {
		return nil, nil, err
	}
	if len(rest) > 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, nil, errors.New("not an ECDSA signature on P-256")
	}
	return sig.R, sig.S, nil
}
