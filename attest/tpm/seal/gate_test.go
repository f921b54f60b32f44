package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"reflect"
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
	e.refuses(fault.SealApproval, "the owner has not authorized this", one(authorization), nil)
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
	e.refuses(fault.SealApproval, "the owner has not authorized this", one(second), one(firstApproval))
	secondApproval := e.approved(e.owner, "owner 2", 2)
	e.refuses(fault.SealPCRs, "the publisher has not authorized this", one(first), one(secondApproval))
	e.opens(second, secondApproval)

	e.start("kernel 1", "launch 1") // the owner has approved another release than this
	e.refuses(fault.SealApproval, `nearest is "owner 2", but for PCR 4`, one(first), one(secondApproval))
	e.opens(first, firstApproval)

	e.start("kernel evil", "launch 1") // signed by the publisher alone
	e.refuses(fault.SealApproval, "the owner has not authorized this", one(e.authorized("evil", 9)), one(firstApproval))

	e.start("kernel 1", "launch 2") // PCR 15 is the owner's
	e.refuses(fault.SealApproval, `but for PCR 15`, one(first), one(firstApproval))
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

// TestGateWay: successions are found in any order, through circles; and a secret of another
// owner's, of none, or for none is refused before the TPM is asked.
func TestGateWay(t *testing.T) {
	e := newEstate(t)
	second, third, stranger := newKey(t), newKey(t), newKey(t)
	succeed := func(former, next *ecdsa.PrivateKey, use seal.Use) seal.Succession {
		t.Helper()
		s, err := seal.Succeed(former, &next.PublicKey, use)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	toSecond, toThird := succeed(e.owner, second, seal.Credential), succeed(second, third, seal.Credential)
	all := []seal.Succession{toThird, succeed(second, e.owner, seal.Credential), succeed(stranger, stranger, seal.Credential), toSecond, succeed(e.owner, third, seal.StateVolume)}
	text, err := seal.EncodeSuccessions(all)
	if err != nil {
		t.Fatal(err)
	}
	if all, err = seal.ParseSuccessions(text); err != nil {
		t.Fatal(err)
	}
	authorization := e.authorized("release 1", 1)
	single, err := seal.Seal(e, &e.publisher.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		object      seal.Object
		owner       *ecdsa.PrivateKey
		successions []seal.Succession
		code        fault.Code
	}{
		"the same owner":                     {e.gated, e.owner, nil, ""},
		"the same owner, by a circle":        {e.gated, e.owner, all, ""},
		"the next":                           {e.gated, second, all, ""},
		"the next but one":                   {e.gated, third, all, ""},
		"a stranger":                         {e.gated, stranger, all, fault.SealOwner},
		"the next without a succession":      {e.gated, second, nil, fault.SealOwner},
		"a succession for another use":       {e.gated, third, all[4:], fault.SealOwner},
		"the end of a way without the first": {e.gated, third, []seal.Succession{toThird}, fault.SealOwner},
		"an owner's, where there is none":    {e.gated, nil, all, fault.SealOwner},
		"nobody's, where there is an owner":  {single, e.owner, all, fault.SealOwner},
	} {
		by := seal.Signed{Authorizations: one(authorization), Successions: tt.successions}
		if tt.owner != nil {
			by.Owner, by.Approvals = &tt.owner.PublicKey, one(e.approved(tt.owner, "approved", 1))
		}
		got, to, err := tt.object.Open(e, by)
		switch {
		case tt.code == "" && (err != nil || string(got) != secret || to != "release 1, approved by the owner as approved"):
			t.Errorf("%s: got %q to %q, %v", name, got, to, err)
		case tt.code != "" && (got != nil || fault.CodeOf(err) != tt.code):
			t.Errorf("%s: got %q, %v; want %s", name, got, err, tt.code)
		}
		e.nothingLoaded()
	}
}

// TestGatedFile: a file keeps a gated secret, alone and bound to a state volume; what the
// volume is sealed beside is part of it.
func TestGatedFile(t *testing.T) {
	e := newEstate(t)
	by := seal.Signed{Authorizations: one(e.authorized("release 1", 1)), Owner: &e.owner.PublicKey, Approvals: one(e.approved(e.owner, "owner 1", 1))}
	text, err := e.gated.Encode()
	if err != nil {
		t.Fatal(err)
	}
	object, err := seal.ParseObject(text)
	if err != nil || !reflect.DeepEqual(object, seal.Object(e.gated)) {
		t.Fatalf("read again it is %+v, %v", object, err)
	}
	if got, _, err := object.Open(e, by); err != nil || string(got) != secret {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := seal.ParseBound(text); !errors.Is(err, seal.ErrUnbound) {
		t.Errorf("it is read as one of a volume: %v", err)
	}
	if _, err := seal.ParseBlob(text); err == nil {
		t.Error("it is read as one without a gate")
	}

	longest := bytes.Repeat([]byte("x"), seal.MaxSecret)
	bound, err := seal.SealBound(e, seal.Signers{Publisher: &e.publisher.PublicKey, Owner: &e.owner.PublicKey}, seal.Credential, longest, thisVolume)
	if err != nil {
		t.Fatal(err)
	}
	if text, err = bound.Encode(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the file has %d bytes, of %d", len(text), seal.MaxBlobFile)
	again, err := seal.ParseBound(text)
	if err != nil || !reflect.DeepEqual(again, bound) {
		t.Fatalf("read again it is %+v, %v", again, err)
	}
	if _, err := seal.ParseObject(text); !errors.Is(err, seal.ErrBound) {
		t.Errorf("it is read as one without a volume: %v", err)
	}
	if got, _, err := seal.UnsealBound(e, again, thisVolume, by); err != nil || !bytes.Equal(got, longest) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, _, err := seal.UnsealBound(e, again, anotherVolume, by); got != nil || fault.CodeOf(err) != fault.SealVolume {
		t.Errorf("beside another volume: %q, %v", got, err)
	}
	// The gate taken away, or put around another part.
	for name, changed := range map[string]seal.Object{"without the gate": &bound.Object.(*seal.Gated).Secret, "of another part": e.gated} {
		if got, _, err := seal.UnsealBound(e, &seal.Bound{Object: changed, Sealed: bound.Sealed}, thisVolume, by); got != nil || fault.ClassOf(err) != fault.Refused {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	two := strings.Replace(string(text), `,"sealed"`, `,"object":`+string(must(json.Marshal(e.gated.Secret)))+`,"sealed"`, 1)
	if _, err := seal.ParseBound([]byte(two)); err == nil || !strings.Contains(err.Error(), "one of object and gated") {
		t.Errorf("both kinds at once: %v", err)
	}
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

// TestApproveRelease: the owner approves what the publisher has authorized to have the
// credential, with the launch file.
func TestApproveRelease(t *testing.T) {
	e := newEstate(t)
	digest := sha256.Sum256([]byte("a launch file"))
	pin, volume := e.authorized("release 1", 3), e.authorized("release 1", 3)
	volume.Use = seal.StateVolume
	approvals, err := seal.ApproveRelease(e.owner, []seal.Authorization{pin, volume}, digest[:], 5)
	if err != nil || len(approvals) != 1 {
		t.Fatalf("%+v, %v", approvals, err)
	}
	a := approvals[0]
	want, err := tpm.LaunchValue("sha256", digest[:])
	if err != nil || a.By != seal.Owner || a.Version != 5 || !bytes.Equal(a.PCRs[seal.LaunchPCR], want) || !bytes.Equal(a.PCRs[4], pin.PCRs[4]) || pin.PCRs[seal.LaunchPCR] != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if err := a.Verify(&e.owner.PublicKey); err != nil {
		t.Error(err)
	}
	for name, given := range map[string][]seal.Authorization{"nothing": nil, "the volume's alone": {volume}, "the owner's own": approvals} {
		if got, err := seal.ApproveRelease(e.owner, given, digest[:], 5); err == nil {
			t.Errorf("%s: approved %+v", name, got)
		}
	}
	pin.PCRs = map[int]tpm.Hex{4: pin.PCRs[4], seal.LaunchPCR: make([]byte, 32)}
	if _, err := seal.ApproveRelease(e.owner, one(pin), digest[:], 5); err == nil || !strings.Contains(err.Error(), "PCR 15") {
		t.Errorf("another launch file in the publisher's: %v", err)
	}
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
