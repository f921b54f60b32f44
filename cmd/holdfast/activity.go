package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/activity"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func activityCommand(a *admin) *cobra.Command {
	minutes := operation.Minutes{Minutes: 60}
	c := a.asking("activity [--minutes N]", "Show KMS's requests, errors and latency by the minute", func(cmd *cobra.Command, _ []string) error {
		return listCall(a, cmd, operation.ListActivity, minutes, func(w io.Writer, all []activity.Minute) {
			cli.Row(w, "MINUTE", "REQUESTS", "REFUSED", "FAILED", "P50 MS", "P99 MS", "OVER 250 MS")
			for _, m := range all {
				cli.Row(w, cli.When(m.Start), m.Requests, m.Refused, m.Failed, m.P50, m.P99, m.Slow)
			}
		})
	})
	cli.Between(c.Flags(), &minutes.Minutes, "minutes", "how many, the last one being the present", 1, 1440)
	return addPaging(c, &minutes.Paging, operation.ListActivity)
}
