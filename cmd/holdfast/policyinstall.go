package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func policyStatusCommand(a *admin) *cobra.Command {
	return a.asking("status", "Show the policy by which a machine is judged, and what it lets in", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowAppraisalPolicy, operation.Nothing{}, showAppraisalPolicy)
	})
}

func policyInstallCommand(a *admin) *cobra.Command {
	var authorizations, approvals string
	c := a.asking("install FILE [--authorizations FILE] [--approvals FILE]", "Have a machine judged by another signed policy", func(cmd *cobra.Command, args []string) error {
		var in operation.PolicyFiles
		for _, f := range []struct {
			name string
			into *string
		}{{args[0], &in.Policy}, {authorizations, &in.Authorizations}, {approvals, &in.Approvals}} {
			if f.name == "" {
				continue
			}
			text, err := cli.ReadInput(f.name)
			if err != nil {
				return err
			}
			*f.into = string(text)
		}
		return call(a, cmd, operation.InstallPolicy, in, showAppraisalPolicy)
	})
	c.Flags().StringVar(&authorizations, "authorizations", "", "the publisher's file of authorizations, which holdfast policy sign has written with the policy")
	c.Flags().StringVar(&approvals, "approvals", "", "the owner's file of approvals")
	return c
}

func showAppraisalPolicy(w io.Writer, p operation.AppraisalPolicy) {
	from, force := "the image", "at the next start, or when evidence is renewed"
	if p.Installed {
		from = "installed"
	}
	if p.InForce {
		force = "yes"
	}
	cli.Row(w, "policy", fmt.Sprintf("%s, version %d", p.Name, p.Version))
	cli.Row(w, "from", from)
	cli.Row(w, "in force", force)
	cli.Row(w, "SHA-256", p.SHA256)
	cli.Row(w, "signed by", p.Signer)
	for _, says := range p.Admits {
		cli.Row(w, "lets in", says)
	}
	if p.Unproven != "" {
		cli.Row(w, "unproven", p.Unproven)
	}
	cli.Row(w, "installed", fmt.Sprintf("%d authorizations, %d approvals", p.Authorizations, p.Approvals))
	if p.Ignored != "" {
		cli.Row(w, "does not count", p.Ignored)
	}
}
