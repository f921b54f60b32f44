package main

import (
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
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

// standingFlag adds the flag of the list's parameter by which only things that stand so are listed.
func standingFlag[State ~string, In, Item any](c *cobra.Command, into *State, things string, o *operation.Operation[In, operation.List[Item]]) {
	for _, q := range o.Query {
		if q.Name != "standing" {
			continue
		}
		var states []State
		for _, s := range q.Enum {
			states = append(states, State(s))
		}
		cli.OneOf(c.Flags(), into, q.Name, "only "+things+" with this standing", states...)
	}
}

// standingLine says it in a sentence.
func standingLine(s appliance.Standing) string {
	if s.Says == "" {
		return standingWord(s)
	}
	return standingWord(s) + ": " + s.Says
}
