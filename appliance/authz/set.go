package authz

import "slices"

// Set is an index of policies. It does not change. Looking up a request costs
// the same however many policies there are, unless they are about the same
// principals: of 10,000 patterns only those are looked at whose beginning and
// end are the principal's. The nil Set is empty.
type Set struct {
	byOperation [3]byPrincipal
	// What its policies can see of a request: see is of the attributes, ofKeys says whether
	// the key and its key store are among it.
	see    attributes
	ofKeys bool
}

// byPrincipal has the policies of one operation.
type byPrincipal struct {
	exact    map[string][]*Policy
	accounts map[string][]*Policy
	patterns map[affix][]*Policy
	// shapes are the lengths that there are of prefixes and suffixes.
	shapes [][2]int
	// any may concern every principal.
	any []*Policy
}

// NewSet makes an index of the policies. Without any it is the nil Set: an appliance may have
// a million keys in memory, and hardly one has a grant of its own.
func NewSet(policies ...*Policy) *Set {
	if len(policies) == 0 {
		return nil
	}
	s := &Set{}
	for _, p := range policies {
		s.see |= p.attribute
		s.ofKeys = s.ofKeys || !p.anyKey
	}
	for i := range s.byOperation {
		b := &s.byOperation[i]
		*b = byPrincipal{exact: map[string][]*Policy{}, accounts: map[string][]*Policy{}, patterns: map[affix][]*Policy{}}
		for _, p := range policies {
			if p.operations[i] {
				b.add(p)
			}
		}
	}
	return s
}

func (b *byPrincipal) add(p *Policy) {
	switch {
	case p.principal != "":
		b.exact[p.principal] = append(b.exact[p.principal], p)
	case p.account != "":
		b.accounts[p.account] = append(b.accounts[p.account], p)
	case p.pattern != "":
		a := affixOf(p.pattern)
		b.patterns[a] = append(b.patterns[a], p)
		if shape := [2]int{len(a.prefix), len(a.suffix)}; !slices.Contains(b.shapes, shape) {
			b.shapes = append(b.shapes, shape)
		}
	default:
		b.any = append(b.any, p)
	}
}

// candidates appends to list the policies that may decide about the request.
func (s *Set) candidates(list []*Policy, r *Request, account string) []*Policy {
	i := slices.Index(operations, r.Operation)
	if s == nil || i < 0 {
		return list
	}
	b := &s.byOperation[i]
	list = appendFor(list, r.Key, b.any)
	list = appendFor(list, r.Key, b.exact[r.Principal])
	if account != "" {
		list = appendFor(list, r.Key, b.accounts[account])
	}
	for _, shape := range b.shapes {
		if n := len(r.Principal); shape[0]+shape[1] <= n {
			list = appendFor(list, r.Key, b.patterns[affix{r.Principal[:shape[0]], r.Principal[n-shape[1]:]}])
		}
	}
	return list
}

// appendFor leaves out the policies that are about another key.
func appendFor(list []*Policy, key string, policies []*Policy) []*Policy {
	for _, p := range policies {
		if p.key == "" || p.key == key {
			list = append(list, p)
		}
	}
	return list
}
