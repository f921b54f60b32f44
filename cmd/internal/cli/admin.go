package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance/identity"
	"holdfast/web"
)

// Admin is what commands that administer an appliance share: where it is, and how
// results are shown.
type Admin struct {
	Output
	// Socket is the admin socket of an appliance on this machine.
	Socket string
	// server, if not empty, is an appliance elsewhere, called with an API token.
	server, tokenFile, ca string
	remote                *web.Client
}

// AddSocketFlag adds the flag that names the appliance on this machine.
func (a *Admin) AddSocketFlag(root *cobra.Command) {
	socket := os.Getenv("HOLDFAST_SOCKET")
	if socket == "" {
		socket = "/run/holdfast/admin.sock"
	}
	root.PersistentFlags().StringVar(&a.Socket, "socket", socket, "admin socket of the appliance (HOLDFAST_SOCKET)")
}

// AddServerFlags adds the flags that name an appliance elsewhere. [Admin.Connect]
// reads what they say.
func (a *Admin) AddServerFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", os.Getenv("HOLDFAST_SERVER"), "appliance elsewhere, https://HOST:PORT of its console (HOLDFAST_SERVER)")
	f.StringVar(&a.tokenFile, "token-file", os.Getenv("HOLDFAST_TOKEN_FILE"), "file with an API token for --server (HOLDFAST_TOKEN_FILE)")
	f.StringVar(&a.ca, "ca", "", "certificates (PEM) that the server's may be signed under; the system's without it")
}

// Client calls the appliance: over its socket, or elsewhere.
func (a *Admin) Client() *web.Client {
	if a.remote != nil {
		return a.remote
	}
	return web.NewClient(a.Socket)
}

// Remote gives the client of an appliance elsewhere; nil without --server.
func (a *Admin) Remote() *web.Client { return a.remote }

// Connect reads what calls to an appliance elsewhere need.
func (a *Admin) Connect() error {
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
		pem, err := ReadInput(a.ca)
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
