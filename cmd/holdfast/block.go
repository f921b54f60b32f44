package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/web"
)

func blockCommand(a *admin) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "block [KEYSTORE [KEYID]] --reason TEXT",
		Short: "Take a key, a key store or everything out of service at once",
		Long: "Take a key, a key store, or without arguments everything out of service. When the\n" +
			"command returns, no new request uses a key of it, and its unlocked keys are wiped.\n" +
			"It holds over a restart, until holdfast unblock takes it back.",
		Args: cobra.MaximumNArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			t := blockTarget(args)
			var b appliance.Block
			if err := a.client().Do(cmd.Context(), http.MethodPost, "block", web.Block{BlockTarget: t, Reason: reason}, &b); err != nil {
				return err
			}
			return a.show(cmd, b, func(w io.Writer) { row(w, t.String()+" is "+blocked(b)) })
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why; status and lists show it")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
	return c
}

func unblockCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use:   "unblock [KEYSTORE [KEYID]]",
		Short: "Take back a block of a key, a key store or everything",
		Long: "Take back a block. What is blocked besides remains so: a key does not serve while\n" +
			"its key store, or everything, is blocked.",
		Args: cobra.MaximumNArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			t := blockTarget(args)
			if err := a.client().Do(cmd.Context(), http.MethodPost, "unblock", t, nil); err != nil {
				return err
			}
			return a.show(cmd, struct{}{}, func(w io.Writer) { row(w, t.String()+" is not blocked any more") })
		}),
	}
}

func blockTarget(args []string) (t appliance.BlockTarget) {
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
	return "blocked since " + when(b.Since) + ": " + b.Reason
}
