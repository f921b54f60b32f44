package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func accountCommand(a *admin) *cobra.Command {
	return a.asking("account", "Show who calls, and what their role may do", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowAccount, operation.Nothing{}, func(w io.Writer, who *operation.Account) {
			cli.Row(w, "name", who.Name)
			cli.Row(w, "role", who.Role)
			for _, c := range who.Capabilities {
				cli.Row(w, "may", c)
			}
		})
	})
}
