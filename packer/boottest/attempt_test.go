package boottest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the console says of how far a boot has come.
const (
	firmwareStarts = `BdsDxe: starting Boot0001 "UEFI QEMU NVMe Ctrl root 1"`
	initrdSpeaks   = "holdfast: initrd started"
)

var (
	firmwareRefuses = regexp.MustCompile(`(?i)access denied|security violation`)
	kernelDies      = regexp.MustCompile(`Kernel panic - not syncing: (.*)`)
	// initrdAtFault is what the kernel dies of when the initrd is missing or ends before
	// it speaks.
	initrdAtFault = regexp.MustCompile(`^(?:Attempted to kill init|No working init|No init found|Requested init|VFS:)`)
	// settled: whether the boot died early is known.
	settled = regexp.MustCompile(firmwareRefuses.String() + "|" + kernelDies.String() + "|" + initrdSpeaks)
)

// diedEarly says of a machine that the kernel died, or reset the machine without a
// word, before the initrd spoke: nothing of the image but Debian's kernel has run, so
// this is the emulation's fault. It is false for all that a test may be about: the
// firmware does not start the image, the initrd fails, or something later does.
func diedEarly(console string, off bool) bool {
	if firmwareRefuses.MatchString(console) || strings.Contains(console, initrdSpeaks) || !strings.Contains(console, firmwareStarts) {
		return false
	}
	if death := kernelDies.FindStringSubmatch(console); death != nil {
		return !initrdAtFault.MatchString(death[1])
	}
	return off
}

func TestDiedEarly(t *testing.T) {
	real, err := os.ReadFile("testdata/sched_clock_cpu.console")
	if err != nil {
		t.Fatal(err)
	}
	const (
		firmware = "BdsDxe: loading Boot0001 \"UEFI QEMU NVMe Ctrl root 1\" from PciRoot(0x0)/Pci(0x1,0x0)/NVMe(0x1,00-00-00-00-00-00-00-00)\r\n" +
			firmwareStarts + " from PciRoot(0x0)/Pci(0x1,0x0)/NVMe(0x1,00-00-00-00-00-00-00-00)\r\n"
		refusal = "BdsDxe: loading Boot0001 \"UEFI QEMU NVMe Ctrl root 1\" from PciRoot(0x0)/Pci(0x1,0x0)/NVMe(0x1,00-00-00-00-00-00-00-00)\r\n" +
			"BdsDxe: failed to load Boot0001 \"UEFI QEMU NVMe Ctrl root 1\" from PciRoot(0x0)/Pci(0x1,0x0)/NVMe(0x1,00-00-00-00-00-00-00-00): Access Denied\r\n"
		initrd = initrdSpeaks + "\r\n"
		panics = "[    2.455523] Kernel panic - not syncing: "
	)
	oops, _, _ := strings.Cut(string(real), "[    2.455523]")
	for _, tt := range []struct {
		name      string
		console   string
		on        bool // it is off otherwise
		want      bool
		wantKnown bool // before it is off
	}{
		{"an oops in sched_clock_cpu, as it was", string(real), false, true, true},
		{"the same, and the machine hangs then", string(real), true, true, true},
		{"an oops cut short by the reset", oops, false, true, false},
		{"an oops, and the panic is still to come", oops, true, false, false},
		{"a panic elsewhere in the kernel", firmware + panics + "Fatal exception in interrupt\r\n", false, true, true},
		{"off without a word", firmware, false, true, false},
		{"the kernel starts", firmware, true, false, false},
		{"an oops after the initrd spoke", firmware + initrd + oops + panics + "Fatal exception in interrupt\r\n", false, false, true},
		{"a panic by verity after the initrd spoke", firmware + initrd + "[    3.1] device-mapper: verity: 259:2: data block 0 is corrupted\r\n" + panics + "dm-verity device corrupted\r\n", false, false, true},
		{"off after the initrd spoke", firmware + initrd, false, false, true},
		{"the initrd speaks", firmware + initrd, true, false, true},
		{"the initrd ends before it speaks", firmware + panics + "Attempted to kill init! exitcode=0x0000000b\r\n", false, false, true},
		{"no initrd", firmware + panics + "VFS: Unable to mount root fs on unknown-block(0,0)\r\n", false, false, true},
		{"no program in the initrd", firmware + panics + "No working init found.  Try passing init= option to kernel.\r\n", false, false, true},
		{"the firmware refuses the image", refusal, true, false, true},
		{"the firmware refuses the image, and the machine is off", refusal, false, false, true},
		{"the firmware refuses by another name", strings.Replace(refusal, "Access Denied", "Security Violation", 1), false, false, true},
		{"the firmware starts something else", strings.Replace(firmware, "starting Boot0001", "starting Boot0002", 1), false, false, false},
		{"empty: QEMU ends at once", "", false, false, false},
		{"empty: the firmware has not spoken yet", "", true, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := diedEarly(tt.console, !tt.on); got != tt.want {
				t.Errorf("it died early: %v, want %v", got, tt.want)
			}
			if got := settled.MatchString(tt.console); got != tt.wantKnown {
				t.Errorf("known already: %v, want %v", got, tt.wantKnown)
			}
		})
	}
}

// TestInitrdSpeaks: the words are those of the image's initrd, and nothing comes
// before them.
func TestInitrdSpeaks(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "image", "initrd", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "func main() {\n\tfmt.Println(\"" + initrdSpeaks + "\")\n"; !strings.Contains(string(source), want) {
		t.Errorf("the initrd does not begin with %q", want)
	}
}
