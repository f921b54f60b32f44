package seal

import (
	"crypto/ecdsa"
	"crypto/elliptic"

	"github.com/google/go-tpm/tpm2/transport"
)

// AskTPM asks the TPM for the secret, without what this program checks before: what the
// TPM refuses, it refuses whatever the program is.
func AskTPM(dev TPM, blob *Blob, a *Authorization) (secret []byte, err error) {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), blob.SigningKey)
	if err != nil {
		return nil, err
	}
	err = dev.Do(func(t transport.TPM) error {
		secret, err = unseal(t, blob, key, a)
		return err
	})
	return secret, err
}
