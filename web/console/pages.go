package console

import (
	"context"
	"io"
	"slices"

	"github.com/a-h/templ"

	"holdfast/web/operation"
)

// pages are all pages of those who are signed in.
var pages []listedPage

func init() { // for refused forms have their pages made again
	none := func(*page) operation.Nothing { return operation.Nothing{} }
	of := func(p *page) operation.KeyStoreName {
		return operation.KeyStoreName{KeyStore: p.param("keystore")}
	}
	head := thing(operation.ShowKeyStore, of) // of all pages of a key store
	pages = []listedPage{
		{"/", overview, nil},
		{"/keystores", keyStores, stored(listing("", operation.ListKeyStores))},
		{"/keystores/{keystore}", keyStore, stored(head)},
		{"/keystores/{keystore}/keys", keys, stored(all(head, listing("", operation.ListKeys)))},
		{"/keystores/{keystore}/keys/{key}", key, stored(all(head, thing(operation.ShowKey, func(p *page) operation.KeyName {
			return operation.KeyName{KeyStoreName: of(p), Key: p.param("key")}
		})))},
		{"/keystores/{keystore}/grants", grants, stored(all(head, listing("", operation.ListGrants), thing(operation.ShowPolicy, of)))},
		{"/keystores/{keystore}/credentials", credentials, stored(all(head, listing("", operation.ListCredentials)))},
		{"/attestation/report", attestation, nil},
		{"/attestation/history", bootHistory, nil},
		{"/audit", auditLog, nil},
		{"/audit/{seq}", auditRecord, nil},
		{"/hsms", hsms, nil},
		{"/fleet", fleet, thing(operation.ShowFleet, none)},
		{"/users", users, stored(all(listing("", operation.ListUsers), listing("invitation_", operation.ListInvitations), listing("session_", operation.ListSessions), listing("token_", operation.ListTokens)))},
		{"/users/{user}", user, thing(operation.ShowUser, func(p *page) operation.UserName { return operation.UserName{User: p.param("user")} })},
		{"/approvals", approvals, stored(listing("", operation.ListApprovals))},
		{"/approvals/{approval}", approvalPage, thing(operation.ShowApproval, func(p *page) operation.ApprovalName {
			return operation.ApprovalName{Approval: p.param("approval")}
		})},
		{"/state", state, all(stored(admitted), damage, thing(operation.ShowInstallation, none))},
		{"/settings", settings, all(thing(operation.ShowSettings, none), thing(operation.ShowCertificate, none), thing(operation.ShowLaunch, none), judged)},
		{"/account", account, all(thing(operation.ShowAccount, none), listing("", operation.ListOwnSessions))},
	}
}

// Pages are the paths of all pages, with parameters in braces: those that somebody
// opens, and those to which a post leads. A form that was refused is shown on its own page.
func Pages() []string {
	list := []string{"/signin", "/signin/oidc/begin", "/setup", "/invitation/{token}", "/invitation/{token}/password", "/confirm/{id}", "/prove", "/prove/{id}", "/answers/{id}"}
	for _, p := range pages {
		list = append(list, p.path)
	}
	slices.Sort(list)
	return list
}

// together puts components one after the other.
func together(parts ...templ.Component) templ.Component {
	return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
		for _, part := range parts {
			if err := part.Render(ctx, w); err != nil {
				return err
			}
		}
		return nil
	})
}
