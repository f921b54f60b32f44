package authz

import (
	"strings"
	"unicode/utf8"
)

// hasWildcard says whether the text is a pattern, as in IAM: "*" stands for any
// characters, also none, and "?" for one.
func hasWildcard(s string) bool { return strings.ContainsAny(s, "*?") }

// match says whether the whole text is as the pattern. It takes at most
// len(pattern) * len(s) steps.
func match(pattern, s string) bool {
	star, from := -1, 0 // after the last "*", and where in s it was tried last
	p, i := 0, 0
	for i < len(s) {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p+1, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p, i = p+1, i+size
		case p < len(pattern) && pattern[p] == s[i]:
			p, i = p+1, i+1
		case star >= 0:
			_, size := utf8.DecodeRuneInString(s[from:])
			from += size
			p, i = star, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// affix is what a text that matches a pattern begins and ends with.
type affix struct{ prefix, suffix string }

func affixOf(pattern string) affix {
	return affix{pattern[:strings.IndexAny(pattern, "*?")], pattern[strings.LastIndexAny(pattern, "*?")+1:]}
}

// arn is the parts of an ARN.
type arn struct{ partition, service, region, account, resource string }

// splitARN takes an ARN, or a pattern of one, into its parts.
func splitARN(s string) (a arn, ok bool) {
	s, ok = strings.CutPrefix(s, "arn:")
	for _, part := range []*string{&a.partition, &a.service, &a.region, &a.account} {
		if ok {
			*part, s, ok = strings.Cut(s, ":")
		}
	}
	a.resource = s
	return a, ok
}

func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}
