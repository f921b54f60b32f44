package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func grantCommand(a *admin) *cobra.Command {
	list := &cobra.Command{
		Use:   "list KEYSTORE",
		Short: "List the grants of a key store and its keys",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var grants []*appliance.Grant
			if err := a.Client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0], "grants"), nil, &grants); err != nil {
				return err
			}
			return a.Show(cmd, grants, func(w io.Writer) { showGrants(w, grants...) })
		}),
	}
	remove := &cobra.Command{
		Use:   "remove KEYSTORE GRANT",
		Short: "Remove a grant",
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, http.MethodDelete, web.Path("keystores", args[0], "grants", args[1]), "grant "+args[1]+" removed")
		}),
	}
	return cli.Group("grant", "Manage who may use keys", grantAddCommand(a), list, remove, grantTestCommand(a), grantPolicyCommand(a))
}

func grantAddCommand(a *admin) *cobra.Command {
	var g web.NewGrant
	var operations, notAfter string
	var forbid bool
	c := &cobra.Command{
		Use:   "add KEYSTORE --principal P --operations Encrypt,Decrypt,GetAttributes",
		Short: "Allow or forbid a principal operations on a key store, or on one key of it",
		Long: "Allow or forbid a principal operations on a key store, or on one key of it.\n" +
			"What a grant forbids is denied whatever others allow. Each condition may be given\n" +
			"several times: one of its values must match, in which * stands for any characters\n" +
			"and ? for one; and all conditions must hold.",
		Args: cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) (err error) {
			if g.Operations, err = appliance.ParseOperations(operations); err != nil {
				return err
			}
			if g.NotAfter, err = parseWhen(notAfter); err != nil {
				return err
			}
			if forbid {
				g.Effect = appliance.EffectForbid
			}
			var made appliance.Grant
			if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", args[0], "grants"), g, &made); err != nil {
				return err
			}
			return a.Show(cmd, made, func(w io.Writer) { showGrants(w, &made) })
		}),
	}
	f := c.Flags()
	f.StringVar(&g.Principal, "principal", "", "an ARN, in which * and ? may stand, a service such as dynamodb.amazonaws.com, an account of 12 digits, or * for all")
	f.StringVar(&operations, "operations", "", "Encrypt, Decrypt, GetAttributes, with commas between")
	f.StringVar(&g.KeyID, "key", "", "only on this key")
	f.BoolVar(&forbid, "forbid", false, "forbid it")
	f.StringVar(&notAfter, "not-after", "", "until then: a time such as 2027-01-31T18:00:00Z, or a duration such as 8h")
	values := func(into *[]string, name, usage string) { f.StringArrayVar(into, name, nil, "if "+usage) }
	values(&g.Conditions.CallingAccounts, "calling-account", "the principal is of this account")
	values(&g.Conditions.ViaServices, "via-service", "this AWS service calls KMS for the principal (kmsViaService)")
	values(&g.Conditions.SourceVPCs, "source-vpc", "the call comes from this VPC")
	values(&g.Conditions.SourceVPCEs, "source-vpce", "the call comes over this VPC endpoint")
	values(&g.Conditions.KMSKeyARNs, "kms-key-arn", "the KMS key has this ARN")
	values(&g.Conditions.KMSKeyRegions, "kms-key-region", "the KMS key is in this Region")
	values(&g.Conditions.KMSKeyAccounts, "kms-key-account", "the KMS key is of this account")
	values(&g.Conditions.KMSOperations, "kms-operation", "KMS was asked for this, such as GenerateDataKey")
	_ = c.MarkFlagRequired("principal") // they exist: they were made above
	_ = c.MarkFlagRequired("operations")
	return c
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
	var r appliance.RequestContext
	var operation string
	c := &cobra.Command{
		Use:   "test KEYSTORE KEYID --principal P --operation Encrypt",
		Short: "Say whether a request would be allowed, and which policies decide; exit 1 if it is denied",
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			r.Operation = appliance.Operation(operation)
			var d appliance.Decision
			if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", args[0], "keys", args[1], "test-grants"), r, &d); err != nil {
				return err
			}
			err := a.Show(cmd, d, func(w io.Writer) {
				if d.Allowed {
					cli.Row(w, d)
				} else {
					cli.Row(w, "denied: "+d.String())
				}
				for _, fault := range d.Faults {
					cli.Row(w, "failed: "+fault)
				}
			})
			if err == nil && !d.Allowed {
				err = cli.ErrReported
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&r.Principal, "principal", "", "who calls KMS, as KMS tells (awsPrincipalArn)")
	f.StringVar(&operation, "operation", "", "Encrypt, Decrypt or GetAttributes")
	f.StringVar(&r.ViaService, "via-service", "", "the AWS service that calls KMS for the principal (kmsViaService)")
	f.StringVar(&r.SourceVPC, "source-vpc", "", "the VPC that the call comes from")
	f.StringVar(&r.SourceVPCE, "source-vpce", "", "the VPC endpoint that the call comes over")
	f.StringVar(&r.KMSKeyARN, "kms-key-arn", "", "the KMS key's ARN")
	f.StringVar(&r.KMSOperation, "kms-operation", "", "what KMS is asked for, such as GenerateDataKey")
	_ = c.MarkFlagRequired("principal") // they exist: they were made above
	_ = c.MarkFlagRequired("operation")
	return c
}

func grantPolicyCommand(a *admin) *cobra.Command {
	var file string
	var remove bool
	c := &cobra.Command{
		Use:   "policy KEYSTORE [--set FILE | --remove]",
		Short: "Show, replace or remove the Cedar policies of a key store that are written by hand",
		Long: "Show the Cedar policies of a key store that are written by hand, replace them by\n" +
			"those of a file, or remove them. They hold besides the grants. What they can say is\n" +
			"in docs/authorization.md.",
		Args: cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			route := web.Path("keystores", args[0], "policy")
			replace := func(cedar, done string) error {
				if err := a.Client().Do(cmd.Context(), http.MethodPost, route, web.Policy{Cedar: cedar}, nil); err != nil {
					return err
				}
				return a.Show(cmd, struct{}{}, func(w io.Writer) { cli.Row(w, "policies of key store "+args[0]+" "+done) })
			}
			if remove {
				return replace("", "removed")
			}
			if cmd.Flags().Changed("set") {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if len(bytes.TrimSpace(text)) == 0 {
					return fmt.Errorf("%s is empty: give a file with policies, or --remove to remove all that there are", file)
				}
				return replace(string(text), "replaced")
			}
			var p web.Policy
			if err := a.Client().Do(cmd.Context(), http.MethodGet, route, nil, &p); err != nil {
				return err
			}
			if a.JSON {
				return a.PrintJSON(cmd, p)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), p.Cedar)
			return err
		}),
	}
	c.Flags().StringVar(&file, "set", "", "file with Cedar policies")
	c.Flags().BoolVar(&remove, "remove", false, "remove all Cedar policies, and what they forbid")
	c.MarkFlagsMutuallyExclusive("set", "remove")
	return c
}

func showGrants(w io.Writer, grants ...*appliance.Grant) {
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
