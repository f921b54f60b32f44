package audit_test

import (
	"errors"
	"syscall"
	"time"

	"holdfast/appliance/audit"
)

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// code gives the code of an error of the package; "" if it is none.
func code(err error) audit.Code {
	var e *audit.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
