// Command holdfast is the appliance and its command line: serve runs the
// appliance, check tests any XKS proxy from outside, verify checks evidence
// offline, and the other commands administer a running appliance over its admin
// socket.
//
// It exits 0 when the work is done, 1 when it was refused or failed, and 2 when
// the call itself is unusable.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/daemon"
	"holdfast/web"
	"holdfast/xks/conformance"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(os.Stderr, "holdfast: "+message(err))
	}
	var refused *fault.Fault
	switch {
	case errors.As(err, &refused) && refused.Code == fault.Invalid, errors.Is(err, conformance.ErrTarget), errors.Is(err, errUnusable):
		return 2
	case errors.As(err, new(ranError)):
		return 1
	}
	return 2 // cobra found the call unusable before anything ran
}

// message is what the caller is told: of an error of the appliance only the
// part that may be shown.
func message(err error) string {
	var refused *fault.Fault
	if errors.As(err, &refused) {
		return refused.Message
	}
	return err.Error()
}

// errReported is an error that has been shown already.
var errReported = errors.New("reported")

// ranError marks an error of a command that ran, against one of its call.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// admin is what the commands share: the client of the admin socket, and how to
// show results.
type admin struct {
	socket string
	// server, if not empty, is an appliance elsewhere, called with an API token.
	server, tokenFile, ca string
	remote                *web.Client
	json                  bool
}

// client calls the appliance: over its socket, or elsewhere.
func (a *admin) client() *web.Client {
	if a.remote != nil {
		return a.remote
	}
	return web.NewClient(a.socket)
}

// connect reads what calls to an appliance elsewhere need.
func (a *admin) connect() error {
	if a.server == "" {
		if a.tokenFile != "" || a.ca != "" {
			return errors.New("--token-file and --ca are for --server")
		}
		return nil
	}
	if a.tokenFile == "" {
		return errors.New("--server needs --token-file, a file with an API token; make one in the console, under Users")
	}
	token, err := bearer(a.tokenFile)
	if err != nil {
		return err
	}
	var roots *x509.CertPool
	if a.ca != "" {
		pem, err := readInput(a.ca)
		if err != nil {
			return fmt.Errorf("--ca: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--ca: %s has no certificate in PEM", a.ca)
		}
	}
	a.remote, err = web.NewRemoteClient(a.server, token, roots)
	return err
}

func newRoot() *cobra.Command {
	a := &admin{}
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "An external key store for AWS KMS",
		Long: "Holdfast answers AWS KMS's external key store (XKS) requests with keys that\n" +
			"rest wrapped under the master key of your HSM.",
		Version:       daemon.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	socket := os.Getenv("HOLDFAST_SOCKET")
	if socket == "" {
		socket = "/run/holdfast/admin.sock"
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "admin socket of the appliance (HOLDFAST_SOCKET)")
	root.PersistentFlags().StringVar(&a.server, "server", os.Getenv("HOLDFAST_SERVER"), "appliance elsewhere, https://HOST:PORT of its console (HOLDFAST_SERVER)")
	root.PersistentFlags().StringVar(&a.tokenFile, "token-file", os.Getenv("HOLDFAST_TOKEN_FILE"), "file with an API token for --server (HOLDFAST_TOKEN_FILE)")
	root.PersistentFlags().StringVar(&a.ca, "ca", "", "certificates (PEM) that the server's may be signed under; the system's without it")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.connect() }
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		serveCommand(),
		configCommand(a),
		checkCommand(a),
		statusCommand(a),
		attestCommand(a),
		sealCommand(a),
		keyStoreCommand(a),
		credentialCommand(a),
		keyCommand(a),
		settingCommand(a),
		grantCommand(a),
		auditCommand(a),
		backupCommand(a),
		restoreCommand(a),
		blockCommand(a),
		unblockCommand(a),
		verifyCommand(a),
		userCommand(a),
		tokenCommand(a),
		policyCommand(a),
		volumeCommand(),
		capCommand(),
		brokerCommand(a),
	)
	// Cobra's own group of commands is to refuse what it does not know, too.
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.RunE = unnamed
		}
	}
	return root
}

// does makes the RunE of a command from what it does: its errors are those of a
// command that ran. An empty argument, such as of an unset variable, would name
// another route of the API.
func does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return fmt.Errorf("%s: an argument is empty; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		}
		if err := f(cmd, args); err != nil {
			return ranError{err}
		}
		return nil
	}
}

// group makes a command that only holds others. Without one of them, or with an
// unknown one, the call is unusable.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: unnamed}
	c.AddCommand(commands...)
	return c
}

func unnamed(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("%s: name a command; see %s --help", cmd.CommandPath(), cmd.CommandPath())
}
