package ui

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"strings"

	"github.com/a-h/templ"
	nethtml "golang.org/x/net/html"
)

// Table is around the head and body of a table. On a small screen its rows are stacked, each
// cell under the title of its column; so each cell is told that, and every element its role,
// which browsers may take from what is laid out as something else.
func Table(label string) templ.Component {
	return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
		var rows bytes.Buffer
		if err := templ.GetChildren(ctx).Render(templ.ClearChildren(ctx), &rows); err != nil {
			return err
		}
		columns, table := stackable(rows.Bytes())
		return tableFrame(label, tableKind(columns), templ.Raw(string(table))).Render(ctx, w)
	})
}

// tableKind is the class by which the style sheet knows how wide a table must be to stay one.
func tableKind(columns int) string {
	switch {
	case columns <= 3:
		return "few"
	case columns <= 5:
		return "some"
	}
	return "many"
}

var tableRoles = map[string]string{"thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}

// stackable gives the rows of a table with roles and the titles of columns, and how many
// columns there are.
func stackable(rows []byte) (columns int, _ []byte) {
	var out bytes.Buffer
	var titles []string
	var title *strings.Builder // of the head's cell that is being read
	head, column := false, 0
	for z := nethtml.NewTokenizer(bytes.NewReader(rows)); ; {
		kind := z.Next()
		if kind == nethtml.ErrorToken { // the end
			return len(titles), out.Bytes()
		}
		raw := bytes.Clone(z.Raw())
		name, _ := z.TagName()
		switch tag := string(name); {
		case kind == nethtml.TextToken && title != nil:
			title.WriteString(html.UnescapeString(string(raw)))
		case kind == nethtml.EndTagToken && tag == "th" && title != nil:
			titles, title = append(titles, strings.Join(strings.Fields(title.String()), " ")), nil
		case kind == nethtml.StartTagToken && (tableRoles[tag] != "" || tag == "th"):
			attributes := ""
			switch {
			case tag == "thead" || tag == "tbody":
				head = tag == "thead"
			case tag == "tr":
				column = 0
			case tag == "th" && head:
				title = &strings.Builder{}
			default:
				if column < len(titles) {
					attributes = fmt.Sprintf(` data-title="%s"`, html.EscapeString(titles[column]))
				}
				column++
			}
			role := tableRoles[tag]
			if tag == "th" {
				role = map[bool]string{true: "columnheader", false: "rowheader"}[head]
			}
			fmt.Fprintf(&out, `<%s role="%s"%s`, tag, role, attributes)
			raw = raw[1+len(tag):]
		}
		out.Write(raw)
	}
}
