package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/appliance/boot"
	"holdfast/cmd/internal/daemon"
)

// guide tells what happens, as the boot goes on.
type guide struct {
	ctx      context.Context
	platform *platform
	tamper   bool
	end      func()
	started  bool
	err      error
}

// changed is called by the boot, from one goroutine.
func (g *guide) changed(s boot.Status, a daemon.Addresses) {
	switch {
	case g.started:
	case s.Serves():
		g.started = true
		showBoot(s)
		if g.err = tour(g.ctx, g.platform, a); g.err != nil {
			g.end()
		}
	case g.tamper:
		g.started = true
		showBoot(s)
		fmt.Printf(tampered, s.Code, s.Reason, a.Socket, localhost(a.Admin))
	default: // nobody mends a simulated machine
		g.err = fmt.Errorf("%s: locked: %s: %s", g.platform.dir, s.Code, strings.ReplaceAll(s.Reason, "\n", "; "))
		g.end()
	}
}

const tampered = `Locked: %s
%s

command line    bin/holdfast --socket %s status
for everybody   curl -k https://%s/boot

No key is in memory, and the HSM was not touched. Ctrl-C stops.
`

// showBoot prints how long each state took.
func showBoot(s boot.Status) {
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
