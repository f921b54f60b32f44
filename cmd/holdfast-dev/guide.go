package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/daemon"
	"holdfast/web"
	"holdfast/web/operation"
)

// guide tells what happens, as the boot goes on.
type guide struct {
	ctx      context.Context
	platform *platform
	tamper   bool
	end      func()
	started  bool
	began    bool   // the installation, by hand
	setup    string // the setup code, if nobody can sign in yet
	err      error
	fail     chan error // why the installation was not begun
}

// changed is called by the boot, from one goroutine.
func (g *guide) changed(s progress.Status, a daemon.Addresses) {
	switch {
	case g.started:
	case s.Serves():
		g.started = true
		showBoot(s)
		if g.err = tour(g.ctx, g.platform, a, g.setup); g.err != nil {
			g.end()
		}
	case g.tamper:
		g.started = true
		showBoot(s)
		fmt.Printf(tampered, s.Code, s.Reason, consoleHost(a), setupLine(g.setup), a.Socket, localhost(a.Admin))
	case s.Code == string(fault.StateMissing) && !g.began && g.platform.beginsBesideKey():
		g.began = true
		fmt.Println("beginning the installation beside the master key that was put into the tokens")
		go g.begin(a.Socket)
	default: // nobody mends a simulated machine
		g.err = fmt.Errorf("%s: locked: %s: %s", g.platform.dir, s.Code, strings.ReplaceAll(s.Reason, "\n", "; "))
		g.end()
	}
}

// begin does what a person does whose HSM has a master key already: holdfast installation begin.
func (g *guide) begin(socket string) {
	err := web.NewClient(socket).Do(g.ctx, http.MethodPost, web.Path("installation", "begin"), operation.Beginning{Reason: "holdfast-dev has put the master key into the tokens"}, nil)
	if err != nil {
		g.fail <- fmt.Errorf("begin the installation: %w", err)
		g.end()
	}
}

const tampered = `Locked: %s
%s

console         https://%s%s
command line    bin/holdfast --socket %s status
for everybody   curl -k https://%s/boot

No key is in memory, and the HSM was not touched. Ctrl-C stops.
`

// showBoot prints how long each state took.
func showBoot(s progress.Status) {
	fmt.Println("Boot:")
	var total time.Duration
	for _, step := range s.Steps {
		if step.Took == 0 {
			continue
		}
		total += step.Took
		what := step.Reason
		if step.Code != "" {
			what = "FAILED " + step.Code
		}
		fmt.Printf("  %-18s %8.2f ms   %s\n", step.State, float64(step.Took.Microseconds())/1000, what)
	}
	fmt.Printf("  %-18s %8.2f ms\n\n", "altogether", float64(total.Microseconds())/1000)
}

// setupLine says how the first administrator gets in; empty if somebody can.
func setupLine(code string) string {
	if code == "" {
		return ""
	}
	return "\n  setup code    " + code
}

// consoleHost is the console's name, which passkeys are bound to.
func consoleHost(a daemon.Addresses) string {
	_, port, _ := net.SplitHostPort(a.Admin.String())
	return net.JoinHostPort("localhost", port)
}
