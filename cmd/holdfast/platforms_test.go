package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// platforms are what the tool is for.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

// forPlatform is a call of go for the platform, without cgo.
func forPlatform(platform string, args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	goos, goarch, _ := strings.Cut(platform, "/")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	return cmd
}

// TestPlatforms: the tool is pure Go, builds for every platform that the Makefile
// builds it for, and has neither PKCS#11 nor a database, nor what works on the
// machine alone.
func TestPlatforms(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nPLATFORMS := " + strings.Join(platforms, " ") + "\n"; !strings.Contains(string(makefile), want) {
		t.Errorf("the Makefile has another list than %s", want)
	}
	for _, platform := range platforms {
		t.Run(platform, func(t *testing.T) {
			t.Parallel()
			if out, err := forPlatform(platform, "build", "-o", filepath.Join(t.TempDir(), "holdfast"), ".").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			out, err := forPlatform(platform, "list", "-deps", ".").Output()
			if err != nil {
				t.Fatal(err)
			}
			packages := strings.Fields(string(out))
			if !slices.Contains(packages, "holdfast/attest") {
				t.Errorf("the list is not that of the tool: %s", out)
			}
			for _, p := range packages {
				for _, not := range []string{"github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11", "modernc.org/sqlite", "holdfast/hsm", "holdfast/xks",
					"holdfast/appliance/keyring", "holdfast/appliance/sqlite", "holdfast/appliance/machine/volume", "holdfast/appliance/machine/boot",
					"holdfast/appliance/audit/auditlog", "holdfast/cmd/internal/daemon", "holdfast/cmd/internal/holdfastd", "runtime/cgo"} {
					if p == not || strings.Contains(not, ".") && strings.HasPrefix(p, not+"/") {
						t.Errorf("it has %s", p)
					}
				}
			}
		})
	}
}
