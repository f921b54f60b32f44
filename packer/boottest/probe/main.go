// Probe tells, for the boot test, how the process of holdfastd serve is confined.
// It is in the test image alone, which has no shell either.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "own":
		if err := own(os.Args[2], os.Args[3]); err != nil {
			fmt.Println("probe:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 2 && os.Args[1] == "other":
		fmt.Println("probe:", other())
		os.Exit(1)
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
	results := "/var/lib/holdfast/tokens/attempts." // what the module writes of its attempts
	before, _ := filepath.Glob(results + "*")
	attempts(results + read("/proc/sys/kernel/random/boot_id"))
	units()
	fmt.Println("confinement: done")
	if len(before) > 0 { // not at the first boot, which has enough to do
		end()
	}
}

// own gives a folder, with all in it, to the user of the unit of a module process: systemd makes
// such a user up when the unit starts.
func own(folder, user string) error {
	id, err := os.Readlink("/run/systemd/dynamic-uid/direct:" + user)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	return filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
}

// other is another member of the HSM cluster, with a pack of its own.
func other() error {
	if err := os.WriteFile(filepath.Join(os.Getenv("RUNTIME_DIRECTORY"), "pack"), []byte("another member's"), 0o600); err != nil {
		return err
	}
	for {
		time.Sleep(time.Hour)
	}
}

// end crashes the module's process once the appliance serves, and stops the next one.
func end() {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // on this machine, to wait
	last := ""
	for _, signal := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGSTOP} {
		for range 1200 {
			pid := module()
			if pid != "" && pid != last && ready(client) {
				last = pid
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		pid, err := strconv.Atoi(last)
		if err == nil {
			err = syscall.Kill(pid, signal)
		}
		fmt.Printf("confinement: module process sent %v: %v\n", signal, err)
	}
}

func ready(client *http.Client) bool {
	res, err := client.Get("https://127.0.0.1:9443/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// module gives a module process of the units, and not what systemd starts there after it.
func module() string {
	groups, _ := filepath.Glob("/sys/fs/cgroup/system.slice/*/holdfast-module@*/cgroup.procs")
	for _, g := range groups {
		for _, pid := range strings.Fields(read(g)) {
			if args := strings.Split(read("/proc/"+pid+"/cmdline"), "\x00"); len(args) > 1 && args[1] == "module" {
				return pid
			}
		}
	}
	return ""
}

// attempts tells what the module tried in its unit, and what came of it.
func attempts(file string) {
	for range 1200 { // the boot test waits for what it says
		if text, err := os.ReadFile(file); err == nil {
			for line := range strings.Lines(string(text)) {
				fmt.Println("confinement: module", strings.TrimSpace(line))
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// units tells who the module processes are, and what bounds them.
func units() {
	groups, _ := filepath.Glob("/sys/fs/cgroup/system.slice/*/holdfast-module@*")
	for _, g := range groups {
		pids := strings.Fields(read(filepath.Join(g, "cgroup.procs")))
		if len(pids) == 0 {
			continue
		}
		fmt.Println("confinement: unit", filepath.Base(g), "memory", read(filepath.Join(g, "memory.max")), "tasks", read(filepath.Join(g, "pids.max")))
		for _, pid := range pids {
			for line := range strings.Lines(read("/proc/" + pid + "/status")) {
				if f := strings.Fields(line); len(f) > 1 && (f[0] == "Uid:" || f[0] == "CapBnd:" || f[0] == "Seccomp:") {
					fmt.Println("confinement: unit", f[0], f[1])
				}
			}
		}
	}
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
