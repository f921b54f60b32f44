package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/identity"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func sessionCommand(a *admin) *cobra.Command {
	var page operation.SessionPage
	return cli.Group("session", "Manage the sessions of the console's users (holdfast user sign-out ends all of one user)",
		addPaging(a.asking("list", "List the sessions of all users", func(cmd *cobra.Command, _ []string) error {
			return listCall(a, cmd, operation.ListSessions, page, showSessions)
		}), &page.Paging, operation.ListSessions),
		a.asking("show SESSION", "Show a session", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.ShowSession, operation.SessionName{Session: args[0]}, func(w io.Writer, s identity.Session) { showSessions(w, []identity.Session{s}) })
		}),
		a.asking("end SESSION", "End a session", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.RevokeSession, operation.SessionName{Session: args[0]}, says[operation.Nothing]("session "+args[0]+" is ended"))
		}))
}

func showSessions(w io.Writer, all []identity.Session) {
	cli.Row(w, "SESSION", "USER", "ADDRESS", "SINCE", "LAST SEEN", "BROWSER")
	for _, s := range all {
		cli.Row(w, s.ID, s.UserName, s.Address, cli.When(s.CreatedAt), cli.When(s.LastSeenAt), s.UserAgent)
	}
}
