package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/appliance/fault"
)

// TestExitCodes: of every code of the registry the exit code is the registry's, once
// the command ran; a call that cannot be used exits 2.
func TestExitCodes(t *testing.T) {
	for _, e := range fault.All() {
		err := ranError{fmt.Errorf("while: %w", fault.Errorf(e.Code, "the message"))}
		if got := exitCode(err); got != e.Exit {
			t.Errorf("%s: exit code %d, want %d", e.Code, got, e.Exit)
		}
		want := "the message"
		if strings.HasPrefix(string(e.Code), "E_") {
			want = "while: " + string(e.Code) + ": the message"
		}
		if got := message(err); got != want {
			t.Errorf("%s: told %q, want %q", e.Code, got, want)
		}
	}
	for what, tt := range map[string]struct {
		err  error
		want int
	}{
		"cobra refused the call":      {errors.New("unknown flag"), 2},
		"the input says nothing":      {ranError{Unusable(errors.New("no evidence"))}, 2},
		"it ran and failed":           {ranError{errors.New("no such file")}, 1},
		"the appliance said no":       {ranError{fault.Errorf(fault.NotFound, "there is no key")}, 1},
		"the appliance cannot use it": {ranError{fault.Errorf(fault.Invalid, "a bad name")}, 2},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", what, got, tt.want)
		}
	}
	told := fault.Errorf(fault.Internal, "internal error; the log says why, in the line with reference=abcdefghij")
	if got := message(ranError{told}); !strings.HasSuffix(got, "reference=abcdefghij") {
		t.Errorf("a command prints %q", got)
	}
}
