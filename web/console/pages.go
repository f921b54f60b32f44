package console

import (
	"context"
	"io"
	"slices"

	"github.com/a-h/templ"
)

// pages are all pages of those who are signed in.
var pages []listedPage

func init() { // for refused forms have their pages made again
	pages = []listedPage{
		{"/", overview},
		{"/keystores", keyStores},
		{"/keystores/{keystore}", keyStore},
		{"/keystores/{keystore}/keys", keys},
		{"/keystores/{keystore}/keys/{key}", key},
		{"/keystores/{keystore}/grants", grants},
		{"/keystores/{keystore}/credentials", credentials},
		{"/attestation/report", attestation},
		{"/attestation/history", bootHistory},
		{"/audit", auditLog},
		{"/audit/{seq}", auditRecord},
		{"/hsms", hsms},
		{"/fleet", fleet},
		{"/users", users},
		{"/users/{user}", user},
		{"/approvals", approvals},
		{"/approvals/{approval}", approvalPage},
		{"/state", state},
		{"/settings", settings},
		{"/account", account},
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
