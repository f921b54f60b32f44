package boot

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/policies"
	"holdfast/attest"
	"holdfast/attest/release"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// SealedRelease has the machine's own TPM release the credential. Its files are
// read at each attempt.
type SealedRelease struct {
	// Blob is the file of the sealed credential, which [Boot.Seal] writes.
	Blob string
	// Authorizations is the file of the signed PCR policies.
	Authorizations string
	// Installed is the folder of those that came in over the network (package policies);
	// empty for none.
	Installed string
	// Key is the file of the public key (PEM, P-256) that signs them.
	Key string
	// VolumeKey gives the key that is derived from the state volume's, to which the
	// credential is sealed besides; nil on a machine without a state volume. A
	// [*fault.Fault].
	VolumeKey func() ([]byte, error)
	// Owned, if given, is what the machine's owner adds: the credential is sealed to the
	// owner besides, and one that is not is refused.
	Owned *OwnedRelease

	// released is what Blob had when the credential was released last.
	released []byte
}

// putAside has the credential that was released last not be released again. One that was sealed since stays.
func (s *SealedRelease) putAside() error {
	if text, err := policies.ReadFile(s.Blob); err != nil || !bytes.Equal(text, s.released) {
		return err
	}
	return rename(s.Blob, s.Blob+".refused")
}

// OwnedRelease is a release that the machine's owner has to agree to.
type OwnedRelease struct {
	// Key is the owner's key for TPMs, PolicyKey the one that signs launch files, and the PIN
	// that the owner gives; as the launch file has them.
	Key       *ecdsa.PublicKey
	PolicyKey ed25519.PublicKey
	// Approvals is the file of what the owner has approved, Successions that of the
	// successions of the owner's keys; neither need be there.
	Approvals, Successions string
}

// Release implements [Releaser].
func (s *SealedRelease) Release(ctx context.Context, c *attest.Collector) ([]byte, string, error) {
	text, err := policies.ReadFile(s.Blob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fault.Errorf(fault.SealMissing, "no PIN is sealed on this machine yet; give it with %s", s.command())
	}
	if err != nil {
		return nil, "", unusable(s.Blob, err)
	}
	sealed, err := s.read(text)
	if err != nil {
		return nil, "", s.another(err)
	}
	if sealed.By, err = s.signed(); err != nil {
		return nil, "", err
	}
	sealed.TPM = c.TPM
	credential, to, err := sealed.Release(ctx)
	if err != nil {
		return nil, "", s.another(notReleased(err))
	}
	s.released = text
	return credential, to + "; " + howSealed(sealed), nil
}

// command is how the credential is given.
func (s *SealedRelease) command() string {
	if s.Owned != nil {
		return "holdfast pin give, as the owner of this machine"
	}
	return "holdfast seal"
}

// signed reads what was signed for the machine.
func (s *SealedRelease) signed() (by seal.Signed, err error) {
	if by.Authorizations, err = s.ReadAuthorizations(); err != nil || s.Owned == nil {
		return by, err
	}
	by.Owner = s.Owned.Key
	for file, parse := range map[string]func([]byte) error{
		s.Owned.Approvals:   func(text []byte) (err error) { by.Approvals, err = seal.ParseAuthorizations(text); return err },
		s.Owned.Successions: func(text []byte) (err error) { by.Successions, err = seal.ParseSuccessions(text); return err },
	} {
		text, err := policies.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the TPM refuses without what is needed
		}
		if err == nil {
			err = parse(text)
		}
		if err != nil {
			return by, unusable(file, err)
		}
	}
	return by, nil
}

// awaitsPIN is why the sealed PIN is none of this machine's, where its owner can give
// another: the boot waits for it, as it does where there is none.
type awaitsPIN struct{ *fault.Fault }

// Unwrap gives the fault.
func (a awaitsPIN) Unwrap() error { return a.Fault }

// another says of a sealed PIN that its owner can give another. A machine without an owner
// is restarted for that, but no owner gives a PIN to a machine whose TPM is capped.
func (s *SealedRelease) another(err error) error {
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok || s.Owned == nil {
		return err
	}
	switch f.Code {
	case fault.SealFile, fault.SealMade, fault.SealTPM, fault.SealVolume, fault.SealOwner:
		return awaitsPIN{f}
	}
	return err
}

// howSealed says what the TPM has certified of how the credential was sealed, for people
// who look into it: which system did.
func howSealed(s *release.Sealed) string {
	object := s.Object
	if s.Bound != nil {
		object = s.Bound.Object
	}
	made := object.Proof().PCRs["sha384"]
	if made == nil {
		made = object.Proof().PCRs["sha256"]
	}
	var was []string
	for _, n := range []int{4, 11, tpm.ApplicationPCR} {
		was = append(was, fmt.Sprintf("PCR %d was %x…", n, []byte(made[n][:min(8, len(made[n]))])))
	}
	return "it was sealed in this TPM while " + strings.Join(was, ", ")
}

// read reads the sealed credential. With a state volume, one that was sealed without is
// not taken: whoever puts another volume there could put one beside it.
func (s *SealedRelease) read(text []byte) (*release.Sealed, error) {
	if s.VolumeKey == nil {
		object, err := seal.ParseObject(text)
		if errors.Is(err, seal.ErrBound) {
			return nil, fault.Wrapf(fault.SealVolume, err, "%s needs the state volume that it was sealed on, and this machine has none (state.volume)", s.Blob)
		}
		if err != nil {
			return nil, unusable(s.Blob, err)
		}
		return &release.Sealed{Object: object}, nil
	}
	bound, err := seal.ParseBound(text)
	if errors.Is(err, seal.ErrUnbound) {
		return nil, fault.Wrapf(fault.SealVolume, err, "%s is not sealed to this state volume", s.Blob)
	}
	if err != nil {
		return nil, unusable(s.Blob, err)
	}
	key, err := s.VolumeKey()
	if err != nil {
		return nil, err
	}
	return &release.Sealed{Bound: bound, VolumeKey: key}, nil
}

// ReadAuthorizations reads the signed PCR policies; a [*fault.Fault].
func (s *SealedRelease) ReadAuthorizations() ([]seal.Authorization, error) {
	key, err := s.ReadKey()
	if err != nil {
		return nil, unusable(s.Key, err)
	}
	authorizations, err := policies.Authorizations(s.Authorizations, s.Installed, key)
	if err != nil {
		return nil, unusable(s.Authorizations, err)
	}
	return authorizations, nil
}

// ReadKey reads the public key that signs them.
func (s *SealedRelease) ReadKey() (*ecdsa.PublicKey, error) { return policies.ReadSealKey(s.Key) }

// notReleased says of a refusal of the TPM or of the broker what it refuses.
func notReleased(err error) error {
	if err == nil {
		return nil
	}
	f := faultOf(err)
	return &fault.Fault{Code: f.Code, Also: f.Also, Message: "the HSM's credential is not released", Err: err}
}

func unusable(file string, err error) *fault.Fault {
	return fault.Wrapf(fault.SealFile, err, "%s cannot be used", file)
}

// seal seals the credential to the TPM, in place of one that there may be.
func (s *SealedRelease) seal(c *attest.Collector, credential []byte) error {
	key, err := s.ReadKey()
	if err != nil {
		return err
	}
	to := seal.Signers{Publisher: key}
	if s.Owned != nil {
		to.Owner = s.Owned.Key
	}
	var blob interface{ Encode() ([]byte, error) }
	if s.VolumeKey == nil {
		blob, err = to.Seal(c.TPM, seal.Credential, credential)
	} else {
		blob, err = s.bind(c, to, credential)
	}
	if err != nil {
		return err
	}
	text, err := blob.Encode()
	if err != nil {
		return err
	}
	return WriteFile(s.Blob, text)
}

// bind seals the credential to the TPM and to the state volume.
func (s *SealedRelease) bind(c *attest.Collector, to seal.Signers, credential []byte) (*seal.Bound, error) {
	volumeKey, err := s.VolumeKey()
	if err != nil {
		return nil, err
	}
	return seal.SealBound(c.TPM, to, seal.Credential, credential, volumeKey)
}

// BrokerRelease has a broker release the credential, to fresh evidence.
type BrokerRelease struct {
	// URL is the broker's, Pin its key's, Machine the name of this machine there.
	URL, Pin, Machine string
}

// Release implements [Releaser].
func (b *BrokerRelease) Release(ctx context.Context, c *attest.Collector) ([]byte, string, error) {
	credential, to, err := (&release.FromBroker{URL: b.URL, Pin: b.Pin, Machine: b.Machine, Collect: c.Collect}).Release(ctx)
	return credential, to, notReleased(err)
}

// NoRelease releases nothing, for a reason that is there before the boot: neither
// TPM nor broker is asked, and no credential is taken.
type NoRelease struct{ Why *fault.Fault }

// Release implements [Releaser].
func (n NoRelease) Release(context.Context, *attest.Collector) ([]byte, string, error) {
	return nil, "", n.Why
}

// Seal seals the HSM's credential to this machine's TPM, in place of one that
// there may be. A boot that waits for it goes on. Errors: [*fault.Fault],
// fault.Conflict where a broker releases the credential, or nothing does;
// fault.SealByOwner on a machine whose owner alone gives it.
func (b *Boot) Seal(_ context.Context, credential []byte) error {
	if _, sealed := b.o.Release.(*SealedRelease); sealed && b.o.Launch != nil {
		return fault.Errorf(fault.SealByOwner, "no PIN is taken here: the owner of this machine gives it with holdfast pin give, which checks the machine before")
	}
	return b.sealTo(credential)
}

// sealTo is [Boot.Seal], whoever gives the credential.
func (b *Boot) sealTo(credential []byte) error {
	if n, ok := b.o.Release.(NoRelease); ok {
		return fault.Errorf(fault.Conflict, "no PIN is taken: %s", n.Why)
	}
	s, ok := b.o.Release.(*SealedRelease)
	if !ok {
		return fault.Errorf(fault.Conflict, "this appliance gets its PIN from a broker: holdfast broker add, there")
	}
	if len(credential) == 0 || len(credential) > seal.MaxSecret {
		return fault.Errorf(fault.Invalid, "a PIN of %d bytes; a TPM seals 1 to %d", len(credential), seal.MaxSecret)
	}
	b.mu.Lock()
	c := b.collector
	b.mu.Unlock()
	if c == nil || c.TPM == nil {
		return fault.Errorf(fault.Conflict, "there is no TPM to seal with; holdfast status says more")
	}
	if err := s.seal(c, credential); err != nil {
		return fault.Errorf(fault.Conflict, "the PIN was not sealed: %s", fault.ReasonOf(err))
	}
	b.o.Log.Info("the HSM's credential was sealed to this machine's TPM", "file", s.Blob)
	b.Wake()
	return nil
}

// Revoke has this machine's TPM refuse all policies and authorizations of a
// version below, for good; or, with approvals, all that the machine's owner has
// approved with one. Errors: [*fault.Fault], fault.Conflict if it would revoke the
// policy in force, or the newest approval that the machine has.
func (b *Boot) Revoke(_ context.Context, below uint64, approvals bool) error {
	c, err := b.revocable(below, approvals)
	if err != nil {
		return err
	}
	revoke := seal.Revoke
	if approvals {
		revoke = seal.RevokeApprovals
	}
	if err := revoke(c.TPM, below); err != nil {
		return fault.Errorf(fault.Conflict, "%s", fault.ReasonOf(err))
	}
	b.o.Log.Info("older versions were revoked in this machine's TPM, for good", "below", below, "approvals", approvals)
	return nil
}

// CheckRevoke gives the error that Revoke would, and revokes nothing.
func (b *Boot) CheckRevoke(_ context.Context, below uint64, approvals bool) error {
	c, err := b.revocable(below, approvals)
	if err != nil {
		return err
	}
	check := seal.CheckRevoke
	if approvals {
		check = seal.CheckRevokeApprovals
	}
	if err := check(c.TPM, below); err != nil {
		return fault.Errorf(fault.Conflict, "%s", fault.ReasonOf(err))
	}
	return nil
}

// newestApproval gives the highest version of those approvals that the machine has.
func (b *Boot) newestApproval() (version uint64, err error) {
	s, ok := b.o.Release.(*SealedRelease)
	if !ok || s.Owned == nil {
		return 0, fault.Errorf(fault.Conflict, "this machine has no owner whose approvals could be revoked, or a broker releases its PIN")
	}
	by, err := s.signed()
	if err != nil {
		return 0, err
	}
	for _, a := range by.Approvals {
		if a.By == seal.Owner && a.Verify(s.Owned.Key) == nil {
			version = max(version, a.Version)
		}
	}
	return version, nil
}

// revocable gives the machine's TPM if policies below the version, or approvals, may be
// revoked.
func (b *Boot) revocable(below uint64, approvals bool) (*attest.Collector, error) {
	b.mu.Lock()
	c, a := b.collector, b.status.Attestation
	b.mu.Unlock()
	if c == nil || c.TPM == nil || a == nil {
		return nil, fault.Errorf(fault.Conflict, "there is no TPM, or no policy in force yet; holdfast status says more")
	}
	if approvals {
		newest, err := b.newestApproval()
		if err == nil && below > newest {
			err = fault.Errorf(fault.Conflict, "the newest approval that this machine has is of version %d and would be revoked as well: it would not get its PIN again; bring a newer one first (holdfast policy approve)", newest)
		}
		return c, err
	}
	if below > a.Version {
		return nil, fault.Errorf(fault.Conflict, "the policy in force has version %d and would be revoked as well: this machine would not boot again; install a newer policy first", a.Version)
	}
	return c, nil
}
