package console

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/appliance/sqlite"
	"holdfast/web/operation"
)

// FuzzKept: of what a browser brings as a kept form, only what was sealed for that purpose, user
// and ID is opened, whatever cookies it comes in.
func FuzzKept(f *testing.F) {
	rows, err := sqlite.Open(f.Context(), filepath.Join(f.TempDir(), "users.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = rows.Close() })
	a := appliance.New(appliance.Options{Store: rows})
	users, err := identity.New(identity.Config{Store: rows, Seals: a.Seals(), Settings: a, Log: slog.New(slog.DiscardHandler), URL: "https://console.test", SetupFile: filepath.Join(f.TempDir(), "setup-code")})
	if err != nil {
		f.Fatal(err)
	}
	c := &console{Options: Options{Performer: operation.New(operation.Options{Identity: users}), Identity: users}}
	who := identity.Principal{UserID: "alice", Session: "s"}
	w := httptest.NewRecorder()
	id, err := c.keep(w, keptForm, owner(keptForm, who), &kept{Operation: "setPolicy", Values: map[string][]string{"cedar": {"typed"}}}, func(string) string { return "/" })
	if err != nil {
		f.Fatal(err)
	}
	made := w.Result().Cookies()[0].Value
	f.Add(id, made, "")
	f.Add(id, made[:len(made)/2], made[len(made)/2:])
	f.Add(id, "", made)
	f.Add("x", made, "%")
	f.Fuzz(func(t *testing.T, under, first, second string) {
		q := httptest.NewRequest(http.MethodGet, "https://console.test/", nil)
		q.Header["Cookie"] = []string{keptCookie + under + ".0=" + first + "; " + keptCookie + under + ".1=" + second}
		k, _, err := c.opened(q, keptForm, under, who)
		own := under == id && strings.HasPrefix(first+second, made)
		switch {
		case err == nil && !own:
			t.Errorf("%q is opened of %q and %q", k.Operation, first, second)
		case err == nil && k.Values.Get("cedar") != "typed":
			t.Errorf("what was typed is %q", k.Values)
		case under == id && first+second == made && err != nil:
			t.Errorf("what was kept is not opened: %v", err)
		}
		for _, other := range []identity.Principal{{UserID: "bob", Session: "s"}, {}} {
			if _, _, err := c.opened(q, keptForm, under, other); err == nil {
				t.Errorf("%q opens it", other.UserID)
			}
		}
		for _, purpose := range []string{keptProof, keptAnswer} {
			if _, _, err := c.opened(q, purpose, under, who); err == nil {
				t.Errorf("it is opened for the purpose %q", purpose)
			}
		}
	})
}
