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
	Open(ctx context.Context, log *slog.Logger) (Token, error)
}

// PKCS11 is a real token, such as those of hsm/hsmtest.
type PKCS11 hsm.Config

// Open implements [Device]. What the token logs goes to log.
func (c PKCS11) Open(ctx context.Context, log *slog.Logger) (Token, error) {
	c.Log = log
	return hsm.Open(ctx, hsm.Config(c))
}
