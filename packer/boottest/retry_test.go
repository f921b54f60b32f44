//go:build image

package boottest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// double is a program in the place of QEMU. It tells two ports, writes to all that a
// machine keeps, says what the file console.N has, N being the number of the attempt,
// and ends. It leaves the checksum of what the machine kept before.
const double = `#!/bin/sh
cd %q
n=$(($(cat count 2>/dev/null || echo 0) + 1))
echo $n > count
cat vars.fd state.raw tpm/tpm2-00.permall | sha256sum > kept.$n
echo scribble | tee -a vars.fd state.raw >> tpm/tpm2-00.permall
{
  echo '{"QMP": {}}'
  read -r line
  echo '{"return": {}}'
  echo '{"event": "RESET"}'
  read -r line
  echo '{"return": "  TCP[HOST_FORWARD]  9  127.0.0.1 1  10.0.2.15  8443   TCP[HOST_FORWARD]  9  127.0.0.1 2  10.0.2.15  9443"}'
} <&4 >&4
cat console.$n
`

// TestSecondAttempt: a boot that dies before the initrd speaks is tried once more, on
// a machine that is as it was; no other is.
func TestSecondAttempt(t *testing.T) {
	t.Parallel()
	early, err := os.ReadFile("testdata/sched_clock_cpu.console")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		consoles []string
		attempts string
	}{
		{"the first dies early", []string{string(early), firmwareStarts + "\n" + initrdSpeaks + "\n"}, "2"},
		{"it dies after the initrd spoke", []string{firmwareStarts + "\n" + initrdSpeaks + "\nKernel panic - not syncing: dm-verity device corrupted\n"}, "1"},
		{"the firmware refuses", []string{"BdsDxe: failed to load Boot0001: Access Denied\n"}, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.qemu = m.path("qemu")
			if err := os.WriteFile(m.qemu, fmt.Appendf(nil, double, m.dir), 0o700); err != nil {
				t.Fatal(err)
			}
			for i, text := range tt.consoles {
				if err := os.WriteFile(m.path(fmt.Sprintf("console.%d", i+1)), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := m.start("no disk")
			b.off()
			count, err := os.ReadFile(m.path("count"))
			if err != nil || strings.TrimSpace(string(count)) != tt.attempts {
				t.Errorf("%s attempts, %v; want %s", count, err, tt.attempts)
			}
			if got := b.console.text(); got != tt.consoles[len(tt.consoles)-1] {
				t.Errorf("the console of the last attempt is %q", got)
			}
			if want := strings.Join(tt.consoles[:len(tt.consoles)-1], ""); b.before != want {
				t.Errorf("the console before is %q, want %q", b.before, want)
			}
			kept, err := filepath.Glob(m.path("kept.*"))
			if err != nil || len(kept) != len(tt.consoles) {
				t.Fatal(kept, err)
			}
			for _, name := range kept {
				first, err1 := os.ReadFile(kept[0])
				this, err2 := os.ReadFile(name)
				if err1 != nil || err2 != nil || string(first) != string(this) {
					t.Errorf("%s: the machine had %q, and at first %q", filepath.Base(name), this, first)
				}
			}
			if b.xks != "1" || b.admin != "2" {
				t.Errorf("ports %q and %q", b.xks, b.admin)
			}
		})
	}
}
