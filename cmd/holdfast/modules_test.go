package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/sitetest"
)

// TestModuleProcess: the module runs in a process of its own, which has no rights. When it is killed, another
// comes; status says that, and the audit log why.
func TestModuleProcess(t *testing.T) {
	s := sitetest.New(t, t.TempDir())
	p := s.Start(t)
	process := func() appliance.ModuleProcess {
		var status struct{ HSMs []appliance.HSMHealth }
		if err := json.Unmarshal([]byte(s.Run(t, "status", "--json")), &status); err != nil || len(status.HSMs) != 1 {
			t.Fatal(err, status)
		}
		return status.HSMs[0].Process
	}
	s.Run(t, "hsm", "probe")
	first := process()
	if first.PID == p.Cmd.Process.Pid || first.Starts != 1 || first.MemoryBytes < 1<<20 || !strings.HasPrefix(first.Confined, "system calls, no capabilities, no core dump, 1024 MiB of memory; ") {
		t.Errorf("%+v", first)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", first.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in %s", want, text)
		}
	}

	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := appliance.ModuleProcess{}
	for late := time.After(20 * time.Second); again.Starts != 2; again = process() {
		select {
		case <-late:
			t.Fatalf("there is no other: %+v", again)
		default:
			s.Run(t, "hsm", "probe")
		}
	}
	if again.PID == first.PID || again.Confined != first.Confined {
		t.Errorf("%+v after %+v", again, first)
	}
	for _, find := range [][]string{{"audit", "search", "--operation", "restart module process", "--json"}, {"status"}} {
		out := s.Run(t, find...)
		if find[0] == "audit" && !strings.Contains(out, "signal SIGKILL (killed) ended it, which the kernel or another process sent") || find[0] == "status" && !strings.Contains(out, "number 2 since the start") {
			t.Errorf("%q: %s", find, out)
		}
	}
}
