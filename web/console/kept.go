package console

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// Between a post and the page that follows it, the browser carries what was typed or answered:
// sealed, in cookies of that page's path. So a form outlives its session, any node of a fleet
// shows it, and nothing is stored for those who type.

// kept is what the browser carries.
type kept struct {
	Operation string     `json:"operation"`
	Values    url.Values `json:"values"` // none of them secret
	// Withheld are the fields that were filled in and are not kept, as they are secret.
	Withheld []string `json:"withheld,omitempty"`

	// Of a form that was refused: why, and which field was wrong; empty if that is not known.
	Code    fault.Code `json:"code,omitempty"`
	Message string     `json:"message,omitempty"`
	Field   string     `json:"field,omitempty"`
	// Confirm is the name to type in the form itself, as it has secrets.
	Confirm string `json:"confirm,omitempty"`

	// Of a form that was done: what was answered, and how far it is in effect.
	Answer json.RawMessage `json:"answer,omitempty"`
	Effect string          `json:"effect,omitempty"`
}

// The purposes of what is kept.
const (
	keptForm    = "form"    // refused, or posted when the session had ended: for the user
	keptProof   = "proof"   // waits for a proof of presence: for the user
	keptConfirm = "confirm" // waits for a name to be typed: for the user
	keptTyped   = "typed"   // the name and the reason, posted when the session had ended: for the user
	keptAnswer  = "answer"  // what a form gave: for the session
)

const (
	// keptTime is how long it is kept.
	keptTime = 10 * time.Minute
	// keptForms is how many forms a browser keeps for a page: older ones are dropped.
	keptForms = 3
	// keptText bounds what is read of it, in bytes: it is kept compressed.
	keptText = 2 * maxForm

	// MaxHeader is how many bytes the headers of a request may have, with what the browser keeps for
	// a page and those above it: the longest form, another that was just refused, and all else.
	MaxHeader = 64 << 10
	// keptRoom is how many bytes of cookies stay when a page has shown a form: the longest form
	// has fewer.
	keptRoom = 30 << 10

	keptCookie = "__Secure-holdfast-kept-" // and the ID, a dot, and the number of the part
	cookiePart = 3500                      // bytes of a cookie; browsers keep 4096 with name and attributes (RFC 6265 section 6.1)
	// keptParameter is the parameter of a page's URL that has the ID of the form to show in it.
	keptParameter = "kept"
)

// owner is whose a kept form is.
func owner(purpose string, who identity.Principal) string {
	if purpose == keptAnswer {
		return who.UserID + " " + who.Session
	}
	return who.UserID
}

// keep has the browser carry something to the page whose path page gives for the ID. It gives the
// ID. fault.TooLarge.
func (c *console) keep(w http.ResponseWriter, purpose, owner string, k *kept, page func(id string) string) (string, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	defer clear(text)
	if len(text) > keptText {
		return "", fault.Errorf(fault.TooLarge, "what was posted is too long for a browser to carry to the next page")
	}
	var packed bytes.Buffer
	z, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err = z.Write(text); err == nil {
		err = z.Close()
	}
	if err != nil {
		return "", err
	}
	carried := &identity.Carried{Purpose: purpose, Owner: owner, Text: packed.Bytes()}
	defer clear(carried.Text)
	sealed, err := c.Identity.Carry(carried, keptTime)
	if err != nil {
		return "", err
	}
	part, path := 0, page(carried.ID)
	for chunk := range slices.Chunk([]byte(base64.RawURLEncoding.EncodeToString(sealed)), cookiePart) {
		setKept(w, carried.ID, part, string(chunk), path, keptTime)
		part++
	}
	return carried.ID, nil
}

func setKept(w http.ResponseWriter, id string, part int, value, path string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{Name: keptCookie + id + "." + strconv.Itoa(part), Value: value, Path: path, MaxAge: int(age.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// opened gives what the browser has brought of that ID. identity.ErrCarried.
func (c *console) opened(r *http.Request, purpose, id string, who identity.Principal) (*kept, *identity.Carried, error) {
	var text strings.Builder
	for part := 0; ; part++ {
		k, err := r.Cookie(keptCookie + id + "." + strconv.Itoa(part))
		if err != nil {
			break
		}
		text.WriteString(k.Value)
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text.String())
	if err != nil {
		return nil, nil, identity.ErrCarried
	}
	carried, err := c.Identity.OpenCarried(purpose, owner(purpose, who), id, sealed)
	if err != nil {
		return nil, nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(carried.Text)), keptText))
	if err != nil {
		return nil, nil, identity.ErrCarried
	}
	defer clear(plain)
	k := &kept{}
	if err := json.Unmarshal(plain, k); err != nil {
		return nil, nil, identity.ErrCarried
	}
	return k, carried, nil
}

// drop has the browser forget what it has brought under the IDs, for this page or one above it.
func drop(w http.ResponseWriter, r *http.Request, which func(id string) bool) {
	for _, k := range r.Cookies() {
		rest, ok := strings.CutPrefix(k.Name, keptCookie)
		id, part, found := strings.Cut(rest, ".")
		n, err := strconv.Atoi(part)
		if ok && found && err == nil && which(id) {
			for _, path := range above(r.URL.EscapedPath()) {
				setKept(w, id, n, "", path, -time.Second)
			}
		}
	}
}

// above gives a path and all whose cookies are sent with it (RFC 6265 section 5.1.4).
func above(path string) []string {
	paths := []string{path}
	for path != "/" {
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
		if path == "" {
			path = "/"
		}
		paths = append(paths, path)
	}
	return paths
}

// dropOld has the browser forget the oldest forms of a page and those above it, so that the next
// request can bring one more. The one that is shown stays.
func dropOld(w http.ResponseWriter, r *http.Request, shown string) {
	size := map[string]int{}
	for _, k := range r.Cookies() {
		if rest, ok := strings.CutPrefix(k.Name, keptCookie); ok {
			id, _, _ := strings.Cut(rest, ".")
			size[id] += len(k.Name) + len(k.Value) + len("=; ")
		}
	}
	ids := slices.SortedFunc(maps.Keys(size), func(a, b string) int {
		switch shown {
		case a:
			return -1
		case b:
			return 1
		}
		return strings.Compare(b, a)
	})
	var old []string
	room := keptRoom
	for i, id := range ids {
		if room -= size[id]; i > 0 && (i >= keptForms || room < 0) {
			old = append(old, id)
		}
	}
	drop(w, r, func(id string) bool { return slices.Contains(old, id) })
}

// formPage gives where a form is shown again: the URL, and its path alone.
func formPage(back string) (*url.URL, string) {
	to, err := url.Parse(local(back))
	if err != nil || !isPage(to.Path) {
		to = &url.URL{Path: "/"}
	}
	return to, to.EscapedPath()
}

func isPage(path string) bool {
	return slices.ContainsFunc(pages, func(l listedPage) bool { _, ok := match(l.path, path); return ok })
}

// unkept answers a post whose form is too long for a browser to carry. It is the one answer
// that is no redirect, since what was typed would be lost by one.
func (c *console) unkept(w http.ResponseWriter, r *http.Request, k *kept, err error) {
	why := c.message(r, err)
	c.bare(w, r, http.StatusUnprocessableEntity, "Error: it was not done", unkeptPage(k, why))
}

// typed gives the fields that people have filled in, sorted, with what they typed.
func (k *kept) typed() []typedField {
	var list []typedField
	for name, values := range k.Values {
		if text := strings.TrimSpace(strings.Join(values, "\n")); text != "" && (name == whyField || slices.Contains(actions[k.Operation].fields, name)) {
			list = append(list, typedField{operation.Plain(name), text})
		}
	}
	slices.SortFunc(list, func(a, b typedField) int { return strings.Compare(a.name, b.name) })
	return list
}

type typedField struct{ name, text string }

// again says which secrets have to be entered once more; empty if none.
func (k *kept) again() string {
	if len(k.Withheld) == 0 {
		return ""
	}
	names := make([]string, len(k.Withheld))
	for i, name := range k.Withheld {
		names[i] = operation.Plain(name)
	}
	return fmt.Sprintf("Enter %s once more: secrets are not kept.", joined(names))
}
