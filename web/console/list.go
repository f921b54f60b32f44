package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// listed is a page of a list as the console shows it: the page's address says which, by the
// parameters of the operation.
type listed[Item any] struct {
	operation.List[Item]
	// filters are the fields of the filter; filtered says that one is set.
	filters  []ui.Field
	filtered bool
	pages    ui.Pages

	path, of string
	query    url.Values // of the page's address
}

// listOf reads a page of a list. What stands before the names of its parameters in the page's
// address tells the lists of a page apart; it is empty for the only one.
func listOf[In, Item any](p *page, of string, o *operation.Operation[In, operation.List[Item]]) (listed[Item], error) {
	return listBy(p, of, o, "")
}

// listBy is listOf in an order of its own, as long as the page's address asks for none.
func listBy[In, Item any](p *page, of string, o *operation.Operation[In, operation.List[Item]], order string) (listed[Item], error) {
	l := listed[Item]{of: of}
	here, err := url.Parse(p.here())
	if err != nil {
		return l, err
	}
	l.path, l.query = here.Path, here.Query()
	asked := url.Values{"limit": {fmt.Sprint(pageSize)}}
	if order != "" {
		asked.Set("sort", order)
	}
	for _, q := range o.Query {
		value := strings.TrimSpace(l.query.Get(of + q.Name))
		if value != "" {
			asked.Set(q.Name, value)
		}
		if q.Name != "limit" && q.Name != "after" && q.Name != "sort" {
			l.filtered = l.filtered || value != ""
			l.filters = append(l.filters, filterField[Item](of, q, value))
		}
	}
	in, err := o.Decode(operation.Parts{Path: p.param, Query: asked.Encode(), Body: http.NoBody})
	if err != nil {
		return l, err
	}
	if l.List, err = read(p, o, in.(In)); err != nil {
		return l, err
	}
	return l, l.turn()
}

// filterField is the field of a filter for a parameter. A standing has the words of the badges in
// the rows, and the title of their column.
func filterField[Item any](of string, q operation.Parameter, value string) ui.Field {
	f := ui.Field{Name: of + q.Name, Label: label(q.Name), Value: value}
	if len(q.Enum) > 0 {
		f.Type, f.Options = "select", []ui.Option{{Text: "all"}}
		for _, v := range q.Enum {
			f.Options = append(f.Options, ui.Option{Value: v, Text: strings.ReplaceAll(v, "_", " ")})
		}
	}
	if q.Name == "standing" {
		f.Label = "State"
		for i := range f.Options[1:] {
			o := &f.Options[i+1]
			o.Text = standingText[Item](o.Value)
		}
	}
	return f
}

// label writes the name of a parameter for people.
func label(name string) string {
	name = operation.Plain(name)
	return strings.ToUpper(name[:1]) + name[1:]
}

// turn makes the links to other pages.
func (l *listed[Item]) turn() error {
	if l.query.Get(l.of+"after") != "" {
		l.pages.First = l.with("after", "")
		previous, is, err := l.Previous()
		if err != nil {
			return err
		}
		if is {
			l.pages.Previous = l.with("after", previous)
		}
	}
	if l.Next != "" {
		l.pages.Next = l.with("after", l.Next)
	}
	if n := len(l.Items); n > 0 && l.First() > 0 {
		l.pages.Text = fmt.Sprintf("%s–%s of %s", ui.Count(l.First()), ui.Count(l.First()+n-1), ui.Count(l.Total))
	}
	return nil
}

// with is the page's address with another value of a parameter of the list.
func (l *listed[Item]) with(name, value string) string {
	query := url.Values{}
	for n, v := range l.query {
		query[n] = v
	}
	query.Del(l.of + name)
	if value != "" {
		query.Set(l.of+name, value)
	}
	if len(query) == 0 {
		return l.path
	}
	return l.path + "?" + query.Encode()
}

// head is the head of a column by which the list can be sorted.
func (l listed[Item]) head(text, order string) ui.Head {
	h := ui.Head{Text: text}
	now := l.query.Get(l.of + "sort")
	next := order
	switch now {
	case order:
		h.Sorted, next = "ascending", "-"+order
	case "-" + order:
		h.Sorted = "descending"
	}
	first := l // an order begins at its first page
	first.query = url.Values{}
	for n, v := range l.query {
		if n != l.of+"after" {
			first.query[n] = v
		}
	}
	h.URL = first.with("sort", next)
	return h
}
