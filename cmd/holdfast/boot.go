package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func bootCommand(a *admin) *cobra.Command {
	var page operation.BootStepPage
	return cli.Group("boot", "Look at how the appliance booted",
		addPaging(a.asking("steps", "List the steps of this boot and of earlier ones, the newest first", func(cmd *cobra.Command, _ []string) error {
			return listCall(a, cmd, operation.ListBootSteps, page, func(w io.Writer, steps []progress.Step) {
				cli.Row(w, "BOOT", "STEP", "STATE", "BEGAN", "TOOK", "CODE", "REASON")
				for _, s := range steps {
					cli.Row(w, s.Boot, s.Seq, s.State, cli.When(s.Began), took(s.Took), cli.OrDash(s.Code), s.Reason)
				}
			})
		}), &page.Paging, operation.ListBootSteps))
}
