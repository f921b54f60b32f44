package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func installationCommand(a *admin) *cobra.Command {
	return cli.Group("installation", "See which copy of its installation the appliance is, and decide which one counts",
		installationShowCommand(a), installationTakeoverCommand(a), installationBeginCommand(a))
}

func installationShowCommand(a *admin) *cobra.Command {
	return a.asking("show", "Show which copy of its installation the appliance is", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowInstallation, operation.Nothing{}, showInstallation)
	})
}

// installationDecision makes a command that decides about a copy, for a reason.
func installationDecision(a *admin, use, short, long string, o *operation.Operation[operation.Decision, operation.Decided]) *cobra.Command {
	var in operation.Decision
	c := a.asking(use+" --reason TEXT", short, func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, o, in, func(w io.Writer, d operation.Decided) { showInstallation(w, d.InstallationState) })
	})
	c.Long = short + ".\n" + long
	addReason(c, &in.Reason)
	return c
}

func addReason(c *cobra.Command, reason *string) {
	c.Flags().StringVar(reason, "reason", "", "why; the audit log has it")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
}

func installationTakeoverCommand(a *admin) *cobra.Command {
	return installationDecision(a, "takeover", "Make this copy of the installation the one that counts",
		"The HSM names it as the owner from then on. Every other copy destroys nothing in the HSM any more,\n"+
			"and is locked when it starts next (E_STATE_SUPERSEDED). Stop the other copies before.",
		operation.TakeOverInstallation)
}

func installationBeginCommand(a *admin) *cobra.Command {
	const short = "Begin a new installation in an appliance that is locked by E_STATE_MISSING"
	var in operation.Beginning
	c := a.asking("begin --reason TEXT [--admission DIGEST]", short, func(cmd *cobra.Command, _ []string) (err error) {
		if in.Admission, err = a.confirmed(cmd, in.Admission, true); err != nil {
			return err
		}
		return call(a, cmd, operation.BeginInstallation, in, func(w io.Writer, d operation.Decided) { showInstallation(w, d.InstallationState) })
	})
	c.Long = short + ".\n" +
		"The database has no installation, and the HSM or the audit log has traces of one. If that one is lost,\n" +
		"restore a backup instead: holdfast restore FILE. What the HSM has stays as it is.\n" + admissionAsked
	addReason(c, &in.Reason)
	addAdmission(c, &in.Admission)
	return c
}

func showInstallation(w io.Writer, s appliance.InstallationState) {
	cli.Row(w, "installation", cli.OrDash(s.ID))
	cli.Row(w, "ownership", cli.OrDash(string(s.Ownership)))
	cli.Row(w, "incarnation", cli.OrDash(s.Incarnation))
	cli.Row(w, "epoch", s.Epoch)
	if s.Detail != "" {
		cli.Row(w, "because", s.Detail)
	}
}
