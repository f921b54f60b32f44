package cli

import (
	"fmt"
	"strings"

	"holdfast/web/operation"
)

// mostTypos is how many letters a word may differ by from what was meant.
const mostTypos = 2

// didYouMean gives the part of an error that says which of the names was meant most
// likely, with what stands before a name. If none is near, it says what else helps.
func didYouMean(word, before string, names []string, otherwise string) string {
	best, distance := "", mostTypos+1
	for _, name := range names {
		d := operation.Typos(strings.ToLower(word), strings.ToLower(name))
		if word != "" && strings.HasPrefix(name, strings.ToLower(word)) {
			d = min(d, mostTypos) // it was not typed to the end
		}
		if d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	switch {
	case best == "" && otherwise == "":
		return ""
	case best == "":
		return "; " + otherwise
	}
	return fmt.Sprintf("; did you mean %q?", before+best)
}
