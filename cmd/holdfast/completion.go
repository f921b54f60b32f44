package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web"
)

// source gives the values that may stand where a shell completes a word: all of them,
// or those that begin with it.
type source func(a *admin, cmd *cobra.Command, args []string, word string) []string

// arguments are the sources of the words that stand for arguments in the Use line of
// a command. A word that is not here, such as FILE, stands for a file.
var arguments = map[string]source{
	"KEYSTORE":      keyStores,
	"KEYID":         keys,
	"GRANT":         grants,
	"ACCESS-KEY-ID": credentials,
	"MACHINE":       none,
	"NAME":          none,
	"SEQ":           none,
	"URL":           none,
}

// exceptions are arguments of single commands, by the command's path without the
// program and the argument's word.
var exceptions = map[string]source{
	"keystore show NAME":   keyStores,
	"keystore delete NAME": keyStores,
	"user disable NAME":    users,
	"user enable NAME":     users,
	"user unlock NAME":     users,
	"user sign-out NAME":   users,
	"user delete NAME":     users,
	"token revoke NAME":    tokens,
	// Names of what is new.
	"key create KEYID": none,
	"key import KEYID": newVersionOf,
}

// flagValues are the sources of flags' values, by the flag's name, or by the
// command's path without the program and the name. A text flag that is not here
// takes a file.
var flagValues = map[string]source{
	"role":        oneOf(identity.Roles...),
	"operations":  someOf(appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes),
	"operation":   oneOf(appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes),
	"usage":       usages,
	"custody":     oneOf(appliance.CustodyCached, appliance.CustodyHSM),
	"aad-framing": oneOf(appliance.FramingSpec, appliance.FramingSHA256, appliance.FramingPlain),
	"state":       oneOf(appliance.KeyEnabled, appliance.KeyDisabled, appliance.KeyPendingDeletion, appliance.KeyDeletionSuspended, appliance.KeyBlocked),
	"kind":        oneOf(audit.KindXKS, audit.KindAdmin, audit.KindBoot, audit.KindLease, audit.KindAudit),
	"result":      oneOf(audit.Allowed, audit.Denied, audit.Failed),
	"format":      oneOf("jsonl", "csv"),
	"key-store":   keyStores,
	"key-id": func(a *admin, cmd *cobra.Command, _ []string, word string) []string {
		return keys(a, cmd, []string{cmd.Flag("key-store").Value.String()}, word)
	},
	"grant add --key":  keys,
	"check --key":      none,
	"key list --after": keys,
}

// texts are flags that take neither a file nor one of a few values.
var texts = []string{"server", "uri-path-prefix", "access-key-id", "key-id", "principal", "denied-principal", "not-after", "via-service", "source-vpc", "source-vpce",
	"kms-key-arn", "kms-key-account", "kms-key-region", "kms-operation", "calling-account", "kms-request-id", "reason", "nonce", "from", "to", "at", "log-id", "cursor", "name", "unproven", "region",
	"encrypt-only-key", "decrypt-only-key", "no-usage-key", "disabled-key"}

// addCompletion has a shell complete the arguments and flags of the command and of
// those under it.
func addCompletion(a *admin, c *cobra.Command) {
	for _, sub := range c.Commands() {
		addCompletion(a, sub)
	}
	path := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), c.Root().Name()), " ")
	var words []string
	for _, word := range strings.Fields(c.Use)[1:] {
		if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "[-") || strings.HasPrefix(word, "{-") || word == "|" || word == "<" {
			break // flags and their values follow
		}
		words = append(words, strings.Trim(word, "[]{}."))
	}
	if c.Runnable() && !c.HasSubCommands() && c.ValidArgsFunction == nil {
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			of, ok := exceptions[path+" "+words[len(args)]]
			if !ok {
				of, ok = arguments[words[len(args)]]
			}
			if !ok {
				return nil, cobra.ShellCompDirectiveDefault // a file
			}
			return complete(of, a, cmd, args, word)
		}
	}
	addFlags := func(f *pflag.Flag) {
		of, ok := flagValues[path+" --"+f.Name]
		if !ok {
			of, ok = flagValues[f.Name]
		}
		if !ok && (slices.Contains(texts, f.Name) || !strings.HasPrefix(f.Value.Type(), "string")) {
			of, ok = none, true
		}
		if !ok {
			return
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return complete(of, a, cmd, args, word)
		}) // an error is of a flag that is there already: one of cobra's
	}
	c.LocalNonPersistentFlags().VisitAll(addFlags)
	c.PersistentFlags().VisitAll(addFlags)
}

// complete gives what a source has that begins with the word.
func complete(of source, a *admin, cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	var list []string
	for _, v := range of(a, cmd, args, word) {
		if strings.HasPrefix(v, word) {
			list = append(list, v)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

func none(*admin, *cobra.Command, []string, string) []string { return nil }

func oneOf[T ~string](all ...T) source {
	var list []string
	for _, v := range all {
		list = append(list, string(v))
	}
	return func(*admin, *cobra.Command, []string, string) []string { return list }
}

// someOf gives lists with commas between: what stands there, and each value that does
// not stand there yet.
func someOf[T ~string](all ...T) source {
	return func(_ *admin, _ *cobra.Command, _ []string, word string) (list []string) {
		before := ""
		if i := strings.LastIndexByte(word, ','); i >= 0 {
			before = word[:i+1]
		}
		for _, v := range all {
			if !slices.Contains(strings.Split(before, ","), string(v)) {
				list = append(list, before+string(v))
			}
		}
		return list
	}
}

// usages are those of a key: none stands alone.
func usages(a *admin, cmd *cobra.Command, args []string, word string) []string {
	list := someOf("encrypt", "decrypt")(a, cmd, args, word)
	if !strings.Contains(word, ",") {
		list = append(list, "none")
	}
	return list
}

// patience is how long a shell may wait for the appliance.
const patience = 2 * time.Second

// ask asks the appliance. Where it cannot be reached, or refuses, there is nothing to
// complete with, and nothing to say: the shell would print it into the line.
func ask[T any](a *admin, cmd *cobra.Command, route string) (list []T) {
	if a.Connect() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	if a.Client().Do(ctx, http.MethodGet, route, nil, &list) != nil {
		return nil
	}
	return list
}

func each[T any](all []T, name func(T) string) (list []string) {
	for _, one := range all {
		list = append(list, name(one))
	}
	return list
}

func keyStores(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return each(ask[*appliance.KeyStore](a, cmd, "keystores"), func(ks *appliance.KeyStore) string { return ks.Name })
}

// keys are those of the key store that the first argument names. There may be a
// million: it asks for those from the word on.
func keys(a *admin, cmd *cobra.Command, args []string, word string) []string {
	if len(args) == 0 || args[0] == "" {
		return nil
	}
	query := url.Values{"limit": {"1000"}}
	if len(word) > 1 {
		query.Set("after", word[:len(word)-1])
	}
	all := ask[*appliance.ExternalKey](a, cmd, web.Path("keystores", args[0], "keys")+"?"+query.Encode())
	return each(all, func(k *appliance.ExternalKey) string { return k.ID })
}

// newVersionOf are the keys that an import may make a new version of.
func newVersionOf(a *admin, cmd *cobra.Command, args []string, word string) []string {
	if f := cmd.Flag("new-version"); f == nil || f.Value.String() != "true" {
		return nil
	}
	return keys(a, cmd, args, word)
}

func grants(a *admin, cmd *cobra.Command, args []string, _ string) []string {
	return each(ask[*appliance.Grant](a, cmd, web.Path("keystores", args[0], "grants")), func(g *appliance.Grant) string { return g.ID })
}

func credentials(a *admin, cmd *cobra.Command, args []string, _ string) []string {
	return each(ask[*appliance.Credential](a, cmd, web.Path("keystores", args[0], "credentials")), func(c *appliance.Credential) string { return c.AccessKeyID })
}

func users(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return each(ask[*identity.User](a, cmd, "users"), func(u *identity.User) string { return u.Name })
}

func tokens(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return each(ask[identity.Token](a, cmd, "tokens"), func(t identity.Token) string { return t.Name })
}
