package appraisal_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/attest/appraisal"
)

var one, two = appraisal.Question{Code: "E_ONE", Name: "One."}, appraisal.Question{Code: "E_TWO", Name: "Two."}

// TestVerdicts: what the sheet's checks come to.
func TestVerdicts(t *testing.T) {
	for name, tt := range map[string]struct {
		fill func(s *appraisal.Sheet)
		want appraisal.Result
		says string
	}{
		"nothing at all":          {func(*appraisal.Sheet) {}, appraisal.Fail, "not every check could be run"},
		"facts alone":             {func(s *appraisal.Sheet) { s.Fact("x", 1) }, appraisal.Fail, "not every check could be run"},
		"announced, no answer":    {func(s *appraisal.Sheet) { s.Announce(one, two); s.Pass(one, "") }, appraisal.Fail, "not every check could be run"},
		"nothing applies":         {func(s *appraisal.Sheet) { s.Announce(one); s.Skip("no", one) }, appraisal.Fail, "not every check could be run"},
		"nothing was given":       {func(s *appraisal.Sheet) { s.Missing("a nonce", one) }, appraisal.Fail, "not every check could be run"},
		"passed":                  {func(s *appraisal.Sheet) { s.Announce(one); s.Pass(one, "x") }, appraisal.Pass, ""},
		"passed, other not run":   {func(s *appraisal.Sheet) { s.Announce(one, two); s.Pass(one, ""); s.Skip("no", two) }, appraisal.Pass, ""},
		"passed, other missing":   {func(s *appraisal.Sheet) { s.Announce(one, two); s.Pass(one, ""); s.Missing("a nonce", two) }, appraisal.Incomplete, "the evidence is incomplete: E_TWO (a nonce)"},
		"failed, other missing":   {func(s *appraisal.Sheet) { s.Answer(one, errors.New("bad")); s.Missing("a nonce", two) }, appraisal.Fail, "the evidence is refused: E_ONE (bad)"},
		"failed, then missing":    {func(s *appraisal.Sheet) { s.Answer(one, errors.New("bad")); s.Missing("x", one); s.Pass(two, "") }, appraisal.Fail, "E_ONE (bad)"},
		"failed, then not needed": {func(s *appraisal.Sheet) { s.Answer(one, errors.New("bad")); s.Skip("x", one); s.Pass(two, "") }, appraisal.Fail, "E_ONE (bad)"},
		"failed, then passed":     {func(s *appraisal.Sheet) { s.Answer(one, errors.New("bad")); s.Pass(one, ""); s.Pass(two, "") }, appraisal.Fail, "E_ONE (bad)"},
	} {
		var s appraisal.Sheet
		tt.fill(&s)
		v := s.Verdict()
		if err := v.Err(); v.Result != tt.want || (err == nil) != (tt.want == appraisal.Pass) || (err != nil && !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %s, %v", name, v.Result, err)
		}
		// As another program reads it.
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var read appraisal.Verdict
		if err := json.Unmarshal(text, &read); err != nil || read.Result != v.Result || !slices.Equal(read.Checks, v.Checks) {
			t.Errorf("%s: read again: %+v, %v", name, read, err)
		}
	}
}

// TestVerdictsOfOthers: what does not say what it is, or says better than its checks,
// is no verdict.
func TestVerdictsOfOthers(t *testing.T) {
	const passed, missing, failed = `{"code":"E_ONE","name":"One.","result":"pass"}`, `{"code":"E_TWO","name":"Two.","result":"missing"}`, `{"code":"E_TWO","name":"Two.","result":"fail"}`
	for _, bad := range []string{
		`{}`, `{"verdict":""}`, `{"verdict":null}`, `{"verdict":"PASS","checks":[` + passed + `]}`, `{"verdict":"not_run","checks":[` + passed + `]}`,
		`{"checks":[` + passed + `]}`, `{"Verdict":"pass","checks":[` + passed + `]}`, `{"verdict":"fail","verdict":"pass","checks":[` + passed + `]}`,
		`{"verdict":"pass"}`, `{"verdict":"pass","checks":null}`, `{"verdict":"pass","checks":[]}`, `{"verdict":"incomplete","checks":[]}`,
		`{"verdict":"pass","checks":[` + passed + `,` + missing + `]}`, `{"verdict":"pass","checks":[` + passed + `,` + failed + `]}`,
		`{"verdict":"incomplete","checks":[` + passed + `,` + failed + `]}`, `{"verdict":"pass","checks":[{"code":"E_ONE","name":"One."}]}`,
		`{"verdict":"incomplete","checks":[` + passed + `]}`,
	} {
		var v appraisal.Verdict
		if err := json.Unmarshal([]byte(bad), &v); err == nil || v.Result != "" {
			t.Errorf("%s is read as %q: %v", bad, v.Result, err)
		}
	}
	var v appraisal.Verdict
	if err := json.Unmarshal([]byte(`{"verdict":"pass","new":1,"checks":[`+passed+`]}`), &v); err != nil || v.Result != appraisal.Pass {
		t.Errorf("a newer program's verdict: %v", err) // which says more
	}
}
