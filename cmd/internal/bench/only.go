package main

import (
	"fmt"
	"slices"
	"strings"
)

// What can be measured alone. A word of --only is one of these.
const (
	partHandlers = "handlers" // what a request costs in the handler alone
	partDisk     = "disk"     // single writes to the disk
	partClosed   = "closed"   // closed loops
	partOpen     = "open"     // the open loop
	partKeys     = "keys"     // starts and throughput with few and many keys
	partRandom   = "random"   // keys drawn at random from among all

	placeDurable = "durable" // Holdfast with its state on the disk
	placeTmpfs   = "tmpfs"   // Holdfast with its state in memory
	placeFar     = "far"     // Holdfast with its token some time away
	placeBeside  = "beside"  // the program of --beside
	placeAgainst = "against" // the proxies of --against
)

// dimensions are the words by what they choose from. Words of one dimension add up;
// a dimension without a word is measured whole.
var dimensions = [][]string{
	{partHandlers, partDisk, partClosed, partOpen, partKeys, partRandom},
	{placeDurable, placeTmpfs, placeFar, placeBeside, placeAgainst},
	{"cached", "hsm"},
	{"encrypt", "decrypt"},
}

// words lists the words of --only.
func words() string { return strings.Join(slices.Concat(dimensions...), ", ") }

// only is a choice of measurements; all of them if it is empty.
type only []string

func parseOnly(text string) (only, error) {
	if text == "" {
		return nil, nil
	}
	var o only
	for word := range strings.SplitSeq(text, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		if !slices.ContainsFunc(dimensions, func(d []string) bool { return slices.Contains(d, word) }) {
			return nil, fmt.Errorf("--only %s: %q is none of %s", text, word, words())
		}
		o = append(o, word)
	}
	// Who chooses requests wants their loads.
	if !slices.ContainsFunc(o, func(word string) bool { return slices.Contains(dimensions[0], word) }) {
		o = append(o, partDisk, partClosed, partOpen)
	}
	return o, nil
}

// has is whether a measurement is chosen that all these words are about.
func (o only) has(words ...string) bool {
	for _, word := range words {
		word = strings.ToLower(word)
		for _, d := range dimensions {
			if slices.Contains(d, word) && slices.ContainsFunc(o, func(w string) bool { return slices.Contains(d, w) }) && !slices.Contains(o, word) {
				return false
			}
		}
	}
	return true
}
