package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/attest"
	"holdfast/attest/snp"
	"holdfast/cmd/internal/cli"
)

// policyTCBCommand is about TCB recovery files.
func policyTCBCommand(a *admin) *cobra.Command {
	return cli.Group("tcb", "Write and sign TCB recovery files, which raise the floors of policies",
		policyTCBNewCommand(), policyTCBSignCommand(a), policyTCBShowCommand(a))
}

func policyTCBNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Print a TCB recovery file with the default policy's floors, to begin from",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			r := attest.Recovery{Format: attest.RecoveryFormat, Name: "default", Version: 1}
			floors := snp.DefaultPolicy().MinimumTCB
			for _, product := range snp.Products() {
				if floor, ok := floors[product]; ok {
					r.SNP = append(r.SNP, snp.Floor{Product: product, From: time.Now().UTC().Truncate(24 * time.Hour), TCB: &floor})
				}
			}
			text, err := json.MarshalIndent(r, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
			return err
		}),
	}
}

func policyTCBSignCommand(a *admin) *cobra.Command {
	var key, out string
	c := &cobra.Command{
		Use:   "sign RECOVERY --key FILE --out FILE",
		Short: "Sign a TCB recovery file, with the key of the policies whose floors it raises",
		Long: "Sign a TCB recovery file, with the key of the policies whose floors it raises. Brokers,\n" +
			"appliances and holdfast verify --tcb take it. From the date of a floor on they ask for it\n" +
			"where it is higher than the policy's. A file takes the place of one with a lower version.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			text, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			r, err := attest.ParseRecovery(text)
			if err != nil {
				return fmt.Errorf("%s: %w; give it as it was before it was signed", args[0], err)
			}
			private, err := readPrivateKey[ed25519.PrivateKey]("--key", key, cli.PolicyAlgorithm)
			if err != nil {
				return err
			}
			defer clear(private)
			signed, err := attest.SignRecovery(r, private)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := writeAll([]newFile{{out, signed}}); err != nil {
				return err
			}
			id := attest.KeyID(private.Public().(ed25519.PublicKey))
			return a.Show(cmd, shownRecovery{r, id}, func(w io.Writer) { rowsOfRecovery(w, r, id) })
		}),
	}
	c.Flags().StringVar(&key, "key", "", "private key (PEM) of policy key, readable by its owner alone")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	_ = c.MarkFlagRequired("key") // they exist: they were made above
	_ = c.MarkFlagRequired("out")
	return c
}

func policyTCBShowCommand(a *admin) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "show FILE --policy-key FILE",
		Short: "Show a signed TCB recovery file whose signature verifies",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			r, err := readRecovery(args[0], key)
			if err != nil {
				return err
			}
			return a.Show(cmd, shownRecovery{&r.Recovery, r.Signer}, func(w io.Writer) { rowsOfRecovery(w, &r.Recovery, r.Signer) })
		}),
	}
	c.Flags().StringVar(&key, "policy-key", "", "public key (PEM) that it must be signed by")
	_ = c.MarkFlagRequired("policy-key") // it exists: it was made above
	return c
}

// shownRecovery is a TCB recovery file, with the ID of the key that signed it.
type shownRecovery struct {
	*attest.Recovery
	KeyID string `json:"key_id"`
}

func rowsOfRecovery(w io.Writer, r *attest.Recovery, keyID string) {
	cli.Row(w, "TCB recovery", fmt.Sprintf("%s, version %d", r.Name, r.Version))
	cli.Row(w, "signed by", keyID)
	for _, f := range r.SNP {
		cli.Row(w, f.Product, fmt.Sprintf("from %s: %s", cli.When(f.From), f.TCB))
	}
}
