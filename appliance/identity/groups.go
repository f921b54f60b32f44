package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/appliance/fault"
)

// Groups says which role a group at the OpenID provider gives, by the group's name as the
// provider writes it. With it a user who signs in by the provider has the role that the claim of
// that moment gives, whatever an administrator gave them before. Without it claims give nothing.
type Groups struct {
	// Claim is the name of the claim, a list of strings; "groups" if empty.
	Claim string
	Roles map[string]Role
	// Scopes are asked for besides openid and email, such as "groups".
	Scopes []string
}

// DefaultGroupsClaim is the claim that has a user's groups, unless the configuration names another.
const DefaultGroupsClaim = "groups"

// maxGroups bounds the groups of a user. More are refused, not cut off.
const maxGroups = 1000

func (g *Groups) validate() error {
	for name, role := range g.Roles {
		if !role.Valid() {
			return fmt.Errorf("admin.oidc.groups: %q gives the role %q: use viewer, auditor, key-administrator or administrator", name, role)
		}
	}
	return nil
}

func (g *Groups) claim() string { return cmp.Or(g.Claim, DefaultGroupsClaim) }

// role gives the highest role that the claims give; an error says why there is none.
func (g *Groups) role(claims map[string]json.RawMessage) (Role, error) {
	name := g.claim()
	text, ok := claims[name]
	if !ok {
		return "", fmt.Errorf("the provider gives no claim %q, neither in the ID token nor at UserInfo: have it give one, or name another in admin.oidc.groups_claim", name)
	}
	var groups []string
	if err := json.Unmarshal(text, &groups); err != nil || groups == nil {
		return "", fmt.Errorf("the claim %q is not a list of strings", name)
	}
	if len(groups) > maxGroups {
		return "", fmt.Errorf("the claim %q has %d groups; at most %d are looked at", name, len(groups), maxGroups)
	}
	highest := -1
	for _, group := range groups {
		if role, ok := g.Roles[group]; ok {
			highest = max(highest, slices.Index(Roles, role))
		}
	}
	if highest < 0 {
		return "", fmt.Errorf("none of the %d groups in the claim %q gives a role", len(groups), name)
	}
	return Roles[highest], nil
}

// errNoRole is told to a user whom the provider vouches for, and whose groups give nothing.
var errNoRole = fault.Errorf(fault.Forbidden, "your groups at the OpenID provider give you no role here, and your sessions have ended; ask who manages them")

// byGroups gives an account the role of the claims, if roles are given so. Where they give none,
// the sessions of the account end.
func (d *Directory) byGroups(ctx context.Context, a *Account, claims map[string]json.RawMessage, from Client) (Role, error) {
	if len(d.oidc.Groups.Roles) == 0 {
		return a.Role, nil
	}
	role, err := d.oidc.Groups.role(claims)
	if err != nil {
		_ = d.failed(from, a.Name, "OpenID: "+err.Error())
		if _, err := d.RevokeSessions(ctx, a.ID); err != nil {
			return "", err
		}
		return "", errNoRole
	}
	return role, nil
}
