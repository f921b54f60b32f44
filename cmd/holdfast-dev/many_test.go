package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/web/console/browsertest"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// maxPage is how many bytes of a page are the most, whatever there is.
const maxPage = 300 << 10

// numbered is a name of full length that ends with a number.
func numbered(name string, i int) string {
	end := fmt.Sprintf("%05d", i)
	return name[:len(name)-len(end)] + end
}

// fillMany makes as many keys and grants of files, with the longest names. Every tenth grant is
// on the last key, the others are on all keys.
func fillMany(t *testing.T, p *process) {
	t.Helper()
	p.do(http.MethodPost, "keystores", operation.NewKeyStore{Name: longStore, URIPathPrefix: "/" + strings.Repeat("p", 60)}, nil)
	var keys, grants strings.Builder
	keys.WriteString("id,usage,custody\n")
	grants.WriteString("principal,operations,key_id\n")
	last := numbered(longKey, manyEntries-1)
	for i := range manyEntries {
		fmt.Fprintf(&keys, "%s,encrypt decrypt,cached\n", numbered(longKey, i))
		on := ""
		if i%10 == 0 {
			on = last
		}
		fmt.Fprintf(&grants, "%s,Encrypt Decrypt,%s\n", numbered(longPrincipal, i), on)
	}
	for _, f := range []struct{ kind, file string }{{"key-files", keys.String()}, {"grant-files", grants.String()}} {
		began, sum := time.Now(), sha256.Sum256([]byte(f.file))
		for left := manyEntries; left > 0; {
			var r operation.FileResult
			p.do(http.MethodPost, "keystores/"+longStore+"/"+f.kind, operation.FileImport{File: f.file, Rows: manyEntries, SHA256: hex.EncodeToString(sum[:]), Most: manyEntries}, &r)
			if r.Made == 0 {
				t.Fatalf("%s: nothing was made, and %d are left", f.kind, r.Left)
			}
			left = r.Left
		}
		t.Logf("%d rows of %s took %v", manyEntries, f.kind, time.Since(began).Round(time.Millisecond))
	}
}

// pageBytes is how long the page that the browser shows is, without compression.
func pageBytes(t *testing.T, b *browsertest.Browser) int {
	t.Helper()
	n, err := strconv.Atoi(b.Value(`String(performance.getEntriesByType("navigation")[0].decodedBodySize)`))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestConsoleManyEntries: with thousands of keys and grants, all with the longest names, each list
// fits every screen, is short, and can be turned over, sorted and filtered.
func TestConsoleManyEntries(t *testing.T) {
	p := start(t, t.TempDir())
	p.alone = "lists are read at each node alike, and it is the making of so many entries that takes long"
	b := setUp(t, p)
	fillMany(t, p)
	store := "/keystores/" + longStore
	last := numbered(longKey, manyEntries-1)
	m := many{t: t, b: b}

	m.open(store + "/keys")
	m.turn("Key ID", longKey)
	m.filter("prefix", last, last)
	m.first(last)
	m.open(store + "/grants")
	b.Has("1–50 of " + ui.Count(manyEntries))
	m.turn("Principal", longPrincipal)
	one := numbered(longPrincipal, manyEntries*2/5+321)
	m.filter("principal", one[len(one)-20:], "1–1 of 1")
	m.first(one)
	m.open(store + "/grants?sort=-principal")
	m.filter("key", last, "1–50 of "+ui.Count(manyEntries/10))
	m.open(store + "/keys/" + last)
	b.Has(last)
	b.Follow("All " + ui.Count(manyEntries/10) + " grants on this key")
	b.Has("1–50 of " + ui.Count(manyEntries/10))
	m.open("/audit")
	b.Follow("Next page")
	m.look()
	b.Follow("First page")
	m.filter("object", last, "key "+last)
	m.open("/audit")
	b.Fill("Filter", "key_store", longStore, "key", last)
	b.Has("grant to " + longPrincipal[:len(longPrincipal)-5])
	m.look()
	for _, path := range []string{"/", "/keystores", store, "/approvals", "/users"} {
		m.open(path)
	}
	p.stop()
}

// many looks at pages of long lists.
type many struct {
	t *testing.T
	b *browsertest.Browser
}

func (m many) open(path string) {
	m.t.Helper()
	began := time.Now()
	m.b.Open(path)
	m.t.Logf("%.60s: %d bytes, shown after %v", path, pageBytes(m.t, m.b), time.Since(began).Round(time.Millisecond))
	m.look()
}

// look looks at the page as it is, on every screen.
func (m many) look() {
	m.t.Helper()
	if n := pageBytes(m.t, m.b); n > maxPage {
		m.t.Errorf("%s has %d bytes; %d are the most", m.b.Path(), n, maxPage)
	}
	for _, s := range screens {
		m.b.Screen(s.width, s.height)
		m.b.Media(s.media)
		for _, problem := range m.b.Reach() {
			m.t.Errorf("%s at %s: %s", m.b.Path(), s.name, problem)
		}
	}
}

// turn sorts the list by the column of a head both ways, and turns a page over and back. Its names
// are those that [numbered] makes.
func (m many) turn(head, name string) {
	m.t.Helper()
	m.b.Follow(head)
	m.first(numbered(name, 0))
	m.b.Follow("Next page")
	m.first(numbered(name, 50))
	m.look()
	m.b.Follow("Previous page")
	m.first(numbered(name, 0))
	m.b.Follow(head + " ▲")
	m.first(numbered(name, manyEntries-1))
	m.b.Follow("Next page")
	m.first(numbered(name, manyEntries-51))
}

// filter fills in a field of the filter; the page shall say so.
func (m many) filter(field, value, says string) {
	m.t.Helper()
	m.b.Fill("Filter", field, value)
	m.b.Has(says)
	m.look()
}

// first fails the test unless the list begins with the name.
func (m many) first(want string) {
	m.t.Helper()
	if got := m.b.Value(`document.querySelector("main tbody th code").textContent`); got != want {
		m.t.Errorf("%s begins with %s, and not %s", m.b.Path(), got, want)
	}
}
