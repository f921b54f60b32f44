package console

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// Before an outage a page says what relies on the thing, and has its name typed. The form waits
// for it as one that waits for a proof of presence does: sealed, in cookies of that page's path.

// confirmPath is the page that has the name typed for the form with that ID.
func confirmPath(id string) string { return "/confirm/" + id }

// confirmField is the field with the name that is typed.
const confirmField = "confirm"

// toConfirm gives what has to be confirmed before the operation of a form is performed; nil for
// nothing, and if it is.
func (p *page) toConfirm(a action, f *form) (*operation.Confirmation, error) {
	if a.confirmation == nil || !a.route.Guards().Confirmed {
		return nil, nil
	}
	revision, err := p.fresh(f.values)
	if err != nil {
		return nil, err
	}
	wants, err := a.confirmation(p.Context(), p.caller().Seeing(revision), f)
	if err != nil || wants == nil {
		return nil, err
	}
	if f.values.Has(confirmField) && wants.Check(f.values.Get(confirmField)) == nil {
		return nil, nil
	}
	return wants, nil
}

// askConfirmation keeps a form, and sends the browser to the page that has the name typed. If one
// was typed, it was another. A form with secrets has the name typed in itself: they are entered once
// more there, since no browser keeps them.
func (c *console) askConfirmation(w http.ResponseWriter, p *page, wants *operation.Confirmation, k *kept) {
	if k.Values.Has(confirmField) {
		k.Message, k.Code, k.Field = c.message(p.Request, wants.Check(k.Values.Get(confirmField))), fault.Invalid, confirmField
	}
	if len(k.Withheld) > 0 {
		k.Message, k.Code, k.Field, k.Confirm = c.message(p.Request, wants.Check(k.Values.Get(confirmField))), fault.Invalid, confirmField, wants.Name
		c.refuse(w, p.Request, p.who.UserID, k)
		return
	}
	id, err := c.keep(w, keptConfirm, owner(keptConfirm, p.who), k, confirmPath)
	if err != nil {
		c.unkept(w, p.Request, k, err)
		return
	}
	http.Redirect(w, p.Request, confirmPath(id), http.StatusSeeOther)
}

// confirmed says whether a form has the name that has to be typed, or needs none. Otherwise it has
// answered: with the page that asks for it, or why nothing can be done.
func (c *console) confirmed(w http.ResponseWriter, p *page, a action, v url.Values) bool {
	f := &form{values: v}
	wants, err := p.toConfirm(a, f)
	if err == nil && wants == nil {
		return true
	}
	k := &kept{Operation: a.route.ID, Values: v, Withheld: withhold(a.route.ID, v)}
	if err != nil {
		k.Code, k.Message, k.Field = fault.CodeOf(err), c.message(p.Request, err), f.wrong
		c.refuse(w, p.Request, p.who.UserID, k)
		return false
	}
	c.askConfirmation(w, p, wants, k)
	return false
}

// confirmData is what the page before an outage shows.
type confirmData struct {
	*operation.Confirmation
	dependents *operation.Dependents // nil if nothing can depend on it
	unknown    string                // why they are not known
	form       ui.Form
	back       string
}

// relying looks for what relies on what is confirmed.
func (p *page) relying(wants *operation.Confirmation) *confirmData {
	d := &confirmData{Confirmation: wants, back: p.here()}
	if wants.Of != nil {
		var err error
		if d.dependents, err = read(p, operation.ShowDependents, *wants.Of); err != nil {
			d.unknown = p.c.message(p.Request, err)
		}
	}
	return d
}

// confirmPage shows what relies on a thing, and has its name typed.
func (c *console) confirmPage(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	p := &page{Request: r, c: c, who: who, now: c.Now()}
	id := chi.URLParam(r, "id")
	k, _, err := c.opened(r, keptConfirm, id, who)
	if err != nil {
		c.gone(w, p, err)
		return
	}
	a := actions[k.Operation]
	p.values = k.Values
	later := c.typedBefore(r, k, who)
	typed := k.Values.Get(confirmField)
	k.Values.Del(confirmField)
	k.Values.Set("version", p.version(revisionOf(k.Values))) // the session may be another by now; the user is not
	f := &form{values: k.Values}
	wants, err := p.toConfirm(a, f)
	if err != nil { // what was typed is looked at where the form is
		k.Code, k.Message, k.Field = fault.CodeOf(err), c.message(r, err), f.wrong
		drop(w, r, func(string) bool { return true })
		c.refuse(w, r, who.UserID, k)
		return
	}
	if wants == nil { // what it is about has changed, so that nothing has to be typed
		wants = &operation.Confirmation{Words: a.words(k.Values), Summary: a.route.Summary}
	}
	d := p.relying(wants)
	d.form = ui.Form{Action: confirmPath(id), Submit: wants.Words, Kind: "danger", Confirm: wants.Name, Typed: typed,
		Hidden: []ui.Hidden{{Name: "author", Value: who.UserID}}}
	if p.needsApproval(a.route) {
		d.form.Fields = append(d.form.Fields, whyFor(k.Values.Get(whyField)))
	}
	v := &view{title: fmt.Sprintf("%s: %s", wants.Words, wants.Name), status: k.status(), body: outagePage(d)}
	if k.Message != "" {
		d.form.Error, d.form.ConfirmError = k.Message, !later
		v.title = errorTitle(k.Message, v.title)
	}
	c.show(w, p, v)
}

// confirm takes the name, and goes on with the form.
func (c *console) confirm(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	id := chi.URLParam(r, "id")
	k, _, err := c.opened(r, keptConfirm, id, who)
	if err != nil {
		http.Redirect(w, r, confirmPath(id), http.StatusSeeOther) // it says that it is gone
		return
	}
	p := &page{Request: r, c: c, who: who, now: c.Now(), values: k.Values}
	k.Values.Set(confirmField, r.PostFormValue(confirmField))
	if r.PostForm.Has(whyField) {
		k.Values.Set(whyField, r.PostForm.Get(whyField))
	}
	k.Values.Set("version", p.version(revisionOf(k.Values)))
	drop(w, r, func(string) bool { return true })
	c.perform(w, p, k.Operation, k.Values)
}

// confirmLater has whose session has ended sign in, and go on where the name is typed, with what
// they have typed there.
func (c *console) confirmLater(w http.ResponseWriter, r *http.Request) {
	k := &kept{Values: url.Values{confirmField: {r.PostFormValue(confirmField)}}}
	if r.PostForm.Has(whyField) {
		k.Values.Set(whyField, r.PostForm.Get(whyField))
	}
	page := confirmPath(chi.URLParam(r, "id"))
	id, err := c.keep(w, keptTyped, r.PostForm.Get("author"), k, func(string) string { return page })
	if err != nil {
		c.unkept(w, r, k, err)
		return
	}
	http.Redirect(w, r, "/signin?next="+url.QueryEscape(page+query(keptParameter, id)), http.StatusSeeOther)
}

// typedBefore puts what was typed on this page when the session had ended into the form, and says
// whether something was.
func (c *console) typedBefore(r *http.Request, k *kept, who identity.Principal) bool {
	typed, _, err := c.opened(r, keptTyped, r.URL.Query().Get(keptParameter), who)
	if err != nil {
		return false
	}
	maps.Copy(k.Values, typed.Values)
	k.Code, k.Message = fault.Unauthenticated, sessionEnded
	return true
}

// confirmation reads the input of a form, and gives what a person confirms before it is performed.
func confirmation[In, Out any](o *operation.Operation[In, Out], read func(f *form) In) func(context.Context, *operation.Caller, *form) (*operation.Confirmation, error) {
	return func(ctx context.Context, c *operation.Caller, f *form) (*operation.Confirmation, error) {
		in := read(f)
		defer operation.Wipe(in)
		if f.err != nil {
			return nil, f.err
		}
		return o.Confirmation(ctx, c, in)
	}
}

func requestCount(n int) string {
	if n == 1 {
		return "1 request"
	}
	return ui.Count(n) + " requests"
}
