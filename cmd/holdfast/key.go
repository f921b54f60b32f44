package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func keyCommand(a *admin) *cobra.Command {
	return cli.Group("key", "Manage external keys",
		keyCreateCommand(a), keyImportCommand(a), keyLoadCommand(a), keyListCommand(a), keyShowCommand(a),
		keyChangeCommand(a, "enable", "Let a key serve", operation.EnableKey),
		keyChangeCommand(a, "disable", "Take a key out of service", operation.DisableKey),
		a.asking("rotate KEYSTORE KEYID", "Encrypt with a new version of a key from now on", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.RotateKey, operation.Rotation{KeyName: keyOf(args)}, showKey)
		}),
		keyDeleteCommand(a), keyDiscardCommand(a),
		keyChangeCommand(a, "cancel-deletion", "Take back a scheduled or suspended deletion; the key is disabled then", operation.CancelKeyDeletion))
}

// keyOf is the key that KEYSTORE and KEYID name.
func keyOf(args []string) operation.KeyName {
	return operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Key: args[1]}
}

// newKey is what the commands that make a key make it of.
type newKey struct {
	operation.NewKey
	usage string
}

func (n *newKey) add(c *cobra.Command) {
	n.usage, n.Custody = "encrypt,decrypt", appliance.CustodyCached
	cli.SomeOf(c.Flags(), &n.usage, "usage", "what the key is for", "encrypt", "decrypt", "none")
	cli.OneOf(c.Flags(), &n.Custody, "custody", "used in the appliance's memory, or never out of the token", appliance.CustodyCached, appliance.CustodyHSM)
}

func (n *newKey) create(a *admin, cmd *cobra.Command, args []string) (err error) {
	if n.Usage, err = appliance.ParseUsage(n.usage); err != nil {
		return err
	}
	n.KeyStore, n.ID = args[0], args[1]
	return call(a, cmd, operation.CreateKey, n.NewKey, func(w io.Writer, k *appliance.StoredKey) { showKey(w, &k.ExternalKey) })
}

func keyCreateCommand(a *admin) *cobra.Command {
	var n newKey
	c := a.asking("create KEYSTORE KEYID", "Make an external key", func(cmd *cobra.Command, args []string) error { return n.create(a, cmd, args) })
	n.add(c)
	return c
}

func keyImportCommand(a *admin) *cobra.Command {
	var n newKey
	var file string
	var newVersion bool
	c := a.asking("import KEYSTORE KEYID --material-file FILE", "Make an external key, or a new version of one, from your own key material", func(cmd *cobra.Command, args []string) (err error) {
		if n.Material, err = readMaterial(file); err != nil {
			return err
		}
		defer clear(n.Material)
		if !newVersion {
			return n.create(a, cmd, args)
		}
		return call(a, cmd, operation.RotateKey, operation.Rotation{KeyName: keyOf(args), Material: n.Material}, showKey)
	})
	c.Long = "Make an external key from an AES-256 key of your own: a file, readable by its\n" +
		"owner alone, with the 32 bytes themselves, 64 hexadecimal digits, or Base64.\n\n" +
		"With --aad-framing the imported key is version 1 and only decrypts. Version 2 is\n" +
		"made at once and encrypts. With --keep-reversible version 1 encrypts as well, until\n" +
		"you rotate the key."
	n.add(c)
	c.Flags().StringVar(&file, "material-file", "", "file with the key")
	cli.OneOf(c.Flags(), &n.Framing, "aad-framing", "decrypt what another proxy has encrypted with the key, too; sha256 is AWS's sample",
		appliance.FramingSpec, appliance.FramingSHA256, appliance.FramingPlain)
	c.Flags().BoolVar(&n.Reversible, "keep-reversible", false, "with --aad-framing: encrypt with the imported key, so that you can go back to the other proxy; less is authenticated then")
	c.Flags().BoolVar(&newVersion, "new-version", false, "the key exists: import the material as its new version")
	_ = c.MarkFlagRequired("material-file") // it exists: it was made above
	c.MarkFlagsMutuallyExclusive("new-version", "usage")
	c.MarkFlagsMutuallyExclusive("new-version", "custody")
	c.MarkFlagsMutuallyExclusive("new-version", "aad-framing")
	c.MarkFlagsMutuallyExclusive("new-version", "keep-reversible")
	return c
}

// readMaterial reads an AES-256 key in any of three forms.
func readMaterial(path string) ([]byte, error) {
	f, err := cli.OpenSecretFile("--material-file", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() == appliance.KeyBytes {
		return io.ReadAll(io.LimitReader(f, appliance.KeyBytes)) // the bytes themselves, of which any may be a line's end
	}
	text, err := cli.ReadSecret("--material-file: "+path, f)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	if key, err := hex.DecodeString(string(text)); err == nil && len(key) == appliance.KeyBytes {
		return key, nil
	}
	if key, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(key) == appliance.KeyBytes {
		return key, nil
	}
	return nil, fmt.Errorf("--material-file: %s holds neither 32 bytes, nor 64 hexadecimal digits, nor Base64 of 32 bytes", path)
}

func keyListCommand(a *admin) *cobra.Command {
	var page operation.KeyPage
	c := a.asking("list KEYSTORE", "List the keys of a key store, ordered by ID", func(cmd *cobra.Command, args []string) error {
		page.KeyStore = args[0]
		return listCall(a, cmd, operation.ListKeys, page, func(w io.Writer, keys []*appliance.ExternalKey) {
			cli.Row(w, "KEY ID", "STATE", "USAGE", "CUSTODY", "VERSION", "CREATED", "STANDING")
			for _, k := range keys {
				cli.Row(w, k.ID, listedState(k), k.Usage, k.Custody, k.CurrentVersion, cli.When(k.CreatedAt), standingWord(k.Standing))
			}
		})
	})
	c.Flags().StringVar(&page.Prefix, "prefix", "", "only key IDs that begin so")
	standingFlag(c, &page.Standing, "keys", operation.ListKeys)
	return addPaging(c, &page.Paging, operation.ListKeys)
}

func keyShowCommand(a *admin) *cobra.Command {
	return a.asking("show KEYSTORE KEYID", "Show a key with its versions and the grants on it", func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, operation.ShowKey, keyOf(args), func(w io.Writer, k *appliance.StoredKey) {
			showKey(w, &k.ExternalKey)
			for _, v := range k.Versions {
				cli.Row(w, fmt.Sprintf("version %d", v.Version), fmt.Sprintf("%s %s, at most %d encryptions", v.Origin, cli.When(v.CreatedAt), v.Encryptions))
			}
			for _, g := range k.Grants {
				cli.Row(w, "grant", grantLine(g))
			}
		})
	})
}

// keyChangeCommand makes a command that changes a key without further ado.
func keyChangeCommand(a *admin, verb, short string, o *operation.Operation[operation.KeyName, *appliance.ExternalKey]) *cobra.Command {
	return a.asking(verb+" KEYSTORE KEYID", short, func(cmd *cobra.Command, args []string) error {
		return call(a, cmd, o, keyOf(args), showKey)
	})
}

func keyDeleteCommand(a *admin) *cobra.Command {
	var d operation.Deletion
	c := a.asking("delete KEYSTORE KEYID", "Schedule the destruction of a key", func(cmd *cobra.Command, args []string) error {
		d.KeyName = keyOf(args)
		return call(a, cmd, operation.ScheduleKeyDeletion, d, showKey)
	})
	c.Long = "Schedule the destruction of a key. It is out of service at once, and destroyed\n" +
		"when the waiting period is over. What KMS encrypted under it cannot be decrypted\n" +
		"ever after. Disable the key first, and see whether anybody misses it."
	c.Flags().IntVar(&d.Days, "days", appliance.DefaultDeletionDays, fmt.Sprintf("waiting period, %d to %d days", appliance.MinDeletionDays, appliance.MaxDeletionDays))
	return c
}

func showKey(w io.Writer, k *appliance.ExternalKey) {
	cli.Row(w, "key ID", k.ID)
	cli.Row(w, "state", stateOf(k))
	cli.Row(w, "usage", k.Usage)
	cli.Row(w, "custody", k.Custody)
	cli.Row(w, "current version", k.CurrentVersion)
	cli.Row(w, "created", cli.When(k.CreatedAt))
	cli.Row(w, "standing", standingLine(k.Standing))
	if k.Framing != appliance.FramingNone {
		cli.Row(w, "AAD framing", framingOf(k))
	}
}

// listedState is the state of a key in a list, which has no place for its framing.
func listedState(k *appliance.ExternalKey) string {
	if k.Reversible {
		return stateOf(k) + ", reversible"
	}
	return stateOf(k)
}

// framingOf says the framing of the proxy that a key came from, and whether the key still
// encrypts with what came from there.
func framingOf(k *appliance.ExternalKey) string {
	if k.Reversible {
		return string(k.Framing) + ", reversible: ciphertexts made here may open with AAD and metadata that were moved, until the key is rotated"
	}
	return string(k.Framing)
}

func stateOf(k *appliance.ExternalKey) string {
	state := strings.ReplaceAll(string(k.State), "_", " ")
	if !k.DeletionAt.IsZero() {
		state += ", destroyed " + cli.When(k.DeletionAt)
	}
	if k.DeletionWaits != "" {
		state += ": " + k.DeletionWaits
	}
	if !k.Blocked.IsZero() {
		state += ", " + blocked(k.Blocked)
	}
	return state
}
