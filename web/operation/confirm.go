package operation

import (
	"context"
	"strings"

	"holdfast/appliance/fault"
)

// Confirmation is what a person confirms before an operation that a mistake makes costly.
type Confirmation struct {
	// Words are the operation's, for the input; Summary says what it does.
	Words, Summary string
	// Object is what it is done to, in words; empty if that has no name.
	Object string
	// Name is what the person types: the name of the object, or the words of the operation.
	Name string
	// Warning says what the operation does to the one who asks for it; empty for nothing.
	Warning string
	// Of names what [ShowDependents] tells of; nil if nothing can depend on it.
	Of *DependentsOf
}

// Check says that another name was typed. fault.Invalid.
func (c *Confirmation) Check(typed string) error {
	typed = strings.TrimSpace(typed)
	switch {
	case typed == "":
		return fault.Errorf(fault.Invalid, "type %q to confirm; you typed nothing", c.Name)
	case typed != c.Name:
		return fault.Errorf(fault.Invalid, "type %q to confirm; you typed %.80q", c.Name, typed)
	}
	return nil
}

// everythingName is typed for what is done to everything.
const everythingName = "everything"

// Confirmation gives what the caller confirms before the operation is performed with the input;
// nil for nothing. What the caller may not do, and what could not be done, is refused here as
// [Operation.Do] refuses it, and recorded: nobody types a name for nothing. Presence is asked for
// by Do, after it.
func (o *Operation[In, Out]) Confirmation(ctx context.Context, c *Caller, in In) (*Confirmation, error) {
	if !o.Guards().Confirmed {
		return nil, nil
	}
	p := &performance{Caller: c, route: &o.Route, path: o.fields.of(in), in: in}
	now := p.subject(ctx)
	if !o.confirmed(now, in) {
		return nil, nil
	}
	err := c.admitted(p.route)
	if err == nil {
		err = p.inScope(ctx)
	}
	if err != nil {
		p.refused(ctx, err)
		return nil, err
	}
	if err = o.fields.valid(in); err == nil {
		err = p.stale(now)
	}
	if err == nil && o.check != nil {
		err = o.check(ctx, c, in)
	}
	if err != nil {
		p.unusable(ctx, err)
		return nil, err
	}
	return p.confirmation(now), nil
}

// ToConfirm gives what is known of a confirmation where the state is not: by a program that asks
// an appliance elsewhere. It is nil if nothing has to be confirmed whatever the state is.
func (o *Operation[In, Out]) ToConfirm(in In) *Confirmation {
	if !o.Guards().Confirmed || !o.confirmed(nil, in) {
		return nil
	}
	p := &performance{Caller: &Caller{}, route: &o.Route, path: o.fields.of(in), in: in}
	return p.confirmation(nil)
}

// confirmation is what is confirmed; now is the subject, nil if it is not known.
func (p *performance) confirmation(now any) *Confirmation {
	o := p.objectOf(now)
	c := &Confirmation{Words: p.route.variant(p.in), Summary: p.route.Summary, Object: o.words, Name: o.name(), Of: p.dependentsOf(o)}
	if c.Name == "" {
		c.Name = c.Words
	}
	if named, ok := p.in.(interface{ typedName(now any) string }); ok {
		if name := named.typedName(now); name != "" {
			c.Name = name
		}
	}
	if now != nil {
		c.Warning = p.route.warning(p.Caller, now, p.in)
	}
	return c
}

// name is what people call the thing; empty if it is none.
func (t thing) name() string {
	if t.called != "" {
		return t.called
	}
	return strings.TrimPrefix(t.words, t.kind+" ")
}

// dependentsOf names what may depend on the object; nil if nothing can.
func (p *performance) dependentsOf(o thing) *DependentsOf {
	keyStore, key := p.about()
	switch o.kind {
	case "key", "key store":
		return &DependentsOf{KeyStore: keyStore, Key: key}
	case "credential":
		return &DependentsOf{KeyStore: keyStore, Credential: o.id}
	case "grant":
		return &DependentsOf{KeyStore: keyStore, Grant: o.id}
	case "node":
		return &DependentsOf{Node: o.id}
	case everythingName:
		return &DependentsOf{}
	case "user":
		if id := p.path("user"); id != "" { // otherwise it is about the caller's own account
			return &DependentsOf{User: id}
		}
	case "":
		if p.route.Effects.Can(StopsService) { // such as another certificate: all key stores rely on it
			return &DependentsOf{}
		}
	}
	return nil
}
