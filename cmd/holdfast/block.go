package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func blockCommand(a *admin) *cobra.Command {
	var reason string
	var everything bool
	c := a.asking("block {KEYSTORE [KEYID] | --everything} --reason TEXT", "Take a key, a key store or everything out of service at once", func(cmd *cobra.Command, args []string) error {
		t := blockTarget(everything, args)
		return call(a, cmd, operation.Block, operation.NewBlock{BlockTarget: t, Reason: reason}, func(w io.Writer, b operation.Blocked) {
			cli.Row(w, t.String()+" is "+blocked(b.Block))
		})
	})
	c.Long = "Take a key, a key store, or with --everything all key stores out of service. When the\n" +
		"command returns, no new request uses a key of it, and its unlocked keys are wiped.\n" +
		"It holds over a restart, until holdfast unblock takes it back."
	c.Flags().BoolVar(&everything, "everything", false, "block all keys of all key stores")
	c.Flags().StringVar(&reason, "reason", "", "why; status and lists show it")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
	return c
}

func unblockCommand(a *admin) *cobra.Command {
	var everything bool
	c := a.asking("unblock {KEYSTORE [KEYID] | --everything}", "Take back a block of a key, a key store or everything", func(cmd *cobra.Command, args []string) error {
		t := blockTarget(everything, args)
		return call(a, cmd, operation.Unblock, t, says[appliance.BlockTarget](t.String()+" is not blocked any more"))
	})
	c.Long = "Take back a block. Other blocks remain: a key does not serve while its key store,\n" +
		"or everything, is blocked."
	c.Flags().BoolVar(&everything, "everything", false, "take back the block of everything")
	return c
}

func blockTarget(everything bool, args []string) appliance.BlockTarget {
	t := appliance.BlockTarget{Everything: everything}
	for i, into := range []*string{&t.KeyStore, &t.KeyID} {
		if i < len(args) {
			*into = args[i]
		}
	}
	return t
}

// blocked says a block in a line, or a dash for none.
func blocked(b appliance.Block) string {
	if b.IsZero() {
		return "-"
	}
	by := ""
	if b.By != "" {
		by = " by " + b.By
	}
	return "blocked since " + cli.When(b.Since) + by + ": " + b.Reason
}
