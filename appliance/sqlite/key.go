package sqlite

import (
	"context"
	"fmt"
	"math"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// keyColumns are what scanKey reads.
const keyColumns = `key_store, id, can_encrypt, can_decrypt, custody, state, current_version, created_at, deletion_at, block_reason, block_since, block_by, seal, framing`

func scanKey(k *appliance.ExternalKey) []any {
	return []any{&k.KeyStore, &k.ID, &k.Usage.Encrypt, &k.Usage.Decrypt, &k.Custody, &k.State,
		&k.CurrentVersion, millis{&k.CreatedAt}, millis{&k.DeletionAt},
		&k.Blocked.Reason, millis{&k.Blocked.Since}, &k.Blocked.By, &k.Seal, &k.Framing}
}

// versionColumns are what scanVersion reads.
const versionColumns = `version, custody, origin, created_at, encryptions, material`

func scanVersion(v *appliance.KeyVersion) []any {
	return []any{&v.Version, &v.Custody, &v.Origin, millis{&v.CreatedAt}, &v.Encryptions, &v.Material}
}

// Key implements [appliance.Store]. Key, versions and grants are of one
// snapshot.
func (s *DB) Key(ctx context.Context, keyStore, id string) (*appliance.StoredKey, error) {
	var k *appliance.StoredKey
	err := s.read(ctx, func(c *conn) error {
		k = &appliance.StoredKey{}
		found, granted := false, false
		matches, err := s.keyMatches(ctx, c, keyStore, id, func(sp *spec, row []any) (err error) {
			switch sp.name {
			case "external_keys":
				found, err = true, sp.assign(scanKey(&k.ExternalKey), keyColumns, row)
				k.KeyStore = keyStore // the caller's, which many keys share
			case "key_versions":
				v := &appliance.KeyVersion{KeyStore: keyStore, KeyID: k.ID}
				k.Versions = append(k.Versions, v)
				err = sp.assign(scanVersion(v), versionColumns, row)
			default:
				granted = true
			}
			return err
		})
		if err != nil {
			return err
		}
		k.Unmatched = !matches
		if !found {
			if !matches { // it was there
				return fault.Errorf(fault.Tampered, "the key %q was removed from the database by something else than Holdfast", id)
			}
			return noKey(id)
		}
		if granted {
			k.Grants, err = grants(ctx, c, `key_store = ? AND key_id = ?`, keyStore, id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Keys implements [appliance.Store].
func (s *DB) Keys(ctx context.Context, keyStore string, page appliance.Page) ([]*appliance.ExternalKey, error) {
	if page.Limit < 1 || page.Limit > appliance.MaxPage {
		return nil, fault.Errorf(fault.Invalid, "page limit %d: use 1 to %d", page.Limit, appliance.MaxPage)
	}
	where, args := within(keyStore, page)
	order := ` ORDER BY ` + orderOf(page) + ` LIMIT ?`
	index := "" // one that has those alone, where they are found first
	switch page.State {
	case "":
	case appliance.KeyEnabled: // nearly all: no index would help
		where += ` AND state = 'enabled'`
	case appliance.KeyBlocked:
		where, index = where+` AND block_since IS NOT NULL AND (block_since IS NOT NULL) = 1`, "external_keys_blocked"
	default:
		where, args, index = where+` AND state <> 'enabled' AND state = ?`, append(args, string(page.State)), "external_keys_not_enabled"
	}
	if index != "" { // by name, as the planner takes the primary key when an index does not have all that is asked for
		where, args = `key_store = ? AND id IN (SELECT id FROM external_keys INDEXED BY `+index+` WHERE `+where+order+`)`, append([]any{keyStore}, append(args, page.Limit)...)
	}
	return s.keys(ctx, where+order, append(args, page.Limit)...)
}

// orderOf is how the keys of a page are ordered.
func orderOf(page appliance.Page) string {
	down := ""
	if page.Down {
		down = ` DESC`
	}
	if page.ByCreation {
		return `created_at` + down + `, id` + down
	}
	return `id` + down
}

// within is the condition for the keys of a page, without their state.
func within(keyStore string, page appliance.Page) (where string, args []any) {
	where, args = `key_store = ?`, []any{keyStore}
	and := func(condition string, values ...any) { where, args = where+` AND `+condition, append(args, values...) }
	if page.ByCreation && page.After != "" {
		behind := `>`
		if page.Down {
			behind = `<`
		}
		and(`(created_at, id) `+behind+` (?, ?)`, page.AfterCreated.UnixMilli(), page.After)
	}
	// One bound on each side, for a database may take the first of two, and not the
	// narrower. IDs are ASCII, compared byte by byte: those with the prefix lie before it with
	// its last letter made the next one.
	low, from, high := page.Prefix, `id >= ?`, ""
	if last := len(page.Prefix) - 1; last >= 0 {
		high = page.Prefix[:last] + string(page.Prefix[last]+1)
	}
	switch {
	case page.ByCreation || page.After == "":
	case page.Down && (high == "" || page.After < high):
		high = page.After
	case !page.Down && page.After >= low:
		low, from = page.After, `id > ?`
	}
	and(from, low)
	if high != "" {
		and(`id < ?`, high)
	}
	if page.Custody != "" {
		and(`custody = ?`, string(page.Custody))
	}
	if page.Unblocked {
		and(`block_since IS NULL`)
	}
	if page.Usage != nil {
		and(`can_encrypt = ? AND can_decrypt = ?`, page.Usage.Encrypt, page.Usage.Decrypt)
	}
	return where, args
}

// KeysDueForDeletion implements [appliance.Store].
func (s *DB) KeysDueForDeletion(ctx context.Context, now time.Time, limit int) ([]*appliance.ExternalKey, error) {
	if limit < 1 {
		return nil, fault.Errorf(fault.Invalid, "limit %d: use a positive number", limit)
	}
	return s.keys(ctx, `deletion_at <= ? AND state = ? ORDER BY deletion_at LIMIT ?`,
		now.UnixMilli(), string(appliance.KeyPendingDeletion), limit)
}

func (s *DB) keys(ctx context.Context, where string, args ...any) ([]*appliance.ExternalKey, error) {
	var list []*appliance.ExternalKey
	err := s.read(ctx, func(c *conn) error {
		return c.each(ctx, func(scan scanner) error {
			k := &appliance.ExternalKey{}
			list = append(list, k)
			return scan(scanKey(k)...)
		}, `SELECT `+keyColumns+` FROM external_keys WHERE `+where, args...)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CountKeys implements [appliance.Store]; it is 0 where there is no key store.
func (s *DB) CountKeys(ctx context.Context, keyStore string) (int, error) {
	var n int
	err := s.read(ctx, func(c *conn) error {
		_, err := c.one([]any{&n}, `SELECT key_count FROM key_stores WHERE id = ?`, keyStore)
		return err
	})
	return n, err
}

// CreateKeys implements [appliance.Store]. To load many keys, hand in some
// thousands per call: the call holds up all other changes while it runs, about
// 50 µs per key, and ends early when ctx ends.
func (s *DB) CreateKeys(ctx context.Context, keys ...appliance.NewKey) error {
	added := map[string]int{} // by key store
	changes := make([]appliance.Change, len(keys))
	for i, k := range keys {
		added[k.Key.KeyStore]++
		changes[i] = appliance.Change{KeyStore: k.Key.KeyStore, KeyID: k.Key.ID}
	}
	return s.write(ctx, func(c *conn) error {
		names := map[string]string{}
		for id, n := range added {
			name, err := keyStoreName(c, id)
			if err != nil {
				return err
			}
			names[id] = name
			if _, err := c.exec(`UPDATE key_stores SET key_count = key_count + ? WHERE id = ?`, n, id); err != nil {
				return err
			}
		}
		for _, k := range keys {
			if ctx.Err() != nil {
				return timeout(ctx)
			}
			n, err := c.exec(`INSERT INTO external_keys (`+keyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT DO NOTHING`, k.Key.KeyStore, k.Key.ID, k.Key.Usage.Encrypt, k.Key.Usage.Decrypt,
				string(k.Key.Custody), string(k.Key.State), k.Key.CurrentVersion, k.Key.CreatedAt.UnixMilli(),
				ms(k.Key.DeletionAt), k.Key.Blocked.Reason, ms(k.Key.Blocked.Since), k.Key.Blocked.By, blob(k.Key.Seal), string(k.Key.Framing))
			if err != nil {
				return err
			}
			if n == 0 {
				return fault.Errorf(fault.Exists, "there is a key %q in the key store %q already", k.Key.ID, names[k.Key.KeyStore])
			}
			if err := addVersion(c, k.Key, k.Version, k.TokenObject); err != nil {
				return err
			}
			if k.Second == nil {
				continue
			}
			if err := addVersion(c, k.Key, k.Second, k.SecondTokenObject); err != nil {
				return err
			}
		}
		return nil
	}, changes...)
}

// addVersion adds a version to a key that is there.
func addVersion(c *conn, k *appliance.ExternalKey, v *appliance.KeyVersion, tokenObject string) error {
	n, err := c.exec(`INSERT INTO key_versions (key_store, key_id, version, custody, origin, created_at, encryptions, material)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		k.KeyStore, k.ID, v.Version, string(v.Custody), string(v.Origin), v.CreatedAt.UnixMilli(), int64(v.Encryptions), blob(v.Material))
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.Errorf(fault.Exists, "the key %q has a version %d already", k.ID, v.Version)
	}
	return strike(c, tokenObject)
}

// UpdateKey implements [appliance.Store].
func (s *DB) UpdateKey(ctx context.Context, k *appliance.ExternalKey, was []byte) error {
	return s.write(ctx, func(c *conn) error { return updateKey(c, k, was) },
		appliance.Change{KeyStore: k.KeyStore, KeyID: k.ID})
}

func updateKey(c *conn, k *appliance.ExternalKey, was []byte) error {
	n, err := c.exec(`UPDATE external_keys SET can_encrypt = ?, can_decrypt = ?, custody = ?, state = ?,
		current_version = ?, created_at = ?, deletion_at = ?, block_reason = ?, block_since = ?, block_by = ?, seal = ?, framing = ? WHERE key_store = ? AND id = ? AND seal = ?`,
		k.Usage.Encrypt, k.Usage.Decrypt, string(k.Custody), string(k.State), k.CurrentVersion,
		k.CreatedAt.UnixMilli(), ms(k.DeletionAt), k.Blocked.Reason, ms(k.Blocked.Since), k.Blocked.By, blob(k.Seal), string(k.Framing), k.KeyStore, k.ID, blob(was))
	return changedKey(c, n, err, k.KeyStore, k.ID)
}

// changedKey says why a change of a key changed no row, if it changed none.
func changedKey(c *conn, n int64, err error, keyStore, id string) error {
	return unlessChanged(c, n, err, expect(fmt.Sprintf("the key %q", id), noKey(id), `SELECT 1 FROM external_keys WHERE key_store = ? AND id = ?`, keyStore, id))
}

// AddKeyVersion implements [appliance.Store].
func (s *DB) AddKeyVersion(ctx context.Context, k *appliance.ExternalKey, v *appliance.KeyVersion, was []byte, tokenObject string) error {
	return s.write(ctx, func(c *conn) error {
		if err := updateKey(c, k, was); err != nil {
			return err
		}
		return addVersion(c, k, v, tokenObject)
	}, appliance.Change{KeyStore: k.KeyStore, KeyID: k.ID})
}

// DeleteKey implements [appliance.Store].
func (s *DB) DeleteKey(ctx context.Context, keyStore, id string, was []byte, tokenObjects []*appliance.TokenObject) error {
	return s.write(ctx, func(c *conn) error {
		if err := removeKey(c, keyStore, id, was); err != nil {
			return err
		}
		for _, o := range tokenObjects {
			if err := note(c, o); err != nil {
				return err
			}
		}
		return nil
	}, appliance.Change{KeyStore: keyStore, KeyID: id})
}

// removeKey removes a key with its versions and grants.
func removeKey(c *conn, keyStore, id string, was []byte) error {
	n, err := c.exec(`DELETE FROM external_keys WHERE key_store = ? AND id = ? AND seal = ?`, keyStore, id, blob(was))
	if err := changedKey(c, n, err, keyStore, id); err != nil {
		return err
	}
	_, err = c.exec(`UPDATE key_stores SET key_count = max(key_count - 1, 0) WHERE id = ?`, keyStore)
	return err
}

// DiscardKey implements [appliance.Store].
func (s *DB) DiscardKey(ctx context.Context, keyStore, id string, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		s.writer.clear(placeOfKey(s.seed, keyStore, id))
		if err := removeKey(c, keyStore, id, was); err != nil {
			return err
		}
		_, err := c.exec(`DELETE FROM token_objects WHERE key_store = ? AND key_id = ?`, keyStore, id)
		return err
	}, appliance.Change{KeyStore: keyStore, KeyID: id})
}

// DiscardKeyVersion implements [appliance.Store].
func (s *DB) DiscardKeyVersion(ctx context.Context, v *appliance.KeyVersion) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`DELETE FROM key_versions WHERE key_store = ? AND key_id = ? AND version = ? AND material = ?`, v.KeyStore, v.KeyID, v.Version, blob(v.Material))
		if err := unlessChanged(c, n, err, expect(fmt.Sprintf("version %d of the key %q", v.Version, v.KeyID), noVersion(v.KeyID, v.Version),
			`SELECT 1 FROM key_versions WHERE key_store = ? AND key_id = ? AND version = ?`, v.KeyStore, v.KeyID, v.Version)); err != nil {
			return err
		}
		_, err = c.exec(`DELETE FROM token_objects WHERE key_store = ? AND key_id = ? AND version = ?`, v.KeyStore, v.KeyID, v.Version)
		return err
	}, appliance.Change{KeyStore: v.KeyStore, KeyID: v.KeyID})
}

func noVersion(keyID string, version uint32) error {
	return fault.Errorf(fault.NotFound, "there is no version %d of the key %q", version, keyID)
}

// ReserveEncryptions implements [appliance.Store]. Callers at once share a
// transaction, so that a thousand of them wait hardly longer than one.
func (s *DB) ReserveEncryptions(ctx context.Context, keyStore, keyID string, version uint32, n uint64) (uint64, error) {
	if n > math.MaxInt32 {
		return 0, fault.Errorf(fault.Invalid, "cannot reserve %d encryptions at once; reserve at most %d", n, math.MaxInt32)
	}
	var count int64
	err := s.write(ctx, func(c *conn) error {
		found, err := c.one([]any{&count}, `UPDATE key_versions SET encryptions = encryptions + ?
			WHERE key_store = ? AND key_id = ? AND version = ? RETURNING encryptions`, int64(n), keyStore, keyID, version)
		if err == nil && !found {
			return noVersion(keyID, version)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return uint64(count), nil
}

// NoteTokenObjects implements [appliance.Store].
func (s *DB) NoteTokenObjects(ctx context.Context, notes ...*appliance.TokenObject) error {
	return s.write(idempotency.Unmarked(ctx), func(c *conn) error {
		for _, o := range notes {
			if err := note(c, o); err != nil {
				return err
			}
		}
		return nil // what made it may still be refused
	})
}

// StrikeTokenObject implements [appliance.Store].
func (s *DB) StrikeTokenObject(ctx context.Context, label string, was []byte) error {
	return s.write(idempotency.Unmarked(ctx), func(c *conn) error {
		n, err := c.exec(`DELETE FROM token_objects WHERE label = ? AND seal = ?`, label, blob(was))
		return unlessChanged(c, n, err, expect(fmt.Sprintf("the note of the token's object %.60q", label), nil, `SELECT 1 FROM token_objects WHERE label = ?`, label))
	})
}

func note(c *conn, o *appliance.TokenObject) error {
	_, err := c.exec(`INSERT INTO token_objects (label, key_store, key_id, version, seal) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (label) DO UPDATE SET key_store = excluded.key_store, key_id = excluded.key_id, version = excluded.version, seal = excluded.seal`,
		o.Label, o.KeyStore, o.KeyID, o.Version, blob(o.Seal))
	return err
}

func strike(c *conn, label string) error {
	if label == "" {
		return nil
	}
	_, err := c.exec(`DELETE FROM token_objects WHERE label = ?`, label)
	return err
}

// TokenObjects implements [appliance.Store].
func (s *DB) TokenObjects(ctx context.Context) ([]*appliance.TokenObject, error) {
	var list []*appliance.TokenObject
	err := s.read(ctx, func(c *conn) error {
		list = nil
		if err := c.each(ctx, func(scan scanner) error {
			o := &appliance.TokenObject{}
			list = append(list, o)
			return scan(&o.Label, &o.KeyStore, &o.KeyID, &o.Version, &o.Seal)
		}, `SELECT label, key_store, key_id, version, seal FROM token_objects ORDER BY label`); err != nil {
			return err
		}
		for _, o := range list {
			matches, err := s.rowMatches(ctx, c, "token_objects", "label = ?", o.Label)
			if err != nil {
				return err
			}
			o.Unmatched = !matches
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// VersionsInToken implements [appliance.Store]. The condition is that of the index
// key_versions_in_token, so that it reads those versions alone.
func (s *DB) VersionsInToken(ctx context.Context) ([]*appliance.KeyVersion, error) {
	var list []*appliance.KeyVersion
	err := s.read(ctx, func(c *conn) error {
		return c.each(ctx, func(scan scanner) error {
			v := &appliance.KeyVersion{}
			list = append(list, v)
			return scan(append([]any{&v.KeyStore, &v.KeyID}, scanVersion(v)...)...)
		}, `SELECT key_store, key_id, `+versionColumns+` FROM key_versions
			WHERE custody <> 'cached' OR length(material) <> 61 ORDER BY key_store, key_id, version`)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// HasKeysInToken implements [appliance.Store].
func (s *DB) HasKeysInToken(ctx context.Context, keyStore string) (has bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		_, err := c.one([]any{&has}, `SELECT EXISTS (SELECT 1 FROM key_versions WHERE key_store = ? AND (custody <> 'cached' OR length(material) <> 61))`, keyStore)
		return err
	})
	return has, err
}
