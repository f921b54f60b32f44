package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
	"holdfast/web/operation"
)

// discardLong says what all commands called discard do.
const discardLong = "The row must be damaged: it does not match its seal, because it was changed by hand or its disk\n" +
	"has failed. One that is good is never discarded. Nothing is destroyed in the HSM. What is lost is\n" +
	"shown, and recorded in the audit log. To keep it, restore a backup of before into a fresh appliance."

func discardCommand(a *admin, use, short string, arguments int, path func(args []string) string, body func() any) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ".\n" + discardLong,
		Args:  cobra.ExactArgs(arguments),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var in any
			if body != nil {
				in = body()
			}
			var lost appliance.Discarded
			if err := a.Client().Do(cmd.Context(), http.MethodPost, path(args), in, &lost); err != nil {
				return err
			}
			return a.Show(cmd, lost, func(w io.Writer) { showDiscarded(w, &lost) })
		}),
	}
}

func keyDiscardCommand(a *admin) *cobra.Command {
	var in operation.DiscardedKey
	c := discardCommand(a, "discard KEYSTORE KEYID", "Remove a damaged key for good, with its versions and grants; or a damaged version of it", 2,
		func(args []string) string { return web.Path("keystores", args[0], "keys", args[1], "discard") }, func() any { return in })
	c.Flags().Uint32Var(&in.Version, "version", 0, "only this version, which is damaged while the key is not")
	return c
}

func keyStoreDiscardCommand(a *admin) *cobra.Command {
	var in operation.DiscardedKeyStore
	c := discardCommand(a, "discard NAME", "Remove a damaged key store for good, with its keys, credentials and grants", 1,
		func(args []string) string { return web.Path("keystores", args[0], "discard") }, func() any { return in })
	c.Flags().IntVar(&in.Keys, "keys", 0, "how many keys are lost with it")
	return c
}

func credentialDiscardCommand(a *admin) *cobra.Command {
	return discardCommand(a, "discard KEYSTORE ACCESS-KEY-ID", "Remove a damaged credential", 2,
		func(args []string) string { return web.Path("keystores", args[0], "credentials", args[1], "discard") }, nil)
}

func grantDiscardCommand(a *admin) *cobra.Command {
	return discardCommand(a, "discard KEYSTORE GRANT", "Remove a damaged grant", 2,
		func(args []string) string { return web.Path("keystores", args[0], "grants", args[1], "discard") }, nil)
}

func settingCommand(a *admin) *cobra.Command {
	return cli.Group("setting", "Repair settings", discardCommand(a, "discard NAME", "Replace a damaged setting by the value that it has when nobody has chosen one", 1,
		func(args []string) string { return web.Path("settings", args[0], "discard") }, nil))
}

func showDiscarded(w io.Writer, lost *appliance.Discarded) {
	cli.Row(w, "discarded", lost.DamagedRow)
	if lost.Keys > 0 {
		cli.Row(w, "keys lost", lost.Keys)
	}
	for _, v := range lost.Versions {
		cli.Row(w, "version lost", v)
	}
	for _, g := range lost.Grants {
		cli.Row(w, "grant lost", g)
	}
	for _, label := range lost.TokenObjects {
		cli.Row(w, "left in the HSM", label)
	}
}
