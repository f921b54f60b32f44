package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/cmd/internal/sitetest"
	"holdfast/web/operation"
)

// typing runs a command at a terminal where a person types an answer, and gives what the terminal
// got and how it ended.
func typing(t *testing.T, cmd *exec.Cmd, answer string) (string, error) {
	t.Helper()
	control, tty := openTerminal(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	if _, err := io.WriteString(control, answer+"\n"); err != nil { // the terminal keeps it until it is read
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, _ = io.Copy(&out, control) // EIO when the program has ended
	return out.String(), cmd.Wait()
}

// TestNameTypedAtATerminal: before an outage a person at a terminal sees what relies on the thing,
// and types its name; another name does nothing. Scripts are not asked.
func TestNameTypedAtATerminal(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	s.Start(t)
	s.Run(t, "keystore", "create", "demo")
	s.Run(t, "key", "create", "demo", "payments")
	s.Run(t, "grant", "add", "demo", "--key", "payments", "--principal", "arn:aws:iam::123456789012:role/app", "--operations", "Encrypt")
	at := func(answer string, args ...string) (string, error) {
		t.Helper()
		return typing(t, s.Command(t.Context(), "holdfast", args...), answer)
	}
	state := func() string { return s.Run(t, "key", "show", "demo", "payments") }
	for _, wrong := range []string{"", "payment", "yes"} {
		out, err := at(wrong, "key", "disable", "demo", "payments")
		if err == nil || !strings.Contains(out, "nothing was done") || !strings.Contains(out, "No request of KMS used it in the last seven days.") || !strings.Contains(out, "role/app") || strings.Contains(state(), "disabled") {
			t.Errorf("%q: %v: %s", wrong, err, out)
		}
	}
	if out, err := at("payments", "key", "disable", "demo", "payments"); err != nil || !strings.Contains(out, "Type payments to confirm") || !strings.Contains(state(), "disabled") {
		t.Errorf("%v: %s", err, out)
	}
	for _, args := range [][]string{{"key", "enable", "demo", "payments"}, {"keystore", "set-quota", "demo", "--requests-per-second", "0"}, {"key", "disable", "demo", "payments", "--yes"}, {"block", "demo", "--reason", "r", "--json"}} {
		if out, err := at("", args...); err != nil || strings.Contains(out, "to confirm") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	if out, err := at("everything", "block", "--everything", "--reason", "r"); err != nil || !strings.Contains(out, "key stores") {
		t.Errorf("%v: %s", err, out)
	}
	s.Run(t, "unblock", "--everything") // no terminal: nobody is asked
}

// TestNameTypedDuringAnUpdate: an appliance of an earlier release has no route that tells what
// relies on a thing. That stops nobody; a thing that is missing does.
func TestNameTypedDuringAnUpdate(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	s.Start(t)
	s.Run(t, "keystore", "create", "demo")
	before := filepath.Join(s.Dir, "before.sock") // the appliance, without that route
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", before)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
		}},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "appliance"
			r.Out.URL.Path = strings.Replace(r.In.URL.Path, "/dependents", "/no-such-route", 1)
		},
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	defer server.Close()
	go func() { _ = server.Serve(l) }()
	at := func(socket, answer string, args ...string) (string, error) {
		t.Helper()
		return typing(t, s.Command(t.Context(), "holdfast", append(args, "--socket", socket)...), answer)
	}
	if out, err := at(before, "demo", "block", "demo", "--reason", "r"); err != nil || !strings.Contains(out, "What relies on it is not known") || !strings.Contains(s.Run(t, "keystore", "show", "demo"), "blocked") {
		t.Errorf("%v: %s", err, out)
	}
	for _, socket := range []string{s.Socket, before} {
		if out, err := at(socket, "gone", "block", "gone", "--reason", "r"); err == nil || !strings.Contains(out, "gone") {
			t.Errorf("%s: %v: %s", socket, err, out)
		}
	}
	if out, err := at(s.Socket, "gone", "block", "gone", "--reason", "r"); err == nil || strings.Contains(out, "to confirm") {
		t.Errorf("what is missing: %v: %s", err, out)
	}
}

// TestEveryConfirmedOperationHasAName: what the table says is confirmed has something to type also
// where only the input is known.
func TestEveryConfirmedOperationHasAName(t *testing.T) {
	for want, c := range map[string]*operation.Confirmation{
		"k":                     operation.DisableKey.ToConfirm(operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: "s"}, Key: "k"}),
		"s":                     operation.DeleteKeyStore.ToConfirm(operation.KeyStoreName{KeyStore: "s"}),
		"everything":            operation.Block.ToConfirm(operation.NewBlock{}),
		"n":                     operation.DrainNode.ToConfirm(operation.Drain{NodeName: operation.NodeName{Node: "n"}, Drained: true}),
		"Revoke older policies": operation.RevokePolicies.ToConfirm(operation.Revocation{Below: 3}),
	} {
		if c == nil || c.Name != want || c.Check(" "+want+" ") != nil || c.Check("x"+want) == nil || c.Check("") == nil {
			t.Errorf("%s: %+v", want, c)
		}
	}
	if c := operation.DrainNode.ToConfirm(operation.Drain{NodeName: operation.NodeName{Node: "n"}}); c != nil {
		t.Errorf("to resume a node: %+v", c)
	}
}
