package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/identity"
	"holdfast/attest/privatefile"
)

// SetupFile is the file, in the state's folder, of the code that admits the first
// administrator.
const SetupFile = "setup-code"

// newDirectory opens the users of console and API; closed, if not empty, is why
// nobody is let in.
func (d *Daemon) newDirectory(closed string, observe func(identity.Way, identity.Result)) (*identity.Directory, error) {
	cfg, a := d.o.Config, d.appliance
	c := identity.Config{Store: d.store, Seals: a.Seals(), Settings: a, FourEyes: func(ctx context.Context) (bool, error) {
		f, err := approval.Chosen(ctx, a)
		return f.On(), err
	}, Log: d.o.Log, Observe: observe, Now: d.o.Now, URL: d.site.consoleURL(), Closed: closed, SetupFile: filepath.Join(cfg.State.Dir, SetupFile),
		Idle: time.Duration(cfg.Admin.Idle), Absolute: time.Duration(cfg.Admin.Session)}
	if o := cfg.Admin.OIDC; o.Issuer != "" {
		c.OIDC = &identity.OIDC{Issuer: o.Issuer, ClientID: o.ClientID, Groups: identity.Groups{Claim: o.GroupsClaim, Roles: map[string]identity.Role{}, Scopes: o.Scopes}}
		for group, role := range o.Groups {
			c.OIDC.Groups.Roles[group] = identity.Role(role)
		}
		if o.ClientSecretFile != "" {
			secret, err := readSecret(o.ClientSecretFile)
			if err != nil {
				return nil, fmt.Errorf("admin.oidc.client_secret_file: %w", err)
			}
			c.OIDC.ClientSecret = secret
		}
	}
	return identity.New(c)
}

// identities are the rows beside the domain's that the first unlock seals: users, API
// tokens, invitations and requests for approval.
type identities struct{ *Daemon }

// Admissions implements [appliance.Identities].
func (d identities) Admissions(ctx context.Context) ([]appliance.Admitted, error) {
	all, err := d.users.Admissions(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := approval.Admissions(ctx, d.store, d.appliance.Seals())
	return append(all, requests...), err
}

// SealAll implements [appliance.Identities].
func (d identities) SealAll(ctx context.Context, set func(name, value string) error) ([]appliance.Admitted, error) {
	all, err := d.users.SealAll(ctx, set)
	if err != nil {
		return nil, err
	}
	requests, err := approval.SealAll(ctx, d.store, d.appliance.Seals())
	return append(all, requests...), err
}

// Sealed implements [appliance.Identities]: it has it on record, unless nobody was there.
func (d identities) Sealed(ctx context.Context, all []appliance.Admitted, c appliance.Confirmation) error {
	if c.At.IsZero() && !slices.ContainsFunc(all, func(a appliance.Admitted) bool { return a.Kind != appliance.AdmittedSetting }) {
		return nil
	}
	d.o.Log.Info("users, API tokens, invitations, requests for approval and settings are sealed", "rows", len(all), "digest", c.Digest, "confirmed_by", c.By)
	return d.audit.UsersSealed(ctx, all, c)
}

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 4096

// readSecret reads a file that its owner alone can read.
func readSecret(path string) ([]byte, error) {
	// What is no regular file might keep the start waiting.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := privatefile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	return bytes.TrimSpace(text), err
}
