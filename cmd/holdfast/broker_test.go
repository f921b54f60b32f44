package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/release"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/sitetest"
)

var brokerLine = regexp.MustCompile(`(?m)msg="broker serving" address=(\S+) pin="(\S+)"`)

// brokerSite is a broker, run by the commands alone, and a machine with a TPM
// that asks it.
type brokerSite struct {
	*testing.T
	*sitetest.Site
	vault    string
	server   *sitetest.Server
	client   release.FromBroker
	released string       // what was released and refused, in order
	said     bytes.Buffer // all that was printed and logged
}

func newBrokerSite(t *testing.T) *brokerSite {
	b := &brokerSite{T: t, Site: &sitetest.Site{Dir: t.TempDir()}}
	b.vault = filepath.Join(b.Dir, "vault")
	b.client.Machine = "hsm-1"
	return b
}

// holdfast calls it at the broker's folder, with the input.
func (b *brokerSite) holdfast(input string, args ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	cmd := b.Command(ctx, "holdfast", args...)
	cmd.Env = append(cmd.Env, "HOLDFAST_BROKER_DIR="+b.vault)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	b.said.Write(stdout.Bytes())
	b.said.Write(stderr.Bytes())
	if err != nil {
		b.Fatalf("%q: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

func (b *brokerSite) broker(args ...string) string {
	b.Helper()
	return b.holdfast("", append([]string{"broker"}, args...)...)
}

func (b *brokerSite) serve() {
	b.Helper()
	if b.server != nil {
		b.said.WriteString(b.server.Log.String())
	}
	var found []string
	b.server, found = b.Launch(b.T, brokerLine, func() {}, "broker", "serve", "--dir", b.vault, "--address", "127.0.0.1:0", "--requests-per-minute", "1000")
	b.client.URL = "https://" + found[1]
}

// boot has the machine boot the kernel. Its evidence is its TPM's alone.
func (b *brokerSite) boot(kernel string) (machine *tpm.Device, off func()) {
	b.Helper()
	dir := filepath.Join(b.Dir, "tpm")
	process, err := swtpm.PowerOn(dir, swtpm.Component{Name: ".linux", Content: []byte(kernel)})
	if err != nil {
		b.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, swtpm.EventLog))
	if err != nil {
		b.Fatal(err)
	}
	if machine, err = device.OpenTPM(process.Socket); err != nil {
		b.Fatal(err)
	}
	program := tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "program", Digest: make([]byte, 32)}
	if err := machine.Measure(program); err != nil {
		b.Fatal(err)
	}
	collector := &attest.Collector{TPM: machine, EventLog: log, Measurements: []tpm.Measurement{program}}
	b.client.Collect = collector.Collect
	return machine, func() {
		_ = machine.Close()
		process.Stop()
	}
}

// setPolicy installs a policy that requires a TPM alone: the program trusts the
// manufacturers' roots for the other technologies, and nobody here has theirs.
func (b *brokerSite) setPolicy(version uint64, references ...tpm.Reference) {
	b.Helper()
	p := attest.DefaultPolicy()
	p.Version, p.Require, p.TPM.References = version, []attest.Technology{attest.TPM}, references
	p.Unproven = "a test: the TPM is software"
	text, err := json.Marshal(p)
	if err != nil {
		b.Fatal(err)
	}
	file, signed, key := b.Write(b.T, "policy.json", string(text)), filepath.Join(b.Dir, "policy.signed"), filepath.Join(b.Dir, "signer")
	if version == 1 {
		b.holdfast("", "policy", "key", key)
	}
	if err := os.Remove(signed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	b.holdfast("", "policy", "sign", file, "--key", key, "--out", signed)
	b.broker("policy", signed, "--policy-key", key+".pub")
}

// releases wants the PIN, and notes it for the log.
func (b *brokerSite) releases() {
	b.Helper()
	got, _, err := b.client.Release(b.Context())
	if err != nil || string(got) != sitetest.PIN {
		b.Fatalf("got %q, %v\n%s", got, err, b.server.Log)
	}
	b.released += b.client.Machine + " released \n"
}

// refuses wants a refusal, which is final for the machine.
func (b *brokerSite) refuses(code string) {
	b.Helper()
	got, _, err := b.client.Release(b.Context())
	if err == nil || got != nil || string(fault.CodeOf(err)) != code || fault.ClassOf(err) == fault.TryAgain {
		b.Fatalf("got %q, %v; want %s", got, err, code)
	}
	b.released += b.client.Machine + " refused " + code + "\n"
}

// TestBroker runs a broker as its administrators do: the machine gets the PIN
// when and only when it may, and the log tells of each time.
func TestBroker(t *testing.T) {
	b := newBrokerSite(t)
	device, off := b.boot("a kernel")
	if found := regexp.MustCompile(`(?m)^pin +(\S+)$`).FindStringSubmatch(b.broker("init", "--name", "127.0.0.1")); found != nil {
		b.client.Pin = found[1]
	}
	b.serve()
	b.refuses("E_BROKER_POLICY")
	b.setPolicy(1)
	b.refuses("E_BROKER_MACHINE")
	b.broker("add", "hsm-1", "--first", "--pin-file", b.Write(t, "pin", sitetest.PIN+"\n"))
	b.releases()

	b.broker("revoke", "hsm-1")
	b.refuses("E_BROKER_STOPPED")
	b.holdfast(sitetest.PIN+"\n", "broker", "add", "hsm-1")
	b.releases()
	b.broker("revoke", "--all")
	b.refuses("E_BROKER_STOPPED")

	if err := b.server.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.server.Ended
	b.serve()
	b.refuses("E_BROKER_STOPPED") // as before it was killed
	b.broker("resume")
	b.releases()

	values, err := device.ReadPCRs("sha384", []int{4, 7, 11, 12, 13})
	if err != nil {
		t.Fatal(err)
	}
	reference := tpm.Reference{Name: "release 1", PCRs: map[int]tpm.Hex{}}
	for n, value := range values {
		reference.PCRs[n] = value
	}
	b.setPolicy(2, reference)
	b.releases()
	off()
	_, off = b.boot("another kernel")
	defer off()
	b.refuses("E_TPM_REFERENCE")

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", b.server.Cmd.Process.Pid))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the broker's core may be dumped: %v\n%s", err, limits)
	}
	b.checkLog()
	if err := b.server.Stop(); err != nil {
		t.Error(err)
	}
	b.hasNoPIN()
}

// checkLog compares what holdfast broker log tells with what happened.
func (b *brokerSite) checkLog() {
	b.Helper()
	b.broker("log")
	var records []release.Record
	if err := json.Unmarshal([]byte(b.broker("log", "--json")), &records); err != nil {
		b.Fatal(err)
	}
	var got string
	changes := 0
	for _, r := range records {
		if r.Result != release.Released && r.Result != release.Refused {
			if r.By == "" && r.Number > 1 {
				b.Errorf("nobody has done %+v", r)
			}
			changes++
			continue
		}
		got += r.Machine + " " + r.Result + " " + r.Code + "\n"
		if (r.Result == release.Refused) != (r.Reason != "") || !strings.HasPrefix(r.Remote, "127.0.0.1:") || time.Since(r.Time) > time.Hour {
			b.Errorf("the log has %+v", r)
		}
	}
	if changes < 8 { // begun, two policies, two PINs, an admission, two stops, a resume
		b.Errorf("%d changes are on record", changes)
	}
	if got != b.released {
		b.Errorf("the log has\n%s\nwant\n%s", got, b.released)
	}
	if !slices.IsSortedFunc(records, func(x, y release.Record) int { return x.Time.Compare(y.Time) }) {
		b.Error("the log is not in order")
	}
}

// hasNoPIN looks for the PIN in all that the broker wrote.
func (b *brokerSite) hasNoPIN() {
	b.Helper()
	b.said.WriteString(b.server.Log.String())
	if text := b.said.String(); strings.Contains(text, sitetest.PIN) || !strings.Contains(text, "broker serving") {
		b.Errorf("the PIN was printed or logged, or nothing was:\n%s", text)
	}
	files := 0
	if err := filepath.WalkDir(b.vault, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(sitetest.PIN)) {
			b.Errorf("the PIN is in %s", path)
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			b.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return err
	}); err != nil || files < 7 {
		b.Errorf("%d files, %v", files, err)
	}
}
