// Package authz decides which requests of AWS KMS are allowed. Rules, which are
// what grants say, become Cedar policies; administrators may write others by
// hand; Cedar evaluates them. An index finds the few that may concern a request.
//
// A request is allowed if a policy permits it and none forbids it.
package authz

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Operation is an XKS operation that policies speak of. GetHealthStatus is not
// among them: the specification exempts it from authorization.
type Operation string

// The operations.
const (
	Encrypt       Operation = "Encrypt"
	Decrypt       Operation = "Decrypt"
	GetAttributes Operation = "GetAttributes" // GetKeyMetadata
)

// operations has each at its place in the index.
var operations = []Operation{Encrypt, Decrypt, GetAttributes}

// Effect is what a rule does to the requests that it matches.
type Effect string

// The effects. Forbid wins over Allow.
const (
	Allow  Effect = "allow"
	Forbid Effect = "forbid"
)

// AnyPrincipal stands for every principal.
const AnyPrincipal = "*"

// Conditions limit a rule to some requests. Each is a list of values, in which
// "*" stands for any characters and "?" for one; one of them must match. An
// empty list is no condition. A request that lacks what a condition is about
// does not meet it.
type Conditions struct {
	// CallingAccounts are of the principal's ARN.
	CallingAccounts []string `json:"calling_accounts,omitempty" jsonschema:"The accounts of the principal's ARN." example:"[\"123456789012\"]" items:"100" each:"2048"`
	ViaServices     []string `json:"via_services,omitempty" jsonschema:"The AWS services that call KMS for the principal (kmsViaService), each as a name and as NAME.REGION.amazonaws.com, since KMS is documented to send either." example:"[\"s3\",\"s3.*.amazonaws.com\"]" items:"100" each:"2048"`
	SourceVPCs      []string `json:"source_vpcs,omitempty" jsonschema:"The VPCs from which KMS is called (awsSourceVpc)." example:"[\"vpc-0123456789abcdef0\"]" items:"100" each:"2048"`
	SourceVPCEs     []string `json:"source_vpces,omitempty" jsonschema:"The VPC endpoints through which KMS is called (awsSourceVpce)." example:"[\"vpce-0123456789abcdef0\"]" items:"100" each:"2048"`
	KMSKeyARNs      []string `json:"kms_key_arns,omitempty" jsonschema:"The ARNs of the KMS keys (kmsKeyArn)." items:"100" each:"2048"`
	// KMSKeyRegions and KMSKeyAccounts are parts of the KMS key's ARN.
	KMSKeyRegions  []string `json:"kms_key_regions,omitempty" jsonschema:"The AWS Regions of the KMS keys' ARNs." example:"[\"eu-central-1\"]" items:"100" each:"2048"`
	KMSKeyAccounts []string `json:"kms_key_accounts,omitempty" jsonschema:"The accounts of the KMS keys' ARNs." example:"[\"123456789012\"]" items:"100" each:"2048"`
	// KMSOperations are KMS API calls, such as GenerateDataKey.
	KMSOperations []string `json:"kms_operations,omitempty" jsonschema:"The KMS API calls, such as GenerateDataKey (kmsOperation)." example:"[\"GenerateDataKey\"]" items:"100" each:"2048"`
}

// condition is one of the conditions with the Cedar attribute that it is about.
type condition struct {
	name, of, attribute string
	values              []string
}

func (c *Conditions) all() []condition {
	return []condition{
		{"calling account", "principal", "account", c.CallingAccounts},
		{"via service", "context", "viaService", c.ViaServices},
		{"source VPC", "context", "sourceVpc", c.SourceVPCs},
		{"source VPC endpoint", "context", "sourceVpce", c.SourceVPCEs},
		{"KMS key ARN", "context", "kmsKeyArn", c.KMSKeyARNs},
		{"KMS key Region", "context", "kmsKeyRegion", c.KMSKeyRegions},
		{"KMS key account", "context", "kmsKeyAccount", c.KMSKeyAccounts},
		{"KMS operation", "context", "kmsOperation", c.KMSOperations},
	}
}

// IsZero says whether there is no condition.
func (c Conditions) IsZero() bool {
	return !slices.ContainsFunc(c.all(), func(c condition) bool { return len(c.values) > 0 })
}

// Rule is what a grant says.
type Rule struct {
	// ID names the rule in decisions.
	ID     string
	Effect Effect
	// Key is the external key that it is about; empty means every key.
	Key string
	// Principal is an exact principal as KMS sends it (an ARN, a service such as
	// dynamodb.amazonaws.com), an ARN with "*" and "?" in it, an account of 12
	// digits, which means all its principals, or [AnyPrincipal].
	Principal  string
	Operations []Operation
	Conditions Conditions
	// NotAfter is the last millisecond in which it has an effect; zero is never.
	NotAfter time.Time
}

// The limits of a rule. An ARN of 2048 characters must be supported (spec, API
// operations).
const (
	maxPrincipal = 2048
	maxValues    = 100
)

// Validate says in one line what is wrong with the rule, if anything is.
func (r *Rule) Validate() error {
	if r.Effect != Allow && r.Effect != Forbid {
		return fmt.Errorf("effect %q: use allow or forbid", string(r.Effect))
	}
	if len(r.Operations) == 0 {
		return fmt.Errorf("operations: give at least one of Encrypt, Decrypt, GetAttributes")
	}
	for _, op := range r.Operations {
		if !slices.Contains(operations, op) {
			return fmt.Errorf("operation %q: use Encrypt, Decrypt and GetAttributes", string(op))
		}
	}
	if err := validatePrincipal(r.Principal); err != nil {
		return err
	}
	for _, c := range r.Conditions.all() {
		if len(c.values) > maxValues {
			return fmt.Errorf("condition %s: it has %d values; at most %d are supported", c.name, len(c.values), maxValues)
		}
		for _, v := range c.values {
			if v == "" || len(v) > maxPrincipal {
				return fmt.Errorf("condition %s: give values of 1 to %d characters", c.name, maxPrincipal)
			}
			if !printable(v) {
				return fmt.Errorf("condition %s: the value %q has a character that cannot be printed", c.name, v)
			}
		}
	}
	return nil
}

func validatePrincipal(p string) error {
	switch {
	case p == "" || len(p) > maxPrincipal:
		return fmt.Errorf("principal: give an ARN, a service such as dynamodb.amazonaws.com, an account of 12 digits, or *, of at most %d characters", maxPrincipal)
	case !printable(p):
		return fmt.Errorf("principal %q: it has a character that cannot be printed", p)
	case p == AnyPrincipal || !hasWildcard(p):
		return nil
	}
	if _, ok := splitARN(p); !ok {
		return fmt.Errorf("principal %q: wildcards are for ARNs of six parts, such as arn:aws:iam::123456789012:role/app-*; or give * alone", p)
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
