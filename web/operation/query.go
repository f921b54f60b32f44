package operation

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// checkQuery says what of a query the route does not take. What is misspelt would
// otherwise count as left out.
func (r *Route) checkQuery(raw string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalid("the query cannot be read: write it as NAME=VALUE&NAME=VALUE, percent-encoded")
	}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		i := slices.IndexFunc(r.Query, func(p Parameter) bool { return p.Name == name })
		if i < 0 {
			return nil, invalid("%.40q is no parameter of this route: it takes %s", name, r.parameters())
		}
		if len(query[name]) > 1 {
			return nil, invalid("%s is there %d times: give it once", name, len(query[name]))
		}
		if err := r.Query[i].check(query.Get(name)); err != nil {
			return nil, err
		}
	}
	return query, nil
}

func (r *Route) parameters() string {
	if len(r.Query) == 0 {
		return "none"
	}
	names := make([]string, len(r.Query))
	for i, p := range r.Query {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// check says what is wrong with a value.
func (p *Parameter) check(text string) error {
	switch {
	case text == "":
		return invalid("%s is empty: leave it out, or give it a value", p.Name)
	case utf8.RuneCountInString(text) > p.Longest:
		return invalid("%s has more than %d characters", p.Name, p.Longest)
	case len(p.Enum) > 0 && !slices.Contains(p.Enum, text):
		return invalid("%s %.40q: use %s", p.Name, text, strings.Join(p.Enum, ", "))
	case p.Type == "boolean" && text != "true" && text != "false":
		return invalid("%s %.40q: use true or false", p.Name, text)
	case p.Type == "integer":
		if n, err := strconv.Atoi(text); err != nil || strconv.Itoa(n) != text || n < p.Least || n > p.Most {
			return invalid("%s %.20q: use a number from %d to %d", p.Name, text, p.Least, p.Most)
		}
	}
	return nil
}
