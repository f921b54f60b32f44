// Command holdfast-dev is the same appliance as holdfast on a simulated
// platform, for trying it and for developing it: the HSM is a SoftHSM2 token,
// the certificate is its own. All its state is in one folder. On the first
// start it makes a key store with a credential and a key, and at each start it
// acts as AWS KMS once.
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

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/cmd/internal/daemon"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".dev", "folder for all state")
	flag.StringVar(&o.xksAddr, "xks-addr", "127.0.0.1:8443", "listen here for AWS KMS")
	flag.StringVar(&o.adminAddr, "admin-addr", "127.0.0.1:9443", "listen here for administrators")
	flag.StringVar(&o.config, "config", "", "configuration file (TOML) to begin from; the simulated platform overrides its addresses, HSM and state")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "holdfast-dev: unexpected argument %q; see --help\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-dev: "+err.Error())
		os.Exit(1)
	}
}

type options struct{ dir, xksAddr, adminAddr, config string }

// run prepares the platform, starts the appliance and gives the tour once it
// serves.
func run(ctx context.Context, o options) error {
	p, err := preparePlatform(o.dir)
	if err != nil {
		return err
	}
	cfg := &config.Config{Log: config.Log{Level: "info", Format: "text"}}
	if o.config != "" {
		var warnings config.Problems
		cfg, warnings, err = config.Load(o.config)
		if err != nil {
			return err
		}
		for _, w := range warnings {
			fmt.Println(w)
		}
	}
	p.configure(cfg, o)
	logFile, err := os.OpenFile(p.path("holdfast.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer logFile.Close()
	log, flush := daemon.NewLog(cfg.Log, logFile)
	defer flush()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tourErr error
	err = daemon.Run(ctx, daemon.Options{
		Config: cfg,
		Log:    log,
		PIN:    p.pin,
		// Nobody waits for a simulated token to come back, or for its PIN.
		TokenFailure: func(err error) error { return fmt.Errorf("%s: %w", p.path("token"), err) },
		Serving: func(a daemon.Addresses) {
			if tourErr = tour(ctx, p, a); tourErr != nil {
				cancel()
			}
		},
	})
	if tourErr != nil && !errors.Is(tourErr, context.Canceled) {
		return tourErr
	}
	if err == nil {
		_ = os.Remove(p.path("dev.json"))
		fmt.Println("stopped")
	}
	if appliance.CodeOf(err) == appliance.CodeTampered {
		return fmt.Errorf("the state folder %s is broken; delete it to begin anew: %w", p.dir, err)
	}
	return err
}

func (p *platform) path(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}
