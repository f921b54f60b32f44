package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/launch"
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
	return cli.Group("config", "Work with configuration files", check, configShowCommand(a))
}

func configShowCommand(a *admin) *cobra.Command {
	var file, signature string
	var sources bool
	c := &cobra.Command{
		Use:   "show FILE [--launch FILE] [--sources]",
		Short: "Print a configuration as it is measured",
		Long: "Print a configuration as it is in force, without secrets; 0 and '' stand for defaults.\n" +
			"Its SHA-256 is what the appliance measures as \"configuration\", unless flags of serve change it.\n\n" +
			"With --launch it is the configuration of a machine with that launch file, which is measured by\n" +
			"its own digest. --sources prints each option with its value and where that is from.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			cfg, _, err := config.Load(args[0])
			if err == nil && file != "" {
				cfg, err = withLaunch(cfg, file, signature)
			}
			if err != nil {
				return err
			}
			if sources {
				return a.showOptions(cmd, cfg)
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
	c.Flags().StringVar(&file, "launch", "", "launch file, or user data, to put over the configuration")
	c.Flags().StringVar(&signature, "signature", "", "the signature of the launch file, which then must verify")
	c.Flags().BoolVar(&sources, "sources", false, "print each option with where its value is from")
	return c
}

// withLaunch puts a launch file over a configuration. Its certificates have the names of
// the files that a machine keeps them in.
func withLaunch(cfg *config.Config, file, signature string) (*config.Config, error) {
	if !cfg.Launch.Required {
		return nil, errors.New("the configuration takes no launch file: launch.required is not true there")
	}
	text, l, err := readLaunch(file, signature)
	if err != nil {
		return nil, err
	}
	f, err := launch.Parse(file, text)
	if err == nil && l != nil {
		f, err = launch.Take(file, l)
	}
	if err != nil {
		return nil, err
	}
	return f.Apply(file, cfg, func(name string, _ []byte) (string, error) { return cfg.LaunchCertificate(name), nil })
}

// showOptions prints each option with its source.
func (a *admin) showOptions(cmd *cobra.Command, cfg *config.Config) error {
	type option struct {
		Name   string `json:"name"`
		Value  string `json:"value"`
		Source string `json:"source"`
	}
	list := []option{}
	for _, o := range cfg.Options() {
		list = append(list, option(o))
	}
	return a.Show(cmd, list, func(w io.Writer) {
		for _, o := range list {
			cli.Row(w, o.Name, o.Value, o.Source)
		}
	})
}
