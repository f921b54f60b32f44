package sqlite

import (
	"bytes"
	"context"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Installation implements [appliance.Store].
func (s *DB) Installation(ctx context.Context) (*appliance.Installation, error) {
	in := &appliance.Installation{}
	err := s.read(ctx, func(c *conn) error {
		found, err := c.one([]any{&in.ID, &in.WrappedStateKey, millis{&in.CreatedAt}, &in.Blocked.Reason, millis{&in.Blocked.Since}, &in.BlockSeal},
			`SELECT id, wrapped_state_key, created_at, block_reason, block_since, block_seal FROM installation`)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "the database has no installation yet")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// CreateInstallation implements [appliance.Store].
func (s *DB) CreateInstallation(ctx context.Context, in *appliance.Installation) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`INSERT INTO installation (one, id, wrapped_state_key, created_at, block_reason, block_since, block_seal)
			VALUES (1, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			in.ID, blob(in.WrappedStateKey), in.CreatedAt.UnixMilli(), in.Blocked.Reason, ms(in.Blocked.Since), blob(in.BlockSeal))
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "the database has an installation already")
		}
		return err
	}, appliance.Change{})
}

// UpgradeInstallation implements [appliance.Store].
func (s *DB) UpgradeInstallation(ctx context.Context, in *appliance.Installation) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE installation SET wrapped_state_key = ?, block_reason = ?, block_since = ?, block_seal = ? WHERE id = ?`,
			blob(in.WrappedStateKey), in.Blocked.Reason, ms(in.Blocked.Since), blob(in.BlockSeal), in.ID)
		if err == nil && n == 0 {
			return fault.Errorf(fault.NotFound, "the database has no installation yet")
		}
		return err
	}, appliance.Change{})
}

// SetBlock implements [appliance.Store].
func (s *DB) SetBlock(ctx context.Context, b appliance.Block, seal []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE installation SET block_reason = ?, block_since = ?, block_seal = ?`, b.Reason, ms(b.Since), blob(seal))
		if err == nil && n == 0 {
			return fault.Errorf(fault.NotFound, "the database has no installation yet")
		}
		return err
	}, appliance.Change{})
}

// KeyStores implements [appliance.Store].
func (s *DB) KeyStores(ctx context.Context) ([]*appliance.KeyStore, error) {
	var list []*appliance.KeyStore
	err := s.read(ctx, func(c *conn) error {
		return c.each(ctx, func(scan scanner) error {
			ks := &appliance.KeyStore{}
			list = append(list, ks)
			return scan(&ks.ID, &ks.Name, &ks.URIPathPrefix, &ks.RequestsPerSecond, millis{&ks.CreatedAt},
				&ks.Policy, &ks.Blocked.Reason, millis{&ks.Blocked.Since}, &ks.WrappedKey, &ks.Seal)
		}, `SELECT id, name, uri_path_prefix, requests_per_second, created_at, policy, block_reason, block_since, wrapped_key, seal
			FROM key_stores ORDER BY name`)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CreateKeyStore implements [appliance.Store].
func (s *DB) CreateKeyStore(ctx context.Context, ks *appliance.KeyStore) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`INSERT INTO key_stores (id, name, uri_path_prefix, requests_per_second, created_at, wrapped_key, seal)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			ks.ID, ks.Name, ks.URIPathPrefix, ks.RequestsPerSecond, ks.CreatedAt.UnixMilli(), blob(ks.WrappedKey), blob(ks.Seal))
		if err != nil || n > 0 {
			return err
		}
		var name, prefix string
		if _, err := c.one([]any{&name, &prefix}, `SELECT name, uri_path_prefix FROM key_stores
			WHERE name = ? OR uri_path_prefix = ? OR id = ? ORDER BY name = ? DESC LIMIT 1`,
			ks.Name, ks.URIPathPrefix, ks.ID, ks.Name); err != nil {
			return err
		}
		switch {
		case name == ks.Name:
			return fault.Errorf(fault.Exists, "there is a key store %q already", name)
		case prefix == ks.URIPathPrefix:
			return fault.Errorf(fault.Exists, "the URI path prefix %q belongs to the key store %q", prefix, name)
		}
		return fault.Errorf(fault.Exists, "the ID %q belongs to the key store %q", ks.ID, name)
	}, appliance.Change{KeyStore: ks.ID})
}

// UpdateKeyStore implements [appliance.Store].
func (s *DB) UpdateKeyStore(ctx context.Context, ks *appliance.KeyStore, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		var seal []byte
		found, err := c.one([]any{&seal}, `SELECT seal FROM key_stores WHERE id = ?`, ks.ID)
		switch {
		case err != nil:
			return err
		case !found:
			return noKeyStore(ks.ID)
		case !bytes.Equal(seal, was):
			return fault.Errorf(fault.Changed, "the key store %q was changed by another operation at the same time; look at it and try again", ks.Name)
		}
		_, err = c.exec(`UPDATE key_stores SET requests_per_second = ?, created_at = ?, policy = ?, block_reason = ?, block_since = ?,
			wrapped_key = ?, seal = ? WHERE id = ?`, ks.RequestsPerSecond, ks.CreatedAt.UnixMilli(), ks.Policy, ks.Blocked.Reason,
			ms(ks.Blocked.Since), blob(ks.WrappedKey), blob(ks.Seal), ks.ID)
		return err
	}, appliance.Change{KeyStore: ks.ID})
}

// DeleteKeyStore implements [appliance.Store].
func (s *DB) DeleteKeyStore(ctx context.Context, id string) error {
	return s.write(ctx, func(c *conn) error {
		var name string
		var keys int
		found, err := c.one([]any{&name, &keys}, `SELECT name, key_count FROM key_stores WHERE id = ?`, id)
		switch {
		case err != nil:
			return err
		case !found:
			return noKeyStore(id)
		case keys == 1:
			return fault.Errorf(fault.Conflict, "key store %q has 1 key; delete it first", name)
		case keys > 1:
			return fault.Errorf(fault.Conflict, "key store %q has %d keys; delete them first", name, keys)
		}
		_, err = c.exec(`DELETE FROM key_stores WHERE id = ?`, id)
		return err
	}, appliance.Change{KeyStore: id})
}

// keyStoreName gives the name of a key store that a change needs; fault.NotFound
// if there is none.
func keyStoreName(c *conn, id string) (string, error) {
	var name string
	found, err := c.one([]any{&name}, `SELECT name FROM key_stores WHERE id = ?`, id)
	if err == nil && !found {
		err = noKeyStore(id)
	}
	return name, err
}
