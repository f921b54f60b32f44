package sqlite

import (
	"context"
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Credentials implements [appliance.Store].
func (s *DB) Credentials(ctx context.Context, keyStore string) ([]*appliance.Credential, error) {
	var list []*appliance.Credential
	err := s.read(ctx, func(c *conn) error {
		return c.each(ctx, func(scan scanner) error {
			cr := &appliance.Credential{KeyStore: keyStore}
			list = append(list, cr)
			return scan(&cr.AccessKeyID, &cr.Active, millis{&cr.CreatedAt}, millis{&cr.LastUsedAt}, &cr.Secret)
		}, `SELECT access_key_id, active, created_at, last_used_at, secret FROM credentials
			WHERE key_store = ? ORDER BY access_key_id`, keyStore)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CreateCredential implements [appliance.Store].
func (s *DB) CreateCredential(ctx context.Context, cr *appliance.Credential) error {
	return s.write(ctx, func(c *conn) error {
		if _, err := keyStoreName(c, cr.KeyStore); err != nil {
			return err
		}
		n, err := c.exec(`INSERT INTO credentials (access_key_id, key_store, active, created_at, last_used_at, secret)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			cr.AccessKeyID, cr.KeyStore, cr.Active, cr.CreatedAt.UnixMilli(), ms(cr.LastUsedAt), blob(cr.Secret))
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "there is a credential with the access key ID %q already", cr.AccessKeyID)
		}
		return err
	}, appliance.Change{KeyStore: cr.KeyStore})
}

// UpdateCredential implements [appliance.Store].
func (s *DB) UpdateCredential(ctx context.Context, cr *appliance.Credential, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE credentials SET active = ?, secret = ? WHERE access_key_id = ? AND key_store = ? AND secret = ?`,
			cr.Active, blob(cr.Secret), cr.AccessKeyID, cr.KeyStore, blob(was))
		return changedCredential(c, n, err, cr.KeyStore, cr.AccessKeyID)
	}, appliance.Change{KeyStore: cr.KeyStore})
}

// DeleteCredential implements [appliance.Store].
func (s *DB) DeleteCredential(ctx context.Context, keyStore, accessKeyID string, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`DELETE FROM credentials WHERE access_key_id = ? AND key_store = ? AND secret = ?`, accessKeyID, keyStore, blob(was))
		return changedCredential(c, n, err, keyStore, accessKeyID)
	}, appliance.Change{KeyStore: keyStore})
}

// changedCredential says why a change of a credential changed no row, if it changed
// none.
func changedCredential(c *conn, n int64, err error, keyStore, accessKeyID string) error {
	return unlessChanged(c, n, err, expect(fmt.Sprintf("the credential %q", accessKeyID),
		fault.Errorf(fault.NotFound, "there is no credential with the access key ID %q in the key store", accessKeyID),
		`SELECT 1 FROM credentials WHERE access_key_id = ? AND key_store = ?`, accessKeyID, keyStore))
}

// RecordCredentialUse implements [appliance.Store]. Credentials that are gone
// are passed over.
func (s *DB) RecordCredentialUse(ctx context.Context, lastUsed map[string]time.Time) error {
	if len(lastUsed) == 0 {
		return nil
	}
	return s.write(ctx, func(c *conn) error {
		for id, t := range lastUsed {
			if _, err := c.exec(`UPDATE credentials SET last_used_at = ?
				WHERE access_key_id = ? AND (last_used_at IS NULL OR last_used_at < ?)`,
				t.UnixMilli(), id, t.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Grants implements [appliance.Store].
func (s *DB) Grants(ctx context.Context, keyStore string) ([]*appliance.Grant, error) {
	return s.grants(ctx, `key_store = ?`, keyStore)
}

// KeyStoreGrants implements [appliance.Store].
func (s *DB) KeyStoreGrants(ctx context.Context, keyStore string) ([]*appliance.Grant, error) {
	var list []*appliance.Grant
	err := s.read(ctx, func(c *conn) error {
		matches, err := s.storeMatches(ctx, c, keyStore)
		if err != nil {
			return err
		}
		if !matches {
			return fault.Errorf(fault.Tampered, "the key store's grants do not match their manifest: one was changed, removed, added or put back by something else than Holdfast")
		}
		list, err = grants(ctx, c, `key_store = ? AND key_id IS NULL`, keyStore)
		return err
	})
	return list, err
}

func (s *DB) grants(ctx context.Context, where string, args ...any) (list []*appliance.Grant, err error) {
	err = s.read(ctx, func(c *conn) error {
		list, err = grants(ctx, c, where, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func grants(ctx context.Context, c *conn, where string, args ...any) ([]*appliance.Grant, error) {
	var list []*appliance.Grant
	err := c.each(ctx, func(scan scanner) error {
		g := &appliance.Grant{}
		list = append(list, g)
		var keyID *string
		var operations, conditions string
		if err := scan(&g.ID, &g.KeyStore, &keyID, &g.Effect, &g.Principal, &operations, &conditions,
			millis{&g.NotAfter}, millis{&g.CreatedAt}, &g.Seal); err != nil {
			return err
		}
		if keyID != nil {
			g.KeyID = *keyID
		}
		// What does not parse was edited by hand. This grant is refused, and no other
		// row suffers.
		var err, err2 error
		g.Operations, err = appliance.ParseOperations(operations)
		g.Conditions, err2 = appliance.ParseConditions(conditions)
		g.Unreadable = err != nil || err2 != nil
		return nil
	}, `SELECT id, key_store, key_id, effect, principal, operations, conditions, not_after, created_at, seal FROM grants
		WHERE `+where+` ORDER BY id`, args...)
	return list, err
}

// CreateGrants implements [appliance.Store].
func (s *DB) CreateGrants(ctx context.Context, grants ...*appliance.Grant) error {
	var changes []appliance.Change // each once: thousands may be on one key store
	seen := map[appliance.Change]bool{}
	for _, g := range grants {
		if c := (appliance.Change{KeyStore: g.KeyStore, KeyID: g.KeyID}); !seen[c] {
			seen[c] = true
			changes = append(changes, c)
		}
	}
	return s.write(ctx, func(c *conn) error {
		for _, on := range changes {
			if err := grantable(c, on.KeyStore, on.KeyID); err != nil {
				return err
			}
		}
		for _, g := range grants {
			if ctx.Err() != nil {
				return timeout(ctx)
			}
			n, err := c.exec(`INSERT INTO grants (key_store, id, key_id, effect, principal, operations, conditions, not_after, created_at, seal)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
				g.KeyStore, g.ID, text(g.KeyID), string(g.Effect), g.Principal, appliance.JoinOperations(g.Operations),
				appliance.FormatConditions(g.Conditions), ms(g.NotAfter), g.CreatedAt.UnixMilli(), blob(g.Seal))
			if err != nil {
				return err
			}
			if n == 0 {
				return fault.Errorf(fault.Exists, "there is a grant with the ID %q already", g.ID)
			}
		}
		return nil
	}, changes...)
}

// grantable says why there can be no grant on a key store, or on a key of it: it is gone.
func grantable(c *conn, keyStore, key string) error {
	if _, err := keyStoreName(c, keyStore); err != nil || key == "" {
		return err
	}
	var one int
	found, err := c.one([]any{&one}, `SELECT 1 FROM external_keys WHERE key_store = ? AND id = ?`, keyStore, key)
	if err == nil && !found {
		err = noKey(key)
	}
	return err
}

// DeleteGrant implements [appliance.Store].
func (s *DB) DeleteGrant(ctx context.Context, keyStore, id string, was []byte) error {
	var keyID *string
	return s.writer.announced(ctx, func(c *conn) error {
		found, err := c.one([]any{&keyID}, `DELETE FROM grants WHERE key_store = ? AND id = ? AND seal = ? RETURNING key_id`, keyStore, id, blob(was))
		if err != nil || found {
			return err
		}
		return unlessChanged(c, 0, nil, expect(fmt.Sprintf("the grant %q", id), fault.Errorf(fault.NotFound, "there is no grant with the ID %q in the key store", id),
			`SELECT 1 FROM grants WHERE key_store = ? AND id = ?`, keyStore, id))
	}, func() {
		ch := appliance.Change{KeyStore: keyStore}
		if keyID != nil {
			ch.KeyID = *keyID
		}
		s.announce(ch)
	})
}
