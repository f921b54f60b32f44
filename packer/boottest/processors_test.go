package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOneProcessor: no machine that this repository has QEMU emulate has more than one
// processor, for the reason that is in attempt. QEMU's default is one.
func TestOneProcessor(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-files", "-z", "*.go", "*.hcl", "*.sh", "packer").Output()
	if err != nil {
		t.Fatal(err)
	}
	machine := regexp.MustCompile(`"-machine"`)
	more := regexp.MustCompile(`thread=multi|"-smp",\s*"(?:cpus=)?(?:[02-9]|1[0-9,])|(?m)^\s*cpus\s*=\s*(?:[02-9]|1[0-9])`)
	var machines []string
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil || !machine.Match(text) || strings.HasSuffix(name, "processors_test.go") {
			continue // deleted, or no machine
		}
		machines = append(machines, name)
		if found := more.FindString(string(text)); found != "" {
			t.Errorf("%s: %q gives the machine more than one processor, under which the kernel dies now and then", name, strings.TrimSpace(found))
		}
	}
	if len(machines) < 3 {
		t.Errorf("only %q describe machines", machines)
	}
}
