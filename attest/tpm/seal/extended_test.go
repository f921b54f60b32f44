package seal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// restless is a TPM of which somebody extends a PCR after commands of one kind, as the kernel does through
// its own queue between the commands of a program.
type restless struct {
	*tpm.Device
	pcr   uint
	after tpm2.TPMCC
	times int // how often still
}

func (r *restless) Do(f func(transport.TPM) error) error {
	return r.Device.Do(func(t transport.TPM) error { return f(&extending{t, r}) })
}

type extending struct {
	transport.TPM
	r *restless
}

func (e *extending) Send(command []byte) ([]byte, error) {
	response, err := e.TPM.Send(command)
	if err != nil || e.r.times == 0 || tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) != e.r.after {
		return response, err
	}
	e.r.times--
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(e.r.pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(e.TPM)
	return response, err
}

// imaPCR is the one that Linux IMA extends.
const imaPCR = 10

// TestExtendedMeanwhile: a secret opens though PCRs outside of its policy are extended between the commands. If that
// never ends it is said, and is no wrong state; a PCR of the policy is one.
func TestExtendedMeanwhile(t *testing.T) {
	e := newEstate(t)
	e.start("kernel 1", "launch 1")
	of := map[string]func(seal.TPM, seal.Authorization, seal.Authorization) ([]byte, error){}
	for _, use := range []seal.Use{seal.Credential, seal.StateVolume} {
		blob, err := seal.Seal(e, &e.publisher.PublicKey, use, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		a, err := seal.Authorize(e.publisher, seal.Authorization{Name: "release 1", Use: use, Bank: "sha256", PCRs: read(t, e.Device, "sha256"), Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		of[use.String()] = func(dev seal.TPM, _, _ seal.Authorization) ([]byte, error) {
			got, _, err := seal.Unseal(dev, blob, []seal.Authorization{*a})
			return got, err
		}
	}
	volumeKey := make([]byte, seal.VolumeKeyBytes)
	for name, to := range map[string]seal.Signers{"bound": {Publisher: &e.publisher.PublicKey}, "bound and gated": {Publisher: &e.publisher.PublicKey, Owner: &e.owner.PublicKey}} {
		bound, err := seal.SealBound(e, to, seal.Credential, []byte(secret), volumeKey)
		if err != nil {
			t.Fatal(err)
		}
		of[name] = func(dev seal.TPM, authorization, approval seal.Authorization) ([]byte, error) {
			got, _, err := seal.UnsealBound(dev, bound, volumeKey, seal.Signed{Authorizations: one(authorization), Owner: to.Owner, Approvals: one(approval)})
			return got, err
		}
	}
	of["gated"] = func(dev seal.TPM, authorization, approval seal.Authorization) ([]byte, error) {
		got, _, err := e.gated.Unseal(dev, one(authorization), one(approval))
		return got, err
	}
	authorization, approval := e.authorized("release 1", 1), e.approved(e.owner, "release 1", 1)
	for name, open := range of {
		for _, after := range []tpm2.TPMCC{tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyAuthorize, tpm2.TPMCCVerifySignature} {
			for _, times := range []int{0, 1, 3} {
				got, err := open(&restless{e.Device, imaPCR, after, times}, authorization, approval)
				if err != nil || string(got) != secret {
					t.Errorf("%s, PCR %d extended %d times after %v: %q, %v", name, imaPCR, times, after, got, err)
				}
				e.nothingLoaded()
			}
		}
		got, err := open(&restless{e.Device, imaPCR, tpm2.TPMCCPolicyPCR, -1}, authorization, approval)
		if _, refused := errors.AsType[*fault.Fault](err); got != nil || refused || !errors.Is(err, seal.ErrExtended) || !strings.Contains(err.Error(), "such as Linux IMA") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, PCR %d extended all the time: %q, %v", name, imaPCR, got, err)
		}
		e.nothingLoaded()
	}
	for name, open := range of {
		e.start("kernel 1", "launch 1")
		got, err := open(&restless{e.Device, tpm.ApplicationPCR, tpm2.TPMCCPolicyPCR, 1}, authorization, approval)
		if got != nil || fault.CodeOf(err) != fault.SealPCRs || !strings.Contains(err.Error(), fmt.Sprint("PCR ", tpm.ApplicationPCR)) {
			t.Errorf("%s, a PCR of the policy extended meanwhile: %q, %v", name, got, err)
		}
	}
}
