package operation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// List is a page of a list.
type List[Item any] struct {
	Items []Item `json:"items" jsonschema:"The entries of this page."`
	// Next is the cursor of the next page; empty on the last one.
	Next string `json:"next,omitempty" jsonschema:"What to give as after for the next page. It is left out on the last page." example:"Zm9sbG93aW5n"`
	// Total is how many entries all pages have.
	Total int `json:"total,omitempty" jsonschema:"How many entries all pages have together. It is left out if there are none, or if they were not counted." example:"5000"`

	first int // the place of the first entry in the whole list, from 1
	// previous finds the cursor of the page before; nil if there is none.
	previous func() (string, error)
}

// First is the place of the page's first entry in the whole list, from 1; 0 if it is not
// known. It is known only to who performs the operation in this process.
func (l List[Item]) First() int { return l.first }

// Previous is what to give as after for the page before, which is empty if that is the first
// page, and whether there is one. It is known only to who performs the operation in this
// process, and is looked for only here: the API's clients know where they come from.
func (l List[Item]) Previous() (after string, is bool, err error) {
	if l.previous == nil {
		return "", false, nil
	}
	after, err = l.previous()
	return after, err == nil, err
}

// Paging asks for a page of a list. Each input of an operation that gives a list has it.
type Paging struct {
	Limit int    `query:"limit" least:"1" most:"1000" about:"how many entries at most, 1 to 1000; 100 if left out" json:"-"`
	After string `query:"after" longest:"4096" about:"the next of the page before; the first page if left out" json:"-"`
	Sort  string `query:"sort" about:"the order; with a minus before it, the other way round" json:"-"`
}

// pageLimit is how many entries a page has if nobody says it.
const pageLimit = 100

func (p Paging) paging() Paging {
	p.Limit = cmp.Or(p.Limit, pageLimit)
	return p
}

// paged is an input that has [Paging].
type paged interface{ paging() Paging }

// Order is one in which a list can be given.
type Order[Item any] struct {
	// Name is the value of the parameter sort. With a minus it is the other way round.
	Name string
	// Key gives a text; entries are ordered by its bytes, and by their IDs where it is the
	// same.
	Key func(Item) string
}

// Listing is an operation that gives a list, page by page. It has All, or Part if the list
// is too long to be read as a whole.
type Listing[In paged, Item any] struct {
	Route
	// Subject is that of an [Operation], for a list that is posted for.
	Subject func(ctx context.Context, c *Caller, in In) any
	// ID tells entries apart. It never changes, and is never used again.
	ID func(Item) string
	// By are the orders; that by the ID is there without it. Default is the one of a list
	// for which none is asked: "id" if it is empty.
	By      []Order[Item]
	Default string
	// All gives all entries that the input asks for, in any order.
	All func(ctx context.Context, c *Caller, in In) ([]Item, error)
	// Part gives a part of the list, in order. How many entries all parts have is 0 if they
	// are not counted.
	Part func(ctx context.Context, c *Caller, in In, want part) (entries []Item, total int, err error)
	// Complete, if given, fills in what only entries that are shown need.
	Complete func(c *Caller, page []Item)
}

// part says which entries are wanted: those behind a position, at most so many.
type part struct {
	by string
	// down is an order the other way round.
	down  bool
	after position
	limit int
}

// position is a place in a list: behind the entry that has the ID and, in the order of the
// list, the key. The entry need not be there any more. The zero value is the begin.
type position struct {
	Key string `json:"k,omitempty"`
	ID  string `json:"i"`
}

func (p position) compare(q position) int {
	return cmp.Or(strings.Compare(p.Key, q.Key), strings.Compare(p.ID, q.ID))
}

// byID is the order that each list has.
const byID = "id"

// defineList makes the operation of a list ready for use, as define does.
func defineList[In paged, Item any](l Listing[In, Item]) *Operation[In, List[Item]] {
	l.By = append([]Order[Item]{{byID, func(Item) string { return "" }}}, l.By...)
	op := define(Operation[In, List[Item]]{Route: l.Route, Subject: l.Subject, Run: l.page})
	var names []string
	for _, o := range l.By {
		names = append(names, o.Name, "-"+o.Name)
	}
	for i := range op.fields {
		if op.fields[i].Name == "sort" {
			op.fields[i].Enum = names
			op.fields[i].Description += "; " + cmp.Or(l.Default, byID) + " if left out"
		}
	}
	op.Query = op.fields.query()
	return op
}

// page gives the page that the input asks for.
func (l *Listing[In, Item]) page(ctx context.Context, c *Caller, in In) (List[Item], error) {
	page := List[Item]{Items: []Item{}}
	ask := in.paging()
	after, err := positionOf(l.Route.ID, in, ask.After)
	if err != nil {
		return page, err
	}
	by, down := strings.CutPrefix(cmp.Or(ask.Sort, l.Default, byID), "-")
	want := part{by, down, after, ask.Limit + 1}
	order := l.By[slices.IndexFunc(l.By, func(o Order[Item]) bool { return o.Name == by })] // the parameter was checked
	at := func(e Item) position { return position{order.Key(e), l.ID(e)} }
	if l.Part != nil {
		page.Items, page.Total, err = l.Part(ctx, c, in, want)
		if after.ID != "" {
			page.previous = func() (string, error) { return l.before(ctx, c, in, part{by, !down, after, ask.Limit}, at) }
		}
	} else {
		var all []Item
		if all, err = l.All(ctx, c, in); err == nil {
			var before []Item
			before, page.Items = cut(all, at, want)
			page.Total, page.first = len(all), len(before)+1
			if len(before) > 0 {
				page.previous = func() (string, error) {
					if len(before) <= ask.Limit {
						return "", nil
					}
					return cursorOf(l.Route.ID, in, at(before[len(before)-ask.Limit-1])), nil
				}
			}
		}
	}
	if err != nil {
		return List[Item]{}, err
	}
	if len(page.Items) > ask.Limit {
		page.Items = page.Items[:ask.Limit]
		page.Next = cursorOf(l.Route.ID, in, at(page.Items[ask.Limit-1]))
	}
	page.Items = append([]Item{}, page.Items...) // in JSON a list, though it be empty
	if l.Complete != nil {
		l.Complete(c, page.Items)
	}
	return page, nil
}

// before gives the cursor of the page before a part of a list: empty if that is the first page.
// The part is wanted the other way round. It begins with the last but one entry of the page
// before, and ends with the entry behind which that page is.
func (l *Listing[In, Item]) before(ctx context.Context, c *Caller, in In, back part, at func(Item) position) (string, error) {
	entries, _, err := l.Part(ctx, c, in, back)
	if err != nil || len(entries) < back.limit {
		return "", err
	}
	return cursorOf(l.Route.ID, in, at(entries[back.limit-1])), nil
}

// cut orders a list and gives the entries before a part and those of it.
func cut[Item any](all []Item, at func(Item) position, want part) (before, entries []Item) {
	type placed struct {
		position
		entry Item
	}
	list := make([]placed, len(all))
	for i, e := range all {
		list[i] = placed{at(e), e}
	}
	direction := 1
	if want.down {
		direction = -1
	}
	slices.SortFunc(list, func(a, b placed) int { return direction * a.compare(b.position) })
	ordered := make([]Item, len(list))
	begin := 0
	for i, p := range list {
		ordered[i] = p.entry
		if want.after.ID != "" && direction*p.compare(want.after) <= 0 {
			begin = i + 1
		}
	}
	return ordered[:begin], ordered[begin:min(len(ordered), begin+want.limit)]
}

// cursor names a position of the list that the input asks for: opaque to clients, and of no
// use for another list, filter or order.
func cursorOf(list string, in any, p position) string {
	text, _ := json.Marshal(p) // strings always encode
	sum := cursorSumOf(list, in, text)
	return base64.RawURLEncoding.EncodeToString(append(sum[:], text...))
}

// position reads a cursor: [fault.Invalid] if it is not one of this list.
func positionOf(list string, in any, cursor string) (p position, err error) {
	if cursor == "" {
		return p, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil && len(text) > cursorSum {
		sum := cursorSumOf(list, in, text[cursorSum:])
		if [cursorSum]byte(text) == sum && json.Unmarshal(text[cursorSum:], &p) == nil && p.ID != "" {
			return p, nil
		}
	}
	return position{}, invalid("after %.40q: this is not a cursor of this list with this filter and order: give the next of the page before, or leave it out for the first page", cursor)
}

// cursorSum is how many bytes of a cursor tell whose it is. They keep mistakes out: who makes
// a cursor up gets a page that they may see anyway.
const cursorSum = 8

func cursorSumOf(list string, in any, position []byte) [cursorSum]byte {
	h := sha256.New()
	h.Write([]byte(list))
	value := reflect.ValueOf(in)
	for _, f := range fieldsOf(value.Type()) {
		if v := value.FieldByIndex(f.index); f.Name != "limit" && f.Name != "after" && !v.IsZero() {
			h.Write([]byte("\x00" + f.Name + "=" + url.QueryEscape(text(v))))
		}
	}
	h.Write([]byte{0})
	h.Write(position)
	return [cursorSum]byte(h.Sum(nil))
}

// The keys of orders.

const timeKeyFormat = "2006-01-02T15:04:05.000000000"

func timeKey(t time.Time) string { return t.UTC().Format(timeKeyFormat) }

func textKey[T ~string](t T) string { return strings.ToLower(string(t)) }

// keep gives the entries that a filter leaves.
func keep[Item any](all []Item, err error, has func(Item) bool) ([]Item, error) {
	return slices.DeleteFunc(slices.Clone(all), func(e Item) bool { return !has(e) }), err
}

// contains says whether a text has what a filter asks for in it, in upper or lower case; an
// empty filter asks for nothing.
func contains(text, filter string) bool {
	return filter == "" || strings.Contains(strings.ToLower(text), strings.ToLower(filter))
}

// is says whether a value is the one that a filter asks for.
func is[T ~string](value, filter T) bool { return filter == "" || value == filter }
