package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func clockCommand(a *admin) *cobra.Command {
	return cli.Group("clock", "Confirm the time that keys are destroyed by", clockConfirmCommand(a))
}

func clockConfirmCommand(a *admin) *cobra.Command {
	var in operation.PassedTime
	var at string
	c := a.asking("confirm --time TIME --reason TEXT", "Say that a time has passed, after the machine was off", func(cmd *cobra.Command, _ []string) error {
		var err error
		if in.Time, err = time.Parse(time.RFC3339, at); err != nil {
			return fault.Wrapf(fault.Invalid, err, "--time %.40q is no time; write it as 2026-11-27T10:00:00Z", at)
		}
		return call(a, cmd, operation.ConfirmTime, in, func(w io.Writer, s operation.ConfirmedTime) {
			cli.Row(w, "witnessed", cli.When(s.Witnessed))
			if s.Waits != "" {
				cli.Row(w, "waits", s.Waits)
			}
		})
	})
	c.Long = "Say that a time has passed, after the machine was off.\n" +
		"Keys pending deletion and audit records past their age wait until the time has passed by the wall clock and\n" +
		"by the machine's own clocks, which stand while it is off. Compare TIME with a clock that you trust:\n" +
		"keys that are due by then are destroyed within a minute, and records removed."
	c.Flags().StringVar(&at, "time", "", "the time that has passed, such as 2026-11-27T10:00:00Z")
	c.Flags().StringVar(&in.Reason, "reason", "", "why; the audit log has it")
	for _, name := range []string{"time", "reason"} {
		_ = c.MarkFlagRequired(name) // it exists: it was made above
	}
	return c
}
