package main

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/attest"
	"holdfast/attest/privatefile"
	"holdfast/attest/release"
	"holdfast/cmd/internal/brokerdir"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/coredump"
)

// broker is what the broker's commands share. They work on its folder, and what
// they change acts at once, in a broker that runs as well.
type broker struct {
	*admin
	brokerdir.Folder
}

func brokerCommand(a *admin) *cobra.Command {
	b := &broker{admin: a}
	c := cli.Group("broker", "Administer the broker, which releases the HSM's PIN to attested machines (holdfastd broker serve)",
		b.initCommand(), b.addCommand(), b.revokeCommand(), b.resumeCommand(), b.policyCommand(), b.crlCommand(), b.tcbCommand(), b.listCommand(), b.logCommand())
	b.Folder.AddFlag(c)
	return c
}

func (b *broker) initCommand() *cobra.Command {
	var names []string
	c := &cobra.Command{
		Use:   "init [--name HOST ...]",
		Short: "Make a broker: its folder, identity and TLS key; prints the pin for machines",
		Long: "Make a broker: its folder, the identity that decrypts the PINs, and a TLS key with a certificate.\n" +
			"It prints the pin of the TLS key, which machines are configured with. It overwrites nothing.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			pin, err := b.create(names)
			if err != nil {
				return err
			}
			files := map[string]string{"dir": b.Dir, "identity": b.IdentityFile(), "tls_cert": b.CertificateFile(), "tls_key": b.KeyFile(), "pin": pin}
			return b.Show(cmd, files, func(w io.Writer) {
				cli.Row(w, "folder", b.Dir)
				cli.Row(w, "identity", b.IdentityFile())
				cli.Row(w, "TLS key", b.KeyFile())
				cli.Row(w, "pin", pin)
			})
		}),
	}
	c.Flags().StringSliceVar(&names, "name", nil, "host name or IP address in the certificate; may be repeated; this host's name if not given")
	b.AddIdentityFlag(c)
	b.AddTLSFlags(c)
	return c
}

// create makes all files of the broker, or none, and gives the pin.
func (b *broker) create(names []string) (pin string, err error) {
	if _, err := release.FindVault(b.Dir, ""); err == nil {
		return "", fmt.Errorf("there is a broker in %s already: choose another folder with --dir", b.Dir)
	}
	if len(names) == 0 {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("this host's name: %w; give --name", err)
		}
		names = []string{host}
	}
	certificate, key, err := newCertificate(names)
	if err != nil {
		return "", err
	}
	defer clear(key)
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return "", err
	}
	var made []string
	defer func() {
		if err != nil { // so that another attempt can be made
			for _, path := range made {
				_ = os.Remove(path)
			}
		}
	}()
	for _, f := range []struct {
		path, kind string
		content    []byte
	}{{b.KeyFile(), "PRIVATE KEY", key}, {b.CertificateFile(), "CERTIFICATE", certificate.Raw}} {
		if err := privatefile.Write(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.content})); err != nil {
			return "", err
		}
		made = append(made, f.path)
	}
	if _, err := release.CreateVault(b.Dir, b.IdentityFile()); err != nil {
		return "", err
	}
	return release.Pin(certificate), nil
}

// newCertificate makes a key (PKCS#8) and a certificate that it signs itself.
// Machines know the key by its pin, so the certificate does not expire (RFC 5280
// section 4.1.2.5).
func newCertificate(names []string) (c *x509.Certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Holdfast broker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate for %s: %w", strings.Join(names, ", "), err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("certificate for %s: %w", strings.Join(names, ", "), err)
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	return c, key, err
}

func (b *broker) addCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "add MACHINE [--pin-file FILE] < PIN",
		Short: "Keep a machine's PIN, in place of one it has, and allow its release",
		Long: "Keep a machine's PIN, in place of one it has, and allow its release. The PIN is read from standard\n" +
			"input, or from a file that only its owner may read, up to the end of the line.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			if err := coredump.Forbid(); err != nil {
				return err
			}
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			pin, err := readPIN(cmd, file)
			if err != nil {
				return err
			}
			defer clear(pin)
			if err := vault.Add(args[0], pin); err != nil {
				return err
			}
			stopped, err := vault.Stopped()
			if err != nil {
				return err
			}
			return b.Show(cmd, brokerMachine{args[0], stopped}, func(w io.Writer) {
				cli.Row(w, "the PIN for "+args[0]+" is kept")
				if stopped {
					cli.Row(w, "but all releases are stopped, until holdfast broker resume")
				}
			})
		}),
	}
	c.Flags().StringVar(&file, "pin-file", "", "file with the PIN, instead of standard input")
	b.AddIdentityFlag(c)
	return c
}

func (b *broker) revokeCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "revoke {MACHINE | --all}",
		Short: "Release nothing to a machine, or to any, from now on",
		Long: "Release nothing to a machine, or to any, from now on, also if the broker runs. A machine that has the\n" +
			"PIN already keeps it until it restarts. holdfast broker add allows a machine again, resume ends --all.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			machine, who := "", "any machine"
			if !all {
				machine, who = args[0], args[0] // never empty: see does
			}
			if err := vault.Stop(machine); err != nil {
				return err
			}
			return b.Show(cmd, brokerMachine{machine, true}, func(w io.Writer) { cli.Row(w, "nothing is released to "+who) })
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "all machines, also those that are added later")
	return c
}

func (b *broker) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "End a revoke --all; machines that were revoked by name stay so",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			if err := vault.Resume(); err != nil {
				return err
			}
			return b.Show(cmd, map[string]bool{"all_stopped": false}, func(w io.Writer) { cli.Row(w, "releases are allowed by the policy again") })
		}),
	}
}

func (b *broker) policyCommand() *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "policy POLICY --policy-key FILE",
		Short: "Install a signed policy, by which evidence is appraised from now on",
		Long: "Install a signed policy, by which evidence is appraised from now on. Its version may not be lower\n" +
			"than that of the one in force, nor its signer another. It must prove which code runs, or be signed\n" +
			"with words that force it (holdfast policy sign --unproven).",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			file, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			key, err := cli.ReadPublicKey[ed25519.PublicKey](keyFile, cli.PolicyAlgorithm)
			if err != nil {
				return fmt.Errorf("--policy-key: %w", err)
			}
			if err := vault.SetPolicy(file, key); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			p, err := vault.Policy()
			if err != nil {
				return err
			}
			installed := struct {
				brokerPolicy
				KeyID string `json:"key_id"`
			}{brokerPolicy{p.Name, p.Version, p.Forced()}, attest.KeyID(key)}
			return b.Show(cmd, installed, func(w io.Writer) {
				cli.Row(w, "policy", fmt.Sprintf("%s, version %d", p.Name, p.Version))
				cli.Row(w, "signed by", installed.KeyID)
				rowsOfUnproven(w, installed.Unproven)
			})
		}),
	}
	c.Flags().StringVar(&keyFile, "policy-key", "", "public key (PEM) that it must be signed by")
	_ = c.MarkFlagRequired("policy-key") // it exists: it was made above
	return c
}

func (b *broker) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the policy, the machines, and what is stopped",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			s, err := readState(vault)
			if err != nil {
				return err
			}
			return b.Show(cmd, s, s.human)
		}),
	}
}

// brokerState is what the broker would do now.
type brokerState struct {
	Policy *brokerPolicy `json:"policy"` // null without one that can be used
	// PolicyError says why the policy that is there cannot be used.
	PolicyError string `json:"policy_error,omitempty"`
	brokerOwn
	AllStopped bool            `json:"all_stopped"`
	Machines   []brokerMachine `json:"machines"`
}

type brokerPolicy struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	attest.Unproven
}

type brokerMachine struct {
	Name    string `json:"name,omitempty"` // empty for all machines
	Stopped bool   `json:"stopped"`
}

func readState(vault *release.Vault) (*brokerState, error) {
	s := &brokerState{brokerOwn: readOwn(vault), Machines: []brokerMachine{}}
	policy, err := vault.Policy()
	if err == nil {
		s.Policy = &brokerPolicy{policy.Name, policy.Version, policy.Forced()}
	} else if errors.Is(err, attest.ErrUnproven) {
		s.PolicyError = err.Error()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.AllStopped, err = vault.Stopped(); err != nil {
		return nil, err
	}
	machines, err := vault.Machines()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(machines)) {
		s.Machines = append(s.Machines, brokerMachine{name, machines[name]})
	}
	return s, nil
}

func (s *brokerState) human(w io.Writer) {
	policy, releases := "none: every release is refused", "allowed by the policy"
	if s.Policy != nil {
		policy = fmt.Sprintf("%s, version %d", s.Policy.Name, s.Policy.Version)
	} else if s.PolicyError != "" {
		policy = "cannot be used, every release is refused: " + s.PolicyError
	}
	if s.AllStopped {
		releases = "all stopped, until holdfast broker resume"
	}
	cli.Row(w, "policy", policy)
	if s.Policy != nil {
		rowsOfUnproven(w, s.Policy.Unproven)
	}
	s.brokerOwn.human(w)
	cli.Row(w, "releases", releases)
	cli.Row(w, "")
	cli.Row(w, "MACHINE", "RELEASE")
	for _, m := range s.Machines {
		cli.Row(w, m.Name, map[bool]string{true: "stopped", false: "allowed"}[m.Stopped])
	}
}

func (b *broker) logCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log",
		Short: "Show what was released and refused, oldest first",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			records := []release.Record{}
			// What can be read is shown, whatever else is damaged.
			damaged := vault.Log(func(r release.Record) error {
				records = append(records, r)
				return nil
			})
			return errors.Join(damaged, b.Show(cmd, records, func(w io.Writer) {
				cli.Row(w, "TIME", "MACHINE", "REMOTE", "RESULT", "CODE", "REASON")
				for _, r := range records {
					cli.Row(w, cli.When(r.Time), cli.OrDash(r.Machine), r.Remote, r.Result, cli.OrDash(r.Code), cli.OrDash(cmp.Or(r.Reason, r.Unproven.String())))
				}
			}))
		}),
	}
}
