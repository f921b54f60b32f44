package keyring

import (
	"context"
	"errors"
	"io"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/hsm"
)

// Tokens is one token, or several that do as one.
type Tokens interface {
	Token
	// Renew: see [hsm.Token.Renew].
	Renew(ctx context.Context) error
	io.Closer
}

// Open opens one token, or a cluster of several, and gives each token for its
// health as well. Errors: fault.HSMPIN, which must not be tried again;
// fault.HSMAmbiguous; fault.HSMToken.
func Open(ctx context.Context, members ...hsm.Config) (Tokens, []appliance.HSM, error) {
	if len(members) == 1 {
		token, err := hsm.Open(ctx, members[0])
		if err != nil {
			return nil, nil, notOpened(err)
		}
		return token, []appliance.HSM{Watched(token)}, nil
	}
	cluster, err := hsm.OpenCluster(ctx, members)
	if err != nil {
		return nil, nil, notOpened(err)
	}
	var hsms []appliance.HSM
	for _, m := range cluster.Members() {
		hsms = append(hsms, Watched(m))
	}
	return cluster, hsms, nil
}

// WrongPIN says of an error of Open that a token was given the PIN, and says that it is another. One that did not try
// it, as it is locked or would be, says nothing about the PIN.
func WrongPIN(err error) bool { return errors.Is(err, hsm.ErrPINWrong) }

// notOpened puts the error of a token that cannot be opened into the registry's
// terms.
func notOpened(err error) error {
	switch {
	case errors.Is(err, hsm.ErrPINRefused):
		return fault.Wrapf(fault.HSMPIN, err, "the HSM refuses the PIN; it is not tried again, because HSMs lock after a few wrong PINs")
	case errors.Is(err, hsm.ErrAmbiguous): // which does not mend itself
		return fault.Wrapf(fault.HSMAmbiguous, err, "the HSM's token cannot be opened, as a name fits more than one")
	}
	return fault.Wrapf(fault.HSMToken, err, "the HSM's token cannot be opened")
}
