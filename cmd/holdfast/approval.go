package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func approvalCommand(a *admin) *cobra.Command {
	var page operation.ApprovalPage
	c := cli.Group("approval", "Look after operations that wait for a second person",
		addPaging(a.asking("list", "List the operations that wait for a second person, and those decided", func(cmd *cobra.Command, _ []string) error {
			return listCall(a, cmd, operation.ListApprovals, page, func(w io.Writer, all []operation.ApprovalDetail) {
				cli.Row(w, "REQUEST", "OPERATION", "STATE", "ASKED BY", "ASKED", "GOOD UNTIL", "DECIDED BY")
				for _, r := range all {
					cli.Row(w, r.ID, r.Operation, r.State, r.RequestedBy, cli.When(r.CreatedAt), cli.When(r.ExpiresAt), cli.OrDash(r.DecidedBy))
				}
			})
		}), &page.Paging, operation.ListApprovals),
		a.asking("show REQUEST", "Show an operation that waits for a second person, with all that it would do", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.ShowApproval, operation.ApprovalName{Approval: args[0]}, showApproval)
		}),
		approvalRejectCommand(a),
		approvalPerformCommand(a))
	c.Long = "Look after operations that wait for a second person. A command whose operation needs one does\n" +
		"nothing, and names the request that waits. A person approves it, who has signed in to the console:\n" +
		"the bearer of an API token is refused, and so is root at the socket. Root needs no approval, so\n" +
		"a command at the socket never waits for one."
	return c
}

func showApproval(w io.Writer, r operation.ApprovalDetail) {
	cli.Row(w, "request", r.ID)
	cli.Row(w, "operation", r.Operation)
	cli.Row(w, "call", r.Method+" "+r.Path)
	if len(r.Body) > 0 {
		cli.Row(w, "with", string(r.Body))
	}
	cli.Row(w, "state", r.State)
	cli.Row(w, "asked by", r.RequestedBy+" at "+cli.When(r.CreatedAt))
	cli.Row(w, "asked from", cli.OrDash(r.Address))
	cli.Row(w, "why", cli.OrDash(r.Reason))
	cli.Row(w, "good until", cli.When(r.ExpiresAt))
	if r.DecidedBy != "" {
		cli.Row(w, "decided by", r.DecidedBy+" at "+cli.When(r.DecidedAt))
		cli.Row(w, "decided because", cli.OrDash(r.DecisionReason))
	}
	if r.Outcome != "" {
		cli.Row(w, "failed", r.Outcome)
	}
}

// secretAgain reads the secret that an approved operation was asked for with, as the command
// reads it that asks for the operation.
func secretAgain(cmd *cobra.Command, a *admin, name operation.ApprovalName, file string) (operation.Secret, error) {
	shown, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowApproval, name)
	if err != nil {
		return nil, err
	}
	switch shown.Out.Operation {
	case operation.CreateKey.ID, operation.RotateKey.ID:
		return readMaterial(file)
	case operation.CreateKeys.ID, operation.CreateGrants.ID:
		text, err := readFile(file)
		return operation.Secret(text), err
	}
	f, err := cli.OpenSecretFile("--secret-file", file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cli.ReadSecret("--secret-file: "+file, f)
}

func approvalRejectCommand(a *admin) *cobra.Command {
	var reason string
	c := a.asking("reject REQUEST --reason TEXT", "Refuse an operation that waits, or take one's own back", func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, operation.Reject, operation.ApprovalDecision{ApprovalName: operation.ApprovalName{Approval: args[0]}, Reason: reason}, showApproval)
	})
	c.Flags().StringVar(&reason, "reason", "", "why, for the one who asked and for the audit log")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
	return c
}

// performSteps performs an approved operation. A file of keys or grants is made in steps, and the
// request stays approved until nothing is left.
func performSteps(cmd *cobra.Command, a *admin, in operation.ApprovedPerformance) (operation.Done[operation.ApprovalDetail], error) {
	for {
		step := in
		step.Secret = slices.Clone(in.Secret) // a call wipes it
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.PerformApproved, step)
		if err != nil || done.Out.State != approval.Approved {
			return done, err
		}
		var r operation.FileResult
		if err := json.Unmarshal(done.Out.Result, &r); err != nil {
			return done, err
		}
		if r.Stopped != nil {
			return done, fault.Errorf(r.Stopped.Code, "%d of %d of the file are there, and then it stopped: %s. The request stays approved: give the same file again to go on", r.Done(), r.Rows, r.Stopped.Message)
		}
	}
}

func approvalPerformCommand(a *admin) *cobra.Command {
	var out, secretFile string
	c := a.asking("perform REQUEST --out FILE", "Do an operation that one has asked for and that was approved, and write the secret that it shows once to a file",
		func(cmd *cobra.Command, args []string) error {
			// Opened before, so that nothing is done whose secret would be lost.
			f, err := privatefile.Create(out)
			if err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			defer f.Close()
			in := operation.ApprovedPerformance{ApprovalName: operation.ApprovalName{Approval: args[0]}}
			if secretFile != "" {
				if in.Secret, err = secretAgain(cmd, a, in.ApprovalName, secretFile); err != nil {
					return err
				}
			}
			done, err := performSteps(cmd, a, in)
			if err == nil && done.Out.State == approval.Failed {
				err = fault.Errorf(fault.Conflict, "the operation was refused: %s", done.Out.Outcome)
			}
			if err != nil {
				_ = f.Close() // Windows removes no open file
				_ = os.Remove(out)
				return err
			}
			if _, err := fmt.Fprintf(f, "%s\n", done.Out.Result); err != nil {
				return fmt.Errorf("request %s was performed, and what it gave could not be written; take back what it made: %w", args[0], err)
			}
			return a.Show(cmd, done.Out.Request, func(w io.Writer) {
				showApproval(w, done.Out)
				cli.Row(w, "result", out)
			})
		})
	c.Flags().StringVar(&out, "out", "", "file for the operation's answer (JSON), which must not exist; only its owner may read it")
	c.Flags().StringVar(&secretFile, "secret-file", "", "file with the secret that was asked for with, such as the material of a key, or the file of keys or grants: no request stores it")
	_ = c.MarkFlagRequired("out") // it exists: it was made above
	return c
}
