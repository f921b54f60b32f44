// Command holdfast-dev is the same appliance as holdfast on a simulated
// platform, for trying it and for developing it: the TPM is swtpm, the HSM is a
// SoftHSM2 token, the processor's and AWS's signatures are made by doubles under
// roots of their own, and the certificate is its own. It boots as on a real
// machine: the PIN is released by the TPM, or with --release broker by a broker
// beside it. All its state is in one folder. On the first start it makes a key
// store with a credential and a key, and at each start it acts as AWS KMS once.
//
// With --nodes it is a fleet: PostgreSQL, several such appliances as processes of their
// own, each with its TPM, on one token, and a load balancer. It acts as KMS through the
// balancer, kills a node, blocks a key, and says what each step showed.
//
// Simulation exists in this binary alone. Never give it a key that matters.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/logging"
	"holdfast/cmd/internal/modules"
	"holdfast/cmd/internal/terminal"
	"holdfast/hsm/module"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == module.Argument { // which this program starts
		root := &cobra.Command{Use: "holdfast-dev"}
		root.AddCommand(modules.Command())
		os.Exit(cli.Run(root))
	}
	var o options
	flag.StringVar(&o.dir, "dir", ".dev", "folder for all state")
	flag.StringVar(&o.xksAddr, "xks-addr", "127.0.0.1:8443", "listen here for AWS KMS")
	flag.StringVar(&o.adminAddr, "admin-addr", "127.0.0.1:9443", "listen here for administrators")
	flag.StringVar(&o.config, "config", "", "configuration file (TOML) to begin from; the simulated platform overrides its addresses and state, and makes the SoftHSM2 tokens that [hsm] names")
	flag.StringVar(&o.release, "release", config.Sealed, "who releases the PIN: sealed (the TPM) or broker")
	flag.StringVar(&o.brokerAddr, "broker-addr", "127.0.0.1:8444", "with --release broker: the broker listens here")
	flag.BoolVar(&o.tamper, "tamper", false, "boot a kernel that nobody has authorized: the PIN is not released, and the appliance stays locked")
	flag.IntVar(&o.nodes, "nodes", 1, "so many appliances serve together, from one PostgreSQL and behind one balancer")
	node := flag.Bool("node", false, "be one of the nodes that --nodes starts; it is not for people")
	flag.Parse()
	if *node {
		os.Exit(beNode())
	}
	if o.release != config.Sealed && o.release != config.Broker {
		fmt.Fprintf(os.Stderr, "holdfast-dev: --release %q is none of %s, %s\n", o.release, config.Sealed, config.Broker)
		os.Exit(2)
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "holdfast-dev: unexpected argument %q; see --help\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := o.checkFleet(); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-dev: "+err.Error())
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := run
	if o.nodes > 1 {
		start = runFleet
	}
	if err := start(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-dev: "+terminal.Lines(err.Error()))
		os.Exit(1)
	}
}

type options struct {
	dir, xksAddr, adminAddr, brokerAddr string
	config, release                     string
	tamper                              bool
	nodes                               int
}

// maxNodes is how many a fleet on one machine may have.
const maxNodes = 9

// checkFleet refuses what a fleet on one machine does not have.
func (o options) checkFleet() error {
	switch {
	case o.nodes < 1 || o.nodes > maxNodes:
		return fmt.Errorf("--nodes %d is not a number from 1 to %d", o.nodes, maxNodes)
	case o.nodes > 1 && o.tamper:
		return errors.New("--tamper is for one machine: leave out --nodes")
	case o.nodes > 1 && o.release == config.Broker:
		return errors.New("--release broker is for one machine: leave out --nodes; the nodes of a fleet have a TPM each, which releases the PIN")
	}
	return nil
}

// run prepares the platform, starts the appliance and gives the tour once it
// serves.
func run(ctx context.Context, o options) error {
	p, err := preparePlatform(o.dir)
	if err != nil {
		return err
	}
	cfg, err := p.settings(o)
	if err != nil {
		return err
	}
	p.configure(cfg, o)
	log, closeLog, err := p.openLog(cfg)
	if err != nil {
		return err
	}
	defer closeLog()

	stop, err := p.start(cfg, o, log.Logger)
	if err != nil {
		return err
	}
	defer stop()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &guide{ctx: ctx, platform: p, tamper: o.tamper, end: cancel, fail: make(chan error, 1)}
	err = daemon.Run(ctx, daemon.Options{Modules: modules.For(modules.Secrets(cfg)...), Config: cfg, Log: log.Logger, LogDropped: log.Dropped, Platform: p.machine, Changed: g.changed,
		Setup: func(code, _, _ string) { g.setup = code }})
	select {
	case failed := <-g.fail:
		return failed
	default:
	}
	if g.err != nil && !errors.Is(g.err, context.Canceled) {
		return g.err
	}
	if err == nil {
		_ = os.Remove(p.path("dev.json"))
		fmt.Println("stopped")
	}
	if fault.CodeOf(err) == fault.Tampered {
		return fmt.Errorf("the state folder %s is broken; delete it to start over: %w", p.dir, err)
	}
	return err
}

// loadConfig reads the file to begin from, if there is one.
func (p *platform) loadConfig(file string) (*config.Config, config.Problems, error) {
	begin := func(c *config.Config) { c.HSM.Module, c.HSM.TokenLabel = p.module, tokenLabel }
	if file == "" {
		c := &config.Config{Log: config.Log{Level: "info", Format: "text"}}
		begin(c)
		return c, nil, nil
	}
	return config.LoadOver(file, begin)
}

// settings reads the file to begin from, tells what is odd about it, and makes the tokens that it
// names.
func (p *platform) settings(o options) (*config.Config, error) {
	cfg, warnings, err := p.loadConfig(o.config)
	if err != nil {
		return nil, err
	}
	if o.nodes > 1 && len(cfg.HSM.Members) > 0 {
		return nil, errors.New("[[hsm.members]] is for one machine here: leave out --nodes, or the members")
	}
	for _, w := range warnings {
		fmt.Println(terminal.Text(w.String()))
	}
	made, err := p.prepareTokens(cfg.HSM)
	if err == nil && o.config != "" {
		for _, label := range made {
			fmt.Println(terminal.Text(fmt.Sprintf("made the SoftHSM2 token %q, which [hsm] names", label)))
		}
	}
	return cfg, err
}

// openLog opens the machine's log.
func (p *platform) openLog(cfg *config.Config) (_ *logging.Log, end func(), err error) {
	file, err := os.OpenFile(p.path("holdfast.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("log: %w", err)
	}
	log := logging.New(cfg.Log, file, file)
	return log, func() {
		log.Close()
		_ = file.Close() // each line was written
	}, nil
}

func (p *platform) path(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}

func (p *platform) shared(parts ...string) string {
	return filepath.Join(append([]string{p.common}, parts...)...)
}
