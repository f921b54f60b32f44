package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

const secret = "the PIN of the HSM"

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// read gives the PCRs that the tests authorize.
func read(t *testing.T, dev *tpm.Device, bank string) map[int]tpm.Hex {
	t.Helper()
	values, err := dev.ReadPCRs(bank, []int{4, 7, tpm.ApplicationPCR})
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int]tpm.Hex{}
	for i, v := range values {
		pcrs[i] = v
	}
	return pcrs
}

// authorize signs leave for the state that the machine is in.
func authorize(t *testing.T, key *ecdsa.PrivateKey, dev *tpm.Device, name, bank string, version uint64) seal.Authorization {
	t.Helper()
	values := read(t, dev, bank)
	a, err := seal.Authorize(key, seal.Authorization{Name: name, Bank: bank, PCRs: values, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return *a
}

func unseals(t *testing.T, dev *tpm.Device, blob *seal.Blob, want string, as ...seal.Authorization) {
	t.Helper()
	got, name, err := seal.Unseal(dev, blob, as)
	if err != nil || string(got) != secret || name != want {
		t.Errorf("got %q, %q, %v; want the secret, by %q", got, name, err, want)
	}
}

// refuses wants a refusal with the code, whose reason names what is said.
func refuses(t *testing.T, dev *tpm.Device, blob *seal.Blob, code fault.Code, says string, as ...seal.Authorization) {
	t.Helper()
	got, _, err := seal.Unseal(dev, blob, as)
	var r *fault.Fault
	if err == nil || got != nil || !errors.As(err, &r) || r.Code != code || !strings.Contains(err.Error(), says) {
		t.Errorf("got %q, %v; want %s with %q", got, err, code, says)
	}
}

// theTPMRefuses wants the TPM itself to refuse, whatever this program checks.
func theTPMRefuses(t *testing.T, dev *tpm.Device, blob *seal.Blob, a seal.Authorization) {
	t.Helper()
	if got, err := seal.AskTPM(dev, blob, &a); got != nil || fault.CodeOf(err) != fault.SealPCRs || !strings.Contains(err.Error(), "the TPM refuses the secret") {
		t.Errorf("the TPM gives %q, %v", got, err)
	}
}

// TestSealed: the secret comes back in the state that was authorized, boot
// after boot, and in no other.
func TestSealed(t *testing.T) {
	for _, bank := range []string{"sha256", "sha384"} {
		t.Run(bank, func(t *testing.T) {
			m, key := newMachine(t), newKey(t)
			m.boot("kernel 1", "holdfast 1")
			dev := m.Device
			first := authorize(t, key, dev, "release 1", bank, 1)
			blob, err := seal.Seal(dev, &key.PublicKey, seal.Credential, []byte(secret))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range [][]byte{blob.Public, blob.Private} {
				if bytes.Contains(b, []byte(secret)) {
					t.Error("the blob shows the secret")
				}
			}
			unseals(t, dev, blob, "release 1", first)
			unseals(t, dev, blob, "release 1", first) // as often as it is asked for
			if _, err := dev.Cap(); err != nil {
				t.Fatal(err)
			}
			refuses(t, dev, blob, fault.SealPCRs, "PCR 14", first)
		})
	}
}

// TestUses: an authorization for one use does not open what is sealed for
// another, not even one whose use was rewritten.
func TestUses(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	values := read(t, m.Device, "sha256")
	byUse := map[seal.Use]seal.Authorization{}
	for _, use := range []seal.Use{seal.Credential, seal.StateVolume} {
		a, err := seal.Authorize(key, seal.Authorization{Name: "release 1", Use: use, Bank: "sha256", PCRs: values, Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		byUse[use] = *a
	}
	for use, other := range map[seal.Use]seal.Use{seal.Credential: seal.StateVolume, seal.StateVolume: seal.Credential} {
		blob, err := seal.Seal(m, &key.PublicKey, use, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		unseals(t, m.Device, blob, "release 1", byUse[other], byUse[use])
		refuses(t, m.Device, blob, fault.SealPCRs, "is authorized to have the "+use.String(), byUse[other])
		rewritten := byUse[other]
		rewritten.Use = use
		refuses(t, m.Device, blob, fault.SealSignature, "not signed", rewritten)
		rewritten = byUse[other]
		claims := *blob
		claims.Use = other // the program is told otherwise, the TPM knows
		refuses(t, m.Device, &claims, fault.SealMade, "for another key or use", rewritten)
		theTPMRefuses(t, m.Device, &claims, rewritten)
	}
}

// machine is a TPM that can be rebooted.
type machine struct {
	t   *testing.T
	dir string
	p   *swtpm.Process
	*tpm.Device
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	t.Cleanup(m.off)
	return m
}

func (m *machine) off() {
	if m.p != nil {
		_ = m.Close()
		m.p.Stop()
		m.p = nil
	}
}

// boot has the machine measure what it starts.
func (m *machine) boot(kernel, application string) {
	m.t.Helper()
	m.off()
	var err error
	if m.p, err = swtpm.Start(m.dir); err != nil {
		m.t.Fatal(err)
	}
	if m.Device, err = device.OpenTPM(m.p.Socket); err != nil {
		m.t.Fatal(err)
	}
	for pcr, what := range map[int]string{4: kernel, tpm.ApplicationPCR: application} {
		if err := m.Extend(pcr, []byte(what)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// TestUpdateAndRevocation: a newly signed authorization lets a new release have
// the secret without a new sealing, and an old one can be revoked for good.
func TestUpdateAndRevocation(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	first := authorize(t, key, m.Device, "release 1", "sha256", 1)
	blob, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}

	m.boot("kernel 1", "holdfast 1")
	unseals(t, m.Device, blob, "release 1", first)
	for pcr, other := range map[string][2]string{"PCR 4": {"kernel evil", "holdfast 1"}, "PCR 14": {"kernel 1", "holdfast evil"}} {
		m.boot(other[0], other[1])
		refuses(t, m.Device, blob, fault.SealPCRs, `nearest is "release 1", but for `+pcr, first)
		if pcr == "PCR 4" {
			refuses(t, m.Device, blob, fault.SealPCRs, fmt.Sprintf("authorized %.16s…", first.PCRs[4]), first)
		}
	}

	m.boot("kernel 2", "holdfast 2")
	refuses(t, m.Device, blob, fault.SealPCRs, "PCR 4", first)
	second := authorize(t, key, m.Device, "release 2", "sha256", 2)
	unseals(t, m.Device, blob, "release 2", first, second)

	if err := seal.Revoke(m, 2); err != nil {
		t.Fatal(err)
	}
	unseals(t, m.Device, blob, "release 2", first, second)
	m.boot("kernel 1", "holdfast 1")
	refuses(t, m.Device, blob, fault.SealRevoked, `"release 1" has version 1, and all below 2 are revoked`, first, second)
	again := authorize(t, key, m.Device, "release 1 again", "sha256", 2) // a newer one of the same state
	unseals(t, m.Device, blob, "release 1 again", first, second, again)
	if err := seal.Revoke(m, 1); err != nil { // does nothing
		t.Error(err)
	}
	if n, err := seal.Counter(m); n != 2 || err != nil {
		t.Errorf("the counter is %d, %v", n, err)
	}
	if err := seal.Revoke(m, 5000); err == nil {
		t.Error("thousands of steps are taken")
	}
	if err := seal.CheckRevoke(m, 5000); err == nil {
		t.Error("the check takes thousands of steps for possible")
	}
	if err := seal.CheckRevoke(m, 7); err != nil {
		t.Error(err)
	}
	if n, err := seal.Counter(m); n != 2 || err != nil {
		t.Errorf("after the check the counter is %d, %v", n, err)
	}
}

// TestForgery: what the right key has not signed as it is, is refused; as is
// another TPM.
func TestForgery(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	good := authorize(t, key, m.Device, "release 1", "sha256", 1)
	blob, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, m.Device, blob, fault.SealSignature, "not signed", authorize(t, newKey(t), m.Device, "forged", "sha256", 1))
	later := good
	later.Version = 99
	refuses(t, m.Device, blob, fault.SealSignature, "not signed", later)
	unsigned := good
	unsigned.Signature = nil
	refuses(t, m.Device, blob, fault.SealSignature, "not signed", unsigned)
	refuses(t, m.Device, blob, fault.SealPCRs, "no state of a machine is authorized")
	m.boot("kernel evil", "holdfast 1")
	moved := good
	moved.PCRs = read(t, m.Device, "sha256")
	refuses(t, m.Device, blob, fault.SealSignature, "not signed", moved)

	m.boot("kernel 1", "holdfast 1")
	damaged := *blob
	damaged.Private = bytes.Clone(blob.Private)
	damaged.Private[len(damaged.Private)-1] ^= 1
	refuses(t, m.Device, &damaged, fault.SealTPM, "does not load", good)
	foreign := *blob
	other := newKey(t)
	foreign.SigningKey, err = other.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	own := authorize(t, other, m.Device, "own key", "sha256", 1)
	refuses(t, m.Device, &foreign, fault.SealMade, "for another key or use", own)
	theTPMRefuses(t, m.Device, &foreign, own)

	elsewhere := newMachine(t)
	elsewhere.boot("kernel 1", "holdfast 1")
	refuses(t, elsewhere.Device, blob, fault.SealTPM, "this TPM has no counter", good)
	if n, err := seal.Counter(elsewhere); n != 0 || err != nil {
		t.Fatalf("the counter of a TPM without one is %d: %v", n, err)
	}
	if err := seal.CheckRevoke(elsewhere, 1); err != nil { // makes none
		t.Error(err)
	}
	refuses(t, elsewhere.Device, blob, fault.SealTPM, "this TPM has no counter", good)
	if err := seal.Revoke(elsewhere, 1); err != nil { // makes one
		t.Fatal(err)
	}
	refuses(t, elsewhere.Device, blob, fault.SealTPM, "not the TPM that the secret was sealed by", good)
}

// TestSealRefuses what a TPM does not take.
func TestSealRefuses(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("k", "h")
	for _, n := range []int{0, seal.MaxSecret + 1} {
		if _, err := seal.Seal(m, &key.PublicKey, seal.Credential, make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes is sealed", n)
		}
	}
	if _, err := seal.Seal(m, &key.PublicKey, seal.Credential, make([]byte, seal.MaxSecret)); err != nil {
		t.Error(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Seal(m, &p384.PublicKey, seal.Credential, []byte(secret)); err == nil {
		t.Error("a key on P-384 is taken")
	}
	if _, err := seal.Authorize(p384, seal.Authorization{Bank: "sha256", PCRs: map[int]tpm.Hex{4: make([]byte, 32)}}); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("a key on P-384 authorizes: %v", err)
	}
	for name, a := range map[string]seal.Authorization{
		"no PCR":        {Bank: "sha256"},
		"another bank":  {Bank: "sha1", PCRs: map[int]tpm.Hex{4: make([]byte, 20)}},
		"wrong length":  {Bank: "sha384", PCRs: map[int]tpm.Hex{4: make([]byte, 32)}},
		"no such index": {Bank: "sha256", PCRs: map[int]tpm.Hex{24: make([]byte, 32)}},
	} {
		if _, err := seal.Authorize(key, a); err == nil {
			t.Errorf("%s: authorized", name)
		}
	}
}
