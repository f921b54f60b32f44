// Package keyringtest looks for secrets in the memory of the process that runs
// the test.
package keyringtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// Region is a part of the process's memory, with its flags (proc(5), smaps).
type Region struct {
	from, to uint64
	// Flags are those of proc(5), smaps, each between spaces.
	Flags string
}

// Regions are those that can be written.
func Regions(t testing.TB) []Region {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip("this system shows no memory map:", err)
	}
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

// Find searches the process's memory for several secrets at once, each of at
// least 4 bytes.
func Find(t testing.TB, secrets ...Secret) []Found {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skip("this system does not show its memory:", err)
	}
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
	buf := make([]byte, chunk+longest-1)
	for _, r := range Regions(t) {
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
