package authz

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	internal "github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Schema describes entities, actions and context in Cedar's schema language.
//
//go:embed schema.cedarschema
var Schema string

// The entity types of the schema.
const (
	typePrincipal = "Principal"
	typeAccount   = "Account"
	typeKey       = "Key"
	typeKeyStore  = "KeyStore"
	typeAction    = "Action"
)

func uid(kind cedar.EntityType, id string) cedar.EntityUID {
	return cedar.NewEntityUID(kind, cedar.String(id))
}

// Cedar writes the rule as one Cedar policy: always the same text for the same
// rule. It is built as a syntax tree, so that no value can be taken for syntax.
func (r *Rule) Cedar() string {
	p, _ := r.tree()
	return string(p.MarshalCedar())
}

func (r *Rule) tree() (*ast.Policy, []glob) {
	var b builder
	p := ast.Annotation("id", cedar.String(r.ID)).Permit()
	if r.Effect != Allow { // Validate knows two effects; what is neither must not allow
		p = ast.Annotation("id", cedar.String(r.ID)).Forbid()
	}
	switch {
	case r.Principal == AnyPrincipal:
	case isAccount(r.Principal):
		p.PrincipalIn(uid(typeAccount, r.Principal))
	case hasWildcard(r.Principal):
		b.principal(r.Principal)
	default:
		p.PrincipalEq(uid(typePrincipal, r.Principal))
	}
	if len(r.Operations) == 1 {
		p.ActionEq(uid(typeAction, string(r.Operations[0])))
	} else {
		var actions []cedar.EntityUID
		for _, op := range r.Operations {
			actions = append(actions, uid(typeAction, string(op)))
		}
		p.ActionInSet(actions...)
	}
	if r.Key != "" {
		p.ResourceEq(uid(typeKey, r.Key))
	}
	for _, c := range r.Conditions.all() {
		if len(c.values) > 0 {
			b.optional(c.of, c.attribute, c.values...)
		}
	}
	if !r.NotAfter.IsZero() {
		b.and(ast.Context().Access("time").LessThanOrEqual(ast.Value(cedar.NewDatetime(r.NotAfter))))
	}
	if b.any {
		p.When(b.condition)
	}
	return p, b.globs
}

// glob is a pattern with "?". Cedar's like has only "*", so these are matched
// before and handed over in context.matches.
type glob struct{ of, attribute, pattern string }

func (g glob) String() string { return g.of + "." + g.attribute + " like " + g.pattern }

// builder joins conditions that must all hold.
type builder struct {
	condition ast.Node
	any       bool
	globs     []glob
}

func (b *builder) and(n ast.Node) {
	if b.any {
		n = b.condition.And(n)
	}
	b.condition, b.any = n, true
}

// principal asks that the principal is as the pattern of an ARN. As in IAM, a
// wildcard does not reach into another part of the ARN: otherwise a path like
// /x:iam::123456789012:role/ would turn a role of a stranger into one of that
// account.
func (b *builder) principal(pattern string) {
	parts, _ := splitARN(pattern)
	if !hasWildcard(strings.TrimSuffix(pattern, parts.resource)) {
		b.and(b.like("principal", "name", pattern)) // the common case; it means the same
		return
	}
	// The parts before the first wildcard are how the name begins.
	head := pattern[:strings.LastIndex(affixOf(pattern).prefix, ":")+1]
	b.and(b.like("principal", "name", head+"*"))
	fields := []struct{ attribute, value string }{{"partition", parts.partition}, {"service", parts.service},
		{"region", parts.region}, {"account", parts.account}}
	for _, f := range fields[strings.Count(head, ":")-1:] {
		if f.value != "*" {
			b.optional("principal", f.attribute, f.value)
		}
	}
	b.optional("principal", "resource", parts.resource)
}

// optional asks that there is the attribute, and that one of the values is as
// it.
func (b *builder) optional(of, attribute string, values ...string) {
	var either ast.Node
	for i, v := range values {
		n := b.like(of, attribute, v)
		if i > 0 {
			n = either.Or(n)
		}
		either = n
	}
	b.and(variable(of).Has(cedar.String(attribute)).And(either))
}

func (b *builder) like(of, attribute, value string) ast.Node {
	n := variable(of).Access(cedar.String(attribute))
	switch {
	case strings.Contains(value, "?"):
		g := glob{of, attribute, value}
		b.globs = append(b.globs, g)
		return ast.Context().Access("matches").Contains(ast.String(g.String()))
	case hasWildcard(value):
		var components []any
		for i, literal := range strings.Split(value, "*") {
			if i > 0 {
				components = append(components, types.Wildcard{})
			}
			components = append(components, literal)
		}
		return n.Like(cedar.NewPattern(components...))
	}
	return n.Equal(ast.String(value))
}

func variable(name string) ast.Node {
	if name == "principal" {
		return ast.Principal()
	}
	return ast.Context()
}

// Policy is a compiled Cedar policy with what the index needs.
type Policy struct {
	// ID names it in decisions.
	ID string

	cedar     *cedar.Policy
	attribute attributes
	globs     []glob
	// Whom and what it may concern. An empty string means all.
	operations [3]bool
	key        string
	// anyKey says that nothing of it looks at the key, or at the key store that has it.
	anyKey           bool
	principal        string
	account, pattern string
}

// Compile gives the rule's policy. It is made from the text that
// [Rule.Cedar] gives.
func (r *Rule) Compile() (*Policy, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	tree, globs := r.tree()
	text := tree.MarshalCedar()
	list, err := cedar.NewPolicyListFromBytes("", text)
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("the grant does not make one Cedar policy: %v", err)
	}
	p := compiled(r.ID, list[0])
	p.globs, p.anyKey = globs, r.Key == ""
	if p.principal == "" && p.account == "" && r.Principal != AnyPrincipal {
		p.pattern = r.Principal
	}
	return p, nil
}

// compiled reads from the policy's scope whom and what it may concern.
func compiled(id string, c *cedar.Policy) *Policy {
	p := &Policy{ID: id, cedar: c}
	tree := (*internal.Policy)(c.AST())
	switch s := tree.Principal.(type) {
	case internal.ScopeTypeEq:
		p.principal = string(s.Entity.ID)
	case internal.ScopeTypeIn:
		if s.Entity.Type == typeAccount {
			p.account = string(s.Entity.ID)
		}
	}
	if s, ok := tree.Resource.(internal.ScopeTypeEq); ok {
		p.key = string(s.Entity.ID)
	}
	for i, op := range operations {
		action := uid(typeAction, string(op))
		switch s := tree.Action.(type) {
		case internal.ScopeTypeEq:
			p.operations[i] = s.Entity == action
		case internal.ScopeTypeInSet:
			p.operations[i] = slices.Contains(s.Entities, action)
		default:
			p.operations[i] = true
		}
	}
	for _, c := range tree.Conditions {
		p.attribute |= attributesOf(c.Body)
	}
	return p
}

// ForbidAll gives a policy that forbids everything.
func ForbidAll(id string) *Policy {
	p, err := (&Rule{ID: id, Effect: Forbid, Principal: AnyPrincipal, Operations: operations}).Compile()
	if err != nil {
		panic(err) // the rule is valid
	}
	return p
}
