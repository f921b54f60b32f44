package holdfastd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/attest/release"
	"holdfast/cmd/internal/brokerdir"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/coredump"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/logging"
	"holdfast/cmd/internal/version"
)

// broker is what runs the broker.
type broker struct {
	*cli.Admin
	brokerdir.Folder
}

func brokerCommand(a *cli.Admin) *cobra.Command {
	b := &broker{Admin: a}
	c := cli.Group("broker", "Run the broker, which releases the HSM's PIN to attested machines", b.serveCommand())
	b.Folder.AddFlag(c)
	return c
}

func (b *broker) serveCommand() *cobra.Command {
	var address string
	var rate int
	c := &cobra.Command{
		Use:   "serve [--address :8444]",
		Short: "Run the broker",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			if rate < 1 {
				return fmt.Errorf("--requests-per-minute %d: use 1 or more", rate)
			}
			return b.serve(cmd, address, rate)
		}),
	}
	c.Flags().StringVar(&address, "address", ":8444", "listen here for machines")
	c.Flags().IntVar(&rate, "requests-per-minute", 10, "how many requests of an address are answered; a release takes two")
	b.AddIdentityFlag(c)
	b.AddTLSFlags(c)
	return c
}

// serve serves until the command's context ends. What is wrong is said before it listens.
func (b *broker) serve(cmd *cobra.Command, address string, rate int) error {
	if err := coredump.Forbid(); err != nil {
		return err
	}
	vault, err := b.Vault()
	if err != nil {
		return err
	}
	if err := vault.CheckIdentity(); err != nil {
		return err
	}
	if err := vault.CheckLog(); err != nil {
		return err
	}
	certificate, err := b.loadCertificate()
	if err != nil {
		return err
	}
	listener, err := daemon.ListenTCP("broker", "--address", address)
	if err != nil {
		return err
	}
	defer listener.Close()
	lines := b.newLog(cmd.ErrOrStderr())
	defer lines.Close()
	log := lines.Logger
	warn(log, vault)
	log.Info("broker serving", "address", listener.Addr().String(), "pin", release.Pin(certificate.Leaf), "version", version.Version)
	server := release.NewBroker(release.BrokerOptions{Vault: vault, Log: log, Rate: rate}).Server(*certificate)
	return serveUntil(cmd.Context(), server, listener, log)
}

func (b *broker) newLog(w io.Writer) *logging.Log {
	format := "text"
	if b.JSON {
		format = "json"
	}
	return logging.New(config.Log{Level: "info", Format: format}, w, w)
}

func (b *broker) loadCertificate() (*tls.Certificate, error) {
	key, err := cli.ReadSecretFile("--tls-key", b.KeyFile())
	if err != nil {
		return nil, err
	}
	defer clear(key)
	certificate, err := cli.ReadInput(b.CertificateFile())
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and key %s: %w", b.CertificateFile(), b.KeyFile(), err)
	}
	return &pair, nil
}

// warn says in the log why nothing, or not all, would be released. None of it
// keeps the broker from starting: it may be mended while it runs.
func warn(log *slog.Logger, vault *release.Vault) {
	policy, err := vault.Policy()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("there is no policy, so every release is refused: install one with holdfast broker policy")
	case err != nil:
		log.Error("the policy cannot be used, so every release is refused", "error", err)
	default:
		log.Info("policy in force", "name", policy.Name, "version", policy.Version)
		if u := policy.Forced(); u.Words != "" {
			log.Warn("the policy does not prove which code runs, so other code may get the PIN", "unproven", u.Words, "because", strings.Join(u.Because, "; "))
		}
	}
	machines, err := vault.Machines()
	if err != nil {
		log.Error("the machines cannot be read", "error", err)
	} else if len(machines) == 0 {
		log.Warn("there is no machine, so every release is refused: add one with holdfast broker add")
	}
	for _, m := range machines {
		if m.Admission == nil {
			log.Warn("nobody has admitted a machine of that name, so it is refused unless the policy names its instance: holdfast broker admit", "machine", m.Name)
		}
	}
	if stopped, err := vault.Stopped(); stopped || err != nil {
		log.Warn("all releases are stopped; holdfast broker resume ends that", "error", err)
	}
}

// serveUntil serves until ctx ends, and then answers the requests under way.
func serveUntil(ctx context.Context, server *http.Server, listener net.Listener, log *slog.Logger) error {
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("broker: %w", err)
	case <-ctx.Done():
	}
	log.Info("shutting down")
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	_ = server.Shutdown(grace)
	<-failed
	return nil
}
