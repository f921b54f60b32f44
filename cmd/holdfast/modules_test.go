package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

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

// TestWrongPINIsForgotten: a sealed PIN that the HSM has called wrong is tried once, however often the program and the
// machine are started. The machine waits for another, and serves with it.
func TestWrongPINIsForgotten(t *testing.T) {
	h := newHarmed(t)
	h.server = h.Start(t)
	h.prepare()
	if err := h.server.Stop(); err != nil {
		t.Fatal(err)
	}
	logins := h.shim.Calls("C_Login")
	h.shim.CountLogins(3)
	h.shim.Fail("C_Login", pkcs11.CKR_PIN_INCORRECT, 1)
	h.server = h.Begin(t, sitetest.ListeningLine)
	h.comes("it says what it did", func() bool {
		return strings.Contains(h.server.Log.String(), "the token refuses the PIN: C_Login: CKR_PIN_INCORRECT; it is not tried again; the sealed PIN was put aside, so no start tries it again: restart the machine, which then waits for another one, and give it with holdfast seal")
	})
	if err := h.server.Stop(); err != nil {
		t.Fatal(err)
	}
	h.ByHand = true // nobody seals a PIN from here on
	for range 3 {
		h.server = h.Begin(t, sitetest.ListeningLine)
		h.comes("it waits for a PIN", func() bool { return strings.Contains(h.server.Log.String(), "code=E_SEAL_MISSING") })
		if err := h.server.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.shim.Calls("C_Login") - logins; n != 1 {
		t.Errorf("the PIN was tried %d times", n)
	}
	h.server = h.Begin(t, sitetest.ListeningLine)
	if out, err := h.sealPIN(sitetest.PIN); err != nil {
		t.Fatal(err, out)
	}
	h.comes("it serves", func() bool { return h.encrypt("hsm") == nil })
	if n := h.shim.Calls("C_Login") - logins; n != 2 {
		t.Errorf("the PINs were tried %d times", n)
	}
}

// sealPIN gives the machine a PIN.
func (h *harmed) sealPIN(pin string) (string, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	cmd := h.Command(ctx, "holdfast", "seal")
	cmd.Stdin = strings.NewReader(pin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
