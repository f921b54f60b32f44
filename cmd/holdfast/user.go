package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/identity"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func userCommand(a *admin) *cobra.Command {
	return cli.Group("user", "Manage the users of the console", userListCommand(a), userShowCommand(a), userInviteCommand(a), userSetRoleCommand(a), userSetOIDCCommand(a), userSetEmailCommand(a),
		userChangeCommand(a, "disable", "Keep a user out, and end their sessions", "is kept out", operation.DisableUser),
		userChangeCommand(a, "enable", "Let a user in again", "may sign in", operation.EnableUser),
		userChangeCommand(a, "unlock", "Let a user try passwords again after too many wrong ones", "may try again", operation.UnlockUser),
		userChangeCommand(a, "sign-out", "End all sessions of a user", "is signed out", operation.SignOutUser),
		userChangeCommand(a, "delete", "Remove a user", "is removed", operation.DeleteUser))
}

// user finds a user by the name.
func (a *admin) user(cmd *cobra.Command, name string) (operation.UserName, error) {
	users, err := all(a, cmd, operation.ListUsers, func(p operation.Paging) operation.UserPage { return operation.UserPage{Paging: p} })
	if err != nil {
		return operation.UserName{}, err
	}
	u, err := found(users, func(u *identity.User) bool { return u.Name == name }, "user", name)
	if err != nil {
		return operation.UserName{}, err
	}
	return operation.UserName{User: u.ID}, nil
}

func userListCommand(a *admin) *cobra.Command {
	var page operation.UserPage
	return addPaging(a.asking("list", "List the users of the console", func(cmd *cobra.Command, _ []string) error {
		return listCall(a, cmd, operation.ListUsers, page, func(w io.Writer, users []*identity.User) {
			cli.Row(w, "NAME", "ROLE", "STATE", "PASSKEYS", "PASSWORD", "LAST SIGN-IN")
			for _, u := range users {
				cli.Row(w, u.Name, u.Role, stateOfUser(u), len(u.Passkeys), yes(u.Password), cli.When(u.LastSignInAt))
			}
		})
	}), &page.Paging, operation.ListUsers)
}

func userShowCommand(a *admin) *cobra.Command {
	return a.asking("show NAME", "Show a user of the console", func(cmd *cobra.Command, args []string) error {
		u, err := a.user(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.ShowUser, u, showUser)
	})
}

func stateOfUser(u *identity.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "enabled"
}

func showUser(w io.Writer, u *identity.User) {
	cli.Row(w, "name", u.Name)
	cli.Row(w, "role", u.Role)
	cli.Row(w, "state", stateOfUser(u))
	for _, p := range u.Passkeys {
		cli.Row(w, "passkey", p.Name)
	}
	cli.Row(w, "password", yes(u.Password))
	cli.Row(w, "OpenID e-mail", cli.OrDash(u.OIDC))
	cli.Row(w, "e-mail for notices", cli.OrDash(u.Email))
	cli.Row(w, "last sign-in", cli.When(u.LastSignInAt))
}

func userInviteCommand(a *admin) *cobra.Command {
	want := operation.NewInvitation{Role: identity.RoleViewer}
	c := a.asking("invite NAME --role ROLE", "Make a link that is good once, by which somebody becomes a user", func(cmd *cobra.Command, args []string) error {
		want.Name = args[0]
		return call(a, cmd, operation.CreateInvitation, want, func(w io.Writer, i operation.CreatedInvitation) {
			cli.Row(w, "name", i.Name)
			cli.Row(w, "role", i.Role)
			cli.Row(w, "link", "https://THE-CONSOLE/invitation/"+i.Token)
			cli.Row(w, "good until", cli.When(i.ExpiresAt))
		})
	})
	addRole(c, &want.Role)
	return c
}

func addRole(c *cobra.Command, role *identity.Role) {
	cli.OneOf(c.Flags(), role, "role", "what they may do", identity.Roles...)
}

func userSetRoleCommand(a *admin) *cobra.Command {
	var role identity.Role
	c := a.asking("set-role NAME --role ROLE", "Give a user another role", func(cmd *cobra.Command, args []string) error {
		u, err := a.user(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.SetRole, operation.RoleChange{UserName: u, Role: role}, showUser)
	})
	addRole(c, &role)
	_ = c.MarkFlagRequired("role") // it exists: it was made above
	return c
}

func userSetOIDCCommand(a *admin) *cobra.Command {
	var email string
	var remove bool
	c := a.asking("set-oidc NAME {--email ADDRESS | --remove}", "Let a user sign in by the OpenID provider, with a verified e-mail address", func(cmd *cobra.Command, args []string) error {
		u, err := a.user(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.BindOIDC, operation.OIDCBinding{UserName: u, Email: email}, showUser)
	})
	c.Flags().StringVar(&email, "email", "", "the address that the provider has verified")
	c.Flags().BoolVar(&remove, "remove", false, "let the user sign in so no longer")
	c.MarkFlagsOneRequired("email", "remove")
	c.MarkFlagsMutuallyExclusive("email", "remove")
	return c
}

func userSetEmailCommand(a *admin) *cobra.Command {
	var email string
	var remove bool
	c := a.asking("set-email NAME {--email ADDRESS | --remove}", "Have notices of requests for approval go to an e-mail address of a user", func(cmd *cobra.Command, args []string) error {
		u, err := a.user(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, operation.SetEmail, operation.EmailAddress{UserName: u, Email: email}, showUser)
	})
	c.Flags().StringVar(&email, "email", "", "the address to which notices go")
	c.Flags().BoolVar(&remove, "remove", false, "send the user no notices any more")
	c.MarkFlagsOneRequired("email", "remove")
	c.MarkFlagsMutuallyExclusive("email", "remove")
	return c
}

// userChangeCommand makes a command that performs one operation on a user.
func userChangeCommand[Out any](a *admin, name, short, done string, o *operation.Operation[operation.UserName, Out]) *cobra.Command {
	return a.asking(name+" NAME", short, func(cmd *cobra.Command, args []string) error {
		u, err := a.user(cmd, args[0])
		if err != nil {
			return err
		}
		return call(a, cmd, o, u, says[Out]("user "+args[0]+" "+done))
	})
}
