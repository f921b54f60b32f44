package daemon

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// spareCollections has the garbage collector work less often. So little is live
// here that by its defaults it would work many times a second under load, which
// costs a tenth of the throughput. The heap may grow to eleven times of what is
// live, some tens of megabytes, but not beyond half of the machine's memory.
// GOGC and GOMEMLIMIT override this.
func spareCollections() {
	var machine unix.Sysinfo_t
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" || unix.Sysinfo(&machine) != nil {
		return
	}
	debug.SetGCPercent(1000)
	debug.SetMemoryLimit(int64(uint64(machine.Totalram) * uint64(machine.Unit) / 2))
}
