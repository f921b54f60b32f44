package module

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// crashes are the signals that the kernel sends for what code does, and abort(3).
var crashes = []syscall.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS}

// crashPlainly has those signals end the process, as they do in a C program: who started it sees which it was.
// Go's runtime would write stacks and registers, which may have secrets, and exit with status 2.
func crashPlainly() error {
	const setBytes = 8    // of a set of signals, in the kernel
	var standard [64]byte // struct sigaction: SIG_DFL, no flags, an empty mask
	for _, s := range crashes {
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&standard)), 0, setBytes, 0, 0); errno != 0 {
			return fmt.Errorf("have signal %s end the process: %w", unix.SignalName(s), errno)
		}
	}
	return nil
}
