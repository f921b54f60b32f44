package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func stateCommand(a *admin) *cobra.Command {
	return cli.Group("state", "Verify the stored state as a whole, and accept one that does not match", stateVerifyCommand(a), stateAcceptCommand(a))
}

func stateVerifyCommand(a *admin) *cobra.Command {
	c := a.asking("verify", "Verify all stored rows against their manifests, and the state's head against its anchors", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.VerifyState, operation.Nothing{}, showState)
	})
	c.Long = "Read all stored rows, and hold them against the manifests that authenticate them as sets, and the\n" +
		"head of the state against its anchors outside of the database: the TPM's counter, and the head that\n" +
		"the newest signed checkpoint of the audit log names."
	return c
}

func stateAcceptCommand(a *admin) *cobra.Command {
	var in operation.AcceptedState
	c := a.asking("accept --reason TEXT", "Serve the state as it is, though it does not match its manifest or its anchor", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.AcceptState, in, showAcceptance)
	})
	c.Long = "Serve the state as it is, though rows do not match their manifest or an earlier copy of the\n" +
		"database was put back. What somebody has changed counts from then on, so look at it before. Where\n" +
		"two administrators can approve, both must accept within an hour. Both reasons are recorded."
	c.Flags().StringVar(&in.Reason, "reason", "", "why this state is the right one; it is recorded")
	_ = c.MarkFlagRequired("reason")
	return c
}

func showState(w io.Writer, s *appliance.StateStatus) {
	if s.Held != "" {
		cli.Row(w, "held", s.Held)
		return
	}
	cli.Row(w, "state number", s.Head.Sequence)
	cli.Row(w, "digest", s.Head.Digest)
	cli.Row(w, "of", s.Head.At.Format(time.RFC3339))
	cli.Row(w, "rows", s.Rows)
	for _, scope := range s.Damaged {
		cli.Row(w, "does not match", scope)
	}
	for _, a := range s.Anchors {
		cli.Row(w, "anchor", a.Name+": "+a.Words())
	}
	if len(s.Anchors) == 0 {
		cli.Row(w, "anchor", "-")
	}
	if s.NotAnchored != "" {
		cli.Row(w, "not anchored", s.NotAnchored)
	}
}

func showAcceptance(w io.Writer, a *operation.StateAcceptance) {
	if !a.Accepted {
		cli.Row(w, "noted", "another administrator must accept it as well, until "+a.Until.Format(time.RFC3339))
		return
	}
	cli.Row(w, "accepted", "it was held because of: "+a.Why)
}
