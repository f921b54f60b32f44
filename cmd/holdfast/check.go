package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/xks/conformance"
)

func checkCommand(a *admin) *cobra.Command {
	var t conformance.Target
	var secretFile, caFile, certFile, keyFile string
	c := &cobra.Command{
		Use:   "check URL --access-key-id ID --secret-access-key-file FILE --key KEYID",
		Short: "Test any XKS proxy against the specification, as KMS would meet it",
		Long: "Test any XKS proxy against the specification, from outside, as KMS would meet\n" +
			"it: every rule that can be seen, the latency against KMS's 250 ms, and a short\n" +
			"load. The URL is https://HOST[:PORT][/PREFIX]. It exits 1 when a rule fails.\n\n" +
			"The report goes to stdout. How far the check is goes to stderr.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			t.URL = args[0]
			secret, err := cli.ReadSecretFile("--secret-access-key-file", secretFile)
			if err != nil {
				return err
			}
			defer clear(secret)
			t.SecretAccessKey = string(secret)
			if err := readTLS(&t, caFile, certFile, keyFile); err != nil {
				return err
			}
			p := groups{w: a.Notes(cmd)}
			report, err := conformance.Run(cmd.Context(), t, p.add)
			if errors.Is(err, conformance.ErrTarget) {
				return cli.Unusable(err)
			}
			if err != nil {
				return err
			}
			p.end()
			if a.JSON {
				err = a.PrintJSON(cmd, report)
			} else {
				err = report.WriteTable(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if report.Failed() > 0 {
				return cli.ErrReported
			}
			return nil
		}),
	}
	f := c.Flags()
	f.StringVar(&t.AccessKeyID, "access-key-id", "", "access key ID of the key store")
	f.StringVar(&secretFile, "secret-access-key-file", "", "file with its secret access key, readable by its owner alone")
	f.StringVar(&t.KeyID, "key", "", "an enabled external key for encryption and decryption")
	f.StringVar(&t.EncryptOnlyKeyID, "encrypt-only-key", "", "one for encryption alone")
	f.StringVar(&t.DecryptOnlyKeyID, "decrypt-only-key", "", "one for decryption alone")
	f.StringVar(&t.NoUsageKeyID, "no-usage-key", "", "one for neither")
	f.StringVar(&t.DisabledKeyID, "disabled-key", "", "one that is disabled")
	f.StringVar(&t.Region, "region", "us-east-1", "Region in the credential scope")
	f.StringVar(&t.Principal, "principal", "", "a principal that may use the keys")
	f.StringVar(&t.DeniedPrincipal, "denied-principal", "", "a principal that may not")
	f.StringVar(&caFile, "cacert", "", "PEM file of the CAs to trust, instead of the system's")
	f.StringVar(&certFile, "cert", "", "PEM file of a client certificate, for mTLS")
	f.StringVar(&keyFile, "cert-key", "", "PEM file of its private key")
	f.DurationVar(&t.Timeout, "timeout", 5*time.Second, "limit for one request")
	f.IntVar(&t.Load.Rate, "rate", 100, "requests per second of the load")
	f.DurationVar(&t.Load.Duration, "duration", 3*time.Second, "length of the load")
	f.IntVar(&t.Load.Connections, "connections", 8, "connections of the load")
	for _, name := range []string{"access-key-id", "secret-access-key-file", "key"} {
		_ = c.MarkFlagRequired(name) // they exist: they were made above
	}
	c.MarkFlagsRequiredTogether("cert", "cert-key")
	return c
}

// readTLS reads what the check trusts, and who it is; empty names stand for nothing.
func readTLS(t *conformance.Target, caFile, certFile, keyFile string) error {
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return fmt.Errorf("--cacert: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--cacert: %s has no PEM certificate", caFile)
		}
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return fmt.Errorf("--cert: %w", err)
		}
		t.ClientCert = &pair
	}
	return nil
}

// groups says how far a check is, in a line for each group of rules.
type groups struct {
	w      io.Writer
	group  string
	passed int
	others []string // what did not pass
}

func (p *groups) add(r conformance.Result) {
	group, rule, _ := strings.Cut(r.ID, "/")
	if group != p.group {
		p.end()
		p.group = group
	}
	if r.Outcome == conformance.Pass {
		p.passed++
	} else {
		p.others = append(p.others, rule+" "+outcomes[r.Outcome])
	}
}

var outcomes = map[conformance.Outcome]string{conformance.Fail: "FAILED", conformance.Warn: "warns", conformance.NotRun: "not run"}

// end ends the group under way.
func (p *groups) end() {
	if p.group == "" {
		return
	}
	cli.Row(p.w, fmt.Sprintf("%s: %s", p.group, strings.Join(append([]string{fmt.Sprint(p.passed, " passed")}, p.others...), ", ")))
	p.group, p.passed, p.others = "", 0, nil
}
