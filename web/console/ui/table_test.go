package ui

import (
	"context"
	"strings"
	"testing"

	"github.com/a-h/templ"
)

// TestTableStacks: each cell of a table knows the title of its column, and each element its
// role, so that a screen reader finds a table also where its rows are stacked.
func TestTableStacks(t *testing.T) {
	rows := templ.Raw(`<thead><tr><th scope="col">Key ID</th><th scope="col" class="num"><a href="?sort=made">Made &amp; "used"</a></th><th scope="col">Action</th></tr></thead>` +
		`<tbody><tr><th scope="row"><a href="/k"><code>k&lt;1</code></a></th><td class="num">now</td><td><form><button>Go</button></form></td></tr><tr><td>a</td><td>b</td></tr></tbody>`)
	var out strings.Builder
	if err := Table("Keys").Render(templ.WithChildren(context.Background(), rows), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`class="table scroll few"`, `<table role="table">`, `>Keys</caption>`,
		`<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Key ID</th>`,
		`<th role="columnheader" scope="col" class="num"><a href="?sort=made">`,
		`<tbody role="rowgroup"><tr role="row"><th role="rowheader" data-title="Key ID" scope="row"><a href="/k"><code>k&lt;1</code></a></th>`,
		`<td role="cell" data-title="Made &amp; &#34;used&#34;" class="num">now</td>`, `<td role="cell" data-title="Action"><form><button>Go</button></form></td>`,
		`<tr role="row"><td role="cell" data-title="Key ID">a</td>`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %s: %s", want, out.String())
		}
	}
}
