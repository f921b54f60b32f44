package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func grantCommand(a *admin) *cobra.Command {
	var page operation.GrantPage
	list := addPaging(a.asking("list KEYSTORE", "List the grants of a key store and its keys", func(cmd *cobra.Command, args []string) error {
		page.KeyStore = args[0]
		return listCall(a, cmd, operation.ListGrants, page, func(w io.Writer, grants []operation.Grant) { showGrants(w, grants...) })
	}), &page.Paging, operation.ListGrants)
	show := a.asking("show KEYSTORE GRANT", "Show a grant", func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, operation.ShowGrant, grantOf(args), func(w io.Writer, g operation.Grant) { showGrants(w, g) })
	})
	remove := a.asking("remove KEYSTORE GRANT", "Remove a grant", func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, operation.RemoveGrant, grantOf(args), says[operation.Nothing]("grant "+args[1]+" removed"))
	})
	return cli.Group("grant", "Manage who may use keys", grantAddCommand(a), grantLoadCommand(a), list, show, remove, grantDiscardCommand(a), grantTestCommand(a), grantPolicyCommand(a))
}

// grantOf is the grant that KEYSTORE and GRANT name.
func grantOf(args []string) operation.GrantName {
	return operation.GrantName{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Grant: args[1]}
}

// newGrant is what a grant is made of.
type newGrant struct {
	operation.NewGrant
	operations, notAfter string
	forbid, render       bool
}

func grantAddCommand(a *admin) *cobra.Command {
	var n newGrant
	c := a.asking("add KEYSTORE --principal P --operations Encrypt,Decrypt,GetAttributes", "Allow or forbid a principal operations on a key store, or on one key of it",
		func(cmd *cobra.Command, args []string) error {
			n.KeyStore = args[0]
			return n.add(a, cmd)
		})
	c.Long = "Allow or forbid a principal operations on a key store, or on one key of it.\n" +
		"What a grant forbids is denied whatever others allow. Each condition may be given\n" +
		"several times: one of its values must match, in which * stands for any characters\n" +
		"and ? for one; and all conditions must hold."
	f := c.Flags()
	f.StringVar(&n.Principal, "principal", "", "an ARN, in which * and ? may stand, a service such as dynamodb.amazonaws.com, an account of 12 digits, or * for all")
	f.BoolVar(&n.Force, "force", false, "take a principal of a form that IAM does not have, or a via service that is not documented, because you know that KMS sends it")
	cli.SomeOf(f, &n.operations, "operations", "what is allowed", appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes)
	f.StringVar(&n.KeyID, "key", "", "only on this key")
	f.BoolVar(&n.forbid, "forbid", false, "forbid it")
	f.BoolVar(&n.render, "render", false, "add nothing, and print the Cedar policy that the grant would be")
	f.StringVar(&n.notAfter, "not-after", "", "until then: a time such as 2027-01-31T18:00:00Z, or a duration such as 8h")
	values := func(into *[]string, name, usage string) { f.StringArrayVar(into, name, nil, "if "+usage) }
	values(&n.Conditions.CallingAccounts, "calling-account", "the principal is of this account")
	values(&n.Conditions.ViaServices, "via-service", "this AWS service calls KMS for the principal (kmsViaService): give both dynamodb and 'dynamodb.*.amazonaws.com', since either may be sent")
	values(&n.Conditions.SourceVPCs, "source-vpc", "the call comes from this VPC")
	values(&n.Conditions.SourceVPCEs, "source-vpce", "the call comes over this VPC endpoint")
	values(&n.Conditions.KMSKeyARNs, "kms-key-arn", "the KMS key has this ARN")
	values(&n.Conditions.KMSKeyRegions, "kms-key-region", "the KMS key is in this Region")
	values(&n.Conditions.KMSKeyAccounts, "kms-key-account", "the KMS key is of this account")
	values(&n.Conditions.KMSOperations, "kms-operation", "KMS was asked for this, such as GenerateDataKey")
	_ = c.MarkFlagRequired("principal") // they exist: they were made above
	_ = c.MarkFlagRequired("operations")
	return c
}

func (n *newGrant) add(a *admin, cmd *cobra.Command) (err error) {
	if n.Operations, err = appliance.ParseOperations(n.operations); err != nil {
		return err
	}
	if n.NotAfter, err = parseWhen(n.notAfter); err != nil {
		return err
	}
	n.Effect = appliance.EffectAllow
	if n.forbid {
		n.Effect = appliance.EffectForbid
	}
	if n.render {
		return call(a, cmd, operation.RenderGrant, n.NewGrant, func(w io.Writer, p operation.Policy) { cli.Row(w, p.Cedar) })
	}
	return call(a, cmd, operation.CreateGrant, n.NewGrant, func(w io.Writer, made operation.Grant) { showGrants(w, made) })
}

// parseWhen reads a time, or a duration from now on; empty is no time.
func parseWhen(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fault.Errorf(fault.Invalid, "--not-after %q: give a time such as 2027-01-31T18:00:00Z, or a duration such as 8h", s)
	}
	return t, nil
}

func grantTestCommand(a *admin) *cobra.Command {
	var t operation.GrantTest
	c := a.asking("test KEYSTORE KEYID --principal P --operation Encrypt", "Say whether a request would be allowed, and which policies decide; exit 1 if it is denied",
		func(cmd *cobra.Command, args []string) error {
			t.KeyName = keyOf(args)
			done, err := cli.Call(cmd.Context(), &a.Admin, operation.TestGrants, t)
			if err != nil {
				return err
			}
			err = a.Show(cmd, done, func(w io.Writer) { showDecision(w, done.Out) })
			if err == nil && !done.Out.Allowed {
				err = cli.ErrReported
			}
			return err
		})
	f := c.Flags()
	f.StringVar(&t.Principal, "principal", "", "who calls KMS, as KMS tells (awsPrincipalArn)")
	cli.OneOf(f, &t.Operation, "operation", "what is asked of the key", appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes)
	f.StringVar(&t.ViaService, "via-service", "", "the AWS service that calls KMS for the principal (kmsViaService)")
	f.StringVar(&t.SourceVPC, "source-vpc", "", "the VPC that the call comes from")
	f.StringVar(&t.SourceVPCE, "source-vpce", "", "the VPC endpoint that the call comes over")
	f.StringVar(&t.KMSKeyARN, "kms-key-arn", "", "the KMS key's ARN")
	f.StringVar(&t.KMSOperation, "kms-operation", "", "what KMS is asked for, such as GenerateDataKey")
	_ = c.MarkFlagRequired("principal") // they exist: they were made above
	_ = c.MarkFlagRequired("operation")
	return c
}

func showDecision(w io.Writer, d appliance.Decision) {
	if d.Allowed {
		cli.Row(w, d)
	} else {
		cli.Row(w, "denied: "+d.String())
	}
	for _, fault := range d.Faults {
		cli.Row(w, "failed: "+fault)
	}
}

func grantPolicyCommand(a *admin) *cobra.Command {
	var file string
	var remove, force bool
	c := a.asking("policy KEYSTORE [--set FILE [--force] | --remove]", "Show, replace or remove the Cedar policies of a key store that are written by hand", func(cmd *cobra.Command, args []string) error {
		keyStore := operation.KeyStoreName{KeyStore: args[0]}
		set := func(cedar, done string) error {
			return call(a, cmd, operation.SetPolicy, operation.NewPolicy{KeyStoreName: keyStore, Cedar: cedar, Force: force}, says[operation.Nothing]("policies of key store "+args[0]+" "+done))
		}
		switch {
		case remove:
			return set("", "removed")
		case cmd.Flags().Changed("set"):
			text, err := cli.ReadInput(file)
			if err != nil && !errors.Is(err, cli.ErrEmpty) {
				return err
			}
			if len(bytes.TrimSpace(text)) == 0 {
				return fmt.Errorf("%s is empty: give a file with policies, or --remove to remove all that there are", file)
			}
			return set(string(text), "replaced")
		case force:
			return fmt.Errorf("--force is for policies that are set: give their file with --set")
		}
		// What is shown is what a file for --set would have, to the letter.
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowPolicy, keyStore)
		if err != nil {
			return err
		}
		if a.JSON {
			return a.PrintJSON(cmd, done)
		}
		_, err = io.WriteString(cmd.OutOrStdout(), done.Out.Cedar)
		return err
	})
	c.Long = "Show the Cedar policies of a key store that are written by hand, replace them by\n" +
		"those of a file, or remove them. They hold besides the grants. What they can say is\n" +
		"in docs/authorization.md."
	c.Flags().StringVar(&file, "set", "", "file with Cedar policies")
	c.Flags().BoolVar(&remove, "remove", false, "remove all Cedar policies, and what they forbid")
	c.Flags().BoolVar(&force, "force", false, "take principals of a form that IAM does not have, or via services that are not documented, because you know that KMS sends them")
	c.MarkFlagsMutuallyExclusive("set", "remove")
	c.MarkFlagsMutuallyExclusive("force", "remove")
	return c
}

func showGrants(w io.Writer, grants ...operation.Grant) {
	cli.Row(w, "GRANT", "PRINCIPAL", "OPERATIONS", "KEY", "CREATED", "EFFECT", "NOT AFTER", "CONDITIONS")
	for _, g := range grants {
		cli.Row(w, g.ID, g.Principal, appliance.JoinOperations(g.Operations), cli.OrDash(g.KeyID), cli.When(g.CreatedAt),
			g.Effect, cli.When(g.NotAfter), cli.OrDash(appliance.FormatConditions(g.Conditions)))
	}
}

// grantLine is a grant among other things.
func grantLine(g *appliance.Grant) string {
	line := g.ID + " "
	if g.Effect != appliance.EffectAllow {
		line += "forbids "
	}
	line += g.Principal + " " + appliance.JoinOperations(g.Operations)
	if !g.Conditions.IsZero() {
		line += " if " + appliance.FormatConditions(g.Conditions)
	}
	if !g.NotAfter.IsZero() {
		line += " until " + cli.When(g.NotAfter)
	}
	return line
}
