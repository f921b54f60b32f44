package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// serviceDomains are the domains of the partitions.
var serviceDomains = []string{"amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "c2s.ic.gov", "sc2s.sgov.gov", "csp.hci.ic.gov", "cloud.adc-e.uk"}

// Names as IAM takes them: of users, roles and sessions, behind paths.
const (
	iamName = `[\w+=,.@-]{1,64}`
	iamPath = `([!-.0-~]{1,512}/)*`
)

// principalResources are what the resources of principals are, in iam and in sts.
var principalResources = map[string][]*regexp.Regexp{
	"iam": {
		regexp.MustCompile(`^root$`),
		regexp.MustCompile(`^user/` + iamPath + iamName + `$`),
		regexp.MustCompile(`^role/` + iamPath + iamName + `$`),
	},
	"sts": {
		regexp.MustCompile(`^assumed-role/` + iamName + `/[\w+=,.@-]{2,64}$`),
		regexp.MustCompile(`^federated-user/[\w+=,.@-]{2,32}$`),
	},
}

// resourceBeginnings are how they begin, for patterns.
var resourceBeginnings = map[string][]string{
	"iam": {"root", "user/", "role/"},
	"sts": {"assumed-role/", "federated-user/"},
}

// Doubt says in one line why the principal is none of the forms that IAM has, or a via service
// none that KMS is documented to send; nil if they are. KMS may send it all the same, if AWS has
// got a new service or partition: who knows that it does can make the rule.
func (r *Rule) Doubt() error {
	if err := doubtfulPrincipal(r.Principal); err != nil {
		return fmt.Errorf("principal %q: %w", r.Principal, err)
	}
	for _, v := range r.Conditions.ViaServices {
		if err := doubtfulVia(v); err != nil {
			return fmt.Errorf("condition via service: %q: %w", v, err)
		}
	}
	return nil
}

func doubtfulPrincipal(p string) error {
	if err := mistakenPrincipal(p); err != nil {
		return err
	}
	if servicePrincipal.MatchString(p) {
		return doubtfulService(p)
	}
	a, ok := splitARN(p)
	if !ok {
		return nil // all, an account, or KMS itself
	}
	for service, forms := range principalResources {
		if !match(a.service, service) {
			continue
		}
		if hasWildcard(a.resource) && mayBegin(a.resource, resourceBeginnings[service]...) {
			return nil
		}
		if slices.ContainsFunc(forms, func(f *regexp.Regexp) bool { return f.MatchString(a.resource) }) {
			return nil
		}
	}
	return fmt.Errorf("a principal is arn:PARTITION:iam::ACCOUNT:root, user/NAME or role/NAME, or arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION or federated-user/NAME; names have at most 64 letters, digits and _+=,.@-")
}

// doubtfulService judges NAME.DOMAIN and NAME.REGION.DOMAIN.
func doubtfulService(p string) error {
	name := p
	for _, domain := range serviceDomains {
		if cut, ok := strings.CutSuffix(p, "."+domain); ok {
			name = cut
		}
	}
	if cut := strings.LastIndexByte(name, '.'); cut > 0 && regionName.MatchString(name[cut+1:]) {
		name = name[:cut]
	}
	if slices.Contains(services, name) {
		return nil
	}
	return fmt.Errorf("no AWS service is known by the name %q; AWS documents the principal of each service, such as dynamodb.amazonaws.com", name)
}
