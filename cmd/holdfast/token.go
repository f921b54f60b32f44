package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance/identity"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func tokenCommand(a *admin) *cobra.Command {
	return cli.Group("token", "Manage API tokens", tokenCreateCommand(a), tokenListCommand(a), tokenShowCommand(a), tokenRevokeCommand(a))
}

func tokenCreateCommand(a *admin) *cobra.Command {
	want := operation.NewToken{Role: identity.RoleViewer, Days: 90}
	var out string
	c := a.asking("create NAME --role ROLE --key-store NAMES --operation IDS --network CIDRS --out FILE", "Make an API token, for programs and for --token-file", func(cmd *cobra.Command, args []string) error {
		want.Name = args[0]
		// Opened before, so that no token is made that would be lost.
		f, err := privatefile.Create(out)
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		defer f.Close()
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.CreateToken, want)
		if err != nil {
			_ = f.Close() // Windows removes no open file
			_ = os.Remove(out)
			return err
		}
		t := done.Out.Token
		if _, err := fmt.Fprintln(f, done.Out.Secret); err != nil {
			return fmt.Errorf("the token %s was made and could not be written, revoke it: %w", t.Name, err)
		}
		return a.Show(cmd, t, func(w io.Writer) {
			cli.Row(w, "token", t.Name+" is in "+out)
			cli.Row(w, "role", t.Role)
			cli.Row(w, "scope", t.Scope.String())
			cli.Row(w, "good until", cli.When(t.ExpiresAt))
		})
	})
	addRole(c, &want.Role)
	cli.Between(c.Flags(), &want.Days, "days", "how long it is good for", 1, 365)
	c.Flags().StringSliceVar(&want.Scope.KeyStores, "key-store", nil, "names of the key stores that it may be used for; \"*\" for all")
	c.Flags().StringSliceVar(&want.Scope.Operations, "operation", nil, "IDs of the operations that it may perform, as in the OpenAPI document; \"*\" for all that the role may")
	c.Flags().StringSliceVar(&want.Scope.Networks, "network", nil, "networks that it may be used from, such as 10.20.0.0/16; \"*\" for all")
	c.Flags().StringVar(&out, "out", "", "file for the token, which must not exist")
	for _, needed := range []string{"out", "key-store", "operation", "network"} {
		_ = c.MarkFlagRequired(needed) // it exists: it was made above
	}
	return c
}

func tokenListCommand(a *admin) *cobra.Command {
	var page operation.TokenPage
	return addPaging(a.asking("list", "List the API tokens", func(cmd *cobra.Command, _ []string) error {
		return listCall(a, cmd, operation.ListTokens, page, showTokens)
	}), &page.Paging, operation.ListTokens)
}

func showTokens(w io.Writer, tokens []identity.Token) {
	cli.Row(w, "NAME", "ROLE", "SCOPE", "MADE BY", "EXPIRES", "LAST USED", "REVOKED")
	for _, t := range tokens {
		cli.Row(w, t.Name, t.Role, t.Scope.String(), t.CreatedBy, cli.When(t.ExpiresAt), cli.When(t.LastUsedAt), cli.When(t.RevokedAt))
	}
}

// token finds an API token by its name.
func (a *admin) token(cmd *cobra.Command, name string) (identity.Token, error) {
	tokens, err := all(a, cmd, operation.ListTokens, func(p operation.Paging) operation.TokenPage { return operation.TokenPage{Paging: p} })
	if err != nil {
		return identity.Token{}, err
	}
	return found(tokens, func(t identity.Token) bool { return t.Name == name }, "API token", name)
}

func tokenShowCommand(a *admin) *cobra.Command {
	return a.asking("show NAME", "Show an API token, without its secret", func(cmd *cobra.Command, args []string) error {
		t, err := a.token(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.ShowToken, operation.TokenName{Token: t.ID}, func(w io.Writer, t identity.Token) { showTokens(w, []identity.Token{t}) })
	})
}

func tokenRevokeCommand(a *admin) *cobra.Command {
	return a.asking("revoke NAME", "Refuse an API token from now on", func(cmd *cobra.Command, args []string) error {
		t, err := a.token(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.RevokeToken, operation.TokenName{Token: t.ID}, says[identity.Token]("API token "+t.Name+" is refused from now on"))
	})
}
