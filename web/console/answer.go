package console

import (
	"encoding/json"
	"net/http"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
)

// answerPath is the page that shows the answer with that ID.
func answerPath(id string) string { return "/answers/" + id }

// answer sends the browser to the page that shows what an operation gave.
func (c *console) answer(w http.ResponseWriter, p *page, k *kept, answer any) {
	text, err := json.Marshal(answer)
	defer clear(text)
	if err != nil {
		c.failPage(w, p.Request, p.who, err)
		return
	}
	k.Answer = text
	id, err := c.keep(w, keptAnswer, owner(keptAnswer, p.who), k, answerPath)
	if err != nil { // it is done: this one is shown at once
		p.values = k.Values
		c.render(w, p, func(p *page) (*view, error) { return actions[k.Operation].show(p, answer) })
		return
	}
	http.Redirect(w, p.Request, answerPath(id), http.StatusSeeOther)
}

// answerPage shows what an operation gave. A secret is shown once: after that the answer is used
// up on all nodes.
func (c *console) answerPage(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	id := chi.URLParam(r, "id")
	p := &page{Request: r, c: c, who: who, now: c.Now()}
	k, carried, err := c.opened(r, keptAnswer, id, who)
	if err == nil && actions[k.Operation].route.ShowsSecret() {
		drop(w, r, func(other string) bool { return other == id })
		err = c.Identity.UseUp(r.Context(), carried)
	}
	if err != nil {
		c.gone(w, p, err)
		return
	}
	defer clear(k.Answer)
	p.values = k.Values
	c.render(w, p, func(p *page) (*view, error) {
		a := actions[k.Operation]
		out, err := a.decode(k.Answer)
		if err != nil {
			return nil, err
		}
		v, err := a.show(p, out)
		if err == nil && k.Effect != "" {
			v.body = together(ui.Alert(ui.Info, k.Effect), v.body)
		}
		return v, err
	})
}

// decoded reads an answer that the browser has kept.
func decoded[Out any](text []byte) (any, error) {
	var out Out
	err := json.Unmarshal(text, &out)
	return out, err
}

// gone says that what the browser kept for a page is not there any more.
func (c *console) gone(w http.ResponseWriter, p *page, err error) {
	if err != nil && fault.CodeOf(err) != fault.Unauthenticated && fault.CodeOf(err) != fault.Exists {
		c.failPage(w, p.Request, p.who, err)
		return
	}
	c.show(w, p, &view{title: "Error: it was shown, or is older than ten minutes", status: http.StatusGone, body: gonePage()})
}
