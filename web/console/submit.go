package console

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring/scrub"
	"holdfast/web/console/ui"
	"holdfast/web/forget"
	"holdfast/web/operation"
)

var parameter = regexp.MustCompile(`\{(\w+)\}`)

// fill puts fields of a form, or the name given by it, into a path.
func fill(path string, v url.Values) string {
	return parameter.ReplaceAllStringFunc(path, func(name string) string { return url.PathEscape(v.Get(name[1 : len(name)-1])) })
}

// do has the operation performed that a form asks for.
func (c *console) do(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	secrets := actions[chi.URLParam(r, "operation")].secrets
	if len(secrets) == 0 {
		c.doForm(w, r, who, nil)
		return
	}
	forget.Answer(w, r, func(w http.ResponseWriter) { c.doForm(w, r, who, secrets) })
}

func (c *console) doForm(w http.ResponseWriter, r *http.Request, who identity.Principal, secrets []string) {
	body, err := scrub.ReadAll(r.Body)
	defer clear(body)
	if err == nil {
		r.PostForm, err = readForm(body, secrets)
	}
	if err != nil {
		c.failPage(w, r, who, fault.Errorf(fault.Invalid, "the form cannot be read, or is longer than %d bytes", maxForm))
		return
	}
	r.Form = r.PostForm // the path has the operation, and there is no query
	c.perform(w, &page{Request: r, c: c, who: who, now: c.Now()}, chi.URLParam(r, "operation"), r.PostForm, false)
}

// readForm reads the body of a form (application/x-www-form-urlencoded), as
// [url.ParseQuery] does, but makes no copies of the fields that are secret: these are
// in the body itself, and good until it is zeroized.
func readForm(body []byte, secrets []string) (url.Values, error) {
	v := url.Values{}
	for len(body) > 0 {
		var pair []byte
		pair, body, _ = bytes.Cut(body, []byte("&"))
		if len(pair) == 0 {
			continue
		}
		encodedName, value, _ := bytes.Cut(pair, []byte("="))
		name, err := url.QueryUnescape(string(encodedName))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(secrets, name) {
			text, err := url.QueryUnescape(string(value))
			if err != nil {
				return nil, err
			}
			v.Add(name, text)
			continue
		}
		if value, err = unescape(value); err != nil {
			return nil, err
		}
		v.Add(name, unsafe.String(unsafe.SliceData(value), len(value)))
	}
	return v, nil
}

// unescape is [url.QueryUnescape] in place.
func unescape(b []byte) ([]byte, error) {
	plain := b[:0]
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(b):
			if _, err := hex.Decode(b[i:i+1], b[i+1:i+3]); err != nil {
				return nil, errEscape
			}
			c = b[i]
			i += 2
		case c == '%':
			return nil, errEscape
		}
		plain = append(plain, c)
	}
	return plain, nil
}

var errEscape = errors.New("a percent sign is not followed by two hexadecimal digits")

func (c *console) perform(w http.ResponseWriter, p *page, id string, v url.Values, proved bool) {
	p.values = v
	a, ok := actions[id]
	if !ok {
		c.failPage(w, p.Request, p.who, fault.Errorf(fault.NotFound, "the console has no operation %.60q", id))
		return
	}
	f := &form{values: v, proved: proved}
	answer, err := c.post(p, a, f)
	for _, name := range a.secrets {
		v.Del(name)
	}
	switch waits, pending := errors.AsType[*operation.Pending](err); {
	case pending:
		flash(w, fmt.Sprintf("It waits for the approval of another person, until %s.", ui.Stamp(waits.Request.ExpiresAt)))
		http.Redirect(w, p.Request, "/approvals", http.StatusSeeOther)
	case fault.CodeOf(err) == fault.Presence:
		c.show(w, p, p.proveView(id, v, ""))
	case fault.CodeOf(err) == fault.Invalid || fault.CodeOf(err) == fault.Exists || fault.CodeOf(err) == fault.AdmissionChanged || fault.CodeOf(err) == fault.AdmissionUnconfirmed:
		c.again(w, p, id, v, err)
	case err != nil:
		c.failPage(w, p.Request, p.who, err)
	case a.show != nil:
		c.render(w, p, func(p *page) (*view, error) { return a.show(p, answer) })
	default:
		done := a.done
		if a.tell != nil {
			done = a.tell(answer)
		}
		flash(w, strings.TrimSpace(done+" "+f.effect))
		to := local(v.Get("back"))
		if a.to != "" {
			to = fill(a.to, v)
		}
		http.Redirect(w, p.Request, to, http.StatusSeeOther)
	}
}

// post has the operation of a form performed.
func (c *console) post(p *page, a action, f *form) (any, error) {
	revision, err := p.fresh(f.values)
	if err != nil {
		return nil, err
	}
	if want := f.values.Get(a.confirm); a.confirm != "" && (want == "" || f.values.Get("confirm") != want) {
		return nil, fault.Errorf(fault.Invalid, "type %q to confirm; you typed %.80q", want, f.values.Get("confirm"))
	}
	return a.perform(p.Context(), p.caller().Seeing(revision), f)
}

// again shows the page of a form once more, with what was wrong in its place.
func (c *console) again(w http.ResponseWriter, p *page, id string, v url.Values, err error) {
	back, parseErr := url.Parse(local(v.Get("back")))
	if parseErr != nil {
		c.failPage(w, p.Request, p.who, err)
		return
	}
	message := c.message(p.Request, err)
	for _, l := range pages {
		params, ok := match(l.path, back.Path)
		if !ok {
			continue
		}
		ctx := chi.NewRouteContext()
		for name, value := range params {
			ctx.URLParams.Add(name, value)
		}
		r := p.Request.Clone(withRoute(p.Context(), ctx))
		r.URL = back
		again := &page{Request: r, c: c, who: p.who, now: p.now, failed: &failure{operation: id, message: message, values: v}}
		c.render(w, again, func(p *page) (*view, error) {
			made, err := l.make(p)
			if err != nil {
				return nil, err
			}
			made.status = http.StatusUnprocessableEntity
			if !p.failed.shown { // the form was on a page of its own
				made.body = together(ui.Alert(ui.Bad, message), made.body)
			}
			return made, nil
		})
		return
	}
	c.failPage(w, p.Request, p.who, err)
}

// match takes the parameters of a path, if it is of the pattern.
func match(pattern, path string) (map[string]string, bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	params := map[string]string{}
	for i, w := range want {
		if strings.HasPrefix(w, "{") {
			params[strings.Trim(w, "{}")] = have[i]
		} else if w != have[i] {
			return nil, false
		}
	}
	return params, true
}

// The version of a form says in which session it was made, and of what state.

// version makes one; revision is empty where nothing is changed that there is.
func (p *page) version(revision string) string { return p.who.Session + " " + revision }

var errStale = fault.Errorf(fault.Stale, "the page is from another session, or incomplete; open it again and decide anew")

// fresh checks a form's version as far as it is the console's matter, and gives
// the revision, which the API checks.
func (p *page) fresh(v url.Values) (string, error) {
	session, revision, ok := strings.Cut(v.Get("version"), " ")
	if !ok || session != p.who.Session {
		return "", errStale
	}
	return revision, nil
}

// form makes a form of an operation. Hidden fields come in pairs of name and
// value. Its button says the words of the operation. If it is the one that was refused, it has its values and the reason.
func (p *page) form(o operation.Entry, revision string, f ui.Form, hidden ...string) ui.Form {
	id := o.Entry().ID
	f.Action = "/do/" + id
	f.Hidden = append(f.Hidden, ui.Hidden{Name: "version", Value: p.version(revision)}, ui.Hidden{Name: "back", Value: p.here()})
	for i := 0; i+1 < len(hidden); i += 2 {
		f.Hidden = append(f.Hidden, ui.Hidden{Name: hidden[i], Value: hidden[i+1]})
	}
	if f.Submit == "" {
		f.Submit = actions[id].words(hiddenValues(f.Hidden))
	}
	if name := actions[id].confirm; name != "" {
		f.Confirm = value(f.Hidden, name)
	}
	if p.failed == nil || p.failed.operation != id {
		return f
	}
	for i := 0; i+1 < len(hidden); i += 2 { // another one of the same operation?
		if p.failed.values.Get(hidden[i]) != hidden[i+1] {
			return f
		}
	}
	f.Error, p.failed.shown = p.failed.message, true
	for i := range f.Fields {
		x := &f.Fields[i]
		if x.Type == "password" {
			continue
		}
		if x.Type == "checkboxes" {
			x.Values = p.failed.values[x.Name]
		} else if got, ok := p.failed.values[x.Name]; ok {
			x.Value = got[0]
		}
	}
	return f
}

// proof is what a page that asks for presence carries along.
type proof struct {
	Operation string     `json:"operation"`
	Values    url.Values `json:"values"`
}

func (p *page) proveView(id string, v url.Values, wrong string) *view {
	text, _ := json.Marshal(proof{id, v}) // strings always encode
	u, err := p.c.Identity.User(p.Context(), p.who.UserID)
	if err != nil {
		u = &identity.User{}
	}
	return &view{title: "Prove that it is you", status: http.StatusForbidden,
		body: provePage(u, p.c.Identity.PasskeysEnabled() && len(u.Passkeys) > 0, string(text), wrong, local(v.Get("back")))}
}

// prove takes a password as a proof of presence, and goes on with what asked for
// it.
func (c *console) prove(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	p := &page{Request: r, c: c, who: who, now: c.Now()}
	var asked proof
	if err := json.NewDecoder(bytes.NewReader([]byte(r.FormValue("asked")))).Decode(&asked); err != nil {
		c.failPage(w, r, who, fault.Errorf(fault.Invalid, "the form cannot be read"))
		return
	}
	if r.PostForm.Has("ask") {
		c.show(w, p, p.proveView(asked.Operation, asked.Values, ""))
		return
	}
	if r.PostForm.Has("password") {
		if _, err := operation.ProvePassword.Do(r.Context(), p.caller(), operation.Proof{Password: r.PostForm.Get("password"), Code: r.PostForm.Get("code")}); err != nil {
			c.show(w, p, p.proveView(asked.Operation, asked.Values, c.message(r, err)))
			return
		}
	}
	// With the proof, by whichever way, the session is another.
	now, err := c.session(r)
	if err != nil {
		c.failPage(w, r, who, err)
		return
	}
	p.who = now
	if asked.Operation == "" { // it was only to prove
		http.Redirect(w, r, local(asked.Values.Get("back")), http.StatusSeeOther)
		return
	}
	c.perform(w, p, asked.Operation, asked.Values, true)
}

// answered is what the script posts after a passkey was used.
type answered struct {
	Ceremony string            `json:"ceremony"`
	Response json.RawMessage   `json:"response"`
	Fields   map[string]string `json:"fields"`
}

// begun is the answer to the beginning of a ceremony: of options only those that
// the browser's API takes.
func (c *console) begun(w http.ResponseWriter, r *http.Request, begun identity.Ceremony, err error) {
	c.answerJSON(w, r, begun, err)
}

func (c *console) beginProve(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	done, err := operation.BeginProvePasskey.Do(r.Context(), c.caller(r, who), operation.Nothing{})
	c.begun(w, r, done.Out, err)
}

func (c *console) finishProve(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	a, err := readJSON[answered](r)
	if err == nil {
		_, err = operation.ProvePasskey.Do(r.Context(), c.caller(r, who), operation.CeremonyAnswer{Ceremony: a.Ceremony, Response: a.Response})
	}
	c.answerJSON(w, r, map[string]string{"location": "/"}, err)
}

func (c *console) beginPasskey(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	done, err := operation.BeginPasskey.Do(r.Context(), c.caller(r, who), operation.Nothing{})
	c.begun(w, r, done.Out, err)
}

func (c *console) finishPasskey(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	a, err := readJSON[answered](r)
	if err == nil {
		_, err = operation.AddPasskey.Do(r.Context(), c.caller(r, who), operation.CeremonyAnswer{Ceremony: a.Ceremony, Response: a.Response, Name: a.Fields["name"]})
	}
	if err == nil {
		flash(w, "The passkey was added.")
	}
	c.answerJSON(w, r, map[string]string{"location": "/account"}, err)
}

func hiddenValues(hidden []ui.Hidden) url.Values {
	v := url.Values{}
	for _, h := range hidden {
		v.Add(h.Name, h.Value)
	}
	return v
}

// value is that of a hidden field.
func value(hidden []ui.Hidden, name string) string {
	for _, h := range hidden {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// withRoute has the parameters of a path found in the context.
func withRoute(ctx context.Context, route *chi.Context) context.Context {
	return context.WithValue(ctx, chi.RouteCtxKey, route)
}
