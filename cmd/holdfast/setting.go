package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance/approval"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func settingCommand(a *admin) *cobra.Command {
	return cli.Group("setting", "See, change and repair what can be changed while the appliance runs", settingShowCommand(a), settingSetCommand(a), settingDiscardCommand(a))
}

func settingShowCommand(a *admin) *cobra.Command {
	return a.asking("show", "Show the settings, and the configuration in force", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowSettings, operation.Nothing{}, func(w io.Writer, s *operation.SettingsDetail) {
			showSettings(w, &s.Settings)
			cli.Row(w, "")
			cli.Row(w, "The configuration, which is measured, and which the configuration file changes:")
			cli.Row(w, strings.TrimRight(s.Configuration, "\n"))
		})
	})
}

func showSettings(w io.Writer, s *operation.Settings) {
	cli.Row(w, "need a second person", cli.OrDash(strings.Join(s.FourEyes, ", ")))
	cli.Row(w, "hours until a request expires", s.ApprovalHours)
}

func settingSetCommand(a *admin) *cobra.Command {
	var operations string
	var none bool
	want := operation.Settings{FourEyes: []string{}}
	c := a.asking("set [--four-eyes OPERATION,... | --no-four-eyes] [--approval-hours HOURS]", "Choose which operations need a second person, and how long requests wait", func(cmd *cobra.Command, _ []string) error {
		switch {
		case operations != "":
			want.FourEyes = strings.Split(operations, ",")
		case !none:
			now, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowSettings, operation.Nothing{})
			if err != nil {
				return err
			}
			want.FourEyes = now.Out.FourEyes
		}
		return call(a, cmd, operation.SetSettings, want, showSettings)
	})
	c.Long = "Choose which operations need a second person. The list replaces the one before. Once any\n" +
		"operation needs a second person, a change of this list needs one as well, unless root makes it\n" +
		"at the socket."
	var approvable []string
	for _, r := range operation.Table() {
		if r.Guards().FourEyes {
			approvable = append(approvable, r.ID)
		}
	}
	cli.SomeOf(c.Flags(), &operations, "four-eyes", "operations that need a second person", approvable...)
	c.Flags().BoolVar(&none, "no-four-eyes", false, "no operation needs a second person")
	cli.Between(c.Flags(), &want.ApprovalHours, "approval-hours", "how many hours a request for approval waits; those that are there keep their time", approval.LeastHours, approval.MostHours)
	c.MarkFlagsOneRequired("four-eyes", "no-four-eyes", "approval-hours")
	c.MarkFlagsMutuallyExclusive("four-eyes", "no-four-eyes")
	return c
}
