// Command holdfast is the operator's, officer's and auditor's tool: it administers an
// appliance over its admin socket or from elsewhere, administers a broker, checks any
// XKS proxy from outside, and verifies evidence and audit logs offline. holdfastd is
// the appliance.
//
// It exits 0 when the work is done, 1 when it was refused or failed, and 2 when
// the call itself is unusable.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"holdfast/attest"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/restore"
)

func main() { os.Exit(cli.Run(newRoot())) }

// admin is what the commands share.
type admin struct {
	cli.Admin
	// roots are those of a simulated machine, in tests alone: no flag and no file gives them.
	roots *attest.Roots
}

func newRoot() *cobra.Command { return newRootOf(&admin{Admin: cli.Admin{Elsewhere: true}}) }

func newRootOf(a *admin) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "An external key store for AWS KMS: the tool of its operators and auditors",
		Long: "Holdfast answers AWS KMS's external key store (XKS) requests with keys that\n" +
			"rest wrapped under the master key of your HSM. This tool administers an appliance,\n" +
			"and verifies what it proves. holdfastd is the appliance itself.",
	}
	a.AddFlag(root)
	root.AddCommand(
		configCommand(a),
		checkCommand(a),
		statusCommand(a),
		activityCommand(a),
		bootCommand(a),
		hsmCommand(a),
		attestCommand(a),
		sealCommand(a),
		pinCommand(a),
		keyStoreCommand(a),
		credentialCommand(a),
		keyCommand(a),
		grantCommand(a),
		auditCommand(a),
		backupCommand(a),
		restore.Command(&a.Admin),
		blockCommand(a),
		unblockCommand(a),
		dependentsCommand(a),
		verifyCommand(a),
		watchCommand(a),
		userCommand(a),
		invitationCommand(a),
		sessionCommand(a),
		fleetCommand(a),
		tokenCommand(a),
		accountCommand(a),
		approvalCommand(a),
		installationCommand(a),
		clockCommand(a),
		settingCommand(a),
		notifyCommand(a),
		stateCommand(a),
		admissionCommand(a),
		certificateCommand(a),
		openAPICommand(a),
		policyCommand(a),
		launchCommand(a),
		brokerCommand(a),
	)
	cli.Complete(root)
	// Only when a shell asks: it is half of the work of building the tree, and cobra keeps what it
	// is told of flags as long as the process lives.
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if cmd.Name() == cobra.ShellCompRequestCmd {
			addCompletion(a, root)
		}
	}
	return root
}
