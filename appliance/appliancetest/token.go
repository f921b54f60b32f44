package appliancetest

import (
	"context"
	"log/slog"

	"holdfast/appliance/keyring"
	"holdfast/hsm"
)

// Token is an open token: [*hsm.Token], or that of a [Memory].
type Token interface {
	keyring.Token
	keyring.Prober
	Close() error
}

// Device is a token that can be opened, more than once and by several beds: [PKCS11]
// or [*Memory].
type Device interface {
	Open(ctx context.Context, o Opening) (Token, error)
}

// Opening is what differs when a device is opened.
type Opening struct {
	// Log takes what a real token logs; nil for none.
	Log *slog.Logger
	// MakingMasterKey: see [hsm.Config].
	MakingMasterKey func() error
}

// PKCS11 is a real token, such as those of hsm/hsmtest.
type PKCS11 hsm.Config

// Open implements [Device].
func (c PKCS11) Open(ctx context.Context, o Opening) (Token, error) {
	c.Log, c.MakingMasterKey = o.Log, o.MakingMasterKey
	t, err := hsm.Open(ctx, hsm.Config(c))
	if err != nil {
		return nil, err
	}
	return t, nil
}
