package console

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/launch"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// launchFileName is what a launch file is called in commands, and where it is downloaded.
const launchFileName = "launch.toml"

// launchView is what the page shows on which somebody writes a machine's first launch file.
type launchView struct {
	// file is the text as it was typed.
	file string
	// mistakes are all of it, if it was checked; usable is what it says if there are none.
	mistakes []launchMistake
	usable   *usableLaunch
	// tokens are what came of a look at those that it names; nil if nobody has looked.
	tokens []operation.LookedToken
	// document is what was given to be installed, and wrong why something was not done.
	document, wrong string
}

// launchMistake is one mistake in a launch file: its line from 1 on with the text of that line,
// or 0 for what is not there.
type launchMistake struct {
	line          int
	text, message string
}

// usableLaunch is a launch file without a mistake.
type usableLaunch struct {
	digest string // SHA-256 of its bytes, in hexadecimal
	sets   []string
}

// launchText is the launch file of a form. Browsers post CR LF, and files have LF.
func launchText(r *http.Request) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(r.PostFormValue("file"))
}

// newLaunchView is the page with the text of the form on it, or with one to fill in.
func newLaunchView(r *http.Request) *launchView {
	v := &launchView{file: launchText(r), document: strings.TrimSpace(r.PostFormValue("document"))}
	if !r.PostForm.Has("file") {
		v.file = launch.Template("", "")
	}
	return v
}

// check finds all mistakes. It reads the text, and does nothing else: anybody may ask for it.
func (v *launchView) check() (ok bool) {
	f, err := launch.Parse(launchFileName, []byte(v.file))
	if err == nil {
		digest := sha256.Sum256([]byte(v.file))
		v.usable = &usableLaunch{digest: hex.EncodeToString(digest[:]), sets: f.Sentences()}
		return true
	}
	var problems config.Problems
	if !errors.As(err, &problems) {
		problems = config.Problems{{Message: err.Error()}}
	}
	lines := strings.Split(v.file, "\n")
	for _, p := range problems {
		m := launchMistake{line: p.Line, message: p.Message}
		if p.Line > 0 && p.Line <= len(lines) {
			m.text = strings.TrimSpace(lines[p.Line-1])
		}
		v.mistakes = append(v.mistakes, m)
	}
	return false
}

// counted says how many mistakes there are.
func (v *launchView) counted() string {
	if len(v.mistakes) == 1 {
		return "The launch file has a mistake"
	}
	return fmt.Sprintf("The launch file has %d mistakes", len(v.mistakes))
}

// showLaunch writes the page; err is why something was not done.
func (c *console) showLaunch(w http.ResponseWriter, r *http.Request, v *launchView, err error) {
	title, status := "Set up", statusOf(err)
	if err != nil {
		v.wrong = c.refused(w, r, err)
		title = errorTitle(v.wrong, title)
	} else if len(v.mistakes) > 0 {
		status, title = http.StatusUnprocessableEntity, errorTitle(v.counted(), title)
	} else if v.usable != nil {
		title = "The launch file has no mistake · " + title // a page's title is read first
	}
	c.bare(w, r, status, title, firstLaunchPage(v))
}

// whileLaunchMissing sends who comes to a machine that has a launch file, or users, to where
// they set up or sign in.
func (c *console) whileLaunchMissing(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if open, err := c.Identity.SetupOpen(r.Context()); err == nil && !open || !c.launchMissing() {
			http.Redirect(w, r, "/setup", http.StatusSeeOther)
			return
		}
		if err := r.ParseForm(); err != nil {
			c.showLaunch(w, r, newLaunchView(r), fault.Errorf(fault.Invalid, "the form is longer than %d KiB, or cannot be read: a launch file has at most %d KiB", maxForm>>10, launch.MaxFile>>10))
			return
		}
		next(w, r)
	}
}

// checkLaunchFile shows all mistakes of a launch file.
func (c *console) checkLaunchFile(w http.ResponseWriter, r *http.Request) {
	v := newLaunchView(r)
	v.check()
	c.showLaunch(w, r, v, nil)
}

// downloadLaunchFile gives a launch file without a mistake as a file, byte for byte as it was typed.
func (c *console) downloadLaunchFile(w http.ResponseWriter, r *http.Request) {
	v := newLaunchView(r)
	if !v.check() {
		c.showLaunch(w, r, v, nil)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	stream := operation.Stream{Media: "text/plain; charset=utf-8", Name: launchFileName, Write: func(w io.Writer) error {
		_, err := io.WriteString(w, v.file)
		return err
	}}
	if err := stream.Serve(w, c.Log); err != nil {
		c.Log.Debug("a file was not read to its end", "path", r.URL.Path, "error", err)
	}
}

// proveSetupCode wants the setup code of the form, and has it recorded.
func (c *console) proveSetupCode(r *http.Request) error {
	err := c.Identity.ProveSetupCode(r.Context(), r.PostFormValue("setup_code"), client(r))
	if auditErr := c.Performer.Event(r.Context(), "use the setup code", "", "", r.RemoteAddr, err); err == nil {
		err = auditErr
	}
	return err
}

// tryHSM looks for the tokens that a launch file names, for who has the setup code.
func (c *console) tryHSM(w http.ResponseWriter, r *http.Request) {
	v := newLaunchView(r)
	if !v.check() {
		c.showLaunch(w, r, v, nil)
		return
	}
	err := c.proveSetupCode(r)
	if err == nil {
		v.tokens, err = c.Performer.LookAtTokens(r.Context(), v.file)
	}
	c.showLaunch(w, r, v, err)
}

// firstLaunch installs the launch file of a machine that has none, for who has the setup code.
func (c *console) firstLaunch(w http.ResponseWriter, r *http.Request) {
	v := newLaunchView(r)
	err := c.proveSetupCode(r)
	if err == nil {
		by := c.Performer.As(identity.Principal{Name: "setup code", Role: identity.RoleAdministrator}, r.RemoteAddr)
		_, err = operation.InstallLaunch.Do(r.Context(), by, operation.LaunchDocument{Document: v.document})
	}
	if err != nil {
		c.showLaunch(w, r, v, err)
		return
	}
	c.bare(w, r, http.StatusOK, "Set up", firstLaunchDonePage())
}

// launchField is the launch file to write; what was wrong with it is said above it.
func launchField(v *launchView) ui.Field {
	f := ui.Field{Name: "file", Label: "Launch file", Type: "textarea", File: true, Mono: true, Rows: 24, Value: v.file, Hint: fmt.Sprintf("TOML, at most %d KiB; it holds no secret, and no private key", launch.MaxFile>>10)}
	if len(v.mistakes) > 0 {
		f.Error, f.DescribedBy = v.counted()+": see above", "mistakes"
	}
	return f
}

// tokenFacts are what a token says about itself.
func tokenFacts(t operation.LookedToken) (facts []ui.Fact) {
	for _, f := range []ui.Fact{{Term: "Label", Value: t.Label}, {Term: "Serial number", Value: t.Serial}, {Term: "Manufacturer", Value: t.Manufacturer}, {Term: "Model", Value: t.Model}, {Term: "Firmware", Value: t.Firmware}} {
		if f.Value != "" {
			facts = append(facts, f)
		}
	}
	return facts
}
