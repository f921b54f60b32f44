package appliance

import (
	"strings"
	"time"
)

// Operation is an XKS operation that grants speak of. GetHealthStatus is not
// among them: the specification exempts it from authorization.
type Operation string

// The operations that a grant can allow.
const (
	OpEncrypt       Operation = "Encrypt"
	OpDecrypt       Operation = "Decrypt"
	OpGetAttributes Operation = "GetAttributes" // GetKeyMetadata
)

// AnyPrincipal in a grant stands for every principal.
const AnyPrincipal = "*"

// Grant allows a principal some operations on one key, or on all keys of a key
// store. What no grant allows is denied.
type Grant struct {
	// ID is 32 hexadecimal digits.
	ID string `json:"id"`
	// KeyStore is the ID of the key store.
	KeyStore string `json:"-"`
	// KeyID is the external key; empty means all keys of the key store.
	KeyID string `json:"key_id,omitempty"`
	// Principal is compared with awsPrincipalArn, character by character: an ARN,
	// a service such as dynamodb.amazonaws.com, or [AnyPrincipal].
	Principal  string      `json:"principal"`
	Operations []Operation `json:"operations"`
	CreatedAt  time.Time   `json:"created_at"`

	// Seal authenticates the row under the key store's keyring key.
	Seal []byte `json:"-"`
}

// Binding names the grant's row.
func (g *Grant) Binding() Binding {
	return Binding{Purpose: "grant", KeyStore: g.KeyStore, Fields: []string{
		g.ID, g.KeyID, g.Principal, JoinOperations(g.Operations), bindTime(g.CreatedAt)}}
}

// JoinOperations gives the operations with commas between.
func JoinOperations(ops []Operation) string {
	words := make([]string, len(ops))
	for i, op := range ops {
		words[i] = string(op)
	}
	return strings.Join(words, ",")
}

// ParseOperations reads what [JoinOperations] writes; each operation may stand
// once.
func ParseOperations(s string) ([]Operation, error) {
	var ops []Operation
	seen := map[Operation]bool{}
	for _, word := range strings.Split(s, ",") {
		op := Operation(strings.TrimSpace(word))
		switch op {
		case OpEncrypt, OpDecrypt, OpGetAttributes:
		default:
			return nil, Errorf(CodeInvalid, "operation %q: use Encrypt, Decrypt and GetAttributes, with commas between", string(op))
		}
		if !seen[op] {
			seen[op] = true
			ops = append(ops, op)
		}
	}
	return ops, nil
}

// maxPrincipal is the longest ARN that a proxy must support (spec, API operations).
const maxPrincipal = 2048

func (g *Grant) validate() error {
	if g.Principal == "" || len(g.Principal) > maxPrincipal {
		return Errorf(CodeInvalid, "principal: give an ARN, a service such as dynamodb.amazonaws.com, or *, of at most %d characters", maxPrincipal)
	}
	for _, r := range g.Principal {
		if r < ' ' || r == 0x7f {
			return Errorf(CodeInvalid, "principal %q: it contains a control character", g.Principal)
		}
	}
	if strings.Contains(g.Principal, "*") && g.Principal != AnyPrincipal {
		return Errorf(CodeInvalid, "principal %q: patterns are not supported; give one exact principal, or * alone", g.Principal)
	}
	if len(g.Operations) == 0 {
		return Errorf(CodeInvalid, "operations: give at least one of Encrypt, Decrypt, GetAttributes")
	}
	return nil
}
