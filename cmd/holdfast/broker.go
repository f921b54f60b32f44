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
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
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
		b.initCommand(), b.addCommand(), b.admitCommand(), b.revokeCommand(), b.resumeCommand(), b.policyCommand(), b.crlCommand(), b.tcbCommand(), b.listCommand(), b.logCommand(), b.beginLogCommand())
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
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			files := map[string]string{"dir": b.Dir, "identity": b.IdentityFile(), "tls_cert": b.CertificateFile(), "tls_key": b.KeyFile(), "log_key": vault.LogKeyFile(), "pin": pin}
			return b.Show(cmd, files, func(w io.Writer) {
				cli.Row(w, "folder", b.Dir)
				cli.Row(w, "identity", b.IdentityFile())
				cli.Row(w, "TLS key", b.KeyFile())
				cli.Row(w, "log's public key", vault.LogKeyFile())
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
	var whom admitted
	c := &cobra.Command{
		Use:   "add MACHINE [--instance ID | --first] [--pin-file FILE] < PIN",
		Short: "Keep a machine's PIN, in place of one it has, and allow its release",
		Long: "Keep a machine's PIN, in place of one it has, and allow its release. The PIN is read from standard\n" +
			"input, or from a file that only its owner may read, up to the end of the line. --instance or --first\n" +
			"says which machine gets it; without them it is the one that is admitted already, one whose instance\n" +
			"the policy names, or the one that you admit later (holdfast broker admit).",
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
			if whom != (admitted{}) {
				if err := vault.Admit(args[0], whom.admission()); err != nil {
					return fmt.Errorf("the PIN is kept, and nobody is admitted: %w", err)
				}
			}
			stopped, err := vault.Stopped()
			if err != nil {
				return err
			}
			return b.Show(cmd, brokerMachine{Name: args[0], Stopped: stopped}, func(w io.Writer) {
				cli.Row(w, "the PIN for "+args[0]+" is kept")
				if stopped {
					cli.Row(w, "but all releases are stopped, until holdfast broker resume")
				}
			})
		}),
	}
	c.Flags().StringVar(&file, "pin-file", "", "file with the PIN, instead of standard input")
	whom.addFlags(c)
	b.AddIdentityFlag(c)
	return c
}

// admitted says which machine is admitted.
type admitted struct {
	instance string
	first    bool
}

func (w *admitted) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&w.instance, "instance", "", "EC2 instance (i-…) that gets the PIN")
	c.Flags().BoolVar(&w.first, "first", false, "the machine that is released first gets the PIN, and no other after it")
	c.MarkFlagsMutuallyExclusive("instance", "first")
}

func (w *admitted) admission() release.Admission {
	return release.Admission{Identity: release.Identity{Instance: w.instance}, First: w.first}
}

func (b *broker) admitCommand() *cobra.Command {
	var whom admitted
	var request uint64
	c := &cobra.Command{
		Use:   "admit MACHINE {--request NUMBER | --instance ID | --first}",
		Short: "Say which machine gets the PIN of that name, in place of whom it was",
		Long: "Say which machine gets the PIN of that name, in place of whom it was: one that was refused, by the\n" +
			"number of its record (holdfast broker log); an EC2 instance; or the one that is released first. What\n" +
			"was admitted is on record with you as the one who did it. The machine's attestation key and its state\n" +
			"volume are noted with its next release, and must be the same from then on.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			a := whom.admission()
			if cmd.Flags().Changed("request") {
				a.Identity, err = vault.AdmitRequest(args[0], request)
			} else {
				err = vault.Admit(args[0], a)
			}
			if err != nil {
				return err
			}
			return b.Show(cmd, brokerMachine{Name: args[0], Admission: &a}, func(w io.Writer) {
				cli.Row(w, "admitted as "+args[0], whose(&a))
			})
		}),
	}
	whom.addFlags(c)
	c.Flags().Uint64Var(&request, "request", 0, "number of the record of the machine's refused release")
	c.MarkFlagsMutuallyExclusive("request", "instance", "first")
	c.MarkFlagsOneRequired("request", "instance", "first")
	return c
}

// whose says in words which machine is admitted.
func whose(a *release.Admission) string {
	switch {
	case a == nil:
		return "nobody is admitted"
	case a.First:
		return "the first that is released"
	}
	var parts []string
	for _, p := range []struct{ name, value string }{{"instance", a.Instance}, {"AK", a.AK}, {"volume", a.Volume}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value[:min(len(p.value), 19)])
		}
	}
	return strings.Join(parts, ", ")
}

func (b *broker) beginLogCommand() *cobra.Command {
	var reason string
	var first bool
	c := &cobra.Command{
		Use:   "begin-log --reason TEXT [--first]",
		Short: "Begin the log anew: after an upgrade, or if it was cut or changed, or is too long",
		Long: "Begin the log anew: for a folder of a release that had no signed log; after the log was cut or\n" +
			"changed, when you know who did that; or because it is too long. The file before stays under another\n" +
			"name, the first record of the new one names it, you and the reason. Policy and admitted machines are\n" +
			"carried over, if what they were can be verified; look at holdfast broker list.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			vault, err := b.Vault()
			if err != nil {
				return err
			}
			former, err := vault.BeginLog(release.Beginning{By: vault.Person, Reason: reason, First: first, Now: time.Now()})
			if err != nil {
				return err
			}
			return b.Show(cmd, map[string]string{"log": vault.LogFile(), "former": former, "log_key": vault.LogKeyFile()}, func(w io.Writer) {
				cli.Row(w, "log", vault.LogFile())
				cli.Row(w, "log before", cli.OrDash(former))
				cli.Row(w, "log's public key", vault.LogKeyFile())
			})
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	_ = c.MarkFlagRequired("reason") // it exists: it was made above
	c.Flags().BoolVar(&first, "first", false, "of each name that nobody is admitted for, admit the machine that is released first")
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
			return b.Show(cmd, brokerMachine{Name: machine, Stopped: true}, func(w io.Writer) { cli.Row(w, "nothing is released to "+who) })
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
		Long: "Install a signed policy, by which evidence is appraised from now on. Its version must be higher than\n" +
			"that of the one in force, or it must be the same policy, of the same signer. It must prove which code\n" +
			"runs, or be signed with words that force it (holdfast policy sign --unproven).",
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
	// Admission says which machine gets the PIN; absent if nobody said so.
	Admission *release.Admission `json:"admission,omitempty"`
}

func readState(vault *release.Vault) (*brokerState, error) {
	s := &brokerState{brokerOwn: readOwn(vault), Machines: []brokerMachine{}}
	policy, err := vault.Policy()
	if err == nil {
		s.Policy = &brokerPolicy{policy.Name, policy.Version, policy.Forced()}
	} else if errors.Is(err, attest.ErrUnproven) || fault.CodeOf(err) == fault.BrokerPolicyVersion {
		s.PolicyError = fault.ReasonOf(err)
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
	for _, m := range machines {
		s.Machines = append(s.Machines, brokerMachine{m.Name, m.Stopped, m.Admission})
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
	cli.Row(w, "MACHINE", "RELEASE", "ADMITTED")
	for _, m := range s.Machines {
		cli.Row(w, m.Name, map[bool]string{true: "stopped", false: "allowed"}[m.Stopped], whose(m.Admission))
	}
}

func (b *broker) logCommand() *cobra.Command {
	var verify verifiedLog
	c := &cobra.Command{
		Use:   "log [--verify [--log-key FILE] [--file FILE [--head FILE]]]",
		Short: "Show what was released, refused and changed, oldest first; or verify the log",
		Long: "Show what was released, refused and changed, oldest first. With --verify, follow the chain of the log\n" +
			"and its signatures, and say where it breaks. Exits 1 if it breaks, and 3 if something was not given\n" +
			"that the answer needs: the public key of the log, kept elsewhere than in the folder, or the head,\n" +
			"without which lines that were cut off at the end are not missed. --file verifies a copy, anywhere.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			if verify.asked {
				return b.verifyLog(cmd, &verify)
			}
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
				cli.Row(w, "NUMBER", "TIME", "MACHINE", "FROM", "RESULT", "CODE", "REASON")
				for _, r := range records {
					cli.Row(w, r.Number, cli.When(r.Time), cli.OrDash(r.Machine), cli.OrDash(cmp.Or(r.Remote, r.By)), r.Result, cli.OrDash(r.Code), cli.OrDash(cmp.Or(r.Reason, r.Unproven.String())))
				}
			}))
		}),
	}
	verify.addFlags(c)
	return c
}

// verifiedLog says which log is to be verified.
type verifiedLog struct {
	asked           bool
	key, file, head string
}

func (v *verifiedLog) addFlags(c *cobra.Command) {
	c.Flags().BoolVar(&v.asked, "verify", false, "verify the chain and its signatures")
	c.Flags().StringVar(&v.key, "log-key", "", "public key of the log (PEM), as holdfast broker init made it")
	c.Flags().StringVar(&v.file, "file", "", "verify this copy of a log")
	c.Flags().StringVar(&v.head, "head", "", "the head of that copy (log-head)")
}

// logVerdict is what came of the verification. Missing says what was not given.
type logVerdict struct {
	Result string `json:"verdict"` // pass, fail, incomplete
	*release.LogReport
	Key     string   `json:"key_id"`
	Reason  string   `json:"reason,omitempty"`
	Missing []string `json:"missing,omitempty"`
}

func (b *broker) verifyLog(cmd *cobra.Command, v *verifiedLog) error {
	if v.head != "" && v.file == "" {
		return cli.Unusable(errors.New("--head is that of a copy: give --file as well"))
	}
	var missing []string
	file, headFile, keyFile := v.file, v.head, v.key
	if file == "" {
		vault, err := b.Vault()
		if err != nil {
			return err
		}
		file, headFile = vault.LogFile(), vault.LogHeadFile()
		if keyFile == "" {
			keyFile = vault.LogKeyFile()
			missing = append(missing, "the log's public key, kept elsewhere than in the folder (--log-key): who can write to the folder can put a log of their own there, with their key")
		}
	}
	if keyFile == "" {
		return cli.Unusable(errors.New("say by which key the copy is signed, with --log-key"))
	}
	key, err := cli.ReadPublicKey[ed25519.PublicKey](keyFile, "the log's key is an Ed25519 key")
	if err != nil {
		return fmt.Errorf("--log-key: %w", err)
	}
	var headText []byte
	if headFile != "" {
		if headText, err = cli.ReadInput(headFile); err != nil {
			return err
		}
	} else {
		missing = append(missing, "the head of the log (--head): without it, lines that were cut off at the end are not missed")
	}
	log, err := os.Open(file)
	if err != nil {
		return err
	}
	defer log.Close()
	report, broken := release.VerifyLog(log, headText, key)
	verdict := logVerdict{"pass", report, attest.KeyID(key), "", missing}
	switch {
	case broken != nil:
		verdict.Result, verdict.Reason = "fail", broken.Error()
	case len(missing) > 0:
		verdict.Result = "incomplete"
	}
	if err := b.Show(cmd, verdict, verdict.human); err != nil {
		return err
	}
	switch verdict.Result {
	case "pass":
		return nil
	case "incomplete":
		return cli.ErrIncomplete
	}
	return cli.ErrReported
}

func (v *logVerdict) human(w io.Writer) {
	cli.Row(w, "verdict", v.Result)
	cli.Row(w, "records", fmt.Sprintf("%d, numbers %d to %d", v.Records, v.First, v.Last))
	cli.Row(w, "last record, SHA-256", cli.OrDash(v.Digest))
	cli.Row(w, "key", v.Key)
	if f := v.Before; f != nil {
		cli.Row(w, "follows on", fmt.Sprintf("%s, SHA-256 %s", cli.OrDash(f.File), cli.OrDash(f.SHA256)))
	}
	if v.Reason != "" {
		cli.Row(w, "broken", v.Reason)
	}
	for _, m := range v.Missing {
		cli.Row(w, "not given", m)
	}
}
