package tpm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Time gives the time that has passed since the TPM was last reset, to the millisecond,
// signed by the attestation key over a nonce of this call. It is the TPM's Time, which no
// command sets, and which begins again when the machine starts; not its Clock, which whoever
// has the owner's authorization may set forward (TPM 2.0 part 1, section 36.3).
func (d *Device) Time() (elapsed time.Duration, err error) {
	err = d.Do(func(t transport.TPM) error {
		return withAK(t, func(key tpm2.NamedHandle, public []byte) error {
			elapsed, err = signedTime(t, key, public)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("tpm: time: %w", err)
	}
	return elapsed, nil
}

func signedTime(t transport.TPM, key tpm2.NamedHandle, public []byte) (time.Duration, error) {
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	var rsp *tpm2.GetTimeResponse
	err := salted(t, both, func(session tpm2.Session) (err error) {
		rsp, err = tpm2.GetTime{
			PrivacyAdminHandle: tpm2.TPMRHEndorsement,
			SignHandle:         tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: session},
			QualifyingData:     tpm2.TPM2BData{Buffer: nonce},
			InScheme:           tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("TPM2_GetTime: %w", err)
	}
	template, err := parse[tpm2.TPMTPublic](public)
	if err != nil {
		return 0, err
	}
	ak, err := akKey(template)
	if err != nil {
		return 0, err
	}
	if err := verifySignature(ak, rsp.TimeInfo.Bytes(), &rsp.Signature); err != nil {
		return 0, err
	}
	attest, err := rsp.TimeInfo.Contents()
	if err != nil {
		return 0, err
	}
	if attest.Magic != tpm2.TPMGeneratedValue || !bytes.Equal(attest.ExtraData.Buffer, nonce) {
		return 0, errors.New("what the TPM signed is not the time for this request")
	}
	info, err := attest.Attested.Time()
	if err != nil {
		return 0, err
	}
	return time.Duration(info.Time.Time) * time.Millisecond, nil
}
