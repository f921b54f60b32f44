package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func launchStatusCommand(a *admin) *cobra.Command {
	return a.asking("status", "Show the launch file of a machine, and the one of its next start", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowLaunch, operation.Nothing{}, showLaunchDetail)
	})
}

func launchInstallCommand(a *admin) *cobra.Command {
	return a.asking("install FILE", "Have a machine start with another launch file: the file that launch sign --user-data wrote", func(cmd *cobra.Command, args []string) error {
		document, err := cli.ReadInput(args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.InstallLaunch, operation.LaunchDocument{Document: string(document)}, showLaunchDetail)
	})
}

func showLaunchDetail(w io.Writer, d operation.LaunchDetail) {
	if !d.Required {
		cli.Row(w, "launch file", "this image asks for none")
		return
	}
	show := func(name string, f *operation.LaunchFile) {
		if f == nil {
			return
		}
		cli.Row(w, name, fmt.Sprintf("version %d, of the owner %s, SHA-256 %s", f.Version, f.Owner, f.SHA256))
		for _, says := range f.Sets {
			cli.Row(w, "sets", says)
		}
	}
	if d.InForce == nil {
		cli.Row(w, "in force", "none")
	}
	show("in force", d.InForce)
	show("at the next start", d.Next)
	if d.Why != "" {
		cli.Row(w, "does not count", d.Why)
	}
	if d.Ignored != "" {
		cli.Row(w, "ignored", d.Ignored)
	}
}
