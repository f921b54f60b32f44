// Package holdfastd is the commands of the program holdfastd, which is what runs on
// machines: the appliance, the broker, and what opens the state volume. It is apart
// from the program so that tests of both programs can run it.
package holdfastd

import (
	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/modules"
	"holdfast/cmd/internal/restore"
)

// New makes the program's root command.
func New() *cobra.Command {
	a := &cli.Admin{}
	root := &cobra.Command{
		Use:   "holdfastd",
		Short: "An external key store for AWS KMS: what runs on machines",
		Long: "Holdfast answers AWS KMS's external key store (XKS) requests with keys that\n" +
			"rest wrapped under the master key of your HSM. This program is the appliance, and\n" +
			"the broker that releases the HSM's PIN. holdfast is the tool that administers them.",
	}
	a.AddFlag(root)
	root.AddCommand(serveCommand(a), brokerCommand(a), volumeCommand(a), capCommand(a), stateCommand(a), hsmCommand(a), restore.Command(a), modules.Command(), modules.Manager())
	cli.Complete(root)
	return root
}
