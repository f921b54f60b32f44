package daemon

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance"
)

// TestBudget: what a machine of a size keeps ready fits into it, as docs/operations.md says.
func TestBudget(t *testing.T) {
	const gib, unlimited = 1 << 30, math.MaxUint64
	for _, c := range []struct {
		memory, lockable uint64
		keys             int
	}{
		{8 << 30, unlimited, 1 << 20},                           // m6a.large
		{4 << 30, unlimited, 4 << 30 / 4 / appliance.KeyMemory}, //
		{2 << 30, unlimited, 2 << 30 / 4 / appliance.KeyMemory}, //
		{gib / 8, unlimited, 1 << 16},                           // no fewer than before
		{8 << 30, 8 << 20, 1 << 17},                             // what an unprivileged process may lock
		{unlimited, unlimited, 1 << 20},                         //
		{8 << 30, 0, 1},                                         //
	} {
		b := shareOut(c.memory, c.lockable)
		if b.keys != c.keys || b.heap != c.memory/2 {
			t.Errorf("%d bytes, of which %d may be locked: %+v, not %d keys", c.memory, c.lockable, b, c.keys)
		}
		if c.memory >= gib && uint64(b.keys)*appliance.KeyMemory > b.heap/2 {
			t.Errorf("%d bytes: %d keys leave no room for garbage", c.memory, b.keys)
		}
	}
}

// TestAllowed: the smallest limit of the cgroup and those above it counts.
func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		name, cgroup string
		files        map[string]string
		want         uint64
	}{
		{"none", "0::/\n", nil, math.MaxUint64},
		{"a unit's", "0::/system.slice/holdfast.service\n", map[string]string{"system.slice/holdfast.service": "2147483648\n"}, 2 << 30},
		{"a slice's above", "0::/system.slice/holdfast.service\n", map[string]string{"system.slice/holdfast.service": "max\n", "system.slice": "1073741824\n"}, 1 << 30},
		{"a container's", "0::/\n", map[string]string{"": "536870912\n"}, 512 << 20},
		{"beside version 1", "4:memory:/x\n0::/a\n", map[string]string{"a": "1048576\n"}, 1 << 20},
		{"version 1 alone", "4:memory:/x\n", map[string]string{"x": "1\n"}, math.MaxUint64},
		{"garbled", "0::/a\n", map[string]string{"a": "many\n"}, math.MaxUint64},
	} {
		root := t.TempDir()
		write := func(name, text string) {
			t.Helper()
			file := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("proc/self/cgroup", c.cgroup)
		for group, limit := range c.files {
			write(filepath.Join("sys/fs/cgroup", group, "memory.max"), limit)
		}
		if n := allowed(root); n != c.want {
			t.Errorf("%s: %d bytes are allowed, not %d", c.name, n, c.want)
		}
	}
	if n := allowed(t.TempDir()); n != math.MaxUint64 {
		t.Errorf("without /proc: %d", n)
	}
}
