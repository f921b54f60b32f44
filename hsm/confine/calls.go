package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refusedCalls reach into other processes, make namespaces, mount, or leave the process group, by which
// the process's parent ends it and all that it started. The kernel interfaces among them (bpf, io_uring, ...)
// are for no PKCS#11 module, and had many faults.
var refusedCalls = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_FSCONFIG, unix.SYS_MOUNT_SETATTR,
	unix.SYS_SETSID, unix.SYS_SETPGID,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
}

// newNamespaces are the flags of clone for them. That of a time namespace is for clone3 and unshare alone.
const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS |
	unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// allowedFamilies are the sockets that a module may have; of the Internet's those of landlock's TCP, and UDP.
var allowedFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// refusedProtocols do what TCP does, past landlock's rules on TCP.
var refusedProtocols = []uint32{unix.IPPROTO_MPTCP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP}

// architecture is the one whose system calls are allowed: those of another, as of 32 bits, have other numbers.
var architecture = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// Offsets in struct seccomp_data (linux/seccomp.h), of both architectures' low halves of arguments.
const (
	offsetOfCall         = 0
	offsetOfArchitecture = 4
	offsetOfArguments    = 16
)

func argument(n uint32) bpf.Instruction {
	return bpf.LoadAbsolute{Off: offsetOfArguments + 8*n, Size: 4}
}

func refuse(errno unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// refuseIf refuses with errno if the accumulator is val.
func refuseIf(val uint32, errno unix.Errno) []bpf.Instruction {
	return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipFalse: 1}, refuse(errno)}
}

// onCall runs instructions, which end in a return, if the call that the accumulator has is this one.
func onCall(call uint32, then ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: call, SkipFalse: uint8(len(then))}}, then...)
}

func filter() []bpf.Instruction {
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetOfArchitecture, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: architecture, SkipTrue: 1},
		refuse(unix.ENOSYS),
		bpf.LoadAbsolute{Off: offsetOfCall, Size: 4},
	}
	if runtime.GOARCH == "amd64" { // its calls by the numbers of x32
		const x32 = 0x40000000
		program = append(program, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32, SkipFalse: 1}, refuse(unix.ENOSYS))
	}
	for _, call := range refusedCalls {
		program = append(program, refuseIf(call, unix.EPERM)...)
	}
	// Its flags lie in memory, where no filter sees them. Without it C libraries use clone.
	program = append(program, refuseIf(unix.SYS_CLONE3, unix.ENOSYS)...)
	program = append(program, onCall(unix.SYS_CLONE, argument(0),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newNamespaces, SkipFalse: 1}, refuse(unix.EPERM), allow)...)

	var socket []bpf.Instruction
	socket = append(socket, argument(2))
	for _, protocol := range refusedProtocols {
		socket = append(socket, refuseIf(protocol, unix.EPROTONOSUPPORT)...)
	}
	socket = append(socket, argument(0))
	for _, family := range allowedFamilies {
		socket = append(socket, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipFalse: 1}, allow)
	}
	socket = append(socket, refuse(unix.EAFNOSUPPORT))
	return append(append(program, onCall(unix.SYS_SOCKET, socket...)...), allow)
}

// filterCalls refuses system calls on this thread, and on what comes of it.
func filterCalls() error {
	if architecture == 0 {
		return fmt.Errorf("the system calls of %s are not known here", runtime.GOARCH)
	}
	raw, err := bpf.Assemble(filter())
	if err != nil {
		return fmt.Errorf("filter of system calls: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0)
	runtime.KeepAlive(program)
	runtime.KeepAlive(&fprog)
	if err != nil {
		return fmt.Errorf("filter of system calls: %w", err)
	}
	return nil
}
