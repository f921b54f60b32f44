package fleet

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is the time since the machine started, with the time in which it was suspended
// (CLOCK_BOOTTIME, clock_gettime(2)). Nobody can set it.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1 << 62 // nothing is fresh then; Linux has had this clock since 2.6.39
	}
	return time.Duration(ts.Nano())
}
