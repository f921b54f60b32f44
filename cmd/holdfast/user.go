package main

import (
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

const rolesText = "viewer, auditor, key-administrator or administrator"

func userCommand(a *admin) *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List the users of the console",
		Args:  cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			users, err := a.users(cmd)
			if err != nil {
				return err
			}
			return a.Show(cmd, users, func(w io.Writer) {
				cli.Row(w, "NAME", "ROLE", "STATE", "PASSKEYS", "PASSWORD", "LAST SIGN-IN")
				for _, u := range users {
					state, password := "enabled", "no"
					if u.Disabled {
						state = "disabled"
					}
					if u.Password {
						password = "yes"
					}
					cli.Row(w, u.Name, u.Role, state, len(u.Passkeys), password, cli.When(u.LastSignInAt))
				}
			})
		}),
	}
	var role string
	invite := &cobra.Command{
		Use:   "invite NAME --role ROLE",
		Short: "Make a link that is good once, by which somebody becomes a user",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var i web.CreatedInvitation
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "invitations", web.NewInvitation{Name: args[0], Role: identity.Role(role)}, &i); err != nil {
				return err
			}
			return a.Show(cmd, i, func(w io.Writer) {
				cli.Row(w, "name", i.Name)
				cli.Row(w, "role", i.Role)
				cli.Row(w, "link", "https://THE-CONSOLE/invitation/"+i.Token)
				cli.Row(w, "good until", cli.When(i.ExpiresAt))
			})
		}),
	}
	invite.Flags().StringVar(&role, "role", string(identity.RoleViewer), rolesText)
	return cli.Group("user", "Manage the users of the console", list, invite,
		userChangeCommand(a, "disable", "Keep a user out, and end their sessions", "is kept out"),
		userChangeCommand(a, "enable", "Let a user in again", "may sign in"),
		userChangeCommand(a, "unlock", "Let a user try passwords again after too many wrong ones", "may try again"),
		userChangeCommand(a, "sign-out", "End all sessions of a user", "is signed out"),
		userChangeCommand(a, "delete", "Remove a user", "is removed"))
}

func (a *admin) users(cmd *cobra.Command) (users []*identity.User, err error) {
	err = a.Client().Do(cmd.Context(), http.MethodGet, "users", nil, &users)
	return users, err
}

// userChangeCommand makes a command that calls one route of a user.
func userChangeCommand(a *admin, name, short, done string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " NAME",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			users, err := a.users(cmd)
			if err != nil {
				return err
			}
			for _, u := range users {
				if u.Name != args[0] {
					continue
				}
				if name == "delete" {
					return a.done(cmd, http.MethodDelete, web.Path("users", u.ID), "user "+u.Name+" "+done)
				}
				return a.done(cmd, http.MethodPost, web.Path("users", u.ID, name), "user "+u.Name+" "+done)
			}
			return fault.Errorf(fault.NotFound, "there is no user %q", args[0])
		}),
	}
}

func tokenCommand(a *admin) *cobra.Command {
	var want web.NewToken
	var role, out string
	create := &cobra.Command{
		Use:   "create NAME --role ROLE --out FILE",
		Short: "Make an API token, for programs and for --token-file",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			want.Name, want.Role = args[0], identity.Role(role)
			if out == "" {
				return fmt.Errorf("--out: name a file for the token; it is not shown")
			}
			// Opened before, so that no token is made that would be lost.
			f, err := privatefile.Create(out)
			if err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			defer f.Close()
			var t web.CreatedToken
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "tokens", want, &t); err != nil {
				_ = f.Close() // Windows removes no open file
				_ = os.Remove(out)
				return err
			}
			if _, err := fmt.Fprintln(f, t.Secret); err != nil {
				return fmt.Errorf("the token %s was made and could not be written, revoke it: %w", t.Name, err)
			}
			return a.Show(cmd, t.Token, func(w io.Writer) {
				cli.Row(w, "token", t.Name+" is in "+out)
				cli.Row(w, "role", t.Role)
				cli.Row(w, "good until", cli.When(t.ExpiresAt))
			})
		}),
	}
	create.Flags().StringVar(&role, "role", string(identity.RoleViewer), rolesText)
	create.Flags().IntVar(&want.Days, "days", 90, "how long it is good for, 1 to 365")
	create.Flags().StringVar(&out, "out", "", "file for the token, which must not exist")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the API tokens",
		Args:  cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			tokens, err := a.tokens(cmd)
			if err != nil {
				return err
			}
			return a.Show(cmd, tokens, func(w io.Writer) {
				cli.Row(w, "NAME", "ROLE", "MADE BY", "EXPIRES", "LAST USED", "REVOKED")
				for _, t := range tokens {
					cli.Row(w, t.Name, t.Role, t.CreatedBy, cli.When(t.ExpiresAt), cli.When(t.LastUsedAt), cli.When(t.RevokedAt))
				}
			})
		}),
	}
	revoke := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Refuse an API token from now on",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			tokens, err := a.tokens(cmd)
			if err != nil {
				return err
			}
			for _, t := range tokens {
				if t.Name == args[0] {
					return a.done(cmd, http.MethodDelete, web.Path("tokens", t.ID), "API token "+t.Name+" is refused from now on")
				}
			}
			return fault.Errorf(fault.NotFound, "there is no API token %q", args[0])
		}),
	}
	return cli.Group("token", "Manage API tokens", create, list, revoke)
}

func (a *admin) tokens(cmd *cobra.Command) (tokens []identity.Token, err error) {
	err = a.Client().Do(cmd.Context(), http.MethodGet, "tokens", nil, &tokens)
	return tokens, err
}
