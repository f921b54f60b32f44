package keyringtest_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/appliance/keyring/keyringtest"
)

// TestFind finds a secret wherever it lies: in the heap, in locked memory, across two pages and two
// chunks of the search, and in a page among others that nobody has written; and not what is gone.
func TestFind(t *testing.T) {
	page := os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, 1024*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	locked, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(locked) }()
	if err := unix.Mlock(locked); err != nil {
		keyringtest.Cannot(t, err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	hidden := keyringtest.Hide(secret)
	heap := bytes.Clone(secret)
	clear(secret)
	want := keyringtest.Found{Elsewhere: 1}
	check := func(what string) {
		t.Helper()
		for _, p := range []keyringtest.Process{keyringtest.Self, keyringtest.Other(os.Getpid())} {
			if got := p.Find(t, hidden)[0]; got != want {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		}
	}
	check("in the heap")
	copy(locked[page-len(heap):], heap)
	want.Locked++
	check("at the end of a locked page")
	for at := page - 10; at < len(memory)-page; at += 98 * page {
		copy(memory[at:], heap)
		want.Elsewhere++
	}
	check("across pages")
	for i := range 512 { // so that parts are longer than a chunk
		memory[i*page+200] ^= 1
	}
	copy(memory[1<<20-7:], heap)
	want.Elsewhere++
	check("across chunks")
	clear(memory)
	want = keyringtest.Found{Locked: 1, Elsewhere: 1}
	check("cleared")
	clear(heap)
	clear(locked)
	want = keyringtest.Found{}
	check("gone")
}
