package cli

import (
	"fmt"
	"strings"
)

// mostTypos is how many letters a word may differ by from what was meant.
const mostTypos = 2

// didYouMean gives the part of an error that says which of the names was meant most
// likely, with what stands before a name. If none is near, it says what else helps.
func didYouMean(word, before string, names []string, otherwise string) string {
	best, distance := "", mostTypos+1
	for _, name := range names {
		d := typos(strings.ToLower(word), strings.ToLower(name))
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

// typos is how many letters must be put in, left out or replaced to make b of a
// (Levenshtein's distance).
func typos(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, replaced)
		}
	}
	return row[len(b)]
}
