package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// A form that was refused is shown again on its own page, with what was typed.

// keepOnPage has the browser carry a refused form to its page, and gives the URL to go to.
func (c *console) keepOnPage(w http.ResponseWriter, user string, k *kept) (string, error) {
	to, page := formPage(k.Values.Get("back"))
	id, err := c.keep(w, keptForm, user, k, func(string) string { return page })
	if err != nil {
		return "", err
	}
	q := to.Query()
	q.Set(keptParameter, id)
	to.RawQuery = q.Encode()
	return to.String(), nil
}

// refuse sends the browser to the page of a form that was refused.
func (c *console) refuse(w http.ResponseWriter, r *http.Request, user string, k *kept) {
	to, err := c.keepOnPage(w, user, k)
	if err != nil {
		c.unkept(w, r, k, err)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// takeUp shows a page with the form in it that was refused.
func (c *console) takeUp(w http.ResponseWriter, p *page, id string, make func(p *page) (*view, error)) {
	dropOld(w, p.Request, id)
	k, _, err := c.opened(p.Request, keptForm, id, p.who)
	if err != nil {
		drop(w, p.Request, func(other string) bool { return other == id })
		c.render(w, p, func(p *page) (*view, error) {
			v, err := make(p)
			if err == nil {
				v.body = together(ui.Alert(ui.Warn, "The form that was kept for this page is gone: ten minutes have passed, or another user filled it in."), v.body)
			}
			return v, err
		})
		return
	}
	p.failed = &failure{kept: k}
	v, err := make(p)
	if err != nil { // the page, or what it is about, is not there any more
		f := c.told(p.Request, err)
		v = &view{title: titleOf(f), status: statusOfPage(f), body: failurePage(titleOf(f), f.Message, c.Boot.Status(), "/")}
	} else if v.status = k.status(); p.failed.shown {
		v.title = errorTitle(k.Message, v.title)
		c.show(w, p, v)
		return
	}
	v.title, v.body = errorTitle(k.Message, v.title), together(refusedAlert(k), v.body)
	c.show(w, p, v)
}

// status is the HTTP status of the page that shows it.
func (k *kept) status() int {
	switch k.Code {
	case fault.ReasonMissing, fault.AdmissionChanged, fault.AdmissionUnconfirmed:
		return http.StatusUnprocessableEntity
	case "", fault.Unauthenticated: // nothing was wrong with it, or that is over
		return http.StatusOK
	}
	if ofInput(k.Code) {
		return http.StatusUnprocessableEntity
	}
	return statusOfPage(&fault.Fault{Code: k.Code})
}

// ofInput says whether a code is about what was entered: what was given cannot be read, or those
// who have signed it did not sign that.
func ofInput(c fault.Code) bool {
	switch c {
	case fault.Invalid, fault.Exists, fault.PolicyFile, fault.PolicyUnproven, fault.PolicyVersion, fault.SealFile, fault.SealSignature,
		fault.LaunchFile, fault.LaunchSignature, fault.LaunchOwner, fault.LaunchVersion:
		return true
	}
	return false
}

// errorTitle is the title of a page that says what was wrong.
func errorTitle(message, title string) string {
	const most = 80
	if short := []rune(message); len(short) > most {
		message = string(short[:most]) + "…"
	}
	return "Error: " + message + " · " + title
}

// isOf says whether a form with those hidden fields, pairs of name and value, is the one that was
// refused, and not another one of the same operation.
func (f *failure) isOf(hidden []string) bool {
	for i := 0; i+1 < len(hidden); i += 2 {
		if f.Values.Get(hidden[i]) != hidden[i+1] {
			return false
		}
	}
	return true
}

// fill puts what was typed into its form, with what was wrong.
func (f *failure) fill(to *ui.Form) {
	to.Error, f.shown = strings.TrimSpace(f.Message), true
	if again := f.again(); again != "" && !strings.Contains(to.Error, again) {
		to.Error = sentences(to.Error, again)
	}
	for i := range to.Fields {
		x := &to.Fields[i]
		if f.about(x, len(to.Fields)) {
			x.Error = f.Message
		}
		got, ok := f.Values[x.Name]
		if x.Type == "password" || !ok {
			continue
		}
		now, typed := x.Value, strings.Join(got, "\n")
		if x.Type == "checkboxes" {
			now, typed = named(x, x.Values), named(x, got)
			x.Values = got
		} else if len(got) > 0 {
			x.Value = got[0]
		}
		if d := (ui.Difference{Label: x.Label, Now: now, Typed: typed}); slices.ContainsFunc(d.Lines(), func(l ui.Line) bool { return l.In != ' ' }) {
			to.Differences = append(to.Differences, d)
		}
	}
}

// sentences puts one after what may end without a full stop; an empty one is left out.
func sentences(message, next string) string {
	if message == "" || next == "" {
		return message + next
	}
	return strings.TrimSuffix(message, ".") + ". " + next
}

// named gives the texts of the boxes that are checked, one a line, in the order of the page.
func named(x *ui.Field, values []string) string {
	var texts []string
	for _, o := range x.Options {
		if slices.Contains(values, o.Value) {
			texts = append(texts, o.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// about says whether a field is the one that was wrong: the form says so, or the message names it
// before what was entered, as those of the domain do ("key ID \"…\": use …"); or there is no other.
func (f *failure) about(x *ui.Field, fields int) bool {
	if f.Field != "" {
		return f.Field == x.Name
	}
	if !ofInput(f.Code) {
		return false
	}
	subject := strings.TrimPrefix(f.Message, `"`)
	if end := strings.IndexAny(subject, "\":,"); end >= 0 {
		subject = subject[:end]
	}
	names := func(name string) bool {
		name = wordsOf(name)
		return name != "" && strings.Contains(" "+wordsOf(subject)+" ", " "+name+" ")
	}
	return fields == 1 || names(x.Name) || names(x.Label)
}

// wordsOf gives the words of a name, in lower case and the singular, with one space between; AWS
// calls a VPC endpoint a VPCE in names.
func wordsOf(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == ' ' || r == '_' || r == '.' })
	for i, w := range words {
		words[i] = strings.TrimSuffix(w, "s")
	}
	return strings.ReplaceAll(strings.Join(words, " "), "vpc endpoint", "vpce")
}

// changedBy says who has last changed what a form is about, and when, as far as the audit log of
// this node has it and the user may read it.
func (p *page) changedBy(route *operation.Route, names url.Values) string {
	if !p.may(identity.Audit) {
		return ""
	}
	f := operation.AuditFilter{KeyStore: names.Get("keystore"), Key: names.Get("key"), Kind: audit.KindAdmin, Result: audit.Allowed}
	for _, name := range []string{"credential", "grant", "user", "node"} { // their IDs
		f.Object = cmp.Or(f.Object, names.Get(name))
	}
	found, err := read(p, operation.SearchAudit, operation.AuditSearch{Limit: 100, AuditFilter: f})
	if err != nil {
		return "" // the page says what has changed all the same
	}
	for _, r := range found.Records {
		if r.Key == f.Key && alsoChanges(route, r.Operation) {
			return fmt.Sprintf("%s changed it last, %s.", r.Actor, ui.Stamp(r.Time))
		}
	}
	return ""
}

// alsoChanges says whether an operation, as records name it, changes the same thing as the one of
// a form. To block and to unblock changes a key, too.
func alsoChanges(route *operation.Route, recorded string) bool {
	return slices.ContainsFunc(operation.Table(), func(other *operation.Route) bool {
		blocks := other == operation.Block.Entry() || other == operation.Unblock.Entry()
		return other.Operation() == recorded && (other.Shown() == route.Shown() && route.Shown() != nil || blocks)
	})
}
