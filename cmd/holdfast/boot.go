package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func bootCommand(a *admin) *cobra.Command {
	return cli.Group("boot", "Look at how the appliance booted",
		a.asking("steps", "List the steps of this boot and of earlier ones, the newest first", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.ListBootSteps, operation.Nothing{}, func(w io.Writer, steps []progress.Step) {
				cli.Row(w, "BOOT", "STEP", "STATE", "BEGAN", "TOOK", "CODE", "REASON")
				for _, s := range steps {
					cli.Row(w, s.Boot, s.Seq, s.State, cli.When(s.Began), took(s.Took), cli.OrDash(s.Code), s.Reason)
				}
			})
		}))
}
