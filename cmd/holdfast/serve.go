package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/logging"
)

func serveCommand() *cobra.Command {
	var file string
	var o overrides
	c := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the appliance",
		Args:  cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (TOML)")
	o.add(f)
	_ = c.MarkFlagRequired("config") // it exists: it was made above
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		cfg, warnings, err := config.Load(file)
		for _, w := range warnings {
			if err == nil {
				fmt.Fprintln(os.Stderr, w)
			}
		}
		if err != nil {
			return err
		}
		o.apply(cfg)
		override(&cfg.Admin.Socket, changedFlag(cmd, "socket"))
		if err := cfg.Complete(); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		log := logging.New(cfg.Log, os.Stderr, os.Stdout)
		defer log.Close()
		return daemon.Run(cmd.Context(), daemon.Options{Config: cfg, Log: log.Logger, Requests: log.Requests, LogDropped: log.Dropped, Setup: func(code, file, url string) {
			fmt.Fprintln(cmd.ErrOrStderr(), welcome(code, file, cmp.Or(url, "https://this machine"+cfg.Admin.Address)))
		}})
	})
	return c
}

// welcome says how the first administrator comes in.
func welcome(code, file, url string) string {
	if code == "" {
		return "Nobody can sign in to the console yet. The setup code is the one whose hash was given at launch. Console: " + url
	}
	return fmt.Sprintf("Nobody can sign in to the console yet. The setup code for the first administrator is\n\n    %s\n\nIt is in %s as well. Console: %s", code, file, url)
}

// overrides are the flags that stand for settings of the file. So a file that
// holds nothing but the section [aws_xks_config] serves as well.
type overrides struct {
	xksAddr, adminAddr, stateDir   string
	module, tokenLabel             string
	certificate, certificateKeyPEM string
	policy, policyKey, tpm, log    string
	authorizations, sealKey        string
}

func (o *overrides) add(f *pflag.FlagSet) {
	f.StringVar(&o.xksAddr, "xks-addr", "", "listen here for AWS KMS, instead of xks.address")
	f.StringVar(&o.adminAddr, "admin-addr", "", "listen here for administrators, instead of admin.address")
	f.StringVar(&o.stateDir, "state-dir", "", "folder of the database, instead of state.dir")
	f.StringVar(&o.module, "hsm-module", "", "PKCS#11 library, instead of hsm.module")
	f.StringVar(&o.tokenLabel, "token-label", "", "token, instead of hsm.token_label")
	f.StringVar(&o.certificate, "tls-cert", "", "certificate (PEM), instead of xks.certificate")
	f.StringVar(&o.certificateKeyPEM, "tls-key", "", "its private key (PEM), instead of xks.key")
	f.StringVar(&o.policy, "policy", "", "signed appraisal policy, instead of attestation.policy")
	f.StringVar(&o.policyKey, "policy-key", "", "public key (PEM) that signs it, instead of attestation.policy_key")
	f.StringVar(&o.tpm, "tpm", "", "TPM, instead of attestation.tpm")
	f.StringVar(&o.log, "event-log", "", "the firmware's event log, instead of attestation.event_log")
	f.StringVar(&o.authorizations, "authorizations", "", "signed PCR policies, instead of release.authorizations")
	f.StringVar(&o.sealKey, "seal-key", "", "public key (PEM) that signs them, instead of release.seal_key")
}

func (o *overrides) apply(c *config.Config) {
	override(&c.XKS.Address, o.xksAddr)
	override(&c.Admin.Address, o.adminAddr)
	override(&c.State.Dir, o.stateDir)
	override(&c.HSM.Module, o.module)
	override(&c.HSM.TokenLabel, o.tokenLabel)
	if o.tokenLabel != "" {
		c.HSM.TokenSerial = "" // one of them selects the token
	}
	override(&c.XKS.Certificate, o.certificate)
	override(&c.XKS.Key, o.certificateKeyPEM)
	override(&c.Attestation.Policy, o.policy)
	override(&c.Attestation.PolicyKey, o.policyKey)
	override(&c.Attestation.TPM, o.tpm)
	override(&c.Attestation.EventLog, o.log)
	override(&c.Release.Authorizations, o.authorizations)
	override(&c.Release.SealKey, o.sealKey)
}

func override(setting *string, flag string) {
	if flag != "" {
		*setting = flag
	}
}

// changedFlag gives a flag's value if it was given.
func changedFlag(cmd *cobra.Command, name string) string {
	if f := cmd.Flag(name); f != nil && f.Changed {
		return f.Value.String()
	}
	return ""
}

// maxSecretFile bounds what is read of a file with a secret.
const maxSecretFile = 4096

// readSecretFile reads a secret from a file that only its owner may read, up to
// the end of the line.
func readSecretFile(what, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: %s holds a secret and others than its owner may read it (mode %04o): chmod 600 it", what, path, mode)
	}
	return readSecret(what+": "+path, f)
}

// readSecret reads a secret up to the end of the line.
func readSecret(what string, r io.Reader) ([]byte, error) {
	secret, err := io.ReadAll(io.LimitReader(r, maxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(secret) > maxSecretFile {
		clear(secret)
		return nil, fmt.Errorf("%s has more than %d bytes", what, maxSecretFile)
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) == 0 {
		return nil, fmt.Errorf("%s is empty", what)
	}
	return secret, nil
}

func configCommand(a *admin) *cobra.Command {
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Say all that is wrong with a configuration file",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			_, warnings, err := config.Load(args[0])
			problems := warnings
			if err != nil && !errors.As(err, &problems) {
				return err // it could not be read
			}
			if a.json {
				if problems == nil {
					problems = config.Problems{}
				}
				if err := a.printJSON(cmd, problems); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					fmt.Fprintln(cmd.OutOrStdout(), p)
				}
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: usable\n", args[0])
				}
			}
			if err != nil {
				return errReported
			}
			return nil
		}),
	}
	show := &cobra.Command{
		Use:   "show FILE",
		Short: "Print a configuration as it is measured",
		Long: "Print a configuration as it is in force, without secrets; 0 and '' stand for defaults.\n" +
			"Its SHA-256 is what the appliance measures as \"configuration\", unless flags of serve change it.",
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			cfg, _, err := config.Load(args[0])
			if err != nil {
				return err
			}
			text, err := cfg.Effective()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		}),
	}
	return group("config", "Work with configuration files", check, show)
}
