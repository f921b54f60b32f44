package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func attestCommand(a *admin) *cobra.Command {
	return cli.Group("attest", "Have the appliance prove what it is", attestEvidenceCommand(a), attestReportCommand(a), attestReleasesCommand(a))
}

// freshNonce makes a nonce in hexadecimal, unless the caller has one.
func freshNonce(asked operation.Nonce) operation.Nonce {
	if asked.Nonce == "" {
		random := make([]byte, 32)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		asked.Nonce = hex.EncodeToString(random)
	}
	return asked
}

func attestEvidenceCommand(a *admin) *cobra.Command {
	var nonce operation.Nonce
	var out string
	c := a.asking("evidence [--nonce HEX] [--node NODE] [--out FILE]", "Get fresh evidence of what the appliance runs, for holdfast verify", func(cmd *cobra.Command, _ []string) error {
		asked := freshNonce(nonce)
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowEvidence, asked)
		if err != nil {
			return err
		}
		if out == "" {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", done.Out)
			return err
		}
		if err := writeNew(out, done.Out); err != nil {
			return err
		}
		return a.Show(cmd, map[string]string{"evidence": out, "nonce": asked.Nonce}, func(w io.Writer) {
			cli.Row(w, "evidence", out)
			cli.Row(w, "nonce", asked.Nonce)
		})
	})
	c.Long = "Get fresh evidence of what the appliance runs, for holdfast verify. Everybody else can get it\n" +
		"at /attestation?nonce=HEX of the administrators' listener."
	addNonce(c, &nonce)
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist; otherwise it is printed")
	return c
}

func attestReportCommand(a *admin) *cobra.Command {
	var nonce operation.Nonce
	c := a.asking("report [--nonce HEX] [--node NODE]", "Show what the appliance itself finds when it checks fresh evidence, with the firmware's event log", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowReport, freshNonce(nonce), showReport)
	})
	c.Long = "Show what the appliance itself finds when it checks fresh evidence, with the firmware's event log.\n" +
		"An appliance that lies can say anything: verify its evidence elsewhere, with holdfast verify, if\n" +
		"you do not trust it. With --json the evidence is there too."
	addNonce(c, &nonce)
	return c
}

func attestReleasesCommand(a *admin) *cobra.Command {
	c := a.asking("releases", "Show what the broker has on record about this machine: releases, refusals, admissions", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowReleases, operation.Nothing{}, func(w io.Writer, r *progress.Releases) {
			for _, one := range r.Records {
				cli.Row(w, fmt.Sprintf("record %d", one.Number), one.Time.UTC().Format(time.RFC3339), one.Result, strings.TrimSpace(one.Code+" "+one.Reason), one.Instance, one.By+one.Remote)
			}
			if r.More {
				cli.Row(w, "more", "the broker has older records: holdfast broker log, there")
			}
		})
	})
	c.Long = "Show what the broker that releases the PIN has on record about this machine, the newest first:\n" +
		"releases, refusals, admissions, and who did what. The appliance shows the broker fresh evidence\n" +
		"and verifies the signature of each record by the key of the broker's log. That none is left out\n" +
		"is the broker's word: `holdfast broker log --verify` at the broker proves it."
	return c
}

func addNonce(c *cobra.Command, asked *operation.Nonce) {
	c.Flags().StringVar(&asked.Nonce, "nonce", "", "your nonce, 16 to 64 bytes in hexadecimal; random without it")
	c.Flags().StringVar(&asked.Node, "node", "", "the node of the fleet whose evidence it is; the one that answers without it")
}

func showReport(w io.Writer, r *operation.Report) {
	if r.Node != "" {
		cli.Row(w, "node", r.Node)
	}
	if r.Verdict != nil {
		rowsOfVerdict(w, r.Verdict)
	}
	if r.EventsError != "" {
		cli.Row(w, "event log", r.EventsError)
	}
	for _, e := range r.Events {
		cli.Row(w, fmt.Sprintf("event %d", e.Number), fmt.Sprintf("PCR %d", e.PCR), e.Type, e.Text)
	}
}

func sealCommand(a *admin) *cobra.Command {
	var file, admission string
	c := a.asking("seal [--pin-file FILE] [--admission DIGEST] < PIN", "Seal the HSM's PIN to this machine's TPM", func(cmd *cobra.Command, _ []string) error {
		digest, err := a.confirmed(cmd, admission, file != "")
		if err != nil {
			return err
		}
		pin, err := readPIN(cmd, file)
		if err != nil {
			return err
		}
		defer clear(pin)
		return call(a, cmd, operation.Seal, operation.SealRequest{PIN: pin, Admission: digest}, says[operation.Nothing]("the PIN is sealed to this machine's TPM"))
	})
	c.Long = "Seal the HSM's PIN to this machine's TPM, which gives it out only to a machine in an authorized\n" +
		"state. The PIN is read from standard input, or from a file that only its owner may read.\n" +
		"An appliance that waits for it goes on booting.\n" + admissionAsked
	addAdmission(c, &admission)
	c.Flags().StringVar(&file, "pin-file", "", "file with the PIN, instead of standard input")
	c.AddCommand(sealRevokeCommand(a))
	return c
}

func sealRevokeCommand(a *admin) *cobra.Command {
	var r operation.Revocation
	c := a.asking("revoke --below VERSION [--approvals]", "Have this machine's TPM refuse all policies, or approvals, of a lower version, for good", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.RevokePolicies, r, func(w io.Writer, _ operation.Nothing) {
			what := "policies"
			if r.Approvals {
				what = "approvals"
			}
			cli.Row(w, "revoked", fmt.Sprintf("all %s below version %d", what, r.Below))
		})
	})
	c.Flags().Uint64Var(&r.Below, "below", 0, "the lowest version that is still good")
	c.Flags().BoolVar(&r.Approvals, "approvals", false, "revoke what the machine's owner has approved (policy approve --version), instead of policies")
	_ = c.MarkFlagRequired("below") // it exists: it was made above
	return c
}

// readPIN reads a PIN up to the end of the line, from a file or else from
// standard input.
func readPIN(cmd *cobra.Command, file string) ([]byte, error) {
	if file != "" {
		return cli.ReadSecretFile("--pin-file", file)
	}
	return cli.ReadSecret("standard input", cmd.InOrStdin())
}
