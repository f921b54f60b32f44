package coredump

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Forbid keeps this process's memory out of core dumps. It does not keep debuggers
// of the same user away.
func Forbid() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
