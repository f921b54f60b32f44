// Package keyringtest looks for secrets in the memory of a process: the one that
// runs the test, or another one, which does not know that it is looked at.
package keyringtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Region is a part of the process's memory, with its flags (proc(5), smaps).
type Region struct {
	from, to uint64
	// Flags are those of proc(5), smaps, each between spaces.
	Flags string
}

// Process names a process as proc(5) does: by its number, or [Self].
type Process string

// Self is the process that runs the test.
const Self Process = "self"

// Other is the process of that number, such as a child of the test.
func Other(pid int) Process { return Process(strconv.Itoa(pid)) }

// Regions are those of the test's own process that can be written.
func Regions(t testing.TB) []Region { return Self.regions(t) }

// Cannot skips a test that this build or system cannot run. Under make test, which builds
// and installs what is needed, it fails: no search of memory is left out there unseen.
func Cannot(t testing.TB, why ...any) {
	t.Helper()
	if os.Getenv("HOLDFAST_TEST_PACKAGES") != "" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}

func (p Process) open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Open("/proc/" + string(p) + "/" + name)
	if errors.Is(err, fs.ErrPermission) || p == Self && err != nil {
		Cannot(t, "this system does not show the memory of the process:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (p Process) regions(t testing.TB) []Region {
	t.Helper()
	f := p.open(t, "smaps")
	defer f.Close()
	var out []Region
	writable := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r Region
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &r.from, &r.to, &mode); n == 3 {
			if writable = strings.HasPrefix(mode, "rw"); writable {
				out = append(out, r)
			}
		} else if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags: "); ok && writable {
			out[len(out)-1].Flags = " " + flags
		}
	}
	return out
}

// Secret is a pattern to search for that is not in memory itself: only what a
// mask makes of it.
type Secret []byte

const mask = 0xA5

// Hide gives the pattern of a secret. The caller zeroizes the secret.
func Hide(secret []byte) Secret {
	hidden := make(Secret, len(secret))
	for i := range secret {
		hidden[i] = secret[i] ^ mask
	}
	return hidden
}

// startsIn says whether b begins with the secret.
func (hidden Secret) startsIn(b []byte) bool {
	if len(b) < len(hidden) {
		return false
	}
	for i := range hidden {
		if b[i]^mask != hidden[i] {
			return false
		}
	}
	return true
}

// Find searches the process's memory, and gives how often the secret is in
// locked memory and elsewhere.
func (hidden Secret) Find(t testing.TB) (locked, elsewhere int) {
	t.Helper()
	found := Find(t, hidden)
	return found[0].Locked, found[0].Elsewhere
}

// Found says how often a secret is in locked memory and elsewhere.
type Found struct{ Locked, Elsewhere int }

// Find searches the memory of the test's own process for several secrets at once,
// each of at least 4 bytes.
func Find(t testing.TB, secrets ...Secret) []Found {
	t.Helper()
	return Self.Find(t, secrets...)
}

// Find searches the memory of the process for several secrets at once, each of at
// least 4 bytes. The process goes on meanwhile.
func (p Process) Find(t testing.TB, secrets ...Secret) []Found {
	t.Helper()
	mem := p.open(t, "mem")
	defer mem.Close()
	// The first bytes are searched for as they are, because that is fast; the
	// whole secret never lies in one piece.
	first, longest := make([][4]byte, len(secrets)), 0
	for n, hidden := range secrets {
		for i := range first[n] {
			first[n][i] = hidden[i] ^ mask
		}
		longest = max(longest, len(hidden))
	}
	found := make([]Found, len(secrets))
	const chunk = 1 << 20
	buf := apart(t, chunk+longest-1)
	for _, r := range p.written(t, p.regions(t)) {
		isLocked := strings.Contains(r.Flags, " lo ")
		for at := r.from; at < r.to; at += chunk {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), r.to-at)], int64(at))
			if err != nil && err != io.EOF {
				break // such as a page that is only reserved
			}
			for s, hidden := range secrets {
				for i := 0; ; i++ {
					next := bytes.Index(buf[i:n], first[s][:])
					if next < 0 || i+next >= chunk { // the next chunk begins there
						break
					}
					if i += next; !hidden.startsIn(buf[i:n]) {
						continue
					}
					if isLocked {
						found[s].Locked++
					} else {
						found[s].Elsewhere++
					}
				}
			}
			clear(buf) // what was read is no place of the key
		}
	}
	return found
}

// written gives the parts of the regions that were ever written, each with the flags of its region:
// what only is reserved has nothing in it, and of the race detector's memory that is nearly all.
func (p Process) written(t testing.TB, regions []Region) (parts []Region) {
	t.Helper()
	pagemap := p.open(t, "pagemap")
	defer pagemap.Close()
	const entry = 8
	page := uint64(os.Getpagesize())
	for _, r := range regions {
		entries := make([]byte, (r.to-r.from)/page*entry)
		n, err := pagemap.ReadAt(entries, int64(r.from/page*entry))
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		part := Region{Flags: r.Flags}
		for i := 0; i+entry <= n; i += entry {
			at := r.from + uint64(i/entry)*page
			switch held := binary.NativeEndian.Uint64(entries[i:])&(present|swapped) != 0; {
			case held && part.to == at:
				part.to = at + page
			case held:
				part.from, part.to = at, at+page
				parts = append(parts, part)
				continue
			default:
				continue
			}
			parts[len(parts)-1] = part
		}
	}
	return parts
}

// What proc_pid_pagemap(5) says of a page.
const present, swapped = 1 << 63, 1 << 62

// apart gives memory that is none of Go's, so that the race detector does not look at each byte of
// what is read. A page that nobody can read keeps it apart from what lies before: a search of this
// process reads it as well, and must not find there what it has read of its neighbour.
func apart(t testing.TB, size int) []byte {
	t.Helper()
	guard := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, guard+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := unix.Mprotect(b[:guard], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return b[guard:]
}

// Secrets go within a second. Time in which somebody waited for a processor of this machine does not count, up
// to most in all: that is much less than the 10 seconds after which the collector runs anyway, so what only
// that takes away is found.
const (
	soon = time.Second
	most = 4 * time.Second
)

// stalled is for how long somebody has waited for a processor since the machine's start (PSI); 0 where the
// kernel does not say.
func stalled() time.Duration {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	_, total, _ := strings.Cut(string(text), "total=")
	total, _, _ = strings.Cut(total, "\n")
	us, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// Gone searches the process until the secrets are nowhere in it. A search that begins
// when their time is over must find none.
func (p Process) Gone(t testing.TB, what string, secrets ...Secret) {
	t.Helper()
	first, before := time.Now(), stalled()
	for {
		began := time.Now()
		copies := 0
		for _, f := range p.Find(t, secrets...) {
			copies += f.Locked + f.Elsewhere
		}
		if copies == 0 {
			return
		}
		if passed := began.Sub(first); passed > most || passed-(stalled()-before) > soon {
			t.Errorf("%s: %s later there are %d copies in memory", what, passed, copies)
			return
		}
	}
}
