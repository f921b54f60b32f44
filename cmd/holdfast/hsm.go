package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func hsmCommand(a *admin) *cobra.Command {
	return cli.Group("hsm", "Look after the HSMs",
		a.asking("probe", "Have each HSM do its test operation now", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.ProbeHSMs, operation.Nothing{}, showHSMs)
		}))
}

func showHSMs(w io.Writer, all []appliance.HSMHealth) {
	for _, h := range all {
		cli.Row(w, "HSM "+h.Label, string(h.Status)+" (serial "+cli.OrDash(h.Serial)+", probe "+took(h.Took)+")")
		if h.Error != "" {
			cli.Row(w, "", h.Error)
		}
	}
}
