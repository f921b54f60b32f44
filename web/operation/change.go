package operation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"holdfast/appliance/approval"
)

// Difference is what an operation that waits would change in one respect: before, as it is now,
// and after, in words.
type Difference struct{ What, Before, After string }

// Differences says what a request for approval would change, as far as that is known: each member
// of its input with what is there now, or what is removed. Errors: fault.Conflict if this release
// cannot read the request.
func (c *Caller) Differences(ctx context.Context, r *approval.Request) ([]Difference, error) {
	route, q, err := stored(r)
	if err != nil {
		return nil, err
	}
	in, err := q.Read()
	if err != nil {
		return nil, err
	}
	defer Wipe(in)
	before := map[string]any{}
	if route.subject != nil {
		_ = json.Unmarshal(encoded(route.subject(ctx, c, in)), &before) // nothing, or an object
	}
	after := map[string]any{}
	_ = json.Unmarshal(r.Body, &after) // it was read above
	var all []Difference
	for _, f := range route.fields {
		if f.in == inPathOf {
			all = append(all, Difference{What: Plain(f.Name), Before: q.Path(f.Name), After: q.Path(f.Name)})
		}
	}
	for _, m := range members(route.input) {
		if v, there := after[m.name]; there {
			all = append(all, Difference{Plain(m.name), inWords(before[m.name]), inWords(v)})
		}
	}
	if len(after) == 0 { // the thing as a whole
		names := make([]string, 0, len(before))
		for name := range before {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			d := Difference{What: Plain(name), Before: inWords(before[name])}
			if route.Method != http.MethodDelete {
				d.After = d.Before
			}
			all = append(all, d)
		}
	}
	if len(r.Secret) > 0 {
		all = append(all, Difference{What: Plain(route.secretMember.name), After: "given by the one who asked, and shown to nobody"})
	}
	return all, nil
}

// DependentsOf names what may depend on the thing that a request for approval is about, if the person
// who asked has confirmed it by a name; nil for all else, and where nothing can depend on it.
func (c *Caller) DependentsOf(ctx context.Context, r *approval.Request) *DependentsOf {
	route, q, err := stored(r)
	if err != nil || !route.Guards().Confirmed {
		return nil
	}
	in, err := q.Read()
	if err != nil {
		return nil
	}
	defer Wipe(in)
	p := &performance{Caller: c, route: route, path: q.Path, in: in}
	now := p.subject(ctx)
	if !route.confirmed(now, in) {
		return nil
	}
	return p.dependentsOf(p.objectOf(now))
}

// MayDecide says why the caller may not approve the request; nil if they may.
func (c *Caller) MayDecide(ctx context.Context, r *approval.Request) error {
	asker, err := c.asker(ctx, r)
	if err == nil {
		_, err = c.mayApprove(ctx, r, asker)
	}
	return err
}

// inWords writes a value of JSON for people.
func inWords(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case string:
		return v
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = inWords(item)
		}
		return strings.Join(parts, ", ")
	case map[string]any:
		parts := make([]string, 0, len(v))
		for name, item := range v {
			parts = append(parts, Plain(name)+": "+inWords(item))
		}
		slices.Sort(parts)
		return strings.Join(parts, "; ")
	}
	return fmt.Sprint(v)
}

// AboutOf gives the key store and the key that a request for approval is about; empty for none.
func AboutOf(r *approval.Request) (keyStore, key string) {
	route, q, err := stored(r)
	if err != nil {
		return "", ""
	}
	in, err := q.Read()
	if err != nil {
		return q.Path("keystore"), q.Path("key")
	}
	defer Wipe(in)
	keyStore, key = route.inBody(in)
	return cmp.Or(q.Path("keystore"), keyStore), cmp.Or(q.Path("key"), key)
}
