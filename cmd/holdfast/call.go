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

// call has the appliance perform an operation, after a person has confirmed it where that is due,
// and shows what it gave.
func call[In, Out any](a *admin, cmd *cobra.Command, o *operation.Operation[In, Out], in In, human func(w io.Writer, out Out)) error {
	if err := a.confirm(cmd, o.ToConfirm(in)); err != nil {
		return err
	}
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

// listCall has a server give a page of a list, and shows it with how to go on.
func listCall[In, Item any](a *admin, cmd *cobra.Command, o *operation.Operation[In, operation.List[Item]], in In, human func(w io.Writer, items []Item)) error {
	return call(a, cmd, o, in, func(w io.Writer, page operation.List[Item]) {
		human(w, page.Items)
		if page.Next != "" {
			cli.Row(w, "More: --after "+page.Next)
		}
	})
}

// addPaging adds the flags of a list to its command.
func addPaging[In, Item any](c *cobra.Command, p *operation.Paging, o *operation.Operation[In, operation.List[Item]]) *cobra.Command {
	addLimit(c, &p.Limit)
	c.Flags().StringVar(&p.After, "after", "", "go on behind the page before, which says with what")
	for _, q := range o.Query {
		if q.Name == "sort" {
			cli.OneOf(c.Flags(), &p.Sort, "sort", "the order, with a minus the other way round", q.Enum...)
		}
	}
	return c
}

// addLimit adds the flag of how many a list has at most: 100 unless it is given.
func addLimit(c *cobra.Command, limit *int) {
	*limit = 100
	cli.Between(c.Flags(), limit, "limit", "how many", 1, 1000)
}

// all gives all entries of a list, page by page. The function gives the input for a page.
func all[In, Item any](a *admin, cmd *cobra.Command, o *operation.Operation[In, operation.List[Item]], in func(operation.Paging) In) (list []Item, err error) {
	for p := (operation.Paging{Limit: 1000}); ; {
		done, err := cli.Call(cmd.Context(), &a.Admin, o, in(p))
		if err != nil {
			return nil, err
		}
		list = append(list, done.Out.Items...)
		if p.After = done.Out.Next; p.After == "" {
			return list, nil
		}
	}
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
