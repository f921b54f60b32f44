// Package brokerdir names the files of a broker, for the program that serves it and
// for the one that administers it.
package brokerdir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/attest/release"
)

// Folder is a broker's folder, and the files that may lie elsewhere.
type Folder struct {
	Dir string
	// identity, certificate and key are files; in the folder if not named.
	identity, certificate, key string
}

// AddFlag adds the flag that names the folder, for the command and those under it.
func (f *Folder) AddFlag(c *cobra.Command) {
	dir := cmp.Or(os.Getenv("HOLDFAST_BROKER_DIR"), "/var/lib/holdfast-broker")
	c.PersistentFlags().StringVar(&f.Dir, "dir", dir, "folder of the broker (HOLDFAST_BROKER_DIR)")
}

// AddIdentityFlag adds the flag that names the key that decrypts the PINs.
func (f *Folder) AddIdentityFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.identity, "identity", "", "file of the key that decrypts the PINs; identity in the folder if not given")
}

// AddTLSFlags adds the flags that name the certificate and its key.
func (f *Folder) AddTLSFlags(c *cobra.Command) {
	c.Flags().StringVar(&f.certificate, "tls-cert", "", "certificate (PEM); tls.pem in the folder if not given")
	c.Flags().StringVar(&f.key, "tls-key", "", "its private key (PEM), which machines pin; tls-key.pem in the folder if not given")
}

// IdentityFile is the file of the key that decrypts the PINs.
func (f *Folder) IdentityFile() string {
	return cmp.Or(f.identity, filepath.Join(f.Dir, "identity"))
}

// CertificateFile is the file of the broker's certificate (PEM).
func (f *Folder) CertificateFile() string {
	return cmp.Or(f.certificate, filepath.Join(f.Dir, "tls.pem"))
}

// KeyFile is the file of the certificate's private key (PEM).
func (f *Folder) KeyFile() string { return cmp.Or(f.key, filepath.Join(f.Dir, "tls-key.pem")) }

// Vault opens the broker's folder. Only holdfast broker init makes it: a mistyped
// name is an error, and not a new broker.
func (f *Folder) Vault() (*release.Vault, error) {
	v, err := release.FindVault(f.Dir, f.IdentityFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no broker in %s: name its folder with --dir, or make one with holdfast broker init", f.Dir)
	}
	if v != nil {
		v.Person = person()
	}
	return v, err
}

// person is the user of the operating system, and who used sudo, for the broker's log.
func person() string {
	name := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if who := os.Getenv("SUDO_USER"); who != "" {
		name += " (sudo by " + who + ")"
	}
	return name
}
