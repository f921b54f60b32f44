package appliance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// The terms of authorization; package authz explains them.
type (
	Operation  = authz.Operation
	Effect     = authz.Effect
	Conditions = authz.Conditions
	// RequestContext is what a decision is about.
	RequestContext = authz.Request
	// Decision is what becomes of a request, and why.
	Decision = authz.Decision
)

// The operations and effects, and the principal that stands for all.
const (
	OpEncrypt       = authz.Encrypt
	OpDecrypt       = authz.Decrypt
	OpGetAttributes = authz.GetAttributes // GetKeyMetadata
	EffectAllow     = authz.Allow
	EffectForbid    = authz.Forbid
	AnyPrincipal    = authz.AnyPrincipal
)

// Grant allows, or forbids, a principal some operations on one key, or on all
// keys of a key store. What no grant allows is denied; what one forbids, too.
type Grant struct {
	// ID is 32 hexadecimal digits.
	ID string `json:"id" jsonschema:"The ID of the grant, 32 hexadecimal digits."`
	// KeyStore is the ID of the key store.
	KeyStore string `json:"-"`
	// KeyID is the external key; empty means all keys of the key store.
	KeyID string `json:"key_id,omitempty" jsonschema:"The external key that the grant is for; absent for all keys of the key store."`
	// Effect is allow if it is left empty for AddGrant.
	Effect Effect `json:"effect" jsonschema:"Whether the grant allows or forbids."`
	// Principal is compared with awsPrincipalArn: an exact ARN, one with "*" and
	// "?" in it, a service such as dynamodb.amazonaws.com, an account of 12 digits,
	// or [AnyPrincipal].
	Principal  string      `json:"principal" jsonschema:"The principal of the grant: an ARN, which may contain * and ?, a service, an account of 12 digits, or * for all."`
	Operations []Operation `json:"operations" jsonschema:"The operations of the XKS API that the grant is for."`
	Conditions Conditions  `json:"conditions,omitzero" jsonschema:"What a request must also have for the grant to apply."`
	// NotAfter is the last moment at which it has an effect; zero is never.
	NotAfter  time.Time `json:"not_after,omitzero" jsonschema:"The last moment at which the grant has an effect; absent for no end."`
	CreatedAt time.Time `json:"created_at" jsonschema:"When the grant was made."`

	// Force has [Administration.AddGrant] take a principal, or a via service, that AWS is not known to have.
	// It is not stored.
	Force bool `json:"-"`
	// Seal authenticates the row under the key store's keyring key.
	Seal []byte `json:"-"`
	// Unreadable says that operations or conditions as they are stored cannot be read,
	// and are not here. Such a row was edited by hand.
	Unreadable bool `json:"-"`
}

// verify holds the grant against its seal: fault.Tampered.
func (g *Grant) verify(ring Keyring) error {
	if g.Unreadable {
		return fault.Errorf(fault.Tampered, "the operations or conditions of the stored grant %q cannot be read", g.ID)
	}
	return ring.Verify(g.Binding(), g.Seal)
}

// Binding names the grant's row. A grant that has nothing but what the first
// grants had is bound as they were, so that their rows remain good.
func (g *Grant) Binding() Binding {
	b := Binding{Purpose: "grant", KeyStore: g.KeyStore, Fields: []string{
		g.ID, g.KeyID, g.Principal, JoinOperations(g.Operations), BindTime(g.CreatedAt)}}
	if g.Effect != EffectAllow || !g.Conditions.IsZero() || !g.NotAfter.IsZero() {
		b.Purpose = "grant/v2"
		b.Fields = append(b.Fields, string(g.Effect), FormatConditions(g.Conditions), BindTime(g.NotAfter))
	}
	return b
}

// Rule is what the grant says.
func (g *Grant) Rule() *authz.Rule {
	return &authz.Rule{ID: g.ID, Effect: g.Effect, Key: g.KeyID, Principal: g.Principal,
		Operations: g.Operations, Conditions: g.Conditions, NotAfter: g.NotAfter}
}

// Cedar writes the grant as the Cedar policy that is evaluated.
func (g *Grant) Cedar() string { return g.Rule().Cedar() }

// FormatConditions writes conditions as they are stored and bound: JSON, always
// the same for the same conditions; empty for none.
func FormatConditions(c Conditions) string {
	if c.IsZero() {
		return ""
	}
	text, _ := json.Marshal(c) // lists of strings always encode
	return string(text)
}

// ParseConditions reads what [FormatConditions] writes.
func ParseConditions(s string) (c Conditions, err error) {
	if s == "" {
		return c, nil
	}
	if err := json.Unmarshal([]byte(s), &c); err != nil {
		return c, fault.Wrapf(fault.Invalid, err, "the conditions of a grant cannot be read")
	}
	return c, nil
}

// JoinOperations gives the operations with commas between.
func JoinOperations(ops []Operation) string {
	words := make([]string, len(ops))
	for i, op := range ops {
		words[i] = string(op)
	}
	return strings.Join(words, ",")
}

// ParseOperations reads what [JoinOperations] writes; what stands twice counts
// once.
func ParseOperations(s string) ([]Operation, error) {
	var ops []Operation
	seen := map[Operation]bool{}
	for _, word := range strings.Split(s, ",") {
		op := Operation(strings.TrimSpace(word))
		switch op {
		case OpEncrypt, OpDecrypt, OpGetAttributes:
		default:
			return nil, fault.Errorf(fault.Invalid, "operation %q: use Encrypt, Decrypt and GetAttributes, with commas between", string(op))
		}
		if !seen[op] {
			seen[op] = true
			ops = append(ops, op)
		}
	}
	return ops, nil
}

// Validate says what is wrong with effect, principal, operations, conditions and
// key: fault.Invalid.
func (g *Grant) Validate() error {
	if err := g.Rule().Validate(); err != nil {
		return fault.Errorf(fault.Invalid, "%s", err)
	}
	return nil
}

// AddGrant allows, or forbids, a principal operations on a key store or a key of
// it. It reads all of want but ID, KeyStore and CreatedAt. Errors: fault.Invalid,
// fault.NotFound.
func (a *Administration) AddGrant(ctx context.Context, keyStore string, want Grant) (*Grant, error) {
	made, err := a.AddGrants(ctx, keyStore, []Grant{want})
	if err != nil {
		return nil, err
	}
	return made[0], nil
}

// AddGrants does that with some, all or none, in one change of the state. Hand in a few
// thousand at most: other changes wait meanwhile.
func (a *Administration) AddGrants(ctx context.Context, keyStore string, want []Grant) ([]*Grant, error) {
	a.admin.Lock()
	defer a.admin.Unlock()
	v, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	made, has := make([]*Grant, len(want)), a.keysOf(ctx, e.store.ID)
	for i, w := range want {
		g, err := a.newGrant(e, w, has)
		if err != nil {
			return nil, err
		}
		if g.Seal, err = v.ring.Seal(g.Binding(), nil); err != nil {
			return nil, err
		}
		made[i] = g
	}
	if err := a.store.CreateGrants(ctx, made...); err != nil {
		return nil, err
	}
	return made, nil
}

// CheckGrant gives the error that AddGrant would, and changes nothing.
func (a *Administration) CheckGrant(ctx context.Context, keyStore string, want Grant) error {
	wrong, err := a.CheckGrants(ctx, keyStore, []Grant{want})
	if err != nil {
		return err
	}
	return wrong[0]
}

// CheckGrants gives the error that AddGrant would for each; nil for one that can be made. The
// other error is of all: fault.NotFound for the key store.
func (a *Administration) CheckGrants(ctx context.Context, keyStore string, want []Grant) ([]error, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	wrong, has := make([]error, len(want)), a.keysOf(ctx, e.store.ID)
	for i, w := range want {
		_, wrong[i] = a.newGrant(e, w, has)
	}
	return wrong, nil
}

// keysOf gives a function that says why a key store has not a key, and looks for each once.
func (a *Administration) keysOf(ctx context.Context, keyStore string) func(id string) error {
	looked := map[string]error{}
	return func(id string) error {
		err, known := looked[id]
		if !known {
			_, err = a.store.Key(ctx, keyStore, id)
			looked[id] = err
		}
		return err
	}
}

// newGrant makes a grant that is not sealed or stored yet. Has says why there is not the key.
func (a *Administration) newGrant(e *Endpoint, want Grant, has func(key string) error) (*Grant, error) {
	ops, err := ParseOperations(JoinOperations(want.Operations))
	if err != nil {
		return nil, err
	}
	g := &want
	g.ID, g.KeyStore, g.Operations, g.CreatedAt = newID(), e.store.ID, ops, a.stamp()
	g.Effect, g.NotAfter = cmp.Or(g.Effect, EffectAllow), g.NotAfter.UTC().Truncate(time.Millisecond)
	if err := CheckTime("not_after", g.NotAfter); err != nil {
		return nil, err
	}
	if !g.NotAfter.IsZero() && g.NotAfter.Before(g.CreatedAt) {
		return nil, fault.Errorf(fault.Invalid, "not after %s: that is past", g.NotAfter.Format(time.RFC3339))
	}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if err := g.Rule().Mistake(); err != nil {
		return nil, fault.Errorf(fault.Invalid, "%s", err)
	}
	if err := g.Rule().Doubt(); err != nil && !want.Force {
		return nil, fault.Errorf(fault.Invalid, "%s. If you know that KMS sends this, say so: force in the API, --force of holdfast grant add, or the box below the principal in the console", err)
	}
	g.Force = false // want is g, and its word counts for this once
	if g.KeyID != "" {
		if err := has(g.KeyID); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Grants gives all grants of a key store and of its keys.
func (a *Administration) Grants(ctx context.Context, keyStore string) ([]*Grant, error) {
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	return a.store.Grants(ctx, e.store.ID)
}

// VerifyGrants holds grants of a key store, as they are stored, against their seals. Errors:
// fault.NotFound for the key store, fault.Tampered for the first grant that does not match.
func (a *Administration) VerifyGrants(ctx context.Context, keyStore string, grants []*Grant) error {
	v, _, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return err
	}
	for _, g := range grants {
		if err := g.verify(v.ring); err != nil {
			return DamagedRow{Kind: damagedKindGrant, KeyStore: keyStore, ID: g.ID}.fault(err)
		}
	}
	return nil
}

// RemoveGrant removes a grant, also one whose row is damaged. It waits for no other
// operation. Errors: fault.NotFound.
func (a *Administration) RemoveGrant(ctx context.Context, keyStore, id string) error {
	return retry(func() error {
		g, err := a.grant(ctx, keyStore, id)
		if err != nil {
			return err
		}
		return a.store.DeleteGrant(ctx, g.KeyStore, id, g.Seal)
	})
}

// grant gives one of a key store. fault.NotFound.
func (a *Administration) grant(ctx context.Context, keyStore, id string) (*Grant, error) {
	grants, err := a.Grants(ctx, keyStore)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(grants, func(g *Grant) bool { return g.ID == id }); i >= 0 {
		return grants[i], nil
	}
	return nil, fault.Errorf(fault.NotFound, "key store %q has no grant %q", keyStore, id)
}

// CheckRemoveGrant gives the error that RemoveGrant would, and changes nothing.
func (a *Administration) CheckRemoveGrant(ctx context.Context, keyStore, id string) error {
	_, err := a.grant(ctx, keyStore, id)
	return err
}

// TestGrants decides about a request without making it, by the evaluation that a
// [Session] uses.
// It reads all of r but KeyStore, Key and Time. Errors: fault.Invalid,
// fault.NotFound.
func (a *Administration) TestGrants(ctx context.Context, keyStore, key string, r RequestContext) (Decision, error) {
	if _, err := ParseOperations(string(r.Operation)); err != nil {
		return Decision{}, err
	}
	if r.Principal == "" {
		return Decision{}, fault.Errorf(fault.Invalid, "principal: give one as KMS sends it, such as arn:aws:iam::123456789012:role/app")
	}
	_, e, err := a.service.keyStore(ctx, keyStore)
	if err != nil {
		return Decision{}, err
	}
	if e.fault != nil { // its grants are not known
		return Decision{}, e.fault
	}
	k, err := e.key(ctx, key)
	if err != nil {
		return Decision{}, err
	}
	return e.decide(&r, k), nil
}

// liveGrants are grants whose seals hold, compiled and indexed.
type liveGrants struct {
	set *authz.Set
	// compiled has each by its ID, so that a change to one of many compiles one.
	compiled map[string]compiledGrant
}

type compiledGrant struct {
	seal   []byte
	policy *authz.Policy
}

// indexGrants compiles grants; before are those so far. A grant that does not
// open allows nothing; and if it may have forbidden something, nothing is allowed
// where it stood.
func (s *Service) indexGrants(ring Keyring, keyStore, keyID string, grants []*Grant, before liveGrants) liveGrants {
	if len(grants) == 0 {
		return liveGrants{}
	}
	live := liveGrants{compiled: make(map[string]compiledGrant, len(grants))}
	policies := make([]*authz.Policy, 0, len(grants))
	for _, g := range grants {
		policy, err := compileGrant(ring, g, before.compiled[g.ID])
		switch {
		case err != nil:
			s.log.Error("a grant does not open and allows nothing", "key_store_id", keyStore, "key_id", keyID, "grant", g.ID, "error", err)
			if g.Effect != EffectAllow {
				policies = append(policies, authz.ForbidAll(g.ID))
			}
		case g.KeyID == keyID:
			live.compiled[g.ID] = compiledGrant{g.Seal, policy}
			policies = append(policies, policy)
		}
	}
	live.set = authz.NewSet(policies...)
	return live
}

// compileGrant holds a grant against its seal and compiles it, unless it was
// before.
func compileGrant(ring Keyring, g *Grant, before compiledGrant) (*authz.Policy, error) {
	if err := g.verify(ring); err != nil {
		return nil, err
	}
	if before.policy != nil && bytes.Equal(before.seal, g.Seal) {
		return before.policy, nil // a seal is of one row
	}
	return g.Rule().Compile()
}
