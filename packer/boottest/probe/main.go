// Probe tells, for the boot test, how the process of holdfastd serve is confined.
// It is in the test image alone, which has no shell either.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/hsm/confine"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "module" {
		module()
		return
	}
	pid := ""
	for range 600 { // until the keys are in locked memory; the boot test waits for what it says
		if pid = find("/usr/bin/holdfastd", "serve"); pid != "" && locked(pid) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	lines("/proc/"+pid+"/status", "Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "VmLck", "VmSwap")
	lines("/proc/"+pid+"/limits", "Max core file size")
	fmt.Printf("confinement: core_pattern %q\n", read("/proc/sys/kernel/core_pattern"))
	fmt.Println("confinement: sysrq", read("/proc/sys/kernel/sysrq"))
	fmt.Println("confinement: modules_disabled", read("/proc/sys/kernel/modules_disabled"))
	fmt.Println("confinement: lsm", read("/sys/kernel/security/lsm"))
	swaps := "none"
	if strings.Count(read("/proc/swaps"), "\n") > 0 {
		swaps = read("/proc/swaps")
	}
	fmt.Println("confinement: swaps", swaps)
	var shells []string
	_ = filepath.WalkDir("/usr", func(path string, d fs.DirEntry, err error) error {
		switch filepath.Base(path) {
		case "sh", "bash", "dash", "busybox", "agetty", "login", "sulogin", "sshd", "su", "sudo", "dpkg", "apt", "perl", "python3":
			shells = append(shells, path)
		}
		return err
	})
	if shells == nil {
		shells = []string{"none"}
	}
	fmt.Println("confinement: shells", strings.Join(shells, " "))
	fmt.Println("confinement: done")
}

// module confines itself as the process of a PKCS#11 module does, and tells what it can do all the same. It
// runs as the appliance's user, in a unit that allows what the appliance's does.
func module() {
	told, err := confine.Self(confine.Rules{Write: []string{"/var/lib/holdfast/tokens"}, Hidden: []string{"/var/lib/holdfast", "/etc/holdfast"}, ConnectPorts: []uint16{1792}, MemoryBytes: 1 << 30})
	if err != nil {
		fmt.Println("confinement: module:", err)
		return
	}
	fmt.Println("confinement: module", told)
	open := func(path string) error {
		f, err := os.Open(path)
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	dial := func(address string) error {
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for _, try := range []struct {
		what string
		err  error
	}{
		{"own tokens", open("/var/lib/holdfast/tokens")},
		{"own port", dial("127.0.0.1:1792")}, // nobody listens
		{"state folder", open("/var/lib/holdfast")}, {"database", open("/var/lib/holdfast/holdfast.db")}, {"configuration", open("/etc/holdfast/holdfast.toml")},
		{"TPM", open("/dev/tpmrm0")}, {"event log", open("/sys/kernel/security/tpm0/binary_bios_measurements")}, {"policies", open("/efi/holdfast")},
		{"console's port", dial("127.0.0.1:9443")},
		{"namespace", syscall.Unshare(syscall.CLONE_NEWUSER)},
		{"ptrace of the parent", syscall.PtraceAttach(os.Getppid())},
		{"signal to the appliance", signal(find("/usr/bin/holdfastd", "serve"))},
	} {
		fmt.Printf("confinement: module %s: %v\n", try.what, try.err)
	}
	fmt.Println("confinement: module done")
}

func signal(pid string) error {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	return syscall.Kill(n, 0)
}

// find gives the process of that program with that first argument.
func find(program, argument string) string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if args := strings.Split(read(f), "\x00"); len(args) > 1 && args[0] == program && args[1] == argument {
			return filepath.Base(filepath.Dir(f))
		}
	}
	return ""
}

func locked(pid string) bool {
	for line := range strings.Lines(read("/proc/" + pid + "/status")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmLck:" {
			return f[1] != "0"
		}
	}
	return false
}

func lines(file string, names ...string) {
	for line := range strings.Lines(read(file)) {
		for _, n := range names {
			if strings.HasPrefix(line, n) {
				fmt.Println("confinement:", strings.TrimSpace(line))
			}
		}
	}
}

func read(file string) string {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Println("confinement:", err)
	}
	return strings.TrimSpace(string(b))
}
