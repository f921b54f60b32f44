// Package appraisal holds what comes of the appraisal of evidence (RFC 9334
// section 7, attestation results): a list of checks, each passed, failed, missing
// or not run, and the facts that were learned. Every package that checks evidence
// writes to one [Sheet].
//
// It guarantees that every check which was announced is in the list once, so
// that a check which was forgotten shows as not run and the verdict is not
// "pass"; and that nothing passes by being absent: a sheet without a check that
// passed, and a verdict in JSON that does not say what it is, are no pass.
package appraisal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
)

// Result of a check, and of the whole.
type Result string

// The results. A check passes, fails, is missing or was not run; the whole passes,
// fails or is incomplete.
const (
	Pass Result = "pass"
	Fail Result = "fail"
	// Missing is a check that matters and could not be run, as something was not
	// given: a nonce, a reference value. One makes the whole incomplete.
	Missing Result = "missing"
	// NotRun is a check that does not apply, or that an earlier one has made void.
	NotRun Result = "not_run"
	// Incomplete is the whole of which nothing failed and something is missing.
	Incomplete Result = "incomplete"
)

// Question is what a check answers. Its code is in the registry of package fault.
// Its name is a sentence that is true when the check passes.
type Question struct {
	Code fault.Code
	Name string
}

// Check is a question with its answer. Detail says what was seen, and what to
// do if it failed or is missing.
type Check struct {
	Code   string `json:"code" jsonschema:"The code of the check."`
	Name   string `json:"name" jsonschema:"What is checked."`
	Result Result `json:"result" jsonschema:"What the check found. A check that is missing could not be run, as something was not given; one that is not run does not apply."`
	Detail string `json:"detail,omitempty" jsonschema:"What was found, in words."`
}

// Unsigned stands for the signer of a policy that nobody has signed.
const Unsigned = "unsigned"

// Under names the policy that evidence was appraised under.
type Under struct {
	Name    string `json:"name" jsonschema:"The name of the policy."`
	Version uint64 `json:"version" jsonschema:"The version of the policy."`
	// Digest is the SHA-256 of the policy's text, in hexadecimal.
	Digest string `json:"digest" jsonschema:"The SHA-256 of the text of the policy, in hexadecimal."`
	// Signer is the ID of the key that the policy is signed by, or [Unsigned].
	Signer string `json:"signer" jsonschema:"The ID of the key that the policy is signed by, or the word unsigned."`
	// Unproven are the words by which a policy is used that does not prove which code
	// runs; UnprovenBecause says why it does not, also of one without words.
	Unproven        string   `json:"unproven,omitempty" jsonschema:"The words by which the policy is used though it does not prove which code runs; absent without such words."`
	UnprovenBecause []string `json:"unproven_because,omitempty" jsonschema:"Why the policy does not prove which code runs; absent if it does."`
}

// String names the policy in one line.
func (u Under) String() string {
	by := Unsigned
	if u.Signer != Unsigned {
		by = "signed by " + u.Signer
	}
	return fmt.Sprintf("%s, version %d, %s, SHA-256 %s", u.Name, u.Version, by, u.Digest)
}

// Sheet collects checks and facts. The zero value is empty and ready.
type Sheet struct {
	checks []Check
	facts  map[string]any
	must   map[fault.Code]bool
	under  *Under
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

// Skip says that the questions do not apply here and need no answer, and why.
func (s *Sheet) Skip(why string, questions ...Question) { s.leave(NotRun, why, questions) }

// Missing says that the questions matter and cannot be answered, as something was
// not given: what, and how to give it.
func (s *Sheet) Missing(what string, questions ...Question) { s.leave(Missing, what, questions) }

// leave has the questions without an answer. One that has failed stays failed.
func (s *Sheet) leave(r Result, why string, questions []Question) {
	for _, q := range questions {
		delete(s.must, q.Code)
		if c := s.find(q.Code); c == nil || c.Result != Fail {
			s.set(q, r, sentence(why))
		}
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

// Under says which policy is appraised under.
func (s *Sheet) Under(u Under) { s.under = &u }

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
	Result Result         `json:"verdict" jsonschema:"The result of all checks together: incomplete if none failed, and something that matters was not given."`
	Policy *Under         `json:"policy,omitempty" jsonschema:"The policy that the evidence was appraised under."`
	Checks []Check        `json:"checks" jsonschema:"Each check with its result."`
	Facts  map[string]any `json:"facts" jsonschema:"What the evidence proves, by name."`
}

// Verdict sums up. It is fail if a check failed, if none passed, or if one that was
// announced has no answer; or else incomplete if one is missing; or else pass.
func (s *Sheet) Verdict() *Verdict {
	v := &Verdict{Result: Fail, Policy: s.under, Checks: slices.Clone(s.checks), Facts: s.facts}
	if v.Facts == nil {
		v.Facts = map[string]any{}
	}
	for _, c := range v.Checks {
		if c.Result == NotRun && s.must[fault.Code(c.Code)] {
			return v
		}
	}
	v.Result = sum(v.Checks)
	return v
}

// sum is what the checks come to, if none was left without an answer.
func sum(checks []Check) Result {
	has := func(r Result) bool {
		return slices.ContainsFunc(checks, func(c Check) bool { return c.Result == r })
	}
	switch {
	case has(Fail) || !has(Pass):
		return Fail
	case has(Missing):
		return Incomplete
	}
	return Pass
}

// UnmarshalJSON reads a verdict that another program gives. One that does not say
// what it is, or says better than its checks do, is refused.
func (v *Verdict) UnmarshalJSON(text []byte) error {
	type plain Verdict // without this method
	var read plain
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	for _, c := range read.Checks {
		if !slices.Contains([]Result{Pass, Fail, Missing, NotRun}, c.Result) {
			return fmt.Errorf("verdict: the check %.40q has the result %.40q", c.Code, c.Result)
		}
	}
	switch worst := sum(read.Checks); {
	case read.Result != Pass && read.Result != Incomplete && read.Result != Fail:
		return fmt.Errorf("verdict: it says %.40q, which is none of %q", read.Result, []Result{Pass, Incomplete, Fail})
	case read.Result != Fail && read.Result != worst:
		return fmt.Errorf("verdict: it says %q, and its checks come to %q", read.Result, worst)
	}
	*v = Verdict(read)
	return nil
}

// Failed gives the codes of the checks that failed, in order.
func (v *Verdict) Failed() []string { return v.with(Fail) }

// Lacks gives the codes of the checks that are missing, in order.
func (v *Verdict) Lacks() []string { return v.with(Missing) }

func (v *Verdict) with(r Result) []string {
	var codes []string
	for _, c := range v.Checks {
		if c.Result == r {
			codes = append(codes, c.Code)
		}
	}
	return codes
}

// Against gives the codes of the checks that keep the verdict from pass, with commas
// between: those that failed, or, if none did, those that are missing. It is empty for a
// verdict of which only the whole says why not.
func (v *Verdict) Against() string {
	if failed := v.Failed(); failed != nil || v.Result != Incomplete {
		return strings.Join(failed, ",")
	}
	return strings.Join(v.Lacks(), ",")
}

// Err gives nil if the verdict is pass, or else one line with the checks that keep it
// from that.
func (v *Verdict) Err() error {
	if v.Result == Pass {
		return nil
	}
	what, of := "refused", Fail
	if v.Result == Incomplete {
		what, of = "incomplete", Missing
	}
	var why []string
	for _, c := range v.Checks {
		if c.Result == of {
			why = append(why, c.Code+" ("+c.Detail+")")
		}
	}
	if why == nil {
		why = []string{"not every check could be run"}
	}
	return fmt.Errorf("the evidence is %s: %s", what, strings.Join(why, "; "))
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
