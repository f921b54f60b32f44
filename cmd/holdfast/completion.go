package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
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
	"SESSION":       sessions,
	"NODE":          nodes,
	"INVITATION":    invitations,
	"REQUEST":       requests,
	"MACHINE":       none,
	"NAME":          none,
	"SEQ":           none,
	"URL":           none,
}

// exceptions are arguments of single commands, by the command's path without the
// program and the argument's word.
var exceptions = map[string]source{
	"keystore show NAME":      keyStores,
	"keystore health NAME":    keyStores,
	"keystore set-quota NAME": keyStores,
	"keystore delete NAME":    keyStores,
	"keystore discard NAME":   keyStores,
	"setting discard NAME":    settings,
	"user show NAME":          users,
	"user set-role NAME":      users,
	"user set-oidc NAME":      users,
	"user disable NAME":       users,
	"user enable NAME":        users,
	"user unlock NAME":        users,
	"user sign-out NAME":      users,
	"user delete NAME":        users,
	"token show NAME":         tokens,
	"token revoke NAME":       tokens,
	// Names of what is new.
	"key create KEYID": none,
	"key import KEYID": newVersionOf,
}

// flagValues are the sources of flags' values, by the flag's name, or by the
// command's path without the program and the name. A flag that takes few values
// ([cli.Choices]) has them itself. A text flag that is neither takes a file.
var flagValues = map[string]source{
	"key-store": keyStores,
	"key-id": func(a *admin, cmd *cobra.Command, _ []string, word string) []string {
		return keys(a, cmd, []string{cmd.Flag("key-store").Value.String()}, word)
	},
	"grant add --key":          keys,
	"dependents --credential":  credentials,
	"dependents --grant":       grants,
	"dependents --user":        users,
	"dependents --node":        nodes,
	"check --key":              none,
	"key list --prefix":        keys,
	"token create --operation": operationIDs,
}

// texts are flags that take neither a file nor one of a few values.
var texts = []string{"server", "why", "idempotency-key", "uri-path-prefix", "access-key-id", "key-id", "principal", "denied-principal", "not-after", "via-service", "source-vpc", "source-vpce",
	"kms-key-arn", "kms-key-account", "kms-key-region", "kms-operation", "calling-account", "kms-request-id", "request-id", "reason", "nonce", "from", "to", "at", "time", "log-id", "after", "name", "unproven", "region",
	"encrypt-only-key", "decrypt-only-key", "no-usage-key", "disabled-key", "email", "admission", "node", "approval", "actor", "address", "error", "object", "operation", "token", "network", "by", "seen"}

// addCompletion has a shell complete the arguments and flags of the command and of
// those under it.
func addCompletion(a *admin, c *cobra.Command) {
	for _, sub := range c.Commands() {
		addCompletion(a, sub)
	}
	path := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), c.Root().Name()), " ")
	words := cli.ArgumentsOf(c).Words()
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
		if choice, few := f.Value.(cli.Choices); !ok && few {
			of, ok = valuesOf(choice), true
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

// valuesOf gives the values that a flag takes. Where it takes several with commas
// between, they are what stands there with each value that does not stand there yet;
// "none" stands alone.
func valuesOf(choice cli.Choices) source {
	return func(_ *admin, _ *cobra.Command, _ []string, word string) (list []string) {
		if !choice.Several() {
			return choice.Choices()
		}
		before := ""
		if i := strings.LastIndexByte(word, ','); i >= 0 {
			before = word[:i+1]
		}
		for _, v := range choice.Choices() {
			if !slices.Contains(strings.Split(before, ","), v) && (v != "none" || before == "") {
				list = append(list, before+v)
			}
		}
		return list
	}
}

// patience is how long a shell may wait for the appliance.
const patience = 2 * time.Second

// lookup asks the appliance. Where it cannot be reached, or refuses, there is nothing to
// complete with, and nothing to say: the shell would print it into the line.
func lookup[In, T any](a *admin, cmd *cobra.Command, o *operation.Operation[In, operation.List[T]], in In, name func(T) string) (list []string) {
	if a.Connect() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	done, err := cli.Call(ctx, &a.Admin, o, in)
	if err != nil {
		return nil
	}
	for _, one := range done.Out.Items {
		list = append(list, name(one))
	}
	return list
}

// most is the page that a shell completes from. Nobody reads more.
var most = operation.Paging{Limit: 1000}

func keyStores(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListKeyStores, operation.KeyStorePage{Paging: most}, func(ks *appliance.KeyStore) string { return ks.Name })
}

// keys are those of the key store that the first argument names. There may be a
// million: it asks for those that begin with the word.
func keys(a *admin, cmd *cobra.Command, args []string, word string) []string {
	if len(args) == 0 || args[0] == "" {
		return nil
	}
	page := operation.KeyPage{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Paging: most, Prefix: word}
	return lookup(a, cmd, operation.ListKeys, page, func(k *appliance.ExternalKey) string { return k.ID })
}

// newVersionOf are the keys that an import may make a new version of.
func newVersionOf(a *admin, cmd *cobra.Command, args []string, word string) []string {
	if f := cmd.Flag("new-version"); f == nil || f.Value.String() != "true" {
		return nil
	}
	return keys(a, cmd, args, word)
}

func grants(a *admin, cmd *cobra.Command, args []string, _ string) []string {
	return lookup(a, cmd, operation.ListGrants, operation.GrantPage{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Paging: most}, func(g operation.Grant) string { return g.ID })
}

func credentials(a *admin, cmd *cobra.Command, args []string, _ string) []string {
	return lookup(a, cmd, operation.ListCredentials, operation.CredentialPage{KeyStoreName: operation.KeyStoreName{KeyStore: args[0]}, Paging: most}, func(c *appliance.Credential) string { return c.AccessKeyID })
}

func users(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListUsers, operation.UserPage{Paging: most}, func(u *identity.User) string { return u.Name })
}

func tokens(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListTokens, operation.TokenPage{Paging: most}, func(t identity.Token) string { return t.Name })
}

// operationIDs are those of the API's operations.
func operationIDs(*admin, *cobra.Command, []string, string) []string {
	ids := []string{identity.Everything}
	for _, r := range operation.Table() {
		ids = append(ids, r.ID)
	}
	return ids
}

func sessions(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListSessions, operation.SessionPage{Paging: most}, func(s identity.Session) string { return s.ID })
}

func nodes(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowFleet, operation.Nothing{})
	if err != nil {
		return nil
	}
	ids := make([]string, len(done.Out.Nodes))
	for i, n := range done.Out.Nodes {
		ids[i] = n.ID
	}
	return ids
}

func invitations(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListInvitations, operation.InvitationPage{Paging: most}, func(i identity.Invitation) string { return i.ID })
}

func requests(a *admin, cmd *cobra.Command, _ []string, _ string) []string {
	return lookup(a, cmd, operation.ListApprovals, operation.ApprovalPage{Paging: most}, func(r operation.ApprovalDetail) string { return r.ID })
}

func settings(*admin, *cobra.Command, []string, string) []string {
	return []string{appliance.SettingFourEyes, appliance.SettingSetup, appliance.SettingBootstrap}
}
