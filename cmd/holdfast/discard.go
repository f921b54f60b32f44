package main

import (
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// discardLong says what all commands called discard do.
const discardLong = "The row must be damaged: it does not match its seal, because it was changed by hand or its disk\n" +
	"has failed. One that is good is never discarded. Nothing is destroyed in the HSM. What is lost is\n" +
	"shown, and recorded in the audit log. To keep it, restore a backup of before into a fresh appliance."

// discardCommand makes a command that discards a row.
func discardCommand[In any](a *admin, use, short string, o *operation.Operation[In, *appliance.Discarded], target func(args []string) In) *cobra.Command {
	c := a.asking(use, short, func(cmd *cobra.Command, args []string) error { return call(a, cmd, o, target(args), showDiscarded) })
	c.Long = short + ".\n" + discardLong
	return c
}

func keyDiscardCommand(a *admin) *cobra.Command {
	var in operation.DiscardedKey
	c := discardCommand(a, "discard KEYSTORE KEYID", "Remove a damaged key for good, with its versions and grants; or a damaged version of it", operation.DiscardKey,
		func(args []string) operation.DiscardedKey {
			in.KeyName = keyOf(args)
			return in
		})
	c.Flags().Uint32Var(&in.Version, "version", 0, "only this version, which is damaged while the key is not")
	return c
}

func keyStoreDiscardCommand(a *admin) *cobra.Command {
	var in operation.DiscardedKeyStore
	c := discardCommand(a, "discard NAME", "Remove a damaged key store for good, with its keys, credentials and grants", operation.DiscardKeyStore,
		func(args []string) operation.DiscardedKeyStore {
			in.KeyStore = args[0]
			return in
		})
	c.Flags().IntVar(&in.Keys, "keys", 0, "how many keys are lost with it")
	return c
}

func credentialDiscardCommand(a *admin) *cobra.Command {
	return discardCommand(a, "discard KEYSTORE ACCESS-KEY-ID", "Remove a damaged credential", operation.DiscardCredential, credentialOf)
}

func grantDiscardCommand(a *admin) *cobra.Command {
	return discardCommand(a, "discard KEYSTORE GRANT", "Remove a damaged grant", operation.DiscardGrant, grantOf)
}

func settingDiscardCommand(a *admin) *cobra.Command {
	return discardCommand(a, "discard NAME", "Replace a damaged setting by the value that it has when nobody has chosen one", operation.DiscardSetting,
		func(args []string) operation.SettingName { return operation.SettingName{Setting: args[0]} })
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
