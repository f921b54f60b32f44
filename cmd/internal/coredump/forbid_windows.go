package coredump

import (
	"errors"
	"os"
)

// Forbid says whether Windows may write this process's memory to a crash dump. Go's
// runtime ends a program that crashed by itself, so that Windows Error Reporting
// makes no dump, unless GOTRACEBACK=wer asks for one. It does not keep debuggers of
// the same user away.
func Forbid() error {
	if os.Getenv("GOTRACEBACK") == "wer" {
		return errors.New("forbid core dumps: GOTRACEBACK=wer has Windows dump the memory of a program that crashed; unset it")
	}
	return nil
}
