package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"holdfast/attest/appraisal"
	"holdfast/web/console/browsertest"
)

// nasty is what evidence may try in each of its texts: markup, attributes, templates, and
// characters that turn the direction of writing.
const nasty = "\"'><script>document.title='owned'</script><img src=x onerror=alert(1)>{{.}}</table></main>\u202e\u2066ssap<!--"

// elements are all that a report may be made of.
var elements = strings.Fields("html head meta title style body main h1 h2 h3 div strong p table thead tbody tr th td span ul li pre footer")

// reportText reads a report, and fails the test if it is made of anything that it may not be. It
// gives the text on it, in which runs of space are one.
func reportText(t *testing.T, page []byte) string {
	t.Helper()
	root, err := html.Parse(strings.NewReader(string(page)))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for n := range root.Descendants() {
		switch {
		case n.Type == html.CommentNode:
			t.Errorf("a comment: %q", n.Data)
		case n.Type == html.TextNode && n.Parent.Data != "style":
			text.WriteString(n.Data + " ")
		case n.Type == html.ElementNode && !slices.Contains(elements, n.Data):
			t.Errorf("an element <%s>", n.Data)
		}
		for _, a := range n.Attr {
			if !slices.Contains(strings.Fields("lang charset http-equiv content name class scope"), a.Key) {
				t.Errorf("an attribute %s=%q of <%s>", a.Key, a.Val, n.Data)
			}
		}
	}
	return strings.Join(strings.Fields(text.String()), " ")
}

// spoil gives the value with each text and each name in it replaced.
func spoil(v any) any {
	switch v := v.(type) {
	case string:
		return nasty
	case []any:
		for i := range v {
			v[i] = spoil(v[i])
		}
	case map[string]any:
		for name, inner := range v {
			delete(v, name)
			v[name+nasty] = spoil(inner)
		}
	}
	return v
}

// TestReportOfHostileEvidence: no text of a verdict becomes markup, whichever it is.
func TestReportOfHostileEvidence(t *testing.T) {
	m := simulated(t)
	v := verdictOf(t, m.call(m.judged("verify", m.server.URL, "--json")...))
	for i := range v.Checks {
		v.Checks[i] = appraisal.Check{Code: nasty, Name: nasty, Detail: nasty, Result: []appraisal.Result{appraisal.Pass, appraisal.Fail, appraisal.Missing, appraisal.NotRun}[i%4]}
	}
	v.Policy = &appraisal.Under{Name: nasty, Digest: nasty, Signer: nasty, Unproven: nasty, UnprovenBecause: []string{nasty}}
	v.Facts = spoil(v.Facts).(map[string]any)
	page, err := renderReport(v, filing{Subject: nasty, Asked: []row{{nasty, nasty, false}, {nasty, nasty, true}}, Again: again{nasty, nasty}})
	if err != nil {
		t.Fatal(err)
	}
	text := reportText(t, page)
	if strings.ContainsAny(string(page), "\u202e\u2066") {
		t.Error("a character turns the direction of writing")
	}
	if shown := strings.Count(text, "<script>document.title='owned'</script>"); shown < 50 {
		t.Errorf("the texts are shown %d times", shown)
	}
	// So it is with what a machine can really say.
	m.collector.Software = nasty
	file := filepath.Join(m.dir, "hostile.html")
	if r := m.call(m.judged("verify", m.server.URL, "--report", file)...); r.code != 0 {
		t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	if page, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(reportText(t, page), "onerror=alert(1)") {
		t.Error("the software's version is not shown")
	}
}

// TestReportSays: the page has all that an auditor asks for, of each verdict, asked for or of
// files.
func TestReportSays(t *testing.T) {
	m := simulated(t)
	out := filepath.Join(m.dir, "evidence.json")
	report := func(code int, args ...string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "report.html")
		if r := m.call(append(args, "--report", file)...); r.code != code || !strings.Contains(r.stdout, file) {
			t.Fatalf("%q: exit code %d: %s%s", args, r.code, r.stdout, r.stderr)
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, not := range []string{"<script", "http://", "url(", "@import", "<link", "<img"} {
			if strings.Contains(string(page), not) {
				t.Errorf("%q is in the page", not)
			}
		}
		return reportText(t, page)
	}
	has := func(what, text string, says ...string) {
		t.Helper()
		for _, want := range says {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q: %s", what, want, text)
			}
		}
	}
	online := report(0, m.judged("verify", m.server.URL, "--out", out)...)
	e, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	v := verdictOf(t, m.call(m.judged("verify", m.server.URL, "--json")...))
	has("the report", online, "Attestation report Pass All that matters was checked, and passed.", "Evidence of the appliance at "+m.server.URL,
		"Evidence, SHA-256 "+hexDigest(e), "Nonce asked with", "TLS key of the connection, SHA-256 "+hexDigest(m.server.Certificate().RawSubjectPublicKeyInfo), "no authority vouches for the certificate",
		"SHA-256 of its text "+v.Policy.Digest, "the key with the ID "+v.Policy.Signer, "AMD: the processor's key", "AWS: the NitroTPM document",
		"release 1.2.0", "Instance (module_id) i-", "State head anchored false, at", "1.2.0", "firmware", "reported tcb bootloader 4, microcode 222, snp 29, tee 0", "PCR 4", "That the machine is yours.", "holdfast verify "+out, "--tls-cert "+certificatePath(out), "--nonce")
	// They are of evidence that was asked for once more, so they may be a second later.
	moment := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	timeless := func(text string) string { return moment.ReplaceAllString(text, "TIME") }
	for _, c := range v.Checks {
		has("the report", timeless(online), c.Code, c.Name, timeless(strings.Join(strings.Fields(c.Detail), " ")))
	}
	// Of the file, by the command that it gives itself.
	_, command, _ := strings.Cut(online, "holdfast verify ")
	command, _, _ = strings.Cut(command, " Written by")
	offline := report(0, append([]string{"verify"}, strings.Fields(command)...)...)
	has("the report of the file", offline, "Pass All that matters", "the file "+out, "holdfast verify "+command, hexDigest(e))

	without := report(3, m.judged("verify", out)...)
	has("the report without a nonce", without, "Incomplete Nothing failed, and", "This is no pass.", "Nonce asked with none was given", "It matters, and could not be checked", "--nonce", "Not all The evidence was made for this request")
	relayed := report(1, m.judged("verify", relay(t, m.server, same).URL)...)
	has("the report of a relay", relayed, "Fail 1 check failed: E_TLS_KEY. Do not trust this machine.", "No The evidence was made for this request", "The evidence was not kept")
	forced := report(3, "verify", m.server.URL, "--policy", m.forced("to collect the first evidence"))
	has("the report under a forced policy", forced, "nobody: the policy is unsigned", "Forced, because to collect the first evidence", "A verdict under this policy does not show which code runs")
	if strings.Contains(forced, "Yes The machine runs a release") {
		t.Error("without references the report names a release")
	}
	// Evidence of other hardware: what rests on it is not shown, though its own checks pass.
	foreign := filepath.Join(t.TempDir(), "report.html")
	if r := callProgram(t.Context(), newRoot(), m.judged("verify", out, "--report", foreign)...); r.code != 1 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	page, err := os.ReadFile(foreign)
	if err != nil {
		t.Fatal(err)
	}
	has("the report under the makers' roots", reportText(t, page), "No The machine runs a release that the policy names", "it rests on what failed", "E_NITRO_ROOT")
}

// TestReportInBrowser looks at reports as an auditor does: on a screen, on paper, and with
// axe-core. Pictures are kept in the folder that SCREENSHOTS names.
func TestReportInBrowser(t *testing.T) {
	m := simulated(t)
	out := filepath.Join(m.dir, "evidence.json")
	for name, args := range map[string][]string{"pass": m.judged("verify", m.server.URL, "--out", out), "fail": m.judged("verify", relay(t, m.server, same).URL), "incomplete": {"verify", m.server.URL, "--policy", m.forced("to collect the first evidence")}} {
		m.call(append(args, "--report", filepath.Join(m.dir, name+".html"))...)
	}
	v := verdictOf(t, m.call(m.judged("verify", m.server.URL, "--json")...))
	v.Facts = spoil(v.Facts).(map[string]any)
	v.Checks[0].Detail = nasty
	page, err := renderReport(v, filing{Subject: nasty, Asked: []row{{nasty, nasty, true}}, Written: time.Now(), Again: again{nasty, strings.Repeat("x", 500)}})
	if err != nil {
		t.Fatal(err)
	}
	m.write("hostile.html", page)
	s := httptest.NewTLSServer(http.FileServer(http.Dir(m.dir)))
	t.Cleanup(s.Close)
	b := browsertest.Start(t, s.URL, "", s.Certificate())
	for _, name := range []string{"pass", "fail", "incomplete", "hostile"} {
		b.Open("/" + name + ".html")
		b.Has("Attestation report", "Who stands for what", "Each check", "Verify it again")
		if title := b.Value("document.title"); !strings.HasPrefix(title, "Attestation report: ") {
			t.Errorf("%s: the title is %q", name, title)
		}
		if width := b.Value(`getComputedStyle(document.querySelector(".verdict")).borderLeftWidth`); width != "14px" {
			t.Errorf("%s: the style is not used: %q", name, width)
		}
		b.Accessible()
		b.Open("/" + name + ".html")
		for _, width := range []int64{360, 794, 1280} { // 794: A4
			b.Width(width)
			b.Fits()
			if shots := os.Getenv("SCREENSHOTS"); shots != "" && width > 360 {
				b.Shot(filepath.Join(shots, "report-"+name+map[int64]string{794: "-a4", 1280: ""}[width]+".png"))
			}
		}
		if printed := b.Printed(); !strings.Contains(printed, "Verify it again") {
			t.Errorf("%s: on paper it says %s", name, printed)
		}
	}
}

// TestFactsOfReport: numbers stay as they are, and each value is shown once.
func TestFactsOfReport(t *testing.T) {
	groups, err := factGroups(&appraisal.Verdict{Facts: map[string]any{"tpm": map[string]any{"clock_ms": uint64(1<<63 + 1), "pcrs": map[int]string{10: "b", 4: "a"}, "events": []string{"x"}}, "other": json.RawMessage(`"y"`)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(groups)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"Title":"TPM quote and logs","Rows":[{"Term":"clock ms","Value":"9223372036854775809","Code":true},{"Term":"PCR 4","Value":"a","Code":true},{"Term":"PCR 10","Value":"b","Code":true}]},` +
		`{"Title":"other","Rows":[{"Term":"other","Value":"y","Code":true}]}]`
	if string(got) != want {
		t.Errorf("got %s", got)
	}
}
