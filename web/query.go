package web

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Parameter is one of a query.
type Parameter struct {
	Name, Description string
	// Type is that of JSON Schema: "string", "integer" or "boolean".
	Type string
	// Enum lists the values, if they are few.
	Enum []string
	// Least and Most bound an integer.
	Least, Most int
}

// checkQuery says what of a query the route does not take. What is misspelt would
// otherwise count as left out.
func (r *Route) checkQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return invalid("the query cannot be read: write it as NAME=VALUE&NAME=VALUE, percent-encoded")
	}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		i := slices.IndexFunc(r.Query, func(p Parameter) bool { return p.Name == name })
		if i < 0 {
			return invalid("%.40q is no parameter of this route: it takes %s", name, r.parameters())
		}
		if len(query[name]) > 1 {
			return invalid("%s is there %d times: give it once", name, len(query[name]))
		}
		if err := r.Query[i].check(query.Get(name)); err != nil {
			return err
		}
	}
	return nil
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

// number reads a whole number of the query, which was checked; otherwise stands
// for none.
func (c *call) number(name string, otherwise int) int {
	if n, err := strconv.Atoi(c.URL.Query().Get(name)); err == nil {
		return n
	}
	return otherwise
}

// entityTag is a strong one (RFC 9110 section 8.8.3).
var entityTag = regexp.MustCompile(`^"[\x21\x23-\x7e]+"$`)

// revision reads If-Match; empty if there is none. A header that says nothing, or
// matches whatever is there, was meant to say something.
func revision(h http.Header) (string, error) {
	values, there := h["If-Match"]
	switch {
	case !there:
		return "", nil
	case len(values) != 1 || !entityTag.MatchString(values[0]):
		return "", invalid("If-Match: give one revision in quotes, as the API shows it, or leave the header out")
	}
	return values[0], nil
}

// input reads what comes with a request, and refuses what the route does not take.
func (c *call) input() (err error) {
	if err = c.route.checkQuery(c.URL.RawQuery); err != nil {
		return err
	}
	if c.revision, err = revision(c.Header); err != nil {
		return err
	}
	if c.route.BinaryRequest != "" {
		return nil // the operation reads it
	}
	if c.body, err = readBody(http.MaxBytesReader(c.w, c.Body, maxBody)); err != nil {
		return err
	}
	if c.in, err = decode(c.route.request, c.body); err != nil {
		return err
	}
	return nil
}
