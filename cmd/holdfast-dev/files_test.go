package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"holdfast/web"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// TestConsoleFiles: keys of a file are made in the console: it is checked first, a wrong line is
// named, and the making goes on by itself, with a progress that is announced, until all are there.
func TestConsoleFiles(t *testing.T) {
	p := startConsole(t, t.TempDir())
	b := setUp(t, p)
	local := web.NewClient(p.dev.AdminSocket)
	if err := local.Do(t.Context(), http.MethodPost, "keystores", operation.NewKeyStore{Name: "bank", URIPathPrefix: "/bank"}, nil); err != nil {
		t.Fatal(err)
	}
	check := func(file string) {
		t.Helper()
		b.Open("/keystores/bank/keys")
		b.Fill("Check file of keys", "file", file)
	}
	check("id,usage,custody\nfirst,encrypt decrypt,cached\nsecond,both,cached\n")
	b.Has("The file has problems", "usage \"both\"")
	b.HasNot("Create keys from file")
	b.Accessible()
	b.Screen(320, 256)
	b.Fits()
	b.Screen(1440, 900)

	var file strings.Builder
	file.WriteString("id,usage,custody\n")
	for i := range fileEntries {
		fmt.Fprintf(&file, "key-%04d,encrypt decrypt,cached\n", i)
	}
	check(file.String())
	b.Has(ui.Count(fileEntries), "Would be made")
	b.Accessible()
	b.Fill("Create keys from file")
	b.Comes(ui.Count(fileEntries) + " of " + ui.Count(fileEntries) + " keys are there")
	b.Accessible()
	if state := b.Value(`(() => { const p = document.querySelector("progress"), said = p.previousElementSibling; return p.value + " of " + p.max + ", " + said.getAttribute("role") + ", " + (said.textContent === p.getAttribute("aria-label")); })()`); state != fmt.Sprintf("%d of %d, status, true", fileEntries, fileEntries) {
		t.Errorf("the progress says %s", state)
	}
	var keys operation.List[struct {
		ID string `json:"id"`
	}]
	if err := local.Do(t.Context(), http.MethodGet, "keystores/bank/keys?sort=-id&limit=1", nil, &keys); err != nil || len(keys.Items) != 1 || keys.Items[0].ID != fmt.Sprintf("key-%04d", fileEntries-1) {
		t.Errorf("the last key is %+v: %v", keys.Items, err)
	}
}
