package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func attestCommand(a *admin) *cobra.Command {
	var nonce, out string
	evidence := &cobra.Command{
		Use:   "evidence [--nonce HEX] [--out FILE]",
		Short: "Get fresh evidence of what the appliance runs, for holdfast verify",
		Long: "Get fresh evidence of what the appliance runs, for holdfast verify. Everybody else can get it\n" +
			"at /attestation?nonce=HEX of the administrators' listener.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			if nonce == "" {
				random := make([]byte, 32)
				_, _ = rand.Read(random) // never fails (crypto/rand)
				nonce = hex.EncodeToString(random)
			}
			var text json.RawMessage
			if err := a.Client().Do(cmd.Context(), http.MethodGet, "attestation?nonce="+url.QueryEscape(nonce), nil, &text); err != nil {
				return err
			}
			if out == "" {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
				return err
			}
			if err := writeNew(out, text); err != nil {
				return err
			}
			return a.Show(cmd, map[string]string{"evidence": out, "nonce": nonce}, func(w io.Writer) {
				cli.Row(w, "evidence", out)
				cli.Row(w, "nonce", nonce)
			})
		}),
	}
	evidence.Flags().StringVar(&nonce, "nonce", "", "your nonce, 16 to 64 bytes in hexadecimal; random without it")
	evidence.Flags().StringVar(&out, "out", "", "file to write, which must not exist; otherwise it is printed")
	return cli.Group("attest", "Have the appliance prove what it is", evidence)
}

func sealCommand(a *admin) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "seal [--pin-file FILE] < PIN",
		Short: "Seal the HSM's PIN to this machine's TPM",
		Long: "Seal the HSM's PIN to this machine's TPM, which gives it out only to a machine in an authorized\n" +
			"state. The PIN is read from standard input, or from a file that only its owner may read.\n" +
			"An appliance that waits for it goes on booting.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			pin, err := readPIN(file)
			if err != nil {
				return err
			}
			defer clear(pin)
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "seal", web.SealRequest{PIN: pin}, nil); err != nil {
				return err
			}
			return a.Show(cmd, map[string]bool{"sealed": true}, func(w io.Writer) { cli.Row(w, "the PIN is sealed to this machine's TPM") })
		}),
	}
	c.Flags().StringVar(&file, "pin-file", "", "file with the PIN, instead of standard input")
	c.AddCommand(sealRevokeCommand(a))
	return c
}

func sealRevokeCommand(a *admin) *cobra.Command {
	var below uint64
	c := &cobra.Command{
		Use:   "revoke --below VERSION",
		Short: "Have this machine's TPM refuse all policies of a lower version, for good",
		Args:  cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "seal/revoke", web.Revocation{Below: below}, nil); err != nil {
				return err
			}
			return a.Show(cmd, map[string]uint64{"below": below}, func(w io.Writer) { cli.Row(w, "revoked", fmt.Sprintf("all policies below version %d", below)) })
		}),
	}
	c.Flags().Uint64Var(&below, "below", 0, "the lowest version that is still good")
	_ = c.MarkFlagRequired("below") // it exists: it was made above
	return c
}

// readPIN reads a PIN up to the end of the line, from a file or else from
// standard input.
func readPIN(file string) ([]byte, error) {
	if file != "" {
		return cli.ReadSecretFile("--pin-file", file)
	}
	return cli.ReadSecret("standard input", os.Stdin)
}
