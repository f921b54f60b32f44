package daemon

import (
	"bytes"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/appliance"
)

// collectorPace is how far the heap may grow beyond what is live before the garbage collector
// works, in the sense of GOGC. So little is live here that by Go's default of 100 it would work
// many times a second under load. Measured in turns in one run, ten rounds of 0.7 s, with two
// processors for server and load (November 2026); requests per second at 128 and 512 connections,
// and the most memory that the process had:
//
//	GOGC 200    6,390   7,490  140 MiB
//	GOGC 400    7,670   8,640  178 MiB
//	GOGC 1000   7,210   9,530  307 MiB
//	heap of 128 MiB, whatever is live   7,620  10,400  175 MiB
//
// The last is no rule where a million keys are live. Beyond 400 it is memory for little: of the
// garbage of ten seconds there is never more, as package scrub has it collected by then.
const collectorPace = 400

// budget is how this process shares out the memory that it may have.
type budget struct {
	// memory is the machine's, or what a cgroup allows, in bytes.
	memory uint64
	// heap is what the heap grows to at most before the garbage collector works without pause: half
	// of that. The rest is for the pages of the database, the PKCS#11 module's process and the system.
	heap uint64
	// keys is how many are kept ready for use: what a quarter has room for, so that the heap can
	// become twice as large as what is live.
	keys int
}

// The fewest and most keys that are kept ready, if the configuration does not say how many.
const (
	fewestKeys = 1 << 16
	mostKeys   = 1 << 20
)

// shareOut gives the budget of a process that may have so much memory, and lock so much of it.
func shareOut(memory, lockable uint64) budget {
	keys := min(max(memory/4/appliance.KeyMemory, fewestKeys), mostKeys)
	// Half of what may be locked, since other secrets are in locked memory, too.
	keys = min(keys, lockable/2/appliance.KeyBytes)
	return budget{memory, memory / 2, int(max(keys, 1))}
}

// thisBudget is that of this process.
func thisBudget() budget {
	memory := uint64(8 << 30) // Linux always says
	var machine unix.Sysinfo_t
	if unix.Sysinfo(&machine) == nil {
		memory = uint64(machine.Totalram) * uint64(machine.Unit)
	}
	return shareOut(min(memory, allowed("/")), lockable())
}

// allowed is how much memory the cgroup of this process may have, and all cgroups above it, such as
// by MemoryMax= of a systemd unit; root is where the file system begins.
func allowed(root string) uint64 {
	most := uint64(math.MaxUint64)
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return most
	}
	for line := range strings.Lines(string(text)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::") // cgroup v2 (cgroups(7))
		if !ok {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			limit, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", group, "memory.max"))
			if err == nil { // else it has no such controller
				if n, err := strconv.ParseUint(string(bytes.TrimSpace(limit)), 10, 64); err == nil { // else it is "max"
					most = min(most, n)
				}
			}
			if group == "/" {
				return most
			}
		}
	}
	return most
}

// lockable is how much memory this process may lock.
func lockable() uint64 {
	const ipcLock = 14 // capabilities(7), CAP_IPC_LOCK: without a limit
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<ipcLock) != 0 {
		return math.MaxUint64
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil {
		return math.MaxUint64
	}
	return limit.Cur
}

// spareCollections has the garbage collector work less often, within the budget. GOGC and
// GOMEMLIMIT override this.
func (b budget) spareCollections() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(collectorPace)
	debug.SetMemoryLimit(int64(min(b.heap, math.MaxInt64)))
}
