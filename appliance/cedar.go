package appliance

import (
	"context"
	"strings"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// Policies are Cedar policies written by hand that are to hold in a key store.
type Policies struct {
	// Cedar is their text; empty for none.
	Cedar string
	// Force has [Administration.SetPolicy] take principals of a form that IAM does not have, as
	// those of a [Grant] may. It is not stored.
	Force bool
}

// Doubt says in one line what Force overrides; nil if nothing.
func (p Policies) Doubt() error { return authz.DoubtInCedar(p.Cedar) }

// Policy gives the Cedar policies of a key store that were written by hand.
// Errors: fault.NotFound.
func (a *Administration) Policy(ctx context.Context, keyStore string) (string, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return "", err
	}
	return e.store.Policy, nil
}

// SetPolicy replaces them. Errors: fault.Invalid, with line and column, of a doubted
// principal too if it is not forced; fault.NotFound.
func (a *Administration) SetPolicy(ctx context.Context, keyStore string, want Policies) error {
	cedar, err := want.parse()
	if err != nil {
		return err
	}
	return a.changeKeyStore(ctx, keyStore, func(ks *KeyStore) error {
		ks.Policy = cedar
		return nil
	})
}

// CheckPolicy gives the error that SetPolicy would, and changes nothing.
func (a *Administration) CheckPolicy(ctx context.Context, keyStore string, want Policies) error {
	if _, err := want.parse(); err != nil {
		return err
	}
	_, _, err := a.service.keyStore(ctx, keyStore)
	return err
}

// PolicyNarrows says whether Cedar policies in the place of others can have a request denied that
// is allowed now: they permit less, or forbid more. What cannot be read narrows.
func PolicyNarrows(was, cedar string) bool { return authz.Narrows(was, cedar) }

// parse gives the policies as they are stored.
func (p Policies) parse() (string, error) {
	cedar := strings.ReplaceAll(p.Cedar, "\r\n", "\n")
	if _, err := authz.Parse(cedar); err != nil {
		return "", fault.Errorf(fault.Invalid, "Cedar policies: %s", err)
	}
	if err := authz.MistakeInCedar(cedar); err != nil {
		return "", fault.Errorf(fault.Invalid, "Cedar policies: %s", err)
	}
	if p.Force {
		return cedar, nil
	}
	if err := authz.DoubtInCedar(cedar); err != nil {
		return "", fault.Errorf(fault.Invalid, "Cedar policies: %s. If you know that KMS sends these, say so: force in the API, --force of holdfast grant policy, or the box below the policies in the console", err)
	}
	return cedar, nil
}
