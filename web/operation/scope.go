package operation

import (
	"context"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// KeyStoreScope says how an operation stands to the key stores in the scope of an API token.
type KeyStoreScope string

const (
	// OneKeyStore: the path, the input, or what the operation is about names a key store, which
	// must be in the scope. An input that names none is about all of them.
	OneKeyStore KeyStoreScope = "the key store"
	// ListedKeyStores: the answer has only the key stores that are in the scope.
	ListedKeyStores KeyStoreScope = "lists the key stores of the scope"
	// WholeAppliance: a token whose scope is limited to key stores must name the operation.
	WholeAppliance KeyStoreScope = "the whole appliance"
	// BeyondScopes: a token whose scope has any limit is refused, also if it names the operation.
	BeyondScopes KeyStoreScope = "beyond every scope"
)

// KeyStoreScope says how the operation stands to key stores.
func (r *Route) KeyStoreScope() KeyStoreScope {
	switch {
	case r.keyStore != nil, r.fields.has(inPathOf, "keystore"):
		return OneKeyStore
	case r.Narrows:
		return ListedKeyStores
	case r.BeyondScope:
		return BeyondScopes
	}
	return WholeAppliance
}

func (all fields) has(in, name string) bool {
	for _, f := range all {
		if f.in == in && f.Name == name {
			return true
		}
	}
	return false
}

// inScope says why the scope of the caller's API token does not have the operation; nil if it
// does, and for callers without a scope. It is asked before the input is read and once more after
// it: before, a key store that only the input names is not known. The token's address counts when
// it asks, and not when what it asked for is performed after an approval, as that is done where the
// approver is. Errors: fault.Forbidden.
func (p *performance) inScope(ctx context.Context) error {
	s := p.Who.Scope
	switch {
	case s == nil:
		return nil
	case !s.HasOperation(p.route.ID):
		return outOfScope("the operation %s", p.route.ID)
	case p.approvedBy == "" && !s.HasAddress(p.Remote):
		return outOfScope("your address (%.60q)", p.Remote)
	case p.route.BeyondScope && s.Limits():
		return fault.Errorf(fault.Forbidden, "the API token has a scope, and %s has an effect beyond each scope: do it as a user, or with a token without limits", p.route.ID)
	case s.AllKeyStores():
		return nil
	}
	switch p.route.KeyStoreScope() {
	case ListedKeyStores:
		return nil
	case WholeAppliance:
		if !s.NamesOperation(p.route.ID) {
			return fault.Errorf(fault.Forbidden, "the API token is for some key stores, and %s is about the whole appliance: make a token whose scope names this operation", p.route.ID)
		}
		return nil
	}
	name := p.path("keystore")
	if name == "" {
		if p.in == nil {
			return nil // it is asked once more
		}
		var err error
		if name, err = p.route.keyStore(ctx, p.Caller, p.in); err != nil && fault.CodeOf(err) != fault.NotFound { // what is not there is in no scope
			return err
		}
	}
	switch {
	case name == "":
		return fault.Errorf(fault.Forbidden, "the API token is for some key stores: name one of them; without, %s is about all", p.route.ID)
	case !s.HasKeyStore(name):
		return outOfScope("the key store %.80q", name)
	}
	return nil
}

func outOfScope(format string, args ...any) error {
	return fault.Errorf(fault.Forbidden, "the scope of the API token does not have "+format+": use another token, or make one whose scope has it", args...)
}

// shows says whether a list may show what belongs to a key store.
func (c *Caller) shows(keyStore string) bool {
	return c.Who.Scope.AllKeyStores() || keyStore != "" && c.Who.Scope.HasKeyStore(keyStore)
}

// keyStoreOf gives the key store that a request for approval is about; empty if it is about none,
// or about all of them, or this release cannot read it.
func (c *Caller) keyStoreOf(ctx context.Context, r *approval.Request) string {
	route, q, err := stored(r)
	if err != nil {
		return ""
	}
	if name := q.Path("keystore"); name != "" || route.keyStore == nil {
		return name
	}
	in, err := q.Read()
	if err != nil {
		return ""
	}
	defer Wipe(in)
	name, err := route.keyStore(ctx, c, in)
	if err != nil {
		return ""
	}
	return name
}

// decisionKeyStore is that of the request that is decided.
func decisionKeyStore(ctx context.Context, c *Caller, in ApprovalDecision) (string, error) {
	return approvalKeyStore(ctx, c, in.ApprovalName)
}

// approvalKeyStore is what an operation on a request for approval is about: the key store of what
// is asked for.
func approvalKeyStore(ctx context.Context, c *Caller, in ApprovalName) (string, error) {
	r, err := c.Approvals.Approval(ctx, in.Approval)
	if err != nil {
		return "", err
	}
	return c.keyStoreOf(ctx, r), nil
}

// checkScope says what is wrong with the scope of a token that is to be made: it names an
// operation or a key store that there is not.
func checkScope(ctx context.Context, c *Caller, s *identity.Scope) error {
	ids := map[string]bool{identity.Everything: true}
	for _, r := range table {
		ids[r.ID] = true
	}
	for _, id := range s.Operations {
		if !ids[id] {
			return fault.Errorf(fault.Invalid, "the scope names the operation %.80q, which there is not: use the operation IDs of the OpenAPI document", id)
		}
	}
	if s.AllKeyStores() {
		return nil
	}
	all, err := c.Domain.KeyStores(ctx)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, ks := range all {
		names[ks.Name] = true
	}
	for _, name := range s.KeyStores {
		if !names[name] {
			return fault.Errorf(fault.Invalid, "the scope names the key store %.80q, which there is not: use the name of one that there is", name)
		}
	}
	return nil
}
