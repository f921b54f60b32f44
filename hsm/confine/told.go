package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Told says how a process is confined. What is false is not confined. System calls, capabilities, core
// dumps and the memory's bound need nothing that a supported kernel lacks, so they are always confined.
type Told struct {
	// Landlock is the version (ABI) of landlock that is enforced; 0: the kernel has none.
	Landlock int `json:"landlock"`

	Files bool `json:"files"` // reading, changing and executing them
	TCP   bool `json:"tcp"`   // connecting to ports that are not named, and listening
	UDP   bool `json:"udp"`   // sending to other ports than the one of DNS

	Addresses bool `json:"addresses"` // sending to IP addresses that are not named

	Signals bool `json:"signals"` // signals to processes outside, and their abstract Unix sockets
	Sockets bool `json:"sockets"` // Unix sockets of processes outside, by path

	// MemoryBytes bounds the memory that the process can write to; 0: unbounded.
	MemoryBytes uint64 `json:"memory_bytes"`
}

// The versions of landlock that brought each (Documentation/userspace-api/landlock.rst).
const (
	abiFiles   = 1
	abiTCP     = 4
	abiSignals = 6
	abiSockets = 9
	abiUDP     = 10
)

func tell(r Rules) Told {
	v := abi()
	return Told{
		Landlock: v, Files: v >= abiFiles, TCP: v >= abiTCP && !r.AnyPort, UDP: v >= abiUDP, Addresses: r.Filtered,
		Signals: v >= abiSignals, Sockets: v >= abiSockets, MemoryBytes: r.MemoryBytes,
	}
}

// Free names what neither this kernel's landlock nor the unit confines, or what the rules leave free.
func (t Told) Free() []string {
	return t.parts(false)
}

func (t Told) parts(confined bool) (names []string) {
	for _, p := range []struct {
		name     string
		confined bool
	}{{"files", t.Files}, {"TCP", t.TCP}, {"UDP", t.UDP}, {"IP addresses", t.Addresses}, {"signals", t.Signals}, {"Unix sockets", t.Sockets}} {
		if p.confined == confined {
			names = append(names, p.name)
		}
	}
	return names
}

// String says it in one line.
func (t Told) String() string {
	words := "system calls, no capabilities, no core dump"
	if t.MemoryBytes > 0 {
		words += fmt.Sprintf(", %d MiB of memory", t.MemoryBytes>>20)
	}
	if t.Landlock == 0 {
		if t.Addresses {
			words += ", IP addresses"
		}
		return words + "; the kernel has no landlock: files and network are as free as for any process of this user"
	}
	words += fmt.Sprintf("; landlock %d: %s", t.Landlock, strings.Join(t.parts(true), ", "))
	if free := t.Free(); len(free) > 0 {
		words += "; not confined: " + strings.Join(free, ", ")
	}
	return words
}

// check holds what was done against what the kernel says of this process.
func (t Told) check(r Rules) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("see what was done: %w", err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), "\n"+want+"\n") {
			return fmt.Errorf("the kernel does not say %q of this process: the variable %s is for this program alone; unset it", want, executed)
		}
	}
	if err := r.checkAddresses(); err != nil {
		return err
	}
	if t.Landlock == 0 || slices.Contains(r.all(), "/") {
		return nil
	}
	root, err := os.Open("/") // no rule opens it
	if err == nil {
		_ = root.Close()
		return errors.New("landlock does not hold: the root folder can be read")
	}
	if !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("see whether landlock holds: %w", err)
	}
	return nil
}
