package authz

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// Cedar policies that are written by hand name principals, accounts and others as grants do, and
// are judged by the same rules: of principals and via services [Rule.Doubt]'s, of all else [Rule.Mistake]'s.

// odd is something in a policy that no request has, as far as this release knows. What is doubted
// is the form of a principal or a via service.
type odd struct {
	err     error
	doubted bool
}

// oddities are collected from one policy.
type oddities []odd

// add notes that a text is odd, and says in what.
func (o *oddities) add(what string, err error, doubted bool) {
	if err != nil {
		*o = append(*o, odd{fmt.Errorf("%s: %w", what, err), doubted})
	}
}

// MistakeInCedar says in one line why a policy written by hand names what no request has;
// nil if none does. The text is one that [Parse] takes. Of principals it judges the characters;
// the rest is [DoubtInCedar]'s.
func MistakeInCedar(text string) error {
	all, err := oddIn(text)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(o odd) bool { return !o.doubted }); i >= 0 {
		return all[i].err
	}
	return nil
}

// toldDoubts is how many doubts are told of a text.
const toldDoubts = 10

// DoubtInCedar says in one line which principals in policies written by hand have none of the
// forms that IAM has, and which via services none that KMS is documented to send, each with its
// place; nil if all have. It is [Rule.Doubt] for Cedar. Of a
// pattern it judges the parts before the first wildcard, as "*" reaches over colons.
func DoubtInCedar(text string) error {
	all, err := oddIn(text)
	if err != nil {
		return err
	}
	var told []string
	for _, o := range all {
		if o.doubted {
			told = append(told, o.err.Error())
		}
	}
	switch n := len(told); {
	case n == 0:
		return nil
	case n > toldDoubts:
		told = append(told[:toldDoubts], fmt.Sprintf("and %d more", n-toldDoubts))
	}
	return errors.New(strings.Join(told, "; "))
}

// oddIn gives what is odd in policies, in the order of the text.
func oddIn(text string) ([]odd, error) {
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		return nil, parseError(err)
	}
	var all []odd
	for _, p := range list {
		at := place(text, p.Position().Offset)
		encoded, err := p.MarshalJSON()
		var tree map[string]any
		if err == nil {
			err = json.Unmarshal(encoded, &tree)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: the policy cannot be read: %s", at, oneLine(err.Error()))
		}
		delete(tree, "annotations") // they may say anything
		var here oddities
		here.node(tree)
		for _, o := range here {
			all = append(all, odd{fmt.Errorf("%s: %w", at, o.err), o.doubted})
		}
	}
	return all, nil
}

// node looks through a policy in Cedar's JSON format: its entities, and its comparisons of
// attributes with texts.
func (o *oddities) node(node any) {
	switch n := node.(type) {
	case string:
		o.add(fmt.Sprintf("%q", n), ascii(n), false)
	case []any:
		for _, child := range n {
			o.node(child)
		}
	case map[string]any:
		if kind, ok := n["type"].(string); ok {
			if id, ok := n["id"].(string); ok {
				o.entity(kind, id)
				return
			}
		}
		for _, operator := range slices.Sorted(maps.Keys(n)) {
			if sides, ok := n[operator].(map[string]any); ok {
				o.comparison(operator, sides)
			}
			o.node(n[operator])
		}
	}
}

func (o *oddities) entity(kind, id string) {
	what := fmt.Sprintf("%s::%q", kind, id)
	switch err := ascii(id); {
	case err != nil:
		o.add(what, err, false)
	case kind == string(typeAccount):
		if !isAccount(id) {
			o.add(what, fmt.Errorf("an account has 12 digits, 0 to 9"), true)
		}
	case kind == string(typePrincipal) && hasWildcard(id):
		o.add(what, fmt.Errorf("in a name wildcards are nothing but characters; use principal.name like %q", id), false)
	case kind == string(typePrincipal):
		o.add(what, doubtfulPrincipal(id), true)
	}
}

// comparison judges "attribute == text", "attribute like pattern" and "[texts].contains(attribute)".
func (o *oddities) comparison(operator string, sides map[string]any) {
	left, right := sides["left"], sides["right"]
	switch operator {
	case "==", "!=":
		o.texts(attributeOf(left), right)
		o.texts(attributeOf(right), left)
	case "contains":
		set, _ := left.(map[string]any)
		texts, _ := set["Set"].([]any)
		o.texts(attributeOf(right), texts...)
	case "like":
		o.text(attributeOf(left), patternOf(sides["pattern"]))
	}
}

// texts judges those of the nodes that are texts.
func (o *oddities) texts(attribute string, nodes ...any) {
	for _, n := range nodes {
		if text, ok := literal(n); ok {
			o.text(attribute, text)
		}
	}
}

// text judges what an attribute is compared with.
func (o *oddities) text(attribute, text string) {
	what := fmt.Sprintf("%q", text)
	if ascii(text) != nil {
		return // node tells it
	}
	switch attribute {
	case "account", "kmsKeyAccount":
		o.add(what, mistakenAccount(text), false)
	case "kmsKeyRegion":
		o.add(what, mistakenRegion(text), false)
	case "kmsKeyArn":
		o.add(what, mistakenKeyARN(text), false)
	case "viaService":
		o.add(what, doubtfulVia(text), true)
	case "partition":
		o.add(what, mistakenPartition(text), true)
	case "service":
		o.add(what, mistakenService(text), true)
	case "name":
		if hasWildcard(text) {
			o.add(what, doubtfulPattern(text), true)
		} else {
			o.add(what, doubtfulPrincipal(text), true)
		}
	}
}

// doubtfulPattern judges a pattern of a principal's name: the parts of an ARN that are whole before
// the first wildcard.
func doubtfulPattern(pattern string) error {
	before, _, _ := strings.Cut(pattern, "*")
	parts := strings.Split(before, ":")
	if parts[0] != "arn" {
		return nil
	}
	judges := []func(string) error{nil, mistakenPartition, mistakenService, mistakenNoRegion, mistakenARNAccount}
	for i, part := range parts[:len(parts)-1] {
		if i == len(judges) {
			break
		}
		if judge := judges[i]; judge != nil {
			if err := judge(part); err != nil {
				return err
			}
		}
	}
	return nil
}

func literal(node any) (string, bool) {
	n, _ := node.(map[string]any)
	text, ok := n["Value"].(string)
	return text, ok
}

// attributeOf gives the name of the attribute of the principal or the context that a node
// is; empty for any other.
func attributeOf(node any) string {
	n, _ := node.(map[string]any)
	access, _ := n["."].(map[string]any)
	name, _ := access["attr"].(string)
	return name
}

// patternOf gives a pattern with "*" for its wildcards.
func patternOf(node any) string {
	var out strings.Builder
	parts, _ := node.([]any)
	for _, part := range parts {
		if p, ok := part.(map[string]any); ok {
			text, _ := p["Literal"].(string)
			out.WriteString(text)
		} else {
			out.WriteString("*")
		}
	}
	return out.String()
}
