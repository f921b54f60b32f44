package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func admissionCommand(a *admin) *cobra.Command {
	return cli.Group("admission", "See whom the first unlock seals, and confirm that they are the right ones", admissionShowCommand(a), admissionConfirmCommand(a))
}

func admissionShowCommand(a *admin) *cobra.Command {
	c := a.asking("show", "Show who can act and what decides, and who has confirmed it", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowAdmission, operation.Nothing{}, showAdmission)
	})
	c.Long = "Show who can act and what decides: users, API tokens, invitations, requests for approval, settings.\n" +
		"Before the first unlock these are the rows that it is about to seal. The digest is of all of them."
	return c
}

func admissionConfirmCommand(a *admin) *cobra.Command {
	var in operation.ConfirmedAdmission
	c := a.asking("confirm [--admission DIGEST]", "Confirm that those whom the first unlock seals are the right ones", func(cmd *cobra.Command, _ []string) error {
		digest, err := a.confirmed(cmd, in.Digest, true)
		if err != nil {
			return err
		}
		if in.Digest = digest; digest == "" {
			return fault.Errorf(fault.Conflict, "there is nothing to confirm: holdfast admission show says who has confirmed it")
		}
		return call(a, cmd, operation.ConfirmAdmission, in, says[appliance.Confirmation]("confirmed: "+in.Digest))
	})
	c.Long = "Confirm that those whom the first unlock seals are the right ones. An unlock that waits for it goes on.\n" + admissionAsked
	addAdmission(c, &in.Digest)
	return c
}

// admissionAsked says in the help of commands how somebody is asked.
const admissionAsked = "Where nobody has confirmed whom the first unlock seals, they are shown, and the command asks. A script\n" +
	"gives their digest instead, which holdfast admission show prints."

func addAdmission(c *cobra.Command, digest *string) {
	c.Flags().StringVar(digest, "admission", "", "digest of those whom the first unlock seals, as you have seen them; without it they are shown, and you are asked")
}

// confirmed gives the digest of those whom the first unlock seals: the given one; or, after
// a person has said so, that of those who are shown. It is empty if nobody needs to be
// asked. Mayask says that standard input is free for the answer.
func (a *admin) confirmed(cmd *cobra.Command, given string, mayAsk bool) (string, error) {
	if given != "" {
		return given, nil
	}
	done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowAdmission, operation.Nothing{})
	if code := fault.CodeOf(err); code == fault.Locked || code == fault.NotFound { // there is an installation; or an earlier release
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !done.Out.Unconfirmed {
		return "", nil
	}
	unconfirmed := fault.Errorf(fault.AdmissionUnconfirmed, "nobody has confirmed those whom the first unlock seals: look at them with holdfast admission show; to confirm them, call the command with --admission %s", done.Out.Digest)
	if a.JSON || !mayAsk { // programs give the digest
		return "", unconfirmed
	}
	w := tabwriter.NewWriter(cmd.ErrOrStderr(), 0, 0, 2, ' ', 0)
	showAdmission(w, done.Out)
	if err := w.Flush(); err != nil {
		return "", err
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Are these the right ones, and all of them? Type yes to seal them: ")
	answer, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("standard input: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return "", unconfirmed
	}
	return done.Out.Digest, nil
}

func showAdmission(w io.Writer, d operation.AdmissionDetail) {
	for _, e := range d.All {
		detail := e.Detail
		if e.Refused {
			detail = "NOT SEALED, since its row was changed by hand: " + detail
		}
		cli.Row(w, e.Kind, e.Name, detail)
	}
	if d.Alone != "" {
		cli.Row(w, "four eyes", "not possible", d.Alone)
	}
	cli.Row(w, "digest", d.Digest)
	switch {
	case d.Unconfirmed:
		cli.Row(w, "confirmed", "by nobody")
	case d.Confirmed.At.IsZero():
		cli.Row(w, "confirmed", "nobody needs to")
	default:
		cli.Row(w, "confirmed", "by "+d.Confirmed.By+", "+cli.When(d.Confirmed.At))
	}
}
