package authz

import (
	"fmt"
	"slices"
	"strings"
)

// What KMS sends as kmsViaService is documented in two forms. The specification of the XKS proxy API
// (version 1.0.3) has the example "ebs", a name alone, and refers to kms:ViaService for the meaning; the
// table of kms:ViaService in the AWS KMS developer guide has NAME.REGION.amazonaws.com, with that domain
// in all partitions, and for EBS the name ec2. Which of them KMS sends was not seen. So a condition may
// say either, and one that can be neither is doubted.

// viaForms are the two forms. "+" stands for one label. Few services have names of several labels.
var viaForms = []string{"+", "+.+.amazonaws.com", "+.+.+.amazonaws.com", "+.+.+.+.amazonaws.com"}

// doubtfulVia says why a via service, or a pattern of one, is none of the forms that KMS is documented
// to send.
func doubtfulVia(v string) error {
	if !slices.ContainsFunc(viaForms, func(form string) bool { return meet(v, form) }) && !mayBe(v, services...) {
		return fmt.Errorf("KMS is documented to send a name such as dynamodb, or NAME.REGION.amazonaws.com such as dynamodb.us-east-1.amazonaws.com, and this can be neither; give both, as in dynamodb and dynamodb.*.amazonaws.com")
	}
	if hasWildcard(v) {
		return nil
	}
	name, _ := strings.CutSuffix(v, ".amazonaws.com")
	if cut := strings.LastIndexByte(name, '.'); cut > 0 && name != v {
		if !regionName.MatchString(name[cut+1:]) {
			return fmt.Errorf("no Region is called %q; give one such as us-east-1, or *", name[cut+1:])
		}
		name = name[:cut]
	}
	if slices.Contains(services, name) {
		return nil
	}
	return fmt.Errorf("no AWS service is known by the name %q; the names are in AWS's table of kms:ViaService, such as dynamodb", name)
}

// meet says whether some text matches both a pattern and a form, in which "+" stands for one label:
// one or more of a-z, 0-9 and "-".
func meet(pattern, form string) bool {
	// reached[j] says that the pattern so far and form[:j] have a text in common; inside[j] that form[j] is
	// a label that has begun.
	reached, inside := make([]bool, len(form)+1), make([]bool, len(form)+1)
	reached[0] = true
	for i := range len(pattern) {
		c := pattern[i]
		if c == '*' { // as nothing, or as any more of the form
			for j := range len(form) {
				if reached[j] || inside[j] {
					reached[j+1] = true
					inside[j] = inside[j] || form[j] == '+'
				}
			}
			continue
		}
		next, within := make([]bool, len(form)+1), make([]bool, len(form)+1)
		for j := range len(form) {
			switch {
			case !reached[j] && !inside[j]:
			case form[j] == '+' && (c == '?' || isLabel(c)):
				within[j], next[j+1] = true, true
			case form[j] != '+' && reached[j] && (c == '?' || c == form[j]):
				next[j+1] = true
			}
		}
		reached, inside = next, within
	}
	return reached[len(form)]
}

func isLabel(c byte) bool { return c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' }
