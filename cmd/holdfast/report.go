package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/cmd/internal/terminal"
	"holdfast/cmd/internal/version"
)

//go:embed report.html
var reportHTML string

// reportPage is the page of a verdict that an auditor files: one file without scripts, which
// loads nothing. Its style is let in by its digest.
var reportPage = func() *template.Template {
	_, after, _ := strings.Cut(reportHTML, "<style>")
	style, _, _ := strings.Cut(after, "</style>")
	sum := sha256.Sum256([]byte(style))
	return template.Must(template.New("report").Parse(strings.Replace(reportHTML, "'STYLE'", "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'", 1)))
}()

// filing is what a report is about, besides the verdict.
type filing struct {
	// Subject says in one sentence what the evidence is of.
	Subject string
	// Asked says how the evidence came, and what it was held against.
	Asked []row
	// Again says how to verify it again; the command may be empty.
	Again again
	// Written is when.
	Written time.Time
}

type again struct{ Text, Command string }

// row is a term with its value; Code says that it is in the computer's own spelling.
type row struct {
	Term, Value string
	Code        bool
}

// report is what the page shows.
type report struct {
	filing
	Word, Class, Sentence string
	Policy                []row
	Forced                []string
	Claims                []claim
	Checks                []reportCheck
	Lacking, Unasked      []reportCheck
	Beyond                []string
	Facts                 []factGroup
	Version, Written      string
}

type reportCheck struct {
	appraisal.Check
	Word, Class string
}

// claim is what a signature stands for.
type claim struct{ Word, Class, Text, Why, By string }

type factGroup struct {
	Title string
	Rows  []row
}

// resultWords are what results are called.
var resultWords = map[appraisal.Result]string{appraisal.Pass: "Pass", appraisal.Fail: "Fail", appraisal.Missing: "Missing", appraisal.NotRun: "Not run", appraisal.Incomplete: "Incomplete"}

// beyond is what no verdict shows, whatever its policy.
var beyond = []string{
	"That AWS is honest about the code. The NitroTPM is a part of AWS's hosts, so what runs is shown by AWS's word; that the host cannot read the memory is AMD's.",
	"That the machine is yours. The evidence shows what runs behind this TLS key; that the key answers under a name which is yours is shown by an authority for certificates, or by a fingerprint that you keep (holdfast watch).",
	"What happened before or after. The evidence is of one moment; to ask again and again is what a watch is for (holdfast watch).",
	"That the released code is good. The policy's signer stands for the reference values; who builds the image from its source can compute them (holdfast policy predict).",
}

// renderReport writes the page. Whatever characters the evidence has, none becomes markup, and
// none is other than it looks.
func renderReport(v *appraisal.Verdict, f filing) ([]byte, error) {
	r := report{filing: f, Word: resultWords[v.Result], Class: string(v.Result), Beyond: beyond, Claims: claims(v),
		Version: version.Version, Written: stampOf(f.Written)}
	for _, c := range v.Checks {
		check := reportCheck{c, resultWords[c.Result], string(c.Result)}
		r.Checks = append(r.Checks, check)
		switch c.Result {
		case appraisal.Missing:
			r.Lacking = append(r.Lacking, check)
		case appraisal.NotRun:
			r.Unasked = append(r.Unasked, check)
		}
	}
	r.Sentence = verdictSentence(v)
	r.Policy, r.Forced = policyRows(v.Policy)
	var err error
	if r.Facts, err = factGroups(v); err != nil {
		return nil, err
	}
	var page bytes.Buffer
	if err := reportPage.Execute(&page, r); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return []byte(terminal.Lines(page.String())), nil
}

func verdictSentence(v *appraisal.Verdict) string {
	switch failed, lacks := v.Failed(), v.Lacks(); {
	case v.Result == appraisal.Pass:
		return "All that matters was checked, and passed."
	case v.Result == appraisal.Incomplete:
		return fmt.Sprintf("Nothing failed, and %s could not be checked: %s. This is no pass.", number(len(lacks), "thing that matters", "things that matter"), strings.Join(lacks, ", "))
	case len(failed) == 0:
		return "No check passed, or one that had to be run was not."
	default:
		return fmt.Sprintf("%s failed: %s. Do not trust this machine.", number(len(failed), "check", "checks"), strings.Join(failed, ", "))
	}
}

func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func policyRows(u *appraisal.Under) (rows []row, forced []string) {
	if u == nil {
		return []row{{Term: "Policy", Value: "none"}}, nil
	}
	signer := row{Term: "Signed by", Value: "nobody: the policy is unsigned, so its file alone stands for it"}
	if u.Signer != appraisal.Unsigned {
		signer = row{Term: "Signed by", Value: "the key with the ID " + u.Signer}
	}
	rows = []row{{Term: "Name", Value: u.Name}, {Term: "Version", Value: strconv.FormatUint(u.Version, 10)}, {Term: "SHA-256 of its text", Value: u.Digest, Code: true}, signer}
	if u.Unproven != "" {
		rows = append(rows, row{Term: "Forced, because", Value: u.Unproven})
	}
	return rows, u.UnprovenBecause
}

// stands says who stands for what, by the checks that have to pass for it. Each check of an
// appraisal belongs to one of them.
type stands struct {
	text, by string
	has      func(code fault.Code) bool
	// rests says that it is worth nothing without what a maker of hardware has signed.
	rests bool
}

// standing are all claims. The last takes what is of no other.
func standing(v *appraisal.Verdict) []stands {
	prefix := func(p string) func(fault.Code) bool {
		return func(c fault.Code) bool { return strings.HasPrefix(string(c), p) }
	}
	one := func(codes ...fault.Code) func(fault.Code) bool {
		return func(c fault.Code) bool { return slices.Contains(codes, c) }
	}
	signer := "the policy, which is unsigned"
	if v.Policy != nil && v.Policy.Signer != appraisal.Unsigned {
		signer = "the policy's signer, key " + v.Policy.Signer
	}
	return []stands{
		{"The evidence was made for this request, and by the machine that holds this TLS key.", "the machine's hardware, by the signatures below: each is over the nonce and the key", one(fault.EvidenceNonce, fault.EvidenceTLSKey, fault.EvidenceTime), true},
		{"The machine runs a release that the policy names, and nothing else.", signer, one(fault.TPMReference, fault.PolicyUnproven, fault.EvidencePolicy), true},
		{"The machine's memory is encrypted and guarded against its host, by a processor whose firmware is recent.", "AMD: the processor's key, whose certificates lead to AMD's root", prefix("E_SNP_"), false},
		{"The TPM is AWS's NitroTPM of this instance, and its PCRs are those of the quote.", "AWS: the NitroTPM document, whose certificates lead to AWS's root", prefix("E_NITRO_"), false},
		{"The PCRs have these values, and the logs of firmware and program explain them.", "the TPM's attestation key, which AWS's document names", prefix("E_TPM_"), true},
		{"The evidence is whole, of one machine, and has all that the policy requires.", "nobody: it is compared here", func(fault.Code) bool { return true }, false},
	}
}

func claims(v *appraisal.Verdict) []claim {
	list := standing(v)
	of := make([][]appraisal.Check, len(list))
	for _, c := range v.Checks {
		i := slices.IndexFunc(list, func(s stands) bool { return s.has(fault.Code(c.Code)) })
		of[i] = append(of[i], c)
	}
	var all []claim
	for i, s := range list {
		result, why := shown(of[i])
		if s.rests && result == appraisal.Pass {
			result, why = rooted(v)
		}
		word := map[appraisal.Result]string{appraisal.Pass: "Yes", appraisal.Fail: "No", appraisal.Missing: "Not all", appraisal.NotRun: "Not asked"}[result]
		all = append(all, claim{word, string(result), s.text, why, s.by})
	}
	return all
}

// shown is what checks of a claim come to, and by which.
func shown(checks []appraisal.Check) (appraisal.Result, string) {
	with := func(r appraisal.Result) string {
		var codes []string
		for _, c := range checks {
			if c.Result == r {
				codes = append(codes, c.Code)
			}
		}
		return strings.Join(codes, ", ")
	}
	switch {
	case with(appraisal.Fail) != "":
		return appraisal.Fail, "failed: " + with(appraisal.Fail)
	case with(appraisal.Missing) != "":
		return appraisal.Missing, "missing: " + with(appraisal.Missing)
	case with(appraisal.Pass) != "":
		return appraisal.Pass, ""
	}
	return appraisal.NotRun, ""
}

// rooted says whether the makers of hardware have signed what the rest stands on.
func rooted(v *appraisal.Verdict) (appraisal.Result, string) {
	var broken []string
	signed := false
	for _, c := range v.Checks {
		ofHardware := slices.ContainsFunc([]string{"E_SNP_", "E_NITRO_", "E_TPM_", string(fault.EvidenceParts), string(fault.EvidenceReport)}, func(p string) bool { return strings.HasPrefix(c.Code, p) })
		if ofHardware && c.Result == appraisal.Fail {
			broken = append(broken, c.Code)
		}
		signed = signed || c.Result == appraisal.Pass && (c.Code == string(fault.NitroSignature) || c.Code == string(fault.SNPSignature))
	}
	switch {
	case broken != nil:
		return appraisal.Fail, "it rests on what failed: " + strings.Join(broken, ", ")
	case !signed:
		return appraisal.Missing, "no document in the evidence is signed by a maker of hardware"
	}
	return appraisal.Pass, ""
}

// The facts that have words of their own; others have their names in the verdict.
var (
	factTitles = map[string]string{"connection": "Connection", "evidence": "Evidence", "sev_snp": "SEV-SNP report (AMD)", "nitro": "NitroTPM document (AWS)", "tpm": "TPM quote and logs"}
	factTerms  = map[string]string{"evidence.tls_key_sha256": "TLS key, SHA-256", "evidence.state": "State head", "evidence.policy_sha256": "The machine's policy, SHA-256",
		"nitro.module_id": "Instance (module_id)", "tpm.reference": "Release (reference)", "tpm.ak_sha256": "Attestation key, SHA-256"}
)

// factGroups are the facts of a verdict, in an order that people read them in: all but the log's
// events, which the evidence has, and PCRs that would stand there twice.
func factGroups(v *appraisal.Verdict) ([]factGroup, error) {
	text, err := json.Marshal(v.Facts)
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a counter of 64 bits stays as it is
	var plain map[string]any
	if err := d.Decode(&plain); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	leaveOut(plain, "tpm", "events")
	if slices.ContainsFunc(v.Checks, func(c appraisal.Check) bool { return c.Code == string(fault.NitroPCRs) && c.Result == appraisal.Pass }) {
		leaveOut(plain, "nitro", "pcrs") // they are the TPM's
	}
	order := []string{"connection", "evidence", "sev_snp", "nitro", "tpm"}
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	names := slices.SortedFunc(maps.Keys(plain), func(a, b string) int { return cmp.Or(rank(a)-rank(b), strings.Compare(a, b)) })
	var groups []factGroup
	for _, name := range names {
		g := factGroup{Title: cmp.Or(factTitles[name], name)}
		flatten(name, name, plain[name], &g.Rows)
		groups = append(groups, g)
	}
	return groups, nil
}

func leaveOut(facts map[string]any, group, name string) {
	if g, ok := facts[group].(map[string]any); ok {
		delete(g, name)
	}
}

// flatten gives a row for each value in a fact, by its path.
func flatten(group, path string, value any, rows *[]row) {
	switch v := value.(type) {
	case map[string]any:
		if few := inOneRow(v); few != "" && path != group {
			*rows = append(*rows, row{termOf(group, path), few, true})
			return
		}
		for _, name := range slices.SortedFunc(maps.Keys(v), byNumber) {
			flatten(group, path+"."+name, v[name], rows)
		}
	case []any:
		for i, item := range v {
			flatten(group, path+"."+strconv.Itoa(i+1), item, rows)
		}
	default:
		*rows = append(*rows, row{termOf(group, path), fmt.Sprint(v), true})
	}
}

// termOf is what a fact is called.
func termOf(group, path string) string {
	if term := factTerms[path]; term != "" {
		return term
	}
	return strings.NewReplacer("pcrs.", "PCR ", ".", " ", "_", " ", "sha256", "SHA-256").Replace(strings.TrimPrefix(path, group+"."))
}

// inOneRow gives a few values that belong together, such as the parts of a TCB, as one text;
// empty for others.
func inOneRow(values map[string]any) string {
	const most = 6
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(values), byNumber) {
		switch v := values[name].(type) {
		case map[string]any, []any:
			return ""
		default:
			if _, err := strconv.Atoi(name); err == nil {
				return "" // a list of PCRs, each of which is looked for
			}
			parts = append(parts, fmt.Sprintf("%s %v", strings.ReplaceAll(name, "_", " "), v))
		}
	}
	if len(parts) > most {
		return ""
	}
	return strings.Join(parts, ", ")
}

// byNumber compares names, those that are numbers by their values.
func byNumber(a, b string) int {
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	if err1 == nil && err2 == nil {
		return cmp.Compare(x, y)
	}
	return strings.Compare(a, b)
}

func stampOf(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sourceRows say what evidence is of: where it comes from, its digest, the nonce, and the key
// that it was compared with.
func sourceRows(source string, text []byte, x attest.Expectation) []row {
	nonce, key := row{Term: "Nonce asked with", Value: "none was given"}, row{Term: "TLS key of the connection, SHA-256", Value: "none was given"}
	if x.Nonce != nil {
		nonce = row{nonce.Term, fmt.Sprintf("%x", x.Nonce), true}
	}
	if x.TLSKey != nil {
		key = row{key.Term, hexDigest(x.TLSKey), true}
	}
	return []row{{Term: "Evidence of", Value: source}, {"Evidence, SHA-256", hexDigest(text), true}, nonce, key}
}

// partRows say which single documents were given.
func (f *verifyFlags) partRows() []row {
	rows := []row{{Term: "Evidence of", Value: "single documents, which name neither nonce nor TLS key"}}
	for _, file := range []row{{Term: "SEV-SNP report", Value: f.report}, {Term: "NitroTPM document", Value: f.document}, {Term: "TPM quote", Value: f.quote}} {
		if file.Value != "" {
			rows = append(rows, file)
		}
	}
	return rows
}

// writeReport writes the report of what was appraised to the file that the call names.
func writeReport(f *verifyFlags, done *appraised, command string) error {
	at, _ := done.verdict.Facts["appraised_at"].(string)
	filed := filing{Asked: append(done.rows, row{Term: "Appraised as of", Value: at}), Written: time.Now(), Again: again{Command: command,
		Text: "With the same evidence, policy and certificate, this gives the same verdict on any computer, offline:"}}
	filed.Subject = done.rows[0].Term + " " + done.rows[0].Value
	if command == "" {
		filed.Again.Text = "The evidence was not kept, so nobody can verify it again. Ask anew with --out FILE, and file the evidence and its certificate with the report."
	}
	page, err := renderReport(done.verdict, filed)
	if err != nil {
		return err
	}
	return writeNew(f.page, page)
}
