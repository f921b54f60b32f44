package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/attest"
	"holdfast/attest/release"
	"holdfast/cmd/internal/cli"
)

// crlCommand gives the broker a list of revocations of its own.
func (b *broker) crlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "crl FILE",
		Short: "Keep AMD's list of revocations (DER), by which evidence is appraised from now on",
		Long: "Keep AMD's list of revocations (DER), by which evidence is appraised from now on. It takes the\n" +
			"place of older ones of its issuer that revoke nothing else. A list that revokes counts however\n" +
			"old it is; require_crl in the policy asks for one that is in force.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			der, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			list, err := vault.AddRevocations(der, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			shown := brokerList{*list, ageOf(list.ThisUpdate)}
			return b.Show(cmd, shown, func(w io.Writer) { cli.Row(w, "revocations", shown.String()) })
		}),
	}
}

// tcbCommand gives the broker a TCB recovery file.
func (b *broker) tcbCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tcb FILE",
		Short: "Install a TCB recovery file, which raises the policy's floors",
		Long: "Install a TCB recovery file, which raises the policy's floors (holdfast policy tcb). The policy's\n" +
			"signer must have signed it. Its version must be higher than that of the one in force.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			file, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			r, err := vault.SetRecovery(file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return b.Show(cmd, shownRecovery{&r.Recovery, r.Signer}, func(w io.Writer) { rowsOfRecovery(w, &r.Recovery, r.Signer) })
		}),
	}
}

// brokerList is a list of revocations that the broker keeps, and its age in days.
type brokerList struct {
	release.List
	Age int `json:"age_days"`
}

func ageOf(made time.Time) int { return int(time.Since(made).Hours() / 24) }

func (l brokerList) String() string {
	s := fmt.Sprintf("%s, %s, %d days old, %d revoked", l.Issuer, l.ThisUpdate.Format(time.DateOnly), l.Age, l.Revoked)
	if !l.NextUpdate.IsZero() && time.Now().After(l.NextUpdate) {
		s += "; no longer in force since " + l.NextUpdate.Format(time.DateOnly)
	}
	return s
}

// brokerOwn is what the broker has of its own besides the policy. An error says why
// every release is refused.
type brokerOwn struct {
	Revocations      []brokerList     `json:"revocations"`
	RevocationsError string           `json:"revocations_error,omitempty"`
	Recovery         *attest.Recovery `json:"tcb_recovery,omitempty"`
	RecoveryError    string           `json:"tcb_recovery_error,omitempty"`
}

func readOwn(vault *release.Vault) brokerOwn {
	own := brokerOwn{Revocations: []brokerList{}}
	lists, err := vault.Revocations()
	if err != nil {
		own.RevocationsError = err.Error()
	}
	for _, l := range lists {
		own.Revocations = append(own.Revocations, brokerList{l, ageOf(l.ThisUpdate)})
	}
	if r, err := vault.Recovery(); err != nil {
		own.RecoveryError = err.Error()
	} else if r != nil {
		own.Recovery = &r.Recovery
	}
	return own
}

func (o brokerOwn) human(w io.Writer) {
	for _, l := range o.Revocations {
		cli.Row(w, "revocations", l.String())
	}
	if o.RevocationsError != "" {
		cli.Row(w, "revocations", "cannot be used, every release is refused: "+o.RevocationsError)
	} else if len(o.Revocations) == 0 {
		cli.Row(w, "revocations", "none: give AMD's lists with holdfast broker crl")
	}
	if o.RecoveryError != "" {
		cli.Row(w, "TCB recovery", "cannot be used, every release is refused: "+o.RecoveryError)
	} else if o.Recovery != nil {
		cli.Row(w, "TCB recovery", fmt.Sprintf("%s, version %d", o.Recovery.Name, o.Recovery.Version))
	}
}
