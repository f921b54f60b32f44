// Package appraisal holds what comes of the appraisal of evidence (RFC 9334
// section 7, attestation results): a list of checks, each passed, failed or not
// run, and the facts that were learned. Every package that checks evidence
// writes to one [Sheet].
//
// It guarantees that every check which was announced is in the list once, so
// that a check which was forgotten shows as not run and the verdict is not
// "pass".
package appraisal

import (
	"fmt"
	"holdfast/appliance/fault"
	"slices"
	"strings"
)

// Result of a check, and of the whole.
type Result string

// The results.
const (
	Pass   Result = "pass"
	Fail   Result = "fail"
	NotRun Result = "not_run"
)

// Question is what a check answers. Its code is in the registry of package fault.
// Its name is a sentence that is true when the check passes.
type Question struct {
	Code fault.Code
	Name string
}

// Check is a question with its answer. Detail says what was seen, and what to
// do if it failed.
type Check struct {
	Code   string `json:"code" jsonschema:"The code of the check."`
	Name   string `json:"name" jsonschema:"What is checked."`
	Result Result `json:"result" jsonschema:"What the check found."`
	Detail string `json:"detail,omitempty" jsonschema:"What was found, in words."`
}

// Sheet collects checks and facts. The zero value is empty and ready.
type Sheet struct {
	checks []Check
	facts  map[string]any
	must   map[fault.Code]bool
}

// Announce says that these questions are to be answered. Those that are not in
// the end fail the whole.
func (s *Sheet) Announce(questions ...Question) {
	for _, q := range questions {
		if s.must == nil {
			s.must = map[fault.Code]bool{}
		}
		s.must[q.Code] = true
		s.set(q, NotRun, "an earlier check failed")
	}
}

// Skip says that the questions have no answer here and need none, and why.
func (s *Sheet) Skip(why string, questions ...Question) {
	for _, q := range questions {
		delete(s.must, q.Code)
		s.set(q, NotRun, why)
	}
}

// Answer records the answer: nil passes. It gives whether it did. A question
// that has failed once stays failed.
func (s *Sheet) Answer(q Question, err error) bool {
	if err != nil {
		s.set(q, Fail, sentence(err.Error()))
		return false
	}
	if c := s.find(q.Code); c != nil && c.Result == Fail {
		return false
	}
	s.set(q, Pass, "")
	return true
}

// Pass records that the check passed, and what was seen.
func (s *Sheet) Pass(q Question, format string, args ...any) {
	if s.Answer(q, nil) {
		s.find(q.Code).Detail = fmt.Sprintf(format, args...)
	}
}

// Fact records what was learned. Facts are only as true as the checks that
// passed.
func (s *Sheet) Fact(name string, value any) {
	if s.facts == nil {
		s.facts = map[string]any{}
	}
	s.facts[name] = value
}

func (s *Sheet) find(code fault.Code) *Check {
	if i := slices.IndexFunc(s.checks, func(c Check) bool { return c.Code == string(code) }); i >= 0 {
		return &s.checks[i]
	}
	return nil
}

func (s *Sheet) set(q Question, r Result, detail string) {
	c := s.find(q.Code)
	if c == nil {
		s.checks = append(s.checks, Check{Code: string(q.Code), Name: q.Name})
		c = &s.checks[len(s.checks)-1]
	}
	c.Result, c.Detail = r, detail
}

// Verdict is the whole: the result, the checks in the order in which they were
// announced, and the facts.
type Verdict struct {
	Result Result         `json:"verdict" jsonschema:"The result of all checks together."`
	Checks []Check        `json:"checks" jsonschema:"Each check with its result."`
	Facts  map[string]any `json:"facts" jsonschema:"What the evidence proves, by name."`
}

// Verdict sums up. It is pass if at least one check passed, none failed, and
// none that was announced is missing.
func (s *Sheet) Verdict() *Verdict {
	v := &Verdict{Result: Fail, Checks: slices.Clone(s.checks), Facts: s.facts}
	if v.Facts == nil {
		v.Facts = map[string]any{}
	}
	passed := false
	for _, c := range v.Checks {
		if c.Result == Fail || (c.Result == NotRun && s.must[fault.Code(c.Code)]) {
			return v
		}
		passed = passed || c.Result == Pass
	}
	if passed {
		v.Result = Pass
	}
	return v
}

// Failed gives the codes of the checks that failed, in order.
func (v *Verdict) Failed() []string {
	var codes []string
	for _, c := range v.Checks {
		if c.Result == Fail {
			codes = append(codes, c.Code)
		}
	}
	return codes
}

// Err gives nil if the verdict is pass, or else one line with the failed checks.
func (v *Verdict) Err() error {
	if v.Result == Pass {
		return nil
	}
	var why []string
	for _, c := range v.Checks {
		if c.Result == Fail {
			why = append(why, c.Code+" ("+c.Detail+")")
		}
	}
	if why == nil {
		why = []string{"not every check could be run"}
	}
	return fmt.Errorf("the evidence is refused: %s", strings.Join(why, "; "))
}

// sentence puts what libraries say, which may have several lines, on one.
func sentence(s string) string {
	const most = 1000
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
