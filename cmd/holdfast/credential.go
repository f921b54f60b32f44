package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func credentialCommand(a *admin) *cobra.Command {
	return cli.Group("credential", "Manage the SigV4 credentials of key stores", credentialCreateCommand(a), credentialListCommand(a),
		a.asking("show KEYSTORE ACCESS-KEY-ID", "Show a credential, without its secret", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.ShowCredential, credentialOf(args), func(w io.Writer, c *appliance.Credential) { showCredentials(w, []*appliance.Credential{c}) })
		}),
		credentialStateCommand(a, "activate", "Accept a credential again", operation.ActivateCredential),
		credentialStateCommand(a, "deactivate", "Refuse a credential from now on", operation.DeactivateCredential), credentialDiscardCommand(a),
		a.asking("delete KEYSTORE ACCESS-KEY-ID", "Delete a credential", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.DeleteCredential, credentialOf(args), says[operation.Nothing]("credential "+args[1]+" deleted"))
		}))
}

// credentialOf is the credential that KEYSTORE and ACCESS-KEY-ID name.
func credentialOf(args []string) operation.CredentialName {
	return operation.CredentialName{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Credential: args[1]}
}

// newCredential is what a credential is made of, and where its secret goes.
type newCredential struct {
	operation.NewCredential
	secretFile, kmsJSON string
}

func credentialCreateCommand(a *admin) *cobra.Command {
	var n newCredential
	c := a.asking("create KEYSTORE", "Make or import a SigV4 credential; its secret is shown once", func(cmd *cobra.Command, args []string) error {
		n.KeyStore = args[0]
		return n.create(a, cmd)
	})
	c.Flags().StringVar(&n.AccessKeyID, "access-key-id", "", "import this access key ID")
	c.Flags().StringVar(&n.secretFile, "secret-access-key-file", "", "import the secret access key in this file, readable by its owner alone")
	c.Flags().StringVar(&n.kmsJSON, "kms-json", "", "also write the file that the KMS console imports")
	c.MarkFlagsRequiredTogether("access-key-id", "secret-access-key-file")
	return c
}

func (n *newCredential) create(a *admin, cmd *cobra.Command) error {
	if n.secretFile != "" {
		secret, err := cli.ReadSecretFile("--secret-access-key-file", n.secretFile)
		if err != nil {
			return err
		}
		defer clear(secret)
		n.SecretAccessKey = string(secret)
	}
	if n.kmsJSON == "" {
		return call(a, cmd, operation.CreateCredential, n.NewCredential, n.show)
	}
	// The file is made first: a secret that could not be written would be lost.
	file, err := privatefile.Create(n.kmsJSON)
	if err != nil {
		return fmt.Errorf("--kms-json: %w", err)
	}
	defer file.Close()
	done, err := cli.Call(cmd.Context(), &a.Admin, operation.CreateCredential, n.NewCredential)
	if err != nil {
		_ = file.Close() // Windows removes no open file
		_ = os.Remove(n.kmsJSON)
		return err
	}
	if err := writeKMSFile(file, &done.Out); err != nil {
		return fmt.Errorf("--kms-json: %w; the credential %s was made: delete it and make another", err, done.Out.AccessKeyID)
	}
	return a.Show(cmd, done, func(w io.Writer) { n.show(w, done.Out) })
}

func (n *newCredential) show(w io.Writer, c operation.CreatedCredential) {
	cli.Row(w, "access key ID", c.AccessKeyID)
	cli.Row(w, "secret access key", c.SecretAccessKey)
	cli.Row(w, "URI path prefix", cli.OrDash(c.URIPathPrefix))
	cli.Row(w, "XksProxyUriPath", c.URIPathPrefix+appliance.XKSPath)
	if n.kmsJSON != "" {
		cli.Row(w, "KMS console file", n.kmsJSON)
	}
	cli.Row(w, "The secret is not shown again.")
}

func credentialListCommand(a *admin) *cobra.Command {
	var page operation.CredentialPage
	c := a.asking("list KEYSTORE", "List the credentials of a key store", func(cmd *cobra.Command, args []string) error {
		page.KeyStore = args[0]
		return listCall(a, cmd, operation.ListCredentials, page, showCredentials)
	})
	standingFlag(c, &page.Standing, "credentials", operation.ListCredentials)
	return addPaging(c, &page.Paging, operation.ListCredentials)
}

func showCredentials(w io.Writer, credentials []*appliance.Credential) {
	cli.Row(w, "ACCESS KEY ID", "STATE", "CREATED", "LAST USED", "STANDING")
	for _, c := range credentials {
		cli.Row(w, c.AccessKeyID, active(c.Active), cli.When(c.CreatedAt), cli.When(c.LastUsedAt), standingWord(c.Standing))
	}
}

func credentialStateCommand(a *admin, verb, short string, o *operation.Operation[operation.CredentialName, *appliance.Credential]) *cobra.Command {
	return a.asking(verb+" KEYSTORE ACCESS-KEY-ID", short, func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, o, credentialOf(args), func(w io.Writer, c *appliance.Credential) {
			cli.Row(w, "credential "+c.AccessKeyID+" "+active(c.Active))
		})
	})
}

// writeKMSFile writes the file that the KMS console imports (spec, "XKS proxy
// configuration in AWS KMS console").
func writeKMSFile(f *os.File, c *operation.CreatedCredential) error {
	type credential struct {
		AccessKeyID        string `json:"AccessKeyId"`
		RawSecretAccessKey string `json:"RawSecretAccessKey"`
	}
	e := json.NewEncoder(f)
	e.SetIndent("", "  ")
	return errors.Join(e.Encode(struct {
		XksProxyURIPath                  string     `json:"XksProxyUriPath"`
		XksProxyAuthenticationCredential credential `json:"XksProxyAuthenticationCredential"`
	}{c.URIPathPrefix + appliance.XKSPath, credential{c.AccessKeyID, c.SecretAccessKey}}), f.Close())
}
