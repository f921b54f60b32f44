package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/appliance/approval"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/terminal"
	"holdfast/web/operation"
)

// Failure is what a command that fails prints to standard error with --json: one
// object in one line, whatever failed. Standard output has results alone.
type Failure struct {
	// Code is the registry's (docs/codes.md).
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
	// WhatToDo is the registry's advice for the code.
	WhatToDo string `json:"what_to_do,omitempty"`
	// Reference finds the line of the appliance's log that has the cause.
	Reference string `json:"reference,omitempty"`
	// ExitCode is what the program exits with.
	ExitCode int `json:"exit_code"`
	// Request is what waits for the approval of another person, if the operation does.
	Request *approval.Request `json:"request,omitempty"`
}

// NewFailure describes the error of a command.
func NewFailure(err error) Failure {
	f := Failure{Code: codeOf(err), Message: message(err), ExitCode: exitCode(err)}
	f.WhatToDo = f.Code.Entry().Do
	if known, ok := errors.AsType[*fault.Fault](err); ok {
		f.Reference = known.Reference
	}
	f.Request = awaited(err)
	return f
}

// codeOf is the code of an error. An error of this computer has no fault of its own.
func codeOf(err error) fault.Code {
	known, isFault := errors.AsType[*fault.Fault](err)
	switch {
	case isFault:
		return known.Code
	case awaited(err) != nil:
		return fault.AwaitsApproval
	case errors.Is(err, ErrUnusable), !errors.As(err, new(ranError)):
		return fault.Invalid
	}
	return fault.Failed
}

// awaited gives the request that waits for approval, if the operation does.
func awaited(err error) *approval.Request {
	if p, ok := errors.AsType[*operation.Pending](err); ok {
		return p.Request
	}
	return nil
}

// incompleteExit is the exit code of [ErrIncomplete].
const incompleteExit = 3

// exitCode is what a program exits with. Of a fault the registry says it.
func exitCode(err error) int {
	if errors.Is(err, ErrIncomplete) {
		return incompleteExit
	}
	if errors.Is(err, ErrUnusable) || !errors.As(err, new(ranError)) {
		return fault.Invalid.Entry().Exit // the command, or cobra, found the call unusable
	}
	return codeOf(err).Entry().Exit
}

// message is what the caller is told, in one printable line; of a configuration file,
// in one for each problem. A code such as
// E_AUDIT_EDITED is told with it, since docs/codes.md says what to do about it.
func message(err error) string {
	text := inWords(err)
	if f, isFault := errors.AsType[*fault.Fault](err); isFault && !strings.HasPrefix(string(f.Code), "E_") {
		text = inWords(reason{f})
	}
	if errors.As(err, new(config.Problems)) {
		return terminal.Lines(text)
	}
	return terminal.Text(strings.ReplaceAll(text, "\n", " "))
}

// reason is a fault without its code.
type reason struct{ *fault.Fault }

func (r reason) Error() string { return r.Reason() }

// tell shows the error of a command.
func tell(w io.Writer, root *cobra.Command, asJSON bool, err error) {
	if errors.Is(err, ErrReported) {
		return
	}
	if !asJSON {
		fmt.Fprintln(w, root.Name()+": "+message(err))
		return
	}
	_ = printJSON(w, "", NewFailure(err)) // nobody reads it if this fails
}

// wantsJSON says whether a call wants JSON, also where its flags could not be read.
func wantsJSON(c *cobra.Command, args []string) bool {
	if f := c.Flag(jsonFlag); f != nil && f.Changed {
		return f.Value.String() == "true"
	}
	only := pflag.NewFlagSet("", pflag.ContinueOnError)
	wants := only.Bool(jsonFlag, false, "")
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if strings.HasPrefix(arg, "--"+jsonFlag) {
			_ = only.Parse([]string{arg}) // an error leaves it as it is
		}
	}
	return *wants
}
