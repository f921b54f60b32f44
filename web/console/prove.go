package console

import (
	"encoding/json"
	"net/http"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// provePath is the page that asks for a proof of presence for the form with that ID.
func provePath(id string) string { return "/prove/" + id }

// askProof keeps a form, and sends the browser to the page that asks for a proof of presence.
func (c *console) askProof(w http.ResponseWriter, r *http.Request, who identity.Principal, k *kept) {
	id, err := c.keep(w, keptProof, owner(keptProof, who), k, provePath)
	if err != nil {
		k.Code = fault.Presence
		k.Message = "Nothing was done: this needs a proof of the last five minutes that it is you. Give it, and send the form again."
		c.unkept(w, r, k, err)
		return
	}
	http.Redirect(w, r, provePath(id), http.StatusSeeOther)
}

// proof is what a page that asks for presence goes on with.
type proof struct {
	user             *identity.User
	passkey          bool // one can be used here
	present          bool // the last proof is new enough
	action           string
	back             string
	wrong            string
	operation, again string // of the form that waits; empty if there is none
}

// present says whether the last proof of presence is new enough for dangerous operations.
func (p *page) present() bool { return p.now.Sub(p.who.ProvenAt) <= operation.PresenceTime }

// proofPage asks for a proof of presence: for a form, or so that a form which needs one can be
// filled in after it.
func (c *console) proofPage(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	p := &page{Request: r, c: c, who: who, now: c.Now()}
	d := proof{action: "/prove", back: local(r.URL.Query().Get("back")), present: p.present()}
	if id := chi.URLParam(r, "id"); id != "" {
		k, _, err := c.opened(r, keptProof, id, who)
		if err != nil {
			c.gone(w, p, err)
			return
		}
		d.action, d.back, d.wrong = provePath(id), local(k.Values.Get("back")), k.Message
		if a, ok := actions[k.Operation]; ok {
			d.operation, d.again = a.words(k.Values), k.again()
		}
	}
	d.user = &identity.User{}
	if account, err := read(p, operation.ShowAccount, operation.Nothing{}); err == nil && account.User != nil {
		d.user = account.User
	}
	d.passkey = c.Identity.PasskeysEnabled() && len(d.user.Passkeys) > 0
	v := &view{title: "Prove that it is you", body: provePage(d)}
	if d.operation != "" {
		v.status = http.StatusForbidden
	}
	if d.wrong != "" {
		v.title = errorTitle(d.wrong, v.title)
	}
	c.show(w, p, v)
}

// prove takes a password as a proof of presence, or goes on after another proof, with what asked
// for it.
func (c *console) prove(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	id, k := chi.URLParam(r, "id"), &kept{}
	if id != "" {
		var err error
		if k, _, err = c.opened(r, keptProof, id, who); err != nil {
			http.Redirect(w, r, provePath(id), http.StatusSeeOther) // it says that it is gone
			return
		}
	} else {
		k.Values = map[string][]string{"back": {local(r.PostFormValue("back"))}}
	}
	if err := r.ParseForm(); err == nil && r.PostForm.Has("password") {
		_, err := operation.ProvePassword.Do(r.Context(), c.caller(r, who), operation.Proof{Password: r.PostForm.Get("password"), Code: r.PostForm.Get("code")})
		if err != nil {
			k.Message = c.message(r, err)
			c.askProof(w, r, who, k)
			return
		}
	}
	// With the proof, by whichever way, the session is another.
	now, err := c.session(r)
	if err != nil {
		http.Redirect(w, r, "/signin", http.StatusSeeOther)
		return
	}
	p := &page{Request: r, c: c, who: now, now: c.Now(), values: k.Values}
	switch {
	case k.Operation == "": // it was only to prove
		http.Redirect(w, r, local(k.Values.Get("back")), http.StatusSeeOther)
	case len(k.Withheld) > 0:
		k.Message = k.again()
		c.refuse(w, r, now.UserID, k)
	default:
		drop(w, r, func(kept string) bool { return kept == id })
		k.Values.Set("version", p.version(revisionOf(k.Values))) // the session may be another by now; the user is not
		c.perform(w, p, k.Operation, k.Values)
	}
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
