package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func blockCommand(a *admin) *cobra.Command {
	var reason string
	var everything bool
	c := &cobra.Command{
		Use:   "block {KEYSTORE [KEYID] | --everything} --reason TEXT",
		Short: "Take a key, a key store or everything out of service at once",
		Long: "Take a key, a key store, or with --everything all key stores out of service. When the\n" +
			"command returns, no new request uses a key of it, and its unlocked keys are wiped.\n" +
			"It holds over a restart, until holdfast unblock takes it back.",
		Args: blockArguments(&everything),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			t := blockTarget(everything, args)
			var b appliance.Block
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "block", web.Block{BlockTarget: t, Reason: reason}, &b); err != nil {
				return err
			}
			return a.Show(cmd, b, func(w io.Writer) { cli.Row(w, t.String()+" is "+blocked(b)) })
		}),
	}
	c.Flags().BoolVar(&everything, "everything", false, "block all keys of all key stores")
	c.Flags().StringVar(&reason, "reason", "", "why; status and lists show it")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
	return c
}

func unblockCommand(a *admin) *cobra.Command {
	var everything bool
	c := &cobra.Command{
		Use:   "unblock {KEYSTORE [KEYID] | --everything}",
		Short: "Take back a block of a key, a key store or everything",
		Long: "Take back a block. Other blocks remain: a key does not serve while its key store,\n" +
			"or everything, is blocked.",
		Args: blockArguments(&everything),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			t := blockTarget(everything, args)
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "unblock", t, nil); err != nil {
				return err
			}
			return a.Show(cmd, struct{}{}, func(w io.Writer) { cli.Row(w, t.String()+" is not blocked any more") })
		}),
	}
	c.Flags().BoolVar(&everything, "everything", false, "take back the block of everything")
	return c
}

// blockArguments checks that a target is named in one of the two ways: without a
// name, everything has to be said.
func blockArguments(everything *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && !*everything:
			return fmt.Errorf("%s: name a KEYSTORE, a KEYSTORE and a KEYID, or say --everything", cmd.CommandPath())
		case len(args) > 0 && *everything:
			return fmt.Errorf("%s: name a KEYSTORE or say --everything, not both", cmd.CommandPath())
		}
		return cobra.MaximumNArgs(2)(cmd, args)
	}
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
	return "blocked since " + cli.When(b.Since) + ": " + b.Reason
}
