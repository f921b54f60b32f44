package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func keyStoreCommand(a *admin) *cobra.Command {
	return cli.Group("keystore", "Manage key stores", keyStoreCreateCommand(a), keyStoreListCommand(a), keyStoreShowCommand(a),
		keyStoreHealthCommand(a), keyStoreSetQuotaCommand(a), keyStoreDiscardCommand(a),
		a.asking("delete NAME", "Delete a key store that has no keys, with its credentials and grants", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.DeleteKeyStore, operation.KeyStoreName{KeyStore: args[0]}, says[operation.Nothing]("key store "+args[0]+" deleted"))
		}))
}

func keyStoreCreateCommand(a *admin) *cobra.Command {
	var want operation.NewKeyStore
	c := a.asking("create NAME --uri-path-prefix /PREFIX", "Make a key store", func(cmd *cobra.Command, args []string) error {
		want.Name = args[0]
		return call(a, cmd, operation.CreateKeyStore, want, showKeyStore)
	})
	c.Flags().StringVar(&want.URIPathPrefix, "uri-path-prefix", "", "what comes before "+appliance.XKSPath+" in the URI path; may be empty")
	c.Flags().IntVar(&want.RequestsPerSecond, "requests-per-second", 0, "quota; 0 means none")
	return c
}

func keyStoreListCommand(a *admin) *cobra.Command {
	var page operation.KeyStorePage
	c := a.asking("list", "List the key stores", func(cmd *cobra.Command, _ []string) error {
		return listCall(a, cmd, operation.ListKeyStores, page, func(w io.Writer, stores []*appliance.KeyStore) {
			cli.Row(w, "NAME", "URI PATH", "REQUESTS/S", "CREATED", "STANDING", "STATE")
			for _, ks := range stores {
				quota := any("-")
				if ks.RequestsPerSecond > 0 {
					quota = ks.RequestsPerSecond
				}
				cli.Row(w, ks.Name, ks.URIPathPrefix+appliance.XKSPath, quota, cli.When(ks.CreatedAt), standingWord(ks.Standing), blocked(ks.Blocked))
			}
		})
	})
	standingFlag(c, &page.Standing, "key stores", operation.ListKeyStores)
	return addPaging(c, &page.Paging, operation.ListKeyStores)
}

func keyStoreShowCommand(a *admin) *cobra.Command {
	return a.asking("show NAME", "Show a key store", func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, operation.ShowKeyStore, operation.KeyStoreName{KeyStore: args[0]}, func(w io.Writer, d *appliance.KeyStoreDetail) {
			showKeyStore(w, &d.KeyStore)
			cli.Row(w, "keys", d.Keys)
			for _, c := range d.Credentials {
				cli.Row(w, "credential", c.AccessKeyID+" ("+active(c.Active)+", last used "+cli.When(c.LastUsedAt)+")")
			}
			for _, g := range d.Grants {
				cli.Row(w, "grant", grantLine(g))
			}
		})
	})
}

func keyStoreHealthCommand(a *admin) *cobra.Command {
	return a.asking("health NAME", "Say whether KMS would be served, and why not; exit 1 if it would not", func(cmd *cobra.Command, args []string) error {
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowKeyStoreHealth, operation.KeyStoreName{KeyStore: args[0]})
		if err != nil {
			return err
		}
		h := done.Out
		err = a.Show(cmd, done, func(w io.Writer) {
			cli.Row(w, "serves", yes(h.Serves))
			if h.Reason != "" {
				cli.Row(w, "reason", h.Reason)
			}
			cli.Row(w, "XksProxyUriEndpoint", cli.OrDash(h.URIEndpoint))
			if h.EndpointProblem != "" {
				cli.Row(w, "endpoint", h.EndpointProblem)
			}
			cli.Row(w, "XksProxyUriPath", h.URIPath)
			cli.Row(w, "active credentials", h.ActiveCredentials)
			showHSMs(w, h.HSMs)
		})
		if err == nil && !h.Serves {
			return cli.ErrReported
		}
		return err
	})
}

func keyStoreSetQuotaCommand(a *admin) *cobra.Command {
	var quota operation.Quota
	c := a.asking("set-quota NAME --requests-per-second N", "Set how many requests a second a key store answers", func(cmd *cobra.Command, args []string) error {
		quota.KeyStore = args[0]
		return call(a, cmd, operation.SetQuota, quota, showKeyStore)
	})
	c.Flags().IntVar(&quota.RequestsPerSecond, "requests-per-second", 0, "quota; 0 means none")
	_ = c.MarkFlagRequired("requests-per-second") // it exists: it was made above
	return c
}

func showKeyStore(w io.Writer, ks *appliance.KeyStore) {
	cli.Row(w, "name", ks.Name)
	cli.Row(w, "XksProxyUriPath", ks.URIPathPrefix+appliance.XKSPath)
	if ks.RequestsPerSecond > 0 {
		cli.Row(w, "requests per second", ks.RequestsPerSecond)
	}
	cli.Row(w, "created", cli.When(ks.CreatedAt))
	cli.Row(w, "standing", standingLine(ks.Standing))
	if !ks.Blocked.IsZero() {
		cli.Row(w, "state", blocked(ks.Blocked))
	}
}

func active(is bool) string {
	if is {
		return "active"
	}
	return "inactive"
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
