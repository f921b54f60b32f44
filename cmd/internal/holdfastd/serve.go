package holdfastd

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/spf13/pflag"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/logging"
	"holdfast/cmd/internal/modules"
)

func serveCommand(a *cli.Admin) *cobra.Command {
	var file string
	var o overrides
	c := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the appliance",
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (TOML)")
	o.add(f)
	a.AddSocketFlag(c)
	_ = c.MarkFlagRequired("config") // it exists: it was made above
	c.RunE = cli.Does(func(cmd *cobra.Command, _ []string) error {
		cfg, warnings, err := config.Load(file)
		for _, w := range warnings {
			if err == nil {
				cli.Row(cmd.ErrOrStderr(), w)
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
		log := logging.New(cfg.Log, cmd.ErrOrStderr(), cmd.OutOrStdout())
		defer log.Close()
		return daemon.Run(cmd.Context(), daemon.Options{Modules: modules.For(modules.Secrets(cfg)...), Config: cfg, Log: log.Logger, Requests: log.Requests, LogDropped: log.Dropped, Setup: func(code, file, url string) {
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
	moduleWrite                    []string
}

func (o *overrides) add(f *pflag.FlagSet) {
	f.StringVar(&o.xksAddr, "xks-addr", "", "listen here for AWS KMS, instead of xks.address")
	f.StringVar(&o.adminAddr, "admin-addr", "", "listen here for administrators, instead of admin.address")
	f.StringVar(&o.stateDir, "state-dir", "", "folder of the database, instead of state.dir")
	f.StringVar(&o.module, "hsm-module", "", "PKCS#11 library, instead of hsm.module")
	f.StringSliceVar(&o.moduleWrite, "hsm-write", nil, "files and folders that the PKCS#11 library may change, besides those of hsm.process.write")
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
	c.HSM.Process.Write = append(c.HSM.Process.Write, o.moduleWrite...)
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
