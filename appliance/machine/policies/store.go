package policies

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/ownership"
	"holdfast/attest"
	"holdfast/attest/tpm/seal"
)

// Store has the policies of a machine. Its methods may be called concurrently.
type Store struct {
	// Folder is where what comes in rests.
	Folder string
	// Image is the file of the image's policy, Key that of the key (PEM, Ed25519) that
	// each policy must be signed by. SealKey is the file of the publisher's key (PEM,
	// P-256) for authorizations; empty where no TPM releases the PIN.
	Image, Key, SealKey string
	// OwnerKey is the owner's key for approvals; nil on a machine without an owner.
	OwnerKey *ecdsa.PublicKey
	// Remembered gives the policy of the highest version that this machine has had.
	Remembered func(ctx context.Context) (attest.SignedID, error)
	// Write writes a file whole or not at all, and durably.
	Write func(path string, content []byte) error

	installing sync.Mutex
}

// Given is what comes in: files as their signers wrote them.
type Given struct {
	// Policy is a signed policy. Authorizations are the publisher's, Approvals the
	// owner's; nil leaves those that there are.
	Policy, Authorizations, Approvals []byte
}

// Newest is the policy in force, and where it is from.
type Newest struct {
	*attest.SignedPolicy
	// Installed says that it came in over the network; otherwise it is the image's.
	Installed bool
}

func (s *Store) path(name string) string { return filepath.Join(s.Folder, name) }

// Policy gives the newer one of the policies that verify. Errors: what is wrong with the
// image's, where no other one counts.
func (s *Store) Policy() (*attest.SignedPolicy, error) {
	n, err := s.Newest()
	return n.SignedPolicy, err
}

// Newest is [Store.Policy], and says where the policy is from.
func (s *Store) Newest() (Newest, error) {
	n, _, err := s.newest()
	return n, err
}

// newest says besides which of two policies that are there does not count, and why.
func (s *Store) newest() (n Newest, ignored, err error) {
	key, err := ReadPolicyKey(s.Key)
	if err != nil {
		return n, nil, err
	}
	image, err := readPolicy(s.Image, key)
	came, ignored := readPolicy(s.path(PolicyFile), key)
	switch {
	case ignored != nil:
		return Newest{image, false}, present(ignored), err
	case err != nil:
		return Newest{came, true}, err, nil
	case came.Version < image.Version || came.ID().Is(image.ID()):
		return Newest{image, false}, nil, nil
	}
	if ignored = image.ID().CheckNext(came.ID()); ignored != nil {
		return Newest{image, false}, fmt.Errorf("%s: %w", s.path(PolicyFile), ignored), nil
	}
	return Newest{came, true}, nil, nil
}

// Ignored says which file is there and does not count, and why; nil if each does.
func (s *Store) Ignored() *fault.Fault {
	_, wrong, _ := s.newest()
	_, unauthorized := s.authorizations()
	_, unapproved := s.approvals()
	for _, err := range []error{wrong, unauthorized, unapproved} {
		if err != nil {
			return fault.Wrapf(fault.PolicyStored, err, "a file is there and does not count")
		}
	}
	return nil
}

// authorizations are those that came in.
func (s *Store) authorizations() ([]seal.Authorization, error) {
	if s.SealKey == "" {
		return nil, nil
	}
	key, err := ReadSealKey(s.SealKey)
	if err != nil {
		return nil, err
	}
	all, err := readAuthorizations(s.path(AuthorizationsFile), seal.Publisher, key)
	return all, present(err)
}

// approvals are those that came in.
func (s *Store) approvals() ([]seal.Authorization, error) {
	if s.OwnerKey == nil {
		return nil, nil
	}
	all, err := readAuthorizations(s.path(ownership.ApprovalsFile), seal.Owner, s.OwnerKey)
	return all, present(err)
}

// Check says why what is given must not be installed, and changes nothing: the policy is
// not signed by the image's key, proves too little, or may not follow the ones that this
// machine has or had ([attest.SignedID.CheckNext]); authorizations or approvals are not
// their signer's. Errors: [*fault.Fault] with the code that a boot would end with.
func (s *Store) Check(ctx context.Context, g Given) (*attest.SignedPolicy, error) {
	key, err := ReadPolicyKey(s.Key)
	if err != nil {
		return nil, fault.Wrapf(fault.PolicyFile, err, "attestation.policy_key cannot be used")
	}
	next, err := attest.OpenPolicy(g.Policy, key)
	if err != nil {
		code := fault.PolicyFile
		if errors.Is(err, attest.ErrUnproven) {
			code = fault.PolicyUnproven
		}
		return nil, fault.Errorf(code, "%s", err)
	}
	if err := s.follows(ctx, next); err != nil {
		return nil, err
	}
	if g.Authorizations != nil {
		if err := s.checkAuthorizations(g.Authorizations); err != nil {
			return nil, err
		}
	}
	if g.Approvals != nil {
		if s.OwnerKey == nil {
			return nil, fault.Errorf(fault.Conflict, "approvals: they are an owner's, and no owner is known here: this image asks for no launch file, or the machine has none that counts; leave the approvals out")
		}
		if _, err := parseAuthorizations(g.Approvals, seal.Owner, s.OwnerKey); err != nil {
			return nil, refused(err, "approvals")
		}
	}
	return next, nil
}

// follows says why the policy may not be the next one.
func (s *Store) follows(ctx context.Context, next *attest.SignedPolicy) error {
	kept, err := s.Remembered(ctx)
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the database does not tell which policy there was before")
	}
	before := []attest.SignedID{kept}
	if now, err := s.Newest(); err == nil {
		before = append(before, now.ID())
	}
	for _, kept := range before {
		if err := kept.CheckNext(next.ID()); err != nil {
			return fault.Errorf(fault.PolicyVersion, "policy: %q is refused: %s", next.Name, err)
		}
	}
	return nil
}

func (s *Store) checkAuthorizations(text []byte) error {
	if s.SealKey == "" {
		return fault.Errorf(fault.Conflict, "authorizations: a broker releases the PIN of this machine, and its TPM asks for none; leave them out")
	}
	key, err := ReadSealKey(s.SealKey)
	if err != nil {
		return fault.Wrapf(fault.SealFile, err, "release.seal_key cannot be used")
	}
	if _, err := parseAuthorizations(text, seal.Publisher, key); err != nil {
		return refused(err, "authorizations")
	}
	return nil
}

// refused keeps the code of a signature that does not verify.
func refused(err error, what string) error {
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return fault.Errorf(f.Code, "%s: %s", what, f.Reason())
	}
	return fault.Errorf(fault.SealFile, "%s: %s", what, strings.TrimPrefix(err.Error(), "authorizations: "))
}

// Install keeps what is given, if [Store.Check] has nothing against it. The policy comes
// last: until it is there, nothing else is in force than before.
func (s *Store) Install(ctx context.Context, g Given) (*attest.SignedPolicy, error) {
	s.installing.Lock()
	defer s.installing.Unlock()
	next, err := s.Check(ctx, g)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{ownership.ApprovalsFile, g.Approvals}, {AuthorizationsFile, g.Authorizations}, {PolicyFile, g.Policy}} {
		if f.content == nil {
			continue
		}
		if err := s.Write(s.path(f.name), f.content); err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "%s cannot be written; what was written before it counts by itself, so send it again", s.path(f.name))
		}
	}
	return next, nil
}

// Count says how many authorizations and approvals came in and count.
func (s *Store) Count() (authorizations, approvals int) {
	publishers, _ := s.authorizations()
	owners, _ := s.approvals()
	return len(publishers), len(owners)
}
