package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	internal "github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// The limits of policies written by hand.
const (
	// MaxCedar is how many bytes they may have together.
	MaxCedar = 64 << 10
	// maxNesting bounds brackets in brackets: the validator's time grows with its
	// square.
	maxNesting = 50
)

// Parse reads Cedar policies that were written by hand, and holds them against
// [Schema]. Their IDs are "policy:" and the value of the annotation @id, or
// their number from 1 on. The error is one line with the place of the mistake.
func Parse(text string) ([]*Policy, error) {
	if len(text) > MaxCedar {
		return nil, fmt.Errorf("the policies have %d bytes; at most %d are supported", len(text), MaxCedar)
	}
	if at := tooDeep(blank(text, false)); at >= 0 {
		return nil, fmt.Errorf("%s: brackets are nested more than %d deep", place(text, at), maxNesting)
	}
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		return nil, parseError(err)
	}
	var policies []*Policy
	seen := map[string]bool{}
	for i, c := range list {
		begin, end := c.Position().Offset, len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		id := fmt.Sprint(i + 1)
		if name, ok := c.Annotations()["id"]; ok {
			id = string(name)
			if !policyName.MatchString(id) {
				return nil, fmt.Errorf("%s: @id(%q): use 1 to 64 letters, digits, '.', '_' and '-'", place(text, begin), id)
			}
		}
		if seen[id] {
			return nil, fmt.Errorf("%s: two policies are called %q", place(text, begin), id)
		}
		seen[id] = true
		if err := validator().Policy(id, (*internal.Policy)(c.AST())); err != nil {
			return nil, schemaError(err, id, text, begin, end)
		}
		policies = append(policies, compiled("policy:"+id, c))
	}
	return policies, nil
}

var policyName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

var validator = sync.OnceValue(func() *validate.Validator {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(Schema)); err != nil {
		panic(err) // the text is of this package
	}
	resolved, err := s.Resolve()
	if err != nil {
		panic(err)
	}
	return validate.New(resolved)
})

// place says where in the text the byte is, for people.
func place(text string, at int) string {
	at = min(at, len(text))
	line := strings.Count(text[:at], "\n") + 1
	column := at - strings.LastIndexByte(text[:at], '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}

var inputPlace = regexp.MustCompile(`<input>:(\d+):(\d+):? ?`)

// parseError puts the parser's error into one line that begins with the place.
func parseError(err error) error {
	message := oneLine(strings.TrimPrefix(err.Error(), "parser error: "))
	at := inputPlace.FindStringSubmatch(message)
	if at == nil {
		return fmt.Errorf("the policies cannot be read as Cedar: %s", message)
	}
	message = strings.TrimPrefix(strings.Replace(message, at[0], "", 1), "parse error at ")
	return fmt.Errorf("line %s, column %s: %s", at[1], at[2], message)
}

var quoted = regexp.MustCompile("`([^`]+)`")

// schemaError puts the validator's error into one line. The validator does not
// say where in the policy: it is where what it names stands first.
func schemaError(err error, id, text string, begin, end int) error {
	prefix := "for policy `" + id + "`, "
	lines := strings.Split(err.Error(), "\n")
	slices.Sort(lines)                                   // they come in any order
	slices.SortStableFunc(lines, func(a, b string) int { // what names something says more
		return strings.Count(b, "`") - strings.Count(a, "`")
	})
	message := oneLine(strings.TrimPrefix(lines[0], prefix))
	at := begin
	if name := quoted.FindStringSubmatch(message); name != nil {
		whole := regexp.MustCompile(`(^|[^A-Za-z0-9_])(` + regexp.QuoteMeta(name[1]) + `)($|[^A-Za-z0-9_])`)
		if found := whole.FindStringSubmatchIndex(blank(text, true)[begin:end]); found != nil {
			at = begin + found[4]
		}
	}
	return fmt.Errorf("%s: %s", place(text, at), message)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

// tooDeep gives the place of the bracket that is nested too deep, or -1.
func tooDeep(bare string) int {
	depth := 0
	for i := range len(bare) {
		switch bare[i] {
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return i
			}
		case ')', ']', '}':
			depth--
		}
	}
	return -1
}

// blank puts spaces in the place of comments, and of texts if they are not to
// be kept.
func blank(text string, keepTexts bool) string {
	out := []byte(text)
	erase := func(from, to int) {
		for i := from; i < min(to, len(out)); i++ {
			out[i] = ' '
		}
	}
	for i := 0; i < len(text); i++ {
		begin := i
		switch {
		case text[i] == '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if !keepTexts {
				erase(begin, i+1)
			}
		case strings.HasPrefix(text[i:], "//"):
			for i < len(text) && text[i] != '\n' {
				i++
			}
			erase(begin, i)
		}
	}
	return string(out)
}
