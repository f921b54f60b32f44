package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A rule that can never match is most often a mistake, and one that forbids then forbids
// nothing. So a new rule may only say what KMS may send. Rules that are stored already are
// read as they are: [Rule.Validate] and [Parse] do not ask for any of this.

// partitions of AWS.
var partitions = []string{"aws", "aws-cn", "aws-us-gov", "aws-eusc", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f"}

// internalPrincipal is what KMS sends for a call of its own.
const internalPrincipal = "AWS Internal"

var (
	// The domains of the partitions.
	servicePrincipal = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*\.(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|c2s\.ic\.gov|sc2s\.sgov\.gov|csp\.hci\.ic\.gov|cloud\.adc-e\.uk)$`)
	regionName       = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	regionPattern    = regexp.MustCompile(`^[a-z0-9*?-]+$`)
	serviceName      = regexp.MustCompile(`^[a-z0-9.*?-]+$`)
	operationName    = regexp.MustCompile(`^[A-Za-z*?]+$`)
	networkName      = regexp.MustCompile(`^[a-z0-9*?-]+$`)
)

// identities are how the resource of a principal's ARN begins.
var identities = []string{"root", "user/", "role/", "assumed-role/", "federated-user/"}

// Mistake says in one line why the rule can never match a request; nil if it may. Of the
// principal it judges the characters; the rest is [Rule.Doubt]'s.
func (r *Rule) Mistake() error {
	if err := ascii(r.Principal); err != nil {
		return fmt.Errorf("principal %q: %w", r.Principal, err)
	}
	c := &r.Conditions
	for _, kind := range []struct {
		name   string
		values []string
		check  func(string) error
	}{
		{"calling account", c.CallingAccounts, mistakenAccount},
		{"via service", c.ViaServices, written(serviceName, "give a service as KMS names it, such as dynamodb, and dynamodb.*.amazonaws.com")},
		{"source VPC", c.SourceVPCs, network("vpc-")},
		{"source VPC endpoint", c.SourceVPCEs, network("vpce-")},
		{"KMS key ARN", c.KMSKeyARNs, mistakenKeyARN},
		{"KMS key Region", c.KMSKeyRegions, mistakenRegion},
		{"KMS key account", c.KMSKeyAccounts, mistakenAccount},
		{"KMS operation", c.KMSOperations, written(operationName, "give a KMS API call, such as GenerateDataKey")},
	} {
		for _, v := range kind.values {
			if err := kind.check(v); err != nil {
				return fmt.Errorf("condition %s: %q: %w", kind.name, v, err)
			}
		}
	}
	return nil
}

// ascii finds characters that KMS sends in no name: full-width letters look like others.
func ascii(s string) error {
	for _, r := range s {
		if r < ' ' || r > '~' {
			return fmt.Errorf("the character %q (%U) is in no name that KMS sends; it may look like another one", r, r)
		}
	}
	return nil
}

func written(form *regexp.Regexp, advice string) func(string) error {
	return func(v string) error {
		if err := ascii(v); err != nil {
			return err
		}
		if !form.MatchString(v) {
			return fmt.Errorf("no request has that; %s", advice)
		}
		return nil
	}
}

func network(prefix string) func(string) error {
	form := written(networkName, "give an ID such as "+prefix+"1a2b3c4d")
	return func(v string) error {
		if err := form(v); err != nil {
			return err
		}
		if !mayBegin(v, prefix) {
			return fmt.Errorf("no request has that; give an ID such as %s1a2b3c4d", prefix)
		}
		return nil
	}
}

// mayBegin says whether a text that matches the pattern may begin with one of the
// beginnings, and go on.
func mayBegin(pattern string, beginnings ...string) bool {
	fixed, wild := pattern, hasWildcard(pattern)
	if wild {
		fixed = affixOf(pattern).prefix
	}
	return slices.ContainsFunc(beginnings, func(b string) bool {
		return (len(fixed) > len(b) || wild) && strings.HasPrefix(fixed, b) || wild && strings.HasPrefix(b, fixed)
	})
}

// mayBe says whether one of the texts matches the pattern.
func mayBe(pattern string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(s string) bool { return match(pattern, s) })
}

func mistakenAccount(v string) error {
	fixed := len(strings.ReplaceAll(v, "*", ""))
	if strings.Trim(v, "0123456789*?") != "" || fixed > 12 || (fixed < 12 && !strings.Contains(v, "*")) {
		return fmt.Errorf("an account has 12 digits, 0 to 9")
	}
	return nil
}

func mistakenRegion(v string) error {
	if err := ascii(v); err != nil {
		return err
	}
	if hasWildcard(v) && regionPattern.MatchString(v) || regionName.MatchString(v) {
		return nil
	}
	return fmt.Errorf("no Region is called so; give one such as us-east-1")
}

func mistakenPartition(v string) error {
	if !mayBe(v, partitions...) {
		return fmt.Errorf("AWS has no partition %q; there are %s", v, strings.Join(partitions, ", "))
	}
	return nil
}

func mistakenService(v string) error {
	if !mayBe(v, "iam", "sts") {
		return fmt.Errorf("the service of a principal is iam or sts, and not %q", v)
	}
	return nil
}

func mistakenNoRegion(v string) error {
	if !match(v, "") {
		return fmt.Errorf("the ARN of a principal has no Region: leave %q out", v)
	}
	return nil
}

func mistakenARNAccount(v string) error {
	if err := mistakenAccount(v); err != nil {
		return fmt.Errorf("the ARN's account %q: %w", v, err)
	}
	return nil
}

const principalForms = "give an ARN such as arn:aws:iam::123456789012:role/app, a service such as dynamodb.amazonaws.com, an account of 12 digits, or *"

func mistakenPrincipal(p string) error {
	if err := ascii(p); err != nil {
		return err
	}
	switch {
	case p == AnyPrincipal, p == internalPrincipal, isAccount(p), servicePrincipal.MatchString(p):
		return nil
	case !strings.HasPrefix(p, "arn:"):
		return fmt.Errorf("no request has that principal; %s", principalForms)
	}
	a, ok := splitARN(p)
	if !ok {
		return fmt.Errorf("an ARN has six parts; %s", principalForms)
	}
	if err := mistakenPartition(a.partition); err != nil {
		return err
	}
	if err := mistakenService(a.service); err != nil {
		return err
	}
	if err := mistakenNoRegion(a.region); err != nil {
		return err
	}
	if err := mistakenARNAccount(a.account); err != nil {
		return err
	}
	if a.resource != identities[0] && (strings.Contains(a.resource, " ") || !mayBegin(a.resource, identities...)) {
		return fmt.Errorf("the ARN's resource %q is none of a principal; it begins with one of %s", a.resource, strings.Join(identities, ", "))
	}
	return nil
}

// mistakenKeyARN judges a KMS key's ARN, or a pattern of one, in which a wildcard may
// stand for several parts.
func mistakenKeyARN(v string) error {
	if err := ascii(v); err != nil {
		return err
	}
	if !mayBegin(v, "arn:") || strings.Contains(v, " ") {
		return fmt.Errorf("give an ARN such as arn:aws:kms:us-east-1:123456789012:key/*")
	}
	parts := strings.SplitN(v, ":", 6)
	checks := []func(string) error{nil, mistakenPartition, func(s string) error {
		if !mayBe(s, "kms") {
			return fmt.Errorf("the service is kms, and not %q", s)
		}
		return nil
	}, mistakenRegion, mistakenAccount, func(s string) error {
		if !mayBegin(s, "key/") {
			return fmt.Errorf("the resource begins with key/, and is not %q", s)
		}
		return nil
	}}
	for i, part := range parts {
		last := i == len(parts)-1
		if last && len(parts) < 6 {
			if !hasWildcard(part) {
				return fmt.Errorf("an ARN has six parts; give one such as arn:aws:kms:us-east-1:123456789012:key/*")
			}
			return nil // the wildcard may stand for the other parts
		}
		if strings.Contains(part, "*") {
			return nil // it may reach into the next part
		}
		if check := checks[i]; check != nil {
			if err := check(part); err != nil {
				return err
			}
		}
	}
	return nil
}
