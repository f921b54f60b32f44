package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func notifyCommand(a *admin) *cobra.Command {
	return cli.Group("notify", "See whether notices of requests for approval arrive", notifyTestCommand(a))
}

func notifyTestCommand(a *admin) *cobra.Command {
	c := a.asking("test", "Send a test notice by each way that the configuration has", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.TestNotices, operation.Nothing{}, func(w io.Writer, t operation.TestedNotices) {
			cli.Row(w, "WAY", "TO", "TAKEN", "WHY NOT")
			for _, n := range t.Notices {
				cli.Row(w, n.Way, cli.OrDash(n.To), yes(n.Taken), cli.OrDash(n.Error))
			}
		})
	})
	c.Long = "Send a test notice by each way that the configuration has ([notify.smtp], [notify.webhook]),\n" +
		"to the addresses of the configuration and to the one of your own user. It is sent at once and\n" +
		"once. That a mail server has taken it does not mean that it was delivered: look for it."
	return c
}
