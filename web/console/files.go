package console

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// fileStep is how many things a form makes of a file: after each the page says how far it is, and
// goes on by itself.
const fileStep = 1000

// file gives a file that was posted: browsers send each line end as CR LF, whatever it was.
func (f *form) file() string { return strings.ReplaceAll(f.text("file"), "\r\n", "\n") }

func fileCheck(f *form) operation.FileCheck {
	return operation.FileCheck{KeyStoreName: keyStoreName(f), File: f.file()}
}

// fileImport reads the form of the page that shows the check. What it counts, the check has given.
func fileImport(f *form) operation.FileImport {
	rows, _ := strconv.Atoi(f.hidden("rows")) // another number than the file has is refused
	return operation.FileImport{KeyStoreName: keyStoreName(f), File: f.file(), Rows: rows, SHA256: f.hidden("sha256"), Most: fileStep}
}

func fileActions() []action {
	return []action{
		ask(operation.CheckKeyFile, fileCheck, checkedFile("keys", operation.CreateKeys)),
		ask(operation.CreateKeys, fileImport, madeOfFile("keys", operation.CreateKeys)),
		ask(operation.CheckGrantFile, fileCheck, checkedFile("grants", operation.CreateGrants)),
		ask(operation.CreateGrants, fileImport, madeOfFile("grants", operation.CreateGrants)),
	}
}

// checkForm is the form that begins with a file.
func (p *page) checkForm(check operation.Entry, what, columns, keyStore string) ui.Form {
	f := p.form(check, "", ui.Form{Folded: true, Kind: "quiet", Label: "File of " + what,
		Note:   "Nothing is made yet: the next page says what the file would do, and names each line that is wrong.",
		Fields: []ui.Field{{Name: "file", Label: "File", Type: "textarea", File: true, Mono: true, Required: true, Rows: 8, Hint: columns}}}, "keystore", keyStore)
	if !p.present() {
		f.Prove = "/prove" + query("back", p.here())
	}
	return f
}

const (
	keyColumns   = "CSV with the columns id, usage (encrypt decrypt, encrypt, decrypt or none) and custody (cached or hsm), or JSON lines. Keys are generated: a file lies in mails and shares, so it has no key material."
	grantColumns = "CSV with the columns principal and operations (Encrypt Decrypt GetAttributes), and if needed key_id, effect, not_after, force and conditions such as source_vpcs; or JSON lines. Spaces separate several values of a column."
)

// createFile is an operation that makes things of a file.
type createFile = *operation.Operation[operation.FileImport, operation.FileResult]

// createForm is the form that makes what is not there yet of the file that was posted. A file that
// is too long for the browser to carry would be lost at the page before an outage, and at the one
// that asks for a proof of presence: what has to be typed is typed here, and goes on with the file;
// and the form asks for the proof first, and does not go on by itself.
func (p *page) createForm(create createFile, r operation.FileResult, goesOn bool) (ui.Form, *operation.Confirmation) {
	file, hidden := strings.ReplaceAll(p.values.Get("file"), "\r\n", "\n"), []string{"keystore", p.values.Get("keystore"), "rows", strconv.Itoa(r.Rows), "sha256", r.SHA256}
	f := ui.Form{Label: "Go on", Continue: goesOn,
		Fields: []ui.Field{{Name: "file", Label: "The file that was checked", Type: "textarea", Mono: true, Required: true, Rows: 4, Value: file}}}
	wants := create.ToConfirm(operation.FileImport{KeyStoreName: operation.KeyStoreName{KeyStore: p.values.Get("keystore")}, File: file})
	if typed := p.values.Get(confirmField); wants != nil && typed != "" {
		hidden = append(hidden, confirmField, typed)
	} else if wants != nil {
		f.Confirm, f.Kind = wants.Name, "danger"
	}
	f = p.form(create, "", f, hidden...)
	p.now = p.c.Now() // what was just done may have taken long
	if carried := p.Method == http.MethodGet; !carried && create.Entry().Guards().Presence && !p.present() {
		f.Prove, f.Continue = "/prove"+query("back", p.here()), false
	}
	return f, wants
}

type fileData struct {
	what, back string
	report     operation.FileReport
	result     operation.FileResult
	create     *ui.Form     // nil if there is nothing to do
	outage     *confirmData // what relies on the key store; nil if nothing has to be typed
}

func checkedFile(what string, create createFile) func(p *page, r operation.FileReport) (*view, error) {
	return func(p *page, r operation.FileReport) (*view, error) {
		d := &fileData{what: what, back: p.here(), report: r}
		title := fmt.Sprintf("File of %s: %s would be made", what, ui.Count(r.New))
		switch {
		case len(r.Problems) > 0:
			title = fmt.Sprintf("File of %s: %s problems", what, ui.Count(len(r.Problems)+r.More))
		case r.New > 0:
			f, wants := p.createForm(create, operation.FileResult{Rows: r.Rows, SHA256: r.SHA256}, false)
			d.create = &f
			if f.Confirm != "" {
				d.outage = p.relying(wants)
			}
		}
		return &view{title: title, body: checkedFilePage(d)}, nil
	}
}

func madeOfFile(what string, create createFile) func(p *page, r operation.FileResult) (*view, error) {
	return func(p *page, r operation.FileResult) (*view, error) {
		d := &fileData{what: what, back: p.here(), result: r}
		title := fmt.Sprintf("All %s %s of the file are there", ui.Count(r.Rows), what)
		if r.Left > 0 {
			title = fmt.Sprintf("%s of %s %s are there", ui.Count(r.Done()), ui.Count(r.Rows), what)
			f, _ := p.createForm(create, r, r.Stopped == nil)
			d.create = &f
		}
		return &view{title: title, body: madeOfFilePage(d)}, nil
	}
}

// goesOn says what happens next.
func goesOn(r operation.FileResult) string {
	if r.Stopped != nil {
		return "What was made stays. Go on here, or check the same file again."
	}
	return "It goes on by itself. If it stops, go on here, or check the same file again."
}
