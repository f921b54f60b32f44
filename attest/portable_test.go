package attest_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// machineOnly are the packages that run on machines of their own kind alone: they
// open devices of Linux, or start emulators of them.
var machineOnly = []string{"holdfast/attest/device", "holdfast/attest/tpm/swtpm", "holdfast/attest/simulation"}

// TestPortable: whoever checks evidence does it on any system. Each package below
// this folder can be built for it without C, but for those that run on machines;
// and none of the others has a device of one.
func TestPortable(t *testing.T) {
	list := func(system, processor string, args ...string) []string {
		t.Helper()
		c := exec.Command("go", append([]string{"list"}, args...)...)
		c.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "CGO_ENABLED=0")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s/%s: %s", system, processor, out)
		}
		return strings.Fields(string(out))
	}
	var portable []string
	for _, p := range list("linux", "amd64", "./...") {
		if !slices.Contains(machineOnly, p) {
			portable = append(portable, p)
		}
	}
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, processor := range []string{"amd64", "arm64"} {
			needed := list(system, processor, append([]string{"-deps"}, portable...)...)
			for _, p := range append(machineOnly, "github.com/google/go-tpm/tpm2/transport/linuxtpm", "github.com/google/go-tpm/tpm2/transport/linuxudstpm") {
				if slices.Contains(needed, p) {
					t.Errorf("%s/%s: a package that checks evidence needs %s", system, processor, p)
				}
			}
		}
	}
	if len(portable) < 10 {
		t.Errorf("only %q are portable", portable)
	}
}
