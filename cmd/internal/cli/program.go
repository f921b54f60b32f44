// Package cli is what the command lines of Holdfast's programs share: exit codes,
// how results and errors are shown, what files they read, and the flags that name an
// appliance.
//
// A program exits 0 when the work is done, 1 when it was refused or failed, 2 when the
// call itself is unusable, and 3 when a verdict is incomplete.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/terminal"
	"holdfast/cmd/internal/version"
)

// Run runs a program's commands with the process's arguments, shows the error, and
// gives the exit code. An interrupt ends the command's context.
func Run(root *cobra.Command) int {
	root.SetOut(terminal.Writer(os.Stdout))
	root.SetErr(terminal.Writer(os.Stderr))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Execute(ctx, root, os.Args[1:])
}

// Execute is Run with a context and arguments. The error is shown where the root
// command has its errors shown.
func Execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	tell(root.ErrOrStderr(), root, wantsJSON(c, args), err)
	return exitCode(err)
}

var (
	// ErrReported is an error that has been shown already.
	ErrReported = errors.New("reported")
	// ErrIncomplete is a verdict that has been shown already: nothing is wrong that was
	// seen, and not all could be looked at. The program exits 3.
	ErrIncomplete = fmt.Errorf("%w: incomplete", ErrReported)
	// ErrUnusable marks input that says nothing, against input that is refused: the
	// program exits 2. See [Unusable].
	ErrUnusable = errors.New("the input is unusable")
	// ErrEmpty says that a file has nothing in it.
	ErrEmpty = errors.New("is empty")
)

// Unusable marks an error as [ErrUnusable] and leaves its text as it is.
func Unusable(err error) error { return unusable{err} }

type unusable struct{ error }

func (u unusable) Unwrap() []error { return []error{u.error, ErrUnusable} }

// ranError marks an error of a command that ran, against one of its call.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// Complete adds what every program has to its root: the version, help, completion and
// manual pages; and that every command says what is wrong with a call of it.
func Complete(root *cobra.Command) {
	root.Version = version.Version
	root.SilenceUsage, root.SilenceErrors = true, true
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.AddCommand(versionCommand(), manCommand())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(flagError)
	check(root)
}

// check has the command, and those under it, check their calls. A command that only
// holds others is none by itself.
func check(c *cobra.Command) {
	c.Args = checkCall
	c.DisableFlagsInUseLine = true
	if !c.Runnable() {
		c.RunE = unnamed
	}
	for _, sub := range c.Commands() {
		check(sub)
	}
}

// helpCommand is cobra's, which takes an unknown command for a call that ends well.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND ...]",
		Short: "Help about a command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) (names []string, _ cobra.ShellCompDirective) {
			if c, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range c.Commands() {
					if sub.IsAvailableCommand() && strings.HasPrefix(sub.Name(), word) {
						names = append(names, sub.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = unknownCommand(c, rest[0])
			}
			if err != nil {
				return err
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

func versionCommand() *cobra.Command {
	var o Output
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		RunE: Does(func(cmd *cobra.Command, _ []string) error {
			o.JSON = wantsJSON(cmd, nil)
			return o.Show(cmd, map[string]string{"version": version.Version}, func(w io.Writer) { Row(w, version.Version) })
		}),
	}
}

// Does makes the RunE of a command from what it does: its errors are those of a
// command that ran.
func Does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd, args); err != nil {
			return ranError{err}
		}
		return nil
	}
}

// Group makes a command that only holds others. Without one of them, or with an
// unknown one, the call is unusable.
func Group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: unnamed}
	c.AddCommand(commands...)
	return c
}

func unnamed(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("%s: name a command; %s --help lists them", pathOf(cmd), cmd.CommandPath())
}
