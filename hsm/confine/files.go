package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// The folders of the system that every program may read, where they are there: libraries and their
// settings, names of hosts, and what runtimes ask about the machine. Of other processes /proc shows
// their names and no memory, environment or files: for those landlock asks whether one may be traced.
var systemsFolders = []string{
	"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/opt", "/etc", "/proc",
	"/run/systemd/resolve", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
}

var systemsDevices = []string{"/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"}

const portOfNames = 53 // DNS

// ruleset is what landlock is to enforce; a descriptor of -1 where the kernel has none.
type ruleset struct {
	descriptor int
	flags      uint32
}

// abi is the version of landlock that is enforced; 0 where the kernel has none. Signals are scoped
// only where the threads of one process may still signal each other, which kernels learnt by an
// erratum; go-landlock leaves ABI 6 and what follows out before.
func abi() int {
	v, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	const signalsAmongThreads = 0x2
	if errata, err := ll.LandlockGetErrata(); v >= 6 && (err != nil || errata&signalsAmongThreads == 0) {
		v = 5
	}
	return v
}

func (r Rules) ruleset() (ruleset, error) {
	config := landlock.V10
	if r.AnyPort {
		config.HandledAccessNet &^= ll.AccessNetConnectTCP
	}
	rules := []landlock.Rule{
		landlock.ROFiles("/proc/self/exe"),
		landlock.RWFiles(systemsDevices...).IgnoreIfMissing(),
		// Below ABI 10 UDP is free. Vendors' libraries look up names, and do nothing else over UDP.
		landlock.ConnectSendUDP(portOfNames), landlock.BindUDP(0),
	}
	if !r.AnyPort {
		for _, port := range r.ConnectPorts {
			rules = append(rules, landlock.ConnectTCP(port))
		}
	}
	for _, folder := range systemsFolders {
		if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
			continue
		}
		rules = append(rules, r.without(folder, false)...)
	}
	for _, path := range r.all() {
		if _, err := os.Stat(path); err != nil {
			return ruleset{}, fmt.Errorf("%w: a module may use it by the configuration; create it, or take it out there", err)
		}
	}
	for _, path := range r.Read {
		rules = append(rules, r.without(path, false)...)
	}
	for _, path := range r.Write {
		rules = append(rules, r.without(path, true)...)
	}
	descriptor, flags, err := config.BestEffort().NewRulesetFD(rules...)
	return ruleset{descriptor, flags}, err
}

// without opens a path, and where something hidden lies in it, what lies beside that.
func (r Rules) without(path string, write bool) (rules []landlock.Rule) {
	real := resolve(path)
	if !slices.ContainsFunc(r.Hidden, func(hidden string) bool { return within(real, resolve(hidden)) }) {
		return []landlock.Rule{open(real, write)}
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil // what cannot be read stays closed
	}
	for _, e := range entries {
		child := filepath.Join(real, e.Name())
		hidden := slices.ContainsFunc(r.Hidden, func(hidden string) bool { return resolve(hidden) == child })
		// A link is not followed: what it leads to is opened by its own name, or not.
		if e.Type()&os.ModeSymlink == 0 && !hidden {
			rules = append(rules, r.without(child, write)...)
		}
	}
	return rules
}

// resolve gives the absolute path without links; of what is not there, as it is named.
func resolve(path string) string {
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// within says whether a path lies in a folder.
func within(folder, path string) bool {
	inside, err := filepath.Rel(folder, path)
	return err == nil && inside != "." && filepath.IsLocal(inside)
}

func open(path string, write bool) landlock.Rule {
	info, err := os.Stat(path)
	folder := err == nil && info.IsDir()
	var rule landlock.FSRule
	switch {
	case write && folder:
		rule = landlock.RWDirs(path)
	case write:
		rule = landlock.RWFiles(path)
	case folder:
		rule = landlock.RODirs(path)
	default:
		rule = landlock.ROFiles(path)
	}
	if write || path == "/run/systemd/resolve" {
		rule = rule.WithResolveUnix()
	}
	return rule.IgnoreIfMissing()
}

func (s ruleset) enforce() error {
	if s.descriptor < 0 {
		return nil
	}
	if err := ll.LandlockRestrictSelf(s.descriptor, s.flags); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return unix.Close(s.descriptor)
}
