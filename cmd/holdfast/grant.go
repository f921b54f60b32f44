package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/web"
)

func grantCommand(a *admin) *cobra.Command {
	var principal, operations, keyID string
	add := &cobra.Command{
		Use:   "add KEYSTORE --principal P --operations Encrypt,Decrypt,GetAttributes",
		Short: "Allow a principal operations on a key store, or on one key of it",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			ops, err := appliance.ParseOperations(operations)
			if err != nil {
				return err
			}
			var g appliance.Grant
			want := appliance.Grant{KeyID: keyID, Principal: principal, Operations: ops}
			if err := a.client().Do(cmd.Context(), http.MethodPost, web.Route("keystores", args[0], "grants"), want, &g); err != nil {
				return err
			}
			return a.show(cmd, g, func(w io.Writer) { showGrants(w, &g) })
		}),
	}
	add.Flags().StringVar(&principal, "principal", "", "an ARN, a service such as dynamodb.amazonaws.com, or * for all")
	add.Flags().StringVar(&operations, "operations", "", "Encrypt, Decrypt, GetAttributes, with commas between")
	add.Flags().StringVar(&keyID, "key", "", "only on this key")
	_ = add.MarkFlagRequired("principal") // they exist: they were made above
	_ = add.MarkFlagRequired("operations")

	list := &cobra.Command{
		Use:   "list KEYSTORE",
		Short: "List the grants of a key store and its keys",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			var grants []*appliance.Grant
			if err := a.client().Do(cmd.Context(), http.MethodGet, web.Route("keystores", args[0], "grants"), nil, &grants); err != nil {
				return err
			}
			return a.show(cmd, grants, func(w io.Writer) { showGrants(w, grants...) })
		}),
	}
	remove := &cobra.Command{
		Use:   "remove KEYSTORE GRANT",
		Short: "Remove a grant",
		Args:  cobra.ExactArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, http.MethodDelete, web.Route("keystores", args[0], "grants", args[1]), "grant "+args[1]+" removed")
		}),
	}
	return group("grant", "Manage who may use keys", add, list, remove)
}

func showGrants(w io.Writer, grants ...*appliance.Grant) {
	row(w, "GRANT", "PRINCIPAL", "OPERATIONS", "KEY", "CREATED")
	for _, g := range grants {
		row(w, g.ID, g.Principal, appliance.JoinOperations(g.Operations), orDash(g.KeyID), when(g.CreatedAt))
	}
}
