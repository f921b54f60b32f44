package main

import (
	"io"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// asking makes a command that asks the appliance.
func (a *admin) asking(use, short string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return a.Asks(&cobra.Command{Use: use, Short: short, RunE: cli.Does(run)})
}

// call has the appliance perform an operation, and shows what it gave.
func call[In, Out any](a *admin, cmd *cobra.Command, o *operation.Operation[In, Out], in In, human func(w io.Writer, out Out)) error {
	done, err := cli.Call(cmd.Context(), &a.Admin, o, in)
	if err != nil {
		return err
	}
	return a.Show(cmd, done, func(w io.Writer) {
		human(w, done.Out)
		if effect := done.Effect.String(); effect != "" {
			cli.Row(w, effect)
		}
	})
}

// says shows that something was done, whatever the operation gave.
func says[Out any](what string) func(io.Writer, Out) {
	return func(w io.Writer, _ Out) { cli.Row(w, what) }
}

// found looks for the one of a list that a caller has named.
func found[T any](all []T, is func(T) bool, what, name string) (one T, err error) {
	i := slices.IndexFunc(all, is)
	if i < 0 {
		return one, fault.Errorf(fault.NotFound, "there is no %s %q", what, name)
	}
	return all[i], nil
}
