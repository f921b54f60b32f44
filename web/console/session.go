package console

import (
	"net/http"

	"holdfast/appliance/identity"
)

// sessionEnd says in how many seconds the session ends if nobody uses it. A post uses it; a
// question of the page's script does not.
func (c *console) sessionEnd(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	c.answerJSON(w, r, map[string]int{"seconds": int(who.EndsAt.Sub(c.Now()).Seconds())}, nil)
}
