package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func credentialCommand(a *admin) *cobra.Command {
	var accessKeyID, secretFile, kmsJSON string
	create := &cobra.Command{
		Use:   "create KEYSTORE",
		Short: "Make or import a SigV4 credential; its secret is shown once",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			want := web.NewCredential{AccessKeyID: accessKeyID}
			if secretFile != "" {
				secret, err := cli.ReadSecretFile("--secret-access-key-file", secretFile)
				if err != nil {
					return err
				}
				defer clear(secret)
				want.SecretAccessKey = string(secret)
			}
			// The file is made first: a secret that could not be written would be lost.
			var file *os.File
			if kmsJSON != "" {
				var err error
				if file, err = privatefile.Create(kmsJSON); err != nil {
					return fmt.Errorf("--kms-json: %w", err)
				}
				defer file.Close()
			}
			var c web.CreatedCredential
			if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", args[0], "credentials"), want, &c); err != nil {
				if file != nil {
					_ = file.Close() // Windows removes no open file
					_ = os.Remove(kmsJSON)
				}
				return err
			}
			if file != nil {
				if err := writeKMSFile(file, &c); err != nil {
					return fmt.Errorf("--kms-json: %w; the credential %s was made: delete it and make another", err, c.AccessKeyID)
				}
			}
			return a.Show(cmd, c, func(w io.Writer) {
				cli.Row(w, "access key ID", c.AccessKeyID)
				cli.Row(w, "secret access key", c.SecretAccessKey)
				cli.Row(w, "XksProxyUriPath", c.URIPathPrefix+appliance.XKSPath)
				if file != nil {
					cli.Row(w, "KMS console file", kmsJSON)
				}
				cli.Row(w, "The secret is not shown again.")
			})
		}),
	}
	create.Flags().StringVar(&accessKeyID, "access-key-id", "", "import this access key ID")
	create.Flags().StringVar(&secretFile, "secret-access-key-file", "", "import the secret access key in this file, readable by its owner alone")
	create.Flags().StringVar(&kmsJSON, "kms-json", "", "also write the file that the KMS console imports")
	create.MarkFlagsRequiredTogether("access-key-id", "secret-access-key-file")

	list := &cobra.Command{
		Use:   "list KEYSTORE",
		Short: "List the credentials of a key store",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var credentials []*appliance.Credential
			if err := a.Client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0], "credentials"), nil, &credentials); err != nil {
				return err
			}
			return a.Show(cmd, credentials, func(w io.Writer) {
				cli.Row(w, "ACCESS KEY ID", "STATE", "CREATED", "LAST USED")
				for _, c := range credentials {
					cli.Row(w, c.AccessKeyID, active(c.Active), cli.When(c.CreatedAt), cli.When(c.LastUsedAt))
				}
			})
		}),
	}
	return cli.Group("credential", "Manage the SigV4 credentials of key stores", create, list,
		credentialState(a, "activate", "Accept a credential again"),
		credentialState(a, "deactivate", "Refuse a credential from now on"),
		&cobra.Command{
			Use:   "delete KEYSTORE ACCESS-KEY-ID",
			Short: "Delete a credential",
			Args:  cobra.ExactArgs(2),
			RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
				return a.done(cmd, http.MethodDelete, web.Path("keystores", args[0], "credentials", args[1]), "credential "+args[1]+" deleted")
			}),
		})
}

func credentialState(a *admin, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " KEYSTORE ACCESS-KEY-ID",
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var c appliance.Credential
			if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", args[0], "credentials", args[1], verb), nil, &c); err != nil {
				return err
			}
			return a.Show(cmd, c, func(w io.Writer) { cli.Row(w, "credential "+c.AccessKeyID+" "+active(c.Active)) })
		}),
	}
}

// writeKMSFile writes the file that the KMS console imports (spec, "XKS proxy
// configuration in AWS KMS console").
func writeKMSFile(f *os.File, c *web.CreatedCredential) error {
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
