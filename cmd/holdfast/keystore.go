package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/web"
)

func keyStoreCommand(a *admin) *cobra.Command {
	var want web.NewKeyStore
	create := &cobra.Command{
		Use:   "create NAME --uri-path-prefix /PREFIX",
		Short: "Make a key store",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			want.Name = args[0]
			var ks appliance.KeyStore
			if err := a.client().Do(cmd.Context(), http.MethodPost, "keystores", want, &ks); err != nil {
				return err
			}
			return a.show(cmd, ks, func(w io.Writer) { showKeyStore(w, &ks) })
		}),
	}
	create.Flags().StringVar(&want.URIPathPrefix, "uri-path-prefix", "", "what comes before "+appliance.XKSPath+" in the URI path; may be empty")
	create.Flags().IntVar(&want.RequestsPerSecond, "requests-per-second", 0, "quota; 0 means none")

	list := &cobra.Command{
		Use:   "list",
		Short: "List the key stores",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			var stores []*appliance.KeyStore
			if err := a.client().Do(cmd.Context(), http.MethodGet, "keystores", nil, &stores); err != nil {
				return err
			}
			return a.show(cmd, stores, func(w io.Writer) {
				row(w, "NAME", "URI PATH", "REQUESTS/S", "CREATED", "STATE")
				for _, ks := range stores {
					quota := any("-")
					if ks.RequestsPerSecond > 0 {
						quota = ks.RequestsPerSecond
					}
					row(w, ks.Name, ks.URIPathPrefix+appliance.XKSPath, quota, when(ks.CreatedAt), blocked(ks.Blocked))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a key store",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			var d appliance.KeyStoreDetail
			if err := a.client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0]), nil, &d); err != nil {
				return err
			}
			return a.show(cmd, d, func(w io.Writer) {
				showKeyStore(w, &d.KeyStore)
				row(w, "keys", d.Keys)
				for _, c := range d.Credentials {
					row(w, "credential", c.AccessKeyID+" ("+active(c.Active)+", last used "+when(c.LastUsedAt)+")")
				}
				for _, g := range d.Grants {
					row(w, "grant", grantLine(g))
				}
			})
		}),
	}
	remove := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a key store that has no keys, with its credentials and grants",
		Args:  cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, http.MethodDelete, web.Path("keystores", args[0]), "key store "+args[0]+" deleted")
		}),
	}
	return group("keystore", "Manage key stores", create, list, show, remove, keyStoreDiscardCommand(a))
}

// done calls a route that gives nothing back, and says what was done.
func (a *admin) done(cmd *cobra.Command, method, route, what string) error {
	if err := a.client().Do(cmd.Context(), method, route, nil, nil); err != nil {
		return err
	}
	return a.show(cmd, struct{}{}, func(w io.Writer) { row(w, what) })
}

func showKeyStore(w io.Writer, ks *appliance.KeyStore) {
	row(w, "name", ks.Name)
	row(w, "XksProxyUriPath", ks.URIPathPrefix+appliance.XKSPath)
	if ks.RequestsPerSecond > 0 {
		row(w, "requests per second", ks.RequestsPerSecond)
	}
	row(w, "created", when(ks.CreatedAt))
	if !ks.Blocked.IsZero() {
		row(w, "state", blocked(ks.Blocked))
	}
}

func active(yes bool) string {
	if yes {
		return "active"
	}
	return "inactive"
}
