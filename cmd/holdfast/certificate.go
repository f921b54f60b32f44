package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func certificateCommand(a *admin) *cobra.Command {
	return cli.Group("certificate", "Manage the TLS certificate that the appliance serves with",
		a.asking("show", "Show the certificate", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.ShowCertificate, operation.Nothing{}, showCertificate)
		}),
		certificateRequestCommand(a),
		certificateInstallCommand(a),
		a.asking("restore", "Serve with the certificate of before again; the present one is kept in its place", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.RestoreCertificate, operation.Nothing{}, showCertificate)
		}),
		certificateShareCommand(a),
		a.asking("unshare", "Remove the shared certificate and its key: each node serves with its own", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.UnshareCertificate, operation.Nothing{}, showCertificate)
		}))
}

func certificateInstallCommand(a *admin) *cobra.Command {
	var in operation.CertificateChain
	c := a.asking("install FILE", "Serve with another certificate: a file (PEM) with it and those that signed it", func(cmd *cobra.Command, args []string) error {
		chain, err := cli.ReadInput(args[0])
		if err != nil {
			return err
		}
		in.Chain = string(chain)
		return call(a, cmd, operation.InstallCertificate, in, showCertificate)
	})
	accepts(c, &in.OwnAuthority, &in.OtherName)
	return c
}

// accepts has the command say of a certificate that AWS KMS would most likely not take that it is meant.
func accepts(c *cobra.Command, ownAuthority, otherName *bool) {
	c.Flags().BoolVar(ownAuthority, "own-authority", false, "take it although no public authority has signed it, for a test; AWS KMS does not")
	c.Flags().BoolVar(otherName, "other-name", false, "take it although it lacks a name that is in use, or its common name is not the endpoint's")
}

func certificateShareCommand(a *admin) *cobra.Command {
	var chainFile, keyFile string
	var in operation.SharedCertificate
	c := a.asking("share [--cert FILE --key FILE]", "Have all nodes serve with one certificate, whose key rests sealed in the database", func(cmd *cobra.Command, _ []string) error {
		if chainFile == "" && keyFile == "" {
			return call(a, cmd, operation.ShareCertificate, operation.SharedCertificate{}, showCertificate)
		}
		chain, err := cli.ReadInput(chainFile)
		if err != nil {
			return err
		}
		key, err := cli.ReadInput(keyFile)
		if err != nil {
			return err
		}
		defer clear(key)
		in.Chain, in.Key = string(chain), key
		return call(a, cmd, operation.ShareCertificate, in, showCertificate)
	})
	accepts(c, &in.OwnAuthority, &in.OtherName)
	c.Flags().StringVar(&chainFile, "cert", "", "file (PEM) with the certificate and those that signed it; the present one of the node that is asked if not given")
	c.Flags().StringVar(&keyFile, "key", "", "file (PEM) with its private key")
	c.MarkFlagsRequiredTogether("cert", "key")
	return c
}

func certificateRequestCommand(a *admin) *cobra.Command {
	var names []string
	var out string
	c := a.asking("request --name HOST [--name HOST ...] [--out FILE]", "Make a new key, which stays in the appliance, and a request to sign its certificate (PKCS#10)", func(cmd *cobra.Command, _ []string) error {
		if err := checkNew(out); err != nil { // before the appliance makes a key for nothing
			return err
		}
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.RequestCertificate, operation.CertificateRequest{Names: names})
		if err != nil {
			return err
		}
		if out == "" {
			if a.JSON {
				return a.PrintJSON(cmd, done)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), done.Out.PEM)
			return err
		}
		if err := writeNew(out, []byte(done.Out.PEM)); err != nil {
			return err
		}
		return a.Show(cmd, map[string]string{"request": out}, func(w io.Writer) { cli.Row(w, "request", out) })
	})
	c.Flags().StringArrayVar(&names, "name", nil, "host name or IP address that the certificate is for; may be given again")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist; otherwise it is printed")
	_ = c.MarkFlagRequired("name") // it exists: it was made above
	return c
}

func showCertificate(w io.Writer, c operation.Certificate) {
	cli.Row(w, "subject", c.Subject)
	cli.Row(w, "names", strings.Join(c.Names, ", "))
	cli.Row(w, "issuer", c.Issuer)
	cli.Row(w, "valid", cli.When(c.NotBefore)+" to "+cli.When(c.NotAfter))
	cli.Row(w, "SHA-256", c.SHA256)
	if c.Shared {
		cli.Row(w, "used by", "all nodes that are unlocked")
	} else {
		cli.Row(w, "used by", "this node alone")
	}
	if b := c.Previous; b != nil {
		cli.Row(w, "before", strings.Join(b.Names, ", ")+", until "+cli.When(b.NotAfter)+": certificate restore brings it back")
	}
	if c.Requested {
		cli.Row(w, "requested", "a signing request waits for its certificate")
	}
}
