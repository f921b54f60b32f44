package main

import (
	"errors"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/cli"
)

func configCommand(a *admin) *cobra.Command {
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Say all that is wrong with a configuration file",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			_, warnings, err := config.Load(args[0])
			problems := warnings
			if err != nil && !errors.As(err, &problems) {
				return err // it could not be read
			}
			if a.JSON {
				if problems == nil {
					problems = config.Problems{}
				}
				if err := a.PrintJSON(cmd, problems); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					cli.Row(cmd.OutOrStdout(), p)
				}
				if err == nil {
					cli.Row(cmd.OutOrStdout(), args[0]+": usable")
				}
			}
			if err != nil {
				return cli.ErrReported
			}
			return nil
		}),
	}
	show := &cobra.Command{
		Use:   "show FILE",
		Short: "Print a configuration as it is measured",
		Long: "Print a configuration as it is in force, without secrets; 0 and '' stand for defaults.\n" +
			"Its SHA-256 is what the appliance measures as \"configuration\", unless flags of serve change it.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			cfg, _, err := config.Load(args[0])
			if err != nil {
				return err
			}
			text, err := cfg.Effective()
			if err != nil {
				return err
			}
			if a.JSON {
				return a.PrintJSON(cmd, map[string]string{"configuration": string(text)})
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		}),
	}
	return cli.Group("config", "Work with configuration files", check, show)
}
