package console

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/go-chi/chi/v5"
	"golang.org/x/time/rate"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// Options are what the console works with. All are needed, but Now.
type Options struct {
	// Performer performs the operations.
	Performer *operation.Performer
	Identity  *identity.Directory
	Boot      interface{ Status() progress.Status }
	// Version is the release.
	Version string
	Log     *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Changes is a number that is another after each change of the rows that pages show; without
	// it, each question of an open page reads them.
	Changes func() uint64
}

type console struct {
	Options
	digests digests
}

// policy is the content security policy of every page.
const policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

// New makes the console's handler.
func New(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &console{Options: o}
	r := chi.NewRouter()
	r.Handle(ui.AssetPrefix+"*", ui.Assets())
	r.Group(func(r chi.Router) {
		r.Use(c.protect)
		c.signInRoutes(r)
		for _, p := range pages {
			r.Get(p.path, c.page(p))
		}
		r.Post("/do/{operation}", c.signedInOr(c.do, c.keepForLater))
		r.Get("/answers/{id}", c.signedIn(c.answerPage))
		r.Get("/confirm/{id}", c.signedIn(c.confirmPage))
		r.Post("/confirm/{id}", c.signedInOr(c.confirm, c.confirmLater))
		r.Get("/prove", c.signedIn(c.proofPage))
		r.Get("/prove/{id}", c.signedIn(c.proofPage))
		r.Post("/prove", c.signedIn(c.prove))
		r.Post("/prove/{id}", c.signedIn(c.prove))
		r.Post("/prove/passkey/begin", c.signedIn(c.beginProve))
		r.Post("/prove/passkey/finish", c.signedIn(c.finishProve))
		r.Post("/passkeys/begin", c.signedIn(c.beginPasskey))
		r.Post("/passkeys/finish", c.signedIn(c.finishPasskey))
		r.Post("/recovery/known", c.signedIn(c.knowRecovery))
		r.Post("/signout", c.signedIn(c.signOut))
		r.Get("/standing", c.askStanding)
		r.Post("/standing", c.askStanding)
		r.Get("/download/{what}", c.signedIn(c.download))
		r.NotFound(c.signedIn(func(w http.ResponseWriter, r *http.Request, who identity.Principal) {
			c.failPage(w, r, who, fault.Errorf(fault.NotFound, "the console has no page %.200q", r.URL.Path))
		}))
	})
	return r
}

// protect sets what browsers have to keep to, and refuses posts of other sites.
func (c *console) protect(next http.Handler) http.Handler {
	cross, lines := http.NewCrossOriginProtection(), rate.Sometimes{Interval: time.Second} // no stranger fills the log
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines.Do(func() {
			c.Log.Warn("a post from another site was refused", "path", r.URL.Path, "origin", r.Header.Get("Origin"), "remote", r.RemoteAddr)
		})
		http.Error(w, "refused: this was posted by another site", http.StatusForbidden)
	}))
	return cross.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, c.longest(r))
		next.ServeHTTP(w, r)
	}))
}

// maxForm bounds what is posted: the longest are Cedar policies, but for the forms of operations
// that take a file.
const maxForm = 512 << 10

// longest bounds what is posted: a file by who is signed in and may do what is asked, a form
// otherwise. A form writes some characters as three.
func (c *console) longest(r *http.Request) int64 {
	id, _ := strings.CutPrefix(r.URL.Path, "/do/")
	a, ok := actions[id]
	if !ok || a.route.MaxBody() <= operation.MaxBody {
		return maxForm
	}
	if who, err := c.session(r); err != nil || !who.Role.May(a.route.Capability) {
		return maxForm
	}
	return maxForm + a.route.MaxBody()*3/2
}

// The cookies. The prefix has browsers keep them to this host, over TLS.
const (
	sessionCookie = "__Host-holdfast"
	flashCookie   = "__Host-holdfast-flash"
	themeCookie   = "__Host-holdfast-theme"
	keysCookie    = "__Host-holdfast-keys"
	deviceCookie  = "__Host-holdfast-device" // in which browsers somebody has signed in
	stateCookie   = "__Host-holdfast-oidc"
	nextCookie    = "__Host-holdfast-next" // where to go after a sign-in at a provider
)

func setCookie(w http.ResponseWriter, name, value string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func clearCookie(w http.ResponseWriter, name string) { setCookie(w, name, "", -time.Second) }

// cookie gives a cookie's value; empty without one.
func cookie(r *http.Request, name string) string {
	k, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return k.Value
}

type handler func(w http.ResponseWriter, r *http.Request, who identity.Principal)

// signedIn lets whoever has a session through, and sends others to sign in.
func (c *console) signedIn(next handler) http.HandlerFunc { return c.signedInOr(next, nil) }

// signedInOr has otherwise, if it is not nil, answer those who have no session.
func (c *console) signedInOr(next handler, otherwise http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := c.session(r)
		if err == nil {
			next(w, r, who)
			return
		}
		if !errors.Is(err, identity.ErrProof) {
			f := c.told(r, fault.Wrapf(fault.Internal, err, "the appliance cannot look up your session now"))
			http.Error(w, f.Message, http.StatusServiceUnavailable)
			return
		}
		to := "/signin"
		if open, err := c.Identity.SetupOpen(r.Context()); err == nil && open {
			to = "/setup"
		} else if otherwise != nil {
			otherwise(w, r)
			return
		} else if r.Method == http.MethodGet && r.URL.Path != "/" {
			to += "?next=" + url.QueryEscape(r.URL.RequestURI())
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
	}
}

func (c *console) session(r *http.Request) (identity.Principal, error) {
	token := cookie(r, sessionCookie)
	if token == "" {
		return identity.Principal{}, identity.ErrProof
	}
	// A page that loads itself again is not somebody who does something.
	return c.Identity.Session(r.Context(), token, r.Header.Get("Holdfast-Refresh") == "")
}

// page is one request for a page, or of a form on it.
type page struct {
	*http.Request
	c   *console
	who identity.Principal
	now time.Time
	// digest is that of what the page shows ([page.look]).
	digest string
	// failed is the form that was posted and refused; nil if none was.
	failed *failure
	// needs says which operations wait for a second person, as far as it was asked.
	needs map[string]bool
	// values are those of the form that was posted; nil if none was.
	values url.Values
}

// failure is a form that was refused.
type failure struct {
	*kept
	shown bool // where it stands
}

// view is what a page shows.
type view struct {
	title  string
	crumbs []ui.Link
	body   templ.Component
	// status is the HTTP status; 200 if 0.
	status int
}

// listedPage is a page at a path.
type listedPage struct {
	path string
	make func(p *page) (*view, error)
	// shows tells an open page that it has changed; nil if the standings of the header do.
	shows shows
}

func (c *console) page(l listedPage) http.HandlerFunc {
	return c.signedIn(func(w http.ResponseWriter, r *http.Request, who identity.Principal) {
		p := &page{Request: r, c: c, who: who, now: c.Now()}
		if id := r.URL.Query().Get(keptParameter); id != "" {
			c.takeUp(w, p, id, l.make)
			return
		}
		c.render(w, p, l.make)
	})
}

func (c *console) render(w http.ResponseWriter, p *page, make func(p *page) (*view, error)) {
	p.digest = p.look() // before the page is made: what changes meanwhile is another one
	v, err := make(p)
	if err != nil {
		c.failPage(w, p.Request, p.who, err)
		return
	}
	c.show(w, p, v)
}

// show writes a page with the frame around it.
func (c *console) show(w http.ResponseWriter, p *page, v *view) {
	s := c.shell(w, p, v)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.status != 0 {
		w.WriteHeader(v.status)
	}
	ctx := templ.WithChildren(p.Context(), v.body)
	if err := ui.Page(s).Render(ctx, w); err != nil {
		c.Log.Debug("a page was not read to its end", "path", p.URL.Path, "error", err)
	}
}

func (c *console) shell(w http.ResponseWriter, p *page, v *view) ui.Shell {
	s := ui.Shell{Title: v.title, Crumbs: v.crumbs, User: p.who.Name, Role: string(p.who.Role), Theme: theme(p.Request), ShortcutsOff: shortcutsOff(p.Request), Version: c.Version, Node: c.Performer.Node(), Here: p.here()}
	if text, err := base64.RawURLEncoding.DecodeString(cookie(p.Request, flashCookie)); err == nil && len(text) > 0 && p.Method == http.MethodGet {
		s.Flash = string(text)
		clearCookie(w, flashCookie)
	}
	if p.digest == "" {
		p.digest = p.look()
	}
	s.Standing, s.Posted = p.headerStanding(), p.Method != http.MethodGet
	s.Nav = p.nav()
	return s
}

// here is the page's address, to come back to.
func (p *page) here() string {
	if p.values != nil {
		return local(p.values.Get("back"))
	}
	q := p.URL.Query()
	if !q.Has(keptParameter) {
		return p.URL.RequestURI()
	}
	q.Del(keptParameter)
	return (&url.URL{Path: p.URL.Path, RawPath: p.URL.RawPath, RawQuery: q.Encode()}).RequestURI()
}

func theme(r *http.Request) string {
	if t := cookie(r, themeCookie); t == "light" || t == "dark" {
		return t
	}
	return ""
}

// shortcutsOff says whether the user has switched keys off that act alone.
func shortcutsOff(r *http.Request) bool { return cookie(r, keysCookie) == "off" }

// local gives the path if it is one of this console, otherwise "/".
func local(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path, "/") || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(path, "\\") {
		return "/"
	}
	return u.RequestURI()
}

// navigation is all pages that have an entry, with what it takes to see them.
var navigation = []struct {
	group                string
	text, url, icon, key string
	needs                identity.Capability
}{
	{"", "Overview", "/", "home", "o", identity.See},
	{"Keys", "Key stores", "/keystores", "store", "k", identity.See},
	{"Proof", "Attestation", "/attestation/report", "shield", "t", identity.See},
	{"Proof", "Audit log", "/audit", "log", "a", identity.Audit},
	{"Appliance", "HSMs", "/hsms", "chip", "h", identity.See},
	{"Appliance", "Fleet", "/fleet", "store", "f", identity.See},
	{"Appliance", "Users and tokens", "/users", "users", "u", identity.Administer},
	{"Appliance", "Approvals", "/approvals", "eyes", "p", identity.See},
	{"Appliance", "State", "/state", "check", "e", identity.See},
	{"Appliance", "Settings", "/settings", "gear", "s", identity.See},
}

// nav is the navigation as far as the role goes.
func (p *page) nav() []ui.NavGroup {
	var groups []ui.NavGroup
	for _, n := range navigation {
		if !p.may(n.needs) {
			continue
		}
		if len(groups) == 0 || groups[len(groups)-1].Title != n.group {
			groups = append(groups, ui.NavGroup{Title: n.group})
		}
		g := &groups[len(groups)-1]
		e := ui.NavEntry{Text: n.text, URL: n.url, Icon: n.icon, Key: n.key,
			Current: p.URL.Path == n.url || n.url != "/" && strings.HasPrefix(p.URL.Path, n.url)}
		if n.url == "/approvals" {
			e.Count = p.waiting()
		}
		g.Entries = append(g.Entries, e)
	}
	return groups
}

// waiting is how many operations wait for approval.
func (p *page) waiting() int {
	all, err := p.c.Performer.Approvals.CountApprovals(p.Context(), p.now)
	if err != nil {
		return 0
	}
	return all[approval.Pending]
}

// may says whether the role has the capability.
func (p *page) may(c identity.Capability) bool { return p.who.Role.May(c) }

// caller is the one who asks for the page.
func (p *page) caller() *operation.Caller { return p.c.caller(p.Request, p.who) }

func (c *console) caller(r *http.Request, who identity.Principal) *operation.Caller {
	return c.Performer.As(who, r.RemoteAddr)
}

// read performs an operation that a page shows the answer of.
func read[In, Out any](p *page, o *operation.Operation[In, Out], in In) (Out, error) {
	done, err := o.Do(p.Context(), p.caller(), in)
	return done.Out, err
}

// failPage says why there is no page.
func (c *console) failPage(w http.ResponseWriter, r *http.Request, who identity.Principal, err error) {
	f := c.told(r, err)
	p := &page{Request: r, c: c, who: who, now: c.Now(), values: r.PostForm}
	c.show(w, p, &view{title: titleOf(f), status: statusOfPage(f), body: failurePage(titleOf(f), f.Message, c.Boot.Status(), p.here())})
}

// flash says on the next page what was done.
func flash(w http.ResponseWriter, text string) {
	setCookie(w, flashCookie, base64.RawURLEncoding.EncodeToString([]byte(text)), time.Minute)
}

// readJSON reads what the page's script has posted.
func readJSON[T any](r *http.Request) (T, error) {
	var v T
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		return v, fault.Errorf(fault.Invalid, "the request cannot be read")
	}
	return v, nil
}
