package appliance

import (
	"encoding/json"
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
	ID string `json:"id"`
	// KeyStore is the ID of the key store.
	KeyStore string `json:"-"`
	// KeyID is the external key; empty means all keys of the key store.
	KeyID string `json:"key_id,omitempty"`
	// Effect is allow if it is left empty for AddGrant.
	Effect Effect `json:"effect"`
	// Principal is compared with awsPrincipalArn: an exact ARN, one with "*" and
	// "?" in it, a service such as dynamodb.amazonaws.com, an account of 12 digits,
	// or [AnyPrincipal].
	Principal  string      `json:"principal"`
	Operations []Operation `json:"operations"`
	Conditions Conditions  `json:"conditions,omitzero"`
	// NotAfter is the last moment at which it has an effect; zero is never.
	NotAfter  time.Time `json:"not_after,omitzero"`
	CreatedAt time.Time `json:"created_at"`

	// Seal authenticates the row under the key store's keyring key.
	Seal []byte `json:"-"`
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
