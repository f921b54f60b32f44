package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/launch"
	"holdfast/attest"
	"holdfast/attest/owner"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/cli"
)

func launchCommand(a *admin) *cobra.Command {
	return cli.Group("launch", "Write, sign and check launch files", launchNewCommand(), launchCheckCommand(a), launchSignCommand(a), launchShowCommand(a), launchStatusCommand(a), launchInstallCommand(a))
}

func launchNewCommand() *cobra.Command {
	var policyKey, sealKey string
	c := &cobra.Command{
		Use:   "new",
		Short: "Print a launch file to fill in",
		Long: "Print a launch file to fill in: each setting with its meaning, behind a '#' unless it must be\n" +
			"set. With the owner's public keys they are in it.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			keys := map[string]string{policyKey: "", sealKey: ""}
			if policyKey != "" {
				if _, err := cli.ReadPublicKey[ed25519.PublicKey](policyKey, cli.PolicyAlgorithm); err != nil {
					return err
				}
			}
			if sealKey != "" {
				if _, err := cli.ReadPublicKey[*ecdsa.PublicKey](sealKey, cli.SealAlgorithm); err != nil {
					return err
				}
			}
			for path := range keys {
				if path == "" {
					continue
				}
				text, err := cli.ReadInput(path)
				if err != nil {
					return err
				}
				keys[path] = string(text)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), launch.Template(keys[policyKey], keys[sealKey]))
			return err
		}),
	}
	c.Flags().StringVar(&policyKey, "policy-key", "", "the owner's public key (PEM, Ed25519), of policy key")
	c.Flags().StringVar(&sealKey, "seal-key", "", "the owner's public key for TPMs (PEM, P-256), of policy key --seal")
	return c
}

func launchCheckCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say all that is wrong with a launch file",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			text, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			_, err = launch.Parse(args[0], text)
			problems := config.Problems{}
			if err != nil && !errors.As(err, &problems) {
				return err
			}
			if a.JSON {
				if err := a.PrintJSON(cmd, problems); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					cli.Row(cmd.OutOrStdout(), p)
				}
				if err == nil {
					cli.Row(cmd.OutOrStdout(), args[0]+": usable")
				}
			}
			if err != nil {
				return cli.ErrReported
			}
			return nil
		}),
	}
}

// launchSigning is what launch sign is told.
type launchSigning struct {
	key, keyBefore, out, userData, setupCode string
	version                                  uint64
}

func launchSignCommand(a *admin) *cobra.Command {
	var s launchSigning
	c := &cobra.Command{
		Use:   "sign FILE --key FILE --version N --out FILE [--user-data FILE] [--key-before FILE]",
		Short: "Sign a launch file as its owner",
		Long: "Sign a launch file with the private key of its owner.policy_key. The signature is over the\n" +
			"digest of the file's exact bytes: who changes one signs again, with a higher --version, as a\n" +
			"machine takes no lower one and no other file of the same version.\n\n" +
			"--user-data writes what EC2 takes as user data: file and signature, in at most 16 KiB.\n" +
			"--key-before is the private key of the owner before, where the owner's key is exchanged: a\n" +
			"machine that knows the old one takes the new one by its word alone.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			text, err := cli.ReadInput(args[0])
			if err != nil {
				return err
			}
			l, files, err := s.sign(args[0], text)
			if err != nil {
				return err
			}
			if err := writeAll(files); err != nil {
				return err
			}
			return a.Show(cmd, shownLaunch(l), func(w io.Writer) { rowsOfLaunch(w, l) })
		}),
	}
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "the owner's private key (PEM, Ed25519), readable by its owner alone")
	f.StringVar(&s.keyBefore, "key-before", "", "private key (PEM) of the owner before, if the owner's key is exchanged")
	f.Uint64Var(&s.version, "version", 0, "the version of the launch file, from 1 on")
	f.StringVar(&s.out, "out", "", "file to write the signature to, which must not exist")
	f.StringVar(&s.userData, "user-data", "", "file to write user data for EC2 to, which must not exist")
	f.StringVar(&s.setupCode, "setup-code", "", "the SHA-256 of the setup code for the first administrator, 64 hexadecimal digits, for --user-data")
	for _, name := range []string{"key", "version", "out"} {
		_ = c.MarkFlagRequired(name) // they exist: they were made above
	}
	return c
}

// sign gives the launch file as it was signed, and the files to write.
func (s *launchSigning) sign(name string, text []byte) (*owner.Launch, []newFile, error) {
	if s.setupCode != "" && s.userData == "" {
		return nil, nil, errors.New("--setup-code is for --user-data")
	}
	key, err := readPrivateKey[ed25519.PrivateKey]("--key", s.key, cli.PolicyAlgorithm)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	var before ed25519.PrivateKey
	if s.keyBefore != "" {
		if before, err = readPrivateKey[ed25519.PrivateKey]("--key-before", s.keyBefore, cli.PolicyAlgorithm); err != nil {
			return nil, nil, err
		}
		defer clear(before)
	}
	envelope, err := owner.Sign(text, s.version, key, before)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	l, err := owner.Open(text, envelope)
	if err == nil {
		_, err = launch.Take(name, l)
	}
	if err != nil {
		return nil, nil, err
	}
	files := []newFile{{s.out, envelope}}
	if s.userData != "" {
		document, err := owner.EncodeDocument(text, envelope, s.setupCode)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, newFile{s.userData, bytes.TrimSuffix(document, []byte("\n"))})
	}
	return l, files, nil
}

// launchShown is a launch file for programs.
type launchShown struct {
	Digest    string            `json:"launch_sha256"`
	Owner     string            `json:"owner_sha256,omitempty"`
	KeyID     string            `json:"key_id"`
	SealKeyID string            `json:"seal_key_id,omitempty"`
	Version   uint64            `json:"version,omitempty"`
	Signed    bool              `json:"signed"`
	PCR15     map[string]string `json:"pcr15"`
	Sets      []string          `json:"sets,omitempty"`
}

func shownLaunch(l *owner.Launch) launchShown {
	return launchShown{Digest: tpm.Hex(l.Digest).String(), Owner: tpm.Hex(l.OwnerDigest).String(), KeyID: l.KeyID(), Version: l.Version, Signed: true, PCR15: launchPCR(l.Digest)}
}

// launchPCR gives the value of PCR 15 on a machine with the launch file, by bank.
func launchPCR(digest []byte) map[string]string {
	values := map[string]string{}
	for _, bank := range []string{"sha256", "sha384"} {
		if value, err := tpm.LaunchValue(bank, digest); err == nil { // it has the size of one
			values[bank] = value.String()
		}
	}
	return values
}

func rowsOfLaunch(w io.Writer, l *owner.Launch) {
	cli.Row(w, "launch file", tpm.Hex(l.Digest).String())
	cli.Row(w, "version", l.Version)
	cli.Row(w, "signed by", l.KeyID())
}

func launchShowCommand(a *admin) *cobra.Command {
	var signature, key string
	c := &cobra.Command{
		Use:   "show FILE [--signature FILE] [--owner FILE]",
		Short: "Say what a launch file sets, its digest, its owner, and its value of PCR 15",
		Long: "Say in sentences what a launch file sets, its digest, its owner, and the value that PCR 15\n" +
			"has on a machine with it. FILE is a launch file, or user data of launch sign --user-data.\n" +
			"With --signature, or with user data, the signature must verify; with --owner it must be\n" +
			"that key's.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			text, l, err := readLaunch(args[0], signature)
			if err != nil {
				return err
			}
			if key != "" {
				if err := ownedBy(args[0], l, key); err != nil {
					return err
				}
			}
			return a.showLaunch(cmd, args[0], text, l)
		}),
	}
	c.Flags().StringVar(&signature, "signature", "", "the file that launch sign wrote")
	c.Flags().StringVar(&key, "owner", "", "public key (PEM) that the launch file must be signed by")
	return c
}

// readLaunch reads a launch file, with its signature if there is one: in the file of that
// name, or beside it in user data. Without one l is nil.
func readLaunch(path, signature string) (text []byte, l *owner.Launch, err error) {
	if text, err = cli.ReadInput(path); err != nil {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		if signature != "" {
			return nil, nil, fmt.Errorf("%s is user data, which has its signature; leave --signature out", path)
		}
		if l, _, err = owner.ParseDocument(text); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		return l.File, l, nil
	case signature == "":
		return text, nil, nil
	}
	envelope, err := cli.ReadInput(signature)
	if err == nil {
		l, err = owner.Open(text, bytes.TrimSpace(envelope))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", signature, err)
	}
	return text, l, nil
}

// ownedBy says why a launch file is not signed by the key in the file.
func ownedBy(path string, l *owner.Launch, keyFile string) error {
	if l == nil {
		return fmt.Errorf("--owner: %s is a launch file without a signature; give it with --signature", path)
	}
	key, err := cli.ReadPublicKey[ed25519.PublicKey](keyFile, cli.PolicyAlgorithm)
	if err != nil {
		return err
	}
	if !l.Owner.Equal(key) {
		return fmt.Errorf("%s: it is signed by %s, and %s has %s; ask who signed it", path, l.KeyID(), keyFile, attest.KeyID(key))
	}
	return nil
}

func (a *admin) showLaunch(cmd *cobra.Command, name string, text []byte, l *owner.Launch) error {
	f, err := launch.Parse(name, text)
	if l != nil {
		f, err = launch.Take(name, l)
	}
	if err != nil {
		return err
	}
	digest := sha256.Sum256(text)
	shown := launchShown{Digest: tpm.Hex(digest[:]).String(), KeyID: attest.KeyID(f.PolicyKey), PCR15: launchPCR(digest[:])}
	if l != nil {
		shown = shownLaunch(l)
	}
	shown.Sets = f.Sentences()
	if shown.SealKeyID, err = seal.KeyID(f.SealKey); err != nil {
		return err
	}
	return a.Show(cmd, shown, func(w io.Writer) {
		cli.Row(w, "launch file", shown.Digest)
		if l != nil {
			cli.Row(w, "version", shown.Version)
			cli.Row(w, "signed by", shown.KeyID+", its owner")
		} else {
			cli.Row(w, "unsigned", "it names the owner "+shown.KeyID+", who has to sign it")
		}
		cli.Row(w, "for TPMs", shown.SealKeyID)
		cli.Row(w, "PCR 15 sha256", shown.PCR15["sha256"])
		cli.Row(w, "PCR 15 sha384", shown.PCR15["sha384"])
		for _, sentence := range shown.Sets {
			cli.Row(w, "", sentence)
		}
	})
}
