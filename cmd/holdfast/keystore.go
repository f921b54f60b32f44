package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func keyStoreCommand(a *admin) *cobra.Command {
	var want web.NewKeyStore
	create := &cobra.Command{
		Use:   "create NAME --uri-path-prefix /PREFIX",
		Short: "Make a key store",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			want.Name = args[0]
			var ks appliance.KeyStore
			if err := a.Client().Do(cmd.Context(), http.MethodPost, "keystores", want, &ks); err != nil {
				return err
			}
			return a.Show(cmd, ks, func(w io.Writer) { showKeyStore(w, &ks) })
		}),
	}
	create.Flags().StringVar(&want.URIPathPrefix, "uri-path-prefix", "", "what comes before "+appliance.XKSPath+" in the URI path; may be empty")
	create.Flags().IntVar(&want.RequestsPerSecond, "requests-per-second", 0, "quota; 0 means none")

	list := &cobra.Command{
		Use:   "list",
		Short: "List the key stores",
		Args:  cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			var stores []*appliance.KeyStore
			if err := a.Client().Do(cmd.Context(), http.MethodGet, "keystores", nil, &stores); err != nil {
				return err
			}
			return a.Show(cmd, stores, func(w io.Writer) {
				cli.Row(w, "NAME", "URI PATH", "REQUESTS/S", "CREATED", "STATE")
				for _, ks := range stores {
					quota := any("-")
					if ks.RequestsPerSecond > 0 {
						quota = ks.RequestsPerSecond
					}
					cli.Row(w, ks.Name, ks.URIPathPrefix+appliance.XKSPath, quota, cli.When(ks.CreatedAt), blocked(ks.Blocked))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a key store",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var d appliance.KeyStoreDetail
			if err := a.Client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0]), nil, &d); err != nil {
				return err
			}
			return a.Show(cmd, d, func(w io.Writer) {
				showKeyStore(w, &d.KeyStore)
				cli.Row(w, "keys", d.Keys)
				for _, c := range d.Credentials {
					cli.Row(w, "credential", c.AccessKeyID+" ("+active(c.Active)+", last used "+cli.When(c.LastUsedAt)+")")
				}
				for _, g := range d.Grants {
					cli.Row(w, "grant", grantLine(g))
				}
			})
		}),
	}
	remove := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a key store that has no keys, with its credentials and grants",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, http.MethodDelete, web.Path("keystores", args[0]), "key store "+args[0]+" deleted")
		}),
	}
	return cli.Group("keystore", "Manage key stores", create, list, show, remove)
}

// done calls a route that gives nothing back, and says what was done.
func (a *admin) done(cmd *cobra.Command, method, route, what string) error {
	if err := a.Client().Do(cmd.Context(), method, route, nil, nil); err != nil {
		return err
	}
	return a.Show(cmd, struct{}{}, func(w io.Writer) { cli.Row(w, what) })
}

func showKeyStore(w io.Writer, ks *appliance.KeyStore) {
	cli.Row(w, "name", ks.Name)
	cli.Row(w, "XksProxyUriPath", ks.URIPathPrefix+appliance.XKSPath)
	if ks.RequestsPerSecond > 0 {
		cli.Row(w, "requests per second", ks.RequestsPerSecond)
	}
	cli.Row(w, "created", cli.When(ks.CreatedAt))
	if !ks.Blocked.IsZero() {
		cli.Row(w, "state", blocked(ks.Blocked))
	}
}

func active(yes bool) string {
	if yes {
		return "active"
	}
	return "inactive"
}
