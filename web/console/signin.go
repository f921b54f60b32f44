package console

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image/color"
	"net/http"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/boombuler/barcode/qr"
	"github.com/go-chi/chi/v5"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

func (c *console) signInRoutes(r chi.Router) {
	r.Post("/theme", c.setTheme)
	r.Post("/shortcuts", c.setShortcuts)
	if c.Identity.Closed != "" { // as long as the process lives
		closed := func(w http.ResponseWriter, r *http.Request) {
			c.bare(w, r, http.StatusServiceUnavailable, "Closed", closedPage(c.Identity.Closed))
		}
		for _, pattern := range []string{"/signin", "/signin/*", "/setup", "/setup/*", "/invitation/*"} {
			r.HandleFunc(pattern, closed)
		}
		return
	}
	r.Get("/signin", c.signInPage)
	r.Post("/signin", c.signInPassword)
	r.Post("/signin/passkey/begin", c.beginSignIn)
	r.Post("/signin/passkey/finish", c.finishSignIn)
	r.Post("/signin/oidc/begin", c.beginOIDC)
	r.Get(identity.CallbackPath, c.finishOIDC)
	r.Get("/setup", c.setupPage)
	r.Post("/setup", c.redeemSetup)
	r.Post("/setup/check", c.whileLaunchMissing(c.checkLaunchFile))
	r.Post("/setup/launch.toml", c.whileLaunchMissing(c.downloadLaunchFile))
	r.Post("/setup/hsm", c.whileLaunchMissing(c.tryHSM))
	r.Get("/invitation/{token}", c.invitationPage)
	r.Post("/invitation/{token}/password", c.enrolPassword)
	r.Post("/invitation/{token}/passkey/begin", c.beginEnrol)
	r.Post("/invitation/{token}/passkey/finish", c.finishEnrol)
}

func client(r *http.Request) identity.Client {
	return identity.Client{Address: r.RemoteAddr, UserAgent: r.UserAgent(), Device: cookie(r, deviceCookie)}
}

// bare writes a page for somebody who is not signed in.
func (c *console) bare(w http.ResponseWriter, r *http.Request, status int, title string, body templ.Component) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := ui.Bare(title, theme(r)).Render(templ.WithChildren(r.Context(), body), w); err != nil {
		c.Log.Debug("a page was not read to its end", "path", r.URL.Path, "error", err)
	}
}

// statusOf is the HTTP status of a refusal on a page before signing in.
func statusOf(err error) int {
	switch fault.CodeOf(err) {
	case "":
		return http.StatusOK
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.Throttled:
		return http.StatusTooManyRequests
	case fault.Timeout:
		return http.StatusServiceUnavailable
	case fault.Invalid, fault.Conflict, fault.Exists:
		return http.StatusUnprocessableEntity
	}
	if ofInput(fault.CodeOf(err)) {
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}

// refused is what a page before signing in may say of an error; the answer's header says how
// long to wait.
func (c *console) refused(w http.ResponseWriter, r *http.Request, err error) string {
	f := c.told(r, err)
	operation.SetRetryAfter(w.Header(), f)
	return f.Message
}

// signInView is what the page to sign in shows.
type signInView struct {
	next, name, wrong string
	passkeys, oidc    bool
	state             ui.Badge
	reason            string
	code              fault.Code // of why no key is served
}

func (c *console) showSignIn(w http.ResponseWriter, r *http.Request, name string, err error) {
	b := c.Boot.Status()
	v := signInView{next: local(r.FormValue("next")), name: name, passkeys: c.Identity.PasskeysEnabled(), oidc: c.Identity.OIDCEnabled(), state: standingBadge(c.Performer.Standing())}
	if !b.Serves() {
		v.reason, v.code = strings.TrimSpace(b.Code+" "+b.Reason), fault.Code(b.Code)
	}
	if err != nil {
		v.wrong = c.refused(w, r, err)
	}
	c.bare(w, r, statusOf(err), "Sign in", signInPage(v))
}

func (c *console) signInPage(w http.ResponseWriter, r *http.Request) {
	if open, err := c.Identity.SetupOpen(r.Context()); err == nil && open {
		http.Redirect(w, r, "/setup", http.StatusSeeOther)
		return
	}
	c.showSignIn(w, r, "", nil)
}

// entered gives the browser its session, and has it recorded.
func (c *console) entered(w http.ResponseWriter, r *http.Request, event, tried string, in identity.SignedIn, err error) error {
	actor := in.Principal.Name
	if err != nil {
		actor = ""
	}
	auditErr := c.Performer.Event(r.Context(), event, actor, tried, r.RemoteAddr, err)
	if auditErr == nil && in.RecoveryCode {
		auditErr = c.Performer.RecoveryCode(r.Context(), in.Principal, r.RemoteAddr)
	}
	if auditErr == nil && in.RoleWas != "" {
		auditErr = c.Performer.RoleByGroups(r.Context(), in.Principal, in.RoleWas, r.RemoteAddr)
	}
	if auditErr != nil && err == nil {
		_ = c.Identity.SignOut(r.Context(), in.Token) // nobody is let in unrecorded
		return fault.Wrapf(fault.Internal, auditErr, "nobody can sign in now, since it cannot be recorded in the audit log")
	}
	if err != nil {
		return err
	}
	setCookie(w, sessionCookie, in.Token, 24*time.Hour*7) // the server ends it before
	if in.Device != "" {
		setCookie(w, deviceCookie, in.Device, identity.DeviceLifetime)
	}
	return nil
}

func (c *console) signInPassword(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("name")
	in, err := c.Identity.SignInPassword(r.Context(), name, r.PostFormValue("password"), r.PostFormValue("code"), client(r))
	if err = c.entered(w, r, "sign in by password", name, in, err); err != nil {
		c.showSignIn(w, r, name, err)
		return
	}
	http.Redirect(w, r, local(r.PostFormValue("next")), http.StatusSeeOther)
}

func (c *console) beginSignIn(w http.ResponseWriter, r *http.Request) {
	ceremony, err := c.Identity.BeginPasskey(r.Context())
	c.begun(w, r, ceremony, err)
}

func (c *console) finishSignIn(w http.ResponseWriter, r *http.Request) {
	a, err := readJSON[answered](r)
	if err == nil {
		var in identity.SignedIn
		in, err = c.Identity.FinishPasskey(r.Context(), a.Ceremony, a.Response, client(r))
		err = c.entered(w, r, "sign in by passkey", "", in, err)
	}
	c.answerJSON(w, r, map[string]string{"location": local(a.Fields["next"])}, err)
}

// beginOIDC sends the browser to the provider by a page with a link: the policy
// lets no form post lead to another origin.
func (c *console) beginOIDC(w http.ResponseWriter, r *http.Request) {
	to, state, err := c.Identity.BeginOIDC(r.Context(), client(r))
	if err != nil {
		c.showSignIn(w, r, "", err)
		return
	}
	setCookie(w, stateCookie, state, 5*time.Minute)
	setCookie(w, nextCookie, base64.RawURLEncoding.EncodeToString([]byte(local(r.PostFormValue("next")))), 5*time.Minute)
	c.bare(w, r, http.StatusOK, "Go on", leavePage(to))
}

func (c *console) finishOIDC(w http.ResponseWriter, r *http.Request) {
	q, state := r.URL.Query(), cookie(r, stateCookie)
	clearCookie(w, stateCookie)
	err := error(identity.ErrProof)
	if state != "" && state == q.Get("state") { // the browser that began it
		var in identity.SignedIn
		in, err = c.Identity.FinishOIDC(r.Context(), state, q.Get("code"), client(r))
		err = c.entered(w, r, "sign in by OpenID", "", in, err)
	}
	if err != nil {
		c.showSignIn(w, r, "", err)
		return
	}
	next, _ := base64.RawURLEncoding.DecodeString(cookie(r, nextCookie)) // what is no path leads to "/"
	clearCookie(w, nextCookie)
	http.Redirect(w, r, local(string(next)), http.StatusSeeOther)
}

func (c *console) signOut(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	err := c.Identity.SignOut(r.Context(), cookie(r, sessionCookie))
	if err == nil {
		err = c.Performer.Event(r.Context(), "sign out", who.Name, "", r.RemoteAddr, nil)
	}
	if err != nil {
		c.failPage(w, r, who, err)
		return
	}
	if !who.Unverified { // a locked node tells the others once it is unlocked
		c.Performer.Settle(r.Context()) // signed out is signed out at all nodes
	}
	clearCookie(w, sessionCookie)
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
}

func (c *console) setTheme(w http.ResponseWriter, r *http.Request) {
	if t := r.PostFormValue("theme"); t == "light" || t == "dark" {
		setCookie(w, themeCookie, t, 365*24*time.Hour)
	} else {
		clearCookie(w, themeCookie)
	}
	http.Redirect(w, r, local(r.PostFormValue("back")), http.StatusSeeOther)
}

func (c *console) setShortcuts(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("shortcuts") == "off" {
		setCookie(w, keysCookie, "off", 365*24*time.Hour)
	} else {
		clearCookie(w, keysCookie)
	}
	http.Redirect(w, r, local(r.PostFormValue("back")), http.StatusSeeOther)
}

func (c *console) setupPage(w http.ResponseWriter, r *http.Request) {
	open, err := c.Identity.SetupOpen(r.Context())
	if err == nil && !open {
		http.Redirect(w, r, "/signin", http.StatusSeeOther)
		return
	}
	if c.launchMissing() {
		c.showLaunch(w, r, newLaunchView(r), err)
		return
	}
	c.bare(w, r, statusOf(err), "Set up", setupPage("", c.message(r, err)))
}

// launchMissing says whether the machine has no launch file, so that nobody can be enrolled.
func (c *console) launchMissing() bool {
	return c.Boot.Status().Code == string(fault.LaunchMissing)
}

func (c *console) redeemSetup(w http.ResponseWriter, r *http.Request) {
	if c.launchMissing() {
		c.firstLaunch(w, r)
		return
	}
	name := strings.TrimSpace(r.PostFormValue("name"))
	token, err := c.Identity.RedeemSetupCode(r.Context(), r.PostFormValue("setup_code"), name, client(r))
	if auditErr := c.Performer.Event(r.Context(), "use the setup code", "", "", r.RemoteAddr, err); err == nil {
		err = auditErr
	}
	if err != nil {
		wrong := c.refused(w, r, err)
		c.bare(w, r, statusOf(err), "Set up", setupPage(name, wrong))
		return
	}
	http.Redirect(w, r, "/invitation/"+token, http.StatusSeeOther)
}

// enrolView is what the page to enrol shows.
type enrolView struct {
	token, name, role, wrong string
	passkeys                 bool
	totp                     identity.TOTP
	qr                       templ.Component
}

func (c *console) showEnrol(w http.ResponseWriter, r *http.Request, wrong error) {
	token := chi.URLParam(r, "token")
	i, err := c.Identity.OpenInvitation(r.Context(), token, client(r))
	v := enrolView{token: token, name: i.Name, role: string(i.Role), passkeys: c.Identity.PasskeysEnabled(), wrong: c.message(r, wrong)}
	if err == nil {
		v.totp, err = c.Identity.BeginEnrolPassword(r.Context(), token, client(r))
	}
	if err != nil {
		c.bare(w, r, statusOf(err), "Invitation", noInvitationPage())
		return
	}
	v.qr = qrCode(v.totp.URI)
	c.bare(w, r, statusOf(wrong), "Welcome", enrolPage(v))
}

func (c *console) invitationPage(w http.ResponseWriter, r *http.Request) { c.showEnrol(w, r, nil) }

func (c *console) enrolPassword(w http.ResponseWriter, r *http.Request) {
	in, err := c.Identity.FinishEnrolPassword(r.Context(), chi.URLParam(r, "token"), r.PostFormValue("password"), r.PostFormValue("code"), client(r))
	if err = c.entered(w, r, "enrol by password", "", in, err); err != nil {
		c.showEnrol(w, r, err)
		return
	}
	c.bare(w, r, http.StatusOK, "Recovery codes", recoveryPage(in.RecoveryCodes))
}

func (c *console) beginEnrol(w http.ResponseWriter, r *http.Request) {
	ceremony, err := c.Identity.BeginEnrolPasskey(r.Context(), chi.URLParam(r, "token"), client(r))
	c.begun(w, r, ceremony, err)
}

func (c *console) finishEnrol(w http.ResponseWriter, r *http.Request) {
	a, err := readJSON[answered](r)
	if err == nil {
		var in identity.SignedIn
		in, err = c.Identity.FinishEnrolPasskey(r.Context(), chi.URLParam(r, "token"), a.Ceremony, a.Fields["name"], a.Response, client(r))
		err = c.entered(w, r, "enrol by passkey", a.Fields["name"], in, err)
	}
	// Recovery codes are for passwords that one has; a passkey's owner makes some in
	// the account.
	c.answerJSON(w, r, map[string]string{"location": "/account#recovery"}, err)
}

// qrCode draws a text as a QR code.
func qrCode(text string) templ.Component {
	code, err := qr.Encode(text, qr.M, qr.Auto)
	if err != nil {
		return templ.NopComponent // the text beside it says the same
	}
	const quiet = 4 // modules around it (ISO/IEC 18004 section 6.3.8)
	n := code.Bounds().Dx()
	var path bytes.Buffer
	for y := range n {
		for x := range n {
			if color.GrayModel.Convert(code.At(x, y)).(color.Gray).Y < 128 {
				fmt.Fprintf(&path, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	return qrDrawing(fmt.Sprintf("0 0 %d %d", n+2*quiet, n+2*quiet), path.String())
}
