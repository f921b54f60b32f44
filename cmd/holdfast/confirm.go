package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// confirm shows a person at a terminal what relies on the thing that is to be taken out of service,
// and has its name typed. Nobody is asked with --yes or --json, or where standard input is no
// terminal: a script names the thing in its arguments.
func (a *admin) confirm(cmd *cobra.Command, c *operation.Confirmation) error {
	in, isFile := cmd.InOrStdin().(*os.File)
	if c == nil || a.Yes || a.JSON || !isFile || !term.IsTerminal(int(in.Fd())) { //nolint:gosec // a descriptor fits
		return nil
	}
	w := tabwriter.NewWriter(cmd.ErrOrStderr(), 0, 0, 2, ' ', 0)
	cli.Row(w, c.Words+": "+c.Object)
	if c.Of != nil {
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowDependents, *c.Of)
		switch {
		case fault.CodeOf(err) == fault.NotFound && !operation.IsNoRoute(err):
			return err
		case err != nil:
			cli.Row(w, "What relies on it is not known: "+err.Error())
		default:
			if c.Object != "" {
				c.Name = done.Out.Name
			}
			showDependents(w, done.Out)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Type %s to confirm: ", c.Name)
	const most = 4096
	typed, err := bufio.NewReader(io.LimitReader(in, most)).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("standard input: %w", err)
	}
	if err := c.Check(typed); err != nil {
		return fault.Errorf(fault.Invalid, "nothing was done: %s; a script gives --yes", err)
	}
	return nil
}

func showDependents(w io.Writer, d *operation.Dependents) {
	for _, s := range append(d.Says, d.Uses.Sentences()...) {
		cli.Row(w, s)
	}
	if d.Uses != nil {
		for _, by := range d.Uses.Callers {
			cli.Row(w, "caller", by.Principal, by.Requests, cli.When(by.Last))
		}
	}
	for _, t := range d.Things {
		cli.Row(w, t.Kind, t.Count, strings.Join(t.Names, "; "))
	}
	for _, s := range d.Unknown {
		cli.Row(w, s)
	}
}

func dependentsCommand(a *admin) *cobra.Command {
	var in operation.DependentsOf
	var user string
	c := a.asking("dependents [KEYSTORE [KEYID]]", "Show what relies on a thing, before it is taken out of service", func(cmd *cobra.Command, args []string) error {
		for i, into := range []*string{&in.KeyStore, &in.Key} {
			if i < len(args) {
				*into = args[i]
			}
		}
		if user != "" {
			u, err := a.user(cmd, user)
			if err != nil {
				return err
			}
			in.User = u.User
		}
		return call(a, cmd, operation.ShowDependents, in, func(w io.Writer, d *operation.Dependents) {
			cli.Row(w, d.Object)
			showDependents(w, d)
		})
	})
	c.Long = "Show what relies on a key store, a key, a credential, a grant, a user or a node; without any of them,\n" +
		"on everything. Last use and callers are from the audit log of the last seven days."
	f := c.Flags()
	f.StringVar(&in.Credential, "credential", "", "access key ID of a credential of the key store")
	f.StringVar(&in.Grant, "grant", "", "ID of a grant of the key store")
	f.StringVar(&in.Node, "node", "", "ID of a node of the fleet")
	f.StringVar(&user, "user", "", "name of a user of the console")
	return c
}
