package keyring_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/keyring/scrub"
)

// region is a part of the process's memory, with its flags (proc(5), smaps).
type region struct {
	from, to uint64
	flags    string
}

// regions are those that can be written.
func regions(t *testing.T) []region {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip("this system shows no memory map:", err)
	}
	defer f.Close()
	var out []region
	writable := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r region
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &r.from, &r.to, &mode); n == 3 {
			if writable = strings.HasPrefix(mode, "rw"); writable {
				out = append(out, r)
			}
		} else if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags: "); ok && writable {
			out[len(out)-1].flags = " " + flags
		}
	}
	return out
}

// find searches the process's memory for what mask hides, and gives how often
// it is in locked memory and elsewhere. The pattern itself is never in memory
// as a whole: the search compares byte by byte.
func find(t *testing.T, hidden []byte, mask byte) (locked, elsewhere int) {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skip("this system does not show its memory:", err)
	}
	defer mem.Close()
	const chunk = 1 << 20
	buf := make([]byte, chunk+len(hidden))
	for _, r := range regions(t) {
		isLocked := strings.Contains(r.flags, " lo ")
		for at := r.from; at < r.to; at += chunk {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), r.to-at)], int64(at))
			if err != nil && err != io.EOF {
				break // such as a page that is only reserved
			}
			for i := 0; i+len(hidden) <= n && i < chunk; i++ {
				match := true
				for j := range hidden {
					if buf[i+j]^mask != hidden[j] {
						match = false
						break
					}
				}
				if match && isLocked {
					locked++
				} else if match {
					elsewhere++
				}
			}
			clear(buf) // what was read is no place of the key
		}
	}
	return locked, elsewhere
}

// TestKeysAreInLockedMemoryAlone after they were used, and nowhere when the
// keyring is locked.
func TestKeysAreInLockedMemoryAlone(t *testing.T) {
	if !scrub.Enabled {
		t.Skip("built without GOEXPERIMENT=runtimesecret: copies stay in the heap")
	}
	k, _ := newRing(t, openToken(t))
	const mask = 0xA5
	key, hidden := make([]byte, 32), make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	for i := range key {
		hidden[i] = key[i] ^ mask
	}
	u := importKey(t, k, appliance.CustodyCached, key)
	clear(key) // as who imports a key does
	plaintext := bytes.Repeat([]byte{1}, 4300)
	for range 1000 {
		iv, ciphertext, tag, err := u.Encrypt(ctx, plaintext, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Decrypt(ctx, iv, ciphertext, tag, nil); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.GC()
	if locked, elsewhere := find(t, hidden, mask); locked != 1 || elsewhere != 0 {
		t.Errorf("the key is %d times in locked memory and %d times elsewhere, want once and never", locked, elsewhere)
	}
	k.Lock()
	if locked, elsewhere := find(t, hidden, mask); locked+elsewhere != 0 {
		t.Errorf("after Lock the key is %d times in locked memory and %d times elsewhere", locked, elsewhere)
	}
}

// TestLockedMemoryStaysHere: it goes to no swap, no core dump and no child.
func TestLockedMemoryStaysHere(t *testing.T) {
	k, _ := newRing(t, openToken(t))
	importKey(t, k, appliance.CustodyCached, make([]byte, 32))
	found := false
	for _, r := range regions(t) {
		if strings.Contains(r.flags, " lo ") {
			found = true
			for _, flag := range []string{" dd ", " dc "} { // not dumped, not copied on fork
				if !strings.Contains(r.flags, flag) {
					t.Errorf("locked memory lacks the flag%s: it has%s", flag, r.flags)
				}
			}
		}
	}
	if !found {
		t.Error("no memory is locked")
	}
}
