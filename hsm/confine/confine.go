// Package confine has a process give up what a PKCS#11 module does not need. Call [Self] first thing
// in a program, before a vendor's library is loaded. Linux only.
//
// # Guarantees
//
//   - All threads of the process are confined alike, also those that a library starts, and all
//     processes that it starts. None of it can be undone.
//   - The process has no capabilities and gets none, traces no process, makes no namespace, leaves
//     its process group for no other, and leaves no core dump.
//   - If the machine's memory is over, the kernel ends it before others.
//   - What the kernel does not have is told, and nothing else is left out: any other failure is an error.
//
// # How
//
// Landlock and capabilities belong to a thread. To set them on all threads of a running Go program
// with C in it, each thread must be interrupted by a signal, and before ABI 8 each gets a landlock domain
// of its own, in which some kernels refuse signals between the threads. So Self restricts the thread that calls
// it and executes the program again from there: the new program begins with that one thread.
package confine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Rules say what the process keeps. The zero value keeps what every program needs: the system's
// libraries and settings, and neither network nor a place to write.
type Rules struct {
	// Read has files and folders, with all below them, that may be read and executed.
	Read []string
	// Write has those that may also be changed. A Unix socket in it may be connected to.
	Write []string
	// Hidden has files and folders that stay closed though one of the system's folders, or one in Read
	// or Write, has them in it. What is named in Read or Write itself, or lies deeper, is open all the same.
	Hidden []string

	// AnyPort allows TCP connections to all ports; ConnectPorts those to some. To listen is not allowed.
	AnyPort      bool
	ConnectPorts []uint16

	// Filtered says that the process's unit lets through Addresses alone (IPAddressAllow=), none if there are
	// none. Self only sees that it does: no process can filter its own addresses.
	Filtered  bool
	Addresses []netip.Prefix

	// MemoryBytes bounds the memory that the process can write to, its threads' stacks with it (RLIMIT_DATA).
	// Beyond it C code is told that there is no memory, and Go code ends the process. 0: no bound; else at
	// least [LeastMemoryBytes].
	MemoryBytes uint64
}

// LeastMemoryBytes is the smallest bound under which a program of some size starts and works.
const LeastMemoryBytes = 128 << 20

// openFiles is the number of descriptors that the process may have. Some vendors' libraries use
// select(2), which overruns its set of descriptors beyond that number.
const openFiles = 1024

// stackBytes is the stack of each thread that C libraries and Go's runtime start. All of it counts for the
// bound of memory, used or not, and the usual 8 MiB are a lot for a thread per session.
const stackBytes = 2 << 20

// timerSlack is by how many nanoseconds a sleep may be longer, so that fewer come. Go's runtime looks for calls of C
// that do not return every 20 us, and with the kernel's slack of 50 us that is a tenth of what a process costs whose
// calls are short. Such a call keeps others waiting for so long at most.
const timerSlack = 200_000

// executed is the environment variable by which Self knows that it executed the program.
const executed = "HOLDFAST_CONFINED"

// Self confines this process. It executes the program again, with the same arguments, environment and
// descriptors, and gives what was done once it is called there; so what a program does before comes twice.
// After an error the process must end.
func Self(r Rules) (Told, error) {
	if os.Getenv(executed) == "" {
		return Told{}, fmt.Errorf("confine: %w", r.execute())
	}
	_ = os.Unsetenv(executed)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return Told{}, fmt.Errorf("confine: keep debuggers away: %w", err)
	}
	told := tell(r)
	if err := told.check(r); err != nil {
		return Told{}, fmt.Errorf("confine: %w", err)
	}
	return told, nil
}

// execute restricts this thread and executes the program in it. It returns if that fails.
func (r Rules) execute() error {
	// Never unlocked: should this fail, the thread ends and takes what was restricted with it.
	runtime.LockOSThread()
	if r.MemoryBytes > 0 && r.MemoryBytes < LeastMemoryBytes {
		return fmt.Errorf("%d bytes of memory are not enough for a module; give it at least %d", r.MemoryBytes, LeastMemoryBytes)
	}
	files, err := r.ruleset()
	if err != nil {
		return err
	}
	if err := r.limit(); err != nil {
		return err
	}
	endFirst()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := files.enforce(); err != nil {
		return err
	}
	if err := filterCalls(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0); err != nil {
		return fmt.Errorf("slack of timers: %w", err)
	}
	environment := append(os.Environ(), executed+"=1")
	return fmt.Errorf("execute the program again: %w", syscall.Exec("/proc/self/exe", os.Args, environment))
}

func (r Rules) limit() error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: openFiles, unix.RLIMIT_STACK: stackBytes}
	if r.MemoryBytes > 0 {
		limits[unix.RLIMIT_DATA] = r.MemoryBytes
	}
	for resource, most := range limits {
		var now unix.Rlimit
		if err := unix.Getrlimit(resource, &now); err != nil {
			return fmt.Errorf("read resource limit %d: %w", resource, err)
		}
		most = min(most, now.Max) // RLIM_INFINITY is the largest
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("set resource limit %d to %d: %w", resource, most, err)
		}
	}
	// Locked memory is what CAP_IPC_LOCK gave without a limit. Without that right the limit stays.
	if r.MemoryBytes > 0 {
		err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: r.MemoryBytes, Max: r.MemoryBytes})
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set the limit of locked memory: %w", err)
		}
	}
	return nil
}

// endFirst has the kernel end this process before others when the machine's memory is over: the one that starts it
// holds the keys. It takes nothing from the process, so one in which it fails is confined all the same.
func endFirst() {
	const first = "1000" // proc_pid_oom_score_adj(5)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(first), 0)
}

func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, none [2]unix.CapUserData // version 3 takes two
	if err := unix.Capget(&header, &have[0]); err == nil && have == none {
		return nil // where a unit has taken them, it refuses the call as well
	}
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// all has every path that is named, and none of the system's.
func (r Rules) all() []string { return slices.Concat(r.Read, r.Write) }
