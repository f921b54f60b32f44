package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/attest"
)

func policyCommand(a *admin) *cobra.Command {
	return group("policy", "Write and sign appraisal policies", policyKeyCommand(a), policyNewCommand(), policySignCommand(a), policyShowCommand(a))
}

func policyKeyCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key (Ed25519) to sign policies with: FILE and FILE.pub",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			defer clear(private)
			secret, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				return err
			}
			defer clear(secret)
			open, err := x509.MarshalPKIXPublicKey(public)
			if err != nil {
				return err
			}
			if err := writeNew(args[0], 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", 0o644, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open})); err != nil {
				return err
			}
			return a.show(cmd, map[string]string{"key_id": attest.KeyID(public)}, func(w io.Writer) { row(w, "key ID", attest.KeyID(public)) })
		}),
	}
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, mode os.FileMode, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func policyNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Print the default policy, to begin from",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			text, err := json.MarshalIndent(attest.DefaultPolicy(), "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
			return err
		}),
	}
}

func policySignCommand(a *admin) *cobra.Command {
	var key, out string
	c := &cobra.Command{
		Use:   "sign POLICY --key FILE --out FILE",
		Short: "Sign a policy",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			text, err := readInput(args[0])
			if err != nil {
				return err
			}
			p, err := attest.ParsePolicy(text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			private, err := readSigningKey(key)
			if err != nil {
				return err
			}
			defer clear(private)
			signed, err := attest.SignPolicy(p, private)
			if err != nil {
				return err
			}
			if err := writeNew(out, 0o644, append(signed, '\n')); err != nil {
				return err
			}
			id := attest.KeyID(private.Public().(ed25519.PublicKey))
			return a.show(cmd, map[string]any{"name": p.Name, "version": p.Version, "key_id": id}, func(w io.Writer) {
				row(w, "policy", fmt.Sprintf("%s, version %d", p.Name, p.Version))
				row(w, "signed by", id)
			})
		}),
	}
	c.Flags().StringVar(&key, "key", "", "private key (PEM), readable by its owner alone")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	_ = c.MarkFlagRequired("key") // they exist: they were made above
	_ = c.MarkFlagRequired("out")
	return c
}

func readSigningKey(path string) (ed25519.PrivateKey, error) {
	text, err := readSecretFile("--key", path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(append(text, '\n')) // readSecretFile takes the line's end away
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("--key: %s is not a private key in PEM", path)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("--key: %s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("--key: %s is a %T; policies are signed with Ed25519", path, key)
	}
	return private, nil
}

func policyShowCommand(a *admin) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "show POLICY --policy-key FILE",
		Short: "Print a signed policy whose signature verifies",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			p, err := readPolicy(args[0], key)
			if err != nil {
				return err
			}
			return a.printJSON(cmd, p)
		}),
	}
	c.Flags().StringVar(&key, "policy-key", "", "public key (PEM) that it must be signed by")
	_ = c.MarkFlagRequired("policy-key") // it exists: it was made above
	return c
}
