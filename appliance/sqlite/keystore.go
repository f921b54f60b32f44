package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Installation implements [appliance.Store].
func (s *DB) Installation(ctx context.Context) (*appliance.Installation, error) {
	in := &appliance.Installation{}
	err := s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "installation", "one = 1"); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{&in.ID, &in.WrappedStateKey, millis{&in.CreatedAt}, &in.Blocked.Reason, millis{&in.Blocked.Since}, &in.Blocked.By, &in.BlockSeal, &in.Incarnation, &in.IncarnationSeal},
			`SELECT id, wrapped_state_key, created_at, block_reason, block_since, block_by, block_seal, incarnation, incarnation_seal FROM installation`)
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
	return s.write(ctx, func(c *conn) error { return createInstallation(c, in) }, appliance.Change{})
}

func createInstallation(c *conn, in *appliance.Installation) error {
	n, err := c.exec(`INSERT INTO installation (one, id, wrapped_state_key, created_at, block_reason, block_since, block_by, block_seal, incarnation, incarnation_seal)
		VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		in.ID, blob(in.WrappedStateKey), in.CreatedAt.UnixMilli(), in.Blocked.Reason, ms(in.Blocked.Since), in.Blocked.By, blob(in.BlockSeal), in.Incarnation, in.IncarnationSeal)
	if err == nil && n == 0 {
		return fault.Errorf(fault.Exists, "the database has an installation already")
	}
	if err == nil {
		_, err = c.exec(`DELETE FROM master_key_making`)
	}
	return err
}

// UpgradeInstallation implements [appliance.Store].
func (s *DB) UpgradeInstallation(ctx context.Context, in, was *appliance.Installation) error {
	return s.write(ctx, func(c *conn) error { return upgradeInstallation(c, in, was) }, appliance.Change{})
}

func upgradeInstallation(c *conn, in, was *appliance.Installation) error {
	n, err := c.exec(`UPDATE installation SET wrapped_state_key = ?, block_reason = ?, block_since = ?, block_by = ?, block_seal = ?
		WHERE id = ? AND wrapped_state_key = ? AND coalesce(block_seal, x'') = ?`,
		blob(in.WrappedStateKey), in.Blocked.Reason, ms(in.Blocked.Since), in.Blocked.By, blob(in.BlockSeal), in.ID, blob(was.WrappedStateKey), blob(was.BlockSeal))
	return changedInstallation(c, n, err)
}

// SetBlock implements [appliance.Store].
func (s *DB) SetBlock(ctx context.Context, b appliance.Block, seal, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE installation SET block_reason = ?, block_since = ?, block_by = ?, block_seal = ? WHERE coalesce(block_seal, x'') = ?`,
			b.Reason, ms(b.Since), b.By, blob(seal), blob(was))
		return changedInstallation(c, n, err)
	}, appliance.Change{})
}

// SetIncarnation implements [appliance.Store].
func (s *DB) SetIncarnation(ctx context.Context, incarnation string, seal, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE installation SET incarnation = ?, incarnation_seal = ? WHERE coalesce(incarnation_seal, x'') = ?`, incarnation, seal, blob(was))
		return changedInstallation(c, n, err)
	})
}

// NoteMasterKey implements [appliance.Store].
func (s *DB) NoteMasterKey(ctx context.Context, at time.Time) error {
	return s.write(ctx, func(c *conn) error {
		_, err := c.exec(`INSERT INTO master_key_making (one, began_at) SELECT 1, ? WHERE NOT EXISTS (SELECT 1 FROM installation) ON CONFLICT DO NOTHING`, at.UnixMilli())
		return err
	})
}

// MasterKeyNoted implements [appliance.Store].
func (s *DB) MasterKeyNoted(ctx context.Context) (noted bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		var one int64
		noted, err = c.one([]any{&one}, `SELECT one FROM master_key_making`)
		return err
	})
	return noted, err
}

// changedInstallation says why an update changed no row, if it changed none.
func changedInstallation(c *conn, n int64, err error) error {
	return unlessChanged(c, n, err, expect("the row of the installation", fault.Errorf(fault.NotFound, "the database has no installation yet"), `SELECT 1 FROM installation`))
}

// KeyStores implements [appliance.Store].
func (s *DB) KeyStores(ctx context.Context) ([]*appliance.KeyStore, error) {
	var list []*appliance.KeyStore
	err := s.read(ctx, func(c *conn) error {
		list = nil
		if err := c.each(ctx, func(scan scanner) error {
			ks := &appliance.KeyStore{}
			list = append(list, ks)
			return scan(&ks.ID, &ks.Name, &ks.URIPathPrefix, &ks.RequestsPerSecond, millis{&ks.CreatedAt},
				&ks.Policy, &ks.Blocked.Reason, millis{&ks.Blocked.Since}, &ks.Blocked.By, &ks.WrappedKey, &ks.Seal)
		}, `SELECT id, name, uri_path_prefix, requests_per_second, created_at, policy, block_reason, block_since, block_by, wrapped_key, seal
			FROM key_stores ORDER BY name`); err != nil {
			return err
		}
		for _, ks := range list {
			matches, err := s.storeMatches(ctx, c, ks.ID)
			if err != nil {
				return err
			}
			ks.Unmatched = !matches
		}
		return nil
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
		n, err := c.exec(`UPDATE key_stores SET requests_per_second = ?, created_at = ?, policy = ?, block_reason = ?, block_since = ?, block_by = ?,
			wrapped_key = ?, seal = ? WHERE id = ? AND seal = ?`, ks.RequestsPerSecond, ks.CreatedAt.UnixMilli(), ks.Policy, ks.Blocked.Reason,
			ms(ks.Blocked.Since), ks.Blocked.By, blob(ks.WrappedKey), blob(ks.Seal), ks.ID, blob(was))
		return changedKeyStore(c, n, err, ks.ID)
	}, appliance.Change{KeyStore: ks.ID})
}

// changedKeyStore says why a change of a key store changed no row, if it changed none.
func changedKeyStore(c *conn, n int64, err error, id string) error {
	var name string
	if err == nil && n == 0 {
		if name, err = keyStoreName(c, id); err != nil {
			return err
		}
	}
	return unlessChanged(c, n, err, expect(fmt.Sprintf("the key store %q", name), noKeyStore(id), `SELECT 1 FROM key_stores WHERE id = ?`, id))
}

// DeleteKeyStore implements [appliance.Store].
func (s *DB) DeleteKeyStore(ctx context.Context, id string, was []byte) error {
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
		n, err := c.exec(`DELETE FROM key_stores WHERE id = ? AND seal = ?`, id, blob(was))
		return changedKeyStore(c, n, err, id)
	}, appliance.Change{KeyStore: id})
}

// DiscardKeyStore implements [appliance.Store].
func (s *DB) DiscardKeyStore(ctx context.Context, id string, was []byte, keys int) error {
	return s.write(ctx, func(c *conn) error {
		var there int
		if _, err := c.one([]any{&there}, `SELECT count(*) FROM external_keys WHERE key_store = ?`, id); err != nil {
			return err
		}
		if there != keys {
			return stale("the key store")
		}
		if err := s.clearStore(ctx, c, id); err != nil {
			return err
		}
		// Keys do not go with their key store by themselves, so that none is lost by accident.
		for _, statement := range []string{`DELETE FROM external_keys WHERE key_store = ?`, `DELETE FROM token_objects WHERE key_store = ?`} {
			if _, err := c.exec(statement, id); err != nil {
				return err
			}
		}
		n, err := c.exec(`DELETE FROM key_stores WHERE id = ? AND seal = ?`, id, blob(was))
		return changedKeyStore(c, n, err, id)
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
