package tpm

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Creation proves how an object of a TPM came to be: that TPM made it, under that
// parent, while its PCRs had these values. The attestation key has signed it
// (TPM 2.0 Part 3, TPM2_CertifyCreation).
type Creation struct {
	// Data is what the TPM noted when it made the object (TPMS_CREATION_DATA).
	Data []byte `json:"data"`
	// AK is the public area of the key that signed (TPMT_PUBLIC), Attest what was signed
	// (TPMS_ATTEST), Signature the signature (TPMT_SIGNATURE).
	AK        []byte `json:"ak"`
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
	// PCRs are the values of then, of PCRs 0 to 15 in all banks.
	PCRs PCRs `json:"pcrs"`
}

// createdBy are the PCRs that are noted when an object is made: all that no running
// system can reset.
var createdBy = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// Create has the TPM, which the caller has for itself, make an object, and certify it.
// It takes up three objects, so that the parent must not stay loaded: create is given
// the selection of PCRs that belongs into the command, and load loads what was made; both
// leave nothing loaded but that.
func Create(t transport.TPM, create func(tpm2.TPMLPCRSelection) (*tpm2.CreateResponse, error), load func(*tpm2.CreateResponse) (tpm2.NamedHandle, error)) (*tpm2.CreateResponse, *Creation, error) {
	selected, err := creationSelection(t)
	if err != nil {
		return nil, nil, err
	}
	var values PCRs
	var made *tpm2.CreateResponse
	var data []byte
	for range attempts {
		if values, err = readPCRs(t, selected); err != nil {
			return nil, nil, err
		}
		if made, err = create(selected); err != nil {
			return nil, nil, err
		}
		data = made.CreationData.Bytes()
		if err = checkCreatedPCRs(data, values); !errors.Is(err, errMoved) {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	object, err := load(made)
	if err != nil {
		return nil, nil, err
	}
	defer flush(t, object.Handle)
	c := &Creation{Data: data, PCRs: values}
	err = withAK(t, func(key tpm2.NamedHandle, public []byte) error {
		c.AK = public
		return salted(t, both, func(session tpm2.Session) error {
			rsp, err := tpm2.CertifyCreation{
				SignHandle:   tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: session},
				ObjectHandle: object, CreationHash: made.CreationHash, CreationTicket: made.CreationTicket,
				InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			}.Execute(t)
			if err != nil {
				return fmt.Errorf("TPM2_CertifyCreation: %w", err)
			}
			c.Attest, c.Signature = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
			return nil
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return made, c, nil
}

// creationSelection selects the PCRs in all active banks that are known.
func creationSelection(t transport.TPM) (tpm2.TPMLPCRSelection, error) {
	names, err := activeBanks(t)
	if err != nil {
		return tpm2.TPMLPCRSelection{}, err
	}
	var selections []Selection
	for _, name := range names {
		selections = append(selections, Selection{name, createdBy})
	}
	return selection(selections)
}

// AttestationKey gives the public area (TPMT_PUBLIC) of the attestation key of the TPM,
// which the caller has for itself.
func AttestationKey(t transport.TPM) (public []byte, err error) {
	err = withAK(t, func(_ tpm2.NamedHandle, p []byte) error {
		public = p
		return nil
	})
	return public, err
}

// Verify says why this is no proof that the attestation key's TPM made the object with
// that Name under the parent with that Name, when the PCRs had these values. It needs no
// TPM; whose key it is, is for the caller to know.
func (c *Creation) Verify(object, parent tpm2.TPM2BName) error {
	if err := c.CheckSize(); err != nil {
		return err
	}
	ak, err := parse[tpm2.TPMTPublic](c.AK)
	if err != nil {
		return fmt.Errorf("the attestation key is no TPMT_PUBLIC: %w", err)
	}
	key, err := akKey(ak)
	if err := errors.Join(checkAttributes(ak.ObjectAttributes), err); err != nil {
		return err
	}
	signature, err := parse[tpm2.TPMTSignature](c.Signature)
	if err != nil {
		return fmt.Errorf("the signature is no TPMT_SIGNATURE: %w", err)
	}
	if verifySignature(key, c.Attest, signature) != nil {
		return errors.New("the creation is not signed by the attestation key")
	}
	certified, err := certifiedCreation(c.Attest)
	if err != nil {
		return err
	}
	data, err := parse[tpm2.TPMSCreationData](c.Data)
	if err != nil {
		return fmt.Errorf("the creation data is no TPMS_CREATION_DATA: %w", err)
	}
	switch {
	case !bytes.Equal(certified.ObjectName.Buffer, object.Buffer):
		return errors.New("another object's creation was certified")
	case !bytes.Equal(certified.CreationHash.Buffer, sum(crypto.SHA256, c.Data)):
		return errors.New("other creation data was certified")
	case !bytes.Equal(data.ParentName.Buffer, parent.Buffer):
		return errors.New("it was made under another parent")
	}
	return checkCreatedPCRs(c.Data, c.PCRs)
}

// CheckSize says what no proof can have.
func (c *Creation) CheckSize() error {
	for _, l := range []struct {
		name      string
		size, max int
	}{
		{"the creation data", len(c.Data), maxAttest}, {"the attestation key", len(c.AK), maxPublic},
		{"what was certified", len(c.Attest), maxAttest}, {"the signature", len(c.Signature), maxSignature},
	} {
		if l.size == 0 || l.size > l.max {
			return fmt.Errorf("%s has %d bytes, not 1 to %d", l.name, l.size, l.max)
		}
	}
	return nil
}

func certifiedCreation(attest []byte) (*tpm2.TPMSCreationInfo, error) {
	if len(attest) < 6 || binary.BigEndian.Uint16(attest[4:]) != uint16(tpm2.TPMSTAttestCreation) {
		return nil, errors.New("what was signed is not a creation: the TPM said something else")
	}
	a, err := parse[tpm2.TPMSAttest](attest)
	if err != nil {
		return nil, fmt.Errorf("what was signed is no TPMS_ATTEST: %w", err)
	}
	if a.Magic != tpm2.TPMGeneratedValue {
		return nil, errors.New("what was signed was made by no TPM")
	}
	return a.Attested.Creation()
}

// checkCreatedPCRs compares the values with the digest in the creation data; errMoved if
// they are others.
func checkCreatedPCRs(data []byte, values PCRs) error {
	created, err := parse[tpm2.TPMSCreationData](data)
	if err != nil {
		return fmt.Errorf("the creation data is no TPMS_CREATION_DATA: %w", err)
	}
	if len(created.PCRSelect.PCRSelections) == 0 {
		return errors.New("the creation data names no PCRs")
	}
	for _, s := range created.PCRSelect.PCRSelections {
		if bankOf(s.Hash) == nil {
			return errors.New("the creation data names a bank of PCRs that is unknown")
		}
	}
	digest, err := values.digest(created.PCRSelect, crypto.SHA256) // the Name's algorithm
	if err != nil {
		return err
	}
	if !bytes.Equal(digest, created.PCRDigest.Buffer) {
		return fmt.Errorf("the object was made while the PCRs had other values: %w", errMoved)
	}
	return nil
}
