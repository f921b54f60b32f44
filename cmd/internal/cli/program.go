// Package cli is what the command lines of Holdfast's programs share: exit codes,
// how results and errors are shown, what files they read, and the flags that name an
// appliance.
//
// A program exits 0 when the work is done, 1 when it was refused or failed, and 2
// when the call itself is unusable.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/version"
)

// Run runs a program's commands with the process's arguments, shows the error, and
// gives the exit code. An interrupt ends the command's context.
func Run(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, ErrReported) {
		fmt.Fprintln(os.Stderr, root.Name()+": "+message(err))
	}
	return exitCode(err)
}

// exitCode is what a program exits with. Of a fault the registry says it.
func exitCode(err error) int {
	f, isFault := errors.AsType[*fault.Fault](err)
	switch {
	case errors.Is(err, ErrUnusable), !errors.As(err, new(ranError)):
		return fault.Invalid.Entry().Exit // the command, or cobra, found the call unusable
	case isFault:
		return f.Code.Entry().Exit
	}
	return fault.Internal.Entry().Exit
}

// message is what the caller is told. A code such as E_AUDIT_EDITED is told with it,
// since docs/codes.md says what to do about it.
func message(err error) string {
	f, isFault := errors.AsType[*fault.Fault](err)
	if !isFault || strings.HasPrefix(string(f.Code), "E_") {
		return err.Error()
	}
	return f.Reason()
}

var (
	// ErrReported is an error that has been shown already.
	ErrReported = errors.New("reported")
	// ErrUnusable marks input that says nothing, against input that is refused: the
	// program exits 2. See [Unusable].
	ErrUnusable = errors.New("the input is unusable")
)

// Unusable marks an error as [ErrUnusable] and leaves its text as it is.
func Unusable(err error) error { return unusable{err} }

type unusable struct{ error }

func (u unusable) Unwrap() []error { return []error{u.error, ErrUnusable} }

// ranError marks an error of a command that ran, against one of its call.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// Complete adds what every program has to its root: the version, completion, manual
// pages, and that cobra's own group of commands refuses what it does not know.
func Complete(root *cobra.Command) {
	root.Version = version.Version
	root.SilenceUsage, root.SilenceErrors = true, true
	root.AddCommand(versionCommand(), manCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.RunE = unnamed
		}
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Args:  cobra.NoArgs,
		RunE: Does(func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.Version)
			return err
		}),
	}
}

// Does makes the RunE of a command from what it does: its errors are those of a
// command that ran. An empty argument, such as of an unset variable, would name
// another route of the API.
func Does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return fmt.Errorf("%s: an argument is empty; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		}
		if err := f(cmd, args); err != nil {
			return ranError{err}
		}
		return nil
	}
}

// Group makes a command that only holds others. Without one of them, or with an
// unknown one, the call is unusable.
func Group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: unnamed}
	c.AddCommand(commands...)
	return c
}

func unnamed(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("%s: name a command; see %s --help", cmd.CommandPath(), cmd.CommandPath())
}
