package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// estate is a machine whose secret publisher and owner guard.
type estate struct {
	*machine
	publisher, owner *ecdsa.PrivateKey
	gated            *seal.Gated
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	e := &estate{machine: newMachine(t), publisher: newKey(t), owner: newKey(t)}
	e.start("kernel 1", "launch 1")
	var err error
	if e.gated, err = seal.SealGated(e, &e.publisher.PublicKey, &e.owner.PublicKey, seal.Credential, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	return e
}

// start boots the kernel with the launch file.
func (e *estate) start(kernel, launch string) {
	e.t.Helper()
	e.boot(kernel, "holdfast")
	if err := e.Extend(seal.LaunchPCR, []byte(launch)); err != nil {
		e.t.Fatal(err)
	}
}

// authorized is the publisher's signature for the state that the machine is in.
func (e *estate) authorized(name string, version uint64) seal.Authorization {
	e.t.Helper()
	return authorize(e.t, e.publisher, e.Device, name, "sha256", version)
}

// approved is the signature of that owner's key.
func (e *estate) approved(owner *ecdsa.PrivateKey, name string, version uint64) seal.Authorization {
	e.t.Helper()
	pcrs := read(e.t, e.Device, "sha256")
	launch, err := e.ReadPCRs("sha256", []int{seal.LaunchPCR})
	if err != nil {
		e.t.Fatal(err)
	}
	pcrs[seal.LaunchPCR] = launch[seal.LaunchPCR]
	a, err := seal.Approve(owner, seal.Authorization{Name: name, Bank: "sha256", PCRs: pcrs, Version: version})
	if err != nil {
		e.t.Fatal(err)
	}
	return *a
}

func (e *estate) opens(authorization, approval seal.Authorization, successions ...seal.Succession) {
	e.t.Helper()
	got, names, err := e.gated.Unseal(e, []seal.Authorization{authorization}, []seal.Authorization{approval}, successions...)
	if err != nil || string(got) != secret || names != [2]string{authorization.Name, approval.Name} {
		e.t.Errorf("got %q, %q, %v", got, names, err)
	}
	e.nothingLoaded()
}

// refuses wants a refusal with the code and the words, by this program; and by the TPM
// itself, whatever the program is, if it is asked with one signature each.
func (e *estate) refuses(code fault.Code, says string, authorizations, approvals []seal.Authorization, successions ...seal.Succession) {
	e.t.Helper()
	got, _, err := e.gated.Unseal(e, authorizations, approvals, successions...)
	if got != nil || fault.CodeOf(err) != code || !strings.Contains(err.Error(), says) {
		e.t.Errorf("got %q, %v; want %s, %s", got, err, code, says)
	}
	if len(authorizations) == 1 && len(approvals) == 1 {
		if got, err := e.gated.AskGated(e, authorizations[0], approvals[0]); got != nil || err == nil {
			e.t.Errorf("the TPM gives %q", got)
		}
	}
	e.nothingLoaded()
}

func (e *estate) nothingLoaded() {
	e.t.Helper()
	err := e.Do(func(t transport.TPM) error {
		for name, first := range map[string]uint32{"objects": 0x80000000, "sessions": 0x02000000} {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 10}.Execute(t)
			if err != nil {
				return err
			}
			handles, err := rsp.CapabilityData.Data.Handles()
			if err != nil {
				return err
			}
			if len(handles.Handle) > 0 {
				e.t.Errorf("%s stay loaded: %x", name, handles.Handle)
			}
		}
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

func one(a seal.Authorization) []seal.Authorization { return []seal.Authorization{a} }

// TestGate: both open it, and each alone does not; neither in this program nor in the TPM.
func TestGate(t *testing.T) {
	e := newEstate(t)
	authorization, approval := e.authorized("release 1", 1), e.approved(e.owner, "owner 1", 1)
	e.opens(authorization, approval)
	e.opens(authorization, approval) // as often as it is asked for
	e.refuses(fault.SealPCRs, "the owner has not authorized this", one(authorization), nil)
	e.refuses(fault.SealPCRs, "the publisher has not authorized this", nil, one(approval))

	// The same, of the TPM alone: without the gate, by the gate's empty password, and with
	// signatures of the other, also under the other's name.
	if got, err := seal.AskTPM(e, &e.gated.Secret, &authorization); got != nil || fault.CodeOf(err) != fault.SealPCRs {
		t.Errorf("the publisher alone has %q, %v", got, err)
	}
	if got, err := e.gated.AskByPassword(e, authorization); got != nil || err == nil {
		t.Errorf("by a password the gate gives %q", got)
	}
	byPublisher, byOwner := e.approved(e.publisher, "as the owner", 1), authorize(t, e.owner, e.Device, "as the publisher", "sha256", 1)
	e.refuses(fault.SealSignature, "not signed", one(authorization), one(byPublisher))
	e.refuses(fault.SealSignature, "not signed", one(byOwner), one(approval))
	renamed := authorization
	renamed.By = seal.Owner
	e.refuses(fault.SealSignature, "not signed", one(authorization), one(renamed))
	renamed = approval
	renamed.By = seal.Publisher
	e.refuses(fault.SealSignature, "not signed", one(renamed), one(approval))

	// A gate of an owner of one's own.
	stranger := newKey(t)
	own, err := seal.SealGated(e, &e.publisher.PublicKey, &stranger.PublicKey, seal.Credential, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	mixed := &estate{e.machine, e.publisher, stranger, &seal.Gated{Gate: own.Gate, Secret: e.gated.Secret}}
	mixed.refuses(fault.SealMade, "of another kind", one(authorization), one(e.approved(stranger, "stranger", 1)))

	if _, err := e.Cap(); err != nil {
		t.Fatal(err)
	}
	e.refuses(fault.SealPCRs, "PCR 14", one(authorization), one(approval))
}

// TestGateNextRelease: another release, or another launch file, opens it when both have
// signed it, and nothing is sealed again; signed by one it does not.
func TestGateNextRelease(t *testing.T) {
	e := newEstate(t)
	first, firstApproval := e.authorized("release 1", 1), e.approved(e.owner, "owner 1", 1)

	e.start("kernel 2", "launch 1")
	second := e.authorized("release 2", 2)
	e.refuses(fault.SealPCRs, "the owner has not authorized this", one(second), one(firstApproval))
	secondApproval := e.approved(e.owner, "owner 2", 2)
	e.refuses(fault.SealPCRs, "the publisher has not authorized this", one(first), one(secondApproval))
	e.opens(second, secondApproval)

	e.start("kernel 1", "launch 1") // the owner has approved another release than this
	e.refuses(fault.SealPCRs, `nearest is "owner 2", but for PCR 4`, one(first), one(secondApproval))
	e.opens(first, firstApproval)

	e.start("kernel evil", "launch 1") // signed by the publisher alone
	e.refuses(fault.SealPCRs, "the owner has not authorized this", one(e.authorized("evil", 9)), one(firstApproval))

	e.start("kernel 1", "launch 2") // PCR 15 is the owner's
	e.refuses(fault.SealPCRs, `but for PCR 15`, one(first), one(firstApproval))
	e.opens(first, e.approved(e.owner, "launch 2", 3))
}

// TestGateRevocation: each signer has a counter, and revokes their own.
func TestGateRevocation(t *testing.T) {
	e := newEstate(t)
	authorization, approval := e.authorized("release 1", 1), e.approved(e.owner, "owner 1", 1)
	if err := seal.RevokeApprovals(e, 2); err != nil {
		t.Fatal(err)
	}
	e.refuses(fault.SealRevoked, "all below 2 are revoked", one(authorization), one(approval))
	again := e.approved(e.owner, "owner 2", 2)
	e.opens(authorization, again)
	if err := seal.Revoke(e, 3); err != nil {
		t.Fatal(err)
	}
	e.refuses(fault.SealRevoked, "all below 3 are revoked", one(authorization), one(again))
	e.opens(e.authorized("release 3", 3), again)
}

// TestGateSuccession: the owner's key is exchanged by a signature of the former one.
func TestGateSuccession(t *testing.T) {
	e := newEstate(t)
	authorization := e.authorized("release 1", 1)
	second, third := newKey(t), newKey(t)
	succeed := func(former, next *ecdsa.PrivateKey, use seal.Use) seal.Succession {
		t.Helper()
		s, err := seal.Succeed(former, &next.PublicKey, use)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	toSecond, toThird := succeed(e.owner, second, seal.Credential), succeed(second, third, seal.Credential)
	e.opens(authorization, e.approved(second, "second owner", 1), toSecond)
	e.opens(authorization, e.approved(third, "third owner", 1), toSecond, toThird)
	e.opens(authorization, e.approved(e.owner, "first owner", 1)) // until it is sealed to the next

	e.refuses(fault.SealSignature, "not signed", one(authorization), one(e.approved(second, "without a word", 1)))
	e.refuses(fault.SealSignature, "succession", one(authorization), one(e.approved(third, "third", 1)), succeed(third, third, seal.Credential))
	e.refuses(fault.SealSignature, "succession", one(authorization), one(e.approved(third, "third", 1)), toThird)
	e.refuses(fault.SealSignature, "succession", one(authorization), one(e.approved(third, "third", 1)), succeed(e.publisher, third, seal.Credential))
	e.refuses(fault.SealPCRs, "not what was authorized", one(authorization), one(e.approved(second, "for another use", 1)), succeed(e.owner, second, seal.StateVolume))
}

// TestTwoInARow: two TPM2_PolicyAuthorize in a row are no AND. A TPM finds the policy of
// the second alone, so that the second signer opens it alone; and what go-tpm calculates
// for both opens for nobody.
func TestTwoInARow(t *testing.T) {
	m, publisher, owner := newMachine(t), newKey(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	if _, err := seal.SealGated(m, &publisher.PublicKey, &owner.PublicKey, seal.Credential, []byte(secret)); err != nil { // makes the counters
		t.Fatal(err)
	}
	inTPM, calculated, err := seal.Two(m, &publisher.PublicKey, &owner.PublicKey, seal.Credential)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(inTPM, calculated) {
		t.Error("go-tpm's calculator knows that TPM2_PolicyAuthorize begins anew")
	}
	ownerAlone := authorize(t, owner, m.Device, "owner alone", "sha256", 1)
	naive, err := seal.SealUnder(m, &owner.PublicKey, inTPM, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.AskTPM(m, naive, &ownerAlone); err != nil || string(got) != secret {
		t.Errorf("the owner alone has %q, %v: two in a row are an AND in this TPM", got, err)
	}
	never, err := seal.SealUnder(m, &owner.PublicKey, calculated, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	theTPMRefuses(t, m.Device, never, ownerAlone)
}

// TestGateRefuses what would be no gate.
func TestGateRefuses(t *testing.T) {
	m, publisher, owner := newMachine(t), newKey(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	if _, err := seal.SealGated(m, &publisher.PublicKey, &publisher.PublicKey, seal.Credential, []byte(secret)); err == nil || !strings.Contains(err.Error(), "the same key") {
		t.Errorf("one signer for both: %v", err)
	}
	for _, n := range []int{0, seal.MaxSecret + 1} {
		if _, err := seal.SealGated(m, &publisher.PublicKey, &owner.PublicKey, seal.Credential, make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes is sealed", n)
		}
	}
	a := seal.Authorization{Name: "x", Bank: "sha256", PCRs: map[int]tpm.Hex{4: make([]byte, 32)}, Version: 1}
	if _, err := seal.Approve(owner, a); err == nil || !strings.Contains(err.Error(), "PCR 15") {
		t.Errorf("an approval without the launch file: %v", err)
	}
	a.By = seal.Owner
	if _, err := seal.Authorize(owner, a); err == nil {
		t.Error("an owner's authorization without the launch file is signed")
	}
	a.By = "somebody"
	if _, err := seal.Authorize(owner, a); err == nil {
		t.Error("an authorization of nobody is signed")
	}
	if _, _, err := (&seal.Gated{}).Unseal(m, nil, nil); !errors.As(err, new(*fault.Fault)) {
		t.Errorf("nothing: %v", err)
	}
}
