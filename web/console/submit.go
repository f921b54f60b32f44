package console

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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
	c.posted(w, r, who.UserID, func(w http.ResponseWriter, id string, v url.Values) {
		c.perform(w, &page{Request: r, c: c, who: who, now: c.Now()}, id, v)
	})
}

// sessionEnded is said of what was posted when its session had ended.
const sessionEnded = "Your session had ended, and nothing was done. This is what you typed: look at it, and send it again."

// keepForLater keeps the form of a session that has ended until its user has signed in.
func (c *console) keepForLater(w http.ResponseWriter, r *http.Request) {
	c.posted(w, r, "", func(w http.ResponseWriter, id string, v url.Values) {
		k := &kept{Operation: id, Values: v, Withheld: withhold(id, v), Code: fault.Unauthenticated, Message: sessionEnded}
		to, err := c.keepOnPage(w, v.Get("author"), k)
		if err != nil {
			c.unkept(w, r, k, err)
			return
		}
		http.Redirect(w, r, "/signin?next="+url.QueryEscape(to), http.StatusSeeOther)
	})
}

// posted reads a form. Its secrets are good until f returns.
func (c *console) posted(w http.ResponseWriter, r *http.Request, user string, f func(w http.ResponseWriter, id string, v url.Values)) {
	id := chi.URLParam(r, "operation")
	secrets := actions[id].secrets
	read := func(w http.ResponseWriter) {
		body, err := scrub.ReadAll(r.Body)
		defer clear(body)
		if err == nil {
			r.PostForm, err = readForm(body, secrets)
		}
		if err != nil {
			err = fault.Errorf(fault.Invalid, "the form cannot be read, or is longer than %d bytes", c.longest(r))
			c.refuse(w, r, user, &kept{Operation: id, Values: url.Values{}, Code: fault.Invalid, Message: c.message(r, err)})
			return
		}
		r.Form = r.PostForm // the path has the operation, and there is no query
		f(w, id, r.PostForm)
	}
	if len(secrets) == 0 {
		read(w)
		return
	}
	forget.Answer(w, r, read)
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

// perform has an operation performed, and sends the browser to the page that says what came of it.
func (c *console) perform(w http.ResponseWriter, p *page, id string, v url.Values) {
	p.values = v
	a, ok := actions[id]
	if !ok {
		err := fault.Errorf(fault.NotFound, "the console has no operation %.60q", id)
		c.refuse(w, p.Request, p.who.UserID, &kept{Operation: id, Values: v, Code: fault.NotFound, Message: c.message(p.Request, err)})
		return
	}
	if !c.confirmed(w, p, a, v) {
		return
	}
	f := &form{values: v}
	answer, err := c.post(p, a, f)
	k := &kept{Operation: id, Values: v, Withheld: withhold(id, v), Effect: f.effect}
	switch waits, pending := errors.AsType[*operation.Pending](err); {
	case errors.Is(err, operation.ErrDoneBefore):
		flash(w, "This form was sent before, with the same content, and nothing was done a second time. If it was to show a secret that you have not seen, make another, and remove what was made.")
		http.Redirect(w, p.Request, local(v.Get("back")), http.StatusSeeOther)
	case pending:
		flash(w, fmt.Sprintf("It waits for the approval of another person, until %s.", ui.Stamp(waits.Request.ExpiresAt)))
		http.Redirect(w, p.Request, "/approvals", http.StatusSeeOther)
	case fault.CodeOf(err) == fault.Presence:
		c.askProof(w, p.Request, p.who, k)
	case err != nil:
		k.Code, k.Field = fault.CodeOf(err), f.wrong
		k.Message = cmp.Or(onceMessages[k.Code], c.message(p.Request, err))
		c.refuse(w, p.Request, p.who.UserID, k)
	case a.show != nil:
		c.answer(w, p, k, answer)
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

// onceKey is the idempotency key of a form: the same if it is sent again with the same content, as
// by a double click; empty if that need not be known. It is of operations that may do another
// thing when they are done again: those of a revision are refused then, and urgent ones only
// restrict, and wait for nothing.
func onceKey(a action, v url.Values) string {
	if v.Get("once") == "" || a.route.Urgency == operation.Urgent || revisionOf(v) != "" {
		return ""
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", a.route.ID)
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if name != "version" && !slices.Contains(a.secrets, name) { // a digest of a short secret would tell it
			fmt.Fprintf(sum, "%q %q\n", name, v[name])
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// onceMessages are what to say of a form that was sent before, and not simply done.
var onceMessages = map[fault.Code]string{
	fault.AnswerPending: "This form was sent a moment ago, and that is still under way. Look whether it is done before you send it again.",
	fault.AnswerLost:    "This form was sent before, and may have been done; what came of it is not known. Look at what it was to change, and at the audit log, before you send it again: that does it once more.",
	fault.KeyReused:     "This form was sent before, with another secret, and that was done. Look at what came of it before you send it again: that does it once more.",
	fault.KeysExhausted: "Nothing was done: you have sent as many forms in 24 hours as the appliance remembers, so that none is done twice. Send it later, or let another administrator do it.",
}

// withhold takes the secrets out of a form, and gives the names of those that were filled in.
func withhold(id string, v url.Values) []string {
	var names []string
	for _, name := range actions[id].secrets {
		if strings.Join(v[name], "") != "" {
			names = append(names, name)
			v.Del(name)
		}
	}
	return names
}

// post has the operation of a form performed.
func (c *console) post(p *page, a action, f *form) (any, error) {
	revision, err := p.fresh(f.values)
	if err != nil {
		return nil, err
	}
	caller := p.caller().Seeing(revision)
	caller.Reason, caller.IdempotencyKey = strings.TrimSpace(f.values.Get(whyField)), onceKey(a, f.values)
	return a.perform(p.Context(), caller, f)
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

var errStale = fault.Errorf(fault.Stale, "the page is from another session, or incomplete; open it again, then decide")

// fresh checks a form's version as far as it is the console's matter, and gives
// the revision, which the API checks.
func (p *page) fresh(v url.Values) (string, error) {
	session, revision, ok := strings.Cut(v.Get("version"), " ")
	if !ok || session != p.who.Session {
		return "", errStale
	}
	return revision, nil
}

// revisionOf gives the revision in a form's version.
func revisionOf(v url.Values) string {
	_, revision, _ := strings.Cut(v.Get("version"), " ")
	return revision
}

// form makes a form of an operation. Hidden fields come in pairs of name and
// value. Its button says the words of the operation. If it is the one that was refused, it has its values and the reason.
func (p *page) form(o operation.Entry, revision string, f ui.Form, hidden ...string) ui.Form {
	id := o.Entry().ID
	f.Action = "/do/" + id
	failed, once := p.failed != nil && p.failed.Operation == id && p.failed.isOf(hidden), rand.Text()
	if failed && p.failed.Code != fault.AnswerLost && p.failed.Code != fault.KeyReused { // what may have been done is not done again
		once = cmp.Or(p.failed.Values.Get("once"), once)
	}
	f.Hidden = append(f.Hidden, ui.Hidden{Name: "version", Value: p.version(revision)}, ui.Hidden{Name: "author", Value: p.who.UserID}, ui.Hidden{Name: "once", Value: once}, ui.Hidden{Name: "back", Value: p.here()})
	for i := 0; i+1 < len(hidden); i += 2 {
		f.Hidden = append(f.Hidden, ui.Hidden{Name: hidden[i], Value: hidden[i+1]})
	}
	if f.Submit == "" {
		f.Submit = actions[id].words(hiddenValues(f.Hidden))
	}
	if !p.asksLater(o.Entry()) && p.needsApproval(o.Entry()) {
		f.Fields = append(f.Fields, whyFor(""))
	}
	if a := actions[id]; len(a.secrets) > 0 && len(f.Fields) > 0 && a.route != nil && a.route.Guards().Presence && !p.present() {
		f.Prove = "/prove" + query("back", p.here())
	}
	if failed {
		p.failed.fill(&f)
		if why := p.failed.Values.Get(whyField); why != "" && p.asksLater(o.Entry()) { // the page that asks has it again
			f.Hidden = append(f.Hidden, ui.Hidden{Name: whyField, Value: why})
		}
		switch typed := p.failed.Values.Get(confirmField); {
		case p.failed.Confirm != "":
			f.Confirm, f.ConfirmError, f.Typed = p.failed.Confirm, true, typed
		case f.Confirm != "":
			f.Typed = typed
		case typed != "" && len(p.failed.Withheld) > 0: // confirmed, and waits for its secrets again
			f.Hidden = append(f.Hidden, ui.Hidden{Name: confirmField, Value: typed})
		}
		if revision != "" && p.failed.Code.Entry().Class == fault.ClassStale {
			p.conflict(o.Entry(), &f)
		} else {
			f.Differences = nil
		}
	}
	return f
}

// conflict makes a form, filled in with what was typed, one of a thing that another person has
// changed meanwhile. A form without a field, but a button, has nothing that was typed.
func (p *page) conflict(route *operation.Route, f *ui.Form) {
	by := p.changedBy(route, hiddenValues(f.Hidden))
	if !slices.ContainsFunc(f.Fields, func(x ui.Field) bool { return x.Name != whyField && x.Type != "password" }) {
		f.Error, f.Differences = sentences(f.Error, by), nil
		return
	}
	f.By, f.Drop, f.Submit = by, p.here(), f.Submit+": apply what I typed"
}

// whyField says why, for the person who approves.
const whyField = "why"

func whyFor(typed string) ui.Field {
	return ui.Field{Name: whyField, Label: "Why, for the person who approves", Value: typed, Required: true, Autocomplete: "off", Hint: "another person must approve this before it is done"}
}

// asksLater says whether the page that has the name typed asks why.
func (p *page) asksLater(r *operation.Route) bool {
	return r.Guards().Confirmed && r.ConfirmedIf == ""
}

// needsApproval says whether the operation waits for a second person. If that is not known, it
// does: a reason too many does no harm.
func (p *page) needsApproval(r *operation.Route) bool {
	if !r.Guards().FourEyes {
		return false
	}
	needs, known := p.needs[r.ID]
	if !known {
		var err error
		needs, err = p.caller().NeedsApproval(p.Context(), r)
		needs = needs || err != nil
		if p.needs == nil {
			p.needs = map[string]bool{}
		}
		p.needs[r.ID] = needs
	}
	return needs
}

func hiddenValues(hidden []ui.Hidden) url.Values {
	v := url.Values{}
	for _, h := range hidden {
		v.Add(h.Name, h.Value)
	}
	return v
}
