package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
)

func keyCommand(a *admin) *cobra.Command {
	return cli.Group("key", "Manage external keys",
		keyCreateCommand(a), keyImportCommand(a), keyListCommand(a), keyShowCommand(a),
		keyChangeCommand(a, "enable", "Let a key serve", nil),
		keyChangeCommand(a, "disable", "Take a key out of service", nil),
		keyChangeCommand(a, "rotate", "Encrypt with a new version of a key from now on", web.Rotation{}),
		keyDeleteCommand(a),
		keyChangeCommand(a, "cancel-deletion", "Take back a scheduled or suspended deletion; the key is disabled then", nil))
}

// newKeyFlags are the flags of the commands that make a key.
type newKeyFlags struct{ usage, custody, framing string }

func (f *newKeyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.usage, "usage", "encrypt,decrypt", "encrypt, decrypt, both with a comma between, or none")
	c.Flags().StringVar(&f.custody, "custody", "cached", "cached: used in the appliance's memory; hsm: never leaves the token")
}

func (f *newKeyFlags) create(a *admin, cmd *cobra.Command, keyStore, id string, material []byte) error {
	usage, err := appliance.ParseUsage(f.usage)
	if err != nil {
		return err
	}
	var k appliance.StoredKey
	want := web.NewKey{ID: id, Usage: usage, Custody: appliance.Custody(f.custody), Material: material, Framing: appliance.Framing(f.framing)}
	if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", keyStore, "keys"), want, &k); err != nil {
		return err
	}
	return a.Show(cmd, k, func(w io.Writer) { showKey(w, &k.ExternalKey) })
}

func keyCreateCommand(a *admin) *cobra.Command {
	var f newKeyFlags
	c := &cobra.Command{
		Use:   "create KEYSTORE KEYID",
		Short: "Make an external key",
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			return f.create(a, cmd, args[0], args[1], nil)
		}),
	}
	f.add(c)
	return c
}

func keyImportCommand(a *admin) *cobra.Command {
	var f newKeyFlags
	var file string
	var newVersion bool
	c := &cobra.Command{
		Use:   "import KEYSTORE KEYID --material-file FILE",
		Short: "Make an external key, or a new version of one, from your own key material",
		Long: "Make an external key from an AES-256 key of your own: a file, readable by its\n" +
			"owner alone, with the 32 bytes themselves, 64 hexadecimal digits, or Base64.",
		Args: cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			material, err := readMaterial(file)
			if err != nil {
				return err
			}
			defer clear(material)
			if !newVersion {
				return f.create(a, cmd, args[0], args[1], material)
			}
			return changeKey(a, cmd, args, "rotate", web.Rotation{Material: material})
		}),
	}
	f.add(c)
	c.Flags().StringVar(&file, "material-file", "", "file with the key")
	c.Flags().StringVar(&f.framing, "aad-framing", "", "decrypt what another proxy has encrypted with the key, too: spec, sha256 (AWS's sample) or plain")
	c.Flags().BoolVar(&newVersion, "new-version", false, "the key exists: import the material as its new version")
	_ = c.MarkFlagRequired("material-file") // it exists: it was made above
	c.MarkFlagsMutuallyExclusive("new-version", "usage")
	c.MarkFlagsMutuallyExclusive("new-version", "custody")
	c.MarkFlagsMutuallyExclusive("new-version", "aad-framing")
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
	var after, state string
	var limit int
	c := &cobra.Command{
		Use:   "list KEYSTORE",
		Short: "List the keys of a key store, ordered by ID",
		Args:  cobra.ExactArgs(1),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			for name, value := range map[string]string{"after": after, "state": state} {
				if value != "" {
					query.Set(name, value)
				}
			}
			var keys []*appliance.ExternalKey
			if err := a.Client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0], "keys")+"?"+query.Encode(), nil, &keys); err != nil {
				return err
			}
			return a.Show(cmd, keys, func(w io.Writer) {
				cli.Row(w, "KEY ID", "STATE", "USAGE", "CUSTODY", "VERSION", "CREATED")
				for _, k := range keys {
					cli.Row(w, k.ID, stateOf(k), k.Usage, k.Custody, k.CurrentVersion, cli.When(k.CreatedAt))
				}
				if len(keys) == limit {
					cli.Row(w, "More: --after "+keys[len(keys)-1].ID)
				}
			})
		}),
	}
	c.Flags().StringVar(&after, "after", "", "begin behind this key ID")
	c.Flags().StringVar(&state, "state", "", "only keys in that state: enabled, disabled, pending_deletion, deletion_suspended or blocked")
	c.Flags().IntVar(&limit, "limit", 100, "how many, 1 to 1000")
	return c
}

func keyShowCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use:   "show KEYSTORE KEYID",
		Short: "Show a key with its versions and the grants on it",
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var k appliance.StoredKey
			if err := a.Client().Do(cmd.Context(), http.MethodGet, web.Path("keystores", args[0], "keys", args[1]), nil, &k); err != nil {
				return err
			}
			return a.Show(cmd, k, func(w io.Writer) {
				showKey(w, &k.ExternalKey)
				for _, v := range k.Versions {
					cli.Row(w, fmt.Sprintf("version %d", v.Version), fmt.Sprintf("%s %s, at most %d encryptions", v.Origin, cli.When(v.CreatedAt), v.Encryptions))
				}
				for _, g := range k.Grants {
					cli.Row(w, "grant", grantLine(g))
				}
			})
		}),
	}
}

// keyChangeCommand makes a command that changes a key without further ado.
func keyChangeCommand(a *admin, verb, short string, body any) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " KEYSTORE KEYID",
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			return changeKey(a, cmd, args, verb, body)
		}),
	}
}

func keyDeleteCommand(a *admin) *cobra.Command {
	var days int
	c := &cobra.Command{
		Use:   "delete KEYSTORE KEYID",
		Short: "Schedule the destruction of a key",
		Long: "Schedule the destruction of a key. It is out of service at once, and destroyed\n" +
			"when the waiting period is over. What KMS encrypted under it cannot be decrypted\n" +
			"ever after. Disable the key first, and see whether anybody misses it.",
		Args: cobra.ExactArgs(2),
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			return changeKey(a, cmd, args, "delete", web.Deletion{Days: days})
		}),
	}
	c.Flags().IntVar(&days, "days", appliance.DefaultDeletionDays, fmt.Sprintf("waiting period, %d to %d days", appliance.MinDeletionDays, appliance.MaxDeletionDays))
	return c
}

func changeKey(a *admin, cmd *cobra.Command, args []string, verb string, body any) error {
	var k appliance.ExternalKey
	if err := a.Client().Do(cmd.Context(), http.MethodPost, web.Path("keystores", args[0], "keys", args[1], verb), body, &k); err != nil {
		return err
	}
	return a.Show(cmd, k, func(w io.Writer) { showKey(w, &k) })
}

func showKey(w io.Writer, k *appliance.ExternalKey) {
	cli.Row(w, "key ID", k.ID)
	cli.Row(w, "state", stateOf(k))
	cli.Row(w, "usage", k.Usage)
	cli.Row(w, "custody", k.Custody)
	cli.Row(w, "current version", k.CurrentVersion)
	cli.Row(w, "created", cli.When(k.CreatedAt))
	if k.Framing != appliance.FramingNone {
		cli.Row(w, "AAD framing", string(k.Framing))
	}
}

func stateOf(k *appliance.ExternalKey) string {
	state := strings.ReplaceAll(string(k.State), "_", " ")
	if !k.DeletionAt.IsZero() {
		state += ", destroyed " + cli.When(k.DeletionAt)
	}
	if !k.Blocked.IsZero() {
		state += ", " + blocked(k.Blocked)
	}
	return state
}
