package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
)

// Admin is what commands that administer an appliance share: where it is, and how
// results are shown.
type Admin struct {
	Output
	// Elsewhere says that the program can administer appliances elsewhere.
	Elsewhere bool
	// Socket is the admin socket of an appliance on this machine.
	Socket string
	// server, if not empty, is an appliance elsewhere, called with an API token.
	server, tokenFile, ca string
	// Yes says that nobody is asked to confirm anything.
	Yes            bool
	why            string // for the person who approves
	idempotencyKey string
	client         *web.Client
}

// The flags that name the appliance. Only commands that ask one have them.
const (
	socketFlag, serverFlag, tokenFileFlag, caFlag, whyFlag, yesFlag, keyFlag = "socket", "server", "token-file", "ca", "why", "yes", "idempotency-key"
)

// ConnectionFlags are the flags that name the appliance.
func ConnectionFlags() []string {
	return []string{socketFlag, serverFlag, tokenFileFlag, caFlag, whyFlag, keyFlag}
}

// Asks makes the command one that asks the appliance: it has the flags that name it,
// and what they say is read before the command runs.
func (a *Admin) Asks(c *cobra.Command) *cobra.Command {
	a.AddSocketFlag(c)
	if a.Elsewhere {
		f := c.Flags()
		f.StringVar(&a.server, serverFlag, os.Getenv("HOLDFAST_SERVER"), "appliance elsewhere, https://HOST:PORT of its console (HOLDFAST_SERVER)")
		f.StringVar(&a.tokenFile, tokenFileFlag, os.Getenv("HOLDFAST_TOKEN_FILE"), "file with an API token for --server (HOLDFAST_TOKEN_FILE)")
		f.StringVar(&a.why, whyFlag, "", "why, for the person who approves, where --server needs a second person for this")
		f.BoolVar(&a.Yes, yesFlag, false, "do not have the name typed before an outage or a removal")
		f.StringVar(&a.idempotencyKey, keyFlag, "", "key of the change, 16 to 255 characters that nobody can guess: called again with the same key within 24 hours, the command changes nothing and shows the same (default: a new one)")
		f.StringVar(&a.ca, caFlag, "", "file with the certificates (PEM) that the server's may be signed under; the system's without it")
	}
	c.PreRunE = func(*cobra.Command, []string) error { return a.Connect() }
	return c
}

// AddSocketFlag adds the flag that names the appliance on this machine alone.
func (a *Admin) AddSocketFlag(c *cobra.Command) {
	socket := os.Getenv("HOLDFAST_SOCKET")
	if socket == "" {
		socket = "/run/holdfast/admin.sock"
	}
	c.Flags().StringVar(&a.Socket, socketFlag, socket, "admin socket of the appliance (HOLDFAST_SOCKET)")
}

// Connect reads what the flags say that name the appliance.
func (a *Admin) Connect() error {
	if a.idempotencyKey != "" {
		key, err := idempotency.ParseKey(a.idempotencyKey)
		if err != nil {
			return fmt.Errorf("--%s: %w", keyFlag, err)
		}
		a.idempotencyKey = key
	}
	if err := a.connect(); err != nil {
		return err
	}
	a.client.IdempotencyKey = a.idempotencyKey
	return nil
}

func (a *Admin) connect() error {
	if a.server == "" {
		if a.why != "" {
			return errors.New("--why is for --server: at the socket nothing waits for a second person")
		}
		if a.tokenFile != "" || a.ca != "" {
			return errors.New("--token-file and --ca are for --server")
		}
		a.client = web.NewClient(a.Socket)
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
		pem, err := ReadInput(a.ca)
		if err != nil {
			return fmt.Errorf("--ca: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--ca: %s has no certificate in PEM", a.ca)
		}
	}
	if a.client, err = web.NewRemoteClient(a.server, token, roots); err != nil {
		return err
	}
	a.client.Reason = a.why
	return nil
}

// Send implements [operation.Client]: the appliance that the flags name is asked.
// What does not answer as an appliance is an error of fault.Unreachable.
func (a *Admin) Send(ctx context.Context, s operation.Sending, take func(answer io.Reader) error) error {
	var taken error
	err := a.client.Send(ctx, s, func(answer io.Reader) error {
		taken = take(answer)
		return taken
	})
	return a.reached(ctx, err, taken)
}

// Backup has the appliance write a backup into w, and gives what is in it. Approval is the ID of
// the request that was approved; empty for none. Errors are those of Send.
func (a *Admin) Backup(ctx context.Context, approval string, w io.Writer) (*appliance.BackupReport, error) {
	report, err := a.client.Backup(ctx, approval, w)
	return report, a.reached(ctx, err, nil)
}

// reached gives the error of a call as the caller is told it. Taken is that of
// reading the answer.
func (a *Admin) reached(ctx context.Context, err, taken error) error {
	switch {
	case err == nil, errors.As(err, new(*fault.Fault)), errors.As(err, new(*operation.Pending)):
		return err
	case errors.As(err, new(*os.PathError)):
		return err // of the file that the answer is written to
	}
	text := inWords(err)
	switch {
	case taken != nil && ctx.Err() == nil:
		text += ": it answers with something else than an appliance does, or not to the end"
	case errors.Unwrap(err) == nil && !strings.Contains(text, ": answered "):
		return fault.Errorf(fault.Unreachable, "%s", text) // the client says what to do
	}
	flag := "--" + socketFlag
	if a.server != "" {
		flag = "--" + serverFlag
	}
	return fault.Errorf(fault.Unreachable, "%s; check that %s names an appliance that runs", text, flag)
}

// bearer reads a token from a file.
func bearer(path string) (string, error) {
	text, err := ReadInput(path)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if !strings.HasPrefix(token, identity.TokenPrefix) || strings.ContainsAny(token, " \n\r\t") {
		return "", fmt.Errorf("--token-file: %s has no API token, which begins with %s", path, identity.TokenPrefix)
	}
	return token, nil
}
