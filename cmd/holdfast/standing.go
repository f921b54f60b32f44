package main

import (
	"strings"

	"holdfast/appliance"
)

// standingWord says in few words whether something serves, and if it is blocked, what decides.
func standingWord(s appliance.Standing) string {
	word := strings.ReplaceAll(string(s.State), "_", " ")
	if s.State == appliance.StandingBlocked {
		word += " (" + strings.ReplaceAll(string(s.Decides), "_", " ") + ")"
	}
	if word == "" {
		return "-"
	}
	return word
}

// standingLine says it in a sentence.
func standingLine(s appliance.Standing) string {
	if s.Says == "" {
		return standingWord(s)
	}
	return standingWord(s) + ": " + s.Says
}
