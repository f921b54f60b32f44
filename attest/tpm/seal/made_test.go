package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// TestMade: the TPM's attestation key has signed how the object was made, and what it did
// not sign so is not opened.
func TestMade(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	a := authorize(t, key, m.Device, "release 1", "sha256", 1)
	blob, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	ak, err := m.CreateAK()
	if err != nil {
		t.Fatal(err)
	}
	now, err := m.ReadPCRs("sha384", []int{4, tpm.ApplicationPCR})
	if err != nil {
		t.Fatal(err)
	}
	if made := blob.Made; !bytes.Equal(made.AK, ak.Public) || !bytes.Equal(made.PCRs["sha384"][4], now[4]) || !bytes.Equal(made.PCRs["sha384"][tpm.ApplicationPCR], now[tpm.ApplicationPCR]) {
		t.Errorf("made by %x, with %v", made.AK, made.PCRs["sha384"])
	}
	second, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	m.boot("kernel evil", "holdfast 1") // another system of the same TPM
	evil, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte("the attacker's PIN"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := newMachine(t)
	elsewhere.boot("kernel 1", "holdfast 1")
	foreign, err := seal.Seal(elsewhere, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	m.boot("kernel 1", "holdfast 1")
	unseals(t, m.Device, blob, "release 1", a)
	for name, tt := range map[string]struct {
		change func(b *seal.Blob, made *tpm.Creation)
		code   fault.Code
	}{
		"no proof":                     {func(b *seal.Blob, _ *tpm.Creation) { b.Made = nil }, fault.SealMade},
		"the proof of another object":  {func(b *seal.Blob, _ *tpm.Creation) { b.Made = second.Made }, fault.SealMade},
		"the PCRs of another":          {func(b *seal.Blob, made *tpm.Creation) { made.PCRs = evil.Made.PCRs }, fault.SealMade},
		"the data of another":          {func(b *seal.Blob, made *tpm.Creation) { made.Data = evil.Made.Data }, fault.SealMade},
		"an object with another proof": {func(b *seal.Blob, made *tpm.Creation) { *b, b.Made = *evil, made }, fault.SealMade},
		"another parent":               {func(b *seal.Blob, made *tpm.Creation) { b.Parent = foreign.Parent }, fault.SealMade},
		"another TPM's":                {func(b *seal.Blob, made *tpm.Creation) { *b = *foreign }, fault.SealTPM},
		"a changed signature":          {func(b *seal.Blob, made *tpm.Creation) { made.Signature[len(made.Signature)-1] ^= 1 }, fault.SealMade},
		"a signed thing that is none":  {func(b *seal.Blob, made *tpm.Creation) { made.Attest = made.Attest[:5] }, fault.SealMade},
		"nothing":                      {func(b *seal.Blob, made *tpm.Creation) { *made = tpm.Creation{} }, fault.SealMade},
	} {
		t.Run(name, func(t *testing.T) {
			changed, made := *blob, *blob.Made
			made.Signature, changed.Made = bytes.Clone(made.Signature), &made
			tt.change(&changed, &made)
			refuses(t, m.Device, &changed, tt.code, "", a)
		})
	}
}

// interposer stands between a machine and its TPM: it gives a storage root key of its own
// under the Name of the right one, so that it could read what a session encrypts.
type interposer struct {
	*tpm.Device
	key      *ecdsa.PrivateKey
	srk      uint32 // its handle, while it is loaded
	given    int    // how often it was given
	sessions int    // that were begun with it
}

func (i *interposer) Do(f func(transport.TPM) error) error {
	return i.Device.Do(func(t transport.TPM) error { return f(&between{t, i}) })
}

type between struct {
	transport.TPM
	i *interposer
}

func (b *between) Send(command []byte) ([]byte, error) {
	code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
	if code == tpm2.TPMCCStartAuthSession && binary.BigEndian.Uint32(command[10:]) == b.i.srk {
		b.i.sessions++
	}
	if code == tpm2.TPMCCFlushContext && binary.BigEndian.Uint32(command[10:]) == b.i.srk {
		b.i.srk = 0
	}
	response, err := b.TPM.Send(command)
	if err != nil || code != tpm2.TPMCCCreatePrimary || binary.BigEndian.Uint32(command[10:]) != uint32(tpm2.TPMRHOwner) {
		return response, err
	}
	b.i.srk = binary.BigEndian.Uint32(response[10:])
	b.i.given++
	point, err := b.i.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	// Handle, size of the parameters, size of the public area, public area.
	size := int(binary.BigEndian.Uint16(response[18:]))
	public := response[20 : 20+size]
	copy(public[size-68:], slices.Concat([]byte{0, 32}, point[1:33], []byte{0, 32}, point[33:]))
	return response, nil
}

// TestInterposedParent: a public key that is not the parent's gets no session, whatever
// Name comes with it.
func TestInterposedParent(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	a := authorize(t, key, m.Device, "release 1", "sha256", 1)
	blob, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &interposer{Device: m.Device, key: own}
	if got, _, err := seal.Unseal(i, blob, []seal.Authorization{a}); got != nil || fault.CodeOf(err) != fault.SealTPM || i.given != 1 || i.sessions != 0 {
		t.Errorf("unsealed %q with %d sessions of another's key: %v", got, i.sessions, err)
	}
	if _, err := seal.Seal(i, &key.PublicKey, seal.Credential, []byte(secret)); fault.CodeOf(err) != fault.SealTPM || i.given != 2 || i.sessions != 0 {
		t.Errorf("sealed with %d sessions of another's key: %v", i.sessions, err)
	}
	unseals(t, m.Device, blob, "release 1", a)
}
