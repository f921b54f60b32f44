package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/identity"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func invitationCommand(a *admin) *cobra.Command {
	var page operation.InvitationPage
	return cli.Group("invitation", "Manage the invitations that nobody has used yet (holdfast user invite makes one)",
		addPaging(a.asking("list", "List the invitations that nobody has used yet", func(cmd *cobra.Command, _ []string) error {
			return listCall(a, cmd, operation.ListInvitations, page, showInvitations)
		}), &page.Paging, operation.ListInvitations),
		a.asking("show INVITATION", "Show an invitation that nobody has used yet", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.ShowInvitation, operation.InvitationName{Invitation: args[0]}, func(w io.Writer, i identity.Invitation) { showInvitations(w, []identity.Invitation{i}) })
		}),
		a.asking("revoke INVITATION", "Take an invitation back", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.RevokeInvitation, operation.InvitationName{Invitation: args[0]}, says[operation.Nothing]("invitation "+args[0]+" is taken back"))
		}))
}

func showInvitations(w io.Writer, all []identity.Invitation) {
	cli.Row(w, "INVITATION", "NAME", "ROLE", "INVITED BY", "GOOD UNTIL")
	for _, i := range all {
		cli.Row(w, i.ID, i.Name, i.Role, i.InvitedBy, cli.When(i.ExpiresAt))
	}
}
