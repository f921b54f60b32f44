package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/balancer"
	"holdfast/cmd/internal/kmsload"
	"holdfast/web"
	"holdfast/web/operation"
)

// tour acts as KMS through the balancer, kills a node, blocks a key, starts the node again,
// and prints what each step showed.
func (f *fleet) tour(ctx context.Context) error {
	setup := ""
	if f.nodes[0].SetupOpen {
		setup = f.setupCode
	}
	d, err := f.prepareTour(ctx, f.at, setup)
	if err != nil {
		return err
	}
	g := &fleetGuide{fleet: f, d: d, dead: f.nodes[len(f.nodes)-1]}
	if err := g.allServe(ctx); ctx.Err() != nil {
		return err
	}
	if err := actAsKMS(ctx, d, "Acting as KMS, over HTTPS, through the balancer:"); err != nil {
		f.tellChanged(err)
	} else if err := g.failures(ctx); err != nil {
		return err
	}
	var nodes strings.Builder
	for _, n := range f.nodes {
		fmt.Fprintf(&nodes, "%-15v process %d; administrators' port %s; bin/holdfast --socket %s status\n", n, n.cmd.Process.Pid, n.Admin, n.Socket)
	}
	f.tellWays(d, nodes.String(), f.path(nodeName(1), "holdfast.log")+" and those of the others")
	return nil
}

// fleetGuide shows what a fleet does when something fails.
type fleetGuide struct {
	*fleet
	d    devFile
	dead *fleetNode // the one that is killed
}

// allServe waits until every node has taken over the demonstration.
func (g *fleetGuide) allServe(ctx context.Context) error {
	for _, n := range g.nodes {
		if _, err := g.until(ctx, n, serves); err != nil {
			return err
		}
	}
	return nil
}

func (g *fleetGuide) failures(ctx context.Context) error {
	if err := g.killOne(ctx); err != nil {
		return err
	}
	if err := g.blockKey(ctx); err != nil {
		return err
	}
	return g.startAgain(ctx)
}

// The load under which a node is killed.
const (
	loadConnections = 12
	loadBefore      = time.Second
	loadAfter       = 2 * time.Second
)

// killOne kills a node under load, and says what KMS saw of it.
func (g *fleetGuide) killOne(ctx context.Context) error {
	fmt.Printf("\nKilling %v (kill -9) under the load of %d connections through the balancer:\n", g.dead, loadConnections)
	load := kmsload.Start(kmsload.Options{Connections: loadConnections, Keys: []string{g.d.KeyID}, Name: "kill", Pause: 5 * time.Millisecond,
		Client: func() *kmsload.Client { return g.d.client(g.d.XKSURL, g.roots, 2*time.Second) }})
	err := wait(ctx, loadBefore)
	before := load.Count()
	began := time.Now()
	var noticed time.Duration
	if err == nil {
		g.dead.kill()
		for err == nil && g.balancer.Health(g.dead.String()) != balancer.Dead {
			err = wait(ctx, time.Millisecond)
		}
		noticed = time.Since(began)
	}
	if err == nil {
		err = wait(ctx, loadAfter)
	}
	r := load.Stop()
	if err != nil {
		return err
	}
	showFigure("before the kill", "%d requests answered", before)
	showStep("balancer", noticed, "sends nothing more to "+g.dead.String())
	showFigure("after the kill", "%d requests answered, %d failed, %d wrong", len(r.Answered)-before, r.Failed, len(r.Wrong))
	showStep("longest gap", r.Gap, "in which KMS had no answer from any node")
	showStep("longest failure", r.Outage, "in which one of KMS's connections had no answer")
	if len(r.Wrong) > 0 {
		return fmt.Errorf("an answer was wrong: %s", r.Wrong[0])
	}
	return nil
}

// showFigure prints a line of a table that has no time.
func showFigure(name, format string, args ...any) {
	fmt.Printf("  %-18s %8s      %s\n", name, "", fmt.Sprintf(format, args...))
}

// blockKey blocks the key at the first node, and says when each one refuses it.
func (g *fleetGuide) blockKey(ctx context.Context) error {
	fmt.Printf("\nBlocking %s at %v, while %v is dead:\n", g.d.KeyID, g.nodes[0], g.dead)
	began := time.Now()
	returned := make(chan error, 1)
	go func() {
		returned <- g.admin(ctx, "block", operation.NewBlock{BlockTarget: g.target(), Reason: "the tour of holdfast-dev"})
	}()
	for _, n := range g.nodes {
		if n == g.dead {
			continue
		}
		said, err := g.until(ctx, n, refuses)
		if err != nil {
			return err
		}
		showStep(n.String(), time.Since(began), "refuses it: "+said)
	}
	if err := <-returned; err != nil {
		return err
	}
	showStep("the command", time.Since(began), fmt.Sprintf("has returned: %v must have stopped by now, if it were only cut off", g.dead))
	return nil
}

// startAgain starts the node that was killed. It must refuse the key from its first answer
// on. Then the block is taken back.
func (g *fleetGuide) startAgain(ctx context.Context) error {
	fmt.Printf("\nStarting %v again:\n", g.dead)
	took, err := g.start(ctx, g.dead)
	if err != nil {
		return err
	}
	showStep(g.dead.String(), took, fmt.Sprintf("serves, as process %d", g.dead.cmd.Process.Pid))
	said, err := g.ask(ctx, g.dead)
	if err != nil {
		return err
	}
	if said == "" {
		return fmt.Errorf("%v served %s, which was blocked while it was dead", g.dead, g.d.KeyID)
	}
	showFigure("caught up", "its first answer for %s is: %s", g.d.KeyID, said)
	began := time.Now()
	if err := g.admin(ctx, "unblock", g.target()); err != nil {
		return err
	}
	if err := g.allServe(ctx); err != nil {
		return err
	}
	showStep("unblock", time.Since(began), "until all nodes serve it again")
	return nil
}

func (g *fleetGuide) target() appliance.BlockTarget {
	return appliance.BlockTarget{KeyStore: demoKeyStore, KeyID: g.d.KeyID}
}

func (g *fleetGuide) admin(ctx context.Context, route string, body any) error {
	return web.NewClient(g.at.socket).Do(ctx, http.MethodPost, web.Path(route), body, nil)
}

// What a node is asked until it does.
const (
	serves  = true
	refuses = false
)

// changePatience is how long a change may take to come to a node.
const changePatience = 10 * time.Second

// until asks a node to encrypt until it does, or refuses; then it gives the refusal.
func (g *fleetGuide) until(ctx context.Context, n *fleetNode, want bool) (said string, err error) {
	for end := time.Now().Add(changePatience); time.Now().Before(end); {
		if said, err = g.ask(ctx, n); err != nil || (said == "") == want {
			return said, err
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return "", err
		}
	}
	return said, fmt.Errorf("%v has not taken over a change within %v; its log is in %s", n, changePatience, g.path(nodeName(n.order.Number)))
}

// ask asks one node directly; it gives what it refuses with, or nothing.
func (g *fleetGuide) ask(ctx context.Context, n *fleetNode) (refused string, err error) {
	c := g.d.client("https://"+n.XKS, g.roots, 10*time.Second)
	defer c.HTTP.CloseIdleConnections()
	_, err = c.Encrypt(ctx, g.d.KeyID, "tour", []byte("x"), nil)
	var r *kmsload.Refusal
	if errors.As(err, &r) {
		return r.Name, nil
	}
	if err != nil {
		return "", fmt.Errorf("%v: %w", n, err)
	}
	return "", nil
}

// wait waits, or gives why ctx has ended.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
