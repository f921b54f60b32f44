package appliance

import (
	"context"
	"strings"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// Policy gives the Cedar policies of a key store that were written by hand.
// Errors: fault.NotFound.
func (a *Administration) Policy(ctx context.Context, keyStore string) (string, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return "", err
	}
	return e.store.Policy, nil
}

// SetPolicy replaces them; empty for none. Errors: fault.Invalid, with line and
// column; fault.NotFound.
func (a *Administration) SetPolicy(ctx context.Context, keyStore, cedar string) error {
	cedar, err := parsePolicy(cedar)
	if err != nil {
		return err
	}
	return a.changeKeyStore(ctx, keyStore, func(ks *KeyStore) error {
		ks.Policy = cedar
		return nil
	})
}

// CheckPolicy gives the error that SetPolicy would, and changes nothing.
func (a *Administration) CheckPolicy(ctx context.Context, keyStore, cedar string) error {
	if _, err := parsePolicy(cedar); err != nil {
		return err
	}
	_, _, err := a.service.keyStore(ctx, keyStore)
	return err
}

// PolicyNarrows says whether Cedar policies in the place of others can have a request denied that
// is allowed now: they permit less, or forbid more. What cannot be read narrows.
func PolicyNarrows(was, cedar string) bool { return authz.Narrows(was, cedar) }

// parsePolicy gives Cedar policies as they are stored.
func parsePolicy(cedar string) (string, error) {
	cedar = strings.ReplaceAll(cedar, "\r\n", "\n")
	_, err := authz.Parse(cedar)
	if err == nil {
		err = authz.MistakeInCedar(cedar)
	}
	if err != nil {
		return "", fault.Errorf(fault.Invalid, "%s", err)
	}
	return cedar, nil
}
